//! Products with weights that lie the other way round, `[in, out]`, as published mixtures of experts store them.

use rayon::prelude::*;

use super::Widen;
use super::matmul::{Into, Matrix, multiply_parallel, product as gemm};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::cpu::Level;
use crate::cpu::prefetch;

/// Weight rows of a task.
const DEPTH: usize = 128;
/// Weight rows that are added together.
const TOGETHER: usize = 4;
/// Values between two prefetches: a line of the cache holds at least as many bytes.
const LINE: usize = 16;
/// From this many activation rows on, widening the weight for GEMM costs less.
const GEMM_ROWS: usize = 8;
/// Weight rows that are widened at a time: they stay in the cache of a core.
const PANEL: usize = 256;

/// `x [m, k] · w [k, n] -> [m, n]`.
pub fn product<W: Widen>(x: &[f32], w: &[W], [n, k]: [usize; 2]) -> Vec<f32> {
    let m = x.len() / k.max(1);
    match W::as_f32(w) {
        _ if m < GEMM_ROWS || n == 0 || k == 0 => rows(x, w, [m, n, k]),
        Some(w) => gemm(Matrix::rows(x, k), Matrix::rows(w, n)),
        None => by_panels(x, w, [m, n, k]),
    }
}

/// A few rows, each the same sums in the same order whatever the others: weight rows times numbers, added up.
fn rows<W: Widen>(x: &[f32], w: &[W], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let size = m * n;
    if size == 0 || k == 0 {
        return vec![0.0; size];
    }
    let mut sums = vec![0.0; k.div_ceil(DEPTH) * size];
    let tasks = sums.par_chunks_mut(size).zip(w.par_chunks(DEPTH * n)).enumerate();
    tasks.for_each(|(task, (out, w))| {
        for (out, x) in out.chunks_mut(n).zip(x.chunks(k)) {
            add(out, w, &x[task * DEPTH..k.min((task + 1) * DEPTH)]);
        }
    });
    let (first, others) = sums.split_at_mut(size);
    for other in others.chunks(size) {
        first.iter_mut().zip(other).for_each(|(sum, part)| *sum += part);
    }
    sums.truncate(size);
    sums
}

/// `out += x · w`, with the instructions that were chosen.
fn add<W: Widen>(out: &mut [f32], w: &[W], x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    match Level::chosen() {
        // SAFETY: a level is chosen only where the processor has its features and those before it; the function has no
        // other precondition (it only indexes slices).
        Level::Avx512 | Level::Amx => return unsafe { add_avx512(out, w, x) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { add_avx2(out, w, x) },
        Level::Portable | Level::Neon => {}
    }
    #[cfg(target_arch = "aarch64")]
    if Level::chosen() == Level::Neon {
        return add_with(out, w, x, f32::mul_add);
    }
    add_with(out, w, x, |a, b, sum| a * b + sum);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn add_avx512<W: Widen>(out: &mut [f32], w: &[W], x: &[f32]) {
    add_with(out, w, x, f32::mul_add);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_avx2<W: Widen>(out: &mut [f32], w: &[W], x: &[f32]) {
    add_with(out, w, x, f32::mul_add);
}

#[inline(always)]
fn add_with<W: Widen>(
    out: &mut [f32],
    w: &[W],
    x: &[f32],
    madd: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    let n = out.len();
    for (w, x) in w.chunks(TOGETHER * n).zip(x.chunks(TOGETHER)) {
        match x {
            [a, b, c, d] => add_four(out, w, [*a, *b, *c, *d], madd),
            _ => x.iter().zip(w.chunks(n)).for_each(|(x, w)| {
                out.iter_mut().zip(w).for_each(|(sum, w)| *sum = madd(w.widen(), *x, *sum));
            }),
        }
    }
}

/// Four weight rows by four numbers.
#[inline(always)]
fn add_four<W: Widen>(
    out: &mut [f32],
    w: &[W],
    x: [f32; TOGETHER],
    madd: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    let n = out.len();
    let rows: [&[W]; TOGETHER] = std::array::from_fn(|i| &w[i * n..][..n]);
    let lines = rows.map(|row| row.as_chunks::<LINE>());
    let (sums, rest) = out.as_chunks_mut::<LINE>();
    for (at, sums) in sums.iter_mut().enumerate() {
        for ((lines, _), x) in lines.iter().zip(x) {
            prefetch(&lines[at], size_of_val(w));
            *sums = std::array::from_fn(|i| madd(lines[at][i].widen(), x, sums[i]));
        }
    }
    for ((_, ends), x) in lines.iter().zip(x) {
        rest.iter_mut().zip(*ends).for_each(|(sum, w)| *sum = madd(w.widen(), x, *sum));
    }
}

fn by_panels<W: Widen>(x: &[f32], w: &[W], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0.0; m * n];
    let mut panel = vec![0.0f32; PANEL.min(k) * n];
    for (index, w) in w.chunks(PANEL * n).enumerate() {
        let panel = &mut panel[..w.len()];
        widen(panel, w);
        let first = index * PANEL;
        let x = Matrix {
            values: &x[first..],
            rows: m,
            columns: w.len() / n,
            row_stride: k,
            column_stride: 1,
        };
        let into = if first == 0 { Into::Replace } else { Into::Add };
        multiply_parallel(&mut out, n, (x, Matrix::rows(panel, n)), into);
    }
    out
}

fn widen<W: Widen>(to: &mut [f32], from: &[W]) {
    const CHUNK: usize = 1 << 14;
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
    });
}

#[cfg(test)]
mod tests {
    use super::super::values;
    use super::*;
    use burn::tensor::bf16;

    #[test]
    fn every_size_and_instruction_set_agrees_with_f64() {
        for (m, n, k) in
            [(1, 1, 1), (1, 5, 3), (2, 17, 129), (3, 33, 260), (7, 64, 300), (9, 30, 515)]
        {
            let x = values(m * k, 1);
            let w: Vec<bf16> = values(k * n, 2).into_iter().map(bf16::from_f32).collect();
            let wide: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
            let found = [product(&x, &w, [n, k]), product(&x, &wide, [n, k]), portable(&x, &w, n)];
            for (i, x) in x.chunks(k).enumerate() {
                for j in 0..n {
                    let exact: f64 = (0..k).map(|l| f64::from(x[l]) * w[l * n + j].to_f64()).sum();
                    for found in &found {
                        let far = (f64::from(found[i * n + j]) - exact).abs();
                        assert!(far < 1e-4, "{m}x{n}x{k} at {i}, {j}: {far}");
                    }
                }
            }
        }
    }

    fn portable(x: &[f32], w: &[bf16], n: usize) -> Vec<f32> {
        let k = w.len() / n;
        let of_row = |x: &[f32]| {
            let mut out = vec![0.0; n];
            add_with(&mut out, w, x, |a, b, sum| a * b + sum);
            out
        };
        x.chunks(k).flat_map(of_row).collect()
    }

    #[test]
    fn a_row_has_the_same_bits_among_a_few_as_alone() {
        let (n, k) = (70, 300);
        let (x, w) = (values(7 * k, 3), values(k * n, 4));
        let alone: Vec<f32> = x.chunks(k).flat_map(|x| product(x, &w, [n, k])).collect();
        assert_eq!(product(&x, &w, [n, k]), alone);
    }
}
