//! Products of many activation rows with rounded weights, in integers.
//!
//! Activations are rounded as for a few rows, and the products inside a group are the same exact sums; the order of the sum
//! over groups is another. Beside weights of eight bits activations are rounded to sixteen, and both are multiplied as
//! numbers of sixteen, unless eight are enough. Weights are read once, and repacked as far as fits into a cache: a column of a
//! tile is a weight row, a word holds two neighbours along the summed axis as sixteen bits, or four as bytes. What a row gets
//! does not depend on the other rows.

mod pack;
mod x86;

use rayon::prelude::*;

use super::inputs::{Inputs, LANES, scale_of};
use super::x86::has_vnni;
use super::{BLOCK, Weights, columns};
use crate::cpu::Level;
use crate::quant::{Codes, OFFSET_OF_FOUR, QuantScheme, nearest};
use pack::Right;

/// Weight rows of a panel.
const COLUMNS: usize = 16;
/// Panels of a task, which read the same activations from the nearest cache.
const PANELS: usize = 4;

/// Activation rows of a tile, whose sums stay in registers.
const ROWS: usize = 6;

/// Activation rows as words, tile after tile: what rows of a tile have at a place lies together, so that no two of them are
/// far apart, where caches would keep few of them.
struct Left {
    words: Vec<[i32; ROWS]>,
    /// Of each run.
    scales: Vec<[f32; ROWS]>,
    /// What the sums of a run begin with, for the offset of stored weights; without VNNI as two numbers of sixteen bits.
    offsets: Vec<[i32; ROWS]>,
    /// The sum of the rounded values in each group of weights, where these have minimums.
    sums: Vec<f32>,
    groups: usize,
}

/// A part of a tile: words, and scales and offsets of the runs that these make up.
#[derive(Clone, Copy)]
struct LeftTile<'a> {
    words: &'a [[i32; ROWS]],
    scales: &'a [[f32; ROWS]],
    offsets: &'a [[i32; ROWS]],
}

/// An activation row as words.
#[derive(Default)]
struct LeftRow {
    words: Vec<i32>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
}

/// How a block is divided.
#[derive(Clone, Copy)]
struct Layout {
    /// Words of a block.
    words: usize,
    /// Sums of integers of a block: as long as a group, as far as sixteen bits hold the sums of four-bit weights.
    runs: usize,
    /// Blocks that are repacked at a time: two panels of so many take 32 KiB, which the nearest cache of a core holds.
    depth: usize,
    /// Whether a word is four neighbours of eight bits, and not two of sixteen.
    fours: bool,
}

impl Layout {
    /// `coarse`: eight bits are enough for activations. Only sums of 32 bits hold their products with weights of eight.
    fn of(scheme: QuantScheme, coarse: bool, level: Level) -> Self {
        let runs = BLOCK / scheme.group().min(BLOCK);
        match scheme.bits() {
            8 if coarse && runs <= 2 && has_vnni(level) => {
                Self { words: BLOCK / 4, runs, depth: 16, fours: true }
            }
            8 => Self { words: BLOCK / 2, runs, depth: 8, fours: false },
            _ => Self { words: BLOCK / 4, runs: 2, depth: 16, fours: true },
        }
    }
}

/// `x [m, k] · wᵀ -> [m, n]`, with activations of eight bits where that is enough (`coarse`) and faster; `None` where there is no
/// kernel for the codes or the processor.
pub fn product(x: &[f32], weights: Weights<'_>, level: Level, coarse: bool) -> Option<Vec<f32>> {
    let (n, k, scheme) = (weights.rows(), weights.k, weights.scheme);
    if scheme.codes() == Codes::Float8 || level < Level::Avx2 {
        return None;
    }
    let m = x.len() / k.max(1);
    let mut out = vec![0.0; m * n];
    if m == 0 || n == 0 {
        return Some(out);
    }
    let layout = Layout::of(scheme, coarse, level);
    let left = Left::new(x, (k, scheme), layout, level);
    columns(&mut out, n, PANELS * COLUMNS).into_par_iter().enumerate().for_each(
        |(task, mut out)| {
            let first = task * PANELS * COLUMNS;
            let mut right = Right::default();
            for start in (0..k.div_ceil(BLOCK)).step_by(layout.depth) {
                let blocks = start..k.div_ceil(BLOCK).min(start + layout.depth);
                right.pack(
                    (weights, first..n.min(first + PANELS * COLUMNS)),
                    blocks.clone(),
                    layout,
                );
                let tile = |tile| left.tile(tile, k.div_ceil(BLOCK), blocks.clone(), layout);
                x86::tiles(&mut out, tile, &right, layout.fours, level);
            }
            if scheme.has_minimums() {
                add_minimums(&mut out, &left, (weights, first));
            }
        },
    );
    Some(out)
}

