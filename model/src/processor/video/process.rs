//! The video processor: size and times of a source in, a plan out.

use super::sampling::{select, select_all};
use super::size::target_size;
use super::source::Timeline;
use super::wanted::Wanted;
use super::{
    BudgetRule, ClipSize, FrameSelection, SamplingRule, SourceClip, VideoNotice, VideoProcessError,
    VideoProcessorConfig, group_times,
};
use crate::processor::image::{Grid, Normalization, PatchLayout};
use crate::processor::message::VideoRef;
use crate::processor::prompt::FrameTokens;

/// Plans clips as transformers' `Qwen3VLVideoProcessor` and `Qwen3VLProcessor` do.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoProcessor {
    /// How frames are sampled, resized, cut and normalised.
    pub config: VideoProcessorConfig,
    /// Whose rule chooses the frames.
    pub sampling: SamplingRule,
    /// Whose rule chooses their size.
    pub budget: BudgetRule,
}

/// What becomes of a video, known from the size and the times of its frames.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedVideo {
    /// The frames used.
    pub selection: FrameSelection,
    /// Columns of a decoded frame, in pixels.
    pub source_width: u32,
    /// Rows of a decoded frame, in pixels.
    pub source_height: u32,
    /// Columns after resizing, in pixels.
    pub resized_width: usize,
    /// Rows after resizing, in pixels.
    pub resized_height: usize,
    /// Patches before merging (`video_grid_thw`).
    pub grid: Grid,
    /// Tokens of one temporal patch.
    pub tokens_per_frame: usize,
    /// Time and tokens of every temporal patch, as they stand in the prompt.
    pub frames: Vec<FrameTokens>,
    /// What the user should know.
    pub notices: Vec<VideoNotice>,
    /// How the frames are cut.
    pub layout: PatchLayout,
    /// How their samples become floats.
    pub normalization: Normalization,
}

impl PlannedVideo {
    /// Tokens in the prompt, without those of the times.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.frames.len() * self.tokens_per_frame
    }

    /// The frames to decode, in order and each once.
    #[must_use]
    pub fn decoded_indices(&self) -> Vec<usize> {
        let mut indices = self.selection.indices.clone();
        indices.dedup();
        indices
    }
}

impl VideoProcessor {
    /// A processor with the rules of transformers.
    #[must_use]
    pub fn new(config: VideoProcessorConfig) -> Self {
        Self { config, sampling: SamplingRule::default(), budget: BudgetRule::default() }
    }

    /// Chooses the rules of sampling and of sizes.
    #[must_use]
    pub fn with_rules(self, sampling: SamplingRule, budget: BudgetRule) -> Self {
        Self { sampling, budget, ..self }
    }

    /// The frames of `source` that are used, their size and their times. Settings of `request` go before those of the checkpoint.
    ///
    /// # Errors
    /// [`VideoProcessError`] for settings that cannot be used or contradict each other, sources without frames or with unusable
    /// times, and clips of less than one temporal patch.
    pub fn plan(
        &self,
        source: &SourceClip<'_>,
        request: &VideoRef,
    ) -> Result<PlannedVideo, VideoProcessError> {
        let wanted = Wanted::new(request)?;
        let line = Timeline::new(source, &wanted, self.sampling)?;
        let (selection, mut notices) = self.select(source, &line, &wanted)?;
        notices.extend(line.notice());
        let (frames, temporal) = (selection.indices.len(), self.config.layout.temporal);
        if frames < temporal {
            return Err(VideoProcessError::TooFewFrames { frames, least: temporal });
        }
        let (height, width) = (source.height as usize, source.width as usize);
        let clip = ClipSize { frames, height, width };
        let (size, notice) = target_size(clip, &self.config, &wanted, self.budget)?;
        notices.extend(notice);
        Ok(self.planned(source, selection, size, notices))
    }

    fn select(
        &self,
        source: &SourceClip<'_>,
        line: &Timeline<'_>,
        wanted: &Wanted,
    ) -> Result<(FrameSelection, Vec<VideoNotice>), VideoProcessError> {
        let sampled = self.config.do_sample_frames || self.sampling == SamplingRule::QwenVlUtils;
        if sampled && !source.is_list() {
            return select(line, wanted, self.sampling, &self.config);
        }
        wanted.refuse_sampling(match source.is_list() {
            true => {
                "all frames of a list are used; `sample_fps` says how many there are per second"
            }
            false => "`do_sample_frames` of the checkpoint is false, so all frames are used",
        })?;
        Ok((select_all(line, self.sampling)?, Vec::new()))
    }

    fn planned(
        &self,
        source: &SourceClip<'_>,
        selection: FrameSelection,
        (resized_height, resized_width): (usize, usize),
        notices: Vec<VideoNotice>,
    ) -> PlannedVideo {
        let layout = self.config.layout;
        let grid = layout.grid(selection.indices.len(), resized_height, resized_width);
        let tokens = Grid { t: 1, ..grid }.tokens(layout.merge);
        let times = group_times(&selection.seconds, layout.temporal);
        PlannedVideo {
            selection,
            source_width: source.width,
            source_height: source.height,
            resized_width,
            resized_height,
            grid,
            tokens_per_frame: tokens,
            frames: times.into_iter().map(|seconds| FrameTokens { seconds, tokens }).collect(),
            notices,
            layout,
            normalization: self.config.normalization,
        }
    }
}
