//! Pictures and videos of a conversation, from wherever they are: opened first, so that sizes and times are known,
//! and decoded when it is clear that the prompt fits.

mod open;

use std::borrow::Cow;
use std::ops::ControlFlow;

use qwen3_vl_model::processor::image::{
    DecodeLimits, ImageError, PackedFrames, RgbImage, decode_image,
};
use qwen3_vl_model::processor::message::{Conversation, ImageRef, MediaKind, media};
use qwen3_vl_model::processor::video::{ClipBuilder, PlannedVideo, SourceClip, VideoProcessError};
use qwen3_vl_model::processor::{MediaInfo, PlannedChat, PlannedMedia, ProcessError, Processor};
use qwen3_vl_video::{DecoderChoice, Frame, FrameSource, VideoError, VideoInfo};
use rayon::prelude::*;
use tempfile::TempPath;

use crate::fetch::{FetchError, FetchLimits, SourcePolicy};

/// Why a picture or video cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Video(#[from] VideoError),
    #[error("{name}: {source}")]
    Clip { name: String, source: Box<VideoProcessError> },
    #[error(transparent)]
    Process(#[from] Box<ProcessError>),
    #[error(
        "{kind} {index} of the conversation has no source; give it one, or name it by --{kind} on the command line"
    )]
    NoSource { kind: &'static str, index: usize },
    #[error(
        "{name} is a folder of images; say how many of them there are per second by raw_fps (--raw-fps)"
    )]
    FolderRate { name: String },
    #[error("raw_fps is the rate of a folder or list of images, but {name} is a video file")]
    FilmRate { name: String },
    #[error("{name}: stopped before all frames were read")]
    Stopped { name: String },
}

/// Bounds on what is fetched and decoded.
#[derive(Debug, Clone)]
pub struct MediaLimits {
    /// Of pictures.
    pub fetch: FetchLimits,
    /// Of videos, which are downloaded to a temporary file (8 GiB, 1 h).
    pub video: FetchLimits,
    pub decode: DecodeLimits,
    /// Which decoders may take videos.
    pub decoder: DecoderChoice,
}

impl MediaLimits {
    /// Lets pictures and videos come only from where `policy` allows.
    #[must_use]
    pub fn with_policy(mut self, policy: SourcePolicy) -> Self {
        self.fetch.policy = policy.clone();
        self.video.policy = policy;
        self
    }
}

impl Default for MediaLimits {
    fn default() -> Self {
        let hour = std::time::Duration::from_secs(3600);
        Self {
            fetch: FetchLimits::default(),
            video: FetchLimits {
                max_bytes: 8 << 30,
                total_timeout: hour,
                ..FetchLimits::default()
            },
            decode: DecodeLimits::default(),
            decoder: DecoderChoice::Auto,
        }
    }
}

/// How far reading is.
#[derive(Debug, Clone, Copy)]
pub struct MediaStep<'a> {
    /// `downloading` or `reading frames of`.
    pub action: &'static str,
    pub name: &'a str,
    /// From 0 to 1; `None` where the whole is not known.
    pub share: Option<f64>,
}

/// Follows long reading, and may stop it.
pub trait MediaProgress {
    /// Called several times a second; `Break` stops with [`MediaError::Stopped`].
    fn step(&mut self, step: MediaStep<'_>) -> ControlFlow<()>;
}

/// Follows nothing.
impl MediaProgress for () {
    fn step(&mut self, _: MediaStep<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// The media of a conversation: fetched, sizes and times known, nothing decoded.
pub struct OpenedMedia<'c> {
    items: Vec<Opened<'c>>,
}

struct Opened<'c> {
    name: String,
    content: Content<'c>,
}

enum Content<'c> {
    Picture {
        item: &'c ImageRef,
        bytes: Cow<'c, [u8]>,
        size: (u32, u32),
    },
    Film {
        source: Box<dyn FrameSource>,
        _file: Option<TempPath>,
    },
    /// A list of pictures that are all used.
    Frames {
        pictures: Vec<Vec<u8>>,
        size: (u32, u32),
    },
}

/// The decoded media of a conversation.
#[derive(Debug, Default)]
pub struct DecodedMedia {
    /// One per medium, in order.
    pub items: Vec<PackedFrames>,
    /// Sentences on what is wrong without being fatal.
    pub warnings: Vec<String>,
}

impl<'c> OpenedMedia<'c> {
    /// Fetches and opens all media of a conversation, in order.
    ///
    /// # Errors
    /// When one cannot be fetched or is of no known kind, or when `progress` stops.
    pub fn open(
        conversation: &'c Conversation,
        limits: &MediaLimits,
        progress: &mut dyn MediaProgress,
    ) -> Result<Self, MediaError> {
        let refs = media(&conversation.messages).into_iter().enumerate();
        let items = refs.map(|(index, item)| open::open(index + 1, item, limits, progress));
        Ok(Self { items: items.collect::<Result<_, _>>()? })
    }

