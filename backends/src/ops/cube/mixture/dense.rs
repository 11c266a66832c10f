//! Launches with weights that are not rounded.

use burn::backend::TensorMetadata;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::{CubeCount, CubeDim};

use super::super::cores::many::{self, Work};
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

/// A stack whose rows lie one after the other; where they do not, it is copied if there are so many pairs that the reference body
/// would copy more.
pub(super) fn as_they_lie(stack: &CubeTensor, pairs: usize) -> CubeTensor {
    let copied = !many::is_plain(stack) && pairs >= stack.shape()[0];
    if copied { into_contiguous(stack.clone()) } else { stack.clone() }
}

impl<'a> Matrices<'a> {
    /// Those that multiply `x`; nothing where their rows do not lie one after the other.
    pub fn new(tensor: &'a CubeTensor, x: &CubeTensor) -> Option<Self> {
        let inputs = tensor.shape()[2];
        let bytes = tensor.dtype.size().max(x.dtype.size());
        let whole = |vector: &usize| {
            inputs.is_multiple_of(*vector) && starts_at(tensor, *vector) && starts_at(x, *vector)
        };
        let vector = tensor.client.io_optimized_vector_sizes(bytes).find(whole)?;
        many::is_plain(tensor).then_some(Self { tensor, vector })
    }

    fn stack(&self) -> StackLaunch {
        let [experts, outputs, inputs] = self.tensor.shape().dims();
        StackLaunch::new(experts, outputs, inputs / self.vector)
    }
}

impl Multiplied for Matrices<'_> {
    fn size(&self) -> [usize; 3] {
        self.tensor.shape().dims()
    }

    fn gate_up(&self, rows: &Routed, tiles: Option<&Tiles>, out: &CubeTensor) {
        let [pairs, inner] = out.shape().dims();
        let ([table, order], count) = tables(tiles, pairs, out);
        // SAFETY: outputs behind the last are read as the last and not written, pairs that a tile lacks as its first, and tiles
        // behind the last multiply nothing; there is a cube for each tile, or for each pair.
        unsafe {
            gate_up_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(inner.div_ceil(CUBE_PAIRS) as u32, count as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                self.vector,
                rows.x.clone().into_buffer_arg(),
                rows.routes.clone().into_buffer_arg(),
                table.into_buffer_arg(),
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
                tiles.table.clone().into_buffer_arg(),
                self.tensor.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.stack(),
                [element(between.dtype), element(self.tensor.dtype)],
            );
        }
    }

    fn suits_cores(&self, x: &CubeTensor) -> bool {
        many::takes(x, self.tensor)
    }

    fn on_cores(&self, x: &CubeTensor, work: Work) -> Option<CubeTensor> {
        many::product(x, self.tensor, work)
    }
}
