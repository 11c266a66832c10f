//! What a prompt becomes before it enters the model: ids, vision spans, pixels.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::config::Qwen3VlConfig;
use crate::processor::image::{Grid, PackedFrames};
use crate::processor::message::MediaKind;

/// A run of placeholder tokens: one image, or one temporal patch of a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisionSpan {
    pub kind: MediaKind,
    /// First placeholder in the prompt.
    pub start: usize,
    /// Rows and columns in language-model tokens; `rows · columns` placeholders follow `start`.
    pub rows: usize,
    pub columns: usize,
}

impl VisionSpan {
    /// Number of placeholders.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Whether the span has no placeholder (which no grid produces).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions of the placeholders in the prompt.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.len()
    }
}

/// A SHA-256 digest of an image or clip as the vision tower sees it.
pub type ContentKey = [u8; 32];

/// One image or clip, before the vision tower.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaItem {
    pub grid: Grid,
    data: PixelData,
}

/// Patch rows, or the pixels that they are cut from when the tower asks for them.
#[derive(Debug, Clone, PartialEq)]
enum PixelData {
    /// Row-major `[grid.patches(), patch_len]`.
    Patches(Arc<[f32]>),
    Frames(Arc<PackedFrames>),
}

impl MediaItem {
    /// An item whose patch rows (HF `pixel_values`) were computed elsewhere, row-major `[grid.patches(), patch_len]`.
    ///
    /// # Panics
    /// When `values` do not divide into the patches of `grid`.
    pub fn from_patches(grid: Grid, values: Vec<f32>) -> Self {
        let patches = grid.patches();
        assert!(patches > 0 && values.len().is_multiple_of(patches), "whole patches");
        Self { grid, data: PixelData::Patches(values.into()) }
    }

    /// An item of resized 8-bit frames: a quarter of the memory of its patches.
    pub fn from_frames(frames: PackedFrames) -> Self {
        Self { grid: frames.grid(), data: PixelData::Frames(Arc::new(frames)) }
    }

    /// Values of one patch row.
    pub fn patch_len(&self) -> usize {
        match &self.data {
            PixelData::Patches(values) => values.len() / self.grid.patches(),
            PixelData::Frames(frames) => frames.layout().row_len(),
        }
    }

    /// Patch rows of the temporal patches `frames`, row-major `[patches, patch_len]`.
    pub fn patches(&self, frames: Range<usize>) -> Cow<'_, [f32]> {
        match &self.data {
            PixelData::Patches(values) => {
                let frame = values.len() / self.grid.t;
                Cow::Borrowed(&values[frames.start * frame..frames.end * frame])
            }
            PixelData::Frames(packed) => Cow::Owned(packed.patches(frames)),
        }
    }

    /// Puts [`Self::patches`] behind `values`; where those are empty, nothing that was just cut is copied.
    pub(crate) fn append_patches(&self, frames: Range<usize>, values: &mut Vec<f32>) {
        let rows = self.patches(frames);
        match values.is_empty() {
            true => *values = rows.into_owned(),
            false => values.extend_from_slice(&rows),
        }
    }

    /// A digest of what the tower sees, after resizing: equal items have equal keys, others have not. It is computed
    /// when it is first asked for.
    pub fn content_key(&self) -> ContentKey {
        match &self.data {
            PixelData::Patches(values) => {
                let mut digest = Sha256::new();
                let grid = [self.grid.t, self.grid.h, self.grid.w];
                grid.iter().for_each(|side| digest.update((*side as u64).to_le_bytes()));
                values.iter().for_each(|value| digest.update(value.to_le_bytes()));
                digest.finalize().into()
            }
            PixelData::Frames(packed) => packed.content_key(),
        }
    }
}

/// All images, or all clips, of a prompt in order of appearance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pixels {
    pub items: Vec<MediaItem>,
}

impl Pixels {
    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Grids of the items (HF `image_grid_thw`, `video_grid_thw`).
    pub fn grids(&self) -> Vec<Grid> {
        self.items.iter().map(|item| item.grid).collect()
    }
}

/// Everything that the model needs to know of one prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelInputs {
    pub ids: Vec<u32>,
    /// In order of `start`.
    pub spans: Vec<VisionSpan>,
    pub images: Pixels,
    pub videos: Pixels,
}

/// Prompt and pixels that do not belong together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InputError {
    #[error(
        "the prompt has {found} placeholder tokens for {what}, but the {what} given make {expected}"
    )]
    PlaceholderCount { what: &'static str, found: usize, expected: usize },
    #[error("the prompt is empty; give at least one token")]
    Empty,
    #[error("token id {id} at position {position} is not below the vocabulary size {vocabulary}")]
    Vocabulary { id: u32, position: usize, vocabulary: usize },
}

