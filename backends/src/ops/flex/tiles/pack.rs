//! Operands packed into tiles, and sums taken out of them.

#![expect(clippy::needless_range_loop, reason = "closures are compiled without the instructions")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use burn::tensor::bf16;

use super::super::matmul::Matrix;
use super::kernel::{DEPTH, LINES, Tile};
use crate::cpu::{Tiles, prefetch};

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

    /// Fills tile after tile, from the tile `start` along the summed axis on, with the values of [`LINES`] lines from `first` on, each as
    /// the sum of as many numbers as the second part of `into` says. Zeros stand where there are no lines or values.
    fn pack(&self, first: usize, start: usize, into: (Side, usize), out: &mut [Tile]);
}

/// Rows of a matrix whose rows or columns are dense.
impl Source for Matrix<'_> {
    fn lines(&self) -> usize {
        self.rows
    }

    fn depth(&self) -> usize {
        self.columns
    }

    fn pack(&self, first: usize, start: usize, (side, terms): (Side, usize), out: &mut [Tile]) {
        assert!(Tiles::Pairs.is_present() && self.is_dense());
        let lines = LINES.min(self.rows.saturating_sub(first));
        let natural = if self.column_stride == 1 { Side::Left } else { Side::Right };
        let (stride, dense) = match natural {
            Side::Left => (self.row_stride, DEPTH),
            Side::Right => (self.column_stride, LINES),
        };
        let mut room = [0.0; ALL];
        for (tile, out) in out.chunks_exact_mut(terms).enumerate() {
            let start = (start + tile) * DEPTH;
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

    fn pack(&self, first: usize, start: usize, (side, terms): (Side, usize), out: &mut [Tile]) {
        assert!(Tiles::Pairs.is_present() && terms == 1);
        let rows = self.values[first.min(self.lines()) * self.columns..].chunks_exact(self.columns);
        let mut lines = [&[][..]; LINES];
        lines.iter_mut().zip(rows).for_each(|(line, row)| *line = row);
        let last = out.len().div_ceil(TOGETHER).saturating_sub(1);
        for (index, out) in out.chunks_mut(TOGETHER).enumerate() {
            // What is packed next: more of these lines, or the same of the next ones.
            let ahead = match index == last {
                true => (LINES * self.columns).wrapping_sub(last * TOGETHER * DEPTH),
                false => TOGETHER * DEPTH,
            };
            for (line, row) in lines.iter().enumerate() {
                let row = row.get((start + index * TOGETHER) * DEPTH..).unwrap_or_default();
                for (tile, out) in out.iter_mut().enumerate() {
                    let rest = row.get(tile * DEPTH..).unwrap_or_default();
                    out.0[line] = match rest.first_chunk::<DEPTH>() {
                        Some(values) => {
                            prefetch(values, ahead.wrapping_mul(size_of::<bf16>()));
                            joined(values)
                        }
                        None => {
                            let mut values = [bf16::ZERO; DEPTH];
                            values[..rest.len()].copy_from_slice(rest);
                            joined(&values)
                        }
                    };
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
    /// Writes values of a line, from some value on. The first of them is a multiple of 512.
    pub fill: F,
}

impl<F: Fn(usize, usize, &mut [f32]) + Sync> Source for Expanded<F> {
    fn lines(&self) -> usize {
        self.lines
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn pack(&self, first: usize, start: usize, (side, terms): (Side, usize), out: &mut [Tile]) {
        assert!(Tiles::Pairs.is_present());
        let mut values = [0.0; TOGETHER * DEPTH];
        for (index, out) in out.chunks_mut(TOGETHER * terms).enumerate() {
            let from = (start + index * TOGETHER) * DEPTH;
            let count = self.depth.saturating_sub(from).min(out.len() / terms * DEPTH);
            for line in 0..LINES {
                let count = if first + line < self.lines { count } else { 0 };
                if count > 0 {
                    (self.fill)(first + line, from, &mut values[..count]);
                }
                values[count..].fill(0.0);
                // SAFETY: the processor has just been asked for the features; there is no other precondition.
                unsafe {
                    match terms {
                        1 => put_line::<1>(&values, out, line),
                        _ => put_line::<2>(&values, out, line),
                    }
                }
            }
        }
        if side == Side::Right {
            out.iter_mut().for_each(transpose);
        }
    }
}

/// Writes values to the row `line` of tiles, a tile of each term for [`DEPTH`] of them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn put_line<const TERMS: usize>(values: &[f32], out: &mut [Tile], line: usize) {
    let halves = values.as_chunks::<LINES>().0.as_chunks::<2>().0;
    for (out, halves) in out.as_chunks_mut::<TERMS>().0.iter_mut().zip(halves) {
        let mut both = [_mm512_setzero_ps(); 2];
        for i in 0..2 {
            // SAFETY: the array has 64 bytes, and unaligned access is allowed.
            both[i] = unsafe { _mm512_loadu_ps(halves[i].as_ptr()) };
        }
        put_terms(both, Side::Left, out, line);
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

/// How sums become values.
#[derive(Clone, Copy)]
pub struct Put<'a> {
    pub scale: f32,
    /// Of each value of a row, what is added to it.
    pub bias: Option<&'a [f32]>,
    /// Whether what a row holds is added to, which then must be values.
    pub add: bool,
}

/// Writes a row, of which `sums` gives [`LINES`] sums after the others.
///
/// # Panics
/// Where a bias is shorter than the row.
pub fn put_row<'s>(
    out: &mut [MaybeUninit<f32>],
    how: Put<'_>,
    sums: impl Fn(usize) -> &'s [u32; LINES],
) {
    assert!(Tiles::Pairs.is_present() && how.bias.is_none_or(|bias| bias.len() >= out.len()));
    // SAFETY: the processor has just been asked for the features; the bias is no shorter than the row.
    unsafe { put_row_512(out, how, sums) }
}

/// # Safety
/// A bias must be no shorter than the row.
#[target_feature(enable = "avx512f")]
unsafe fn put_row_512<'s>(
    out: &mut [MaybeUninit<f32>],
    Put { scale, bias, add }: Put<'_>,
    sums: impl Fn(usize) -> &'s [u32; LINES],
) {
    let scale = _mm512_set1_ps(scale);
    for (strip, out) in out.chunks_mut(LINES).enumerate() {
        let mask = ((1u32 << out.len()) - 1) as __mmask16;
        let to = out.as_mut_ptr().cast();
        // SAFETY: sums are sixteen values, and the masks leave what the row and the bias hold; unaligned access is allowed.
        unsafe {
            let mut before = _mm512_setzero_ps();
            if let Some(bias) = bias {
                before = _mm512_maskz_loadu_ps(mask, bias.as_ptr().add(strip * LINES));
            }
            if add {
                before = _mm512_add_ps(before, _mm512_maskz_loadu_ps(mask, to));
            }
            let sums = _mm512_loadu_ps(sums(strip).as_ptr().cast());
            _mm512_mask_storeu_ps(to, mask, _mm512_fmadd_ps(sums, scale, before));
        }
    }
}
