//! Any decoded sample layout -> 8-bit RGB.
//!
//! - Grey is replicated.
//! - 16-bit samples keep their high byte (`v >> 8`), as PIL does for 16-bit RGB, RGBA and LA. For 16-bit grey PIL's
//!   `convert("RGB")` clips at 255 instead, which turns nearly every such picture white; here the picture is kept.
//! - CMYK from JPEG files, where it is stored inverted, is reduced as PIL does.
//! - Transparency is composited on white with the rounding of PIL's `Image.alpha_composite`, which transformers'
//!   `convert_to_rgb` calls.

use super::RgbImage;
use image::DynamicImage;

/// The picture as packed RGB rows, or `None` for samples that are neither 8 nor 16 bits wide.
pub(super) fn to_rgb(image: DynamicImage) -> Option<RgbImage> {
    let (width, height) = (image.width(), image.height());
    let data = match image {
        DynamicImage::ImageRgb8(b) => b.into_raw(),
        DynamicImage::ImageLuma8(b) => grey_to_rgb(b.as_raw()),
        DynamicImage::ImageLumaA8(b) => {
            convert(b.as_raw(), |&[v, a]: &[u8; 2]| [over_white(v, a); 3])
        }
        DynamicImage::ImageRgba8(b) => {
            convert(b.as_raw(), |&[r, g, b, a]: &[u8; 4]| rgb_over_white([r, g, b], a))
        }
        DynamicImage::ImageLuma16(b) => convert(b.as_raw(), |&[v]: &[u16; 1]| [high(v); 3]),
        DynamicImage::ImageLumaA16(b) => {
            convert(b.as_raw(), |&[v, a]: &[u16; 2]| [over_white(high(v), high(a)); 3])
        }
        DynamicImage::ImageRgb16(b) => convert(b.as_raw(), |rgb: &[u16; 3]| rgb.map(high)),
        DynamicImage::ImageRgba16(b) => convert(b.as_raw(), |&[r, g, b, a]: &[u16; 4]| {
            rgb_over_white([r, g, b].map(high), high(a))
        }),
        _ => return None,
    };
    Some(RgbImage { width, height, data })
}

/// Every sample three times.
pub(super) fn grey_to_rgb(samples: &[u8]) -> Vec<u8> {
    convert(samples, |&[v]: &[u8; 1]| [v; 3])
}

/// Inverted CMYK, as Adobe's programs store it in JPEG files (255 is no ink), to RGB. PIL takes every CMYK JPEG to be so and
/// subtracts the inks rounded: `K' - C * K' / 255`, with `C` the ink and `K'` the inverted black.
pub(super) fn inverted_cmyk_to_rgb(samples: &[u8]) -> Vec<u8> {
    convert(samples, |&[c, m, y, k]: &[u8; 4]| {
        [c, m, y].map(|light| k - divided_by_255((255 - u32::from(light)) * u32::from(k)))
    })
}

/// `product / 255`, rounded, for a product of two bytes.
fn divided_by_255(product: u32) -> u8 {
    let t = product + 128;
    (((t >> 8) + t) >> 8) as u8
}

fn convert<T, const N: usize>(samples: &[T], pixel: impl Fn(&[T; N]) -> [u8; 3]) -> Vec<u8> {
    let pixels = samples.as_chunks::<N>().0;
    let mut data = vec![0; pixels.len() * 3];
    for (rgb, source) in data.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
        *rgb = pixel(source);
    }
    data
}

fn high(sample: u16) -> u8 {
    (sample >> 8) as u8
}

fn rgb_over_white(rgb: [u8; 3], alpha: u8) -> [u8; 3] {
    rgb.map(|v| over_white(v, alpha))
}

/// `(v * a + 255 * (255 - a)) / 255` in PIL's fixed point: seven fractional bits, division by 255 as `((t >> 8) + t) >> 8`,
/// half added first. With an opaque backdrop PIL's general formula reduces to this, bit for bit.
fn over_white(value: u8, alpha: u8) -> u8 {
    let (v, a) = (u32::from(value), u32::from(alpha));
    let t = (v * a + 255 * (255 - a) + 0x80) << 7;
    ((((t >> 8) + t) >> 8) >> 7) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayAlphaImage, Rgb32FImage};

    #[test]
    fn opaque_keeps_and_transparent_is_white() {
        for v in 0..=255 {
            assert_eq!(over_white(v, 255), v);
            assert_eq!(over_white(v, 0), 255);
        }
        assert_eq!(over_white(0, 128), 127);
    }

    #[test]
    fn inks_cover_and_black_darkens() {
        let pixels = [255, 255, 255, 255, 0, 255, 255, 255, 255, 255, 255, 7, 128, 0, 100, 200];
        let rgb = inverted_cmyk_to_rgb(&pixels);
        assert_eq!(rgb, [255, 255, 255, 0, 255, 255, 7, 7, 7, 100, 0, 78]);
    }

    #[test]
    fn grey_with_alpha() {
        let image = GrayAlphaImage::from_raw(2, 1, vec![10, 255, 10, 0]).unwrap();
        assert_eq!(to_rgb(image.into()).unwrap().data, [10, 10, 10, 255, 255, 255]);
    }

    #[test]
    fn float_samples_are_refused() {
        assert!(to_rgb(Rgb32FImage::new(1, 1).into()).is_none());
    }
}
