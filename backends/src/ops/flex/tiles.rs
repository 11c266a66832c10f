//! Products of tiles of bf16, summed in f32: on Intel's AMX, or with AVX-512 BF16.
//!
//! A value of f32 is taken as the sum of two numbers of bf16, so that a product with weights that are bf16 anyway needs two
//! products of tiles and is as exact as in f32 but for 2⁻¹⁷ of a value, and one of two operands in f32 three; or it is rounded
//! to one. Whatever the other lines are, a line's sums are the same, in the same order.

mod amx;
pub mod attention;
mod kernel;
mod pack;
mod pairs;

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::matmul::Into;
use crate::cpu::Tiles;
use kernel::{DEPTH, Kernel};
pub use kernel::{LINES, Terms, Tile};
pub use pack::{Expanded, HalfRows, Source};
use pack::{Put, Side, put_row, transpose, unset};

/// Bytes of packed operands that a thread keeps at most, of each side.
const KEPT: usize = 64 << 20;
/// Lines of two tiles, which the registers hold of each operand.
const PAIR: usize = 2 * LINES;
/// Left lines of a task at most.
const TASK: usize = 256;
/// Tiles along the summed axis of which left lines are packed at a time: of bf16 a page of memory of each line.
const PACKED: usize = 64;
/// Right lines that are packed at a time, at most: left ones are packed again for each time, and the sums of a task take 1 KiB for
/// each of them, beside what is multiplied, in the second cache.
const BLOCK: usize = 1536;
/// Tiles of a pair of right lines that stay in the nearest cache while left lines pass.
const CACHED: usize = 32;

/// `out[i, j] = scale · Σ left[i, l] · right[j, l] + bias[i]`.
pub struct Product<'a, L, R> {
    pub left: &'a L,
    pub right: &'a R,
    pub with: Tiles,
    pub terms: Terms,
    /// Whether rows and columns of the result are exchanged.
    pub turned: bool,
    pub scale: f32,
    pub into: Into,
    /// What is added to the values of each left line, if it is there.
    pub bias: Option<&'a [f32]>,
    /// Whether all cores are used, or the calling thread alone.
    pub parallel: bool,
}

/// Room of a thread for the left tiles and the sums of a task.
#[derive(Default)]
struct Room {
    left: Vec<Tile>,
    sums: Vec<[Tile; 4]>,
}

thread_local! {
    static ROOM: Cell<Room> = const { Cell::new(Room { left: Vec::new(), sums: Vec::new() }) };
    /// Room for packed right operands.
    static RIGHT: Cell<Vec<Tile>> = const { Cell::new(Vec::new()) };
}

/// As many of the values as are needed, with anything in them.
fn some<T: Copy>(room: &mut Vec<T>, count: usize, value: T) -> &mut [T] {
    if room.len() < count {
        room.resize(count, value);
    }
    &mut room[..count]
}

/// The room, unless it is too large to be kept.
fn bounded(room: Vec<Tile>) -> Vec<Tile> {
    if size_of_val(&room[..]) > KEPT { Vec::new() } else { room }
}

/// Packed lines in pairs of strips of [`LINES`] lines, each strip as all of its tiles.
#[derive(Clone, Copy)]
struct Lines<'t> {
    tiles: &'t [Tile],
    /// Tiles along the summed axis, and terms of each.
    depth: usize,
    terms: usize,
}

impl<'t> Lines<'t> {
    /// Packs `lines` of `source` into `room`.
    fn pack<S: Source>(
        (source, lines): (&S, Range<usize>),
        into: (Side, usize),
        room: &'t mut Vec<Tile>,
        parallel: bool,
    ) -> Self {
        let tiles = 0..source.depth().div_ceil(DEPTH);
        Self::part((source, lines, tiles), into, room, parallel)
    }

