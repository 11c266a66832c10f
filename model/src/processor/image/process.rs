//! The image processor: one picture in, patches out.

use super::{
    Grid, ImageError, ImagePatches, ImageProcessorConfig, RgbImage, patchify, resize_bicubic,
    smart_resize,
};
use std::borrow::Cow;

/// Turns pictures into what the vision tower takes (transformers `Qwen2VLImageProcessor` with Qwen3-VL's values).
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// How pictures are resized, cut and normalised.
    pub config: ImageProcessorConfig,
}

/// What becomes of a picture, known from its size alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedImage {
    /// Width in pixels after resizing.
    pub resized_width: usize,
    /// Height in pixels after resizing.
    pub resized_height: usize,
    /// Patches before merging.
    pub grid: Grid,
    /// Tokens in the prompt.
    pub tokens: usize,
}

impl ImageProcessor {
    /// A processor with these settings.
    #[must_use]
    pub fn new(config: ImageProcessorConfig) -> Self {
        Self { config }
    }

    /// The sizes of a picture of `width` x `height` pixels, without any pixels.
    ///
    /// # Errors
    /// [`ImageError::AspectRatio`] where one side is more than 200 times the other, [`ImageError::NotDivisible`] where
    /// resizing is off and the picture does not divide into tokens.
    pub fn plan(&self, width: usize, height: usize) -> Result<PlannedImage, ImageError> {
        let layout = &self.config.layout;
        let (resized_height, resized_width) = self.target_size(height, width)?;
        let grid = layout.grid(1, resized_height, resized_width);
        Ok(PlannedImage { resized_width, resized_height, grid, tokens: grid.tokens(layout.merge) })
    }

    /// Resizes, normalises and packs a picture; `grid.t` is 1.
    ///
    /// # Errors
    /// As [`ImageProcessor::plan`]; [`ImageError::ZeroSize`] and [`ImageError::DataLength`] for malformed pictures.
    pub fn process(&self, image: &RgbImage) -> Result<ImagePatches, ImageError> {
        let resized = self.resize(image)?;
        let table = self.config.normalization.table();
        patchify(std::slice::from_ref(&*resized), &self.config.layout, &table)
    }

    /// The picture at its planned size, borrowed where it has that size already.
    ///
    /// # Errors
    /// As [`ImageProcessor::process`].
    pub fn resize<'a>(&self, image: &'a RgbImage) -> Result<Cow<'a, RgbImage>, ImageError> {
        image.check()?;
        let size = (image.height as usize, image.width as usize);
        let target = self.target_size(size.0, size.1)?;
        Ok(match target == size {
            true => Cow::Borrowed(image),
            false => Cow::Owned(resize_bicubic(image, target.0, target.1)),
        })
    }

    fn target_size(&self, height: usize, width: usize) -> Result<(usize, usize), ImageError> {
        let ImageProcessorConfig { min_pixels, max_pixels, .. } = self.config;
        let factor = self.config.layout.factor();
        if self.config.do_resize {
            return smart_resize(height, width, factor, min_pixels, max_pixels);
        }
        let divides = |side: usize| side > 0 && side.is_multiple_of(factor);
        match divides(height) && divides(width) {
            true => Ok((height, width)),
            false => Err(ImageError::NotDivisible { width, height, factor }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(text: &str) -> ImageProcessor {
        ImageProcessor::new(ImageProcessorConfig::from_json(text).unwrap())
    }

    #[test]
    fn plans_what_it_does() {
        let processor = processor("{}");
        let image = RgbImage::new(1, 1, vec![255, 0, 51]).unwrap();
        let planned = processor.plan(1, 1).unwrap();
        let patches = processor.process(&image).unwrap();
        assert_eq!((planned.resized_width, planned.resized_height), (256, 256));
        assert_eq!((planned.grid, planned.tokens), (patches.grid, 64));
        assert_eq!(patches.pixel_values.len(), 256 * 1536);
        assert_eq!(patches.pixel_values[..512], [1.0; 512]);
        assert_eq!(patches.pixel_values[512..1024], [-1.0; 512]);
        assert_eq!(patches.pixel_values[1024], (51.0 - 127.5) / 127.5);
    }

    #[test]
    fn a_narrow_strip_is_refused() {
        let strip = RgbImage::new(1, 500, vec![0; 1500]).unwrap();
        let error = processor("{}").process(&strip).unwrap_err();
        assert!(matches!(error, ImageError::AspectRatio { width: 1, height: 500 }));
    }

    #[test]
    fn without_resizing_the_sides_must_divide() {
        let processor = processor(r#"{"do_resize": false}"#);
        assert_eq!(processor.plan(64, 96).unwrap().tokens, 6);
        assert!(matches!(processor.plan(64, 90), Err(ImageError::NotDivisible { factor: 32, .. })));
        let fitting = RgbImage::new(32, 32, vec![7; 32 * 32 * 3]).unwrap();
        assert!(matches!(processor.resize(&fitting).unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn malformed_pictures_are_refused() {
        let image = RgbImage { width: 64, height: 64, data: vec![0; 5] };
        assert!(matches!(
            processor("{}").process(&image),
            Err(ImageError::DataLength { actual: 5, .. })
        ));
    }
}
