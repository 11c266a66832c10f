//! Tiles of the result with AVX2, and with AVX-512 VNNI.

#![expect(clippy::needless_range_loop, reason = "closures are compiled without the instructions")]

use std::arch::x86_64::*;

use super::super::x86::{has_vnni, level_is_present};
use super::pack::{Line, Panel, Right};
use super::{COLUMNS, LeftTile, ROWS};
use crate::cpu::{Level, prefetch};

/// Adds the products of the rows, tile by tile, with the panels to `out`. A panel, or two, stay in the nearest cache while all
/// rows pass.
pub fn tiles<'a>(
    out: &mut [&mut [f32]],
    tile: impl Fn(usize) -> LeftTile<'a>,
    right: &Right,
    fours: bool,
    level: Level,
) {
    let wide = has_vnni(level);
    assert!(level_is_present(if wide { level } else { Level::Avx2 }));
    let (panels, together) = (right.panels().collect::<Vec<_>>(), if wide { 2 } else { 1 });
    for (index, panels) in panels.chunks(together).enumerate() {
        let column = index * together * COLUMNS;
        for (index, out) in out.chunks_mut(ROWS).enumerate() {
            // Rows that are missing in the last tile are zeros, and not written.
            let (left, target) = (tile(index), Target { out, column });
            // SAFETY: the processor has just been asked for the features; the functions have no other precondition.
            unsafe {
                match panels {
                    [first, second] => avx512_of::<2>(left, [*first, *second], fours, target),
                    [only] if wide => avx512_of::<1>(left, [*only], fours, target),
                    [only] => avx2_of(left, *only, fours, target),
                    _ => unreachable!("chunks of one or two panels"),
                }
            }
        }
    }
}

/// Where sums are added: rows, of which values from `column` on.
struct Target<'t, 'o> {
    out: &'t mut [&'o mut [f32]],
    column: usize,
}

#[target_feature(enable = "avx2,fma")]
fn avx2_of(left: LeftTile<'_>, right: Panel<'_>, fours: bool, target: Target<'_, '_>) {
    let sums = match (fours, right.words.len() / right.scales.len().max(1)) {
        (false, 8) => avx2::<false, 8>(left, right),
        (false, 16) => avx2::<false, 16>(left, right),
        (false, _) => avx2::<false, 32>(left, right),
        (true, _) => avx2::<true, 8>(left, right),
    };
    for (out, sums) in target.out.iter_mut().zip(&sums) {
        out[target.column..].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn avx512_of<const P: usize>(
    left: LeftTile<'_>,
    right: [Panel<'_>; P],
    fours: bool,
    target: Target<'_, '_>,
) {
    match (fours, right[0].words.len() / right[0].scales.len().max(1)) {
        (false, 8) => avx512::<false, 8, P>(left, right, target),
        (false, 16) => avx512::<false, 16, P>(left, right, target),
        (false, _) => avx512::<false, 32, P>(left, right, target),
        (true, 8) => avx512::<true, 8, P>(left, right, target),
        (true, _) => avx512::<true, 16, P>(left, right, target),
    }
}

/// `VPMADDWD` adds pairs of products of sixteen bits. Weights of four bits are bytes without sign for `VPMADDUBSW`, whose
/// results are summed in sixteen bits: with the offset, a run of 32 gives at most 8 · 127 · 16 in each half of a word, whatever
/// part of it has been added.
#[target_feature(enable = "avx2,fma")]
fn avx2<const FOURS: bool, const WORDS: usize>(
    left: LeftTile<'_>,
    right: Panel<'_>,
) -> [[f32; COLUMNS]; ROWS] {
    // Loops over indices: a closure would be compiled without the instructions.
    let mut out = [[_mm256_setzero_ps(); 2]; ROWS];
    let runs = right.scales.len();
    let words = &right.words.as_chunks::<WORDS>().0[..runs];
    let lines = &left.words.as_chunks::<WORDS>().0[..runs];
    let (left_scales, offsets) = (&left.scales[..runs], &left.offsets[..runs]);
    for run in 0..runs {
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        if FOURS {
            for i in 0..ROWS {
                sums[i] = [_mm256_set1_epi32(offsets[run][i]); 2];
            }
        }
        for place in 0..WORDS {
            let weights = halves(&words[run][place].0);
            for i in 0..ROWS {
                let x = _mm256_set1_epi32(lines[run][place][i]);
                for half in 0..2 {
                    let sum = sums[i][half];
                    sums[i][half] = match FOURS {
                        true => _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights[half], x)),
                        false => _mm256_add_epi32(sum, _mm256_madd_epi16(weights[half], x)),
                    };
                }
            }
        }
        let scales = halves(&right.scales[run].0);
        for i in 0..ROWS {
            let scale = _mm256_set1_ps(left_scales[run][i]);
            for half in 0..2 {
                let sum = match FOURS {
                    true => _mm256_madd_epi16(sums[i][half], _mm256_set1_epi16(1)),
                    false => sums[i][half],
                };
                let scale = _mm256_mul_ps(_mm256_castsi256_ps(scales[half]), scale);
                out[i][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, out[i][half]);
            }
        }
    }
    let mut rows = [[0.0; COLUMNS]; ROWS];
    for i in 0..ROWS {
        for half in 0..2 {
            // SAFETY: each half of the row has eight values, and unaligned access is allowed.
            unsafe { _mm256_storeu_ps(rows[i][8 * half..].as_mut_ptr(), out[i][half]) }
        }
    }
    rows
}

/// Sixteen values of 32 bits in two registers.
#[inline]
#[target_feature(enable = "avx2")]
fn halves<T: Copy>(values: &[T; COLUMNS]) -> [__m256i; 2] {
    const { assert!(size_of::<T>() == 4) };
    let start = values.as_ptr().cast::<__m256i>();
    // SAFETY: the array has 64 bytes, read as two halves that need no alignment.
    unsafe { [_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))] }
}

