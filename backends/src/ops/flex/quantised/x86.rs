//! The same sums with AVX2, and with AVX-512 VNNI.

#![expect(clippy::needless_range_loop, reason = "closures are compiled without the instructions")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::inputs::{Input, Inputs, LANES};
use super::parts::{blocks, of_scheme, some_of};
use super::{BLOCK, Row, Rows, TILE, quarters};
use crate::cpu::{Level, prefetch};
use crate::quant::QuantScheme;

/// How far ahead of the products codes are fetched, in bytes.
const AHEAD: usize = 4096;

/// Writes the sums of all weight rows for the activation rows from `first` of `m` on, up to [`TILE`]; `false` where `level` has
/// no kernel here.
pub fn tile(
    out: &mut [f32],
    (m, first): (usize, usize),
    rows: Rows<'_>,
    inputs: &Inputs,
    scheme: QuantScheme,
    level: Level,
) -> bool {
    let wide = has_vnni(level);
    if level < Level::Avx2 {
        return false;
    }
    assert!(level_is_present(if wide { level } else { Level::Avx2 }));
    let end = m.min(first + TILE);
    match (wide, end - first) {
        (true, 7..) => sized_512::<8>(out, m, first..end, rows, inputs, scheme),
        (true, 5 | 6) => sized_512::<6>(out, m, first..end, rows, inputs, scheme),
        (true, 4) => sized_512::<4>(out, m, first..end, rows, inputs, scheme),
        (true, 3) => sized_512::<3>(out, m, first..end, rows, inputs, scheme),
        (true, 2) => sized_512::<2>(out, m, first..end, rows, inputs, scheme),
        (true, _) => sized_512::<1>(out, m, first..end, rows, inputs, scheme),
        (false, _) => (first..end).step_by(4).for_each(|first| match end - first {
            4.. => sized_256::<4>(out, m, first..first + 4, rows, inputs, scheme),
            3 => sized_256::<3>(out, m, first..end, rows, inputs, scheme),
            2 => sized_256::<2>(out, m, first..end, rows, inputs, scheme),
            _ => sized_256::<1>(out, m, first..end, rows, inputs, scheme),
        }),
    }
    true
}

/// Activation row `i` of `m` and weight row `j` have their sum at `j · m + i`.
fn sized_512<const M: usize>(
    out: &mut [f32],
    m: usize,
    some: Range<usize>,
    rows: Rows<'_>,
    inputs: &Inputs,
    scheme: QuantScheme,
) {
    let inputs: [&[Input]; M] = some_of(inputs, &some);
    // SAFETY: [`tile`] has just asked the processor for the features; there is no other precondition.
    unsafe { of_scheme!(scheme, avx512::<M>(out, m, some, rows, inputs)) }
}

/// As [`sized_512`].
fn sized_256<const M: usize>(
    out: &mut [f32],
    m: usize,
    some: Range<usize>,
    rows: Rows<'_>,
    inputs: &Inputs,
    scheme: QuantScheme,
) {
    let inputs: [&[Input]; M] = some_of(inputs, &some);
    // SAFETY: as above.
    unsafe { of_scheme!(scheme, avx2::<M>(out, m, some, rows, inputs)) }
}

/// Whether sums of products are of 32 bits, by VNNI.
pub fn has_vnni(level: Level) -> bool {
    level >= Level::Avx512 && is_x86_feature_detected!("avx512vnni")
}

pub fn level_is_present(level: Level) -> bool {
    match level {
        Level::Portable => true,
        Level::Neon => false,
        Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        Level::Avx512 | Level::Amx => {
            is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
        }
    }
}

