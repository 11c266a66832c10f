//! The settings of one video, checked one by one.

use super::VideoProcessError;
use super::config::LARGEST_AREA;
use crate::processor::message::{MediaSource, VideoRef};

/// Most frames per second that a source or a request may have.
pub(super) const LARGEST_RATE: f64 = 1e6;

/// A [`VideoRef`] whose values are usable by themselves.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) fps: Option<f64>,
    pub(super) num_frames: Option<usize>,
    pub(super) min_frames: Option<usize>,
    pub(super) max_frames: Option<usize>,
    pub(super) start: Option<f64>,
    pub(super) end: Option<f64>,
    pub(super) sample_fps: Option<f64>,
    pub(super) raw_fps: Option<f64>,
    pub(super) min_pixels: Option<usize>,
    pub(super) max_pixels: Option<usize>,
    pub(super) total_pixels: Option<usize>,
    /// Height and width.
    pub(super) resized: Option<(usize, usize)>,
}

impl Wanted {
    pub(super) fn new(video: &VideoRef) -> Result<Self, VideoProcessError> {
        let wanted = Self {
            fps: rate("fps", video.fps)?,
            num_frames: count("num_frames", video.num_frames)?,
            min_frames: count("min_frames", video.min_frames)?,
            max_frames: count("max_frames", video.max_frames)?,
            start: seconds("video_start", video.start)?,
            end: seconds("video_end", video.end)?,
            sample_fps: rate("sample_fps", video.sample_fps)?,
            raw_fps: rate("raw_fps", video.raw_fps)?,
            min_pixels: area("min_pixels", video.min_pixels)?,
            max_pixels: area("max_pixels", video.max_pixels)?,
            total_pixels: area("total_pixels", video.total_pixels)?,
            resized: resized(video.resized)?,
        };
        wanted.check(video)?;
        Ok(wanted)
    }

    /// Settings that contradict each other.
    fn check(&self, video: &VideoRef) -> Result<(), VideoProcessError> {
        if let (Some(fps), Some(num_frames)) = (video.fps, video.num_frames) {
            return Err(VideoProcessError::RateAndCount { fps, num_frames });
        }
        if let (Some(start), Some(end)) = (self.start, self.end)
            && start >= end
        {
            let must = format!("before `video_end`, which is {end}");
            return Err(VideoProcessError::setting("video_start", start, must));
        }
        at_most("min_frames", self.min_frames, "max_frames", self.max_frames)?;
        at_most("min_frames", self.min_frames, "num_frames", self.num_frames)?;
        at_most("num_frames", self.num_frames, "max_frames", self.max_frames)?;
        at_most("min_pixels", self.min_pixels, "max_pixels", self.max_pixels)
    }

    /// Refuses every setting that chooses frames, because `why`.
    pub(super) fn refuse_sampling(&self, why: &str) -> Result<(), VideoProcessError> {
        let must = || format!("left out: {why}");
        let numbers = [("fps", self.fps), ("video_start", self.start), ("video_end", self.end)];
        for (name, value) in numbers {
            if let Some(value) = value {
                return Err(VideoProcessError::setting(name, value, must()));
            }
        }
        let counts = [
            ("num_frames", self.num_frames),
            ("min_frames", self.min_frames),
            ("max_frames", self.max_frames),
        ];
        refuse(&counts, must)
    }

    /// Refuses every setting that changes the size of frames, because `why`.
    pub(super) fn refuse_sizes(&self, why: &str) -> Result<(), VideoProcessError> {
        let areas = [
            ("min_pixels", self.min_pixels),
            ("max_pixels", self.max_pixels),
            ("total_pixels", self.total_pixels),
            ("resized_height", self.resized.map(|(height, _)| height)),
        ];
        refuse(&areas, || format!("left out: {why}"))
    }
}

