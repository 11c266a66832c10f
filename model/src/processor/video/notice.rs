//! What was done otherwise than asked, for the caller to show.

use std::fmt;

/// Something that the caller should tell the user; the video is usable.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum VideoNotice {
    /// Nothing says how many frames per second the source has.
    UnknownRate {
        /// Frames per second taken instead.
        assumed: f64,
    },
    /// The wanted rate gives more frames than `max_frames`.
    FramesLimited {
        /// Frames that the rate gives.
        wanted: f64,
        /// Frames used.
        used: usize,
        /// Seconds of the source that one used frame stands for.
        seconds_per_frame: f64,
    },
    /// `num_frames` exceeds the frames there are: some are used several times, as in transformers.
    FramesRepeated {
        /// Frames asked for.
        wanted: usize,
        /// Frames of the source, or of the chosen part of it.
        available: usize,
    },
    /// `max_pixels` exceeds what `total_pixels` leaves for a frame (qwen-vl-utils).
    PixelsLimited {
        /// Pixels of a frame asked for.
        wanted: u64,
        /// Pixels of a frame allowed.
        allowed: f64,
    },
}

impl fmt::Display for VideoNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownRate { assumed } => write!(
                f,
                "the frame rate of the video is unknown; {assumed} frames per second are assumed, so its times may be wrong"
            ),
            Self::FramesLimited { wanted, used, seconds_per_frame } => write!(
                f,
                "the wanted rate gives {wanted} frames, but at most {used} are used; each stands for {seconds_per_frame:.2} seconds"
            ),
            Self::FramesRepeated { wanted, available } => write!(
                f,
                "{wanted} frames are wanted of a video with {available}; some are used more than once"
            ),
            Self::PixelsLimited { wanted, allowed } => write!(
                f,
                "max_pixels is {wanted}, but total_pixels and the limit of a frame leave {allowed:.0} pixels for each"
            ),
        }
    }
}
