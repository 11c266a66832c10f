//! What can be wrong with a video, each with the numbers that were found.

use std::io;

/// Why a video cannot be opened or decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    /// The file cannot be opened or read.
    #[error("{name} cannot be read: {source}.")]
    Read {
        /// The file or the name given to the bytes.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are of no kind that any decoder knows.
    #[error(
        "{name} is not a video: {found}. Give a GIF, APNG or WebP animation, a folder of images, \
         or a film such as mp4, mov, mkv or webm."
    )]
    NotAVideo {
        /// The file or the name given to the bytes.
        name: String,
        /// What stands there instead.
        found: String,
    },
    /// The kind is known, but the contents contradict themselves or end too early.
    #[error("{name} is damaged: {found}.")]
    Malformed {
        /// The file or the name given to the bytes.
        name: String,
        /// What was found and what would be right.
        found: String,
    },
    /// There is no picture in it.
    #[error("{name} has no frame that can be shown: {found}.")]
    NoFrames {
        /// The file or the name given to the bytes.
        name: String,
        /// What it has instead (only sound, an empty track, ...).
        found: String,
    },
    /// No decoder that is present can show this codec.
    #[error("{name} holds {codec}, and no decoder for it is here: {tried}. {remedy}")]
    NoDecoder {
        /// The file or the name given to the bytes.
        name: String,
        /// The codec as far as it is known.
        codec: String,
        /// Every decoder that was considered, with the reason why it cannot.
        tried: String,
        /// What to install or how to build.
        remedy: &'static str,
    },
    /// A forced decoder cannot do it.
    #[error("The decoder {decoder} cannot decode {name}: {reason}.")]
    Decoder {
        /// The decoder that was used.
        decoder: &'static str,
        /// The file or the name given to the bytes.
        name: String,
        /// What it said.
        reason: String,
    },
    /// Pictures are larger than allowed.
    #[error(
        "{name} has frames of {width}x{height} pixels, but at most {limit} pixels per frame are \
         allowed. Raise the limit or scale the video down."
    )]
    TooLarge {
        /// The file or the name given to the bytes.
        name: String,
        /// Width in pixels as claimed by the file.
        width: u32,
        /// Height in pixels as claimed by the file.
        height: u32,
        /// Largest allowed number of pixels.
        limit: u64,
    },
    /// Some wanted frames cannot be decoded.
    #[error("{name} is damaged: {frames} cannot be decoded ({reason}).")]
    Damaged {
        /// The file or the name given to the bytes.
        name: String,
        /// The lost frames in words (`frame 17`, `frames 17 to 29`).
        frames: String,
        /// What the decoder said.
        reason: String,
    },
    /// The images of a list cannot be one video.
    #[error("The images in {name} cannot be one video: {reason}.")]
    Images {
        /// The folder or the list.
        name: String,
        /// What is wrong with them.
        reason: String,
    },
    /// The frame rate given for a list of images is no rate.
    #[error(
        "A list of images was given {fps} frames per second; it must be above 0 and at most 1000."
    )]
    Rate {
        /// What was given.
        fps: f64,
    },
    /// The wanted frames are not strictly increasing or outside the video.
    #[error(
        "Frame {index} was asked for at place {place}, but the wanted frames must be strictly \
         increasing and below {count}, the number of frames."
    )]
    Wanted {
        /// The offending index.
        index: usize,
        /// Its place in the list.
        place: usize,
        /// How many frames the video has.
        count: usize,
    },
}

/// Wanted frames that cannot be decoded.
pub(crate) struct Loss {
    /// The file or the name given to the bytes.
    pub name: String,
    /// Their indices, increasing.
    pub frames: Vec<usize>,
    /// What the decoder said.
    pub reason: String,
}

/// The first few of some frame numbers in words: `frame 3`, `frames 3 to 9`, `frames 1, 4, 9 and 5 more`.
pub(crate) fn frame_list(frames: &[usize]) -> String {
    match frames {
        [] => "no frame".into(),
        [one] => format!("frame {one}"),
        [first, .., last] if last - first + 1 == frames.len() => {
            format!("frames {first} to {last}")
        }
        many => {
            let shown: Vec<String> = many.iter().take(8).map(usize::to_string).collect();
            let rest = many.len() - shown.len();
            let tail = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            format!("frames {}{tail}", shown.join(", "))
        }
    }
}
