//! Products of activation rows with weight rows as they lie in the file: for one row bound by memory bandwidth, for
//! a batch of them by arithmetic.
//!
//! Every element is summed in the same order whatever the number of rows, so that a row of a batch gets the same
//! bits as alone.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use std::marker::PhantomData;

use rayon::prelude::*;

use super::Widen;
use crate::cpu::{Level, prefetch};
use crate::threads::ranges::fill_parts;

/// Weight rows per task.
const ROWS_PER_TASK: usize = 16;
/// Activation rows and weight rows of a tile: their partial sums stay in registers.
const TILE: usize = 4;
/// Partial sums per element.
const LANES: usize = 16;

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`.
pub fn rows<W: Widen>(x: &[f32], w: &[W], m: usize, n: usize, k: usize) -> Vec<f32> {
    let mut transposed = vec![0.0; n * m];
    with_ordered::<W>(x, k, |x| {
        fill_parts(&mut transposed, ROWS_PER_TASK * m, |(): &mut (), task, out| {
            let first = task * ROWS_PER_TASK * k;
            block(out, &w[first..][..out.len() / m * k], x, k);
        });
    });
    if m == 1 { transposed } else { transpose(&transposed, n, m) }
}

/// Calls `run` with rows of activations as [`block`] takes them.
fn with_ordered<W: Widen>(x: &[f32], k: usize, run: impl FnOnce(&[f32])) {
    #[cfg(target_arch = "x86_64")]
    if Level::chosen() >= Level::Avx512 {
        return run(avx512::Ordered::new::<W>(x, k).values());
    }
    let _ = k;
    run(x);
}

fn transpose(values: &[f32], n: usize, m: usize) -> Vec<f32> {
    let mut out = vec![0.0; n * m];
    out.par_chunks_mut(n).enumerate().for_each(|(row, out)| {
        for (out, column) in out.iter_mut().zip(values.chunks(m)) {
            *out = column[row];
        }
    });
    out
}

/// `Σ a·b` in f32.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut out = [0.0];
    if !a.is_empty() {
        block(&mut out, a, b, a.len());
    }
    out[0]
}

/// `weights [n, k] · x [m, k]ᵀ -> out [n, m]`, on one core.
pub(super) fn products(out: &mut [f32], weights: &[f32], x: &[f32], k: usize) {
    block(out, weights, x, k);
}

/// Rows of activations that are multiplied with weights of `W` more than once.
pub struct Inputs<W> {
    x: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    ordered: Option<avx512::Ordered>,
    k: usize,
    level: Level,
    weights: PhantomData<W>,
}

impl<W: Widen> Inputs<W> {
    /// Of rows of `k` values, for a level that the processor has.
    pub fn new(x: Vec<f32>, k: usize, level: Level) -> Self {
        assert!(level.is_present());
        #[cfg(target_arch = "x86_64")]
        let ordered = (level >= Level::Avx512).then(|| avx512::Ordered::new::<W>(&x, k));
        Self {
            x,
            #[cfg(target_arch = "x86_64")]
            ordered,
            k,
            level,
            weights: PhantomData,
        }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.x.len() / self.k
    }

    /// `weights [n, k] · x [m, k]ᵀ -> out [n, m]`, on one core.
    pub fn products(&self, out: &mut [f32], weights: &[W]) {
        #[cfg(target_arch = "x86_64")]
        let x = self.ordered.as_ref().map_or(&self.x[..], avx512::Ordered::values);
        #[cfg(not(target_arch = "x86_64"))]
        let x = &self.x[..];
        block_with(self.level, out, weights, x, self.k);
    }
}

/// `weights [n, k] · x [m, k]ᵀ -> out [n, m]`, with the instructions that were chosen and `x` in the order that they want, which
/// is the plain one for weights in f32.
fn block<W: Widen>(out: &mut [f32], weights: &[W], x: &[f32], k: usize) {
    block_with(Level::chosen(), out, weights, x, k);
}

/// [`block`] with the instructions of a level that the processor has.
fn block_with<W: Widen>(level: Level, out: &mut [f32], weights: &[W], x: &[f32], k: usize) {
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: the processor has the features of the level and those before it, which [`Inputs::new`] and
        // [`Level::chosen`] ask for; the function has no other precondition (it only indexes slices).
        Level::Avx512 | Level::Amx => return unsafe { avx512::block(out, weights, x, k) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { avx2::block(out, weights, x, k) },
        Level::Portable | Level::Neon => {}
    }
    #[cfg(target_arch = "aarch64")]
    if level == Level::Neon {
        // SAFETY: every processor of the target has NEON; the function has no other precondition (it only indexes slices).
        return unsafe { neon::block(out, weights, x, k) };
    }
    let _ = level;
    portable(out, weights, x, k);
}

/// Tiles of up to 4 x 4 rows, for which the compiler finds the instructions.
fn portable<W: Widen>(out: &mut [f32], weights: &[W], x: &[f32], k: usize) {
    let m = x.len() / k;
    for (first, x) in x.chunks(TILE * k).enumerate() {
        let first = first * TILE;
        for (out, w) in out.chunks_mut(TILE * m).zip(weights.chunks(TILE * k)) {
            match (x.len() / k, w.len() / k) {
                (4, 4) => tile::<W, 4, 4>(out, (m, first), w, x, k),
                (4, _) => singles::<W, 4>(out, (m, first), w, x, k),
                (3, 4) => tile::<W, 3, 4>(out, (m, first), w, x, k),
                (3, _) => singles::<W, 3>(out, (m, first), w, x, k),
                (2, 4) => tile::<W, 2, 4>(out, (m, first), w, x, k),
                (2, _) => singles::<W, 2>(out, (m, first), w, x, k),
                (_, 4) => tile::<W, 1, 4>(out, (m, first), w, x, k),
                (_, _) => singles::<W, 1>(out, (m, first), w, x, k),
            }
        }
    }
}

/// Weight rows that fill no tile, one by one.
#[inline(always)]
fn singles<W: Widen, const M: usize>(
    out: &mut [f32],
    (m, first): (usize, usize),
    w: &[W],
    x: &[f32],
    k: usize,
) {
    for (out, w) in out.chunks_mut(m).zip(w.chunks(k)) {
        tile::<W, M, 1>(out, (m, first), w, x, k);
    }
}

/// `N` weight rows by `M` activation rows; element `(j, i)` goes to `out[j · m + first + i]`.
#[inline(always)]
fn tile<W: Widen, const M: usize, const N: usize>(
    out: &mut [f32],
    (m, first): (usize, usize),
    w: &[W],
    x: &[f32],
    k: usize,
) {
    let w: [&[W]; N] = std::array::from_fn(|j| &w[j * k..(j + 1) * k]);
    let x: [&[f32]; M] = std::array::from_fn(|i| &x[i * k..(i + 1) * k]);
    let wide = w.map(|w| w.as_chunks::<LANES>().0);
    let inputs = x.map(|x| x.as_chunks::<LANES>().0);
    let mut sums = [[[0.0f32; LANES]; M]; N];
    for at in 0..k / LANES {
        let x: [[f32; LANES]; M] = std::array::from_fn(|i| inputs[i][at]);
        for (sums, w) in sums.iter_mut().zip(&wide) {
            if M == 1 {
                // The same place of the next tile.
                prefetch(&w[at], N * k * size_of::<W>());
            }
            let w: [f32; LANES] = std::array::from_fn(|lane| w[at][lane].widen());
            for (sums, x) in sums.iter_mut().zip(&x) {
                *sums = std::array::from_fn(|lane| w[lane] * x[lane] + sums[lane]);
            }
        }
    }
    let rest = k / LANES * LANES;
    for (j, (sums, w)) in sums.iter().zip(&w).enumerate() {
        for (i, (sums, x)) in sums.iter().zip(&x).enumerate() {
            let rest = w[rest..].iter().zip(&x[rest..]).map(|(w, x)| w.widen() * x).sum::<f32>();
            out[j * m + first + i] = total(*sums) + rest;
        }
    }
}

#[inline(always)]
fn total(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{bf16, f16};

    #[test]
    fn every_length_and_instruction_set_agrees_with_f64() {
        agrees_with_f64(bf16::from_f32);
        agrees_with_f64(f16::from_f32);
        agrees_with_f64(|value| value);
    }

    fn agrees_with_f64<W: Widen>(narrow: fn(f32) -> W) {
        for len in [0, 1, 15, 17, 31, 63, 64, 65, 127, 128, 1000, 4304] {
            let a: Vec<W> = (0..len).map(|i| narrow((i as f32 * 0.37).sin())).collect();
            let b: Vec<f32> = (0..len).map(|i| (i as f32 * 0.11).cos()).collect();
            let exact: f64 =
                a.iter().zip(&b).map(|(a, b)| f64::from(a.widen()) * f64::from(*b)).sum();
            let (mut portable, mut other) = ([0.0], [exact as f32]);
            if len > 0 {
                super::portable(&mut portable, &a, &b, len);
                #[cfg(target_arch = "x86_64")]
                if Level::Avx2.is_present() {
                    // SAFETY: the processor has just been asked for the features.
                    unsafe { avx2::block(&mut other, &a, &b, len) };
                }
                #[cfg(target_arch = "aarch64")]
                // SAFETY: every processor of the target has NEON.
                unsafe {
                    neon::block(&mut other, &a, &b, len)
                };
            }
            let chosen = if len > 0 { rows(&b, &a, 1, 1, len)[0] } else { 0.0 };
            for found in [chosen, portable[0], other[0]] {
                assert!((found as f64 - exact).abs() < 1e-4, "{len}: {found} against {exact}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_every_batch() {
        has_the_same_bits(bf16::from_f32);
        has_the_same_bits(f16::from_f32);
        has_the_same_bits(|value| value);
    }

    fn has_the_same_bits<W: Widen>(narrow: fn(f32) -> W) {
        let value = |i: usize| ((i * 7919 % 1009) as f32 - 504.0) / 97.0;
        for (n, k) in [(1, 5), (7, 33), (16, 64), (37, 100)] {
            let w: Vec<W> = (0..n * k).map(|i| narrow(value(i))).collect();
            let x: Vec<f32> = (0..9 * k).map(|i| value(i + 13)).collect();
            let alone: Vec<f32> = x.chunks(k).flat_map(|x| rows(x, &w, 1, n, k)).collect();
            for m in 1..=9 {
                let together = rows(&x[..m * k], &w, m, n, k);
                assert_eq!(together, alone[..m * n], "{m} rows of {n} x {k}");
            }
            for (i, x) in x.chunks(k).enumerate() {
                for (j, w) in w.chunks(k).enumerate() {
                    let products =
                        w.iter().zip(x).map(|(w, x)| f64::from(w.widen()) * f64::from(*x));
                    let exact: f64 = products.sum();
                    assert!((alone[i * n + j] as f64 - exact).abs() < 1e-2, "{i} {j}");
                }
            }
        }
    }
}
