//! Pairs of bf16 with AVX-512.

use std::arch::x86_64::*;
use std::cell::Cell;

use burn::tensor::bf16;

use super::*;

/// Rows of a tile of the result whose sums stay in registers.
const ROWS: usize = 8;
/// Columns of a tile: three registers of sixteen sums.
const COLUMNS: usize = 48;
/// Rows of the result per task.
const TASK: usize = 32;
/// Pairs along the summed axis that a panel of the right operand is read over at a time, so that it stays in the cache.
const DEPTH: usize = 512;

thread_local! {
    /// Room for packed operands, kept from product to product.
    static ROOM: [Cell<Vec<u32>>; 2] = const { [Cell::new(Vec::new()), Cell::new(Vec::new())] };
}

pub fn usable() -> bool {
    Level::chosen() >= Level::Avx512 && is_x86_feature_detected!("avx512bf16")
}

/// The left operand: word `i · row + p · pair` holds `a[i, 2p]` below `a[i, 2p + 1]`.
struct Left {
    words: Vec<u32>,
    row: usize,
    pair: usize,
}

/// The right operand: panels of [`COLUMNS`] columns; word `(panel · pairs + p) · COLUMNS + j` holds `b[2p, j]` below
/// `b[2p + 1, j]`. Columns past the last one hold anything.
struct Right {
    words: Vec<u32>,
    pairs: usize,
}

pub fn multiply(out: &mut [f32], out_stride: usize, product: &Product<'_>) {
    let (a, b) = product.operands;
    assert!(usable() && a.columns == b.rows, "inner sizes of a product");
    let (m, n) = (a.rows, b.columns);
    assert!((m - 1) * out_stride + n <= out.len(), "result too small");
    assert!(m == 1 || n <= out_stride, "rows of the result overlap");
    let room = ROOM.with(|room| room.each_ref().map(Cell::take));
    let [left, right] = room;
    let (left, right) = (Left::new(a, left), Right::new(b, right));
    let rows = |(task, out): (usize, &mut [f32])| {
        let rows = TASK * task..m.min(TASK * (task + 1));
        product.rows(out, out_stride, rows, (&left, &right));
    };
    let tasks = out[..(m - 1) * out_stride + n].chunks_mut(TASK * out_stride);
    match product.parallel {
        true => tasks.enumerate().collect::<Vec<_>>().into_par_iter().for_each(rows),
        false => tasks.enumerate().for_each(rows),
    }
    ROOM.with(|room| {
        room[0].set(left.words);
        room[1].set(right.words);
    });
}

impl Product<'_> {
    /// Some rows of the result; `out` begins at the first of them.
    fn rows(
        &self,
        out: &mut [f32],
        out_stride: usize,
        rows: std::ops::Range<usize>,
        (left, right): (&Left, &Right),
    ) {
        let (n, pairs) = (self.operands.1.columns, right.pairs);
        for start in (0..pairs.max(1)).step_by(DEPTH) {
            let depth = pairs.min(start + DEPTH) - start;
            let add = self.into == Into::Add || start > 0;
            for (panel, column) in (0..n).step_by(COLUMNS).enumerate() {
                let words = (panel * pairs + start) * COLUMNS;
                for row in rows.clone().step_by(ROWS) {
                    let tile = Tile {
                        left: &left.words[row * left.row + start * left.pair..],
                        strides: (left.row, left.pair),
                        right: &right.words[words..words + depth * COLUMNS],
                        rows: ROWS.min(rows.end - row),
                        columns: COLUMNS.min(n - column),
                        scale: self.scale,
                        add,
                    };
                    tile.run(&mut out[(row - rows.start) * out_stride + column..], out_stride);
                }
            }
        }
    }
}

/// Lines of `width` words, each filled by `fill` from its index.
fn fill(words: &mut [u32], width: usize, parallel: bool, fill: impl Fn(usize, &mut [u32]) + Sync) {
    let width = width.max(1);
    match parallel {
        true => words.par_chunks_mut(width).enumerate().for_each(|(i, line)| fill(i, line)),
        false => words.chunks_mut(width).enumerate().for_each(|(i, line)| fill(i, line)),
    }
}

