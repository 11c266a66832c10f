//! Which frames of a source are used.

use super::source::Timeline;
use super::wanted::{Wanted, at_most};
use super::{SampleRate, VideoNotice, VideoProcessError, VideoProcessorConfig};

/// Most frames that a clip may have: at one token per two frames more than any context holds.
pub const MOST_FRAMES: usize = 1 << 16;

/// Frame counts of qwen-vl-utils: a multiple of this.
const FRAME_FACTOR: usize = 2;
/// Frames per second where nothing is said (qwen-vl-utils).
const UTILS_RATE: f64 = 2.0;
/// Fewest frames where nothing is said (qwen-vl-utils).
const UTILS_MIN: usize = 4;
/// Most frames where nothing is said (qwen-vl-utils).
const UTILS_MAX: usize = 768;

/// Whose rule chooses the frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SamplingRule {
    /// `Qwen3VLVideoProcessor.sample_frames` of transformers 5, with the settings of the checkpoint.
    #[default]
    Transformers,
    /// `smart_nframes` of qwen-vl-utils 0.0.14 with its own defaults: an even number of frames.
    QwenVlUtils,
}

/// The frames of a clip.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameSelection {
    /// Frames of the source from 0, never falling; an index stands several times where a frame is repeated.
    pub indices: Vec<usize>,
    /// When each of them is shown, in seconds of the source.
    pub seconds: Vec<f64>,
    /// Seconds of the source that one used frame stands for.
    pub seconds_per_frame: f64,
    /// Frames per second of the source.
    pub source_fps: f64,
}

/// Frames `first..=last` of a source, the part that frames are taken from.
#[derive(Debug, Clone, Copy)]
struct Part {
    first: usize,
    last: usize,
}

impl Part {
    fn len(self) -> usize {
        self.last - self.first + 1
    }
}

/// How many frames a rate gives, before and after its limits.
struct Count {
    used: usize,
    /// The number that `max_frames` cut, if it did.
    limited: Option<f64>,
}

impl Count {
    fn exactly(used: usize) -> Self {
        Self { used, limited: None }
    }
}

/// All frames, in order (`do_sample_frames=False`). qwen-vl-utils repeats the last frame of an odd list, at a time of its own.
pub(super) fn select_all(
    line: &Timeline<'_>,
    rule: SamplingRule,
) -> Result<FrameSelection, VideoProcessError> {
    let used = match rule {
        SamplingRule::Transformers => line.count,
        SamplingRule::QwenVlUtils => line.count.next_multiple_of(FRAME_FACTOR),
    };
    check_count(used)?;
    Ok(FrameSelection {
        indices: (0..used).map(|index| index.min(line.count - 1)).collect(),
        seconds: (0..used).map(|index| line.seconds(index)).collect(),
        seconds_per_frame: 1.0 / line.fps,
        source_fps: line.fps,
    })
}

/// The frames of a stream, and what is to be said of them.
pub(super) fn select(
    line: &Timeline<'_>,
    wanted: &Wanted,
    rule: SamplingRule,
    config: &VideoProcessorConfig,
) -> Result<(FrameSelection, Vec<VideoNotice>), VideoProcessError> {
    let part = match rule {
        SamplingRule::Transformers => part_by_time(line, wanted)?,
        SamplingRule::QwenVlUtils => part_by_rate(line, wanted)?,
    };
    let count = match rule {
        SamplingRule::Transformers => transformers_count(line, part, wanted, config)?,
        SamplingRule::QwenVlUtils => smart_nframes(line, part, wanted)?,
    };
    check_count(count.used)?;
    let indices = match rule {
        SamplingRule::Transformers => linspace(part, count.used),
        SamplingRule::QwenVlUtils => torch_linspace(part, count.used),
    };
    let seconds = indices.iter().map(|&index| line.seconds(index)).collect();
    let seconds_per_frame = part.len() as f64 / line.fps / count.used as f64;
    let notices = notices(&count, part, seconds_per_frame);
    Ok((FrameSelection { indices, seconds, seconds_per_frame, source_fps: line.fps }, notices))
}

fn check_count(frames: usize) -> Result<(), VideoProcessError> {
    match frames > MOST_FRAMES {
        true => Err(VideoProcessError::TooManyFrames { frames, limit: MOST_FRAMES }),
        false => Ok(()),
    }
}

fn notices(count: &Count, part: Part, seconds_per_frame: f64) -> Vec<VideoNotice> {
    let limited = count.limited.map(|wanted| VideoNotice::FramesLimited {
        wanted,
        used: count.used,
        seconds_per_frame,
    });
    let repeated = (count.used > part.len())
        .then_some(VideoNotice::FramesRepeated { wanted: count.used, available: part.len() });
    limited.into_iter().chain(repeated).collect()
}

/// The frames whose time lies in `[video_start, video_end]`.
fn part_by_time(line: &Timeline<'_>, wanted: &Wanted) -> Result<Part, VideoProcessError> {
    let start = wanted.start.unwrap_or(f64::NEG_INFINITY);
    let end = wanted.end.unwrap_or(f64::INFINITY);
    let first = line.partition(|time| time < start);
    let after = line.partition(|time| time <= end);
    match first < after {
        true => Ok(Part { first, last: after - 1 }),
        false => Err(empty_range(line, wanted)),
    }
}

