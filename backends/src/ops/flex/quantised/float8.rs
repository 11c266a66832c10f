//! Weights that are numbers of eight bits with a point: a few rows at a time are expanded, so that they stay in the cache,
//! and multiplied with the activations as they are.

use super::super::dot;
use super::Weights;
use crate::quant::float8;
use crate::simd::vectorised;

/// Weight rows that are expanded together.
const ROWS: usize = 4;

/// As many weight rows from `first` on as `out` has room for, each by all activation rows.
pub fn task_rows(out: &mut [f32], x: &[f32], weights: Weights<'_>, first: usize) {
    let (k, mut scales) = (weights.k, weights.scratch());
    let m = x.len() / k;
    let mut wide = vec![0.0; ROWS * k];
    for (part, out) in out.chunks_mut(ROWS * m).enumerate() {
        let wide = &mut wide[..out.len() / m * k];
        for (row, wide) in wide.chunks_mut(k).enumerate() {
            weights.expand_row(first + part * ROWS + row, &mut scales, wide);
        }
        dot::products(out, wide, x, k);
    }
}

/// The weights of a row.
pub fn expand(codes: &[u8], scales: &[f32], group: usize, out: &mut [f32]) {
    for ((out, codes), scale) in out.chunks_mut(group).zip(codes.chunks(group)).zip(scales) {
        expand_group(codes, *scale, out);
    }
}

vectorised! {
    fn expand_group(codes: &[u8], scale: f32, out: &mut [f32]) = expand_group_with
}

#[inline(always)]
fn expand_group_with(
    codes: &[u8],
    scale: f32,
    out: &mut [f32],
    _madd: impl Fn(f32, f32, f32) -> f32,
) {
    out.iter_mut().zip(codes).for_each(|(to, code)| *to = scale * float8(*code));
}
