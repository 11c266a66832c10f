//! Products with AVX2. `VPMADDUBSW` adds pairs of products in sixteen bits: 2 · 128 · 127 fits, so weights of eight bits go in
//! as magnitudes, with their signs on the activations; weights of four bits with their offset.

#![expect(clippy::needless_range_loop, reason = "closures are compiled without the instructions")]

use std::arch::x86_64::*;

use super::super::BLOCK;
use super::super::inputs::Input;
use super::spans::{Codes, Eight, Words};

pub const fn words(bits: usize) -> Words {
    if bits == 8 { Words::Pairs } else { Words::Fours }
}

/// Whether weights are multiplied with an offset.
pub const fn has_offset(bits: usize) -> bool {
    bits == 4
}

/// The products of the two halves of a block of weights of eight bits, four in a lane.
#[inline]
#[target_feature(enable = "avx2")]
pub fn eight(codes: &[u8], input: &Input) -> [__m256i; 2] {
    let ones = _mm256_set1_epi16(1);
    let mut halves = [_mm256_setzero_si256(); 2];
    for half in 0..2 {
        let weights = load(codes, half * BLOCK / 2);
        let signed = _mm256_sign_epi8(load_signed(&input.codes, half * BLOCK / 2), weights);
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), signed);
        halves[half] = _mm256_madd_epi16(pairs, ones);
    }
    halves
}

/// The products of a block of weights of four bits with their offset, eight in a lane.
#[inline]
#[target_feature(enable = "avx2")]
pub fn four(codes: &[u8], input: &Input) -> __m256i {
    let (ones, [low, high]) = (_mm256_set1_epi16(1), nibbles(codes));
    let even = _mm256_maddubs_epi16(low, load_signed(&input.codes, 0));
    let odd = _mm256_maddubs_epi16(high, load_signed(&input.codes, BLOCK / 2));
    _mm256_madd_epi16(_mm256_add_epi16(even, odd), ones)
}

/// Writes codes as words: of eight bits as pairs of sixteen; of four as bytes, in each unit even places before odd ones.
#[inline]
#[target_feature(enable = "avx2")]
pub fn spread<const BITS: usize>(codes: &[u8], words: &mut [i32]) {
    if BITS == 4 {
        return spread_four(codes, words);
    }
    let (sixteens, _) = codes.as_chunks::<16>();
    let (eights, _) = words.as_chunks_mut::<8>();
    for (codes, words) in sixteens.iter().zip(eights) {
        // SAFETY: the references are to 16 and 32 bytes, and unaligned access is allowed.
        unsafe {
            let wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(codes.as_ptr().cast()));
            _mm256_storeu_si256(words.as_mut_ptr().cast(), wide);
        }
    }
}

/// As [`spread`].
#[inline]
#[target_feature(enable = "avx2")]
pub fn spread_four(codes: &[u8], words: &mut [i32]) {
    let (blocks, _) = codes.as_chunks::<{ BLOCK / 2 }>();
    let (sixteens, _) = words.as_chunks_mut::<16>();
    for (codes, words) in blocks.iter().zip(sixteens) {
        let [low, high] = nibbles(codes);
        let units = [
            _mm256_permute2x128_si256::<0x20>(low, high),
            _mm256_permute2x128_si256::<0x31>(low, high),
        ];
        let (halves, _) = words.as_chunks_mut::<8>();
        for half in 0..2 {
            // SAFETY: the reference is to 32 bytes, and unaligned access is allowed.
            unsafe { _mm256_storeu_si256(halves[half].as_mut_ptr().cast(), units[half]) };
        }
    }
}

/// The sums of a unit: of `P` weight rows, for eight activation rows each.
#[inline]
#[target_feature(enable = "avx2")]
pub fn unit<const BITS: usize, const P: usize>(
    weights: [&[i32]; P],
    x: &[Codes],
    offsets: &Eight<i32>,
) -> [__m256i; P] {
    if BITS == 4 {
        return unit_four(weights, x, offsets);
    }
    let mut sums = [_mm256_setzero_si256(); P];
    for place in 0..x.len() {
        for half in 0..2 {
            // SAFETY: the reference is to 16 bytes, and unaligned access is allowed.
            let pairs = unsafe { _mm_loadu_si128(x[place].0[half].as_ptr().cast()) };
            let pairs = _mm256_cvtepi8_epi16(pairs);
            for p in 0..P {
                let weights = _mm256_set1_epi32(weights[p][2 * place + half]);
                sums[p] = _mm256_add_epi32(sums[p], _mm256_madd_epi16(weights, pairs));
            }
        }
    }
    sums
}

/// As [`unit`]. 32 products are summed in sixteen bits: 16 pairs of at most 2 · 15 · 127 in two lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn unit_four<const P: usize>(
    weights: [&[i32]; P],
    x: &[Codes],
    offsets: &Eight<i32>,
) -> [__m256i; P] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); P];
    for place in 0..x.len() {
        let x = bytes(&x[place]);
        for p in 0..P {
            let products = _mm256_maddubs_epi16(_mm256_set1_epi32(weights[p][place]), x);
            sums[p] = _mm256_add_epi16(sums[p], products);
        }
    }
    for p in 0..P {
        sums[p] = _mm256_add_epi32(_mm256_madd_epi16(sums[p], ones), register(offsets));
    }
    sums
}

/// The low and the high halves of 32 bytes: the weights at even places, and those at odd ones.
#[inline]
#[target_feature(enable = "avx2")]
pub fn nibbles(codes: &[u8]) -> [__m256i; 2] {
    let (pairs, mask) = (load(codes, 0), _mm256_set1_epi8(15));
    [_mm256_and_si256(pairs, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(pairs), mask)]
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn register(eight: &Eight<i32>) -> __m256i {
    // SAFETY: the reference is to eight numbers, aligned as a register is.
    unsafe { _mm256_load_si256(eight.0.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn bytes(codes: &Codes) -> __m256i {
    // SAFETY: the reference is to 32 bytes, aligned as a register is.
    unsafe { _mm256_load_si256(codes.0.as_ptr().cast()) }
}

/// 32 bytes from `first` on.
#[inline]
#[target_feature(enable = "avx2")]
pub fn load(bytes: &[u8], first: usize) -> __m256i {
    let bytes = &bytes[first..first + 32];
    // SAFETY: the slice has 32 bytes, and unaligned access is allowed.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// As [`load`].
#[inline]
#[target_feature(enable = "avx2")]
pub fn load_signed(bytes: &[i8; BLOCK], first: usize) -> __m256i {
    let bytes = &bytes[first..first + 32];
    // SAFETY: as above.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
