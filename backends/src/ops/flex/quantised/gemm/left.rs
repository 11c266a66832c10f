//! Activation rows rounded and laid out for tiles.

use std::ops::Range;

use rayon::prelude::*;

use super::super::inputs::{Inputs, LANES, scale_of};
use super::{BLOCK, Layout, ROWS, has_vnni};
use crate::cpu::Level;
use crate::ops::flex::tiles::{LINES, Tile};
use crate::quant::{OFFSET_OF_FOUR, QuantScheme, nearest};

/// Words of several rows that lie together.
pub trait Words: Copy + Send + Sync {
    const ROWS: usize;
    /// Words of a row in it.
    const WORDS: usize;
    const ZEROS: Self;

    fn put(&mut self, row: usize, words: &[i32]);
}

/// What the rows of a tile have at a place, so that no two of them are far apart, where caches would keep few of them.
impl Words for [i32; ROWS] {
    const ROWS: usize = ROWS;
    const WORDS: usize = 1;
    const ZEROS: Self = [0; ROWS];

    fn put(&mut self, row: usize, words: &[i32]) {
        self[row] = words[0];
    }
}

/// A block of bytes, as AMX takes it.
impl Words for Tile {
    const ROWS: usize = LINES;
    const WORDS: usize = LINES;
    const ZEROS: Self = Self::ZERO;

    fn put(&mut self, row: usize, words: &[i32]) {
        self.0[row].iter_mut().zip(words).for_each(|(to, word)| *to = word.cast_unsigned());
    }
}

/// Activation rows as words, tile after tile.
pub struct Left<W> {
    words: Vec<W>,
    /// Of each run, those of the rows of a tile together.
    scales: Vec<f32>,
    /// What the sums of a run begin with, for the offset of stored weights, laid out as the scales; without VNNI as two numbers
    /// of sixteen bits.
    offsets: Vec<i32>,
    /// The sum of the rounded values in each group of weights, where these have minimums.
    sums: Vec<f32>,
    groups: usize,
}

/// A part of a tile: words, and scales and offsets of the runs that these make up.
#[derive(Clone, Copy)]
pub struct LeftTile<'a, W> {
    pub words: &'a [W],
    pub scales: &'a [f32],
    pub offsets: &'a [i32],
}

/// An activation row as words.
#[derive(Default)]
struct LeftRow {
    words: Vec<i32>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
}

impl<W: Words> Left<W> {
    /// All rows, rounded on all cores.
    pub fn new(x: &[f32], (k, scheme): (usize, QuantScheme), layout: Layout, level: Level) -> Self {
        let rows = (x.len() / k).div_ceil(rayon::current_num_threads()).next_multiple_of(W::ROWS);
        let wide = !layout.fours || layout.pieces > 1;
        let part = |x: &[f32]| {
            let mut left = Self::empty(x.len() / k, (k, scheme), layout);
            match wide {
                true => left.fill_wide(x, (k, scheme), layout),
                false => left.fill_narrow(&Inputs::round(x, k, scheme), scheme, layout, level),
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
        let blocks = m.div_ceil(W::ROWS) * k.div_ceil(BLOCK);
        let groups = if scheme.has_minimums() { m * scheme.groups(k) } else { 0 };
        Self {
            words: vec![W::ZEROS; blocks * layout.pieces * layout.words / W::WORDS],
            scales: vec![0.0; blocks * layout.runs * W::ROWS],
            offsets: vec![0; blocks * layout.runs * W::ROWS],
            sums: Vec::with_capacity(groups),
            groups: scheme.groups(k),
        }
    }

    /// Puts row `index` into its tile.
    fn put(&mut self, index: usize, row: &LeftRow) {
        let (tile, line) = (index / W::ROWS, index % W::ROWS);
        let count = row.words.len() / W::WORDS;
        let words = self.words[tile * count..][..count].iter_mut();
        words.zip(row.words.chunks_exact(W::WORDS)).for_each(|(to, words)| to.put(line, words));
        let first = tile * row.scales.len() * W::ROWS + line;
        for (run, (scale, offset)) in row.scales.iter().zip(&row.offsets).enumerate() {
            self.scales[first + run * W::ROWS] = *scale;
            self.offsets[first + run * W::ROWS] = *offset;
        }
    }

    /// For weights of eight bits, rounded to sixteen bits run by run.
    fn fill_wide(&mut self, x: &[f32], (k, scheme): (usize, QuantScheme), layout: Layout) {
        let (runs, length) = (k.div_ceil(BLOCK) * layout.runs, BLOCK / layout.runs);
        let mut of_row = LeftRow { offsets: vec![0; runs], ..LeftRow::default() };
        let mut codes: Vec<i16> = Vec::with_capacity(runs * length);
        for (index, row) in x.chunks_exact(k).enumerate() {
            let mut sums = vec![0.0; if scheme.has_minimums() { self.groups } else { 0 }];
            codes.clear();
            of_row.scales.clear();
            for run in 0..runs {
                // Runs that AMX sums together have one scale.
                let spread = if layout.tiles { scheme.group().max(length) } else { length };
                let part = |start: usize, length: usize| {
                    let values = row.get(start..).unwrap_or_default();
                    &values[..values.len().min(length)]
                };
                let first = run * length / spread * spread;
                let scale = scale_of(part(first, spread), f32::from(i16::MAX));
                let values = part(run * length, length);
                let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
                codes.extend(values.iter().map(|value| nearest(value * inverse) as i16));
                if let Some(sum) = sums.get_mut(run * length / scheme.group()) {
                    let codes = &codes[run * length..];
                    *sum += codes.iter().copied().map(i32::from).sum::<i32>() as f32 * scale;
                }
                codes.resize((run + 1) * length, 0);
                of_row.scales.push(scale);
            }
            of_row.words.clear();
            match layout.tiles {
                true => codes.as_chunks().0.iter().for_each(|b| in_bytes(b, &mut of_row.words)),
                false => {
                    of_row.words.extend(
                        codes.as_chunks().0.iter().map(|[low, high]| {
                            i32::from(low.cast_unsigned()) | i32::from(*high) << 16
                        }),
                    )
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
    pub fn sums(&self, row: usize) -> &[f32] {
        &self.sums[row * self.groups..][..self.groups]
    }
}

/// Some blocks of all rows, which have `all` of them.
pub struct Part<'a, W> {
    pub left: &'a Left<W>,
    pub all: usize,
    pub blocks: Range<usize>,
    pub layout: Layout,
}

impl<'a, W: Words> Part<'a, W> {
    /// Those of a tile.
    pub fn tile(&self, tile: usize) -> LeftTile<'a, W> {
        let Self { left, all, blocks, layout } = self;
        let (first, end) = (tile * all + blocks.start, tile * all + blocks.end);
        let (words, runs) = (layout.pieces * layout.words / W::WORDS, layout.runs * W::ROWS);
        LeftTile {
            words: &left.words[first * words..end * words],
            scales: &left.scales[first * runs..end * runs],
            offsets: &left.offsets[first * runs..end * runs],
        }
    }
}

/// A block of sixteen bits as bytes: first the high ones, which have the signs, and then the low ones, which have none.
fn in_bytes(codes: &[i16; BLOCK], words: &mut Vec<i32>) {
    for shift in [8, 0] {
        let fours = codes.as_chunks::<4>().0.iter();
        words.extend(fours.map(|four| i32::from_le_bytes(four.map(|code| (code >> shift) as u8))));
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
