//! GEMM over panels of weight rows, each widened to f32 once.

use rayon::prelude::*;

use super::Widen;
use super::matmul::{Into, Matrix, multiply_parallel, product};

/// Values of one widened panel: large enough for GEMM's own blocking, small beside any model.
const PANEL: usize = 4 << 20;

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`.
pub fn gemm<W: Widen>(x: &[f32], w: &[W], m: usize, n: usize, k: usize) -> Vec<f32> {
    let x = Matrix::rows(x, k);
    if let Some(w) = W::as_f32(w) {
        return product(x, Matrix::rows(w, k).transposed());
    }
    let mut out = vec![0.0; m * n];
    let rows = (PANEL / k.max(1)).max(64).min(n);
    let mut panel = vec![0.0f32; rows * k];
    for (index, part) in w.chunks(rows * k).enumerate() {
        let weights = &mut panel[..part.len()];
        widen(part, weights);
        let weights = Matrix::rows(weights, k).transposed();
        multiply_parallel(&mut out[index * rows..], n, (x, weights), Into::Replace);
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
