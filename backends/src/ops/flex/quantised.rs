//! Products of a few activation rows with rounded weights, which are read once, packed as they lie in the file.
//!
//! Where codes are integers, activations are rounded to eight bits too, row by row and group by group, so that the products
//! inside a group are sums of integers. These are exact: the kernels of all instruction sets agree in them, and differ in
//! the order of the sum over groups alone. Where they have a point, a few weight rows at a time are expanded, and activations
//! taken as they are. Whatever the number of rows, a row gets the same bits.

mod expand;
mod float8;
#[cfg(target_arch = "x86_64")]
mod gemm;
mod inputs;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod parts;
pub mod together;
#[cfg(target_arch = "x86_64")]
mod x86;

use burn::backend::flex::FlexTensor;
use burn::tensor::{bf16, f16};
use rayon::prelude::*;

use super::Widen;
use super::dot;
#[cfg(target_arch = "x86_64")]
use super::panel::{self, Tiling};
#[cfg(target_arch = "x86_64")]
use super::tiles;
#[cfg(target_arch = "x86_64")]
use crate::cpu::Tiles;
use crate::cpu::{Level, prefetch_second};
use crate::quant::{Codes, OFFSET_OF_FOUR, QuantScheme};
use crate::simd::vectorised;
use crate::threads::ranges::fill_parts;
#[cfg(target_arch = "x86_64")]
pub use gemm::product as many_rows;
use inputs::Inputs;

/// Other processors have no kernel for many rows.
#[cfg(not(target_arch = "x86_64"))]
pub fn many_rows(_: &[f32], _: Weights<'_>, _: Level, _: bool) -> Option<Vec<f32>> {
    None
}

/// Weights of a block: what a kernel does in one step.
const BLOCK: usize = 64;
/// Weight rows per task.
const ROWS_PER_TASK: usize = 16;
/// Activation rows that are multiplied together.
#[cfg(target_arch = "x86_64")]
const TILE: usize = 8;

/// Scales and minimums, as they are stored.
#[derive(Clone, Copy)]
pub enum Scales<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

impl<'a> Scales<'a> {
    /// The values of a contiguous tensor.
    pub fn of(tensor: &'a FlexTensor) -> Option<Self> {
        let wide = || tensor.as_slice::<f32>().map(Self::F32);
        let half = || tensor.as_slice::<f16>().map(Self::F16);
        tensor.as_slice::<bf16>().map(Self::Bf16).or_else(wide).or_else(half)
    }

    /// Some of them.
    pub fn part(self, range: std::ops::Range<usize>) -> Self {
        match self {
            Self::F32(scales) => Self::F32(&scales[range]),
            Self::Bf16(scales) => Self::Bf16(&scales[range]),
            Self::F16(scales) => Self::F16(&scales[range]),
        }
    }

    /// Fetches some of them, as far as there are such. Beside the codes they are a stream of their own, which would be waited for at
    /// the beginning of every task.
    #[inline(always)]
    fn fetch(self, range: std::ops::Range<usize>) {
        fn lines<T>(scales: &[T], range: std::ops::Range<usize>) {
            let some = &scales[range.start.min(scales.len())..range.end.min(scales.len())];
            some.iter().step_by(64 / size_of::<T>()).for_each(|scale| prefetch_second(scale, 0));
        }
        match self {
            Self::F32(scales) => lines(scales, range),
            Self::Bf16(scales) => lines(scales, range),
            Self::F16(scales) => lines(scales, range),
        }
    }

    /// Writes those from `first` on as f32.
    fn widen(self, first: usize, out: &mut [f32]) {
        match self {
            Self::F32(scales) => out.copy_from_slice(&scales[first..][..out.len()]),
            Self::Bf16(scales) => widen_bf16(out, &scales[first..]),
            Self::F16(scales) => {
                out.iter_mut().zip(&scales[first..]).for_each(|(to, from)| *to = finite(*from));
            }
        }
    }
}

vectorised! { fn widen_bf16(out: &mut [f32], scales: &[bf16]) = widen_bf16_body }

#[inline(always)]
fn widen_bf16_body(out: &mut [f32], scales: &[bf16], _: impl Fn(f32, f32, f32) -> f32) {
    out.iter_mut().zip(scales).for_each(|(to, from)| *to = from.widen());
}

