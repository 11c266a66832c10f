//! `preprocessor_config.json` -> a checked configuration.

use super::{ImageError, MeanStd, Normalization, PatchLayout};
use serde::Deserialize;
use serde_json::Value;

/// PIL's number of the bicubic filter, the only one that Qwen3-VL uses.
const PIL_BICUBIC: u64 = 3;

/// How images become patches.
///
/// `do_convert_rgb` has no field: pictures reach the processor as RGB in any case. Where the flag is off, transformers
/// processes RGB pictures alike and fails on all others.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ImageProcessorConfig {
    /// Smallest area in pixels after resizing (`size.shortest_edge`, or `min_pixels`).
    pub min_pixels: usize,
    /// Largest area in pixels after resizing (`size.longest_edge`, or `max_pixels`).
    pub max_pixels: usize,
    /// Patch sizes.
    pub layout: PatchLayout,
    /// Rescaling and normalising.
    pub normalization: Normalization,
    /// Whether pictures are resized at all; if not, their sides must be multiples of [`PatchLayout::factor`].
    pub do_resize: bool,
}

impl ImageProcessorConfig {
    /// The values published with every Qwen3-VL checkpoint. (The defaults of the class in transformers are Qwen2-VL's.)
    #[must_use]
    pub fn qwen3_vl() -> Self {
        Self {
            min_pixels: 65_536,
            max_pixels: 16_777_216,
            layout: PatchLayout { patch: 16, temporal: 2, merge: 2 },
            normalization: Normalization {
                rescale: Some(1.0 / 255.0),
                mean_std: Some(MeanStd { mean: [0.5; 3], std: [0.5; 3] }),
            },
            do_resize: true,
        }
    }

    /// Reads the text of a `preprocessor_config.json`. Keys that are absent or null take the published values, keys that
    /// image processing does not know are ignored.
    ///
    /// # Errors
    /// [`ImageError::ConfigJson`] for malformed JSON and wrong types, [`ImageError::ConfigValue`] and
    /// [`ImageError::PixelBounds`] for values that cannot be used.
    pub fn from_json(text: &str) -> Result<Self, ImageError> {
        let raw: RawConfig = serde_json::from_str(text)?;
        raw.resolve()
    }

    /// Replaces the bounds of the area (`--min-pixels`, `--max-pixels`); `None` keeps a bound.
    ///
    /// # Errors
    /// [`ImageError::PixelBounds`] where the smaller bound is 0 or exceeds the larger.
    pub fn with_pixel_bounds(
        self,
        min: Option<usize>,
        max: Option<usize>,
    ) -> Result<Self, ImageError> {
        let bounded = Self {
            min_pixels: min.unwrap_or(self.min_pixels),
            max_pixels: max.unwrap_or(self.max_pixels),
            ..self
        };
        bounded.check_bounds()?;
        Ok(bounded)
    }

    fn check_bounds(&self) -> Result<(), ImageError> {
        let (min, max) = (self.min_pixels, self.max_pixels);
        match min >= 1 && min <= max && max <= LARGEST_AREA {
            true => Ok(()),
            false => Err(ImageError::PixelBounds { min, max }),
        }
    }
}

/// Largest bound on the area of a picture, in pixels: four million tokens, far beyond any context.
const LARGEST_AREA: usize = 1 << 32;

/// The file as written.
#[derive(Deserialize)]
struct RawConfig {
    size: Option<RawSize>,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    patch_size: Option<usize>,
    temporal_patch_size: Option<usize>,
    merge_size: Option<usize>,
    image_mean: Option<OneOrThree>,
    image_std: Option<OneOrThree>,
    rescale_factor: Option<f64>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    resample: Option<Value>,
}

/// Areas, in spite of their names.
#[derive(Deserialize)]
struct RawSize {
    shortest_edge: Option<usize>,
    longest_edge: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrThree {
    One(f64),
    Three([f64; 3]),
    Other(Value),
}

impl OneOrThree {
    fn resolve(self, field: &'static str) -> Result<[f64; 3], ImageError> {
        match self {
            Self::One(value) => Ok([value; 3]),
            Self::Three(values) => Ok(values),
            Self::Other(value) => Err(ImageError::ConfigValue {
                field,
                value: value.to_string(),
                expected: "one number, or a list of three",
            }),
        }
    }
}

impl RawConfig {
    fn resolve(self) -> Result<ImageProcessorConfig, ImageError> {
        check_resample(self.resample.as_ref())?;
        let (min_pixels, max_pixels) = self.areas()?;
        let config = ImageProcessorConfig {
            min_pixels,
            max_pixels,
            layout: self.layout()?,
            do_resize: self.do_resize.unwrap_or(true),
            normalization: self.normalization()?,
        };
        config.check_bounds()?;
        config.normalization.check()?;
        Ok(config)
    }

    fn areas(&self) -> Result<(usize, usize), ImageError> {
        let published = ImageProcessorConfig::qwen3_vl();
        let (shortest, longest) = match &self.size {
            None => (Some(published.min_pixels), Some(published.max_pixels)),
            Some(size) => (size.shortest_edge, size.longest_edge),
        };
        let min = self.min_pixels.or(shortest);
        let max = self.max_pixels.or(longest);
        Ok((
            min.ok_or_else(|| missing_edge("size.shortest_edge"))?,
            max.ok_or_else(|| missing_edge("size.longest_edge"))?,
        ))
    }