/// The frames of a range as qwen-vl-utils computes them, from the rate alone (`calculate_video_frame_range`).
fn part_by_rate(line: &Timeline<'_>, wanted: &Wanted) -> Result<Part, VideoProcessError> {
    if wanted.start.is_none() && wanted.end.is_none() {
        return Ok(Part { first: 0, last: line.count - 1 });
    }
    let duration = line.count as f64 / line.fps;
    let frame = |seconds: f64| seconds.min(duration) * line.fps;
    let first = wanted.start.map_or(0, |seconds| frame(seconds).ceil() as usize);
    let last = wanted.end.map_or(usize::MAX, |seconds| frame(seconds).floor() as usize);
    let last = last.min(line.count - 1);
    match first < last {
        true => Ok(Part { first, last }),
        false => Err(empty_range(line, wanted)),
    }
}

fn empty_range(line: &Timeline<'_>, wanted: &Wanted) -> VideoProcessError {
    let (first, last) = (line.seconds(0), line.seconds(line.count - 1));
    VideoProcessError::EmptyRange {
        start: wanted.start.unwrap_or(first),
        end: wanted.end.unwrap_or(last),
        first,
        last,
    }
}

/// The count of `Qwen3VLVideoProcessor.sample_frames`; a rate or count of the video goes before that of the checkpoint.
fn transformers_count(
    line: &Timeline<'_>,
    part: Part,
    wanted: &Wanted,
    config: &VideoProcessorConfig,
) -> Result<Count, VideoProcessError> {
    let asked = wanted.num_frames.map(SampleRate::Count);
    let rate = asked.or(wanted.fps.map(SampleRate::PerSecond)).unwrap_or(config.rate);
    let fps = match rate {
        SampleRate::Count(count) => return Ok(Count::exactly(count)),
        SampleRate::PerSecond(fps) => fps,
    };
    let min = wanted.min_frames.unwrap_or(config.min_frames);
    let max = wanted.max_frames.unwrap_or(config.max_frames);
    at_most("min_frames", Some(min), "max_frames", Some(max))?;
    let available = part.len();
    let exact = (available as f64 / line.fps * fps).trunc();
    let limited = (exact > max as f64 && available > max).then_some(exact);
    Ok(Count { used: (exact as usize).clamp(min, max).min(available), limited })
}

/// The count of qwen-vl-utils' `smart_nframes`.
fn smart_nframes(
    line: &Timeline<'_>,
    part: Part,
    wanted: &Wanted,
) -> Result<Count, VideoProcessError> {
    let available = part.len();
    let count = match wanted.num_frames {
        Some(count) => Count::exactly(round_even(count)),
        None => even_count_of_rate(line, available, wanted)?,
    };
    if count.used < FRAME_FACTOR {
        return Err(VideoProcessError::TooFewFrames { frames: count.used, least: FRAME_FACTOR });
    }
    match wanted.num_frames.filter(|_| count.used > available) {
        Some(frames) => {
            let must = format!("at most {available}, the number of frames there are");
            Err(VideoProcessError::setting("num_frames", frames, must))
        }
        None => Ok(count),
    }
}

fn even_count_of_rate(
    line: &Timeline<'_>,
    available: usize,
    wanted: &Wanted,
) -> Result<Count, VideoProcessError> {
    let most = wanted.max_frames.unwrap_or(UTILS_MAX);
    at_most("min_frames", wanted.min_frames, "max_frames", Some(most))?;
    let min = wanted.min_frames.unwrap_or(UTILS_MIN).saturating_add(1) & !1;
    let max = wanted.max_frames.unwrap_or(UTILS_MAX.min(available)) & !1;
    let exact = available as f64 / line.fps * wanted.fps.unwrap_or(UTILS_RATE);
    let limited = (exact > max as f64 && available > most).then_some(exact.floor());
    let used = exact.max(min as f64).min(max as f64).min(available as f64);
    Ok(Count { used: (used / FRAME_FACTOR as f64).floor() as usize * FRAME_FACTOR, limited })
}

/// The nearest even number; halfway between two, the multiple of 4.
fn round_even(count: usize) -> usize {
    let half = (count as f64 / FRAME_FACTOR as f64).round_ties_even();
    (half as usize).saturating_mul(FRAME_FACTOR)
}

/// `np.linspace(first, last, count).round()`, in f64, rounded half to even.
fn linspace(part: Part, count: usize) -> Vec<usize> {
    let (first, span) = (part.first, (part.len() - 1) as f64);
    let steps = count.saturating_sub(1).max(1) as f64;
    let step = span / steps;
    // numpy multiplies by the step, but divides last where the step is 0, and sets the last value.
    let at = |i: usize| match i + 1 == count && count > 1 {
        true => span,
        false => i as f64 * step,
    };
    (0..count).map(|i| first + at(i).round_ties_even() as usize).collect()
}

/// `torch.linspace(first, last, count).round()`, in f32 as the CPU kernels with fused multiplication compute it.
fn torch_linspace(part: Part, count: usize) -> Vec<usize> {
    let (first, last) = (part.first as f32, part.last as f32);
    let step = (last - first) / count.saturating_sub(1).max(1) as f32;
    let at = |i: usize| match i < count / 2 {
        true => step.mul_add(i as f32, first),
        false => (-step).mul_add((count - i - 1) as f32, last),
    };
    (0..count).map(|i| (at(i).round_ties_even() as usize).min(part.last)).collect()
}
