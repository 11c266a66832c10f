//! The same sums with AVX2, and with AVX-512 VNNI.

use std::arch::x86_64::*;

use super::inputs::{Input, Inputs, LANES};
use super::{BLOCK, Row, quarters};
use crate::cpu::Level;
use crate::quant::QuantScheme;

/// Writes the sums for the activation rows from `first` on, up to four; `false` where `level` has no kernel here.
pub fn tile(
    out: &mut [f32],
    row: Row<'_>,
    inputs: &Inputs,
    first: usize,
    scheme: QuantScheme,
    level: Level,
) -> bool {
    match out.len() {
        4 => sized::<4>(out, row, std::array::from_fn(|i| inputs.row(first + i)), scheme, level),
        3 => sized::<3>(out, row, std::array::from_fn(|i| inputs.row(first + i)), scheme, level),
        2 => sized::<2>(out, row, std::array::from_fn(|i| inputs.row(first + i)), scheme, level),
        _ => sized::<1>(out, row, [inputs.row(first)], scheme, level),
    }
}

fn sized<const M: usize>(
    out: &mut [f32],
    row: Row<'_>,
    inputs: [Input<'_>; M],
    scheme: QuantScheme,
    level: Level,
) -> bool {
    let sums = match (level, scheme.bits()) {
        (Level::Avx512, bits) if is_x86_feature_detected!("avx512vnni") => {
            assert!(level_is_present(level));
            // SAFETY: the processor has just been asked for the features; there is no other precondition.
            unsafe {
                match (bits, scheme.group()) {
                    (8, 16) => avx512::<8, 16, M>(row, inputs),
                    (8, 32) => avx512::<8, 32, M>(row, inputs),
                    (8, 64) => avx512::<8, 64, M>(row, inputs),
                    (8, _) => avx512::<8, 128, M>(row, inputs),
                    (_, 32) => avx512::<4, 32, M>(row, inputs),
                    (_, 64) => avx512::<4, 64, M>(row, inputs),
                    _ => avx512::<4, 128, M>(row, inputs),
                }
            }
        }
        (Level::Avx512 | Level::Avx2, bits) => {
            assert!(level_is_present(Level::Avx2));
            // SAFETY: as above.
            unsafe {
                match (bits, scheme.group()) {
                    (8, 16) => avx2::<8, 16, M>(row, inputs),
                    (8, 32) => avx2::<8, 32, M>(row, inputs),
                    (8, 64) => avx2::<8, 64, M>(row, inputs),
                    (8, _) => avx2::<8, 128, M>(row, inputs),
                    (_, 32) => avx2::<4, 32, M>(row, inputs),
                    (_, 64) => avx2::<4, 64, M>(row, inputs),
                    _ => avx2::<4, 128, M>(row, inputs),
                }
            }
        }
        (Level::Portable, _) => return false,
    };
    out.copy_from_slice(&sums);
    true
}

fn level_is_present(level: Level) -> bool {
    match level {
        Level::Portable => true,
        Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        Level::Avx512 => {
            is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
        }
    }
}

/// The blocks of `N` bytes of a row: whole ones, and the last one filled with zeros where it is not whole.
fn blocks<const N: usize>(codes: &[u8]) -> (&[[u8; N]], Option<[u8; N]>) {
    let (whole, rest) = codes.as_chunks::<N>();
    let last = (!rest.is_empty()).then(|| {
        let mut last = [0; N];
        last[..rest.len()].copy_from_slice(rest);
        last
    });
    (whole, last)
}

/// Calls `$step(block, codes)` for every block of the row.
macro_rules! each_block {
    ($row:ident, $bytes:literal, $step:expr) => {{
        let (whole, last) = blocks::<$bytes>($row.codes);
        for (block, codes) in whole.iter().enumerate() {
            $step(block, codes);
        }
        if let Some(codes) = &last {
            $step(whole.len(), codes);
        }
    }};
}

/// `VPDPBUSD` multiplies unsigned weights (with their offset) with signed activations; the sums begin with what the offset
/// adds, negated.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn avx512<const BITS: usize, const GROUP: usize, const M: usize>(
    row: Row<'_>,
    inputs: [Input<'_>; M],
) -> [f32; M] {
    let mut sums = [_mm512_setzero_ps(); M];
    let mut step = |block: usize, weights: __m512i| {
        let scales = spread_512::<BITS, GROUP>(quarters(row.scales, GROUP, block));
        for (sum, input) in sums.iter_mut().zip(&inputs) {
            let (x, offsets) = (&input.codes[block], &input.offsets[block]);
            // SAFETY: both references are to 64 bytes.
            let (x, offsets) = unsafe { (load_512(x), load_512(offsets)) };
            let products = _mm512_dpbusd_epi32(offsets, weights, x);
            let [first, second] = input.scales[block];
            let halves = [first, first, second, second];
            // Activations have no groups smaller than half a block.
            let inputs = match GROUP {
                16 => spread_512::<BITS, 32>(halves),
                _ => spread_512::<BITS, GROUP>(halves),
            };
            let scales = _mm512_mul_ps(scales, inputs);
            *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scales, *sum);
        }
    };
    match BITS {
        8 => each_block!(row, 64, |block, codes: &[u8; 64]| {
            // SAFETY: the reference is to 64 bytes.
            let signed = unsafe { load_512(codes) };
            step(block, _mm512_xor_si512(signed, _mm512_set1_epi8(i8::MIN)));
        }),
        _ => each_block!(row, 32, |block, codes: &[u8; 32]| {
            // SAFETY: the reference is to 32 bytes.
            let pairs = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
            let low = _mm512_castsi256_si512(pairs);
            let both = _mm512_inserti64x4::<1>(low, _mm256_srli_epi16::<4>(pairs));
            step(block, _mm512_and_si512(both, _mm512_set1_epi8(15)));
        }),
    }
    sums.map(|sum| _mm512_reduce_add_ps(sum))
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
    row: Row<'_>,
    inputs: [Input<'_>; M],
) -> [f32; M] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_ps(); M];
    let mut add = |i: usize, products: __m256i, scales: __m256| {
        sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scales, sums[i]);
    };
    match BITS {
        8 => each_block!(row, 64, |block: usize, codes: &[u8; 64]| {
            let weight_scales = quarters(row.scales, GROUP, block);
            let weights = two_256(codes);
            let sizes = weights.map(|w| _mm256_abs_epi8(w));
            for (i, input) in inputs.iter().enumerate() {
                let x = two_256(&input.codes[block]);
                let half = |h: usize| {
                    let pairs = _mm256_maddubs_epi16(sizes[h], _mm256_sign_epi8(x[h], weights[h]));
                    _mm256_madd_epi16(pairs, ones)
                };
                let scale = |h: usize| {
                    let one = input.scales[block][h];
                    let two = [weight_scales[2 * h] * one, weight_scales[2 * h + 1] * one];
                    if GROUP == 16 { spread_256::<32>(two) } else { _mm256_set1_ps(two[0]) }
                };
                match GROUP {
                    16 | 32 => (0..2).for_each(|h| add(i, half(h), scale(h))),
                    _ => add(i, _mm256_add_epi32(half(0), half(1)), scale(0)),
                }
            }
        }),
        _ => each_block!(row, 32, |block: usize, codes: &[u8; 32]| {
            let [first, _, second, _] = quarters(row.scales, GROUP, block);
            let weight_scales = spread_256::<GROUP>([first, second]);
            // SAFETY: the reference is to 32 bytes.
            let pairs = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
            let mask = _mm256_set1_epi8(15);
            let low = _mm256_and_si256(pairs, mask);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(pairs), mask);
            for (i, input) in inputs.iter().enumerate() {
                let [even, odd] = two_256(&input.codes[block]);
                let pairs = _mm256_add_epi16(
                    _mm256_maddubs_epi16(low, even),
                    _mm256_maddubs_epi16(high, odd),
                );
                let [a, b] = offsets_256(&input.offsets[block]);
                let products = _mm256_madd_epi16(pairs, ones);
                let products = _mm256_add_epi32(products, _mm256_add_epi32(a, b));
                let scales = spread_256::<GROUP>(input.scales[block]);
                add(i, products, _mm256_mul_ps(weight_scales, scales));
            }
        }),
    }
    sums.map(|sum| total_256(sum))
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
fn offsets_256(values: &[i32; LANES]) -> [__m256i; 2] {
    let start = values.as_ptr().cast::<__m256i>();
    // SAFETY: the array has 64 bytes, read as two halves that need no alignment.
    unsafe { [_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))] }
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
fn total_256(sum: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
