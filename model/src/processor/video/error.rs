//! Everything that can go wrong between a source and the bytes of its clip.

use crate::processor::image::ImageError;

/// Why a video, its settings or the configuration of the video processor were refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoProcessError {
    /// A configuration file is not JSON of the expected types.
    #[error("{file} cannot be read: {source}.")]
    ConfigJson { file: &'static str, source: serde_json::Error },
    /// A value of a configuration file that cannot be used.
    #[error("{file}: `{field}` is {value}, but it must be {expected}.")]
    ConfigValue { file: &'static str, field: &'static str, value: String, expected: String },
    /// A setting of one video that cannot be used.
    #[error("`{name}` of the video is {value}, but it must be {must}.")]
    Setting { name: &'static str, value: String, must: String },
    /// Both ways of saying how many frames are wanted.
    #[error(
        "The video has both `fps` ({fps}) and `num_frames` ({num_frames}); give one of the two."
    )]
    RateAndCount { fps: f64, num_frames: u64 },
    /// The rate that a container states is no rate.
    #[error(
        "The video says that it has {fps} frames per second; a number above 0 and at most 1000000 is needed."
    )]
    SourceRate { fps: f64 },
    /// A source without a frame.
    #[error("The video has no frames (0 were found).")]
    NoFrames,
    /// Frames out of order, or at a time that is not a number.
    #[error(
        "Frame {index} of the video is shown at {seconds} s, after a frame at {previous} s; times must be finite and in order."
    )]
    FrameTime { index: usize, seconds: f64, previous: f64 },
    /// No frame lies in the wanted range.
    #[error(
        "No frame of the video lies between {start} s and {end} s: its frames are shown from {first} s to {last} s."
    )]
    EmptyRange { start: f64, end: f64, first: f64, last: f64 },
    /// Fewer frames than one temporal patch.
    #[error(
        "The clip would have {frames} frame(s), but a video needs at least {least}; send a single frame as an image."
    )]
    TooFewFrames { frames: usize, least: usize },
    /// More frames than a clip may have.
    #[error(
        "The clip would have {frames} frames; the limit is {limit}. Sample fewer with `fps`, `num_frames` or `max_frames`."
    )]
    TooManyFrames { frames: usize, limit: usize },
    /// A frame without pixels, or one that is too narrow.
    #[error(
        "Frames of {width}x{height} pixels cannot be used: both sides must be at least 1 and the longer one may be at most 200 \
         times the shorter one."
    )]
    AspectRatio { width: usize, height: usize },
    /// The bounds leave no room for a token.
    #[error(
        "Frames of {width}x{height} pixels cannot be shrunk to {max_pixels} pixels: one side would fall below {factor} pixels."
    )]
    Vanishes { width: usize, height: usize, max_pixels: f64, factor: usize },
    /// [`ClipBuilder`](super::ClipBuilder) got another number of frames than planned.
    #[error("The clip needs {expected} decoded frames, but {found} came.")]
    FrameCount { expected: usize, found: usize },
    /// [`ClipBuilder`](super::ClipBuilder) got a frame of another size than planned.
    #[error(
        "Frame {index} of the video is {width}x{height} pixels, but the video was announced as {expected_width}x{expected_height}."
    )]
    FrameSize { index: usize, width: u32, height: u32, expected_width: u32, expected_height: u32 },
    /// What is wrong with a single frame.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl VideoProcessError {
    /// A setting of one video that cannot be used.
    pub(super) fn setting(
        name: &'static str,
        value: impl std::fmt::Display,
        must: impl Into<String>,
    ) -> Self {
        Self::Setting { name, value: value.to_string(), must: must.into() }
    }
}
