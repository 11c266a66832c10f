//! From a sample to a row for the trainer: tokens are counted from the headers of files, and pixels are only decoded of
//! what fits.

use std::fmt;
use std::sync::Arc;

use qwen3_vl_model::inputs::ModelInputs;
use qwen3_vl_model::processor::message::Conversation;
use qwen3_vl_model::processor::{LabelledChat, PlannedMedia, PreparedChat, Processor};
use qwen3_vl_weights::MediaLimits;
use qwen3_vl_weights::media::OpenedMedia;
use serde::{Deserialize, Serialize};

use super::budget::{Budget, tokens_of};
use super::error::{Place, RowProblem, SampleError};
use super::fit::Fit;
use super::sample::Sample;

/// What becomes of a sample with more tokens than [`Limits::sequence`]. Pictures and videos are never cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// It is an error.
    #[default]
    Error,
    /// It is left out, and counted.
    Drop,
    /// Its pictures and videos get fewer tokens.
    Shrink,
    /// Its text is cut at the end.
    TrimText,
}

/// Bounds on samples. Budgets are in tokens of the language model (32 x 32 pixels for published checkpoints).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Most tokens of a sample.
    pub sequence: usize,
    /// Most tokens of each picture.
    pub image_tokens: Option<usize>,
    /// Most tokens of each video, without those of its times.
    pub video_tokens: Option<usize>,
    /// Most frames of each video; of longer lists of frames every second, third, ... is kept.
    pub frames: Option<usize>,
    /// Frames per second to take of videos that do not say it themselves.
    pub fps: Option<f64>,
    pub too_long: TooLong,
}

impl Limits {
    /// Samples of at most `sequence` tokens; sizes as the checkpoint says.
    pub fn sequence(sequence: usize) -> Self {
        Self {
            sequence,
            image_tokens: None,
            video_tokens: None,
            frames: None,
            fps: None,
            too_long: TooLong::default(),
        }
    }
}

/// What was done to a sample so that it fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// Tokens of all its media together.
    Shrunk { from: usize, to: usize },
    /// Tokens of the sample.
    Trimmed { from: usize, to: usize },
    /// Frames of a video.
    Frames { from: usize, to: usize },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shrunk { from, to } => {
                write!(f, "Its pictures and videos were shrunk from {from} to {to} tokens.")
            }
            Self::Trimmed { from, to } => {
                write!(f, "Its text was cut at the end, from {from} to {to} tokens.")
            }
            Self::Frames { from, to } => write!(f, "Of {from} frames of a video {to} were kept."),
        }
    }
}

/// A row for the trainer.
#[derive(Clone, Debug)]
pub struct TrainRow {
    pub inputs: ModelInputs,
    /// One entry per id: whether predicting this id counts towards the loss.
    pub targets: Vec<bool>,
    pub channel: Arc<str>,
    pub place: Place,
    /// What was done so that it fits.
    pub changes: Vec<Note>,
    /// What decoders warn of.
    pub warnings: Vec<String>,
}

impl TrainRow {
    /// Tokens of the row.
    pub fn tokens(&self) -> usize {
        self.inputs.ids.len()
    }

    /// Tokens that are learned.
    pub fn target_tokens(&self) -> usize {
        self.targets.iter().filter(|target| **target).count()
    }

    /// Tokens that are predicted with loss; nothing predicts the first.
    pub fn predicted(&self) -> usize {
        self.targets.iter().skip(1).filter(|target| **target).count()
    }
}

/// A sample that was left out for its length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    pub place: Place,
    pub tokens: usize,
    pub limit: usize,
}

/// What becomes of a sample.
#[derive(Clone, Debug)]
pub enum Prepared {
    Row(Box<TrainRow>),
    Dropped(Dropped),
}

/// The size of a sample, known without decoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// As trained; of a sample that is left out, as it would have been.
    pub tokens: usize,
    pub targets: usize,
    /// Tokens that stand for pictures and frames.
    pub vision_tokens: usize,
    /// Patches that the vision tower sees.
    pub patches: usize,
    pub notes: Vec<Note>,
    /// Width and height of every medium in its file, upright, in pixels.
    pub sizes: Vec<(u32, u32)>,
    /// Left out by [`TooLong::Drop`].
    pub dropped: bool,
}

/// The samples that need most memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SampleSizes {
    /// Tokens of the longest sample.
    pub longest: usize,
    /// Patches of the sample that has most of them.
    pub most_patches: usize,
    /// Patches and tokens of the sample that has most patches for its tokens.
    pub densest: (usize, usize),
}

impl SampleSizes {
    /// Takes a sample into account, unless it is left out.
    pub fn add(&mut self, measured: &Measured) {
        if measured.dropped {
            return;
        }
        let (patches, tokens) = (measured.patches, measured.tokens);
        self.longest = self.longest.max(tokens);
        self.most_patches = self.most_patches.max(patches);
        if patches * self.densest.1 > self.densest.0 * tokens || self.densest.1 == 0 {
            self.densest = (patches, tokens);
        }
    }
}

/// Makes rows of samples. Usable from several threads at once.
#[derive(Debug)]
pub struct Preparer<'p> {
    pub(super) processor: &'p Processor,
    pub(super) limits: Limits,
    media: MediaLimits,
}

