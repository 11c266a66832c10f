//! Operands packed into tiles, and sums taken out of them.

#![expect(clippy::needless_range_loop, reason = "closures are compiled without the instructions")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use burn::tensor::bf16;

use super::super::matmul::Matrix;
use super::kernel::{DEPTH, LINES, Tile};
use crate::cpu::{Tiles, prefetch};

/// How far ahead weights are fetched, in bytes.
const AHEAD: usize = 4096;
/// Tiles that are filled line by line together: they stay in the nearest cache.
const TOGETHER: usize = 16;
/// Values of a tile.
const ALL: usize = LINES * DEPTH;

/// Which operand of a product of tiles something becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// Lines of numbers along the summed axis: rows of a left operand, columns of a right one.
pub trait Source: Sync {
    fn lines(&self) -> usize;

    /// Values of a line.
    fn depth(&self) -> usize;

    /// Fills tile after tile with the values of [`LINES`] lines from `first` on, each as the sum of `terms` numbers. Zeros stand
    /// where there are no lines or values.
    fn pack(&self, first: usize, side: Side, terms: usize, out: &mut [Tile]);
}

/// Rows of a matrix whose rows or columns are dense.
impl Source for Matrix<'_> {
    fn lines(&self) -> usize {
        self.rows
    }

    fn depth(&self) -> usize {
        self.columns
    }

    fn pack(&self, first: usize, side: Side, terms: usize, out: &mut [Tile]) {
        assert!(Tiles::Pairs.is_present() && self.is_dense());
        let lines = LINES.min(self.rows.saturating_sub(first));
        let natural = if self.column_stride == 1 { Side::Left } else { Side::Right };
        let (stride, dense) = match natural {
            Side::Left => (self.row_stride, DEPTH),
            Side::Right => (self.column_stride, LINES),
        };
        let mut room = [0.0; ALL];
        for (tile, out) in out.chunks_exact_mut(terms).enumerate() {
            let start = tile * DEPTH;
            let depth = DEPTH.min(self.columns.saturating_sub(start));
            let place = first * self.row_stride + start * self.column_stride;
            let (runs, length) =
                if natural == Side::Left { (lines, depth) } else { (depth, lines) };
            let (values, stride) = match lines * depth {
                0 => (&[0.0; ALL][..], dense),
                ALL => (&self.values[place..], stride),
                _ => {
                    room.fill(0.0);
                    for (run, to) in room.chunks_exact_mut(dense).enumerate().take(runs) {
                        to[..length]
                            .copy_from_slice(&self.values[place + run * stride..][..length]);
                    }
                    (&room[..], dense)
                }
            };
            // SAFETY: the processor has just been asked for the features; there is no other precondition.
            unsafe {
                match terms {
                    1 => whole::<1>(values, stride, natural, out),
                    _ => whole::<2>(values, stride, natural, out),
                }
            }
            if natural != side {
                out.iter_mut().for_each(transpose);
            }
        }
    }
}

/// Where the two halves of row `row` of a tile begin: neighbours behind one another, or the values of all lines at two
/// neighbouring places.
#[inline(always)]
fn halves_of(row: usize, stride: usize, natural: Side) -> [usize; 2] {
    match natural {
        Side::Left => [row * stride, row * stride + LINES],
        Side::Right => [2 * row * stride, (2 * row + 1) * stride],
    }
}

/// A tile of each term.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn whole<const TERMS: usize>(values: &[f32], stride: usize, natural: Side, out: &mut [Tile]) {
    let last = halves_of(LINES - 1, stride, natural)[1];
    assert!(last + LINES <= values.len());
    let out: &mut [Tile; TERMS] = out.try_into().expect("a tile of each term");
    for row in 0..LINES {
        let places = halves_of(row, stride, natural);
        let mut halves = [_mm512_setzero_ps(); 2];
        for i in 0..2 {
            // SAFETY: places grow with the row, and the assertion bounds the last; unaligned access is allowed.
            halves[i] = unsafe { _mm512_loadu_ps(values.as_ptr().add(places[i])) };
        }
        put_terms(halves, natural, out, row);
    }
}

/// Rows of bf16, each value of which is one term.
#[derive(Clone, Copy)]
pub struct HalfRows<'a> {
    pub values: &'a [bf16],
    pub columns: usize,
}

impl Source for HalfRows<'_> {
    fn lines(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    fn depth(&self) -> usize {
        self.columns
    }

    fn pack(&self, first: usize, side: Side, terms: usize, out: &mut [Tile]) {
        assert!(Tiles::Pairs.is_present() && terms == 1);
        let rows = self.values[first.min(self.lines()) * self.columns..].chunks_exact(self.columns);
        let mut lines = [&[][..]; LINES];
        lines.iter_mut().zip(rows).for_each(|(line, row)| *line = row);
        for (index, out) in out.chunks_mut(TOGETHER).enumerate() {
            for (line, row) in lines.iter().enumerate() {
                let row = row.get(index * TOGETHER * DEPTH..).unwrap_or_default();
                for (tile, out) in out.iter_mut().enumerate() {
                    let rest = row.get(tile * DEPTH..).unwrap_or_default();
                    match rest.first_chunk::<DEPTH>() {
                        Some(values) => {
                            prefetch(values, AHEAD);
                            out.0[line] = joined(values);
                        }
                        None => {
                            let mut values = [bf16::ZERO; DEPTH];
                            values[..rest.len()].copy_from_slice(rest);
                            out.0[line] = joined(&values);
                        }
                    }
                }
            }
        }
        if side == Side::Right {
            out.iter_mut().for_each(transpose);
        }
    }
}

