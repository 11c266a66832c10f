//! The kernels of rounded weights: expansion, and products of few rows that read codes in place.

use burn_cubecl::cubecl;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::rows::{LANES, OUTPUTS, Rows, first_output, row_of, write_sums};
use crate::quant::{Codes, OFFSET_OF_FOUR, QuantScheme};

/// Bits of a word, and numbers that are multiplied together.
pub(in super::super) const WORD: usize = 32;
const QUAD: usize = 4;

/// Some rows of a matrix of codes: the first of them and how many there are, columns, groups of a row, how many scales and
/// minimums these have, and what codes and scales are.
#[derive(CubeType, CubeLaunch)]
pub(in super::super) struct Matrix {
    pub first: usize,
    pub rows: usize,
    pub inputs: usize,
    pub groups: usize,
    pub scale_columns: usize,
    #[cube(comptime)]
    pub scheme: QuantScheme,
    /// Whether scales are bf16, of which two lie in a word.
    #[cube(comptime)]
    pub words: bool,
}

/// A scale or minimum; those in bf16 lie two to a word.
#[cube]
pub(in super::super) fn scale_at<S: Numeric>(
    scales: &[S],
    at: usize,
    #[comptime] words: bool,
) -> f32 {
    if comptime!(words) {
        let word = u32::cast_from(scales[at / 2]) >> (at % 2 * 16) as u32;
        f32::reinterpret(word << 16u32)
    } else {
        f32::cast_from(scales[at])
    }
}

/// What the code in the lowest bits of a word stands for.
#[cube]
fn number(word: u32, #[comptime] scheme: QuantScheme) -> f32 {
    match comptime!(scheme.codes()) {
        Codes::Int8 => f32::cast_from(i32::reinterpret(word << 24u32) >> 24i32),
        Codes::Int4 => {
            let offset = comptime!(if scheme.has_minimums() { 0.0 } else { OFFSET_OF_FOUR as f32 });
            f32::cast_from(word & 15u32) - offset
        }
        // Exponents of f32 have a bias larger by 120.
        Codes::Float8 => {
            let bits = (word & 0x80u32) << 24u32 | (word & 0x7fu32) << 20u32;
            f32::reinterpret(bits) * f32::reinterpret(u32::new((127 + 120) << 23))
        }
    }
}

/// The weight at a row of all and a column; rows of codes begin at whole bytes.
#[cube]
fn weight_at<S: Numeric>(
    codes: &[u32],
    scales: &[S],
    row: usize,
    column: usize,
    matrix: &Matrix,
) -> f32 {
    let scheme = comptime!(matrix.scheme);
    let words = comptime!(matrix.words);
    let bits = comptime!(scheme.bits());
    let bit = column * bits;
    let byte = row * (matrix.inputs * bits).div_ceil(8) + bit / 8;
    let word = codes[byte / 4] >> (byte % 4 * 8 + bit % 8) as u32;
    let at = row * matrix.scale_columns + column / comptime!(scheme.group());
    let mut value = number(word, scheme) * scale_at::<S>(scales, at, words);
    if comptime!(scheme.has_minimums()) {
        value -= scale_at::<S>(scales, at + matrix.groups, words);
    }
    value
}

/// A unit expands one weight.
#[cube(launch_unchecked)]
pub(super) fn expand_kernel<F: Float, S: Numeric>(
    codes: &[u32],
    scales: &[S],
    out: &mut [F],
    matrix: Matrix,
    count: usize,
    #[define(F, S)] _dtypes: [ElemType; 2],
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < count {
        let row = matrix.first + at / matrix.inputs;
        let column = at % matrix.inputs;
        out[at] = F::cast_from(weight_at::<S>(codes, scales, row, column, &matrix));
    }
}

/// A unit expands one weight, of the rows that `ids` name.
#[cube(launch_unchecked)]
pub(super) fn expand_rows_kernel<I: Int, S: Numeric>(
    codes: &[u32],
    scales: &[S],
    ids: &[I],
    out: &mut [f32],
    matrix: Matrix,
    count: usize,
    #[define(I, S)] _dtypes: [ElemType; 2],
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < count {
        let id = min(usize::cast_from(ids[at / matrix.inputs]), matrix.rows - 1);
        let column = at % matrix.inputs;
        out[at] = weight_at::<S>(codes, scales, matrix.first + id, column, &matrix);
    }
}

/// Packs of `N` words in a row of codes.
#[cube]
fn packs_of<N: Size>(matrix: &Matrix) -> usize {
    let bits = comptime!(matrix.scheme.bits());
    let size = N::value().comptime();
    matrix.inputs / comptime!(WORD * size / bits)
}

