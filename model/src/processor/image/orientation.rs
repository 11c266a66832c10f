//! Turns a picture upright by its EXIF orientation, as PIL's `ImageOps.exif_transpose` does.

use super::RgbImage;
use image::metadata::Orientation;
use rayon::prelude::*;

/// Whether width and height change places.
pub(super) fn swaps_sides(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    )
}

/// Where the source pixel of upright pixel `(x, y)` lies: at `origin + x * right + y * down`, in pixels.
struct Walk {
    origin: isize,
    right: isize,
    down: isize,
}

impl Walk {
    fn new(image: &RgbImage, orientation: Orientation) -> Self {
        let (width, height) = (image.width as isize, image.height as isize);
        let (left, bottom) = (width - 1, (height - 1) * width);
        let (origin, right, down) = match orientation {
            Orientation::NoTransforms => (0, 1, width),
            Orientation::FlipHorizontal => (left, -1, width),
            Orientation::Rotate180 => (bottom + left, -1, -width),
            Orientation::FlipVertical => (bottom, 1, -width),
            Orientation::Rotate90FlipH => (0, width, 1),
            Orientation::Rotate90 => (bottom, -width, 1),
            Orientation::Rotate270FlipH => (bottom + left, -width, -1),
            Orientation::Rotate270 => (left, width, -1),
        };
        Self { origin, right, down }
    }
}

/// The upright picture.
pub(super) fn upright(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let (width, height) = match swaps_sides(orientation) {
        true => (image.height, image.width),
        false => (image.width, image.height),
    };
    let walk = Walk::new(&image, orientation);
    let mut data = vec![0; image.data.len()];
    data.par_chunks_mut(width as usize * 3)
        .enumerate()
        .for_each(|(y, row)| copy_row(&image.data, &walk, y, row));
    RgbImage { width, height, data }
}

fn copy_row(source: &[u8], walk: &Walk, y: usize, row: &mut [u8]) {
    let mut at = (walk.origin + y as isize * walk.down) * 3;
    for pixel in row.chunks_exact_mut(3) {
        pixel.copy_from_slice(&source[at as usize..at as usize + 3]);
        at += walk.right * 3;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `letters` row by row, one byte value per pixel.
    fn picture(width: u32, letters: &str) -> RgbImage {
        let data: Vec<u8> = letters.bytes().flat_map(|b| [b, b + 1, b + 2]).collect();
        RgbImage::new(width, letters.len() as u32 / width, data).unwrap()
    }

    #[test]
    fn all_eight_orientations() {
        // ABC
        // DEF
        let expected = [
            (3, "ABCDEF"),
            (3, "CBAFED"),
            (3, "FEDCBA"),
            (3, "DEFABC"),
            (2, "ADBECF"),
            (2, "DAEBFC"),
            (2, "FCEBDA"),
            (2, "CFBEAD"),
        ];
        for (exif, (width, letters)) in (1..).zip(expected) {
            let orientation = Orientation::from_exif(exif).unwrap();
            let got = upright(picture(3, "ABCDEF"), orientation);
            assert_eq!(got.data, picture(width, letters).data, "orientation {exif}");
            assert_eq!(got.width, width, "orientation {exif}");
            assert_eq!(swaps_sides(orientation), width == 2, "orientation {exif}");
        }
    }
}
