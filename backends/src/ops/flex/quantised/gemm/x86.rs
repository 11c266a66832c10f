//! Tiles of the result with AVX2, and with AVX-512 VNNI.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
use super::super::x86::level_is_present;
use super::{COLUMNS, LeftRow, Panel, Right};
use crate::cpu::Level;

/// Activation rows of a tile, whose sums stay in registers.
const ROWS: usize = 6;

/// Adds the products of `rows` with the panels to `out`.
pub fn tiles<'a>(
    out: &mut [&mut [f32]],
    rows: impl Fn(usize) -> LeftRow<'a>,
    right: &Right,
    (bits, runs): (usize, usize),
    level: Level,
) {
    for (tile, out) in out.chunks_mut(ROWS).enumerate() {
        let first = tile * ROWS;
        for (panel, right) in right.panels(runs).enumerate() {
            let column = panel * COLUMNS;
            match out.len() {
                6 => sized::<6>(out, column, |i| rows(first + i), right, bits, level),
                5 => sized::<5>(out, column, |i| rows(first + i), right, bits, level),
                4 => sized::<4>(out, column, |i| rows(first + i), right, bits, level),
                3 => sized::<3>(out, column, |i| rows(first + i), right, bits, level),
                2 => sized::<2>(out, column, |i| rows(first + i), right, bits, level),
                _ => sized::<1>(out, column, |i| rows(first + i), right, bits, level),
            }
        }
    }
}

