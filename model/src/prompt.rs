//! A prompt on its way through the model: frames are encoded when prefill reaches them, and dropped behind it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Tensor;

use crate::inputs::{ContentKey, ModelInputs, Pixels, VisionSpan};
use crate::processor::image::Grid;
use crate::processor::message::MediaKind;
use crate::text::positions::Positions;
use crate::vision::VisionFeatures;

/// Ids, positions and pictures of one sequence. Only frames that prefill is about to read have features, so a
/// long video needs memory for one chunk of them.
#[derive(Debug, Clone)]
pub struct Prompt {
    pub(crate) ids: Vec<u32>,
    positions: Positions,
    frames: Vec<PromptFrame>,
    images: Pixels,
    videos: Pixels,
    pub(crate) vision: Duration,
}

/// One image, or one temporal patch of a clip.
#[derive(Debug, Clone)]
struct PromptFrame {
    span: VisionSpan,
    /// Item of its modality, and temporal patch within the item.
    item: usize,
    frame: usize,
    features: Option<FeatureRows>,
}

/// Rows of what one call of the tower returned.
#[derive(Debug, Clone)]
pub(crate) struct FeatureRows {
    features: Arc<VisionFeatures>,
    rows: Range<usize>,
}

/// Frames for one call of the vision tower.
#[derive(Debug)]
pub(crate) struct FrameBatch {
    pub(crate) frames: Vec<usize>,
    pub(crate) grids: Vec<Grid>,
    /// Row-major `[patches, patch_len]`.
    pub(crate) values: Vec<f32>,
}

