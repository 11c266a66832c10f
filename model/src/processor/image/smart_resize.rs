//! The size that a picture is resized to.

use super::ImageError;

/// The longest side over the shortest may be this, not more.
const MAX_ASPECT_RATIO: f64 = 200.0;

/// Multiples of `factor` near `(height, width)` whose product lies between `min_pixels` and `max_pixels`, with about the same
/// aspect ratio (transformers `smart_resize`). Sides are rounded half to even: 80 / 32 = 2.5 gives 64.
///
/// Sides never fall below `factor`, so a very narrow picture may still exceed `max_pixels`, as in the reference.
///
/// # Errors
/// [`ImageError::AspectRatio`] where one side is more than 200 times the other (or zero).
pub fn smart_resize(
    height: usize,
    width: usize,
    factor: usize,
    min_pixels: usize,
    max_pixels: usize,
) -> Result<(usize, usize), ImageError> {
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    if height == 0 || width == 0 || h.max(w) / h.min(w) > MAX_ASPECT_RATIO {
        return Err(ImageError::AspectRatio { width, height });
    }
    let sides = [h, w].map(|side| (side / f).round_ties_even() * f);
    let area = sides[0] * sides[1];
    let sides = if area > max_pixels as f64 {
        let beta = (h * w / max_pixels as f64).sqrt();
        [h, w].map(|side| ((side / beta / f).floor() * f).max(f))
    } else if area < min_pixels as f64 {
        let beta = (min_pixels as f64 / (h * w)).sqrt();
        [h, w].map(|side| (side * beta / f).ceil() * f)
    } else {
        sides
    };
    Ok((sides[0] as usize, sides[1] as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(height: usize, width: usize) -> (usize, usize) {
        smart_resize(height, width, 32, 65_536, 16_777_216).unwrap()
    }

    #[test]
    fn examples_of_the_reference() {
        assert_eq!(published(720, 1280), (704, 1280));
        assert_eq!(published(1080, 1920), (1088, 1920));
        assert_eq!(published(4000, 6000), (3328, 4992));
        assert_eq!(published(8000, 8000), (4096, 4096));
        assert_eq!(published(31, 33), (256, 288));
        assert_eq!(published(1, 1), (256, 256));
    }

    #[test]
    fn halves_round_to_even() {
        assert_eq!(smart_resize(80, 112, 32, 1, 1 << 24).unwrap(), (64, 128));
    }

    #[test]
    fn aspect_ratio_of_exactly_200_is_allowed() {
        assert_eq!(published(10, 2000), (32, 3648));
        let error = smart_resize(1, 500, 32, 65_536, 16_777_216).unwrap_err();
        assert!(error.to_string().contains("500x1 pixels is too narrow"), "{error}");
        assert!(smart_resize(10, 2001, 32, 65_536, 16_777_216).is_err());
        assert!(smart_resize(0, 10, 32, 65_536, 16_777_216).is_err());
    }
}