/// Settings of `video`, and of `defaults` where `video` has none.
///
/// `fps` and `num_frames` exclude each other, so one of them in `video` keeps both of `defaults` out. A list of frames takes no
/// sampling defaults, since all its frames are used, and a stream takes no rates of lists.
#[must_use]
pub fn with_defaults(video: &VideoRef, defaults: &VideoRef) -> VideoRef {
    let sizes = VideoRef {
        source: video.source.clone().or_else(|| defaults.source.clone()),
        min_pixels: video.min_pixels.or(defaults.min_pixels),
        max_pixels: video.max_pixels.or(defaults.max_pixels),
        total_pixels: video.total_pixels.or(defaults.total_pixels),
        resized: video.resized.or(defaults.resized),
        ..video.clone()
    };
    if matches!(sizes.source, Some(MediaSource::Frames(_))) {
        return VideoRef {
            sample_fps: video.sample_fps.or(defaults.sample_fps),
            raw_fps: video.raw_fps.or(defaults.raw_fps),
            ..sizes
        };
    }
    let own_rate = video.fps.is_some() || video.num_frames.is_some();
    VideoRef {
        fps: if own_rate { video.fps } else { defaults.fps },
        num_frames: if own_rate { video.num_frames } else { defaults.num_frames },
        min_frames: video.min_frames.or(defaults.min_frames),
        max_frames: video.max_frames.or(defaults.max_frames),
        start: video.start.or(defaults.start),
        end: video.end.or(defaults.end),
        ..sizes
    }
}

/// Whether `fps` can be the rate of a video.
pub(super) fn is_rate(fps: f64) -> bool {
    fps > 0.0 && fps <= LARGEST_RATE
}

fn rate(name: &'static str, value: Option<f64>) -> Result<Option<f64>, VideoProcessError> {
    let must = "a number above 0 and at most 1000000";
    match value.filter(|fps| !is_rate(*fps)) {
        Some(fps) => Err(VideoProcessError::setting(name, fps, must)),
        None => Ok(value),
    }
}

fn seconds(name: &'static str, value: Option<f64>) -> Result<Option<f64>, VideoProcessError> {
    match value.filter(|seconds| !(seconds.is_finite() && *seconds >= 0.0)) {
        Some(bad) => {
            Err(VideoProcessError::setting(name, bad, "a finite number of seconds, at least 0"))
        }
        None => Ok(value),
    }
}

fn count(name: &'static str, value: Option<u64>) -> Result<Option<usize>, VideoProcessError> {
    match value {
        Some(0) => Err(VideoProcessError::setting(name, 0, "at least 1")),
        _ => Ok(value.map(|count| usize::try_from(count).unwrap_or(usize::MAX))),
    }
}

fn area(name: &'static str, value: Option<u64>) -> Result<Option<usize>, VideoProcessError> {
    let usable = |pixels| (1..=LARGEST_AREA as u64).contains(&pixels);
    match value {
        Some(pixels) if !usable(pixels) => {
            let must = format!("between 1 and {LARGEST_AREA} pixels");
            Err(VideoProcessError::setting(name, pixels, must))
        }
        _ => Ok(value.map(|pixels| pixels as usize)),
    }
}

fn resized(sides: Option<(u64, u64)>) -> Result<Option<(usize, usize)>, VideoProcessError> {
    const LONGEST: u64 = 1 << 20;
    let Some((height, width)) = sides else { return Ok(None) };
    for (name, side) in [("resized_height", height), ("resized_width", width)] {
        if !(1..=LONGEST).contains(&side) {
            let must = format!("between 1 and {LONGEST} pixels");
            return Err(VideoProcessError::setting(name, side, must));
        }
    }
    Ok(Some((height as usize, width as usize)))
}

/// Refuses `low` above `high` where both are given.
pub(super) fn at_most(
    low_name: &'static str,
    low: Option<usize>,
    high_name: &str,
    high: Option<usize>,
) -> Result<(), VideoProcessError> {
    match (low, high) {
        (Some(low), Some(high)) if low > high => {
            let must = format!("at most `{high_name}`, which is {high}");
            Err(VideoProcessError::setting(low_name, low, must))
        }
        _ => Ok(()),
    }
}

fn refuse(
    settings: &[(&'static str, Option<usize>)],
    must: impl Fn() -> String,
) -> Result<(), VideoProcessError> {
    let given = settings.iter().find_map(|(name, value)| value.map(|value| (*name, value)));
    match given {
        Some((name, value)) => Err(VideoProcessError::setting(name, value, must())),
        None => Ok(()),
    }
}
