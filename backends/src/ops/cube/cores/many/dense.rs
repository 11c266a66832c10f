//! Products with the matrices of experts, all in one launch.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::super::launch::{element, empty, starts_at};
use super::super::product::{ALIGNMENT, QUAD, nothing};
use super::tiles::{first_input, first_output, load, multiply, scratch_of, task_of, write};
use super::{COLUMNS, Form, OUTPUTS, UNITS, Work, vector, written};
use crate::ops::Share;

/// Cube `(x, y)`: the rows that `shares` say, and 64 outputs of their expert, as with rounded weights; 16 KiB of activations
/// and 8 KiB of weights are read for 128 rows and 64 inputs. Where experts have few rows each, memory bounds it: their
/// weights are read once, for 2 operations a row.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn experts_kernel<F: Float, N: Size, M: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<F, N>],
    shares: &[u32],
    out: &mut [Vector<F, M>],
    inputs: usize,
    outputs: usize,
    rows: usize,
    #[comptime] form: Form,
    #[define(F)] _dtype: ElemType,
) {
    let size = N::value().comptime();
    let left = comptime!(form.rows() * form.pitch() / size);
    let mut left = Shared::<[Vector<F, N>]>::new_aligned_slice(left, ALIGNMENT);
    let right = comptime!(OUTPUTS * form.pitch() / size);
    let mut right = Shared::<[Vector<F, N>]>::new_aligned_slice(right, ALIGNMENT);
    let mut scratch = scratch_of();
    let task = task_of(shares, 0usize, outputs, rows, form);
    let mut sums = nothing(comptime!(form.tiles * COLUMNS), comptime!(form.cores));
    let all = comptime!(form.rows());
    let (from, to) = (task.matrix + first_output(), task.matrix + outputs);
    let mut first = first_input(&task, inputs);
    while first < inputs {
        sync_cube();
        load::<F, N>(x, &mut left, task.row, task.end, first, inputs, all, form);
        load::<F, N>(weight, &mut right, from, to, first, inputs, OUTPUTS, form);
        sync_cube();
        multiply::<F, N, N>(&mut sums, &left, &right, form);
        first += form.depth;
    }
    write::<F, M>(&sums, &mut scratch, out, &task, outputs, form);
}

/// [`crate::ops::linear_of_experts`] of many rows; nothing where the device has no tensor cores for them, or [`takes`] says no.
pub(in super::super::super) fn in_shares(
    x: &CubeTensor,
    stack: &CubeTensor,
    shares: &[Share],
) -> Option<CubeTensor> {
    let x = into_contiguous(x.clone());
    let fits = x.shape()[1] == stack.shape()[2] && takes(&x, stack);
    product(&x, stack, fits.then(|| Work::shared(&x, stack.shape()[0], shares)).flatten()?)
}

/// Whether the kernel multiplies rows of this dtype with such matrices, whose rows have to lie in whole vectors one after the
/// other.
pub(in super::super::super) fn takes(x: &CubeTensor, stack: &CubeTensor) -> bool {
    let whole = stack.shape()[2].is_multiple_of(QUAD) && starts_at(stack, QUAD);
    is_plain(stack) && whole && stack.dtype == x.dtype
}

/// Whether the rows of a stack lie one after the other.
pub(in super::super::super) fn is_plain(stack: &CubeTensor) -> bool {
    let [_, n, inputs] = stack.shape().dims();
    stack.meta.strides().to_vec() == [n * inputs, inputs, 1] && !stack.meta.is_tiled()
}

/// The products of rows that are sorted by matrix, in one launch; nothing where these may not be loaded in vectors, or it would
/// have too many cubes.
pub(in super::super::super) fn product(
    x: &CubeTensor,
    stack: &CubeTensor,
    work: Work,
) -> Option<CubeTensor> {
    let [_, n, inputs] = stack.shape().dims();
    let [tiles, columns] = work.cubes(n)?;
    starts_at(x, QUAD).then_some(())?;
    let out = empty(x, Shape::new([x.shape()[0], n]), x.dtype);
    // SAFETY: rows, inputs and outputs behind the last are taken as 0 and not written; shares are of rows and matrices that
    // exist, and x is contiguous. Vectors divide rows and starts. Shared memory is what the device has.
    unsafe {
        experts_kernel::launch_unchecked(
            &out.client,
            CubeCount::Static(tiles, columns, 1),
            CubeDim::new_1d(UNITS as u32),
            vector(&[x, stack], inputs),
            written(n),
            x.clone().into_buffer_arg(),
            stack.clone().into_buffer_arg(),
            work.shares.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            inputs,
            n,
            x.shape()[0],
            work.form,
            element(out.dtype),
        );
    }
    Some(out)
}