/// A finite f16 in f32, without a call for each.
#[inline(always)]
fn finite(value: f16) -> f32 {
    let bits = u32::from(value.to_bits());
    // Exponent and mantissa moved to their places in f32, whose exponents have a bias larger by 112.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    f32::from_bits((bits & 0x8000) << 16 | (bits & 0x7fff) << 13) * REBIAS
}

/// A rounded matrix `[n, k]`.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    pub codes: &'a [u8],
    pub scales: Scales<'a>,
    pub k: usize,
    pub scheme: QuantScheme,
}

/// Some rows of it.
#[derive(Clone, Copy)]
struct Rows<'a> {
    codes: &'a [u8],
    /// Bytes of codes of a row.
    bytes: usize,
    /// Scales of a row after those of another, with minimums behind them: in f32, where [`Ready::takes_wide`] says so.
    wide: &'a [f32],
    columns: usize,
    groups: usize,
    /// The same among all scales, and the first of them.
    stored: Scales<'a>,
    first: usize,
}

/// One of them.
#[derive(Clone, Copy)]
struct Row<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
}

impl<'a> Rows<'a> {
    /// Row `row`, with wide scales.
    #[inline(always)]
    fn row(self, row: usize) -> Row<'a> {
        self.fetch_next(row);
        Row { codes: self.codes(row), scales: &self.wide[row * self.columns..][..self.groups] }
    }

    #[inline(always)]
    fn codes(self, row: usize) -> &'a [u8] {
        &self.codes[row * self.bytes..][..self.bytes]
    }

    /// The scales of row `row` among `stored`, which are those of all rows.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn scales<S>(self, row: usize, stored: &'a [S]) -> &'a [S] {
        self.fetch_next(row);
        &stored[self.first + row * self.columns..][..self.groups]
    }

    /// Fetches the scales of as many rows behind `row` as a task has.
    #[inline(always)]
    fn fetch_next(self, row: usize) {
        let next = self.first + (row + ROWS_PER_TASK) * self.columns;
        self.stored.fetch(next..next + self.columns);
    }
}

impl<'a> Weights<'a> {
    fn rows(self) -> usize {
        self.codes.len() / self.scheme.row_bytes(self.k).max(1)
    }

    /// The codes of a row.
    fn codes(self, row: usize) -> &'a [u8] {
        let bytes = self.scheme.row_bytes(self.k);
        &self.codes[row * bytes..][..bytes]
    }

    /// Room for the scales and minimums of a row.
    fn scratch(self) -> Vec<f32> {
        vec![0.0; self.scheme.scale_columns(self.k)]
    }

    /// Writes the scales and minimums of the rows from `row` on.
    fn scales(self, row: usize, out: &mut [f32]) {
        self.scales.widen(row * self.scheme.scale_columns(self.k), out);
    }

    /// Writes scales of a row from the group `first` on.
    #[cfg(target_arch = "x86_64")]
    fn some_scales(self, row: usize, first: usize, out: &mut [f32]) {
        self.scales.widen(row * self.scheme.scale_columns(self.k) + first, out);
    }
}

#[cfg(target_arch = "x86_64")]
impl Weights<'_> {
    /// Whether they are multiplied faster in such tiles of bf16 than as integers.
    pub fn pay_in(&self, tiles: Tiles) -> bool {
        tiles == Tiles::Amx || self.scheme.codes() == Codes::Float8
    }
}

/// `x [m, k] · wᵀ -> [m, n]` in tiles of bf16, a value of `x` as the sum of so many terms. Weights are rounded to bf16, which changes
/// them by far less than they were rounded before.
#[cfg(target_arch = "x86_64")]
pub fn in_tiles(x: &[f32], weights: Weights<'_>, tiling: Tiling) -> Vec<f32> {
    let (lines, depth) = (weights.rows(), weights.k);
    let fill = |row: usize, from: usize, out: &mut [f32]| weights.expand_part(row, from, out);
    panel::by_tiles(x, &tiles::Expanded { lines, depth, fill }, None, depth, (1, tiling))
}