/// Weights of four neighbouring codes from the lowest bits of a word on.
#[cube]
pub(in super::super) fn four_weights(
    word: u32,
    scale: f32,
    minimum: f32,
    #[comptime] scheme: QuantScheme,
) -> Vector<f32, Const<4>> {
    let mut weights = Vector::<f32, Const<4>>::new(0.0f32);
    #[unroll]
    for j in 0..QUAD {
        let bits = comptime!((j * scheme.bits()) as u32);
        weights.insert(j, number(word >> bits, scheme) * scale - minimum);
    }
    weights
}

/// Adds the products of pack `place` in each of four rows of codes with rows of `x`, times `part`. `outputs` are the rows of
/// codes among all, `starts` tell where the quads of each row of `x` begin, and `all` has a sum for each of either.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(in super::super) fn add_pack<F: Float, S: Numeric, N: Size>(
    x: &[Vector<F, Const<4>>],
    codes: &[Vector<u32, N>],
    scales: &[S],
    all: &mut Array<Vector<f32, Const<4>>>,
    outputs: &Array<u32>,
    starts: &Array<u32>,
    matrix: &Matrix,
    place: usize,
    part: f32,
    #[comptime] block: usize,
) {
    let scheme = comptime!(matrix.scheme);
    let words = comptime!(matrix.words);
    let size = N::value().comptime();
    let quads = comptime!(WORD / scheme.bits() / QUAD);
    let group = place * comptime!(size * quads * QUAD) / comptime!(scheme.group());
    let row_packs = packs_of::<N>(matrix);
    let mut packs = Array::<Vector<u32, N>>::new(OUTPUTS);
    let mut factors = Array::<f32>::new(OUTPUTS);
    let mut minimums = Array::<f32>::new(OUTPUTS);
    #[unroll]
    for o in 0..OUTPUTS {
        let output = outputs[o] as usize;
        let at = output * matrix.scale_columns + group;
        packs[o] = codes[output * row_packs + place];
        factors[o] = scale_at::<S>(scales, at, words) * part;
        minimums[o] = 0.0f32;
        if comptime!(scheme.has_minimums()) {
            minimums[o] = scale_at::<S>(scales, at + matrix.groups, words) * part;
        }
    }
    let mut inputs = Array::<Vector<f32, Const<4>>>::new(block);
    #[unroll]
    for i in 0..comptime!(size * quads) {
        #[unroll]
        for r in 0..block {
            let at = starts[r] as usize + place * comptime!(size * quads) + i;
            inputs[r] = Vector::cast_from(x[at]);
        }
        #[unroll]
        for o in 0..OUTPUTS {
            let word = packs[o].extract(comptime!(i / quads));
            let word = word >> comptime!((i % quads * QUAD * scheme.bits()) as u32);
            let weights = four_weights(word, factors[o], minimums[o], scheme);
            #[unroll]
            for r in 0..block {
                all[o * block + r] += weights * inputs[r];
            }
        }
    }
}

/// The sums of the values of vectors.
#[cube]
pub(in super::super) fn sums_of(
    all: &Array<Vector<f32, Const<4>>>,
    #[comptime] count: usize,
) -> Array<f32> {
    let mut found = Array::<f32>::new(count);
    #[unroll]
    for i in 0..count {
        let sum = all[i];
        let low = sum.extract(0usize) + sum.extract(1usize);
        found[i] = low + sum.extract(2usize) + sum.extract(3usize);
    }
    found
}

/// Cube `(x, y)`: sixteen outputs from `16 · x` on, of a block of rows of activations. A group of 32 units goes through the
/// codes of four outputs side by side, 16 bytes at a time where rows have whole ones, so that activations are loaded once for
/// four outputs.
///
/// Each code is read once for up to four rows: half a byte or one byte for 2 operations a row, so memory decides.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn few_rows_kernel<F: Float, S: Numeric, N: Size>(
    x: &[Vector<F, Const<4>>],
    codes: &[Vector<u32, N>],
    scales: &[S],
    out: &mut [F],
    matrix: Matrix,
    rows: Rows,
    #[define(F, S)] _dtypes: [ElemType; 2],
) {
    let block = comptime!(rows.block);
    let sums = comptime!(OUTPUTS * block);
    let quads = matrix.inputs / QUAD;
    let mut outputs = Array::<u32>::new(OUTPUTS);
    #[unroll]
    for o in 0..OUTPUTS {
        outputs[o] = (matrix.first + min(first_output() + o, matrix.rows - 1)) as u32;
    }
    let mut starts = Array::<u32>::new(block);
    #[unroll]
    for r in 0..block {
        starts[r] = (row_of(&rows, r) * quads) as u32;
    }
    let mut all = Array::<Vector<f32, Const<4>>>::new(sums);
    let mut place = UNIT_POS as usize % LANES;
    while place < packs_of::<N>(&matrix) {
        add_pack::<F, S, N>(
            x, codes, scales, &mut all, &outputs, &starts, &matrix, place, 1.0f32, block,
        );
        place += LANES;
    }
    write_sums::<F>(&sums_of(&all, sums), out, matrix.rows, &rows);
}
