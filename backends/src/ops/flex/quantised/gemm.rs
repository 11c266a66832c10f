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
use super::{BLOCK, Weights};
use crate::cpu::Level;
use crate::quant::{Codes, OFFSET_OF_FOUR, QuantScheme, nearest};
use pack::Right;

/// Weight rows of a panel.
const COLUMNS: usize = 16;
/// Panels of a task, which read the same activations from the nearest cache.
const PANELS: usize = 4;

/// Activation rows as words.
struct Left {
    words: Vec<i32>,
    /// Of each run.
    scales: Vec<f32>,
    /// What the sums of a run begin with, for the offset of stored weights; without VNNI as two numbers of sixteen bits.
    offsets: Vec<i32>,
    /// The sum of the rounded values in each group of weights, where these have minimums.
    sums: Vec<f32>,
    groups: usize,
}

/// A part of a row: words, and scales and offsets of the runs that these make up.
#[derive(Clone, Copy)]
struct LeftRow<'a> {
    words: &'a [i32],
    scales: &'a [f32],
    offsets: &'a [i32],
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
    columns(&mut out, n).into_par_iter().enumerate().for_each(|(task, mut out)| {
        let first = task * PANELS * COLUMNS;
        let mut right = Right::default();
        for start in (0..k.div_ceil(BLOCK)).step_by(layout.depth) {
            let blocks = start..k.div_ceil(BLOCK).min(start + layout.depth);
            right.pack((weights, first..n.min(first + PANELS * COLUMNS)), blocks.clone(), layout);
            let rows = |row| left.row(row, k.div_ceil(BLOCK), blocks.clone(), layout);
            x86::tiles(&mut out, rows, &right, layout.fours, level);
        }
        if scheme.has_minimums() {
            add_minimums(&mut out, &left, (weights, first));
        }
    });
    Some(out)
}

/// The rows of each task's columns.
fn columns(out: &mut [f32], n: usize) -> Vec<Vec<&mut [f32]>> {
    let mut tasks: Vec<Vec<&mut [f32]>> = Vec::new();
    tasks.resize_with(n.div_ceil(PANELS * COLUMNS), || Vec::with_capacity(out.len() / n));
    for row in out.chunks_mut(n) {
        row.chunks_mut(PANELS * COLUMNS).zip(&mut tasks).for_each(|(part, task)| task.push(part));
    }
    tasks
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
        let rows = (x.len() / k).div_ceil(rayon::current_num_threads()).max(1);
        let part = |x: &[f32]| match layout.fours {
            false => Self::wide(x, (k, scheme), layout),
            true => {
                let inputs = Inputs::round(x, k, scheme);
                Self::narrow(&inputs, (x.len() / k, scheme), layout, level)
            }
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
        let blocks = m * k.div_ceil(BLOCK);
        let groups = if scheme.has_minimums() { m * scheme.groups(k) } else { 0 };
        Self {
            words: vec![0; blocks * layout.words],
            scales: Vec::with_capacity(blocks * layout.runs),
            offsets: Vec::with_capacity(blocks * layout.runs),
            sums: Vec::with_capacity(groups),
            groups: scheme.groups(k),
        }
    }

    /// For weights of eight bits, rounded to sixteen bits run by run.
    fn wide(x: &[f32], (k, scheme): (usize, QuantScheme), layout: Layout) -> Self {
        let mut left = Self::empty(x.len() / k, (k, scheme), layout);
        let length = BLOCK / layout.runs;
        let mut words = left.words.chunks_exact_mut(length / 2);
        for row in x.chunks_exact(k) {
            let mut sums = vec![0.0; if scheme.has_minimums() { left.groups } else { 0 }];
            for run in 0..k.div_ceil(BLOCK) * layout.runs {
                let values = row.get(run * length..).unwrap_or_default();
                let values = &values[..values.len().min(length)];
                let scale = scale_of(values, f32::from(i16::MAX));
                let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
                let code = |value: &f32| nearest(value * inverse) as i16;
                let words = words.next().expect("words for every run");
                for (word, pair) in words.iter_mut().zip(values.chunks(2)) {
                    let high = pair.get(1).map_or(0, code);
                    *word = i32::from(code(&pair[0]) as u16) | i32::from(high) << 16;
                }
                left.scales.push(scale);
                left.offsets.push(0);
                if let Some(sum) = sums.get_mut(run * length / scheme.group()) {
                    *sum += values.iter().map(|value| i32::from(code(value))).sum::<i32>() as f32
                        * scale;
                }
            }
            left.sums.extend(sums);
        }
        left
    }

    /// From rows that were rounded to eight bits.
    fn narrow(
        inputs: &Inputs,
        (m, scheme): (usize, QuantScheme),
        layout: Layout,
        level: Level,
    ) -> Self {
        let whole = has_vnni(level);
        // Of four bits, the offsets of even and odd places are one number.
        let lanes = if scheme.bits() == 8 { LANES } else { LANES / 2 };
        let mut left = Self::empty(m, (inputs.row(0).len() * BLOCK, scheme), layout);
        left.groups = inputs.groups();
        let mut words = left.words.chunks_exact_mut(layout.words);
        for row in 0..m {
            for (input, words) in inputs.row(row).iter().zip(&mut words) {
                fours(&input.codes, words, scheme.bits());
                let runs = words.chunks_exact(layout.words / layout.runs);
                let offsets = input.offsets.chunks_exact(lanes / layout.runs);
                for ((words, offsets), scale) in runs.zip(offsets).zip(input.scales()) {
                    left.scales.push(scale);
                    left.offsets.push(if whole { offsets.iter().sum() } else { in_halves(words) });
                }
            }
            if scheme.has_minimums() {
                left.sums.extend(inputs.sums(row));
            }
        }
        left
    }

    /// The sums of the groups of row `row`.
    fn sums(&self, row: usize) -> &[f32] {
        &self.sums[row * self.groups..][..self.groups]
    }

    /// Some blocks of a row of `all` blocks.
    fn row(
        &self,
        row: usize,
        all: usize,
        blocks: std::ops::Range<usize>,
        layout: Layout,
    ) -> LeftRow<'_> {
        let (first, end) = (row * all + blocks.start, row * all + blocks.end);
        LeftRow {
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
