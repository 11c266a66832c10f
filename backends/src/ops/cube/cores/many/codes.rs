//! Products with rounded weights, which are expanded in shared memory.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::super::codes::{Matrix, Rounded, WORD, four_weights, scale_at};
use super::super::super::launch::{element, empty};
use super::super::product::{ALIGNMENT, QUAD, nothing};
use super::tiles::{Task, first_input, first_output, load, multiply, scratch_of, task_of, write};
use super::{COLUMNS, Form, OUTPUTS, UNITS, Work, vector, written};
use crate::ops::Share;

/// Puts `form.depth` weights of a cube's outputs into shared memory, in the dtype of the activations. A unit expands a word
/// of codes at a time; what lies behind the last input becomes 0.
#[cube]
fn expand<F: Float, S: Numeric>(
    codes: &[u32],
    scales: &[S],
    to: &mut Shared<[Vector<F, Const<4>>]>,
    first: usize,
    task: &Task,
    matrix: &Matrix,
    #[comptime] form: Form,
) {
    let scheme = comptime!(matrix.scheme);
    let words = comptime!(matrix.words);
    let bits = comptime!(scheme.bits());
    let quads = comptime!(WORD / bits / QUAD);
    let width = comptime!(form.depth * bits / WORD);
    for turn in 0..comptime!(OUTPUTS * width / UNITS) {
        let i = UNIT_POS as usize + turn * UNITS;
        let output = task.matrix + min(first_output() + i / width, matrix.rows - 1);
        let input = first + i % width * comptime!(quads * QUAD);
        let mut word = 0u32;
        let mut factor = 0.0f32;
        let mut minimum = 0.0f32;
        if input < matrix.inputs {
            word = codes[(output * matrix.inputs + input) / comptime!(quads * QUAD)];
            let at = output * matrix.scale_columns + input / comptime!(scheme.group());
            factor = scale_at::<S>(scales, at, words);
            if comptime!(scheme.has_minimums()) {
                minimum = scale_at::<S>(scales, at + matrix.groups, words);
            }
        }
        let place = i / width * comptime!(form.pitch() / QUAD) + i % width * quads;
        #[unroll]
        for quad in 0..quads {
            let code = word >> comptime!((quad * QUAD * bits) as u32);
            to[place + quad] = Vector::cast_from(four_weights(code, factor, minimum, scheme));
        }
    }
}

/// Cube `(x, y)`: rows from `128 · x` on, or `64 · x`, or those that `shares` say, and 64 outputs. A plane has its rows for
/// all of the outputs, and its sums stay in tensor cores. Cubes that share weights lie side by side, so that codes are read
/// from memory once and then from the cache, and expanded once for all rows of a cube.
///
/// For 128 rows and 64 inputs, `2 · 128 · 64 · 64` operations take tensor cores 512 cycles where they do 1,024 products and
/// sums in each (sm_80). Shared memory gets 24 KiB and gives 48 KiB, 576 cycles at 128 bytes, and to expand 4,096 weights is
/// some 300 instructions of a scheduler of 32 units, beside them. So arithmetic and shared memory bound it alike, and memory
/// does not: of 18 to 20 KiB that are read, most comes from the cache. Such a cube takes 37 KiB of shared memory.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn codes_kernel<F: Float, S: Numeric, N: Size, M: Size>(
    x: &[Vector<F, N>],
    codes: &[u32],
    scales: &[S],
    shares: &[u32],
    out: &mut [Vector<F, M>],
    matrix: Matrix,
    rows: usize,
    #[comptime] form: Form,
    #[define(F, S)] _dtypes: [ElemType; 2],
) {
    let size = N::value().comptime();
    let left = comptime!(form.rows() * form.pitch() / size);
    let mut left = Shared::<[Vector<F, N>]>::new_aligned_slice(left, ALIGNMENT);
    let right = comptime!(OUTPUTS * form.pitch() / QUAD);
    let mut right = Shared::<[Vector<F, Const<4>>]>::new_aligned_slice(right, ALIGNMENT);
    let mut scratch = scratch_of();
    let task = task_of(shares, matrix.first, matrix.rows, rows, form);
    let mut sums = nothing(comptime!(form.tiles * COLUMNS), comptime!(form.cores));
    let (inputs, all) = (matrix.inputs, comptime!(form.rows()));
    let mut first = first_input(&task, inputs);
    while first < inputs {
        sync_cube();
        load::<F, N>(x, &mut left, task.row, task.end, first, inputs, all, form);
        expand::<F, S>(codes, scales, &mut right, first, &task, &matrix, form);
        sync_cube();
        multiply::<F, N, Const<4>>(&mut sums, &left, &right, form);
        first += form.depth;
    }
    write::<F, M>(&sums, &mut scratch, out, &task, matrix.rows, form);
}

impl Rounded {
    /// The product with many rows; nothing where the device has no tensor cores for them, or rows of codes are no whole
    /// words.
    pub fn many_rows(&self, x: &CubeTensor) -> Option<CubeTensor> {
        self.launch(x, Work::whole(x)?)
    }

    /// The products of shares of the rows, each with one of the matrices of `n` rows that this has one after the other;
    /// nothing as above, or where rows are few.
    pub fn many_rows_in_shares(
        &self,
        x: &CubeTensor,
        n: usize,
        shares: &[Share],
    ) -> Option<CubeTensor> {
        self.many_rows_sorted(x, n, Work::shared(x, self.outputs() / n, shares)?)
    }

    /// The products of rows that are sorted by matrix, each matrix of `n` rows; nothing where rows of codes are no whole words.
    pub fn many_rows_sorted(&self, x: &CubeTensor, n: usize, work: Work) -> Option<CubeTensor> {
        self.part(0..n).launch(x, work)
    }

    fn launch(&self, x: &CubeTensor, work: Work) -> Option<CubeTensor> {
        let x = into_contiguous(x.clone());
        let (count, n) = (x.shape()[0], self.outputs());
        self.pack(&x)?;
        let [tiles, columns] = work.cubes(n)?;
        let out = empty(&x, Shape::new([count, n]), x.dtype);
        // SAFETY: rows and inputs behind the last are taken as 0, outputs behind the last read as the last, and neither
        // rows nor outputs behind the last are written; shares are of rows and matrices that exist. What a pack of codes
        // divides, vectors divide. Shared memory is what the device has.
        unsafe {
            codes_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(tiles, columns, 1),
                CubeDim::new_1d(UNITS as u32),
                vector(&[&x], self.inputs),
                written(n),
                x.into_buffer_arg(),
                self.codes.clone().into_buffer_arg(),
                self.scales.clone().into_buffer_arg(),
                work.shares.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.matrix(),
                count,
                work.form,
                [element(out.dtype), self.scale_element()],
            );
        }
        Some(out)
    }
}
