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
use super::tiles::{first_output, load, multiply, scratch_of, task_of, write};
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
    let task = task_of(shares, 0usize, rows, form);
    let mut sums = nothing(comptime!(form.tiles * COLUMNS), comptime!(form.cores));
    let all = comptime!(form.rows());
    let (from, to) = (task.matrix + first_output(), task.matrix + outputs);
    let mut first = 0usize;
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

/// [`crate::ops::linear_of_experts`] of many rows; nothing where the device has no tensor cores for them, or the rows of
/// matrices do not lie in whole vectors one after the other.
pub(in super::super::super) fn in_shares(
    x: &CubeTensor,
    stack: &CubeTensor,
    shares: &[Share],
) -> Option<CubeTensor> {
    let [experts, n, inputs] = stack.shape().dims();
    let plain = stack.meta.strides().to_vec() == [n * inputs, inputs, 1] && !stack.meta.is_tiled();
    let alike = stack.dtype == x.dtype && x.shape()[1] == inputs;
    (plain && alike).then_some(())?;
    let x = into_contiguous(x.clone());
    let work = Work::shared(&x, [experts, n], shares)?;
    let [tiles, columns] = work.cubes(n)?;
    let starts = starts_at(&x, QUAD) && starts_at(stack, QUAD);
    (inputs.is_multiple_of(QUAD) && starts).then_some(())?;
    let out = empty(&x, Shape::new([x.shape()[0], n]), x.dtype);
    // SAFETY: rows, inputs and outputs behind the last are taken as 0 and not written; shares are of rows and matrices that
    // exist. Vectors divide rows and starts. Shared memory is what the device has.
    unsafe {
        experts_kernel::launch_unchecked(
            &out.client,
            CubeCount::Static(tiles, columns, 1),
            CubeDim::new_1d(UNITS as u32),
            vector(&[&x, stack], inputs),
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
