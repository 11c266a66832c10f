//! Products with AVX-512 VNNI: `VPDPBUSD` multiplies weights, which have no sign with their offset, with signed activations, and
//! adds four products to a lane.

#![expect(clippy::needless_range_loop, reason = "closures are compiled without the instructions")]

use std::arch::x86_64::*;

use super::super::BLOCK;
use super::super::inputs::Input;
use super::avx2::{bytes, load, load_signed, nibbles, register, spread_four};
use super::spans::{Codes, Eight, Words};

pub const fn words(_bits: usize) -> Words {
    Words::Fours
}

/// As that of AVX2.
pub const fn has_offset(_bits: usize) -> bool {
    true
}

/// The products of the two halves of a block of weights of eight bits with their offset, four in a lane.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn eight(codes: &[u8], input: &Input) -> [__m256i; 2] {
    let mut halves = [_mm256_setzero_si256(); 2];
    for half in 0..2 {
        let weights = _mm256_xor_si256(load(codes, half * BLOCK / 2), _mm256_set1_epi8(i8::MIN));
        let x = load_signed(&input.codes, half * BLOCK / 2);
        halves[half] = _mm256_dpbusd_epi32(_mm256_setzero_si256(), weights, x);
    }
    halves
}

/// The products of a block of weights of four bits with their offset, eight in a lane.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn four(codes: &[u8], input: &Input) -> __m256i {
    let [low, high] = nibbles(codes);
    let even = load_signed(&input.codes, 0);
    let even = _mm256_dpbusd_epi32(_mm256_setzero_si256(), low, even);
    _mm256_dpbusd_epi32(even, high, load_signed(&input.codes, BLOCK / 2))
}

/// Writes codes as words of four bytes without sign; of four bits, in each unit even places before odd ones.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn spread<const BITS: usize>(codes: &[u8], words: &mut [i32]) {
    if BITS == 4 {
        return spread_four(codes, words);
    }
    let (eights, _) = words.as_chunks_mut::<8>();
    for (half, words) in eights.iter_mut().enumerate().take(codes.len() / 32) {
        let weights = _mm256_xor_si256(load(codes, half * 32), _mm256_set1_epi8(i8::MIN));
        // SAFETY: the reference is to 32 bytes, and unaligned access is allowed.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), weights) };
    }
}

/// The sums of a unit: of `P` weight rows, for eight activation rows each.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub fn unit<const BITS: usize, const P: usize>(
    weights: [&[i32]; P],
    x: &[Codes],
    offsets: &Eight<i32>,
) -> [__m256i; P] {
    // Two sums each, so that none waits for another.
    let mut sums = [[register(offsets), _mm256_setzero_si256()]; P];
    for pair in 0..x.len() / 2 {
        for side in 0..2 {
            let place = 2 * pair + side;
            let x = bytes(&x[place]);
            for p in 0..P {
                let weights = _mm256_set1_epi32(weights[p][place]);
                sums[p][side] = _mm256_dpbusd_epi32(sums[p][side], weights, x);
            }
        }
    }
    let mut totals = [_mm256_setzero_si256(); P];
    for p in 0..P {
        totals[p] = _mm256_add_epi32(sums[p][0], sums[p][1]);
    }
    totals
}
