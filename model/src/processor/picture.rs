//! One image part of a message: its own bounds and sizes, on top of the checkpoint's.

use std::borrow::Cow;

use super::image::{
    ImageError, ImageProcessor, PackedFrames, PlannedImage, RgbImage, resize_bicubic, smart_resize,
};
use super::message::{Detail, ImageRef};

/// Largest area of an image whose part says `"detail": "low"`.
const LOW_DETAIL_PIXELS: usize = 512 * 512;

/// What becomes of an image of `size` (width, height).
pub(super) fn plan(
    images: &ImageProcessor,
    item: &ImageRef,
    size: (u32, u32),
) -> Result<PlannedImage, ImageError> {
    let processor = for_item(images, item)?;
    let (width, height) = requested_size(&processor, item, size)?;
    processor.plan(width as usize, height as usize)
}

/// The resized bytes of an image.
pub(super) fn cut(
    images: &ImageProcessor,
    item: &ImageRef,
    picture: &RgbImage,
) -> Result<PackedFrames, ImageError> {
    let processor = for_item(images, item)?;
    let size = (picture.width, picture.height);
    let (width, height) = requested_size(&processor, item, size)?;
    let requested = match (width, height) == size {
        true => Cow::Borrowed(picture),
        false => Cow::Owned(resize_bicubic(picture, height as usize, width as usize)),
    };
    let resized = processor.resize(&requested)?.into_owned();
    let config = &processor.config;
    PackedFrames::new(vec![resized], config.layout, &config.normalization)
}

/// The processor with the bounds of this image part.
fn for_item(images: &ImageProcessor, item: &ImageRef) -> Result<ImageProcessor, ImageError> {
    let bound = |value: Option<u64>| value.map(|v| usize::try_from(v).unwrap_or(usize::MAX));
    let (min, mut max) = (bound(item.min_pixels), bound(item.max_pixels));
    if item.detail == Some(Detail::Low) && max.is_none() {
        max = Some(LOW_DETAIL_PIXELS.max(min.unwrap_or(images.config.min_pixels)));
    }
    Ok(ImageProcessor::new(images.config.clone().with_pixel_bounds(min, max)?))
}

/// Width and height before the usual resizing: the picture's own, or what `resized_height` and `resized_width` give.
fn requested_size(
    processor: &ImageProcessor,
    item: &ImageRef,
    size: (u32, u32),
) -> Result<(u32, u32), ImageError> {
    let Some((height, width)) = item.resized else { return Ok(size) };
    let config = &processor.config;
    let side = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let (height, width) = smart_resize(
        side(height),
        side(width),
        config.layout.factor(),
        config.min_pixels,
        config.max_pixels,
    )?;
    Ok((width as u32, height as u32))
}