/// From this many words on, packing on all cores is worth it.
const MANY: usize = 1 << 15;

impl Left {
    fn new(a: Matrix<'_>, mut words: Vec<u32>) -> Self {
        let (m, pairs) = (a.rows, a.columns.div_ceil(2));
        words.resize(m * pairs, 0);
        let many = words.len() >= MANY;
        if a.column_stride == 1 {
            fill(&mut words, pairs, many, |i, line| {
                let row = &a.values[i * a.row_stride..][..a.columns];
                // SAFETY: the caller has asked the processor for the features.
                unsafe { neighbours(row, line) }
            });
            return Self { words, row: pairs, pair: 1 };
        }
        fill(&mut words, m, many, |p, words| {
            let line = |l: usize| &a.values[l * a.column_stride..][..m];
            let above = (2 * p + 1 < a.columns).then(|| line(2 * p + 1));
            // SAFETY: as above.
            unsafe { zipped(line(2 * p), above, words) }
        });
        Self { words, row: 1, pair: m }
    }
}

impl Right {
    fn new(b: Matrix<'_>, mut words: Vec<u32>) -> Self {
        let (n, pairs) = (b.columns, b.rows.div_ceil(2));
        words.resize(n.div_ceil(COLUMNS) * pairs * COLUMNS, 0);
        let many = words.len() >= MANY;
        fill(&mut words, pairs * COLUMNS, many, |panel, words| {
            let first = panel * COLUMNS;
            let width = COLUMNS.min(n - first);
            if b.column_stride == 1 {
                let line = |l: usize| &b.values[l * b.row_stride + first..][..width];
                for (p, words) in words.chunks_mut(COLUMNS).enumerate() {
                    let above = (2 * p + 1 < b.rows).then(|| line(2 * p + 1));
                    // SAFETY: the caller has asked the processor for the features.
                    unsafe { zipped(line(2 * p), above, &mut words[..width]) }
                }
                return;
            }
            let mut column = vec![0u32; pairs];
            for j in 0..width {
                let values = &b.values[(first + j) * b.column_stride..][..b.rows];
                // SAFETY: as above.
                unsafe { neighbours(values, &mut column) }
                let places = words[j..].iter_mut().step_by(COLUMNS);
                places.zip(&column).for_each(|(to, from)| *to = *from);
            }
        });
        Self { words, pairs }
    }
}

fn word(low: f32, high: f32) -> u32 {
    u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
}

/// Pairs of neighbours of one line.
///
/// # Safety
/// The processor must have the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn neighbours(values: &[f32], words: &mut [u32]) {
    let whole = values.len() / 32 * 32;
    for (from, to) in values[..whole].chunks_exact(32).zip(words.chunks_exact_mut(16)) {
        // SAFETY: the chunks have 32 values and 16 words, and unaligned access is allowed.
        unsafe {
            let (low, high) =
                (_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from[16..].as_ptr()));
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), both);
        }
    }
    for (from, to) in values[whole..].chunks(2).zip(&mut words[whole / 2..]) {
        *to = word(from[0], from.get(1).copied().unwrap_or(0.0));
    }
}

/// Pairs of one line with the next; nothing lies above the last one of an odd number.
///
/// # Safety
/// The processor must have the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn zipped(low: &[f32], high: Option<&[f32]>, words: &mut [u32]) {
    let Some(high) = high else {
        return words.iter_mut().zip(low).for_each(|(to, low)| *to = word(*low, 0.0));
    };
    let whole = low.len() / 16 * 16;
    let parts = low[..whole].chunks_exact(16).zip(high[..whole].chunks_exact(16));
    for ((low, high), to) in parts.zip(words.chunks_exact_mut(16)) {
        // SAFETY: the chunks have 16 values and 16 words, and unaligned access is allowed.
        unsafe {
            let narrow = |values: &[f32]| {
                let narrow: __m256i =
                    std::mem::transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr())));
                _mm512_cvtepu16_epi32(narrow)
            };
            let both = _mm512_or_si512(narrow(low), _mm512_slli_epi32::<16>(narrow(high)));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), both);
        }
    }
    let rest = low[whole..].iter().zip(&high[whole..]);
    words[whole..].iter_mut().zip(rest).for_each(|(to, (low, high))| *to = word(*low, *high));
}

