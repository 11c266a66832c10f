//! Weighted sums of rows as they are kept: the values of attention for few queries.
//!
//! Every element is summed in the order of the rows, whatever the number of sums, so that one gets the same bits among others as
//! alone, and from rows in several pieces as from all of them.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::widen::Widen;
use crate::cpu::Level;
#[cfg(target_arch = "x86_64")]
use crate::cpu::prefetch_second;

/// Rows of values with their weights in each sum.
#[derive(Clone, Copy)]
pub struct Weighted<'a, W> {
    /// The weight of row `j` in sum `i` is at `i · stride + j`.
    pub weights: &'a [f32],
    pub stride: usize,
    /// `[rows, width]`.
    pub values: &'a [W],
    pub width: usize,
}

/// Values that are widened together with AVX-512.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 32;
/// How far ahead rows are fetched, in bytes.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4096;

/// Adds weighted sums to `out [sums, width]`, in an order that [`in_order`] undoes.
///
/// # Panics
/// When weights are missing, or the processor lacks the level.
pub fn add<W: Widen>(out: &mut [f32], weighted: Weighted<'_, W>, level: Level) {
    assert!(level.is_present());
    let rows = weighted.values.len() / weighted.width;
    let last = (out.len() / weighted.width).saturating_sub(1);
    assert!(last * weighted.stride + rows <= weighted.weights.len(), "a weight for each row");
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: the processor has just been asked for the features; there is no other precondition.
        Level::Avx512 | Level::Amx => return unsafe { add_512(out, weighted) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { add_256(out, weighted, 0) },
        Level::Portable | Level::Neon => {}
    }
    #[cfg(target_arch = "aarch64")]
    if level == Level::Neon {
        // SAFETY: as above.
        return unsafe { add_neon(out, weighted) };
    }
    portable(out, weighted, 0, |a, b, c| a * b + c);
}

/// Puts the values of a sum into the order of those of a row.
pub fn in_order<W: Widen>(sum: &mut [f32], level: Level) {
    #[cfg(target_arch = "x86_64")]
    if W::BY_PARITY && level >= Level::Avx512 {
        for values in sum.as_chunks_mut::<WIDE>().0 {
            let split = *values;
            *values = std::array::from_fn(|i| split[i / 2 + i % 2 * WIDE / 2]);
        }
    }
    let _ = (sum, level);
}

/// The columns from `first` on, one row after the other.
#[inline(always)]
fn portable<W: Widen>(
    out: &mut [f32],
    Weighted { weights, stride, values, width }: Weighted<'_, W>,
    first: usize,
    madd: impl Fn(f32, f32, f32) -> f32,
) {
    for (i, out) in out.chunks_mut(width).enumerate() {
        let out = &mut out[first..];
        for (weight, row) in weights[i * stride..].iter().zip(values.chunks_exact(width)) {
            for (out, value) in out.iter_mut().zip(&row[first..]) {
                *out = madd(*weight, value.widen(), *out);
            }
        }
    }
}

