//! Rotation of halves by angles that belong to the row.

use rayon::prelude::*;

use super::filled::filled;
use super::norms::rms_chunk;
use crate::simd::vectorised;

/// Rows per task.
pub const ROWS: usize = 64;

/// Cosines and sines, `half` of each per row.
#[derive(Clone, Copy)]
pub struct Angles<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub half: usize,
}

/// Rotates the heads in the first `columns` values of every row of `width` in place; `back` turns the other way.
pub fn rotate(x: &mut [f32], width: usize, columns: usize, angles: Angles<'_>, back: bool) {
    let half = angles.half;
    let tables = angles.cos.par_chunks(ROWS * half).zip(angles.sin.par_chunks(ROWS * half));
    x.par_chunks_mut(ROWS * width).zip(tables).for_each(|(x, (cos, sin))| {
        let tables = cos.chunks(half).zip(sin.chunks(half));
        for (x, (cos, sin)) in x.chunks_mut(width).zip(tables) {
            rotate_row(&mut x[..columns], cos, sin, if back { -1.0 } else { 1.0 });
        }
    });
}

/// The norm of each head of rows of `width` by a weight and an epsilon (see [`rms`](super::norms::rms)), rotated.
pub fn normed(
    x: &[f32],
    width: usize,
    (weight, epsilon): (&[f32], f32),
    angles: Angles<'_>,
) -> Vec<f32> {
    let (half, rows) = (angles.half, x.len() / width.max(1));
    let rows = ROWS.min(rows.div_ceil(rayon::current_num_threads())).max(1);
    filled(x.len(), rows * width, |first, out| {
        let row = first / width;
        let (x, tables) = (&x[first..], [angles.cos, angles.sin].map(|all| &all[row * half..]));
        let tables = tables[0].chunks(half).zip(tables[1].chunks(half));
        for ((out, x), (cos, sin)) in out.chunks_mut(width).zip(x.chunks(width)).zip(tables) {
            rms_chunk(out, x, weight, epsilon);
            rotate_row(out, cos, sin, 1.0);
        }
    })
}

vectorised! { fn rotate_row(x: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) = rotate_row_with }

#[inline(always)]
fn rotate_row_with(
    x: &mut [f32],
    cos: &[f32],
    sin: &[f32],
    sign: f32,
    _madd: impl Fn(f32, f32, f32) -> f32,
) {
    for head in x.chunks_mut(2 * cos.len()) {
        let (first, second) = head.split_at_mut(cos.len());
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
            let (x, y, sin) = (*a, *b, sign * sin);
            *a = x * cos - y * sin;
            *b = y * cos + x * sin;
        }
    }
}
