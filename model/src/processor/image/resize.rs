//! Bicubic resize of 8-bit RGB, bit for bit what torchvision computes on a uint8 CPU tensor with `antialias=True`:
//! a horizontal pass to 8 bits, then a vertical one, weights in 16-bit fixed point, sums in 32 bits.
//!
//! Both passes are the same loop, a weighted sum of equally distant runs of bytes ([`weighted`]): in the vertical pass a run is a
//! piece of a row; for the horizontal pass a band of rows is turned so that a run is a column.

use super::RgbImage;
use super::filter::AxisFilter;
use qwen3_vl_backends::pixels::{TOGETHER, weighted};
use rayon::prelude::*;

/// Rows that the horizontal pass handles together.
const BAND: usize = 16;
/// Bytes of one column of a band.
const COLUMN: usize = BAND * 3;

/// Resizes to `height` x `width`. An axis whose size does not change is left alone.
///
/// # Panics
/// Where the target or the source has no pixels.
#[must_use]
pub fn resize_bicubic(image: &RgbImage, height: usize, width: usize) -> RgbImage {
    assert!(height > 0 && width > 0, "cannot resize to {width}x{height} pixels");
    let mut resized = horizontal(image, width);
    if height != image.height as usize {
        let source = resized.as_deref().unwrap_or(&image.data);
        resized = Some(vertical(source, image.height as usize, height, width * 3));
    }
    RgbImage {
        width: width as u32,
        height: height as u32,
        data: resized.unwrap_or_else(|| image.data.clone()),
    }
}

/// Every row at the new width, or `None` where the width stays.
fn horizontal(image: &RgbImage, width: usize) -> Option<Vec<u8>> {
    if width == image.width as usize {
        return None;
    }
    let filter = AxisFilter::bicubic(image.width as usize, width);
    let mut out = vec![0; image.height as usize * width * 3];
    let bands = image.data.par_chunks(BAND * image.row_len());
    out.par_chunks_mut(BAND * width * 3).zip(bands).for_each_init(
        Vec::new,
        |columns, (out, band)| {
            turn(band, image.row_len(), columns);
            resize_band(columns, &filter, out);
        },
    );
    Some(out)
}

/// Rows -> columns: `[rows, width, 3]` to `[width, BAND, 3]`; missing rows of the last band keep whatever was there.
fn turn(band: &[u8], row_len: usize, columns: &mut Vec<[u8; COLUMN]>) {
    columns.resize(row_len / 3, [0; COLUMN]);
    for (r, row) in band.chunks_exact(row_len).enumerate() {
        for (column, pixel) in columns.iter_mut().zip(row.as_chunks::<3>().0) {
            column[3 * r..3 * r + 3].copy_from_slice(pixel);
        }
    }
}

fn resize_band(columns: &[[u8; COLUMN]], filter: &AxisFilter, out: &mut [u8]) {
    let width = filter.len();
    for x in 0..width {
        let (start, weights) = filter.window(x);
        let runs = columns[start..start + weights.len()].as_flattened();
        let mut column = [0; COLUMN];
        weighted(&mut column, runs, COLUMN, weights, filter.precision);
        for (row, pixel) in out.chunks_exact_mut(width * 3).zip(column.as_chunks::<3>().0) {
            row[3 * x..3 * x + 3].copy_from_slice(pixel);
        }
    }
}

/// Every column at the new height.
fn vertical(source: &[u8], from: usize, to: usize, row_len: usize) -> Vec<u8> {
    let filter = AxisFilter::bicubic(from, to);
    let mut out = vec![0; to * row_len];
    out.par_chunks_mut(row_len).enumerate().for_each(|(y, out)| {
        let (start, weights) = filter.window(y);
        let rows = &source[start * row_len..(start + weights.len()) * row_len];
        for (i, run) in out.chunks_mut(TOGETHER).enumerate() {
            weighted(run, &rows[i * TOGETHER..], row_len, weights, filter.precision);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: u32, height: u32) -> RgbImage {
        let len = width as usize * height as usize * 3;
        let data = (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        RgbImage::new(width, height, data).unwrap()
    }

    #[test]
    fn same_size_is_the_same_picture() {
        let image = noise(19, 23);
        assert_eq!(resize_bicubic(&image, 23, 19), image);
    }

    #[test]
    fn flat_pictures_stay_flat() {
        for value in [0, 1, 127, 255] {
            let image = RgbImage::new(37, 41, vec![value; 37 * 41 * 3]).unwrap();
            for (h, w) in [(32, 64), (96, 32), (41, 5), (7, 37)] {
                let out = resize_bicubic(&image, h, w);
                assert_eq!((out.height as usize, out.width as usize), (h, w));
                assert!(out.data.iter().all(|&v| v == value), "{value} at {h}x{w}");
            }
        }
    }

    /// Transposing before and after swaps the passes of a one-axis resize: both passes must agree.
    #[test]
    fn both_passes_compute_the_same() {
        let image = noise(50, 33);
        let turned = upright_transpose(&image);
        let wide = resize_bicubic(&image, 33, 71);
        let tall = resize_bicubic(&turned, 71, 33);
        assert_eq!(upright_transpose(&tall), wide);
    }

    fn upright_transpose(image: &RgbImage) -> RgbImage {
        super::super::orientation::upright(
            image.clone(),
            image::metadata::Orientation::Rotate90FlipH,
        )
    }
}
