//! What the kernels of attention share: where heads lie, and sums over parts of the keys.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{cubes, element, empty, starts_at};

/// Scores of hidden keys, and below all others.
pub(super) const LOWEST: f32 = -1e30;

/// Heads of `[b, h, s, d]` or `[n, h, d]`, whose values lie side by side.
pub(super) struct Heads {
    pub tensor: CubeTensor,
    /// Where they begin, and the strides between batches, heads and rows, in values.
    pub start: usize,
    pub batch: usize,
    pub head: usize,
    pub row: usize,
}

impl Heads {
    /// Of `[b, h, s, d]`.
    pub fn of_batches(x: CubeTensor) -> Self {
        let tensor = by_values(x);
        let [batch, head, row] = [0, 1, 2].map(|axis| stride(&tensor, axis));
        Self { tensor, start: 0, batch, head, row }
    }

    /// Of `[n, h, d]`.
    pub fn of_rows(x: CubeTensor) -> Self {
        let tensor = by_values(x);
        let [row, head] = [0, 1].map(|axis| stride(&tensor, axis));
        Self { tensor, start: 0, batch: 0, head, row }
    }

    /// Whether vectors of `size` values can be loaded.
    pub fn splits_into(&self, size: usize) -> bool {
        let steps = [self.start, self.batch, self.head, self.row];
        steps.iter().all(|step| step.is_multiple_of(size)) && starts_at(&self.tensor, size)
    }
}

/// The tensor itself where the values of its last axis lie side by side, else a copy.
fn by_values(x: CubeTensor) -> CubeTensor {
    let last = x.meta.num_dims() - 1;
    let plain = x.meta.strides()[last] == 1 && !x.meta.is_tiled();
    if plain { x } else { into_contiguous(x) }
}

/// The stride of an axis; of one place, it says nothing.
fn stride(x: &CubeTensor, axis: usize) -> usize {
    if x.meta.shape()[axis] == 1 { 0 } else { x.meta.strides()[axis] }
}

/// Values of heads of `d` that a unit loads at once: as many as the device likes, or four.
pub(super) fn vector_size<'a>(
    d: usize,
    all: impl Iterator<Item = &'a Heads> + Clone,
) -> Option<usize> {
    let first = &all.clone().next()?.tensor;
    let sizes = first.client.io_optimized_vector_sizes(first.dtype.size());
    let widest = sizes.max().unwrap_or(1);
    let fits =
        |size: &usize| d.is_multiple_of(*size) && all.clone().all(|heads| heads.splits_into(*size));
    [widest, 4].into_iter().filter(|size| *size >= 4).find(fits)
}

/// Sums of values weighted by `exp(score - largest score)`, and `[largest score, sum of weights]`, of every query row over
/// every part of the keys.
pub(super) struct Sums {
    pub values: CubeTensor,
    pub stats: CubeTensor,
    pub splits: usize,
}

impl Sums {
    /// For `rows` rows of `d` values.
    pub fn new(like: &CubeTensor, [rows, splits, d]: [usize; 3]) -> Self {
        let of = |width| empty(like, Shape::new([rows, splits, width]), DType::F32);
        Self { values: of(d), stats: of(2), splits }
    }

    /// What softmax over all parts gives.
    pub fn combined(self, shape: Shape, dtype: DType) -> CubeTensor {
        let [rows, _, d] = self.values.shape().dims();
        let out = empty(&self.values, shape, dtype);
        // SAFETY: cubes stop at the last row and units at the last dimension of sums that were made for both.
        unsafe {
            combine_kernel::launch_unchecked(
                &out.client,
                cubes(rows),
                CubeDim::new_1d(64),
                self.values.into_buffer_arg(),
                self.stats.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                rows,
                self.splits,
                d,
                element(dtype),
            );
        }
        out
    }
}

/// A cube combines a row, a unit some of its dimensions.
#[cube(launch_unchecked)]
fn combine_kernel<F: Float>(
    values: &[f32],
    stats: &[f32],
    out: &mut [F],
    rows: usize,
    splits: usize,
    d: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row < rows {
        let start = row * splits;
        let mut top = f32::new(LOWEST);
        for i in start..start + splits {
            top = max(top, stats[2 * i]);
        }
        let mut dim = UNIT_POS as usize;
        while dim < d {
            let mut sum = 0.0f32;
            let mut weights = 0.0f32;
            for i in start..start + splits {
                let weight = (stats[2 * i] - top).exp();
                weights += weight * stats[2 * i + 1];
                sum += weight * values[i * d + dim];
            }
            out[row * d + dim] = F::cast_from(sum / weights);
            dim += CUBE_DIM as usize;
        }
    }
}
