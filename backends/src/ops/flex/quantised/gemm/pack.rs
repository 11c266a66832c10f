//! Weight rows repacked into panels.

#![expect(clippy::needless_range_loop, reason = "closures are compiled without the instructions")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::x86::level_is_present;
use super::{BLOCK, COLUMNS, Layout, Weights};
use crate::cpu::Level;

/// Weight rows that are repacked together.
const EIGHT: usize = 8;

/// A part of [`COLUMNS`] weight rows: words, and the scales of the runs that these make up.
#[derive(Clone, Copy)]
pub struct Panel<'a> {
    pub words: &'a [Line<i32>],
    pub scales: &'a [Line<f32>],
}

/// A value of each column: a line of the cache, because a register that is read from two costs several times as much on some
/// processors.
#[repr(align(64))]
#[derive(Clone, Copy)]
pub struct Line<T>(pub [T; COLUMNS]);

/// The panels of a task.
#[derive(Default)]
pub struct Right {
    words: Vec<Line<i32>>,
    scales: Vec<Line<f32>>,
    row: Vec<f32>,
    runs: usize,
}

impl Right {
    /// Repacks some blocks of some rows.
    pub fn pack(
        &mut self,
        (weights, rows): (Weights<'_>, Range<usize>),
        blocks: Range<usize>,
        layout: Layout,
    ) {
        let panels = rows.len().div_ceil(COLUMNS);
        let words = blocks.len() * layout.words;
        self.runs = blocks.len() * layout.runs;
        self.words.resize(panels * words, Line([0; COLUMNS]));
        self.scales.resize(panels * self.runs, Line([0.0; COLUMNS]));
        self.pack_scales((weights, rows.clone()), blocks.clone(), layout);
        for (panel, to) in self.words.chunks_exact_mut(words.max(1)).enumerate() {
            for half in 0..COLUMNS / EIGHT {
                let first = rows.start + panel * COLUMNS + half * EIGHT;
                let rows = first.min(rows.end)..rows.end.min(first + EIGHT);
                for (block, to) in blocks.clone().zip(to.chunks_exact_mut(layout.words)) {
                    let codes = codes(weights, rows.clone(), block);
                    eight_rows(&codes, to, half, (weights.scheme.bits(), layout.fours));
                }
            }
        }
    }

    fn pack_scales(
        &mut self,
        (weights, rows): (Weights<'_>, Range<usize>),
        blocks: Range<usize>,
        layout: Layout,
    ) {
        let (group, run) = (weights.scheme.group(), BLOCK / layout.runs);
        let first = blocks.start * BLOCK / group;
        let end = (blocks.end * BLOCK).div_ceil(group).min(weights.scheme.groups(weights.k));
        self.row.resize(end - first, 0.0);
        for (place, row) in rows.enumerate() {
            let (panel, column) = (place / COLUMNS, place % COLUMNS);
            weights.some_scales(row, first, &mut self.row);
            let scales = &mut self.scales[panel * self.runs..][..self.runs];
            for (index, to) in scales.iter_mut().enumerate() {
                let value = blocks.start * BLOCK + index * run;
                to.0[column] = self.row.get(value / group - first).copied().unwrap_or(0.0);
            }
        }
    }

    /// The panels, one after the other.
    pub fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        let scales = self.scales.chunks_exact(self.runs.max(1));
        let words = self.words.chunks_exact((self.words.len() / scales.len().max(1)).max(1));
        words.zip(scales).map(|(words, scales)| Panel { words, scales })
    }
}

/// The codes of one block of up to eight rows; zeros stand where there are none.
fn codes(weights: Weights<'_>, rows: Range<usize>, block: usize) -> [[u8; BLOCK]; EIGHT] {
    let bytes = BLOCK * weights.scheme.bits() / 8;
    let mut all = [[0; BLOCK]; EIGHT];
    for (row, to) in rows.zip(&mut all) {
        let codes = weights.codes(row);
        let codes = &codes[block * bytes..codes.len().min((block + 1) * bytes)];
        match codes.len() == bytes {
            // Of known size, so that it is moved by whole registers.
            true if bytes == BLOCK => to.copy_from_slice(&codes[..BLOCK]),
            true => to[..BLOCK / 2].copy_from_slice(&codes[..BLOCK / 2]),
            false => to[..codes.len()].copy_from_slice(codes),
        }
    }
    all
}

/// Half of each word's columns, of the words of one block.
fn eight_rows(
    codes: &[[u8; BLOCK]; EIGHT],
    to: &mut [Line<i32>],
    half: usize,
    (bits, fours): (usize, bool),
) {
    assert!(level_is_present(Level::Avx2) && (half + 1) * EIGHT <= COLUMNS);
    // SAFETY: the processor has just been asked for the features; the functions have no other precondition.
    unsafe {
        match (bits, fours) {
            (8, false) => of_eight_bits(codes, to, half),
            (8, true) => of_bytes(codes, to, half),
            _ => of_four_bits(codes, to, half),
        }
    }
}

/// Two neighbours as sixteen bits.
#[target_feature(enable = "avx2")]
fn of_eight_bits(codes: &[[u8; BLOCK]; EIGHT], to: &mut [Line<i32>], half: usize) {
    for (step, to) in to.chunks_exact_mut(EIGHT).enumerate() {
        let mut rows = [_mm256_setzero_si256(); EIGHT];
        for i in 0..EIGHT {
            let sixteen: &[u8] = &codes[i][16 * step..][..16];
            // SAFETY: the slice has sixteen bytes, and unaligned access is allowed.
            let sixteen = unsafe { _mm_loadu_si128(sixteen.as_ptr().cast()) };
            rows[i] = _mm256_cvtepi8_epi16(sixteen);
        }
        let words = transposed(rows);
        for word in 0..EIGHT {
            put(&mut to[word], half, words[word]);
        }
    }
}

/// Four neighbours as bytes, with the offset of weights of eight bits.
#[target_feature(enable = "avx2")]
fn of_bytes(codes: &[[u8; BLOCK]; EIGHT], to: &mut [Line<i32>], half: usize) {
    for (step, to) in to.chunks_exact_mut(EIGHT).enumerate() {
        let mut rows = [_mm256_setzero_si256(); EIGHT];
        for i in 0..EIGHT {
            let part: &[u8] = &codes[i][32 * step..][..32];
            // SAFETY: the slice has 32 bytes, and unaligned access is allowed.
            let signed = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
            rows[i] = _mm256_xor_si256(signed, _mm256_set1_epi8(i8::MIN));
        }
        let words = transposed(rows);
        for word in 0..EIGHT {
            put(&mut to[word], half, words[word]);
        }
    }
}

/// Four neighbours at even places, and at odd places, of the two halves of a block as bytes.
#[target_feature(enable = "avx2")]
fn of_four_bits(codes: &[[u8; BLOCK]; EIGHT], to: &mut [Line<i32>], half: usize) {
    let mut rows = [_mm256_setzero_si256(); EIGHT];
    for i in 0..EIGHT {
        // SAFETY: a row has 64 bytes, of which 32 are read, and unaligned access is allowed.
        rows[i] = unsafe { _mm256_loadu_si256(codes[i].as_ptr().cast()) };
    }
    let (words, low) = (transposed(rows), _mm256_set1_epi8(0x0f));
    for word in 0..EIGHT {
        let place = word / 4 * EIGHT + word % 4;
        let odd = _mm256_srli_epi32::<4>(words[word]);
        put(&mut to[place], half, _mm256_and_si256(words[word], low));
        put(&mut to[place + 4], half, _mm256_and_si256(odd, low));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn put(to: &mut Line<i32>, half: usize, eight: __m256i) {
    let to: &mut [i32] = &mut to.0[half * EIGHT..][..EIGHT];
    // SAFETY: the slice has eight words, and unaligned access is allowed.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), eight) }
}

/// Rows and columns of 8 x 8 words exchanged.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(rows: [__m256i; EIGHT]) -> [__m256i; EIGHT] {
    let mut pairs = [_mm256_setzero_si256(); EIGHT];
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = [_mm256_setzero_si256(); EIGHT];
    for i in 0..2 {
        for j in 0..2 {
            let (first, second) = (pairs[4 * i + j], pairs[4 * i + j + 2]);
            fours[4 * i + 2 * j] = _mm256_unpacklo_epi64(first, second);
            fours[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(first, second);
        }
    }
    let mut words = [_mm256_setzero_si256(); EIGHT];
    for i in 0..4 {
        words[i] = _mm256_permute2x128_si256::<0x20>(fours[i], fours[i + 4]);
        words[i + 4] = _mm256_permute2x128_si256::<0x31>(fours[i], fours[i + 4]);
    }
    words
}