    /// What is known of each medium, in order.
    pub fn infos(&self) -> Vec<MediaInfo<'_>> {
        self.items.iter().map(Opened::info).collect()
    }

    /// What is known of each video, in order of the media; `None` for pictures and lists of pictures.
    pub fn films(&self) -> Vec<Option<&VideoInfo>> {
        self.items.iter().map(Opened::film).collect()
    }

    /// Decodes and resizes what `planned` uses of each medium.
    ///
    /// # Errors
    /// When a medium is damaged or another one than was planned, or when `progress` stops.
    pub fn decode(
        self,
        processor: &Processor,
        planned: &PlannedChat,
        limits: &MediaLimits,
        progress: &mut dyn MediaProgress,
    ) -> Result<DecodedMedia, MediaError> {
        let (expected, found) = (planned.media.len(), self.items.len());
        if expected != found {
            return Err(process(ProcessError::MediaCount { expected, found }));
        }
        let mut pictures = self.pictures(processor, limits).into_iter();
        let mut decoded = DecodedMedia::default();
        let mut pairs = self.items.into_iter().zip(&planned.media).enumerate();
        pairs.try_for_each(|(index, (item, plan))| {
            let name = item.name;
            let packed = match (item.content, plan) {
                (Content::Picture { .. }, PlannedMedia::Image(_)) => {
                    pictures.next().expect("every picture was decoded")?
                }
                (Content::Frames { pictures, .. }, PlannedMedia::Video(plan)) => {
                    decode_list(&name, &pictures, plan, &limits.decode, progress)?
                }
                (Content::Film { mut source, .. }, PlannedMedia::Video(plan)) => {
                    decode_film(&name, &mut *source, plan, &mut decoded.warnings, progress)?
                }
                _ => return Err(process(ProcessError::MediaKind { index: index + 1 })),
            };
            decoded.items.push(packed);
            Ok::<_, MediaError>(())
        })?;
        Ok(decoded)
    }

    /// What becomes of every picture, in order; they are decoded beside one another.
    fn pictures(
        &self,
        processor: &Processor,
        limits: &MediaLimits,
    ) -> Vec<Result<PackedFrames, MediaError>> {
        let pictures = self.items.iter().filter_map(|opened| match &opened.content {
            Content::Picture { item, bytes, .. } => Some((&opened.name, *item, &**bytes)),
            _ => None,
        });
        let pictures: Vec<(&String, &ImageRef, &[u8])> = pictures.collect();
        let decode = |(name, item, bytes): (&String, &ImageRef, &[u8])| {
            Ok(processor.cut(item, &decode_image(bytes, name, &limits.decode)?)?)
        };
        pictures.into_par_iter().map(decode).collect()
    }
}

impl Opened<'_> {
    fn info(&self) -> MediaInfo<'_> {
        match &self.content {
            Content::Picture { size: (width, height), .. } => {
                MediaInfo::Image { width: *width, height: *height }
            }
            Content::Frames { pictures, size: (width, height) } => {
                MediaInfo::Video(SourceClip::list(*width, *height, pictures.len()))
            }
            Content::Film { source, .. } => {
                let info = source.info();
                let rate = Some(info.fps);
                MediaInfo::Video(SourceClip::timed(info.width, info.height, &info.times, rate))
            }
        }
    }

    fn film(&self) -> Option<&VideoInfo> {
        match &self.content {
            Content::Film { source, .. } => Some(source.info()),
            Content::Picture { .. } | Content::Frames { .. } => None,
        }
    }
}

/// Decodes the pictures of a conversation, upright and at their own size, in order; videos are passed over.
///
/// # Errors
/// When one cannot be fetched or decoded.
pub fn load_pictures(
    conversation: &Conversation,
    limits: &MediaLimits,
) -> Result<Vec<RgbImage>, MediaError> {
    let refs = media(&conversation.messages).into_iter().enumerate();
    let pictures = refs.filter(|(_, item)| item.kind() == MediaKind::Image);
    let decode = |(index, item)| {
        let opened = open::open(index + 1, item, limits, &mut ())?;
        match opened.content {
            Content::Picture { bytes, .. } => {
                Ok(decode_image(&bytes, &opened.name, &limits.decode)?)
            }
            _ => Err(process(ProcessError::MediaKind { index: index + 1 })),
        }
    };
    pictures.map(decode).collect()
}

fn process(error: ProcessError) -> MediaError {
    Box::new(error).into()
}

fn decode_list(
    name: &str,
    pictures: &[Vec<u8>],
    plan: &PlannedVideo,
    limits: &DecodeLimits,
    progress: &mut dyn MediaProgress,
) -> Result<PackedFrames, MediaError> {
    let mut clip = ClipBuilder::new(plan);
    let broken = |source| MediaError::Clip { name: name.to_owned(), source: Box::new(source) };
    while let Some(index) = clip.next_index() {
        let label = format!("{name}, frame {}", index + 1);
        let picture = decode_image(&pictures[index.min(pictures.len() - 1)], &label, limits)?;
        clip.push(&picture).map_err(broken)?;
        let share = Some((index + 1) as f64 / pictures.len() as f64);
        let step = MediaStep { action: READING, name, share };
        if progress.step(step).is_break() {
            return Err(MediaError::Stopped { name: name.to_owned() });
        }
    }
    clip.finish().map_err(broken)
}

const READING: &str = "reading frames of";

fn decode_film(
    name: &str,
    source: &mut dyn FrameSource,
    plan: &PlannedVideo,
    warnings: &mut Vec<String>,
    progress: &mut dyn MediaProgress,
) -> Result<PackedFrames, MediaError> {
    let broken = |source| MediaError::Clip { name: name.to_owned(), source: Box::new(source) };
    let wanted = plan.decoded_indices();
    let mut clip = ClipBuilder::new(plan);
    let mut failed = None;
    let mut sink = |_: usize, frame: Frame| {
        let pushed = RgbImage::new(frame.width, frame.height, frame.data)
            .map_err(MediaError::from)
            .and_then(|picture| clip.push(&picture).map_err(broken));
        match pushed {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    warnings.extend(source.info().warnings.iter().cloned());
    let mut report = |share| progress.step(MediaStep { action: READING, name, share: Some(share) });
    let delivered = source.frames(&wanted, &mut sink, &mut report)?;
    warnings.extend(delivered.warnings);
    match failed {
        Some(error) => Err(error),
        None if delivered.stopped => Err(MediaError::Stopped { name: name.to_owned() }),
        None => clip.finish().map_err(broken),
    }
}
