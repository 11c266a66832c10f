//! The same sums with AVX-512: weight row after weight row, because memory is read fastest in one stream.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{TILE, Widen};
use crate::cpu::{prefetch, prefetch_second};

/// Values that are widened together, into two registers of sums.
const WIDE: usize = 32;
/// How far ahead weights are fetched into the second cache, and from there into the nearest one, in bytes.
const AHEAD: usize = 4096;
const NEAR: usize = 512;
/// Bytes of a register, and of a line of the cache.
const LINE: usize = 64;

/// Rows of activations in the order in which [`Widen::widen_512`] puts weights, from the beginning of a line of the cache on: a
/// register that is read from two lines costs several times as much on some processors.
pub struct Ordered {
    room: Vec<f32>,
    place: Range<usize>,
}

impl Ordered {
    /// From rows of `k` values.
    pub fn new<W: Widen>(x: &[f32], k: usize) -> Self {
        let mut room = vec![0.0; x.len() + LINE / size_of::<f32>()];
        let start = room.as_ptr().align_offset(LINE).min(room.len() - x.len());
        let place = start..start + x.len();
        let to = &mut room[place.clone()];
        to.copy_from_slice(x);
        if W::BY_PARITY {
            for (to, x) in to.chunks_mut(k).zip(x.chunks(k)) {
                let (to, x) = (to.as_chunks_mut::<WIDE>().0, x.as_chunks::<WIDE>().0);
                for (to, x) in to.iter_mut().zip(x) {
                    *to = std::array::from_fn(|i| x[2 * i % WIDE + 2 * i / WIDE]);
                }
            }
        }
        Self { room, place }
    }

    pub fn values(&self) -> &[f32] {
        &self.room[self.place.clone()]
    }
}

/// `weights [n, k] · x [m, k]ᵀ -> out [n, m]`, with `x` as [`Ordered`] has it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
pub fn block<W: Widen>(out: &mut [f32], weights: &[W], x: &[f32], k: usize) {
    let m = x.len() / k;
    for (tile, x) in x.chunks(TILE * k).enumerate() {
        let place = (m, tile * TILE);
        match (x.len() / k, m > TILE) {
            (4, true) => rows::<W, 4, 2>(out, place, weights, x, k),
            (4, false) => rows::<W, 4, 1>(out, place, weights, x, k),
            (3, _) => rows::<W, 3, 1>(out, place, weights, x, k),
            (2, _) => rows::<W, 2, 1>(out, place, weights, x, k),
            _ => rows::<W, 1, 1>(out, place, weights, x, k),
        }
    }
}

/// All weight rows by `M` activation rows: `N` at a time, and what is left one by one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
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

/// `N` weight rows by `M` activation rows; element `(j, i)` goes to `out[j · m + first + i]`. Loops over indices: a closure would
/// be compiled without the instructions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
fn tile<W: Widen, const M: usize, const N: usize>(
    out: &mut [f32],
    (m, first): (usize, usize),
    w: &[W],
    x: &[f32],
    k: usize,
) {
    let blocks = k / WIDE;
    let mut wide: [&[[W; WIDE]]; N] = [&[]; N];
    let mut inputs: [&[[[f32; 16]; 2]]; M] = [&[]; M];
    for j in 0..N {
        wide[j] = &w[j * k..][..k].as_chunks::<WIDE>().0[..blocks];
    }
    for i in 0..M {
        inputs[i] = &x[i * k..][..k].as_chunks::<16>().0.as_chunks::<2>().0[..blocks];
    }
    let mut sums = [[[_mm512_setzero_ps(); 2]; M]; N];
    for at in 0..blocks {
        for j in 0..N {
            if first == 0 {
                prefetch_second(&wide[j][at], AHEAD);
                prefetch(&wide[j][at], NEAR);
            }
            // SAFETY: this function has the features.
            let w = unsafe { W::widen_512(&wide[j][at]) };
            for i in 0..M {
                for half in 0..2 {
                    // SAFETY: the reference is to sixteen values, and unaligned access is allowed.
                    let x = unsafe { _mm512_loadu_ps(inputs[i][at][half].as_ptr()) };
                    sums[j][i][half] = _mm512_fmadd_ps(w[half], x, sums[j][i][half]);
                }
            }
        }
    }
    for j in 0..N {
        for i in 0..M {
            let sum = _mm512_reduce_add_ps(_mm512_add_ps(sums[j][i][0], sums[j][i][1]));
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
