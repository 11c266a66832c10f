//! A mixture of experts for few rows: which experts these go to is read on the device, where the router's sums left it.
//!
//! Every weight of a chosen expert is read once for a tile of rows that go to it, in 16 bytes at a time, for 2 operations a
//! row, so that memory decides. With very few rows each is a tile of its own, and the second kernel sums the experts of a row,
//! so that their products never lie in memory.

mod kernels;
mod tiles;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{element, elementwise, empty};
use super::rows::{CUBE_OUTPUTS, RowsLaunch, UNITS};
use kernels::{
    CUBE_PAIRS, StackLaunch, combine_kernel, down_kernel, down_tiles_kernel, gate_up_kernel,
};
use tiles::{MOST_EXPERTS, TILE, Tiles};

/// Most pairs of a row and an expert that are not sorted.
const UNSORTED: usize = 32;

/// A stack as the kernels take it.
struct Matrices<'a> {
    tensor: &'a CubeTensor,
    /// Values of a vector.
    size: usize,
}

impl<'a> Matrices<'a> {
    /// Nothing where its rows do not lie in whole vectors one after the other, or those of `x` do not.
    fn new(tensor: &'a CubeTensor, x: &CubeTensor) -> Option<Self> {
        let [_, outputs, inputs] = tensor.shape().dims();
        let bytes = tensor.dtype.size().max(x.dtype.size());
        let size = tensor.client.io_optimized_vector_sizes(bytes).max()?;
        let starts = |t: &CubeTensor| {
            let bytes = (size * t.dtype.size()) as u64;
            t.handle.offset_start.unwrap_or(0).is_multiple_of(bytes)
        };
        let plain = tensor.meta.strides().to_vec() == [outputs * inputs, inputs, 1];
        let whole = inputs.is_multiple_of(size) && starts(tensor) && starts(x);
        (plain && whole && !tensor.meta.is_tiled()).then_some(Self { tensor, size })
    }

    fn stack(&self) -> StackLaunch {
        let [experts, outputs, inputs] = self.tensor.shape().dims();
        StackLaunch::new(experts, outputs, inputs / self.size)
    }
}

/// Rows, and where they go.
struct Rows {
    x: CubeTensor,
    routes: CubeTensor,
    count: usize,
    k: usize,
}

/// [`crate::ops::mixture`] of few rows; nothing where no kernel fits.
pub(super) fn mixture(
    x: &CubeTensor,
    routes: &CubeTensor,
    gate_up: &CubeTensor,
    down: &CubeTensor,
) -> Option<CubeTensor> {
    let ([count, _], k) = (x.shape().dims(), routes.shape()[1] / 2);
    let (x, routes) = (into_contiguous(x.clone()), into_contiguous(routes.clone()));
    let ([experts, double, _], [_, hidden, inner]) = (gate_up.shape().dims(), down.shape().dims());
    let between = empty(&x, Shape::new([count * k, inner]), x.dtype);
    let (up, down) = (Matrices::new(gate_up, &x)?, Matrices::new(down, &between)?);
    if double != 2 * inner || k == 0 || experts > MOST_EXPERTS {
        return None;
    }
    let rows = Rows { x, routes, count, k };
    let out = empty(&rows.x, Shape::new([count, hidden]), rows.x.dtype);
    let tiles = match count * k <= UNSORTED {
        true => None,
        false => Some(Tiles::sorted(&rows.routes, [count * k, k, experts])),
    };
    rows.gate_up(&up, tiles.as_ref(), &between);
    match &tiles {
        None => rows.down(&down, &between, &out),
        Some(tiles) => rows.combine(&rows.down_tiles(&down, tiles, &between), &out),
    }
    Some(out)
}

impl Rows {
    fn gate_up(&self, up: &Matrices<'_>, tiles: Option<&Tiles>, out: &CubeTensor) {
        let [pairs, inner] = out.shape().dims();
        // What is not sorted has no tables.
        let unused = || empty(out, Shape::new([1]), DType::U32);
        let (owners, order) =
            tiles.map_or_else(|| (unused(), unused()), |t| (t.owners.clone(), t.order.clone()));
        let count = tiles.map_or(pairs, |tiles| tiles.count);
        // SAFETY: outputs behind the last are read as the last and not written, and so are experts and pairs that a tile lacks;
        // there is a cube for each tile, or for each pair.
        unsafe {
            gate_up_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(inner.div_ceil(CUBE_PAIRS) as u32, count as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                up.size,
                self.x.clone().into_buffer_arg(),
                self.routes.clone().into_buffer_arg(),
                owners.into_buffer_arg(),
                order.into_buffer_arg(),
                up.tensor.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                up.stack(),
                self.k,
                if tiles.is_some() { TILE } else { 1 },
                [element(out.dtype), element(up.tensor.dtype)],
            );
        }
    }

    fn down(&self, down: &Matrices<'_>, between: &CubeTensor, out: &CubeTensor) {
        let hidden = out.shape()[1];
        // SAFETY: as above, with a cube for each row.
        unsafe {
            down_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(hidden.div_ceil(CUBE_OUTPUTS) as u32, self.count as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                down.size,
                between.clone().into_buffer_arg(),
                self.routes.clone().into_buffer_arg(),
                down.tensor.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                down.stack(),
                RowsLaunch::new(self.count, 1),
                self.k,
                [element(out.dtype), element(down.tensor.dtype)],
            );
        }
    }

    /// The products of all pairs in f32.
    fn down_tiles(&self, down: &Matrices<'_>, tiles: &Tiles, between: &CubeTensor) -> CubeTensor {
        let (pairs, hidden) = (self.count * self.k, down.tensor.shape()[1]);
        let out = empty(between, Shape::new([pairs, hidden]), DType::F32);
        // SAFETY: as above, with a cube for each tile.
        unsafe {
            down_tiles_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(hidden.div_ceil(CUBE_OUTPUTS) as u32, tiles.count as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                down.size,
                between.clone().into_buffer_arg(),
                tiles.owners.clone().into_buffer_arg(),
                tiles.order.clone().into_buffer_arg(),
                down.tensor.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                down.stack(),
                [element(between.dtype), element(down.tensor.dtype)],
            );
        }
        out
    }

    fn combine(&self, products: &CubeTensor, out: &CubeTensor) {
        let [_, hidden] = out.shape().dims();
        let (cubes, dim) = elementwise(&out.client, self.count * hidden);
        // SAFETY: units behind the last value do nothing.
        unsafe {
            combine_kernel::launch_unchecked(
                &out.client,
                cubes,
                dim,
                products.clone().into_buffer_arg(),
                self.routes.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                self.count * hidden,
                hidden,
                self.k,
                element(out.dtype),
            );
        }
    }
}