/// `x [m, k] · wᵀ -> [m, n]`, with `x` rounded where codes are integers.
pub fn rows(x: &[f32], weights: Weights<'_>, level: Level) -> Vec<f32> {
    let (n, m) = (weights.rows(), x.len() / weights.k.max(1));
    let mut out = vec![0.0; n * m];
    if out.is_empty() {
        return out;
    }
    match weights.scheme.codes() {
        Codes::Float8 => by_tasks(&mut out, n, |(), task, sums| {
            float8::task_rows(sums, x, weights, task * ROWS_PER_TASK);
        }),
        _ => {
            let inputs = Inputs::round(x, weights.k, weights.scheme);
            let ready = Ready::new(&inputs, m, weights.scheme, level);
            by_tasks(&mut out, n, |room, task, sums| {
                task_rows(sums, (m, room), (weights, task * ROWS_PER_TASK), &ready);
            });
        }
    }
    out
}

/// Lets tasks of [`ROWS_PER_TASK`] weight rows write their sums, those of a weight row for all activation rows behind one
/// another, and puts these into the rows of `out`, which have `n` values.
fn by_tasks<R: Default>(
    out: &mut [f32],
    n: usize,
    write: impl Fn(&mut R, usize, &mut [f32]) + Sync,
) {
    let m = out.len() / n;
    if m == 1 {
        return fill_parts(out, ROWS_PER_TASK, write);
    }
    let tasks = columns(out, n, ROWS_PER_TASK).into_par_iter().enumerate();
    tasks.for_each_init(<(R, Vec<f32>)>::default, |(room, sums), (task, mut out)| {
        sums.clear();
        sums.resize(out[0].len() * m, 0.0);
        write(room, task, sums);
        for (i, out) in out.iter_mut().enumerate() {
            out.iter_mut().zip(sums.chunks_exact(m)).for_each(|(out, sums)| *out = sums[i]);
        }
    });
}

/// The rows of `out`, which have `n` values, in parts of `each` columns: those of the first part, of the second and so on.
fn columns(out: &mut [f32], n: usize, each: usize) -> Vec<Vec<&mut [f32]>> {
    let mut tasks: Vec<Vec<&mut [f32]>> = Vec::new();
    tasks.resize_with(n.div_ceil(each), || Vec::with_capacity(out.len() / n));
    for row in out.chunks_mut(n) {
        row.chunks_mut(each).zip(&mut tasks).for_each(|(part, task)| task.push(part));
    }
    tasks
}

/// As many weight rows from `first` on as `out` has room for, each by all `m` activation rows.
fn task_rows(
    out: &mut [f32],
    (m, room): (usize, &mut Vec<f32>),
    (weights, first): (Weights<'_>, usize),
    ready: &Ready<'_>,
) {
    let (scheme, count) = (weights.scheme, out.len() / m);
    let (bytes, columns) = (scheme.row_bytes(weights.k), scheme.scale_columns(weights.k));
    let wide = if ready.takes_wide() || scheme.has_minimums() { count * columns } else { 0 };
    room.resize(wide, 0.0);
    weights.scales(first, room);
    let codes = &weights.codes[first * bytes..][..count * bytes];
    let (groups, stored) = (scheme.groups(weights.k), weights.scales);
    let rows = Rows { codes, bytes, wide: room, columns, groups, stored, first: first * columns };
    ready.sums(out, m, rows, scheme);
    if scheme.has_minimums() {
        for (out, scales) in out.chunks_mut(m).zip(room.chunks_mut(columns)) {
            add_shifts(out, scales, |row| ready.inputs.sums(row), scheme.codes());
        }
    }
}

/// Activation rows as the kernels of a level take them.
struct Ready<'i> {
    inputs: &'i Inputs,
    #[cfg(target_arch = "x86_64")]
    x86: Option<x86::Ready<'i>>,
    #[cfg(target_arch = "aarch64")]
    neon: bool,
}

impl<'i> Ready<'i> {
    fn new(inputs: &'i Inputs, m: usize, scheme: QuantScheme, level: Level) -> Self {
        let _ = (m, scheme, level);
        Self {
            inputs,
            #[cfg(target_arch = "x86_64")]
            x86: x86::Ready::new(inputs, m, scheme, level),
            #[cfg(target_arch = "aarch64")]
            neon: level == Level::Neon,
        }
    }

