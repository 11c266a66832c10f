//! Video input: the timeline of a video without decoding it, and exactly the wanted frames as upright RGB.
//!
//! # Decoders, in the order in which [`open`] tries them
//! The contents decide, never the file's name.
//! 1. **Animations** (`gif`, `apng`, `webp`) through the `image` crate. A plain picture is a video of one frame.
//! 2. **Images** ([`VideoInput::Images`], or a folder as path): all of one size, with a frame rate.
//! 3. **mp4 and mov with H.264** (also fragmented), decoded by `openh264`: progressive 4:2:0 with 8 bits. Streams
//!    with B pictures go to 4 or 5 where one is there, since openh264 is not exact for them (see [`VideoInfo::warnings`]).
//! 4. **libav**, when built with the cargo feature `libav`, for everything else.
//! 5. **`ffmpeg` and `ffprobe` on `PATH`**, as child processes, for everything else.
//!
//! # Time
//! Times are the presentation times of the stream, in seconds from the first shown frame. When the distances of
//! the frames differ by no more than the rounding of the stream's clock, the video has a constant rate and
//! `times[i]` is exactly `i as f64 / fps` (what transformers computes); `fps` is FFmpeg's `avg_frame_rate`.
//!
//! # Colour
//! YUV becomes RGB with the matrix and range that the stream names (H.264 VUI first, then the `colr` box), and
//! **BT.601 with limited range where it names none**, which is what FFmpeg's swscale does. Chroma is taken from the
//! nearest sample. Values are within 3 of `ffmpeg -i FILE -pix_fmt rgb24 -f rawvideo`. No sample aspect ratio and
//! no tone mapping is applied. Animated WebP may be off by 1 where frames blend. Rotation by the track's matrix is. Transparent pixels are laid on white.

mod animation;
mod chunks;
mod colour;
mod error;
mod h264;
mod images;
#[cfg(feature = "libav")]
mod libav;
mod mp4;
mod process;
mod schedule;
mod source;
mod timeline;

pub use colour::{Colour, Matrix};
pub use error::VideoError;
pub use images::{ImageDecoder, decode_image};
pub use source::{DecoderChoice, OpenOptions, VideoInput, open};

use error::{Loss, frame_list};
use std::ops::ControlFlow;
use std::sync::Arc;

/// One picture: rows from the top, pixels from the left, upright.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `height * width * 3` bytes, red, green, blue.
    pub data: Vec<u8>,
}

/// What is known of a video before any frame is delivered.
#[derive(Debug, Clone)]
pub struct VideoInfo {
    /// Width in pixels of the delivered frames (after rotation; the sample aspect ratio is not applied).
    pub width: u32,
    /// Height in pixels of the delivered frames (after rotation).
    pub height: u32,
    /// By how many degrees clockwise the stored pictures are turned to be upright: 0, 90, 180 or 270.
    pub rotation: u16,
    /// Average frames per second, FFmpeg's `avg_frame_rate`.
    pub fps: f64,
    /// Whether the distances between frames differ by more than the rounding of the stream's clock.
    pub variable: bool,
    /// Seconds of every frame in display order from the first frame on; the length is the frame count.
    pub times: Arc<[f64]>,
    /// Seconds from the first frame's start to the last frame's end.
    pub duration: f64,
    /// Which decoder delivers the frames: `gif`, `apng`, `webp`, `image`, `images`, `openh264`, `libav`, `ffmpeg`.
    pub decoder: &'static str,
    /// The codec, as FFmpeg names it where FFmpeg knows it (`h264`, `hevc`, `gif`, ...).
    pub codec: String,
    /// How colours are converted.
    pub colour: Colour,
    /// Sentences on what is wrong but not fatal, such as a file that ends too early.
    pub warnings: Vec<String>,
}

impl VideoInfo {
    /// The number of frames that can be asked for.
    pub fn frame_count(&self) -> usize {
        self.times.len()
    }
}

/// What became of one call of [`FrameSource::frames`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delivered {
    /// How many frames the sink received.
    pub frames: usize,
    /// Wanted frames that could not be decoded; only with [`OpenOptions::skip_damaged`], else they are an error.
    pub missing: Vec<usize>,
    /// Whether the sink or the progress callback asked to stop.
    pub stopped: bool,
    /// How many stored pictures were decoded, where this is known.
    pub decoded: usize,
    /// Sentences on what went wrong without being fatal (missing frames, what a decoder complained of).
    pub warnings: Vec<String>,
}

impl Delivered {
    /// Notes frames that are lost: an error, or with [`OpenOptions::skip_damaged`] a warning.
    pub(crate) fn lose(&mut self, loss: Loss, skip_damaged: bool) -> Result<(), VideoError> {
        let Loss { name, frames: lost, reason } = loss;
        let frames = frame_list(&lost);
        if !skip_damaged {
            return Err(VideoError::Damaged { name, frames, reason });
        }
        self.warnings.push(format!("{frames} cannot be decoded ({reason})."));
        self.missing.extend(lost);
        Ok(())
    }
}

/// Receives a frame's index and the frame; `Break` stops decoding.
pub type Sink<'a> = dyn FnMut(usize, Frame) -> ControlFlow<()> + 'a;

/// Receives the share of the work that is done (0 to 1), several times a second; `Break` stops decoding.
pub type Progress<'a> = dyn FnMut(f64) -> ControlFlow<()> + 'a;

/// A video whose frames can be asked for, any number of times.
pub trait FrameSource: Send {
    /// What is known without decoding.
    fn info(&self) -> &VideoInfo;

    /// Decodes and hands over the frames `wanted` (strictly increasing indices into [`VideoInfo::times`]) in that
    /// order. Memory does not grow with the length of the video or of `wanted`. `progress` is called also while
    /// frames are decoded that are not wanted. Both callbacks run on the calling thread.
    ///
    /// # Errors
    /// [`VideoError::Wanted`] for indices out of order, [`VideoError::Damaged`] for frames that cannot be decoded
    /// (frames before them have been handed over), and what the decoder at hand reports.
    fn frames(
        &mut self,
        wanted: &[usize],
        sink: &mut Sink<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Delivered, VideoError>;
}

/// Refuses indices that are not strictly increasing or lie outside the video.
pub(crate) fn check_wanted(wanted: &[usize], count: usize) -> Result<(), VideoError> {
    for (place, &index) in wanted.iter().enumerate() {
        if index >= count || (place > 0 && wanted[place - 1] >= index) {
            return Err(VideoError::Wanted { index, place, count });
        }
    }
    Ok(())
}
