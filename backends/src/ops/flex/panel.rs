//! Products of many rows with weights that are not f32: in tiles, or by GEMM over panels that are expanded to f32 once.

use rayon::prelude::*;

use super::Widen;
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::matmul::{Into, Matrix, multiply_parallel, product};
use crate::cpu::Level;
use crate::ops::{Products, products};

/// Values of one widened panel: large enough for GEMM's own blocking, small beside any model.
const PANEL: usize = 4 << 20;

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`.
pub fn gemm<W: Widen>(x: &[f32], w: &[W], m: usize, n: usize, k: usize) -> Vec<f32> {
    match (W::as_f32(w), tiles()) {
        (Some(w), _) => product(Matrix::rows(x, k), Matrix::rows(w, k).transposed()),
        #[cfg(target_arch = "x86_64")]
        (None, Some(terms)) => in_tiles(x, w, [n, k], terms),
        _ => by_panels(x, [m, n, k], |first, panel| widen(&w[first * k..], panel)),
    }
}

/// The terms of activations where tiles are to be used: see [`Products`].
pub fn tiles() -> Option<usize> {
    match (Level::chosen(), products()) {
        (Level::Amx, Products::Split) => Some(2),
        (Level::Amx, Products::Rounded) => Some(1),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
fn in_tiles<W: Widen>(x: &[f32], w: &[W], [n, k]: [usize; 2], terms: usize) -> Vec<f32> {
    match W::as_bf16(w) {
        Some(values) => {
            let weights = amx::HalfRows { values, columns: k };
            by_tiles(x, &weights, k, amx::Terms { left: 1, right: terms })
        }
        None => {
            let fill = |row: usize, out: &mut [f32]| {
                out.iter_mut().zip(&w[row * k..]).for_each(|(to, from)| *to = from.widen());
            };
            let weights = amx::Expanded { lines: n, depth: k, fill };
            by_tiles(x, &weights, k, amx::Terms { left: terms, right: terms })
        }
    }
}

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`, a value of `w` and of `x` as the sum of so many terms.
#[cfg(target_arch = "x86_64")]
pub fn by_tiles<S: amx::Source>(x: &[f32], weights: &S, k: usize, terms: amx::Terms) -> Vec<f32> {
    let (right, into) = (&Matrix::rows(x, k), Into::Replace);
    amx::Product { left: weights, right, terms, turned: true, scale: 1.0, into, parallel: true }
        .values()
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