fn sized<'a, const M: usize>(
    out: &mut [&mut [f32]],
    column: usize,
    row: impl Fn(usize) -> LeftRow<'a>,
    right: Panel<'_>,
    bits: usize,
    level: Level,
) {
    let left: [LeftRow<'_>; M] = std::array::from_fn(row);
    let sums = sums(left, right, bits, level);
    for (out, sums) in out.iter_mut().zip(&sums) {
        out[column..].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn sums<const M: usize>(
    _: [LeftRow<'_>; M],
    _: Panel<'_>,
    _: usize,
    _: Level,
) -> [[f32; COLUMNS]; M] {
    unreachable!("kernels of another processor")
}

#[cfg(target_arch = "x86_64")]
fn sums<const M: usize>(
    left: [LeftRow<'_>; M],
    right: Panel<'_>,
    bits: usize,
    level: Level,
) -> [[f32; COLUMNS]; M] {
    if level == Level::Avx512 && is_x86_feature_detected!("avx512vnni") {
        assert!(level_is_present(level));
        // SAFETY: the processor has just been asked for the features; the functions have no other precondition.
        return unsafe {
            match (bits, right.words.len() / right.scales.len().max(1)) {
                (8, 8) => avx512::<8, 8, M>(left, right),
                (8, 16) => avx512::<8, 16, M>(left, right),
                (8, _) => avx512::<8, 32, M>(left, right),
                _ => avx512::<4, 8, M>(left, right),
            }
        };
    }
    assert!(level_is_present(Level::Avx2));
    // SAFETY: as above.
    unsafe {
        match (bits, right.words.len() / right.scales.len().max(1)) {
            (8, 8) => avx2::<8, 8, M>(left, right),
            (8, 16) => avx2::<8, 16, M>(left, right),
            (8, _) => avx2::<8, 32, M>(left, right),
            _ => avx2::<4, 8, M>(left, right),
        }
    }
}

/// `VPMADDWD` adds pairs of products of sixteen bits. Weights of four bits are bytes without sign for `VPMADDUBSW`, whose
/// results are summed in sixteen bits: with the offset, a run of 32 gives at most 8 · 127 · 16 in each half of a word, whatever
/// part of it has been added.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<const BITS: usize, const WORDS: usize, const M: usize>(
    left: [LeftRow<'_>; M],
    right: Panel<'_>,
) -> [[f32; COLUMNS]; M] {
    // Loops over indices: a closure would be compiled without the instructions.
    let mut out = [[_mm256_setzero_ps(); 2]; M];
    let runs = right.scales.len();
    let words = &right.words.as_chunks::<WORDS>().0[..runs];
    let mut lines: [&[[i32; WORDS]]; M] = [&[]; M];
    let mut numbers: [(&[f32], &[i32]); M] = [(&[], &[]); M];
    for i in 0..M {
        lines[i] = &left[i].words.as_chunks::<WORDS>().0[..runs];
        numbers[i] = (&left[i].scales[..runs], &left[i].offsets[..runs]);
    }
    for run in 0..runs {
        let mut sums = [[_mm256_setzero_si256(); 2]; M];
        if BITS == 4 {
            for i in 0..M {
                sums[i] = [_mm256_set1_epi32(numbers[i].1[run]); 2];
            }
        }
        for place in 0..WORDS {
            let weights = halves(&words[run][place]);
            for i in 0..M {
                let x = _mm256_set1_epi32(lines[i][run][place]);
                for half in 0..2 {
                    sums[i][half] = match BITS {
                        8 => _mm256_add_epi32(sums[i][half], _mm256_madd_epi16(weights[half], x)),
                        _ => {
                            _mm256_add_epi16(sums[i][half], _mm256_maddubs_epi16(weights[half], x))
                        }
                    };
                }
            }
        }
        let scales = halves(&right.scales[run]);
        for i in 0..M {
            let scale = _mm256_set1_ps(numbers[i].0[run]);
            for half in 0..2 {
                let sum = match BITS {
                    8 => sums[i][half],
                    _ => _mm256_madd_epi16(sums[i][half], _mm256_set1_epi16(1)),
                };
                let scale = _mm256_mul_ps(_mm256_castsi256_ps(scales[half]), scale);
                out[i][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, out[i][half]);
            }
        }
    }
    let mut rows = [[0.0; COLUMNS]; M];
    for i in 0..M {
        for half in 0..2 {
            // SAFETY: each half of the row has eight values, and unaligned access is allowed.
            unsafe { _mm256_storeu_ps(rows[i][8 * half..].as_mut_ptr(), out[i][half]) }
        }
    }
    rows
}

/// Sixteen values of 32 bits in two registers.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn halves<T: Copy>(values: &[T; COLUMNS]) -> [__m256i; 2] {
    const { assert!(size_of::<T>() == 4) };
    let start = values.as_ptr().cast::<__m256i>();
    // SAFETY: the array has 64 bytes, read as two halves that need no alignment.
    unsafe { [_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))] }
}

/// `VPDPWSSD` and `VPDPBUSD` multiply and add in 32 bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn avx512<const BITS: usize, const WORDS: usize, const M: usize>(
    left: [LeftRow<'_>; M],
    right: Panel<'_>,
) -> [[f32; COLUMNS]; M] {
    // Loops over indices, as above.
    let mut out = [_mm512_setzero_ps(); M];
    let runs = right.scales.len();
    let words = &right.words.as_chunks::<WORDS>().0[..runs];
    let mut lines: [&[[i32; WORDS]]; M] = [&[]; M];
    let mut numbers: [(&[f32], &[i32]); M] = [(&[], &[]); M];
    for i in 0..M {
        lines[i] = &left[i].words.as_chunks::<WORDS>().0[..runs];
        numbers[i] = (&left[i].scales[..runs], &left[i].offsets[..runs]);
    }
    for run in 0..runs {
        let mut sums = [_mm512_setzero_si512(); M];
        if BITS == 4 {
            for i in 0..M {
                let offset = numbers[i].1[run];
                sums[i] = _mm512_set1_epi32(i32::from(offset as i16) + (offset >> 16));
            }
        }
        for place in 0..WORDS {
            let weights = all(&words[run][place]);
            for i in 0..M {
                let x = _mm512_set1_epi32(lines[i][run][place]);
                sums[i] = match BITS {
                    8 => _mm512_dpwssd_epi32(sums[i], weights, x),
                    _ => _mm512_dpbusd_epi32(sums[i], weights, x),
                };
            }
        }
        let scales = _mm512_castsi512_ps(all(&right.scales[run]));
        for i in 0..M {
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(numbers[i].0[run]));
            out[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), scale, out[i]);
        }
    }
    let mut rows = [[0.0; COLUMNS]; M];
    for i in 0..M {
        // SAFETY: the row has sixteen values, and unaligned access is allowed.
        unsafe { _mm512_storeu_ps(rows[i].as_mut_ptr(), out[i]) }
    }
    rows
}

/// Sixteen values of 32 bits.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn all<T: Copy>(values: &[T; COLUMNS]) -> __m512i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: the array has 64 bytes, and unaligned access is allowed.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}
