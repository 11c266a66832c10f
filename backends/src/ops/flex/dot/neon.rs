//! The same sums with NEON: eight elements at a time, with two registers of partial sums each.

use std::arch::aarch64::*;

use super::{TILE, Widen};

/// Values that are widened together, into two registers of sums.
const WIDE: usize = 8;

/// `weights [n, k] · x [m, k]ᵀ -> out [n, m]`.
#[target_feature(enable = "neon")]
pub fn block<W: Widen>(out: &mut [f32], weights: &[W], x: &[f32], k: usize) {
    let m = x.len() / k;
    for (tile, x) in x.chunks(TILE * k).enumerate() {
        let place = (m, tile * TILE);
        match x.len() / k {
            4 => rows::<W, 4, 2>(out, place, weights, x, k),
            3 => rows::<W, 3, 2>(out, place, weights, x, k),
            2 => rows::<W, 2, 4>(out, place, weights, x, k),
            _ => rows::<W, 1, 4>(out, place, weights, x, k),
        }
    }
}

/// All weight rows by `M` activation rows: `N` at a time, and what is left one by one.
#[target_feature(enable = "neon")]
fn rows<W: Widen, const M: usize, const N: usize>(
    out: &mut [f32],
    place: (usize, usize),
    weights: &[W],
    x: &[f32],
    k: usize,
) {
    for (out, weights) in out.chunks_mut(N * place.0).zip(weights.chunks(N * k)) {
        if weights.len() == N * k {
            tile::<W, M, N>(out, place, weights, x, k);
            continue;
        }
        for (out, weights) in out.chunks_mut(place.0).zip(weights.chunks(k)) {
            tile::<W, M, 1>(out, place, weights, x, k);
        }
    }
}

/// `N` weight rows by `M` activation rows; element `(j, i)` goes to `out[j · m + first + i]`.
#[inline]
#[target_feature(enable = "neon")]
fn tile<W: Widen, const M: usize, const N: usize>(
    out: &mut [f32],
    (m, first): (usize, usize),
    w: &[W],
    x: &[f32],
    k: usize,
) {
    let blocks = k / WIDE;
    let mut wide: [&[[W; WIDE]]; N] = [&[]; N];
    let mut inputs: [&[[f32; WIDE]]; M] = [&[]; M];
    for j in 0..N {
        wide[j] = &w[j * k..][..k].as_chunks::<WIDE>().0[..blocks];
    }
    for i in 0..M {
        inputs[i] = &x[i * k..][..k].as_chunks::<WIDE>().0[..blocks];
    }
    let mut sums = [[[vdupq_n_f32(0.0); 2]; M]; N];
    for at in 0..blocks {
        let mut weights = [[vdupq_n_f32(0.0); 2]; N];
        for j in 0..N {
            // SAFETY: this function has the features.
            weights[j] = unsafe { W::widen_neon(&wide[j][at]) };
        }
        for i in 0..M {
            // SAFETY: as above.
            let x = unsafe { f32::widen_neon(&inputs[i][at]) };
            for j in 0..N {
                for half in 0..2 {
                    sums[j][i][half] = vfmaq_f32(sums[j][i][half], weights[j][half], x[half]);
                }
            }
        }
    }
    for j in 0..N {
        for i in 0..M {
            let sum = vaddvq_f32(vaddq_f32(sums[j][i][0], sums[j][i][1]));
            out[j * m + first + i] = match blocks * WIDE < k {
                true => sum + rest(&w[j * k..][..k], &x[i * k..][..k], blocks * WIDE),
                false => sum,
            };
        }
    }
}

/// The sum of what lies behind whole blocks.
#[inline(never)]
fn rest<W: Widen>(w: &[W], x: &[f32], first: usize) -> f32 {
    w[first..].iter().zip(&x[first..]).map(|(w, x)| w.widen() * x).sum()
}