/// `VPDPBUSD` multiplies unsigned weights (with their offset) with signed activations; the sums begin with what the offset
/// adds, negated. Two weight rows are computed together, so that activations are read half as often.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn avx512<const BITS: usize, const GROUP: usize, const M: usize>(
    out: &mut [f32],
    m: usize,
    some: Range<usize>,
    rows: Rows<'_>,
    inputs: [&[Input]; M],
) {
    let count = out.len() / m;
    let mut j = 0;
    // One activation row is bound by memory, which is read fastest in one stream.
    while M > 1 && j + 1 < count {
        let [first, second] =
            pair_512::<BITS, GROUP, M, 2>([rows.row(j), rows.row(j + 1)], &inputs);
        out[j * m..][some.clone()].copy_from_slice(&first[..some.len()]);
        out[(j + 1) * m..][some.clone()].copy_from_slice(&second[..some.len()]);
        j += 2;
    }
    while j < count {
        let [only] = pair_512::<BITS, GROUP, M, 1>([rows.row(j)], &inputs);
        out[j * m..][some.clone()].copy_from_slice(&only[..some.len()]);
        j += 1;
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn pair_512<const BITS: usize, const GROUP: usize, const M: usize, const P: usize>(
    rows: [Row<'_>; P],
    inputs: &[&[Input]; M],
) -> [[f32; M]; P] {
    match BITS {
        8 => sums_512::<8, GROUP, M, P, BLOCK>(rows, inputs),
        _ => sums_512::<4, GROUP, M, P, { BLOCK / 2 }>(rows, inputs),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sums_512<
    const BITS: usize,
    const GROUP: usize,
    const M: usize,
    const P: usize,
    const BYTES: usize,
>(
    rows: [Row<'_>; P],
    inputs: &[&[Input]; M],
) -> [[f32; M]; P] {
    // Loops over indices: a closure would be compiled without the instructions.
    let mut codes: [&[[u8; BYTES]]; P] = [&[]; P];
    let mut last = [[0; BYTES]; P];
    for p in 0..P {
        (codes[p], last[p]) = blocks::<BYTES>(rows[p].codes);
    }
    let (all, whole) = (inputs[0].len(), codes[0].len().min(inputs[0].len()));
    let mut lines = *inputs;
    for i in 0..M {
        lines[i] = &lines[i][..all];
    }
    for p in 0..P {
        codes[p] = &codes[p][..whole];
    }
    for row in rows {
        assert!(row.scales.len() * GROUP >= whole * BLOCK, "a scale for every group");
    }
    let mut sums = [[_mm512_setzero_ps(); P]; M];
    for block in 0..whole {
        let mut weights = [_mm512_setzero_si512(); P];
        let mut scales = [_mm512_setzero_ps(); P];
        for p in 0..P {
            prefetch(&codes[p][block], AHEAD);
            weights[p] = weights_512(&codes[p][block]);
            // SAFETY: the assertion says so for the last of these blocks.
            scales[p] = unsafe { scales_512::<BITS, GROUP>(rows[p].scales, block) };
        }
        for i in 0..M {
            add_512(&mut sums[i], &lines[i][block], weights, scales);
        }
    }
    for block in whole..all {
        for p in 0..P {
            let weights = [weights_512(&last[p])];
            let scales = [spread_512::<BITS, GROUP>(quarters(rows[p].scales, GROUP, block))];
            for i in 0..M {
                let mut sum = [sums[i][p]];
                add_512(&mut sum, &lines[i][block], weights, scales);
                sums[i][p] = sum[0];
            }
        }
    }
    let mut totals = [[0.0; M]; P];
    for p in 0..P {
        for i in 0..M {
            totals[p][i] = _mm512_reduce_add_ps(sums[i][p]);
        }
    }
    totals
}

/// Adds the products of a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_512<const P: usize>(
    sums: &mut [__m512; P],
    input: &Input,
    weights: [__m512i; P],
    scales: [__m512; P],
) {
    // SAFETY: all references are to 64 bytes.
    let (x, offsets, input_scales) = unsafe {
        let spread = _mm512_castsi512_ps(load_512(&input.spread));
        (load_512(&input.codes), load_512(&input.offsets), spread)
    };
    for p in 0..P {
        let products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(offsets, weights[p], x));
        sums[p] = _mm512_fmadd_ps(products, _mm512_mul_ps(scales[p], input_scales), sums[p]);
    }
}

/// The scales of a block in the lanes where their sums are.
///
/// # Safety
/// There must be scales for all of the block.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn scales_512<const BITS: usize, const GROUP: usize>(
    scales: &[f32],
    block: usize,
) -> __m512 {
    let first = scales.as_ptr().wrapping_add(block * BLOCK / GROUP);
    // SAFETY: the caller vouches for as many scales as the block has groups.
    unsafe {
        match (GROUP, BITS) {
            (16, _) => {
                let four = _mm512_castps128_ps512(_mm_loadu_ps(first));
                let lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                _mm512_permutexvar_ps(lanes, four)
            }
            (32, _) => {
                let second = _mm512_set1_ps(*first.add(1));
                let lanes = if BITS == 8 { 0xff00 } else { 0xf0f0 };
                _mm512_mask_blend_ps(lanes, _mm512_set1_ps(*first), second)
            }
            _ => _mm512_set1_ps(*first),
        }
    }
}

/// Four for each sixteen bits.
const HIGH: i64 = 0x0004_0004_0004_0004;

/// A block of weights as bytes without sign: those of eight bits with an offset of 128, those of four the even places before
/// the odd ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn weights_512<const BYTES: usize>(codes: &[u8; BYTES]) -> __m512i {
    if BYTES == BLOCK {
        // SAFETY: the reference is to 64 bytes.
        let signed = unsafe { load_512::<[u8; BYTES]>(codes) };
        return _mm512_xor_si512(signed, _mm512_set1_epi8(i8::MIN));
    }
    const { assert!(BYTES == BLOCK || BYTES == BLOCK / 2) };
    // SAFETY: the reference is to 32 bytes.
    let pairs = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
    // The even places below, the odd ones above, which are the high halves.
    let shifts = _mm512_set_epi64(HIGH, HIGH, HIGH, HIGH, 0, 0, 0, 0);
    let both = _mm512_srlv_epi16(_mm512_broadcast_i64x4(pairs), shifts);
    _mm512_and_si512(both, _mm512_set1_epi8(15))
}

/// # Safety
/// `T` must have 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_512<T>(values: &T) -> __m512i {
    // SAFETY: the caller vouches for the size.
    unsafe { _mm512_loadu_si512(std::ptr::from_ref(values).cast()) }
}

/// The scales of the quarters of a block, in the lanes where these are.
#[inline]
#[target_feature(enable = "avx512f")]
fn spread_512<const BITS: usize, const GROUP: usize>(quarters: [f32; 4]) -> __m512 {
    let [first, second, third, fourth] = quarters.map(|scale| _mm512_set1_ps(scale));
    match (GROUP, BITS) {
        (16, _) => {
            let low = _mm512_mask_blend_ps(0x00f0, first, second);
            _mm512_mask_blend_ps(0xff00, low, _mm512_mask_blend_ps(0xf000, third, fourth))
        }
        (32, 8) => _mm512_mask_blend_ps(0xff00, first, third),
        (32, _) => _mm512_mask_blend_ps(0xf0f0, first, third),
        _ => first,
    }
}

/// `VPMADDUBSW` adds pairs of products in sixteen bits: 2 · 127 · 127 fits, so weights of eight bits go in as magnitudes,
/// with their signs on the activations; weights of four bits with their offset.
#[target_feature(enable = "avx2,fma")]
fn avx2<const BITS: usize, const GROUP: usize, const M: usize>(
    out: &mut [f32],
    m: usize,
    some: Range<usize>,
    rows: Rows<'_>,
    inputs: [&[Input]; M],
) {
    for (j, out) in out.chunks_exact_mut(m).enumerate() {
        let sums = match BITS {
            8 => eight_256::<GROUP, M>(rows.row(j), &inputs),
            _ => four_256::<GROUP, M>(rows.row(j), &inputs),
        };
        out[some.clone()].copy_from_slice(&sums);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn eight_256<const GROUP: usize, const M: usize>(row: Row<'_>, inputs: &[&[Input]; M]) -> [f32; M] {
    let ones = _mm256_set1_epi16(1);
    let (whole, last) = blocks::<BLOCK>(row.codes);
    let all = inputs[0].len();
    let mut sums = [_mm256_setzero_ps(); M];
    for block in 0..all {
        let codes = if block < whole.len() { &whole[block] } else { &last };
        prefetch(codes, AHEAD);
        let weight_scales = quarters(row.scales, GROUP, block);
        let weights = two_256(codes);
        let sizes = [_mm256_abs_epi8(weights[0]), _mm256_abs_epi8(weights[1])];
        for i in 0..M {
            let input = &inputs[i][block];
            let (x, input_scales) = (two_256(&input.codes), input.scales());
            let mut products = [_mm256_setzero_si256(); 2];
            for h in 0..2 {
                let signed = _mm256_sign_epi8(x[h], weights[h]);
                products[h] = _mm256_madd_epi16(_mm256_maddubs_epi16(sizes[h], signed), ones);
            }
            if GROUP >= BLOCK {
                let products = _mm256_cvtepi32_ps(_mm256_add_epi32(products[0], products[1]));
                let scale = _mm256_set1_ps(weight_scales[0] * input_scales[0]);
                sums[i] = _mm256_fmadd_ps(products, scale, sums[i]);
                continue;
            }
            for h in 0..2 {
                let [first, second] = [weight_scales[2 * h], weight_scales[2 * h + 1]];
                let input_scale = input_scales[h];
                let scale = match GROUP {
                    16 => spread_256::<32>([first * input_scale, second * input_scale]),
                    _ => _mm256_set1_ps(first * input_scale),
                };
                sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[h]), scale, sums[i]);
            }
        }
    }
    totals_256(sums)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn four_256<const GROUP: usize, const M: usize>(row: Row<'_>, inputs: &[&[Input]; M]) -> [f32; M] {
    let (ones, mask) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15));
    let (whole, last) = blocks::<{ BLOCK / 2 }>(row.codes);
    let all = inputs[0].len();
    let mut sums = [_mm256_setzero_ps(); M];
    for block in 0..all {
        let codes = if block < whole.len() { &whole[block] } else { &last };
        prefetch(codes, AHEAD);
        let [first, _, second, _] = quarters(row.scales, GROUP, block);
        let weight_scales = spread_256::<GROUP>([first, second]);
        // SAFETY: the reference is to 32 bytes.
        let pairs = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        let low = _mm256_and_si256(pairs, mask);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(pairs), mask);
        for i in 0..M {
            let input = &inputs[i][block];
            let [even, odd] = two_256(&input.codes);
            let pairs =
                _mm256_add_epi16(_mm256_maddubs_epi16(low, even), _mm256_maddubs_epi16(high, odd));
            let offsets = half_256(&input.offsets);
            let products = _mm256_add_epi32(_mm256_madd_epi16(pairs, ones), offsets);
            // SAFETY: the reference is to eight values, and unaligned access is allowed.
            let scales = unsafe { _mm256_loadu_ps(input.spread.as_ptr()) };
            let scales = _mm256_mul_ps(weight_scales, scales);
            sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scales, sums[i]);
        }
    }
    totals_256(sums)
}

#[inline]
#[target_feature(enable = "avx2")]
fn two_256<T: Copy>(values: &[T; BLOCK]) -> [__m256i; 2] {
    const { assert!(size_of::<T>() == 1) };
    let start = values.as_ptr().cast::<__m256i>();
    // SAFETY: the array has 64 bytes, read as two halves that need no alignment.
    unsafe { [_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn half_256(values: &[i32; LANES]) -> __m256i {
    // SAFETY: the array has 64 bytes, of which 32 are read, and unaligned access is allowed.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn spread_256<const GROUP: usize>([first, second]: [f32; 2]) -> __m256 {
    let first = _mm256_set1_ps(first);
    match GROUP {
        32 => _mm256_blend_ps::<0xf0>(first, _mm256_set1_ps(second)),
        _ => first,
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn totals_256<const M: usize>(sums: [__m256; M]) -> [f32; M] {
    let mut totals = [0.0; M];
    for i in 0..M {
        totals[i] = total_256(sums[i]);
    }
    totals
}

#[inline]
#[target_feature(enable = "avx2")]
fn total_256(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
