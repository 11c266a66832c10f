//! Products of many activation rows with rounded weights, in integers.
//!
//! Activations are rounded as for a few rows, and the products inside a group are the same exact sums; the order of the sum
//! over groups is another. Beside weights of eight bits activations are rounded to sixteen, and both are multiplied as
//! numbers of sixteen, unless eight are enough. Weights are read once, and repacked as far as fits into a cache: a column of a
//! tile is a weight row, a word holds two neighbours along the summed axis as sixteen bits, or four as bytes. What a row gets
//! does not depend on the other rows.
//!
//! AMX multiplies bytes alone: an activation of sixteen bits is there two of them, whose products are summed apart.

mod amx;
mod left;
mod pack;
mod x86;

use rayon::prelude::*;

use super::x86::has_vnni;
use super::{BLOCK, Weights, columns};
use crate::cpu::Level;
use crate::quant::{Codes, QuantScheme};
use left::{Left, LeftTile, Part, Words};
use pack::Right;

/// Weight rows of a panel.
const COLUMNS: usize = 16;
/// Panels of a task, which read the same activations from the nearest cache.
const PANELS: usize = 4;

/// Activation rows of a tile, whose sums stay in registers.
const ROWS: usize = 6;

/// How a block is divided.
#[derive(Clone, Copy)]
struct Layout {
    /// Words of a block.
    words: usize,
    /// Sums of integers of a block: as long as a group, as far as they hold that.
    runs: usize,
    /// Blocks that are repacked at a time: two panels of so many take 32 KiB, which the nearest cache of a core holds.
    depth: usize,
    /// Whether a word is four neighbours of eight bits, and not two of sixteen.
    fours: bool,
    /// Whether AMX multiplies: then weights are bytes with signs, without an offset.
    tiles: bool,
    /// Words into which one of an activation row is divided: with AMX two of bytes, where it has sixteen bits.
    pieces: usize,
}

impl Layout {
    /// `coarse`: eight bits are enough for activations. Only sums of 32 bits hold their products with weights of eight.
    fn of(scheme: QuantScheme, coarse: bool, level: Level) -> Self {
        let runs = BLOCK / scheme.group().min(BLOCK);
        let fours =
            Self { words: BLOCK / 4, runs, depth: 16, fours: true, tiles: false, pieces: 1 };
        match scheme.bits() {
            bits if has_tiles(scheme, level) => {
                let pieces = if bits == 8 && !coarse { 2 } else { 1 };
                // Activations, sums of integers and of f32 lie in the nearest cache too.
                Self { depth: 8, tiles: true, pieces, ..fours }
            }
            8 if coarse && runs <= 2 && has_vnni(level) => fours,
            8 => Self { words: BLOCK / 2, depth: 8, fours: false, ..fours },
            // Sums of sixteen bits hold no more than 32 products.
            _ if has_vnni(level) => fours,
            _ => Self { runs: 2, ..fours },
        }
    }
}

/// Whether AMX's products of bytes are used: a tile that sums sixteen numbers alone would be used by a quarter.
pub fn has_tiles(scheme: QuantScheme, level: Level) -> bool {
    level == Level::Amx && scheme.codes() != Codes::Float8 && scheme.group() >= 32
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
    match layout.tiles {
        true => multiply(&mut out, x, weights, (layout, level), |out, left, right| {
            amx::tiles(out, left, right, scheme);
        }),
        false => multiply(&mut out, x, weights, (layout, level), |out, left, right| {
            x86::tiles(out, left, right, level);
        }),
    }
    Some(out)
}

/// Lets `tiles` add the products of all rows, tile by tile, with the panels of each task.
fn multiply<W: Words>(
    out: &mut [f32],
    x: &[f32],
    weights: Weights<'_>,
    (layout, level): (Layout, Level),
    tiles: impl Fn(&mut [&mut [f32]], &Part<'_, W>, &Right) + Sync,
) {
    let (n, k, scheme) = (weights.rows(), weights.k, weights.scheme);
    let left = Left::<W>::new(x, (k, scheme), layout, level);
    columns(out, n, PANELS * COLUMNS).into_par_iter().enumerate().for_each(|(task, mut out)| {
        let first = task * PANELS * COLUMNS;
        let (mut right, all) = (Right::default(), k.div_ceil(BLOCK));
        for start in (0..all).step_by(layout.depth) {
            let blocks = start..all.min(start + layout.depth);
            let rows = first..n.min(first + PANELS * COLUMNS);
            right.pack((weights, rows), blocks.clone(), layout);
            tiles(&mut out, &Part { left: &left, all, blocks, layout }, &right);
        }
        if scheme.has_minimums() {
            add_minimums(&mut out, &left, (weights, first));
        }
    });
}

/// As [`super::add_shifts`], for the columns from weight row `first` on.
fn add_minimums<W: Words>(
    out: &mut [&mut [f32]],
    left: &Left<W>,
    (weights, first): (Weights<'_>, usize),
) {
    let (mut scales, columns) = (weights.scratch(), out.first().map_or(0, |out| out.len()));
    let mut column = vec![0.0; out.len()];
    for j in 0..columns {
        weights.scales(first + j, &mut scales);
        column.fill(0.0);
        super::add_shifts(&mut column, &mut scales, |row| left.sums(row), weights.scheme.codes());
        out.iter_mut().zip(&column).for_each(|(out, shift)| out[j] += shift);
    }
}
