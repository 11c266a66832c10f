//! What a prompt becomes before it enters the model: ids, vision spans, pixels.

use std::ops::Range;

use crate::processor::image::Grid;
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

/// Patches of all items of one modality, in order of appearance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pixels {
    /// Row-major `[patches, patch_len]`.
    pub values: Vec<f32>,
    /// One grid per image or clip.
    pub grids: Vec<Grid>,
}

impl Pixels {
    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.grids.is_empty()
    }

    /// Patches of all items.
    pub fn patches(&self) -> usize {
        self.grids.iter().map(Grid::patches).sum()
    }

    /// Values per patch.
    pub fn patch_len(&self) -> usize {
        self.values.len() / self.patches().max(1)
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
        let mut spans = find_spans(&ids, &images.grids, MediaKind::Image, &tokens)?;
        spans.extend(find_spans(&ids, &videos.grids, MediaKind::Video, &tokens)?);
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
