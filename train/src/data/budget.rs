//! Bounds on tokens and frames, written into the media of a conversation.

use qwen3_vl_model::processor::message::{
    ImageRef, MediaRef, MediaSource, Message, VideoRef, media_mut,
};
use qwen3_vl_model::processor::video::{BudgetRule, SamplingRule};
use qwen3_vl_model::processor::{PlannedMedia, Processor};

use super::prepare::{Limits, Note};

/// Fewest tokens of a frame in qwen-vl-utils.
const UTILS_FRAME_TOKENS: usize = 128;
/// Most frames of a video where nothing says it.
const MOST_FRAMES: usize = 768;

/// Writes bounds in tokens as bounds in pixels.
pub(super) struct Budget<'p> {
    processor: &'p Processor,
}

impl<'p> Budget<'p> {
    pub(super) fn new(processor: &'p Processor) -> Self {
        Self { processor }
    }

    /// Bounds all media by the limits of a run; what a row says itself holds where it is stricter.
    pub(super) fn apply(&self, messages: &mut [Message], limits: &Limits) -> Vec<Note> {
        let mut notes = Vec::new();
        for medium in media_mut(messages) {
            match (medium, limits.image_tokens, limits.video_tokens) {
                (MediaRef::Image(image), Some(tokens), _) => self.bound_image(image, tokens),
                (MediaRef::Image(_), None, _) => {}
                (MediaRef::Video(video), _, tokens) => {
                    self.bound_frames(video, limits, &mut notes);
                    if let Some(tokens) = tokens {
                        self.bound_video(video, tokens, limits);
                    }
                }
            }
        }
        notes
    }

    /// Bounds every medium by `share` of the tokens that it has in `planned`, down to the smallest that there is.
    pub(super) fn shrink(&self, messages: &mut [Message], planned: &[PlannedMedia], share: f64) {
        for (medium, planned) in media_mut(messages).zip(planned) {
            let tokens = ((tokens_of(planned) as f64 * share) as usize).max(1);
            match medium {
                MediaRef::Image(image) => {
                    self.bound_image(image, tokens);
                    image.min_pixels = Some(1);
                }
                MediaRef::Video(video) => {
                    video.total_pixels = Some(self.clip_area(tokens));
                    video.min_pixels = Some(self.area(1).min(video.max_pixels.unwrap_or(u64::MAX)));
                }
            }
        }
    }

    /// Pixels that make `tokens` in a picture.
    fn area(&self, tokens: usize) -> u64 {
        let side = self.processor.images().config.layout.factor() as u64;
        (tokens as u64).saturating_mul(side * side)
    }

    /// Pixels of all frames together that make `tokens` in a clip.
    fn clip_area(&self, tokens: usize) -> u64 {
        let videos = self.processor.videos();
        let side = videos.config.layout.factor() as u64;
        let frames = match videos.budget {
            BudgetRule::Transformers => videos.config.layout.temporal as u64,
            BudgetRule::QwenVlUtils => 1,
        };
        (tokens as u64).saturating_mul(side * side).saturating_mul(frames)
    }

    fn bound_image(&self, image: &mut ImageRef, tokens: usize) {
        let config = &self.processor.images().config;
        let most = image.max_pixels.unwrap_or(config.max_pixels as u64).min(self.area(tokens));
        let least = image.min_pixels.unwrap_or(config.min_pixels as u64).min(most);
        (image.min_pixels, image.max_pixels) = (Some(least), Some(most));
    }

    fn bound_video(&self, video: &mut VideoRef, tokens: usize, limits: &Limits) {
        let videos = self.processor.videos();
        let bound = self.clip_area(tokens);
        video.total_pixels = Some(match (video.total_pixels, videos.budget) {
            (Some(own), _) => own.min(bound),
            (None, BudgetRule::Transformers) => bound.min(videos.config.max_pixels as u64),
            (None, BudgetRule::QwenVlUtils) => bound,
        });
        if videos.budget == BudgetRule::QwenVlUtils && video.min_pixels.is_none() {
            let pairs = limits.frames.unwrap_or(MOST_FRAMES).div_ceil(2).max(1);
            video.min_pixels = Some(self.area((tokens / pairs).clamp(1, UTILS_FRAME_TOKENS)));
        }
    }

    fn bound_frames(&self, video: &mut VideoRef, limits: &Limits, notes: &mut Vec<Note>) {
        let videos = self.processor.videos();
        if let Some(MediaSource::Frames(frames)) = &mut video.source {
            let Some(limit) = limits.frames.filter(|limit| frames.len() > *limit) else { return };
            let (from, step) = (frames.len(), frames.len().div_ceil(limit.max(1)));
            let kept: Vec<String> = frames.iter().step_by(step).cloned().collect();
            notes.push(Note::Frames { from, to: kept.len() });
            *frames = kept;
            video.sample_fps = video.sample_fps.map(|fps| fps / step as f64);
            video.raw_fps = video.raw_fps.map(|fps| fps / step as f64);
            return;
        }
        if !videos.config.do_sample_frames && videos.sampling == SamplingRule::Transformers {
            return;
        }
        if video.fps.is_none() && video.num_frames.is_none() {
            video.fps = limits.fps;
        }
        let Some(limit) = limits.frames.map(|frames| frames as u64) else { return };
        match &mut video.num_frames {
            Some(count) if *count > limit => {
                notes.push(Note::Frames { from: *count as usize, to: limit as usize });
                *count = limit;
            }
            Some(_) => {}
            None => {
                let own = video.max_frames.unwrap_or(videos.config.max_frames as u64);
                video.max_frames = Some(own.min(limit));
            }
        }
        let least = video.min_frames.unwrap_or(videos.config.min_frames as u64);
        if least > limit {
            video.min_frames = Some(limit);
        }
    }
}

/// Tokens of a medium, without those of the times of a video.
pub(super) fn tokens_of(planned: &PlannedMedia) -> usize {
    match planned {
        PlannedMedia::Image(image) => image.tokens,
        PlannedMedia::Video(video) => video.tokens(),
    }
}