/// As [`super::add_shifts`], for the columns from weight row `first` on.
fn add_minimums(out: &mut [&mut [f32]], left: &Left, (weights, first): (Weights<'_>, usize)) {
    let (mut scales, columns) = (weights.scratch(), out.first().map_or(0, |out| out.len()));
    let mut column = vec![0.0; out.len()];
    for j in 0..columns {
        weights.scales(first + j, &mut scales);
        column.fill(0.0);
        super::add_shifts(&mut column, &mut scales, |row| left.sums(row), weights.scheme.codes());
        out.iter_mut().zip(&column).for_each(|(out, shift)| out[j] += shift);
    }
}

impl Left {
    /// All rows, rounded on all cores.
    fn new(x: &[f32], (k, scheme): (usize, QuantScheme), layout: Layout, level: Level) -> Self {
        let rows = (x.len() / k).div_ceil(rayon::current_num_threads()).next_multiple_of(ROWS);
        let part = |x: &[f32]| {
            let mut left = Self::empty(x.len() / k, (k, scheme), layout);
            match layout.fours {
                false => left.fill_wide(x, (k, scheme), layout),
                true => left.fill_narrow(&Inputs::round(x, k, scheme), scheme, layout, level),
            }
            left
        };
        let parts: Vec<Self> = x.par_chunks(rows * k).map(part).collect();
        parts.into_iter().reduce(Self::before).expect("there are rows")
    }

    /// These rows, and then those of `other`.
    fn before(mut self, other: Self) -> Self {
        self.words.extend(other.words);
        self.scales.extend(other.scales);
        self.offsets.extend(other.offsets);
        self.sums.extend(other.sums);
        self
    }

    /// Room for `m` rows.
    fn empty(m: usize, (k, scheme): (usize, QuantScheme), layout: Layout) -> Self {
        let blocks = m.div_ceil(ROWS) * k.div_ceil(BLOCK);
        let groups = if scheme.has_minimums() { m * scheme.groups(k) } else { 0 };
        Self {
            words: vec![[0; ROWS]; blocks * layout.words],
            scales: vec![[0.0; ROWS]; blocks * layout.runs],
            offsets: vec![[0; ROWS]; blocks * layout.runs],
            sums: Vec::with_capacity(groups),
            groups: scheme.groups(k),
        }
    }

    /// Puts row `index` into its tile.
    fn put(&mut self, index: usize, row: &LeftRow) {
        fn put<T: Copy>(to: &mut [[T; ROWS]], index: usize, row: &[T]) {
            let to = &mut to[index / ROWS * row.len()..][..row.len()];
            to.iter_mut().zip(row).for_each(|(to, value)| to[index % ROWS] = *value);
        }
        put(&mut self.words, index, &row.words);
        put(&mut self.scales, index, &row.scales);
        put(&mut self.offsets, index, &row.offsets);
    }

    /// For weights of eight bits, rounded to sixteen bits run by run.
    fn fill_wide(&mut self, x: &[f32], (k, scheme): (usize, QuantScheme), layout: Layout) {
        let (runs, length) = (k.div_ceil(BLOCK) * layout.runs, BLOCK / layout.runs);
        let mut of_row = LeftRow { offsets: vec![0; runs], ..LeftRow::default() };
        for (index, row) in x.chunks_exact(k).enumerate() {
            let mut sums = vec![0.0; if scheme.has_minimums() { self.groups } else { 0 }];
            of_row.words.clear();
            of_row.scales.clear();
            for run in 0..runs {
                let values = row.get(run * length..).unwrap_or_default();
                let values = &values[..values.len().min(length)];
                let scale = scale_of(values, f32::from(i16::MAX));
                let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
                let code = |value: &f32| nearest(value * inverse) as i16;
                of_row.words.extend(values.chunks(2).map(|pair| {
                    let high = pair.get(1).map_or(0, code);
                    i32::from(code(&pair[0]) as u16) | i32::from(high) << 16
                }));
                of_row.words.resize((run + 1) * length / 2, 0);
                of_row.scales.push(scale);
                if let Some(sum) = sums.get_mut(run * length / scheme.group()) {
                    *sum += values.iter().map(|value| i32::from(code(value))).sum::<i32>() as f32
                        * scale;
                }
            }
            self.put(index, &of_row);
            self.sums.extend(sums);
        }
    }

    /// From rows that were rounded to eight bits.
    fn fill_narrow(&mut self, inputs: &Inputs, scheme: QuantScheme, layout: Layout, level: Level) {
        let whole = has_vnni(level);
        // Of four bits, the offsets of even and odd places are one number.
        let lanes = if scheme.bits() == 8 { LANES } else { LANES / 2 };
        let mut of_row = LeftRow::default();
        for index in 0..inputs.rows() {
            of_row.words.resize(inputs.row(index).len() * layout.words, 0);
            of_row.scales.clear();
            of_row.offsets.clear();
            let words = of_row.words.chunks_exact_mut(layout.words);
            for (input, words) in inputs.row(index).iter().zip(words) {
                fours(&input.codes, words, scheme.bits());
                let runs = words.chunks_exact(layout.words / layout.runs);
                let offsets = input.offsets.chunks_exact(lanes / layout.runs);
                for ((words, offsets), scale) in runs.zip(offsets).zip(input.scales) {
                    let offset = if whole { offsets.iter().sum() } else { in_halves(words) };
                    of_row.scales.push(scale);
                    of_row.offsets.push(offset);
                }
            }
            self.put(index, &of_row);
            if scheme.has_minimums() {
                self.sums.extend(inputs.sums(index));
            }
        }
    }

    /// The sums of the groups of row `row`.
    fn sums(&self, row: usize) -> &[f32] {
        &self.sums[row * self.groups..][..self.groups]
    }

    /// Some blocks of a tile whose rows have `all` of them.
    fn tile(
        &self,
        tile: usize,
        all: usize,
        blocks: std::ops::Range<usize>,
        layout: Layout,
    ) -> LeftTile<'_> {
        let (first, end) = (tile * all + blocks.start, tile * all + blocks.end);
        LeftTile {
            words: &self.words[first * layout.words..end * layout.words],
            scales: &self.scales[first * layout.runs..end * layout.runs],
            offsets: &self.offsets[first * layout.runs..end * layout.runs],
        }
    }
}

/// The words of a block. For weights of four bits, for which the even places come first, those of the first half of the block
/// and then those of the second, of each the even ones before the odd ones.
fn fours(codes: &[i8; BLOCK], words: &mut [i32], bits: usize) {
    const PARTS: [usize; LANES] = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15];
    let fours = codes.as_chunks::<4>().0;
    for (index, word) in words.iter_mut().enumerate() {
        let place = if bits == 8 { index } else { PARTS[index] };
        *word = i32::from_le_bytes(fours[place].map(|code| code as u8));
    }
}

/// What the offset of four-bit weights adds to the sums of products of a run, negated, for each half of a word.
fn in_halves(words: &[i32]) -> i32 {
    let sum = |first: usize| {
        let bytes = words.iter().map(|word| word.to_le_bytes().map(|byte| i32::from(byte as i8)));
        -i32::from(OFFSET_OF_FOUR) * bytes.map(|bytes| bytes[first] + bytes[first + 1]).sum::<i32>()
    };
    i32::from(sum(0) as i16 as u16) | sum(2) << 16
}