    fn layout(&self) -> Result<PatchLayout, ImageError> {
        let published = ImageProcessorConfig::qwen3_vl().layout;
        Ok(PatchLayout {
            patch: side("patch_size", self.patch_size, published.patch)?,
            temporal: side("temporal_patch_size", self.temporal_patch_size, published.temporal)?,
            merge: side("merge_size", self.merge_size, published.merge)?,
        })
    }

    fn normalization(self) -> Result<Normalization, ImageError> {
        let three = |value: Option<OneOrThree>, field| {
            value.map_or(Ok([0.5; 3]), |value| value.resolve(field))
        };
        let mean = three(self.image_mean, "image_mean")?;
        let std = three(self.image_std, "image_std")?;
        let factor = self.rescale_factor.unwrap_or(1.0 / 255.0);
        Ok(Normalization {
            rescale: self.do_rescale.unwrap_or(true).then_some(factor),
            mean_std: self.do_normalize.unwrap_or(true).then_some(MeanStd { mean, std }),
        })
    }
}

fn missing_edge(field: &'static str) -> ImageError {
    ImageError::ConfigValue {
        field,
        value: "missing".into(),
        expected: "an area in pixels, because `size` is given",
    }
}

/// A size between 1 and 1024, which keeps every product of sizes far from overflow.
fn side(field: &'static str, value: Option<usize>, published: usize) -> Result<usize, ImageError> {
    match value.unwrap_or(published) {
        value @ 1..=1024 => Ok(value),
        value => Err(ImageError::ConfigValue {
            field,
            value: value.to_string(),
            expected: "between 1 and 1024",
        }),
    }
}

fn check_resample(value: Option<&Value>) -> Result<(), ImageError> {
    match value {
        None => Ok(()),
        Some(value) if value.as_u64() == Some(PIL_BICUBIC) => Ok(()),
        Some(Value::String(name)) if name.eq_ignore_ascii_case("bicubic") => Ok(()),
        Some(value) => Err(ImageError::ConfigValue {
            field: "resample",
            value: value.to_string(),
            expected: "3 (bicubic), the filter that Qwen3-VL was trained with",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ImageProcessorConfig, String> {
        ImageProcessorConfig::from_json(text).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_file_means_the_published_values() {
        assert_eq!(parse("{}").unwrap(), ImageProcessorConfig::qwen3_vl());
        assert_eq!(
            parse(r#"{"size": null, "patch_size": null, "do_pad": 7, "crop_size": {"height": 1}}"#)
                .unwrap(),
            ImageProcessorConfig::qwen3_vl()
        );
    }

    #[test]
    fn the_published_file() {
        let text = r#"{"size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16,
            "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
            "resample": 3, "rescale_factor": 0.00392156862745098, "do_convert_rgb": true,
            "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast"}"#;
        assert_eq!(parse(text).unwrap(), ImageProcessorConfig::qwen3_vl());
    }

    #[test]
    fn explicit_bounds_override_the_size() {
        let config =
            parse(r#"{"size": {"shortest_edge": 100, "longest_edge": 200}, "max_pixels": 5000}"#);
        let config = config.unwrap();
        assert_eq!((config.min_pixels, config.max_pixels), (100, 5000));
        let text = parse(r#"{"size": {"height": 224, "width": 224}}"#).unwrap_err();
        assert!(text.contains("`size.shortest_edge` is missing"), "{text}");
        assert!(parse(r#"{"size": {"height": 1}, "min_pixels": 3, "max_pixels": 9}"#).is_ok());
    }

    #[test]
    fn every_step_can_be_turned_off_or_changed() {
        let text = r#"{"do_resize": false, "do_rescale": false, "image_mean": 0.25, "image_std": [1, 2, 3]}"#;
        let config = parse(text).unwrap();
        assert!(!config.do_resize);
        assert_eq!(config.normalization.rescale, None);
        let MeanStd { mean, std } = config.normalization.mean_std.unwrap();
        assert_eq!((mean, std), ([0.25; 3], [1.0, 2.0, 3.0]));
        let plain = parse(r#"{"do_normalize": false}"#).unwrap();
        assert_eq!(plain.normalization.mean_std, None);
    }

    #[test]
    fn unusable_values_are_named() {
        let cases = [
            (r#"{"resample": 2}"#, "`resample` is 2, but it must be 3 (bicubic)"),
            (r#"{"resample": "lanczos"}"#, "`resample` is \"lanczos\""),
            (r#"{"patch_size": 0}"#, "`patch_size` is 0"),
            (r#"{"merge_size": 5000}"#, "`merge_size` is 5000"),
            (r#"{"image_mean": [1, 2]}"#, "`image_mean` is [1,2]"),
            (r#"{"image_std": [1, 0, 1]}"#, "`image_std` is [1.0, 0.0, 1.0]"),
            (r#"{"rescale_factor": 0}"#, "`rescale_factor` is 0"),
            (r#"{"min_pixels": 10, "max_pixels": 9}"#, "(min_pixels, 10)"),
            (r#"{"min_pixels": 0}"#, "(min_pixels, 0)"),
            (r#"{"patch_size": "x"}"#, "preprocessor_config.json cannot be read"),
            ("{", "preprocessor_config.json cannot be read"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn pixel_bounds_of_the_command_line() {
        let config = ImageProcessorConfig::qwen3_vl();
        let bounded = config.clone().with_pixel_bounds(None, Some(70_000)).unwrap();
        assert_eq!((bounded.min_pixels, bounded.max_pixels), (65_536, 70_000));
        assert!(config.clone().with_pixel_bounds(Some(2), Some(1)).is_err());
        assert!(config.clone().with_pixel_bounds(None, Some(1000)).is_err());
        assert!(config.with_pixel_bounds(Some(0), None).is_err());
    }
}
