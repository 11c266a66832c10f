//! Rounded weights: products that read codes in place, and expansion.
//!
//! Codes are read as words of 32 bits, as WGSL has no smaller integers. So are scales in bf16, which WGSL has not either.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{element, elementwise, empty};
use super::rows::{
    CUBE_OUTPUTS, LANES, OUTPUTS, Rows, RowsLaunch, UNITS, block, first_output, row_of, write_sums,
};
use crate::ops::kernels_on;
use crate::quant::{Codes, OFFSET_OF_FOUR, QuantScheme};

/// Most values of an expanded weight that exist at one time; 128 MiB in f32, as WebGPU promises of a buffer.
pub(super) const EXPANDED: usize = 1 << 25;

/// A matrix of codes: its rows and columns, groups of a row, and how many scales and minimums these have.
#[derive(CubeType, CubeLaunch)]
struct Matrix {
    rows: usize,
    inputs: usize,
    groups: usize,
    scale_columns: usize,
}

/// A scale or minimum; those in bf16 lie two to a word.
#[cube]
fn scale_at<S: Numeric>(scales: &[S], at: usize, #[comptime] words: bool) -> f32 {
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

/// The weight at a row and column; rows of codes begin at whole bytes.
#[cube]
fn weight_at<S: Numeric>(
    codes: &[u32],
    scales: &[S],
    row: usize,
    column: usize,
    matrix: &Matrix,
    #[comptime] scheme: QuantScheme,
    #[comptime] words: bool,
) -> f32 {
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

/// A unit expands one weight, of the rows from `first` on.
#[cube(launch_unchecked)]
fn expand_kernel<F: Float, S: Numeric>(
    codes: &[u32],
    scales: &[S],
    out: &mut [F],
    matrix: Matrix,
    first: usize,
    count: usize,
    #[comptime] scheme: QuantScheme,
    #[comptime] words: bool,
    #[define(F, S)] _dtypes: [ElemType; 2],
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < count {
        let row = first + at / matrix.inputs;
        let column = at % matrix.inputs;
        let value = weight_at::<S>(codes, scales, row, column, &matrix, scheme, words);
        out[at] = F::cast_from(value);
    }
}

/// A unit expands one weight, of the rows that `ids` name.
#[cube(launch_unchecked)]
fn expand_rows_kernel<I: Int, S: Numeric>(
    codes: &[u32],
    scales: &[S],
    ids: &[I],
    out: &mut [f32],
    matrix: Matrix,
    count: usize,
    #[comptime] scheme: QuantScheme,
    #[comptime] words: bool,
    #[define(I, S)] _dtypes: [ElemType; 2],
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < count {
        let row = min(usize::cast_from(ids[at / matrix.inputs]), matrix.rows - 1);
        let column = at % matrix.inputs;
        out[at] = weight_at::<S>(codes, scales, row, column, &matrix, scheme, words);
    }
}

/// Weights of four neighbouring codes from the lowest bits of a word on.
#[cube]
fn four_weights(
    word: u32,
    scale: f32,
    minimum: f32,
    #[comptime] scheme: QuantScheme,
) -> Vector<f32, Const<4>> {
    let mut weights = Vector::<f32, Const<4>>::new(0.0f32);
    #[unroll]
    for j in 0..4usize {
        let bits = comptime!((j * scheme.bits()) as u32);
        weights.insert(j, number(word >> bits, scheme) * scale - minimum);
    }
    weights
}

/// Adds the products with the codes in one pack of each of four outputs. `all` has a sum for each output and row.
#[cube]
#[allow(clippy::too_many_arguments)]
fn add_pack<F: Float, S: Numeric>(
    x: &[Vector<F, Const<4>>],
    codes: &[Vector<u32, Const<4>>],
    scales: &[S],
    all: &mut Array<Vector<f32, Const<4>>>,
    matrix: &Matrix,
    rows: &Rows,
    place: usize,
    #[comptime] scheme: QuantScheme,
    #[comptime] words: bool,
) {
    let block = comptime!(rows.block);
    let quads = comptime!(8 / scheme.bits());
    let row_packs = matrix.inputs / comptime!(128 / scheme.bits());
    let group = place * comptime!(128 / scheme.bits()) / comptime!(scheme.group());
    let first = first_output();
    let mut packs = Array::<Vector<u32, Const<4>>>::new(OUTPUTS);
    let mut factors = Array::<f32>::new(OUTPUTS);
    let mut minimums = Array::<f32>::new(OUTPUTS);
    #[unroll]
    for o in 0..OUTPUTS {
        let output = min(first + o, matrix.rows - 1);
        let at = output * matrix.scale_columns + group;
        packs[o] = codes[output * row_packs + place];
        factors[o] = scale_at::<S>(scales, at, words);
        minimums[o] = 0.0f32;
        if comptime!(scheme.has_minimums()) {
            minimums[o] = scale_at::<S>(scales, at + matrix.groups, words);
        }
    }
    let mut inputs = Array::<Vector<f32, Const<4>>>::new(block);
    #[unroll]
    for i in 0..comptime!(4 * quads) {
        #[unroll]
        for r in 0..block {
            let at = (row_of(rows, r) * row_packs + place) * comptime!(4 * quads) + i;
            inputs[r] = Vector::cast_from(x[at]);
        }
        #[unroll]
        for o in 0..OUTPUTS {
            let word = packs[o].extract(comptime!(i / quads));
            let word = word >> comptime!((i % quads * 16) as u32);
            let weights = four_weights(word, factors[o], minimums[o], scheme);
            #[unroll]
            for r in 0..block {
                all[o * block + r] += weights * inputs[r];
            }
        }
    }
}

/// Cube `(x, y)`: sixteen outputs from `16 · x` on, of a block of rows of activations. A group of 32 units goes through the
/// codes of four outputs side by side, 16 bytes at a time, so that activations are loaded once for four outputs.
///
/// Each code is read once for up to four rows: half a byte or one byte for 2 operations a row, so memory decides.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn few_rows_kernel<F: Float, S: Numeric>(
    x: &[Vector<F, Const<4>>],
    codes: &[Vector<u32, Const<4>>],
    scales: &[S],
    out: &mut [F],
    matrix: Matrix,
    rows: Rows,
    #[comptime] scheme: QuantScheme,
    #[comptime] words: bool,
    #[define(F, S)] _dtypes: [ElemType; 2],
) {
    let sums = comptime!(OUTPUTS * rows.block);
    let mut all = Array::<Vector<f32, Const<4>>>::new(sums);
    let mut place = UNIT_POS as usize % LANES;
    while place < matrix.inputs / comptime!(128 / scheme.bits()) {
        add_pack::<F, S>(x, codes, scales, &mut all, &matrix, &rows, place, scheme, words);
        place += LANES;
    }
    let mut found = Array::<f32>::new(sums);
    #[unroll]
    for i in 0..sums {
        let sum = all[i];
        let low = sum.extract(0usize) + sum.extract(1usize);
        found[i] = low + sum.extract(2usize) + sum.extract(3usize);
    }
    write_sums::<F>(&found, out, matrix.rows, &rows);
}

/// Codes `[n, ..]` and scales, contiguous.
pub(super) struct Rounded {
    codes: CubeTensor,
    scales: CubeTensor,
    scheme: QuantScheme,
    inputs: usize,
}

impl Rounded {
    /// Nothing where kernels are off, the scales have a dtype that these do not know, or shapes do not belong together.
    pub fn new(
        codes: &CubeTensor,
        scales: &CubeTensor,
        scheme: QuantScheme,
        inputs: usize,
    ) -> Option<Self> {
        let known = matches!(scales.dtype, DType::F32 | DType::F16 | DType::BF16);
        let n = codes.shape()[0];
        let whole = codes.shape().dims() == [n, scheme.row_bytes(inputs)]
            && scales.shape().dims() == [n, scheme.scale_columns(inputs)]
            && n * inputs > 0;
        let (codes, scales) = (codes.clone(), scales.clone());
        (kernels_on() && known && whole).then(|| Self {
            codes: into_contiguous(codes),
            scales: into_contiguous(scales),
            scheme,
            inputs,
        })
    }

    pub fn outputs(&self) -> usize {
        self.codes.shape()[0]
    }

    /// Whether scales are read as words.
    fn words(&self) -> bool {
        self.scales.dtype == DType::BF16
    }

    fn scale_element(&self) -> ElemType {
        element(if self.words() { DType::U32 } else { self.scales.dtype })
    }

    fn matrix(&self) -> MatrixLaunch {
        let (groups, columns) =
            (self.scheme.groups(self.inputs), self.scheme.scale_columns(self.inputs));
        MatrixLaunch::new(self.outputs(), self.inputs, groups, columns)
    }

    /// The weights of some rows.
    pub fn expanded(&self, rows: Range<usize>, dtype: DType) -> CubeTensor {
        let count = rows.len() * self.inputs;
        let out = empty(&self.codes, Shape::new([rows.len(), self.inputs]), dtype);
        let (cubes, dim) = elementwise(&out.client, count);
        // SAFETY: units behind the last weight do nothing, and the others read codes and scales of rows that exist; the
        // last word may reach behind the codes, but not behind their buffer, whose size is a multiple of 4.
        unsafe {
            expand_kernel::launch_unchecked(
                &out.client,
                cubes,
                dim,
                self.codes.clone().into_buffer_arg(),
                self.scales.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.matrix(),
                rows.start,
                count,
                self.scheme,
                self.words(),
                [element(dtype), self.scale_element()],
            );
        }
        out
    }

    /// The weights of the rows `ids` in f32.
    pub fn rows(&self, ids: CubeTensor) -> CubeTensor {
        let ids = into_contiguous(ids);
        let rows = ids.shape().num_elements();
        let out = empty(&self.codes, Shape::new([rows, self.inputs]), DType::F32);
        let (cubes, dim) = elementwise(&out.client, rows * self.inputs);
        let dtypes = [element(ids.dtype), self.scale_element()];
        // SAFETY: as for `expanded`; ids behind the last row are read as it.
        unsafe {
            expand_rows_kernel::launch_unchecked(
                &out.client,
                cubes,
                dim,
                self.codes.clone().into_buffer_arg(),
                self.scales.clone().into_buffer_arg(),
                ids.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.matrix(),
                rows * self.inputs,
                self.scheme,
                self.words(),
                dtypes,
            );
        }
        out
    }

    /// The product with few rows of activations; nothing where 16 bytes of codes would lie across two rows.
    pub fn few_rows(&self, x: CubeTensor) -> Option<CubeTensor> {
        let x = into_contiguous(x);
        let starts = |t: &CubeTensor, bytes: usize| {
            t.handle.offset_start.unwrap_or(0).is_multiple_of(bytes as u64)
        };
        let aligned = starts(&x, 4 * x.dtype.size()) && starts(&self.codes, 16);
        if !self.inputs.is_multiple_of(128 / self.scheme.bits()) || !aligned {
            return None;
        }
        let (count, n) = (x.shape()[0], self.outputs());
        let out = empty(&x, Shape::new([count, n]), x.dtype);
        let cubes = (n.div_ceil(CUBE_OUTPUTS) as u32, count.div_ceil(block(count)) as u32);
        // SAFETY: rows and outputs behind the last are read as the last and not written.
        unsafe {
            few_rows_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(cubes.0, cubes.1, 1),
                CubeDim::new_1d(UNITS as u32),
                x.into_buffer_arg(),
                self.codes.clone().into_buffer_arg(),
                self.scales.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.matrix(),
                RowsLaunch::of(count),
                self.scheme,
                self.words(),
                [element(out.dtype), self.scale_element()],
            );
        }
        Some(out)
    }
}