/// A part of the result, at most [`ROWS`] x [`COLUMNS`].
struct Tile<'a> {
    /// From the first row and pair on.
    left: &'a [u32],
    /// Words from row to row and from pair to pair.
    strides: (usize, usize),
    right: &'a [u32],
    rows: usize,
    columns: usize,
    scale: f32,
    add: bool,
}

impl Tile<'_> {
    fn run(&self, out: &mut [f32], out_stride: usize) {
        match self.columns {
            ..=16 => self.run_wide::<1>(out, out_stride),
            17..=32 => self.run_wide::<2>(out, out_stride),
            _ => self.run_wide::<3>(out, out_stride),
        }
    }

    fn run_wide<const V: usize>(&self, out: &mut [f32], out_stride: usize) {
        let pairs = self.right.len() / COLUMNS;
        let ((row, pair), last) = (self.strides, self.rows - 1);
        assert!(self.columns <= 16 * V && last * out_stride + self.columns <= out.len());
        assert!(pairs == 0 || last * row + (pairs - 1) * pair < self.left.len());
        // SAFETY: the features were asked for, and the assertions bound what is read and written.
        unsafe {
            match self.rows {
                1 => self.sum::<1, V>(out, out_stride),
                2 => self.sum::<2, V>(out, out_stride),
                3 => self.sum::<3, V>(out, out_stride),
                4 => self.sum::<4, V>(out, out_stride),
                5 => self.sum::<5, V>(out, out_stride),
                6 => self.sum::<6, V>(out, out_stride),
                7 => self.sum::<7, V>(out, out_stride),
                _ => self.sum::<ROWS, V>(out, out_stride),
            }
        }
    }

    /// # Safety
    /// The processor must have the features; `out` must hold `R` rows of `columns <= 16 V` values, `left` `R` rows of as many
    /// pairs as `right` has.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn sum<const R: usize, const V: usize>(&self, out: &mut [f32], out_stride: usize) {
        let (row, pair) = self.strides;
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        let (mut left, mut right) = (self.left.as_ptr(), self.right.as_ptr());
        // SAFETY: the caller vouches for the bounds; masked loads and stores touch `columns` values of each row.
        unsafe {
            for _ in 0..self.right.len() / COLUMNS {
                let b: [__m512bh; V] = std::array::from_fn(|v| {
                    std::mem::transmute(_mm512_loadu_si512(right.add(16 * v).cast()))
                });
                for (i, sums) in sums.iter_mut().enumerate() {
                    let pair = _mm512_set1_epi32(*left.add(i * row) as i32);
                    let a: __m512bh = std::mem::transmute(pair);
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = _mm512_dpbf16_ps(*sum, a, b);
                    }
                }
                left = left.wrapping_add(pair);
                right = right.add(COLUMNS);
            }
            let scale = _mm512_set1_ps(self.scale);
            for (i, sums) in sums.iter().enumerate() {
                let line = out.as_mut_ptr().add(i * out_stride);
                for (v, sum) in sums.iter().enumerate() {
                    let count = self.columns.saturating_sub(16 * v).min(16);
                    let mask = ((1u32 << count) - 1) as __mmask16;
                    let place = line.wrapping_add(16 * v);
                    let before = match self.add {
                        true => _mm512_maskz_loadu_ps(mask, place),
                        false => _mm512_setzero_ps(),
                    };
                    _mm512_mask_storeu_ps(place, mask, _mm512_fmadd_ps(*sum, scale, before));
                }
            }
        }
    }
}