/// A conversation whose plan fits, and what was done for it.
pub(super) struct Planned {
    pub(super) labelled: LabelledChat,
    pub(super) notes: Vec<Note>,
    /// Width and height of every medium in its file.
    pub(super) sizes: Vec<(u32, u32)>,
}

impl<'p> Preparer<'p> {
    /// A preparer with the usual bounds on files.
    pub fn new(processor: &'p Processor, limits: Limits) -> Self {
        Self { processor, limits, media: MediaLimits::default() }
    }

    /// Chooses the bounds on files and the decoder of videos.
    #[must_use]
    pub fn with_media(self, media: MediaLimits) -> Self {
        Self { media, ..self }
    }

    /// The bounds on samples.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The processor that makes the ids.
    pub fn processor(&self) -> &'p Processor {
        self.processor
    }

    /// The size of a sample, from the headers of its files alone.
    ///
    /// # Errors
    /// As [`Preparer::prepare`], but for damage behind the headers.
    pub fn measure(&self, sample: &Sample) -> Result<Measured, SampleError> {
        let (planned, dropped) = self.plan(sample)?;
        Ok(measured(planned, dropped))
    }

    /// The row of a sample, decoded.
    ///
    /// # Errors
    /// [`SampleError`] when a file is missing or damaged, the template does not let the answers be told from the rest, no
    /// token would be learned, or the sample is too long.
    pub fn prepare(&self, sample: &Sample) -> Result<Prepared, SampleError> {
        self.try_prepare(sample).map_err(|problem| problem.at(&sample.place))
    }

    /// A prompt that is to be answered, with the budgets of this run; `place` is where it comes from.
    ///
    /// # Errors
    /// [`SampleError`] when a file is missing or damaged.
    pub fn prompt(
        &self,
        conversation: &Conversation,
        place: &Place,
    ) -> Result<PreparedChat, SampleError> {
        let prompt = || {
            let (conversation, _) = self.bounded(conversation);
            let opened = self.open(&conversation)?;
            let planned = self.processor.plan(&conversation, &opened.infos())?;
            let decoded = opened.decode(self.processor, &planned, &self.media, &mut ())?;
            Ok(planned.fill(decoded.items)?)
        };
        prompt().map_err(|problem: RowProblem| problem.at(place))
    }

    /// The plan of a sample, and whether it is left out.
    pub(super) fn plan(&self, sample: &Sample) -> Result<(Planned, bool), SampleError> {
        let plan = || {
            let (conversation, notes) = self.bounded(&sample.conversation);
            let opened = self.open(&conversation)?;
            let fit = self.fit(sample, &conversation, &opened.infos(), notes)?;
            Ok(match fit {
                Fit::Kept(planned) | Fit::Shrunk(_, planned) => (planned, false),
                Fit::Dropped(planned) => (planned, true),
            })
        };
        plan().map_err(|problem: RowProblem| problem.at(&sample.place))
    }

    fn try_prepare(&self, sample: &Sample) -> Result<Prepared, RowProblem> {
        let (conversation, notes) = self.bounded(&sample.conversation);
        let opened = self.open(&conversation)?;
        let fit = self.fit(sample, &conversation, &opened.infos(), notes)?;
        match fit {
            Fit::Kept(planned) => self.fill(sample, opened, planned),
            Fit::Shrunk(smaller, planned) => self.fill(sample, self.open(&smaller)?, planned),
            Fit::Dropped(planned) => Ok(Prepared::Dropped(Dropped {
                place: sample.place.clone(),
                tokens: planned.labelled.chat.tokens(),
                limit: self.limits.sequence,
            })),
        }
    }

    /// The conversation with the budgets of this run.
    fn bounded(&self, conversation: &Conversation) -> (Conversation, Vec<Note>) {
        let mut conversation = conversation.clone();
        let notes = Budget::new(self.processor).apply(&mut conversation.messages, &self.limits);
        (conversation, notes)
    }

    fn open<'c>(&self, conversation: &'c Conversation) -> Result<OpenedMedia<'c>, RowProblem> {
        Ok(OpenedMedia::open(conversation, &self.media, &mut ())?)
    }

    fn fill(
        &self,
        sample: &Sample,
        opened: OpenedMedia<'_>,
        planned: Planned,
    ) -> Result<Prepared, RowProblem> {
        let LabelledChat { chat, targets } = planned.labelled;
        let decoded = opened.decode(self.processor, &chat, &self.media, &mut ())?;
        Ok(Prepared::Row(Box::new(TrainRow {
            inputs: chat.fill(decoded.items)?.inputs,
            targets,
            channel: sample.channel.clone(),
            place: sample.place.clone(),
            changes: planned.notes,
            warnings: decoded.warnings,
        })))
    }
}

fn measured(planned: Planned, dropped: bool) -> Measured {
    let Planned { labelled, notes, sizes } = planned;
    let media = &labelled.chat.media;
    Measured {
        tokens: labelled.chat.tokens(),
        targets: labelled.target_tokens(),
        vision_tokens: vision_tokens(media),
        patches: media.iter().map(|medium| medium.grid().patches()).sum(),
        notes,
        sizes,
        dropped,
    }
}

pub(super) fn vision_tokens(media: &[PlannedMedia]) -> usize {
    media.iter().map(tokens_of).sum()
}
