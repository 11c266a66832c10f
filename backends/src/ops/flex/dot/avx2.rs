//! The same sums with AVX2, which has half the registers that tiles of 4 x 4 rows would need.

use std::arch::x86_64::*;

use super::{LANES, TILE, Widen};
use crate::cpu::prefetch_second;

/// `weights [n, k] · x [m, k]ᵀ -> out [n, m]`.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn block<W: Widen>(out: &mut [f32], weights: &[W], x: &[f32], k: usize) {
    let m = x.len() / k;
    for (tile, x) in x.chunks(TILE * k).enumerate() {
        let place = (m, tile * TILE);
        match x.len() / k {
            4 => rows::<W, 4, 1>(out, place, weights, x, k),
            3 => rows::<W, 3, 1>(out, place, weights, x, k),
            2 => rows::<W, 2, 2>(out, place, weights, x, k),
            _ => rows::<W, 1, 4>(out, place, weights, x, k),
        }
    }
}

/// All weight rows by `M` activation rows: `N` at a time, and what is left one by one.
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<W: Widen, const M: usize, const N: usize>(
    out: &mut [f32],
    (m, first): (usize, usize),
    weights: &[W],
    x: &[f32],
    k: usize,
) {
    let end = first + M;
    for (out, weights) in out.chunks_mut(N * m).zip(weights.chunks(N * k)) {
        if weights.len() == N * k {
            let sums = tile::<W, M, N>(weights, x, k);
            out.chunks_mut(m)
                .zip(&sums)
                .for_each(|(out, sums)| out[first..end].copy_from_slice(sums));
            continue;
        }
        for (out, weights) in out.chunks_mut(m).zip(weights.chunks(k)) {
            out[first..end].copy_from_slice(&tile::<W, M, 1>(weights, x, k)[0]);
        }
    }
}

/// `N` weight rows by `M` activation rows. Loops over indices: a closure would be compiled without the instructions.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<W: Widen, const M: usize, const N: usize>(w: &[W], x: &[f32], k: usize) -> [[f32; M]; N] {
    let blocks = k / LANES;
    let mut wide: [&[[[W; 8]; 2]]; N] = [&[]; N];
    let mut inputs: [&[[[f32; 8]; 2]]; M] = [&[]; M];
    for j in 0..N {
        wide[j] = &w[j * k..][..k].as_chunks::<8>().0.as_chunks::<2>().0[..blocks];
    }
    for i in 0..M {
        inputs[i] = &x[i * k..][..k].as_chunks::<8>().0.as_chunks::<2>().0[..blocks];
    }
    let mut sums = [[[_mm256_setzero_ps(); 2]; M]; N];
    for at in 0..blocks {
        for j in 0..N {
            if M == 1 {
                // The same place of the next tile.
                prefetch_second(&wide[j][at], N * k * size_of::<W>());
            }
            for half in 0..2 {
                // SAFETY: this function has the features.
                let w = unsafe { W::widen_256(&wide[j][at][half]) };
                for i in 0..M {
                    // SAFETY: as above.
                    let x = unsafe { f32::widen_256(&inputs[i][at][half]) };
                    sums[j][i][half] = _mm256_fmadd_ps(w, x, sums[j][i][half]);
                }
            }
        }
    }
    let mut totals = [[0.0; M]; N];
    for j in 0..N {
        for i in 0..M {
            let (w, x) = (&w[j * k..][..k], &x[i * k..][..k]);
            let rest = w.iter().zip(x).skip(blocks * LANES).map(|(w, x)| w.widen() * x);
            totals[j][i] = total(sums[j][i]) + rest.sum::<f32>();
        }
    }
    totals
}

#[inline]
#[target_feature(enable = "avx2")]
fn total([low, high]: [__m256; 2]) -> f32 {
    let eight = _mm256_add_ps(low, high);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
