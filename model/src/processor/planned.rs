//! A conversation on its way to the model: media known by size, the prompt without pixels, the prompt with them.

use super::ProcessError;
use super::image::{Grid, PackedFrames, PlannedImage};
use super::message::MediaKind;
use super::prompt::MediaTokens;
use super::video::{PlannedVideo, SourceClip};
use crate::inputs::{MediaItem, ModelInputs, Pixels, VisionSpan};

/// What is known of one medium before it is decoded.
#[derive(Debug, Clone, Copy)]
pub enum MediaInfo<'a> {
    /// An upright picture, in pixels.
    Image {
        width: u32,
        height: u32,
    },
    Video(SourceClip<'a>),
}

impl MediaInfo<'_> {
    /// Width and height in pixels, upright.
    pub fn size(&self) -> (u32, u32) {
        match self {
            Self::Image { width, height } => (*width, *height),
            Self::Video(clip) => (clip.width, clip.height),
        }
    }
}

/// What becomes of one medium.
#[derive(Debug, Clone, PartialEq)]
pub enum PlannedMedia {
    Image(PlannedImage),
    Video(Box<PlannedVideo>),
}

impl PlannedMedia {
    /// Patches before merging.
    pub fn grid(&self) -> Grid {
        match self {
            Self::Image(image) => image.grid,
            Self::Video(video) => video.grid,
        }
    }

    /// Image or video.
    pub fn kind(&self) -> MediaKind {
        match self {
            Self::Image(_) => MediaKind::Image,
            Self::Video(_) => MediaKind::Video,
        }
    }

    pub(super) fn tokens(&self) -> MediaTokens {
        match self {
            Self::Image(image) => MediaTokens::Image(image.tokens),
            Self::Video(video) => MediaTokens::Video(video.frames.clone()),
        }
    }
}

/// A conversation as ids, without its pixels.
#[derive(Debug)]
pub struct PlannedChat {
    /// The prompt as text, before placeholders are multiplied.
    pub rendered: String,
    pub ids: Vec<u32>,
    pub spans: Vec<VisionSpan>,
    /// What becomes of each medium, in order.
    pub media: Vec<PlannedMedia>,
}

/// A conversation ready for the model.
#[derive(Debug, Clone)]
pub struct PreparedChat {
    /// The prompt as text, before placeholders are multiplied.
    pub rendered: String,
    pub inputs: ModelInputs,
    /// What became of each medium, in order.
    pub media: Vec<PlannedMedia>,
}

impl PlannedChat {
    /// Tokens of the prompt.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens that stand for media of this kind.
    pub fn placeholders(&self, kind: MediaKind) -> usize {
        self.spans.iter().filter(|span| span.kind == kind).map(VisionSpan::len).sum()
    }

    /// Adds the pixels, one item per medium in order.
    ///
    /// # Errors
    /// When items are missing or of another size than planned.
    pub fn fill(self, items: Vec<PackedFrames>) -> Result<PreparedChat, ProcessError> {
        let (expected, found) = (self.media.len(), items.len());
        if expected != found {
            return Err(ProcessError::MediaCount { expected, found });
        }
        let (mut images, mut videos) = (Pixels::default(), Pixels::default());
        for (index, (plan, item)) in self.media.iter().zip(items).enumerate() {
            let (planned, found) = (plan.grid(), item.grid());
            if planned != found {
                return Err(ProcessError::Patches { index: index + 1, planned, found });
            }
            let pixels = match plan.kind() {
                MediaKind::Image => &mut images,
                MediaKind::Video => &mut videos,
            };
            pixels.items.push(MediaItem::from_frames(item));
        }
        let inputs = ModelInputs { ids: self.ids, spans: self.spans, images, videos };
        Ok(PreparedChat { rendered: self.rendered, inputs, media: self.media })
    }
}