/// Defines a function that adds the columns from one on for all sums, `$group` columns at a time, and says where it stopped;
/// a group of `M` sums keeps `C` groups of columns in registers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! columns {
    (
        $name:ident, $features:literal, $group:literal columns in registers of $lanes:literal,
        single: $single:literal, load: $load:ident, store: $store:ident, all: $all:ident,
        widen: |$values:ident| $widen:expr, madd: |$a:ident, $b:ident, $c:ident| $madd:expr
    ) => {
        #[target_feature(enable = $features)]
        fn $name<W: Widen>(out: &mut [f32], weighted: Weighted<'_, W>, first: usize) -> usize {
            /// `M` sums.
            #[target_feature(enable = $features)]
            fn some<W: Widen, const M: usize, const C: usize>(
                out: &mut [f32],
                weighted: Weighted<'_, W>,
                mut at: usize,
                ahead: bool,
            ) -> usize {
                while at + C * $group <= weighted.width {
                    tile::<W, M, C>(out, weighted, at, ahead);
                    at += C * $group;
                }
                while at + $group <= weighted.width {
                    tile::<W, M, 1>(out, weighted, at, ahead);
                    at += $group;
                }
                at
            }

            /// `C` groups of columns of `M` sums. Loops over indices: a closure would be compiled without the instructions.
            #[inline]
            #[target_feature(enable = $features)]
            fn tile<W: Widen, const M: usize, const C: usize>(
                out: &mut [f32],
                Weighted { weights, stride, values, width }: Weighted<'_, W>,
                at: usize,
                ahead: bool,
            ) {
                const PARTS: usize = $group / $lanes;
                let mut sums = [[[$all(0.0); PARTS]; C]; M];
                for i in 0..M {
                    for c in 0..C {
                        for part in 0..PARTS {
                            let from = &out[i * width + at + c * $group + part * $lanes..];
                            let from = &from[..$lanes];
                            // SAFETY: the slice has the values of a register, and unaligned access is allowed.
                            sums[i][c][part] = unsafe { $load(from.as_ptr()) };
                        }
                    }
                }
                for (j, row) in values.chunks_exact(width).enumerate() {
                    let groups = &row[at..].as_chunks::<$group>().0[..C];
                    let mut factors = [$all(0.0); M];
                    for i in 0..M {
                        factors[i] = $all(weights[i * stride + j]);
                    }
                    for c in 0..C {
                        let $values = &groups[c];
                        if ahead {
                            fetch($values);
                        }
                        // SAFETY: this function has the features.
                        let wide = unsafe { $widen };
                        for i in 0..M {
                            for part in 0..PARTS {
                                let ($a, $b, $c) = (wide[part], factors[i], sums[i][c][part]);
                                sums[i][c][part] = $madd;
                            }
                        }
                    }
                }
                for i in 0..M {
                    for c in 0..C {
                        for part in 0..PARTS {
                            let to = &mut out[i * width + at + c * $group + part * $lanes..];
                            let to = &mut to[..$lanes];
                            // SAFETY: as above.
                            unsafe { $store(to.as_mut_ptr(), sums[i][c][part]) };
                        }
                    }
                }
            }

            let Weighted { weights, stride, width, .. } = weighted;
            let mut end = first;
            for (index, out) in out.chunks_mut(4 * width).enumerate() {
                let weighted = Weighted { weights: &weights[4 * index * stride..], ..weighted };
                end = match out.len() / width {
                    4 => some::<W, 4, 2>(out, weighted, first, index == 0),
                    3 => some::<W, 3, 2>(out, weighted, first, index == 0),
                    2 => some::<W, 2, 4>(out, weighted, first, index == 0),
                    _ => some::<W, 1, $single>(out, weighted, first, index == 0),
                };
            }
            end
        }
    };
}

#[cfg(target_arch = "x86_64")]
columns! {
    columns_512, "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c",
    32 columns in registers of 16, single: 4,
    load: _mm512_loadu_ps, store: _mm512_storeu_ps, all: _mm512_set1_ps,
    widen: |values| W::widen_512(values), madd: |a, b, c| _mm512_fmadd_ps(a, b, c)
}

#[cfg(target_arch = "x86_64")]
columns! {
    columns_256, "avx2,fma,f16c",
    8 columns in registers of 8, single: 8,
    load: _mm256_loadu_ps, store: _mm256_storeu_ps, all: _mm256_set1_ps,
    widen: |values| [W::widen_256(values)], madd: |a, b, c| _mm256_fmadd_ps(a, b, c)
}

