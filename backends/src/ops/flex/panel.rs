//! GEMM over panels of weight rows, each expanded to f32 once.

use rayon::prelude::*;

use super::Widen;
use super::matmul::{Into, Matrix, multiply_parallel, product};

/// Values of one widened panel: large enough for GEMM's own blocking, small beside any model.
const PANEL: usize = 4 << 20;

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`.
pub fn gemm<W: Widen>(x: &[f32], w: &[W], m: usize, n: usize, k: usize) -> Vec<f32> {
    match W::as_f32(w) {
        Some(w) => product(Matrix::rows(x, k), Matrix::rows(w, k).transposed()),
        None => by_panels(x, [m, n, k], |first, panel| widen(&w[first * k..], panel)),
    }
}

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`, where `fill` writes the weight rows from its first argument on as f32.
pub fn by_panels(x: &[f32], [m, n, k]: [usize; 3], fill: impl Fn(usize, &mut [f32])) -> Vec<f32> {
    let x = Matrix::rows(x, k);
    let mut out = vec![0.0; m * n];
    let rows = (PANEL / k.max(1)).max(64).min(n);
    let mut panel = vec![0.0f32; rows * k];
    for first in (0..n).step_by(rows.max(1)) {
        let weights = &mut panel[..rows.min(n - first) * k];
        fill(first, weights);
        let weights = Matrix::rows(weights, k).transposed();
        multiply_parallel(&mut out[first..], n, (x, weights), Into::Replace);
    }
    out
}

fn widen<W: Widen>(from: &[W], to: &mut [f32]) {
    const CHUNK: usize = 1 << 14;
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.widen();
        }
    });
}