    /// Packs `tiles` of `lines` of `source` into `room`.
    fn part<S: Source>(
        (source, lines, tiles): (&S, Range<usize>, Range<usize>),
        (side, terms): (Side, usize),
        room: &'t mut Vec<Tile>,
        parallel: bool,
    ) -> Self {
        let (depth, start) = (tiles.len(), tiles.start);
        let size = depth * terms;
        let tiles = some(room, lines.len().div_ceil(PAIR) * 2 * size, Tile::ZERO);
        let fill = |(strip, out): (usize, &mut [Tile])| {
            source.pack(lines.start + strip * LINES, start, (side, terms), out);
        };
        match parallel {
            true => tiles.par_chunks_mut(size.max(1)).enumerate().for_each(fill),
            false => tiles.chunks_mut(size.max(1)).enumerate().for_each(fill),
        }
        Self { tiles, depth, terms }
    }

    /// Some tiles of a pair.
    fn pair(self, pair: usize, tiles: Range<usize>) -> [&'t [Tile]; 2] {
        [2 * pair, 2 * pair + 1].map(|strip| {
            let first = (strip * self.depth + tiles.start) * self.terms;
            &self.tiles[first..][..tiles.len() * self.terms]
        })
    }
}

/// Where the part `index` of `count` of two lines begins.
fn part_of(lines: [&[Tile]; 2], index: usize, count: usize) -> &[Tile] {
    let first = index * (2 * lines[0].len()).div_ceil(count);
    let (line, first) = (first / lines[0].len().max(1), first % lines[0].len().max(1));
    lines.get(line).and_then(|line| line.get(first..)).unwrap_or_default()
}

