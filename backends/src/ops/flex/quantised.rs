//! Products of a few activation rows with rounded weights, which are read once, packed as they lie in the file.
//!
//! Activations are rounded to eight bits too, row by row and group by group, so that the products inside a group are sums
//! of integers. These are exact: the kernels of all instruction sets agree in them, and differ in the order of the sum
//! over groups alone. Whatever the number of rows, a row gets the same bits.

mod inputs;
#[cfg(target_arch = "x86_64")]
mod x86;

use burn::tensor::bf16;
use rayon::prelude::*;

use super::dot::transpose;
use crate::cpu::Level;
use crate::quant::{OFFSET_OF_FOUR, QuantScheme};
use inputs::Inputs;

/// Weights of a block: what a kernel does in one step.
const BLOCK: usize = 64;
/// Weight rows per task.
const ROWS_PER_TASK: usize = 16;
/// Activation rows whose sums stay in registers.
const TILE: usize = 4;

/// A rounded matrix `[n, k]`.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    pub codes: &'a [u8],
    pub scales: &'a [bf16],
    pub k: usize,
    pub scheme: QuantScheme,
}

/// A row of it.
#[derive(Clone, Copy)]
struct Row<'a> {
    codes: &'a [u8],
    scales: &'a [bf16],
}

impl<'a> Weights<'a> {
    fn rows(self) -> usize {
        self.codes.len() / self.scheme.row_bytes(self.k).max(1)
    }

    fn row(self, row: usize) -> Row<'a> {
        let (bytes, groups) = (self.scheme.row_bytes(self.k), self.scheme.groups(self.k));
        let codes = &self.codes[row * bytes..][..bytes];
        Row { codes, scales: &self.scales[row * groups..][..groups] }
    }

    /// Writes the rows from `first` on as f32.
    pub fn expand(self, first: usize, out: &mut [f32]) {
        out.par_chunks_mut(self.k.max(1)).enumerate().for_each(|(row, out)| {
            let row = self.row(first + row);
            self.scheme.expand_row(row.codes, row.scales, out);
        });
    }
}

/// `x [m, k] · wᵀ -> [m, n]`, with `x` rounded.
pub fn rows(x: &[f32], weights: Weights<'_>, level: Level) -> Vec<f32> {
    let (n, m) = (weights.rows(), x.len() / weights.k.max(1));
    let inputs = Inputs::round(x, weights.k, weights.scheme);
    let mut transposed = vec![0.0; n * m];
    transposed.par_chunks_mut((ROWS_PER_TASK * m).max(1)).enumerate().for_each(|(task, out)| {
        let rows = (task * ROWS_PER_TASK..).map(|row| weights.row(row));
        task_rows(out, m, rows, (&inputs, weights.scheme), level);
    });
    if m == 1 { transposed } else { transpose(&transposed, n, m) }
}

/// As many weight rows as `out` has room for, each by all activation rows.
fn task_rows<'a>(
    out: &mut [f32],
    m: usize,
    rows: impl Iterator<Item = Row<'a>>,
    (inputs, scheme): (&Inputs, QuantScheme),
    level: Level,
) {
    for (out, row) in out.chunks_mut(m).zip(rows) {
        for (tile, out) in out.chunks_mut(TILE).enumerate() {
            let first = tile * TILE;
            #[cfg(target_arch = "x86_64")]
            if x86::tile(out, row, inputs, first, scheme, level) {
                continue;
            }
            portable(out, row, inputs, first, scheme);
        }
    }
    let _ = level;
}

/// The scales of the two halves of block `block`.
#[inline(always)]
fn halves(scales: &[bf16], group: usize, block: usize) -> [f32; 2] {
    let at = |half: usize| {
        let scale = scales.get((block * BLOCK + half * BLOCK / 2) / group);
        scale.map_or(0.0, |s| f32::from_bits(u32::from(s.to_bits()) << 16))
    };
    if group == 32 { [at(0), at(1)] } else { [at(0); 2] }
}

/// The sums for the activation rows from `first` on, one after the other.
fn portable(out: &mut [f32], row: Row<'_>, inputs: &Inputs, first: usize, scheme: QuantScheme) {
    let block_bytes = BLOCK * scheme.bits() / 8;
    for (i, out) in out.iter_mut().enumerate() {
        let input = inputs.row(first + i);
        let blocks = row.codes.chunks(block_bytes).zip(input.codes).zip(input.scales).enumerate();
        *out = blocks.fold(0.0, |sum, (block, ((codes, x), scales))| {
            let weight_scales = halves(row.scales, scheme.group(), block);
            let parts = if scheme.bits() == 8 { eight(codes, x) } else { four(codes, x) };
            (0..2).fold(sum, |sum, h| sum + parts[h] as f32 * (weight_scales[h] * scales[h]))
        });
    }
}

/// Sums of products in the two halves of a block.
fn eight(codes: &[u8], x: &[i8; BLOCK]) -> [i32; 2] {
    let half = |h: usize| {
        let codes = codes.iter().skip(h * BLOCK / 2).take(BLOCK / 2);
        let products = codes.zip(&x[h * BLOCK / 2..]);
        products.map(|(q, x)| i32::from(*q as i8) * i32::from(*x)).sum()
    };
    [half(0), half(1)]
}

fn four(codes: &[u8], x: &[i8; BLOCK]) -> [i32; 2] {
    let (even, odd) = x.split_at(BLOCK / 2);
    let half = |h: usize| {
        let codes = codes.iter().skip(h * BLOCK / 4).take(BLOCK / 4);
        let inputs = even[h * BLOCK / 4..].iter().zip(&odd[h * BLOCK / 4..]);
        let product = |q: u8, x: i8| i32::from(q as i8 - OFFSET_OF_FOUR) * i32::from(x);
        codes.zip(inputs).map(|(q, (a, b))| product(q & 15, *a) + product(q >> 4, *b)).sum()
    };
    [half(0), half(1)]
}

#[cfg(test)]
mod tests;