impl Prompt {
    /// `inputs` must have been checked by the model.
    pub(crate) fn new(inputs: &ModelInputs) -> Self {
        let mut next = [(0, 0); 2];
        let frames = inputs.spans.iter().map(|span| {
            let (item, frame) = &mut next[slot(span.kind)];
            let grid = &inputs.pixels(span.kind).items[*item].grid;
            let here =
                PromptFrame { span: span.clone(), item: *item, frame: *frame, features: None };
            *frame += 1;
            if *frame == grid.t {
                (*item, *frame) = (*item + 1, 0);
            }
            here
        });
        Self {
            ids: inputs.ids.clone(),
            positions: Positions::new(inputs.ids.len(), &inputs.spans),
            frames: frames.collect(),
            images: inputs.images.clone(),
            videos: inputs.videos.clone(),
            vision: Duration::ZERO,
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the prompt has no token (which [`crate::Qwen3VlModel::prepare`] refuses).
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Positions of the prompt's tokens and of the first generated one.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Time spent in the vision tower for this prompt so far.
    pub fn vision_time(&self) -> Duration {
        self.vision
    }

    pub(crate) fn pixels(&self, kind: MediaKind) -> &Pixels {
        match kind {
            MediaKind::Image => &self.images,
            MediaKind::Video => &self.videos,
        }
    }

    /// Frames in tokens `rows` that have no features, in calls of at most `limit` patches (or one frame).
    pub(crate) fn pending(&self, rows: &Range<usize>, limit: usize) -> Vec<Vec<usize>> {
        let open = |frame: &PromptFrame| frame.features.is_none() && overlaps(&frame.span, rows);
        let mut batches: Vec<(usize, Vec<usize>)> = Vec::new();
        for (index, frame) in self.frames.iter().enumerate().filter(|(_, frame)| open(frame)) {
            let patches = self.grid(frame).patches();
            match batches.last_mut().filter(|(held, _)| held + patches <= limit) {
                Some((held, batch)) => {
                    *held += patches;
                    batch.push(index);
                }
                None => batches.push((patches, vec![index])),
            }
        }
        batches.into_iter().map(|(_, batch)| batch).collect()
    }

    /// How many of the tokens `rows` can run before one needs a frame without features.
    pub(crate) fn ready(&self, rows: &Range<usize>) -> usize {
        let waits = self.frames.iter().filter(|f| f.features.is_none() && overlaps(&f.span, rows));
        let first = waits.map(|frame| frame.span.start.max(rows.start)).min();
        first.unwrap_or(rows.end) - rows.start
    }

    /// Frames in tokens `rows` that have no features.
    pub(crate) fn unseen(&self, rows: &Range<usize>) -> Vec<usize> {
        let all = self.frames.iter().enumerate();
        let unseen = all.filter(|(_, f)| f.features.is_none() && overlaps(&f.span, rows));
        unseen.map(|(index, _)| index).collect()
    }

    /// What tells the frame from all others.
    pub(crate) fn frame_key(&self, index: usize) -> (ContentKey, usize) {
        let frame = &self.frames[index];
        (self.pixels(frame.span.kind).items[frame.item].content_key(), frame.frame)
    }

    /// Gives a frame the features that an equal one has.
    pub(crate) fn lend(&mut self, index: usize, features: FeatureRows) {
        self.frames[index].features = Some(features);
    }

    /// The features of a frame, while it has any.
    pub(crate) fn lent(&self, index: usize) -> Option<&FeatureRows> {
        self.frames[index].features.as_ref()
    }

    /// All frames of one modality.
    pub(crate) fn frames_of(&self, kind: MediaKind) -> Vec<usize> {
        (0..self.frames.len()).filter(|index| self.frames[*index].span.kind == kind).collect()
    }

    /// Grids and patch rows of `frames`.
    pub(crate) fn batch(&self, frames: Vec<usize>) -> FrameBatch {
        let (mut grids, mut values) = (Vec::with_capacity(frames.len()), Vec::new());
        for frame in frames.iter().map(|index| &self.frames[*index]) {
            let item = &self.pixels(frame.span.kind).items[frame.item];
            grids.push(self.grid(frame));
            item.append_patches(frame.frame..frame.frame + 1, &mut values);
        }
        FrameBatch { frames, grids, values }
    }

    /// Hands out what the tower made of `frames`.
    pub(crate) fn fill(&mut self, frames: &[usize], features: VisionFeatures) {
        let features = Arc::new(features);
        let mut first = 0;
        for index in frames {
            let frame = &mut self.frames[*index];
            let rows = first..first + frame.span.len();
            first = rows.end;
            frame.features = Some(FeatureRows { features: features.clone(), rows });
        }
    }

    /// Feature rows of the placeholders in tokens `rows`, in order, joined where they lie side by side.
    pub(crate) fn features(&self, rows: &Range<usize>) -> Vec<FeatureRows> {
        let mut parts: Vec<FeatureRows> = Vec::new();
        for frame in self.frames.iter().filter(|frame| overlaps(&frame.span, rows)) {
            let found = frame.features.as_ref().expect("frames are encoded before they are read");
            let start = frame.span.start;
            let first = found.rows.start + rows.start.saturating_sub(start);
            let last = found.rows.start + rows.end.min(frame.span.range().end) - start;
            match parts.last_mut() {
                Some(part)
                    if Arc::ptr_eq(&part.features, &found.features) && part.rows.end == first =>
                {
                    part.rows.end = last;
                }
                _ => {
                    let features = found.features.clone();
                    parts.push(FeatureRows { features, rows: first..last });
                }
            }
        }
        parts
    }

    /// Which of the tokens `rows` are placeholders.
    pub(crate) fn visual(&self, rows: &Range<usize>) -> Vec<bool> {
        let mut visual = vec![false; rows.len()];
        for frame in self.frames.iter().filter(|frame| overlaps(&frame.span, rows)) {
            let span = frame.span.range();
            let (first, last) = (span.start.max(rows.start), span.end.min(rows.end));
            visual[first - rows.start..last - rows.start].fill(true);
        }
        visual
    }

    /// Drops features that no token behind `done` reads.
    pub(crate) fn forget(&mut self, done: usize) {
        for frame in self.frames.iter_mut().filter(|frame| frame.span.range().end <= done) {
            frame.features = None;
        }
    }

    fn grid(&self, frame: &PromptFrame) -> Grid {
        Grid { t: 1, ..self.pixels(frame.span.kind).items[frame.item].grid }
    }
}

impl FeatureRows {
    /// All rows of what one call returned.
    pub(crate) fn all(features: VisionFeatures) -> Self {
        let rows = 0..features.embeds.dims()[0];
        Self { features: Arc::new(features), rows }
    }

    /// Bytes of these rows.
    pub(crate) fn bytes(&self) -> u64 {
        let embeds = &self.features.embeds;
        let row = embeds.dims()[1] * embeds.dtype().size() * (1 + self.features.deepstack.len());
        (self.rows.len() * row) as u64
    }

    /// Main rows and those of every DeepStack level, `[rows, hidden]` each.
    pub(crate) fn tensors(&self) -> (Tensor<2>, Vec<Tensor<2>>) {
        let rows = |t: &Tensor<2>| t.clone().narrow(0, self.rows.start, self.rows.len());
        (rows(&self.features.embeds), self.features.deepstack.iter().map(rows).collect())
    }
}

fn slot(kind: MediaKind) -> usize {
    match kind {
        MediaKind::Image => 0,
        MediaKind::Video => 1,
    }
}

fn overlaps(span: &VisionSpan, rows: &Range<usize>) -> bool {
    span.start < rows.end && span.range().end > rows.start
}
