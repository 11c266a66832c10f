//! Products of many rows with weights that are not f32: in tiles, or by GEMM over panels that are expanded to f32 once.

use rayon::prelude::*;

use super::elementwise::add_row;
use super::matmul::{Into, Matrix, multiply_parallel, product};
#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::widen::{Widen, widen_all};
use crate::cpu::Tiles;
use crate::ops::{Products, products};

/// Values of one widened panel: large enough for GEMM's own blocking, small beside any model.
const PANEL: usize = 4 << 20;

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`, plus `bias [n]` on every row if there is one.
pub fn gemm<W: Widen>(x: &[f32], w: &[W], bias: Option<&[f32]>, [n, k]: [usize; 2]) -> Vec<f32> {
    let mut out = match (W::as_f32(w), tiles()) {
        (Some(w), _) => product(Matrix::rows(x, k), Matrix::rows(w, k).transposed()),
        #[cfg(target_arch = "x86_64")]
        (None, Some(tiling)) => return in_tiles(x, w, [n, k], bias, tiling),
        _ => by_panels(x, [x.len() / k, n, k], |first, panel| widen(&w[first * k..], panel)),
    };
    add(&mut out, bias);
    out
}

/// Adds `bias`, if there is one, to every row.
pub fn add(out: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        add_row(out, bias);
    }
}

/// How tiles are to be used.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "nothing multiplies tiles on other processors")
)]
pub struct Tiling {
    pub with: Tiles,
    /// Of how many numbers of bf16 an activation is the sum.
    pub terms: usize,
}

/// Whether and how tiles are to be used: see [`Products`].
pub fn tiles() -> Option<Tiling> {
    let with = Tiles::chosen()?;
    match products() {
        Products::Exact => None,
        Products::Split => Some(Tiling { with, terms: 2 }),
        Products::Rounded => Some(Tiling { with, terms: 1 }),
    }
}

#[cfg(target_arch = "x86_64")]
fn in_tiles<W: Widen>(
    x: &[f32],
    w: &[W],
    [n, k]: [usize; 2],
    bias: Option<&[f32]>,
    tiling: Tiling,
) -> Vec<f32> {
    match W::as_bf16(w) {
        Some(values) => {
            let weights = tiles::HalfRows { values, columns: k };
            by_tiles(x, &weights, bias, k, (1, tiling))
        }
        None => {
            let fill = |row: usize, from: usize, out: &mut [f32]| {
                out.iter_mut().zip(&w[row * k + from..]).for_each(|(to, from)| *to = from.widen());
            };
            let weights = tiles::Expanded { lines: n, depth: k, fill };
            by_tiles(x, &weights, bias, k, (tiling.terms, tiling))
        }
    }
}

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`, a value of `w` as the sum of so many terms, plus a bias on every row.
#[cfg(target_arch = "x86_64")]
pub fn by_tiles<S: tiles::Source>(
    x: &[f32],
    weights: &S,
    bias: Option<&[f32]>,
    k: usize,
    (left, Tiling { with, terms }): (usize, Tiling),
) -> Vec<f32> {
    let (right, into) = (&Matrix::rows(x, k), Into::Replace);
    let terms = tiles::Terms { left, right: terms };
    let (turned, scale, parallel) = (true, 1.0, true);
    tiles::Product { left: weights, right, with, terms, turned, scale, into, bias, parallel }
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
    let chunks = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
    chunks.for_each(|(to, from)| widen_all(from, to));
}