#[cfg(target_arch = "aarch64")]
columns! {
    columns_neon, "neon",
    8 columns in registers of 4, single: 8,
    load: vld1q_f32, store: vst1q_f32, all: vdupq_n_f32,
    widen: |values| W::widen_neon(values), madd: |a, b, c| vfmaq_f32(c, a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn add_512<W: Widen>(out: &mut [f32], weighted: Weighted<'_, W>) {
    let end = columns_512(out, weighted, 0);
    if end < weighted.width {
        add_256(out, weighted, end);
    }
}

/// The columns from `first` on.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_256<W: Widen>(out: &mut [f32], weighted: Weighted<'_, W>, first: usize) {
    let end = columns_256(out, weighted, first);
    if end < weighted.width {
        portable(out, weighted, end, f32::mul_add);
    }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn add_neon<W: Widen>(out: &mut [f32], weighted: Weighted<'_, W>) {
    let end = columns_neon(out, weighted, 0);
    if end < weighted.width {
        portable(out, weighted, end, f32::mul_add);
    }
}

/// Fetches the rows that come.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn fetch<T>(values: &T) {
    #[cfg(target_arch = "x86_64")]
    prefetch_second(values, AHEAD);
    let _ = values;
}

#[cfg(test)]
mod tests {
    use burn::tensor::{bf16, f16};

    use super::*;
    use crate::ops::flex::values;

    /// Every level, number of sums, width and dtype, in pieces and at once. Values before and behind the rows, and weights of
    /// other rows, would make a sum NaN.
    #[test]
    fn sums_are_those_of_f64_at_every_level() {
        for width in [1, 4, 8, 15, 17, 31, 32, 64, 72, 100, 128, 260] {
            for rows in [1, 2, 15, 17, 31] {
                let all = values(rows * width, 3);
                agrees(&all, width, f32::NAN, |x| x);
                agrees(&all, width, bf16::NAN, bf16::from_f32);
                agrees(&all, width, f16::NAN, f16::from_f32);
                // A byte is never NaN: a large one would show.
                agrees(&all, width, 127, |x| (x * 9.0) as i8);
            }
        }
    }

    fn agrees<W: Widen>(all: &[f32], width: usize, other: W, narrow: impl Fn(f32) -> W) {
        let (rows, gap) = (all.len() / width, 3);
        let mut held = vec![other; gap];
        held.extend(all.iter().map(|x| narrow(*x)));
        held.extend([other; 3]);
        let held = &held[gap..gap + all.len()];
        for m in [1, 2, 3, 4, 5, 8] {
            let stride = rows + gap;
            let mut weights = values(m * stride, 5);
            for (j, weight) in weights.iter_mut().enumerate() {
                if j % stride >= rows {
                    *weight = f32::NAN;
                }
            }
            for level in Level::present() {
                let mut found = vec![0.0; m * width];
                let weighted = Weighted { weights: &weights, stride, values: held, width };
                add(&mut found, weighted, level);
                let mut apart = vec![0.0; m * width];
                let (first, second) = held.split_at(rows / 2 * width);
                let of = |first: usize, values| Weighted {
                    weights: &weights[first..m * stride - gap],
                    stride,
                    values,
                    width,
                };
                add(&mut apart, of(0, first), level);
                add(&mut apart, of(rows / 2, second), level);
                assert!(apart == found, "{level:?} {m} sums of {rows} rows of {width}");
                for (i, found) in found.chunks_mut(width).enumerate() {
                    let mut alone = vec![0.0; width];
                    let weights = &weights[i * stride..];
                    add(&mut alone, Weighted { weights, ..weighted }, level);
                    assert!(alone == *found, "{level:?} sum {i} of {m} sums of {width}");
                    in_order::<W>(found, level);
                    for (c, found) in found.iter().enumerate() {
                        let terms = held.chunks(width).zip(weights);
                        let exact: f64 =
                            terms.map(|(row, w)| f64::from(row[c].widen()) * f64::from(*w)).sum();
                        let near = (f64::from(*found) - exact).abs() < 2e-5 * (1.0 + exact.abs());
                        assert!(near, "{level:?} {m}x{rows}x{width}: {found}, not {exact}");
                    }
                }
            }
        }
    }
}
