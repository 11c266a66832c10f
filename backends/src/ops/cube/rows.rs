//! Products of few rows with a matrix, where memory decides: every weight is read once for up to four rows, in 16 bytes at
//! a time, for 2 operations a row.
//!
//! Burn's default product without tuning takes tiles of many rows, of which one or two would be used.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{element, empty, starts_at};

/// Units of a cube, and how many of them share an output.
pub(super) const UNITS: usize = 128;
pub(super) const LANES: usize = 32;

/// Neighbouring outputs of such units, for which a row is loaded once.
pub(super) const OUTPUTS: usize = 4;

/// Outputs of a cube.
pub(super) const CUBE_OUTPUTS: usize = UNITS / LANES * OUTPUTS;

/// Most rows that these kernels take.
pub(super) const FEW_ROWS: usize = 16;

/// How many rows there are, and how many of them a cube takes.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Rows {
    pub count: usize,
    #[cube(comptime)]
    pub block: usize,
}

impl RowsLaunch {
    pub(super) fn of(count: usize) -> Self {
        Self::new(count, block(count))
    }
}

/// Rows of a cube, of `count`.
pub(super) fn block(count: usize) -> usize {
    count.next_power_of_two().min(4)
}

/// The first of a unit's outputs.
#[cube]
pub(super) fn first_output() -> usize {
    (CUBE_POS_X as usize * (UNITS / LANES) + UNIT_POS as usize / LANES) * OUTPUTS
}

/// The row of a cube's block, or the last one.
#[cube]
pub(super) fn row_of(rows: &Rows, #[comptime] r: usize) -> usize {
    min(CUBE_POS_Y as usize * comptime!(rows.block) + r, rows.count - 1)
}

/// Writes what the units that share outputs have summed together; `all` has a sum for each output and row of a unit.
#[cube]
pub(super) fn write_sums<F: Float>(all: &Array<f32>, out: &mut [F], outputs: usize, rows: &Rows) {
    let block = comptime!(rows.block);
    let each = comptime!(OUTPUTS * block);
    let mut sums = Shared::<[f32]>::new_slice(comptime!(UNITS * each));
    let unit = UNIT_POS as usize;
    #[unroll]
    for i in 0..each {
        sums[i * UNITS + unit] = all[i];
    }
    sync_cube();
    // Unit `i` finishes one sum: of a team of lanes, an output and a row.
    if unit < comptime!(UNITS / LANES * each) {
        let team = unit / each;
        let sum = unit % each;
        let mut total = 0.0f32;
        for lane in 0..LANES {
            total += sums[sum * UNITS + team * LANES + lane];
        }
        let output = (CUBE_POS_X as usize * (UNITS / LANES) + team) * OUTPUTS + sum / block;
        let row = CUBE_POS_Y as usize * block + sum % block;
        if output < outputs && row < rows.count {
            out[row * outputs + output] = F::cast_from(total);
        }
    }
}

/// A matrix `[outputs, inputs]`; inputs and the step between its rows are in vectors.
#[derive(CubeType, CubeLaunch)]
struct Matrix {
    outputs: usize,
    inputs: usize,
    step: usize,
}

/// Cube `(x, y)`: sixteen outputs from `16 · x` on, of a block of rows.
#[cube(launch_unchecked)]
fn rows_kernel<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    out: &mut [F],
    matrix: Matrix,
    rows: Rows,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let block = comptime!(rows.block);
    let first = first_output();
    let mut all = Array::<f32>::new(comptime!(OUTPUTS * block));
    let mut place = UNIT_POS as usize % LANES;
    while place < matrix.inputs {
        let mut weights = Array::<Vector<f32, N>>::new(OUTPUTS);
        #[unroll]
        for o in 0..OUTPUTS {
            let output = min(first + o, matrix.outputs - 1);
            weights[o] = Vector::cast_from(weight[output * matrix.step + place]);
        }
        #[unroll]
        for r in 0..block {
            let at = row_of(&rows, r) * matrix.inputs + place;
            let inputs = Vector::<f32, N>::cast_from(x[at]);
            #[unroll]
            for o in 0..OUTPUTS {
                let products = weights[o] * inputs;
                #[unroll]
                for i in 0..N::value() {
                    all[o * block + r] += products.extract(i);
                }
            }
        }
        place += LANES;
    }
    write_sums::<F>(&all, out, matrix.outputs, &rows);
}

/// [`crate::ops::linear`] of few rows; nothing where the rows of the weight do not lie in whole vectors.
pub(super) fn linear(x: &CubeTensor, weight: &CubeTensor) -> Option<CubeTensor> {
    let ([count, inputs], n) = (x.shape().dims(), weight.shape()[0]);
    let (x, steps) = (into_contiguous(x.clone()), weight.meta.strides().to_vec());
    let bytes = weight.dtype.size().max(x.dtype.size());
    let size = weight.client.io_optimized_vector_sizes(bytes).max()?;
    let starts = |t: &CubeTensor| starts_at(t, size);
    let whole = inputs.is_multiple_of(size) && steps[0].is_multiple_of(size) && steps[1] == 1;
    let fits = weight.shape()[1] == inputs && !weight.meta.is_tiled() && size >= 4;
    if count > FEW_ROWS || !whole || !fits || !starts(&x) || !starts(weight) {
        return None;
    }
    let out = empty(&x, Shape::new([count, n]), x.dtype);
    let cubes = (n.div_ceil(CUBE_OUTPUTS) as u32, count.div_ceil(block(count)) as u32);
    let dtypes = [element(x.dtype), element(weight.dtype)];
    // SAFETY: rows and outputs behind the last are read as the last and not written.
    unsafe {
        rows_kernel::launch_unchecked(
            &out.client,
            CubeCount::Static(cubes.0, cubes.1, 1),
            CubeDim::new_1d(UNITS as u32),
            size,
            x.into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            MatrixLaunch::new(n, inputs / size, steps[0] / size),
            RowsLaunch::of(count),
            dtypes,
        );
    }
    Some(out)
}