/// `VPDPWSSD` and `VPDPBUSD` multiply and add in 32 bits. Twelve sums at a time keep both of their units busy.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn avx512<const FOURS: bool, const WORDS: usize, const P: usize>(
    left: LeftTile<'_>,
    right: [Panel<'_>; P],
    target: Target<'_, '_>,
) {
    // Loops over indices, as above.
    let mut out = [[_mm512_setzero_ps(); P]; ROWS];
    let runs = right[0].scales.len();
    let mut words: [&[[Line<i32>; WORDS]]; P] = [&[]; P];
    let mut scales: [&[Line<f32>]; P] = [&[]; P];
    for p in 0..P {
        words[p] = &right[p].words.as_chunks::<WORDS>().0[..runs];
        scales[p] = &right[p].scales[..runs];
    }
    let lines = &left.words.as_chunks::<WORDS>().0[..runs];
    let (left_scales, offsets) = (&left.scales[..runs], &left.offsets[..runs]);
    for line in target.out.iter() {
        for p in 0..P {
            fetch(line, target.column + p * COLUMNS);
        }
    }
    for run in 0..runs {
        let mut sums = [[_mm512_setzero_si512(); P]; ROWS];
        if FOURS {
            for i in 0..ROWS {
                sums[i] = [_mm512_set1_epi32(offsets[run][i]); P];
            }
        }
        for place in 0..WORDS {
            let mut weights = [_mm512_setzero_si512(); P];
            for p in 0..P {
                weights[p] = all(&words[p][run][place].0);
            }
            for i in 0..ROWS {
                let x = _mm512_set1_epi32(lines[run][place][i]);
                for p in 0..P {
                    sums[i][p] = match FOURS {
                        true => _mm512_dpbusd_epi32(sums[i][p], weights[p], x),
                        false => _mm512_dpwssd_epi32(sums[i][p], weights[p], x),
                    };
                }
            }
        }
        for p in 0..P {
            let scales = _mm512_castsi512_ps(all(&scales[p][run].0));
            for i in 0..ROWS {
                let scale = _mm512_mul_ps(scales, _mm512_set1_ps(left_scales[run][i]));
                out[i][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][p]), scale, out[i][p]);
            }
        }
    }
    for i in 0..target.out.len().min(ROWS) {
        for p in 0..P {
            add(target.out[i], target.column + p * COLUMNS, out[i][p]);
        }
    }
}

/// Fetches what will be added to.
#[inline]
fn fetch(line: &[f32], column: usize) {
    if let Some(place) = line.get(column) {
        prefetch(place, 0);
    }
}

/// Adds sixteen sums, as many as `line` has room for from `column` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn add(line: &mut [f32], column: usize, sums: __m512) {
    let count = line.len().saturating_sub(column).min(COLUMNS);
    let mask = ((1u32 << count) - 1) as __mmask16;
    let place = line.as_mut_ptr().wrapping_add(column);
    // SAFETY: the mask leaves `count` values, which the line has from `column` on; unaligned access is allowed.
    unsafe {
        let before = _mm512_maskz_loadu_ps(mask, place);
        _mm512_mask_storeu_ps(place, mask, _mm512_add_ps(before, sums));
    }
}

/// Sixteen values of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn all<T: Copy>(values: &[T; COLUMNS]) -> __m512i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: the array has 64 bytes, and unaligned access is allowed.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}
