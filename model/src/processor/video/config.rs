//! How videos become patches, and which file says it.

use super::VideoProcessError;
use super::file::{Nested, parse, resolve};
use crate::processor::image::{MeanStd, Normalization, PatchLayout};

/// Largest bound on the area of a clip, all frames together: two million tokens, beyond any context.
pub(super) const LARGEST_AREA: usize = 1 << 32;

const VIDEO_FILE: &str = "video_preprocessor_config.json";
const PROCESSOR_FILE: &str = "processor_config.json (video_processor)";
const IMAGE_FILE: &str = "preprocessor_config.json";

/// How many frames are taken where a video does not say it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SampleRate {
    /// Frames per second (`fps`).
    PerSecond(f64),
    /// Frames in all (`num_frames`).
    Count(usize),
}

/// How videos become patches.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VideoProcessorConfig {
    /// Smallest area in pixels of all frames together after resizing (`size.shortest_edge`).
    pub min_pixels: usize,
    /// Largest area in pixels of all frames together after resizing (`size.longest_edge`).
    pub max_pixels: usize,
    /// Patch sizes.
    pub layout: PatchLayout,
    /// Rescaling and normalising.
    pub normalization: Normalization,
    /// Whether frames are resized at all; if not, their sides must be multiples of [`PatchLayout::factor`].
    pub do_resize: bool,
    /// Whether frames are sampled; if not, every frame of a video is used.
    pub do_sample_frames: bool,
    /// Frames per second or in all.
    pub rate: SampleRate,
    /// Fewest frames that a rate may give.
    pub min_frames: usize,
    /// Most frames that a rate may give.
    pub max_frames: usize,
    /// Whether a frame may have [`VideoProcessorConfig::max_video_tokens`] at most and its even share of the clip.
    pub cap_pixels_per_frame: bool,
    /// Most tokens, `factor * factor` pixels each, of a frame under `cap_pixels_per_frame`.
    pub max_video_tokens: usize,
}

/// Texts of the files that may configure videos; `None` where a file is absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct VideoConfigFiles<'a> {
    /// `processor_config.json`; its `video_processor` object counts, where it has one.
    pub processor: Option<&'a str>,
    /// `video_preprocessor_config.json`.
    pub video: Option<&'a str>,
    /// `preprocessor_config.json`.
    pub image: Option<&'a str>,
}

impl Default for VideoProcessorConfig {
    /// The defaults of the class `Qwen3VLVideoProcessor` in transformers 5.23, which hold for keys that a file lacks.
    fn default() -> Self {
        Self {
            min_pixels: 128 * 32 * 32,
            max_pixels: 32 * 32 * 768,
            layout: PatchLayout { patch: 16, temporal: 2, merge: 2 },
            normalization: Normalization {
                rescale: Some(1.0 / 255.0),
                mean_std: Some(MeanStd { mean: [0.5; 3], std: [0.5; 3] }),
            },
            do_resize: true,
            do_sample_frames: true,
            rate: SampleRate::PerSecond(2.0),
            min_frames: 4,
            max_frames: 768,
            cap_pixels_per_frame: false,
            max_video_tokens: 768,
        }
    }
}

impl VideoProcessorConfig {
    /// The values published with every Qwen3-VL checkpoint.
    #[must_use]
    pub fn qwen3_vl() -> Self {
        Self { min_pixels: 4096, max_pixels: 25_165_824, ..Self::default() }
    }

    /// Reads the text of a `video_preprocessor_config.json`. Keys that are absent or null take the values of
    /// [`VideoProcessorConfig::default`], keys that no step of video processing reads are ignored.
    ///
    /// # Errors
    /// [`VideoProcessError::ConfigJson`] for malformed JSON and wrong types, [`VideoProcessError::ConfigValue`] for values that
    /// cannot be used.
    pub fn from_json(text: &str) -> Result<Self, VideoProcessError> {
        Self::from_text(VIDEO_FILE, text)
    }

    /// Reads the file that transformers 5 would: the `video_processor` of `processor_config.json`, else
    /// `video_preprocessor_config.json`, else `preprocessor_config.json`; without any, the class defaults.
    ///
    /// # Errors
    /// As [`VideoProcessorConfig::from_json`].
    pub fn from_files(files: VideoConfigFiles<'_>) -> Result<Self, VideoProcessError> {
        let processor = files.processor.map(|text| parse::<Nested>(PROCESSOR_FILE, text));
        if let Some(value) = processor.transpose()?.and_then(|nested| nested.video_processor) {
            return resolve(PROCESSOR_FILE, value);
        }
        match (files.video, files.image) {
            (Some(text), _) => Self::from_text(VIDEO_FILE, text),
            (None, Some(text)) => Self::from_text(IMAGE_FILE, text),
            (None, None) => Ok(Self::default()),
        }
    }

    fn from_text(file: &'static str, text: &str) -> Result<Self, VideoProcessError> {
        resolve(file, parse(file, text)?)
    }
}
