//! A mixture of experts for few rows: which experts these go to is read on the device, where the router's sums left it.
//!
//! Every weight of a chosen expert, or its code, is read once for a tile of rows that go to it, in 16 bytes at a time, for 2
//! operations a row, so that memory decides. With very few rows each is a tile of its own, and the second kernel sums the experts
//! of a row, so that their products never lie in memory.

mod dense;
mod kernels;
mod rounded;
mod tiles;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{element, elementwise, empty};
use crate::ops::RoundedStack;
use dense::Matrices;
use kernels::combine_kernel;
use rounded::Coded;
use tiles::{MOST_EXPERTS, Tiles};

/// Most pairs of a row and an expert that are not sorted.
const UNSORTED: usize = 32;

/// Rows `[count, hidden]`, and where they go.
struct Routed {
    x: CubeTensor,
    routes: CubeTensor,
    /// Experts of each.
    k: usize,
}

/// The matrices of all experts, as kernels multiply with them.
trait Multiplied {
    /// Experts, and the outputs of each.
    fn size(&self) -> [usize; 2];

    /// What the pairs of a row and an expert have between gate and down; those of `tiles`, where they are sorted.
    fn gate_up(&self, rows: &Routed, tiles: Option<&Tiles>, out: &CubeTensor);

    /// The products of rows summed over their experts.
    fn down(&self, rows: &Routed, between: &CubeTensor, out: &CubeTensor);

    /// The products of all pairs in f32.
    fn down_tiles(&self, tiles: &Tiles, between: &CubeTensor, out: &CubeTensor);
}

/// The expert and the pairs of each tile, and how many tiles there are; what is not sorted has a tile for each pair, and no tables.
fn tables(tiles: Option<&Tiles>, pairs: usize, like: &CubeTensor) -> ([CubeTensor; 2], usize) {
    let unused = || empty(like, Shape::new([1]), DType::U32);
    tiles.map_or_else(
        || ([unused(), unused()], pairs),
        |tiles| ([tiles.owners.clone(), tiles.order.clone()], tiles.count),
    )
}

/// [`crate::ops::mixture`] of few rows; nothing where no kernel fits.
pub(super) fn mixture(
    x: &CubeTensor,
    routes: &CubeTensor,
    gate_up: &CubeTensor,
    down: &CubeTensor,
) -> Option<CubeTensor> {
    let rows = Routed::new(x, routes);
    let between = rows.between(down.shape()[2]);
    let (up, down) = (Matrices::new(gate_up, &rows.x)?, Matrices::new(down, &between)?);
    rows.through([&up, &down], &between)
}

/// [`crate::ops::rounded_mixture`] of few rows; nothing where no kernel fits.
pub(super) fn of_codes(
    x: &CubeTensor,
    routes: &CubeTensor,
    gate_up: &RoundedStack<CubeBackend>,
    down: &RoundedStack<CubeBackend>,
) -> Option<CubeTensor> {
    let rows = Routed::new(x, routes);
    let between = rows.between(gate_up.codes.shape()[1] / 2);
    let (up, down) = (Coded::new(gate_up, &rows.x)?, Coded::new(down, &between)?);
    rows.through([&up, &down], &between)
}

impl Routed {
    fn new(x: &CubeTensor, routes: &CubeTensor) -> Self {
        let k = routes.shape()[1] / 2;
        Self { x: into_contiguous(x.clone()), routes: into_contiguous(routes.clone()), k }
    }

    /// Room for what pairs have between gate and down.
    fn between(&self, inner: usize) -> CubeTensor {
        let pairs = self.x.shape()[0] * self.k;
        empty(&self.x, Shape::new([pairs, inner]), self.x.dtype)
    }

    fn through(
        &self,
        [up, down]: [&dyn Multiplied; 2],
        between: &CubeTensor,
    ) -> Option<CubeTensor> {
        let ([experts, double], [_, hidden]) = (up.size(), down.size());
        let [pairs, inner] = between.shape().dims();
        if double != 2 * inner || pairs == 0 || experts > MOST_EXPERTS {
            return None;
        }
        let tiles =
            (pairs > UNSORTED).then(|| Tiles::sorted(&self.routes, [pairs, self.k, experts]));
        up.gate_up(self, tiles.as_ref(), between);
        let out = empty(&self.x, Shape::new([self.x.shape()[0], hidden]), self.x.dtype);
        match &tiles {
            None => down.down(self, between, &out),
            Some(tiles) => {
                let products = empty(between, Shape::new([pairs, hidden]), DType::F32);
                down.down_tiles(tiles, between, &products);
                self.combine(&products, &out);
            }
        }
        Some(out)
    }

    fn combine(&self, products: &CubeTensor, out: &CubeTensor) {
        let [count, hidden] = out.shape().dims();
        let (cubes, dim) = elementwise(&out.client, count * hidden);
        // SAFETY: units behind the last value do nothing.
        unsafe {
            combine_kernel::launch_unchecked(
                &out.client,
                cubes,
                dim,
                products.clone().into_buffer_arg(),
                self.routes.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                count * hidden,
                hidden,
                self.k,
                element(out.dtype),
            );
        }
    }
}