/// Neighbours as words.
#[inline(always)]
fn joined(values: &[bf16; DEPTH]) -> [u32; LINES] {
    const { assert!(cfg!(target_endian = "little")) };
    // SAFETY: both arrays have 64 bytes, of which any are valid.
    unsafe { std::mem::transmute_copy(values) }
}

/// Rows that are computed when they are packed.
pub struct Expanded<F> {
    pub lines: usize,
    pub depth: usize,
    /// Writes the values of a line.
    pub fill: F,
}

impl<F: Fn(usize, &mut [f32]) + Sync> Source for Expanded<F> {
    fn lines(&self) -> usize {
        self.lines
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn pack(&self, first: usize, side: Side, terms: usize, out: &mut [Tile]) {
        let lines = LINES.min(self.lines.saturating_sub(first));
        let mut values = vec![0.0; lines * self.depth];
        for (line, values) in values.chunks_exact_mut(self.depth.max(1)).enumerate() {
            (self.fill)(first + line, values);
        }
        let matrix = Matrix { rows: lines, ..Matrix::rows(&values, self.depth) };
        matrix.pack(0, side, terms, out);
    }
}

/// Writes row `row` of the tile of each term: two halves behind one another, or each value of the first with that of the second.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn put_terms<const TERMS: usize>(
    mut rest: [__m512; 2],
    natural: Side,
    out: &mut [Tile; TERMS],
    row: usize,
) {
    for term in 0..TERMS {
        let pairs = _mm512_cvtne2ps_pbh(rest[1], rest[0]);
        // SAFETY: both are registers of 512 bits, and any bits are valid.
        let both: __m512i = unsafe { std::mem::transmute(pairs) };
        if term + 1 < TERMS {
            let halves = [_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both)];
            for i in 0..2 {
                let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves[i]));
                rest[i] = _mm512_sub_ps(rest[i], _mm512_castsi512_ps(wide));
            }
        }
        let words = match natural {
            Side::Left => both,
            Side::Right => _mm512_permutexvar_epi16(zipped(), both),
        };
        let to = &mut out[term].0[row];
        // SAFETY: a row of a tile has 64 bytes, and unaligned access is allowed.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) }
    }
}

/// The places of sixteen and other sixteen numbers, of each one in turn.
#[inline]
#[target_feature(enable = "avx512f")]
fn zipped() -> __m512i {
    const PLACES: [u16; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 32 {
            places[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        places
    };
    // SAFETY: the array has 64 bytes, and unaligned access is allowed.
    unsafe { _mm512_loadu_si512(PLACES.as_ptr().cast()) }
}

/// Exchanges rows and columns.
pub fn transpose(tile: &mut Tile) {
    assert!(Tiles::Pairs.is_present());
    // SAFETY: the processor has just been asked for the features; there is no other precondition.
    unsafe { transpose_512(tile) }
}

#[target_feature(enable = "avx512f")]
fn transpose_512(tile: &mut Tile) {
    let mut rows = [_mm512_setzero_si512(); LINES];
    for i in 0..LINES {
        // SAFETY: a row has 64 bytes, and unaligned access is allowed.
        rows[i] = unsafe { _mm512_loadu_si512(tile.0[i].as_ptr().cast()) };
    }
    let mut pairs = [_mm512_setzero_si512(); LINES];
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = [_mm512_setzero_si512(); LINES];
    for i in 0..4 {
        for j in 0..2 {
            let (first, second) = (pairs[4 * i + j], pairs[4 * i + j + 2]);
            fours[4 * i + 2 * j] = _mm512_unpacklo_epi64(first, second);
            fours[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(first, second);
        }
    }
    // Lane `l` of `fours[4 i + c]` holds column `4 l + c` of rows `4 i` to `4 i + 3`.
    for c in 0..4 {
        let (a, b, d, e) = (fours[c], fours[c + 4], fours[c + 8], fours[c + 12]);
        let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(d, e)];
        let odd = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(d, e)];
        let columns = [
            _mm512_shuffle_i32x4::<0x88>(even[0], even[1]),
            _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]),
            _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]),
            _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]),
        ];
        for lane in 0..4 {
            let to = &mut tile.0[4 * lane + c];
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), columns[lane]) }
        }
    }
}

/// The same values as places that [`put`] may write to.
pub fn unset(values: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    let all = std::ptr::from_mut(values) as *mut [MaybeUninit<f32>];
    // SAFETY: the layout is the same and the borrow as long; [`put`] writes nothing but values.
    unsafe { &mut *all }
}

/// Writes a row of sums times `scale`, as many as `out` has room for, or adds them to the values that it then must hold.
pub fn put(out: &mut [MaybeUninit<f32>], sums: &[u32; LINES], scale: f32, add: bool) {
    assert!(Tiles::Pairs.is_present());
    // SAFETY: the processor has just been asked for the features; there is no other precondition.
    unsafe { put_512(out, sums, scale, add) }
}

#[target_feature(enable = "avx512f")]
fn put_512(out: &mut [MaybeUninit<f32>], sums: &[u32; LINES], scale: f32, add: bool) {
    let mask = ((1u32 << out.len().min(LINES)) - 1) as __mmask16;
    // SAFETY: a row of sums has sixteen values, and the mask leaves what `out` holds; unaligned access is allowed.
    unsafe {
        let sums = _mm512_loadu_ps(sums.as_ptr().cast());
        let before = match add {
            true => _mm512_maskz_loadu_ps(mask, out.as_ptr().cast()),
            false => _mm512_setzero_ps(),
        };
        let sums = _mm512_fmadd_ps(sums, _mm512_set1_ps(scale), before);
        _mm512_mask_storeu_ps(out.as_mut_ptr().cast(), mask, sums);
    }
}
