//! When each frame of a source is shown.

use super::sampling::SamplingRule;
use super::wanted::{Wanted, is_rate};
use super::{VideoNotice, VideoProcessError};

/// Frames per second where nothing says how many there are (transformers).
const ASSUMED_RATE: f64 = 24.0;
/// Frames per second of a list of frames where nothing says it (qwen-vl-utils).
const ASSUMED_LIST_RATE: f64 = 2.0;
/// Largest distance in seconds between a frame's time and its place at a constant rate for that place to be taken. Containers that
/// count milliseconds round every time; transformers divides the index by the rate.
const JITTER: f64 = 0.001;

/// What is known of a source before any frame is decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SourceClip<'a> {
    /// Columns of an upright frame, in pixels.
    pub width: u32,
    /// Rows of an upright frame, in pixels.
    pub height: u32,
    /// How many frames there are, and when.
    pub frames: SourceFrames<'a>,
}

/// The frames of a source and their times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SourceFrames<'a> {
    /// A stream whose times are known.
    Timed {
        /// Seconds at which each frame is shown, in order.
        times: &'a [f64],
        /// Frames per second on average; `None` takes it from the times.
        fps: Option<f64>,
    },
    /// A stream of which only the number of frames is known, and perhaps the rate.
    Counted {
        /// Number of frames.
        count: usize,
        /// Frames per second; `None` assumes 24, with a notice.
        fps: Option<f64>,
    },
    /// Frames that were sampled already: all of them are used (`do_sample_frames=False`).
    List {
        /// Number of frames.
        count: usize,
    },
}

impl<'a> SourceClip<'a> {
    /// A stream with the time in seconds of every frame and its average rate, if that is known.
    #[must_use]
    pub fn timed(width: u32, height: u32, times: &'a [f64], fps: Option<f64>) -> Self {
        Self { width, height, frames: SourceFrames::Timed { times, fps } }
    }

    /// A stream of `count` frames at a constant rate.
    #[must_use]
    pub fn counted(width: u32, height: u32, count: usize, fps: Option<f64>) -> Self {
        Self { width, height, frames: SourceFrames::Counted { count, fps } }
    }

    /// A list of `count` frames that are all used.
    #[must_use]
    pub fn list(width: u32, height: u32, count: usize) -> Self {
        Self { width, height, frames: SourceFrames::List { count } }
    }

    /// Whether all frames are used.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.frames, SourceFrames::List { .. })
    }
}

/// The times of a source, resolved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeline<'a> {
    /// Number of frames, at least 1.
    pub(super) count: usize,
    /// Frames per second.
    pub(super) fps: f64,
    /// Whether the rate is a guess.
    pub(super) assumed: bool,
    /// `None` where frame `i` is shown at `i / fps`.
    times: Option<&'a [f64]>,
}

impl<'a> Timeline<'a> {
    pub(super) fn new(
        source: &SourceClip<'a>,
        wanted: &Wanted,
        rule: SamplingRule,
    ) -> Result<Self, VideoProcessError> {
        if !source.is_list() {
            refuse_list_rates(wanted)?;
        }
        match source.frames {
            SourceFrames::Timed { times, fps } => Self::timed(times, fps),
            SourceFrames::Counted { count, fps } => Self::counted(count, fps),
            SourceFrames::List { count } => Self::counted(count, list_rate(wanted, rule)),
        }
    }

    fn counted(count: usize, fps: Option<f64>) -> Result<Self, VideoProcessError> {
        if count == 0 {
            return Err(VideoProcessError::NoFrames);
        }
        let rate = checked_rate(fps)?;
        let assumed = rate.is_none();
        Ok(Self { count, fps: rate.unwrap_or(ASSUMED_RATE), assumed, times: None })
    }

    fn timed(times: &'a [f64], fps: Option<f64>) -> Result<Self, VideoProcessError> {
        check_times(times)?;
        let fps = fps.or_else(|| average_rate(times));
        let line = Self::counted(times.len(), fps)?;
        let steady = |(i, time): (usize, &f64)| (time - i as f64 / line.fps).abs() <= JITTER;
        let constant = times.iter().enumerate().all(steady);
        Ok(Self { times: (!constant).then_some(times), ..line })
    }

    /// When frame `index` is shown. Indices past the end count on at the rate (the frame that qwen-vl-utils adds to a list).
    pub(super) fn seconds(&self, index: usize) -> f64 {
        let known = self.times.and_then(|times| times.get(index));
        known.copied().unwrap_or(index as f64 / self.fps)
    }

    /// How many frames lie before the first one for which `inside` fails.
    pub(super) fn partition(&self, inside: impl Fn(f64) -> bool) -> usize {
        match self.times {
            Some(times) => times.partition_point(|time| inside(*time)),
            None => (0..self.count).take_while(|index| inside(self.seconds(*index))).count(),
        }
    }

    /// What to say of a rate that was guessed.
    pub(super) fn notice(&self) -> Option<VideoNotice> {
        self.assumed.then_some(VideoNotice::UnknownRate { assumed: self.fps })
    }
}

/// Frames per second of a list. transformers takes one number; where two are given, `sample_fps` says when the frames of the list
/// were taken, but qwen-vl-utils divides by `raw_fps`.
fn list_rate(wanted: &Wanted, rule: SamplingRule) -> Option<f64> {
    match rule {
        SamplingRule::Transformers => wanted.sample_fps.or(wanted.raw_fps),
        SamplingRule::QwenVlUtils => {
            wanted.raw_fps.or(wanted.sample_fps).or(Some(ASSUMED_LIST_RATE))
        }
    }
}

fn refuse_list_rates(wanted: &Wanted) -> Result<(), VideoProcessError> {
    let rates = [("sample_fps", wanted.sample_fps), ("raw_fps", wanted.raw_fps)];
    for (name, rate) in rates {
        if let Some(rate) = rate {
            let must = "left out: only a list of frames has it";
            return Err(VideoProcessError::setting(name, rate, must));
        }
    }
    Ok(())
}

fn checked_rate(fps: Option<f64>) -> Result<Option<f64>, VideoProcessError> {
    match fps.filter(|fps| !is_rate(*fps)) {
        Some(fps) => Err(VideoProcessError::SourceRate { fps }),
        None => Ok(fps),
    }
}

fn check_times(times: &[f64]) -> Result<(), VideoProcessError> {
    let mut previous = f64::MIN;
    for (index, &seconds) in times.iter().enumerate() {
        if !seconds.is_finite() || seconds < previous {
            let previous = if index == 0 { 0.0 } else { previous };
            return Err(VideoProcessError::FrameTime { index, seconds, previous });
        }
        previous = seconds;
    }
    Ok(())
}

/// Frames per second between the first and the last frame.
fn average_rate(times: &[f64]) -> Option<f64> {
    let span = times.last()? - times.first()?;
    let rate = (times.len() - 1) as f64 / span;
    is_rate(rate).then_some(rate)
}
