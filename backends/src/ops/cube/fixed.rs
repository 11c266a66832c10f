//! Rows that are written where a tensor says, in place. Memory decides: a value is read once and written once.

use burn::backend::TensorMetadata;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::heads::Heads;
use super::launch::{element, elementwise};

/// Rows and where they go; the last four steps and `width` are in vectors.
#[derive(CubeType, CubeLaunch)]
struct Goal {
    /// Vectors of all rows, and of one.
    count: usize,
    width: usize,
    heads: usize,
    /// Rows of a head.
    slots: usize,
    batch: usize,
    head: usize,
    row: usize,
    from_batch: usize,
    from_head: usize,
}

#[cube(launch_unchecked)]
fn write_rows_kernel<F: Float, N: Size>(
    rows: &[Vector<F, N>],
    at: &[f32],
    into: &mut [Vector<F, N>],
    goal: Goal,
    #[define(F)] _dtype: ElemType,
) {
    let unit = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if unit < goal.count {
        let piece = unit % goal.width;
        let head = unit / goal.width % goal.heads;
        let batch = unit / goal.width / goal.heads;
        let row = usize::cast_from(at[batch]);
        if row < goal.slots {
            let from = batch * goal.from_batch + head * goal.from_head + piece;
            into[batch * goal.batch + head * goal.head + row * goal.row + piece] = rows[from];
        }
    }
}

/// [`crate::ops::fixed::write_rows`] of tensors of one dtype; nothing where no kernel fits.
pub(super) fn write_rows(into: &CubeTensor, rows: &CubeTensor, at: &CubeTensor) -> Option<()> {
    let [b, g, t, d] = into.shape().dims();
    let plain = into.meta.strides()[3] == 1 && !into.meta.is_tiled();
    let alike = rows.dtype == into.dtype && rows.shape().dims() == [b, g, 1, d];
    if !plain || !alike || at.shape().dims() != [b] {
        return None;
    }
    let (to, from) = (Heads::of_batches(into.clone()), Heads::of_batches(rows.clone()));
    let widest = into.client.io_optimized_vector_sizes(into.dtype.size()).max().unwrap_or(1);
    let fits =
        |size: &usize| d.is_multiple_of(*size) && to.splits_into(*size) && from.splits_into(*size);
    let vector = Some(widest).filter(fits).unwrap_or(1);
    let steps = [to.batch, to.head, to.row, from.batch, from.head].map(|step| step / vector);
    let [batch, head, row, from_batch, from_head] = steps;
    let (width, count) = (d / vector, b * g * d / vector);
    let (cubes, dim) = elementwise(&into.client, count);
    // SAFETY: units stop at the last value of the rows, and write below the last row of heads whose strides are those of `into`.
    unsafe {
        write_rows_kernel::launch_unchecked(
            &into.client,
            cubes,
            dim,
            vector,
            from.tensor.into_buffer_arg(),
            at.clone().into_buffer_arg(),
            to.tensor.into_buffer_arg(),
            GoalLaunch::new(count, width, g, t, batch, head, row, from_batch, from_head),
            element(into.dtype),
        );
    }
    Some(())
}
