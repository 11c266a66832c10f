//! Softmax attention in blocks of query rows, one task per head and block.

use rayon::prelude::*;

use super::matmul::{Matrix, multiply};
use super::softmax::exponentials;

/// Query rows per task: their scores against a long context stay in the cache of one core.
const BLOCK: usize = 64;

/// Keys or values of all heads, each head a run of `t` rows of `d` values.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    pub values: &'a [f32],
    /// From one batch entry, and from one head, to the next.
    pub strides: [usize; 2],
}

/// Sizes of an attention.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub heads: usize,
    /// Key/value heads; they divide `heads`.
    pub groups: usize,
    /// Query rows, the last of the `t` positions.
    pub s: usize,
    pub t: usize,
    pub d: usize,
    pub causal: bool,
}

impl Heads<'_> {
    /// The matrix `[rows, d]` of one head.
    fn head(&self, batch: usize, head: usize, rows: usize, d: usize) -> Matrix<'_> {
        let start = batch * self.strides[0] + head * self.strides[1];
        Matrix::rows(&self.values[start..start + rows * d], d)
    }
}

/// `softmax(q·kᵀ / sqrt(d)) · v`, `[batch, heads, s, d]`; `q` is contiguous.
pub fn attention(q: &[f32], k: Heads<'_>, v: Heads<'_>, sizes: Sizes) -> Vec<f32> {
    let Sizes { heads, groups, s, d, .. } = sizes;
    let mut out = vec![0.0; q.len()];
    let per_head = out.par_chunks_mut(s * d).zip(q.par_chunks(s * d)).enumerate();
    per_head.for_each(|(index, (out, q))| {
        let (batch, group) = (index / heads, index % heads / (heads / groups));
        let blocks = out.par_chunks_mut(BLOCK * d).zip(q.par_chunks(BLOCK * d)).enumerate();
        blocks.for_each(|(block, (out, q))| {
            let rows = q.len() / d;
            let past = sizes.causal.then(|| sizes.t - s + block * BLOCK);
            let seen = past.map_or(sizes.t, |past| past + rows);
            let (k, v) = (k.head(batch, group, seen, d), v.head(batch, group, seen, d));
            let scores = scores(Matrix::rows(q, d), k, past);
            multiply(out, d, 1.0, (Matrix::rows(&scores, seen), v), false);
        });
    });
    out
}

/// Softmax over the keys of every query row; with `past`, row `i` sees the first `past + i + 1` of them.
fn scores(q: Matrix<'_>, k: Matrix<'_>, past: Option<usize>) -> Vec<f32> {
    let seen = k.rows;
    let mut scores = vec![0.0; q.rows * seen];
    let scale = (q.columns as f64).powf(-0.5) as f32;
    multiply(&mut scores, seen, scale, (q, k.transposed()), false);
    for (i, row) in scores.chunks_mut(seen).enumerate() {
        let (row, future) = row.split_at_mut(past.map_or(seen, |past| past + i + 1));
        let inverse = 1.0 / exponentials(row);
        row.iter_mut().for_each(|weight| *weight *= inverse);
        future.fill(0.0);
    }
    scores
}