impl ModelInputs {
    /// A prompt without pictures.
    pub fn text(ids: Vec<u32>) -> Self {
        Self { ids, ..Self::default() }
    }

    /// Finds the spans by placeholder ids, as HF `get_rope_index` does: runs of equal id, cut by the grids.
    ///
    /// # Errors
    /// When the placeholders of a modality are not exactly those of its grids.
    pub fn from_ids(
        ids: Vec<u32>,
        images: Pixels,
        videos: Pixels,
        tokens: PlaceholderIds,
    ) -> Result<Self, InputError> {
        let mut spans = find_spans(&ids, &images.grids(), MediaKind::Image, &tokens)?;
        spans.extend(find_spans(&ids, &videos.grids(), MediaKind::Video, &tokens)?);
        spans.sort_by_key(|span| span.start);
        Ok(Self { ids, spans, images, videos })
    }

    /// The pixels of one modality.
    pub fn pixels(&self, kind: MediaKind) -> &Pixels {
        match kind {
            MediaKind::Image => &self.images,
            MediaKind::Video => &self.videos,
        }
    }

    /// Computes the keys of all media, so that nobody has to wait for them later.
    pub fn warm_keys(&self) {
        let items = self.images.items.iter().chain(&self.videos.items);
        items.for_each(|item| {
            item.content_key();
        });
    }

    /// Whether a model of `config` can read this.
    ///
    /// # Errors
    /// When the prompt is empty, an id lies outside the vocabulary or spans and pixels disagree.
    pub(crate) fn check(&self, config: &Qwen3VlConfig) -> Result<(), InputError> {
        if self.ids.is_empty() {
            return Err(InputError::Empty);
        }
        let vocabulary = config.text.vocab_size;
        if let Some(position) = self.ids.iter().position(|id| *id as usize >= vocabulary) {
            return Err(InputError::Vocabulary { id: self.ids[position], position, vocabulary });
        }
        let area = config.vision.merge_area();
        for (kind, what) in [(MediaKind::Image, "images"), (MediaKind::Video, "videos")] {
            let items = &self.pixels(kind).items;
            let expected = items.iter().map(|item| item.grid.patches() / area).sum();
            let found = self.placeholders(kind);
            let frames: usize = items.iter().map(|item| item.grid.t).sum();
            let spans = self.spans.iter().filter(|span| span.kind == kind).count();
            if found != expected || frames != spans {
                return Err(InputError::PlaceholderCount { what, found, expected });
            }
        }
        Ok(())
    }

    /// Placeholder tokens of one modality.
    pub fn placeholders(&self, kind: MediaKind) -> usize {
        self.spans.iter().filter(|s| s.kind == kind).map(VisionSpan::len).sum()
    }
}

/// Ids of the two placeholder tokens and the merge size that turns grids into token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceholderIds {
    pub image: u32,
    pub video: u32,
    pub merge_size: usize,
}

impl PlaceholderIds {
    /// Those of a model.
    pub fn of(config: &Qwen3VlConfig) -> Self {
        Self {
            image: config.image_token_id,
            video: config.video_token_id,
            merge_size: config.vision.merge_size,
        }
    }
}

fn find_spans(
    ids: &[u32],
    grids: &[Grid],
    kind: MediaKind,
    tokens: &PlaceholderIds,
) -> Result<Vec<VisionSpan>, InputError> {
    let (token, what) = match kind {
        MediaKind::Image => (tokens.image, "images"),
        MediaKind::Video => (tokens.video, "videos"),
    };
    let found: Vec<usize> = (0..ids.len()).filter(|at| ids[*at] == token).collect();
    let frames = grids.iter().flat_map(|grid| std::iter::repeat_n(grid, grid.t));
    let mut spans = Vec::new();
    let mut used = 0;
    for grid in frames {
        let (rows, columns) = (grid.h / tokens.merge_size, grid.w / tokens.merge_size);
        let start = found.get(used).copied().unwrap_or(ids.len());
        spans.push(VisionSpan { kind, start, rows, columns });
        used += rows * columns;
    }
    let contiguous = |s: &VisionSpan| s.range().all(|at| ids.get(at) == Some(&token));
    if used != found.len() || !spans.iter().all(contiguous) {
        return Err(InputError::PlaceholderCount { what, found: found.len(), expected: used });
    }
    Ok(spans)
}