impl<L: Source, R: Source> Product<'_, L, R> {
    /// Writes the product into rows of `out` that begin `out_stride` values apart.
    ///
    /// # Panics
    /// When the operands have different depths, a row reaches past the next or `out` is too small, or without the instructions.
    pub fn write(&self, out: &mut [f32], out_stride: usize) {
        self.fill(unset(out), out_stride);
    }

    /// The product as rows behind one another.
    ///
    /// # Panics
    /// As [`Self::write`], and when it is to be added to something.
    pub fn values(&self) -> Vec<f32> {
        assert!(self.into == Into::Replace, "there is nothing to add to");
        let (m, n) = (self.left.lines(), self.right.lines());
        let mut out = Vec::with_capacity(m * n);
        self.fill(&mut out.spare_capacity_mut()[..m * n], if self.turned { m } else { n });
        // SAFETY: rows of as many values as lie between two were written, each whole, up to this length.
        unsafe { out.set_len(m * n) };
        out
    }

    /// Writes all values of all rows; where they are added, `out` must hold some.
    fn fill(&self, out: &mut [MaybeUninit<f32>], out_stride: usize) {
        let (m, n) = (self.left.lines(), self.right.lines());
        assert_eq!(self.left.depth(), self.right.depth(), "inner sizes of a product");
        assert!(self.bias.is_none_or(|bias| bias.len() == m && self.turned), "a bias for columns");
        let threads = if self.parallel { rayon::current_num_threads() } else { 1 };
        let task = m.div_ceil(2 * threads).next_multiple_of(PAIR).min(TASK);
        let mut room = RIGHT.take();
        let block = n.div_ceil(n.div_ceil(BLOCK).max(1)).next_multiple_of(PAIR);
        for first in (0..if m == 0 { 0 } else { n }).step_by(block.max(PAIR)) {
            let columns = first..n.min(first + block);
            let count = columns.len();
            let (terms, parallel) = (self.terms.right, self.parallel);
            let tasks = self.tasks(out, out_stride, columns.clone(), task);
            let right =
                Lines::pack((self.right, columns), (Side::Right, terms), &mut room, parallel);
            let run = |(index, mut out): (usize, Vec<&mut [MaybeUninit<f32>]>)| {
                let rows = index * task..m.min((index + 1) * task);
                self.rows(&mut out, rows, right, count);
            };
            match parallel {
                true => tasks.into_par_iter().enumerate().for_each(run),
                false => tasks.into_iter().enumerate().for_each(run),
            }
        }
        RIGHT.set(bounded(room));
    }

    /// The part of `out` of each task of `task` left lines and the given right ones, row by row.
    fn tasks<'o>(
        &self,
        out: &'o mut [MaybeUninit<f32>],
        out_stride: usize,
        columns: Range<usize>,
        task: usize,
    ) -> Vec<Vec<&'o mut [MaybeUninit<f32>]>> {
        let m = self.left.lines();
        let (rows, columns) = if self.turned { (columns, 0..m) } else { (0..m, columns) };
        assert!(columns.end <= out_stride || rows.end <= 1, "rows of the result overlap");
        let first = rows.start * out_stride;
        let out = &mut out[first..(rows.end - 1) * out_stride + columns.end];
        let mut tasks = Vec::new();
        tasks.resize_with(m.div_ceil(task), Vec::new);
        for (index, row) in out.chunks_mut(out_stride.max(columns.end)).enumerate() {
            let row = &mut row[columns.clone()];
            match self.turned {
                true => row.chunks_mut(task).zip(&mut tasks).for_each(|(part, t)| t.push(part)),
                false => tasks[index / task].push(row),
            }
        }
        tasks
    }

    /// The products of some left lines with `columns` right ones.
    fn rows(
        &self,
        out: &mut [&mut [MaybeUninit<f32>]],
        rows: Range<usize>,
        right: Lines<'_>,
        columns: usize,
    ) {
        let terms = self.terms;
        let step = CACHED / 2 / terms.right;
        let (pairs, across) = (rows.len().div_ceil(PAIR), columns.div_ceil(PAIR));
        let mut room = ROOM.take();
        let sums = some(&mut room.sums, pairs * across, [Tile::ZERO; 4]);
        let kernel = Kernel::new(self.with);
        let depth = right.depth;
        for first in (0..depth.max(1)).step_by(PACKED) {
            let left = (self.left, rows.clone(), first..depth.min(first + PACKED));
            let left = Lines::part(left, (Side::Left, terms.left), &mut room.left, false);
            for start in (0..left.depth.max(1)).step_by(step) {
                let tiles = start..left.depth.min(start + step);
                let of_right = first + tiles.start..first + tiles.end;
                for column in 0..across {
                    let next = right.pair((column + 1) % across, of_right.clone());
                    let right = right.pair(column, of_right.clone());
                    for row in 0..pairs {
                        let left = left.pair(row, tiles.clone());
                        let sums = &mut sums[row * across + column];
                        let ahead = part_of(next, row, pairs);
                        kernel.multiply(sums, left, right, terms, first + start == 0, ahead);
                    }
                }
            }
        }
        drop(kernel);
        self.put(out, sums, across, self.bias.map(|bias| &bias[rows]));
        ROOM.set(Room { left: bounded(room.left), sums: room.sums });
    }

    /// Writes the sums of pairs of lines, `across` of them for a pair of left ones.
    fn put(
        &self,
        out: &mut [&mut [MaybeUninit<f32>]],
        sums: &mut [[Tile; 4]],
        across: usize,
        bias: Option<&[f32]>,
    ) {
        if self.turned {
            sums.iter_mut().flatten().for_each(transpose);
        }
        let how = Put { scale: self.scale, bias, add: self.into == Into::Add };
        for (i, out) in out.iter_mut().enumerate() {
            let (pair, half, row) = (i / PAIR, i / LINES % 2, i % LINES);
            put_row(out, how, |strip| {
                let tile = match self.turned {
                    true => &sums[strip / 2 * across + pair][strip % 2 * 2 + half],
                    false => &sums[pair * across + strip / 2][half * 2 + strip % 2],
                };
                &tile.0[row]
            });
        }
    }
}

#[cfg(test)]
mod tests;
