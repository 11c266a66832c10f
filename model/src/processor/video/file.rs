//! The fields of one configuration file, checked one by one.

use super::config::LARGEST_AREA;
use super::wanted::is_rate;
use super::{MOST_FRAMES, SampleRate, VideoProcessError, VideoProcessorConfig};
use crate::processor::image::{ImageError, ImageProcessorConfig, Normalization, PatchLayout};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Keys that mean for videos what they mean for images.
const SHARED: [&str; 9] = [
    "patch_size",
    "temporal_patch_size",
    "merge_size",
    "image_mean",
    "image_std",
    "rescale_factor",
    "do_rescale",
    "do_normalize",
    "resample",
];

fn unreadable(file: &'static str, source: serde_json::Error) -> VideoProcessError {
    VideoProcessError::ConfigJson { file, source }
}

/// The JSON of `text`.
pub(super) fn parse<T: serde::de::DeserializeOwned>(
    file: &'static str,
    text: &str,
) -> Result<T, VideoProcessError> {
    serde_json::from_str(text).map_err(|source| unreadable(file, source))
}

/// The configuration that the JSON object `value` of `file` makes.
pub(super) fn resolve(
    file: &'static str,
    value: Value,
) -> Result<VideoProcessorConfig, VideoProcessError> {
    let (layout, normalization) = shared(file, &value)?;
    let raw = serde_json::from_value::<RawConfig>(value);
    let raw = raw.map_err(|source| unreadable(file, source))?;
    Reader { file, raw }.resolve(layout, normalization)
}

/// `processor_config.json`; files before transformers 5 have no `video_processor`.
#[derive(Deserialize)]
pub(super) struct Nested {
    pub(super) video_processor: Option<Value>,
}

/// What images and videos share, read as for images.
fn shared(
    file: &'static str,
    value: &Value,
) -> Result<(PatchLayout, Normalization), VideoProcessError> {
    let entry = |key: &str| Some((key.to_owned(), value.get(key)?.clone()));
    let keys: Map<String, Value> = SHARED.into_iter().filter_map(entry).collect();
    match ImageProcessorConfig::from_json(&Value::Object(keys).to_string()) {
        Ok(config) => Ok((config.layout, config.normalization)),
        Err(ImageError::ConfigValue { field, value, expected }) => {
            Err(VideoProcessError::ConfigValue { file, field, value, expected: expected.into() })
        }
        Err(ImageError::ConfigJson(source)) => Err(unreadable(file, source)),
        Err(other) => Err(other.into()),
    }
}
/// The file as written.
#[derive(Deserialize)]
struct RawConfig {
    size: Option<RawSize>,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    fps: Option<f64>,
    num_frames: Option<usize>,
    min_frames: Option<usize>,
    max_frames: Option<usize>,
    do_sample_frames: Option<bool>,
    do_resize: Option<bool>,
    cap_pixels_per_frame: Option<bool>,
    max_video_tokens: Option<usize>,
}

/// Areas of the whole clip, in spite of their names.
#[derive(Deserialize)]
struct RawSize {
    shortest_edge: Option<usize>,
    longest_edge: Option<usize>,
}

/// Checks the fields of one file.
struct Reader {
    file: &'static str,
    raw: RawConfig,
}

impl Reader {
    fn resolve(
        self,
        layout: PatchLayout,
        normalization: Normalization,
    ) -> Result<VideoProcessorConfig, VideoProcessError> {
        let default = VideoProcessorConfig::default();
        let (min_pixels, max_pixels) = self.areas()?;
        let (min_frames, max_frames) = self.frames()?;
        let tokens = self.raw.max_video_tokens;
        Ok(VideoProcessorConfig {
            min_pixels,
            max_pixels,
            layout,
            normalization,
            do_resize: self.raw.do_resize.unwrap_or(true),
            do_sample_frames: self.raw.do_sample_frames.unwrap_or(true),
            rate: self.rate()?,
            min_frames,
            max_frames,
            cap_pixels_per_frame: self.raw.cap_pixels_per_frame.unwrap_or(false),
            max_video_tokens: self.count("max_video_tokens", tokens, default.max_video_tokens)?,
        })
    }

    fn areas(&self) -> Result<(usize, usize), VideoProcessError> {
        let default = VideoProcessorConfig::default();
        let (min, max) = match &self.raw.size {
            None => (Some(default.min_pixels), Some(default.max_pixels)),
            Some(size) => (size.shortest_edge, size.longest_edge),
        };
        let missing = || "missing".to_owned();
        let needed = "an area in pixels of the whole clip, because `size` is given";
        let min = min.ok_or_else(|| self.refuse("size.shortest_edge", missing(), needed))?;
        let max = max.ok_or_else(|| self.refuse("size.longest_edge", missing(), needed))?;
        if min == 0 || min > max {
            let must = format!("at least 1 and at most size.longest_edge, which is {max}");
            return Err(self.refuse("size.shortest_edge", min, must));
        }
        if max > LARGEST_AREA {
            return Err(self.refuse("size.longest_edge", max, format!("at most {LARGEST_AREA}")));
        }
        self.legacy("min_pixels", self.raw.min_pixels, min)?;
        self.legacy("max_pixels", self.raw.max_pixels, max)?;
        Ok((min, max))
    }

    /// transformers ignores this key for Qwen3-VL's videos: it may stand there, but not say something else than `size`.
    fn legacy(
        &self,
        field: &'static str,
        value: Option<usize>,
        edge: usize,
    ) -> Result<(), VideoProcessError> {
        match value.filter(|value| *value != edge) {
            Some(value) => {
                let must = format!("left out or {edge} as in `size`, the only bounds of clips");
                Err(self.refuse(field, value, must))
            }
            None => Ok(()),
        }
    }

    fn rate(&self) -> Result<SampleRate, VideoProcessError> {
        match (self.raw.fps, self.raw.num_frames) {
            (Some(fps), Some(_)) => {
                Err(self.refuse("fps", fps, "left out, because `num_frames` is given"))
            }
            (Some(fps), None) if !is_rate(fps) => {
                Err(self.refuse("fps", fps, "a number above 0 and at most 1000000"))
            }
            (None, count @ Some(_)) => Ok(SampleRate::Count(self.count("num_frames", count, 0)?)),
            (fps, None) => {
                Ok(fps.map_or(VideoProcessorConfig::default().rate, SampleRate::PerSecond))
            }
        }
    }

    fn frames(&self) -> Result<(usize, usize), VideoProcessError> {
        let default = VideoProcessorConfig::default();
        let min = self.count("min_frames", self.raw.min_frames, default.min_frames)?;
        let max = self.count("max_frames", self.raw.max_frames, default.max_frames)?;
        match min > max {
            true => {
                let must = format!("at most `max_frames`, which is {max}");
                Err(self.refuse("min_frames", min, must))
            }
            false => Ok((min, max)),
        }
    }

    fn count(
        &self,
        field: &'static str,
        value: Option<usize>,
        default: usize,
    ) -> Result<usize, VideoProcessError> {
        match value.unwrap_or(default) {
            value if (1..=MOST_FRAMES).contains(&value) => Ok(value),
            value => Err(self.refuse(field, value, format!("between 1 and {MOST_FRAMES}"))),
        }
    }

    fn refuse(
        &self,
        field: &'static str,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> VideoProcessError {
        VideoProcessError::ConfigValue {
            file: self.file,
            field,
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}