    /// Whether kernels want scales in f32: others take them as they are stored, for which they need less time than it takes to write
    /// and read them once more.
    fn takes_wide(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let Some(ready) = &self.x86 {
            return ready.takes_wide();
        }
        true
    }

    /// Writes the sums of all weight rows: activation row `i` of `m` and weight row `j` have theirs at `j · m + i`.
    fn sums(&self, out: &mut [f32], m: usize, rows: Rows<'_>, scheme: QuantScheme) {
        #[cfg(target_arch = "x86_64")]
        if let Some(ready) = &self.x86 {
            return ready.sums(out, m, rows, scheme);
        }
        #[cfg(target_arch = "aarch64")]
        if self.neon {
            return neon::sums(out, m, rows, self.inputs, scheme);
        }
        for (row, out) in out.chunks_mut(m).enumerate() {
            portable(out, rows.row(row), self.inputs, scheme);
        }
    }
}

/// The kernels take `scale · q`; what is missing to `scale · c - minimum`, where `c` is `q + 8` with four bits and else `q`,
/// is the same for all weights of a group.
fn add_shifts<'s>(
    out: &mut [f32],
    scales: &mut [f32],
    sums: impl Fn(usize) -> &'s [f32],
    codes: Codes,
) {
    let offset = if codes == Codes::Int4 { f32::from(OFFSET_OF_FOUR) } else { 0.0 };
    let (scales, shifts) = scales.split_at_mut(scales.len() / 2);
    for (shift, scale) in shifts.iter_mut().zip(scales) {
        *shift = offset * *scale - *shift;
    }
    for (i, out) in out.iter_mut().enumerate() {
        *out += dot::dot(shifts, sums(i));
    }
}

/// The scales of the four quarters of block `block`.
#[inline(always)]
fn quarters(scales: &[f32], group: usize, block: usize) -> [f32; 4] {
    let at = |quarter: usize| {
        let scale = scales.get((block * BLOCK + quarter * BLOCK / 4) / group);
        scale.copied().unwrap_or(0.0)
    };
    match group {
        16 => [at(0), at(1), at(2), at(3)],
        32 => {
            let (first, second) = (at(0), at(2));
            [first, first, second, second]
        }
        _ => [at(0); 4],
    }
}

/// The sums for all activation rows, one after the other.
fn portable(out: &mut [f32], row: Row<'_>, inputs: &Inputs, scheme: QuantScheme) {
    let block_bytes = BLOCK * scheme.bits() / 8;
    for (i, out) in out.iter_mut().enumerate() {
        let blocks = row.codes.chunks(block_bytes).zip(inputs.row(i)).enumerate();
        *out = blocks.fold(0.0, |sum, (block, (codes, input))| {
            let (x, scales) = (&input.codes, input.scales);
            let weight_scales = quarters(row.scales, scheme.group(), block);
            let parts = if scheme.bits() == 8 { eight(codes, x) } else { four(codes, x) };
            (0..4).fold(sum, |sum, q| sum + parts[q] as f32 * (weight_scales[q] * scales[q / 2]))
        });
    }
}

/// Sums of products in the four quarters of a block.
fn eight(codes: &[u8], x: &[i8; BLOCK]) -> [i32; 4] {
    std::array::from_fn(|quarter| {
        let codes = codes.iter().skip(quarter * BLOCK / 4).take(BLOCK / 4);
        let products = codes.zip(&x[quarter * BLOCK / 4..]);
        products.map(|(q, x)| i32::from(*q as i8) * i32::from(*x)).sum()
    })
}

fn four(codes: &[u8], x: &[i8; BLOCK]) -> [i32; 4] {
    let (even, odd) = x.split_at(BLOCK / 2);
    std::array::from_fn(|quarter| {
        let codes = codes.iter().skip(quarter * BLOCK / 8).take(BLOCK / 8);
        let inputs = even[quarter * BLOCK / 8..].iter().zip(&odd[quarter * BLOCK / 8..]);
        let product = |q: u8, x: i8| i32::from(q as i8 - OFFSET_OF_FOUR) * i32::from(x);
        codes.zip(inputs).map(|(q, (a, b))| product(q & 15, *a) + product(q >> 4, *b)).sum()
    })
}

#[cfg(test)]
mod tests;
