//! Launches with weights that are not rounded.

use burn::backend::TensorMetadata;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::{CubeCount, CubeDim};

use super::super::launch::{element, starts_at};
use super::super::rows::{CUBE_OUTPUTS, RowsLaunch, UNITS};
use super::kernels::{CUBE_PAIRS, StackLaunch, down_kernel, down_tiles_kernel, gate_up_kernel};
use super::tiles::{TILE, Tiles};
use super::{Multiplied, Routed, tables};

/// A stack as the kernels take it.
pub(super) struct Matrices<'a> {
    tensor: &'a CubeTensor,
    /// Values of a vector.
    vector: usize,
}

impl<'a> Matrices<'a> {
    /// Nothing where its rows do not lie in whole vectors one after the other, or those of `x` do not.
    pub fn new(tensor: &'a CubeTensor, x: &CubeTensor) -> Option<Self> {
        let [_, outputs, inputs] = tensor.shape().dims();
        let bytes = tensor.dtype.size().max(x.dtype.size());
        let vector = tensor.client.io_optimized_vector_sizes(bytes).max()?;
        let starts = |t: &CubeTensor| starts_at(t, vector);
        let plain = tensor.meta.strides().to_vec() == [outputs * inputs, inputs, 1];
        let whole = inputs.is_multiple_of(vector) && starts(tensor) && starts(x);
        (plain && whole && !tensor.meta.is_tiled()).then_some(Self { tensor, vector })
    }

    fn stack(&self) -> StackLaunch {
        let [experts, outputs, inputs] = self.tensor.shape().dims();
        StackLaunch::new(experts, outputs, inputs / self.vector)
    }
}

impl Multiplied for Matrices<'_> {
    fn size(&self) -> [usize; 2] {
        let [experts, outputs, _] = self.tensor.shape().dims();
        [experts, outputs]
    }

    fn gate_up(&self, rows: &Routed, tiles: Option<&Tiles>, out: &CubeTensor) {
        let [pairs, inner] = out.shape().dims();
        let ([owners, order], count) = tables(tiles, pairs, out);
        // SAFETY: outputs behind the last are read as the last and not written, and so are experts and pairs that a tile lacks;
        // there is a cube for each tile, or for each pair.
        unsafe {
            gate_up_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(inner.div_ceil(CUBE_PAIRS) as u32, count as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                self.vector,
                rows.x.clone().into_buffer_arg(),
                rows.routes.clone().into_buffer_arg(),
                owners.into_buffer_arg(),
                order.into_buffer_arg(),
                self.tensor.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.stack(),
                rows.k,
                if tiles.is_some() { TILE } else { 1 },
                [element(out.dtype), element(self.tensor.dtype)],
            );
        }
    }

    fn down(&self, rows: &Routed, between: &CubeTensor, out: &CubeTensor) {
        let [count, hidden] = out.shape().dims();
        // SAFETY: as above, with a cube for each row.
        unsafe {
            down_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(hidden.div_ceil(CUBE_OUTPUTS) as u32, count as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                self.vector,
                between.clone().into_buffer_arg(),
                rows.routes.clone().into_buffer_arg(),
                self.tensor.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.stack(),
                RowsLaunch::new(count, 1),
                rows.k,
                [element(out.dtype), element(self.tensor.dtype)],
            );
        }
    }

    fn down_tiles(&self, tiles: &Tiles, between: &CubeTensor, out: &CubeTensor) {
        let [_, hidden] = out.shape().dims();
        // SAFETY: as above, with a cube for each tile.
        unsafe {
            down_tiles_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(hidden.div_ceil(CUBE_OUTPUTS) as u32, tiles.count as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                self.vector,
                between.clone().into_buffer_arg(),
                tiles.owners.clone().into_buffer_arg(),
                tiles.order.clone().into_buffer_arg(),
                self.tensor.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.stack(),
                [element(between.dtype), element(self.tensor.dtype)],
            );
        }
    }
}
