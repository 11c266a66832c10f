//! A mixture of experts: which experts rows go to is read on the device, where the router's sums left it, for any number of rows.
//!
//! With very few rows every pair of a row and an expert is computed for itself, and the second kernel sums the experts of a row,
//! so that their products never lie in memory. Else pairs are sorted by expert, in tiles. Of few rows for each expert, every
//! weight, or its code, is read once for a tile, in 16 bytes at a time, for 2 operations a row, so that memory decides. Of many,
//! rows are copied in that order and multiplied on tensor cores where the device has them for these weights, see
//! [`super::cores::many`]; where not, by the same small tiles.

mod dense;
mod kernels;
mod rounded;
mod tiles;

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::codes::EXPANDED;
use super::cores::many::{Form, Work};
use super::launch::{element, elementwise, empty, vector_size};
use super::rows::FEW_ROWS;
use crate::ops::RoundedStack;
use dense::{Matrices, as_they_lie};
use kernels::{combine_kernel, gates_kernel, gather_kernel};
use rounded::Coded;
use tiles::{MOST_EXPERTS, TILE, Tiles};

/// Most pairs of a row and an expert that are not sorted.
const UNSORTED: usize = 32;

/// Most pairs that are computed at one time, of more than one row.
const PAIRS: usize = 16_384;

/// Rows `[count, hidden]`, and where they go.
struct Routed {
    x: CubeTensor,
    routes: CubeTensor,
    /// Experts of each.
    k: usize,
}

/// The matrices of all experts, as kernels multiply with them.
trait Multiplied {
    /// Experts, and the outputs and inputs of each.
    fn size(&self) -> [usize; 3];

    /// What the pairs of a row and an expert have between gate and down; those of `tiles`, where they are sorted, at their
    /// places.
    fn gate_up(&self, rows: &Routed, tiles: Option<&Tiles>, out: &CubeTensor);

    /// The products of rows summed over their experts.
    fn down(&self, rows: &Routed, between: &CubeTensor, out: &CubeTensor);

    /// The products of sorted pairs in f32.
    fn down_tiles(&self, tiles: &Tiles, between: &CubeTensor, out: &CubeTensor);

    /// Whether tensor cores that take rows of `x` multiply with them.
    fn suits_cores(&self, x: &CubeTensor) -> bool;

    /// The products of sorted rows on tensor cores.
    fn on_cores(&self, x: &CubeTensor, work: Work) -> Option<CubeTensor>;
}

/// Numbers of the tiles and the pairs in order, and how many tiles there are; what is not sorted has a tile for each pair, and no
/// tables.
fn tables(tiles: Option<&Tiles>, pairs: usize, like: &CubeTensor) -> ([CubeTensor; 2], usize) {
    let unused = || empty(like, Shape::new([1]), DType::U32);
    tiles.map_or_else(
        || ([unused(), unused()], pairs),
        |tiles| ([tiles.table.clone(), tiles.order.clone()], tiles.count),
    )
}

/// [`crate::ops::mixture`]; nothing where no kernel fits.
pub(super) fn mixture(
    x: &CubeTensor,
    routes: &CubeTensor,
    gate_up: &CubeTensor,
    down: &CubeTensor,
) -> Option<CubeTensor> {
    let rows = Routed::new(x, routes);
    let [gate_up, down] = [gate_up, down].map(|stack| as_they_lie(stack, rows.pairs()));
    rows.through([&Matrices::new(&gate_up, &rows.x)?, &Matrices::new(&down, &rows.x)?])
}

/// [`crate::ops::rounded_mixture`]; nothing where no kernel fits.
pub(super) fn of_codes(
    x: &CubeTensor,
    routes: &CubeTensor,
    gate_up: &RoundedStack<CubeBackend>,
    down: &RoundedStack<CubeBackend>,
) -> Option<CubeTensor> {
    let rows = Routed::new(x, routes);
    let (hidden, inner) = (x.shape()[1], gate_up.codes.shape()[1] / 2);
    let (up, down) = (Coded::new(gate_up, &rows.x, hidden)?, Coded::new(down, &rows.x, inner)?);
    rows.through([&up, &down])
}

impl Routed {
    fn new(x: &CubeTensor, routes: &CubeTensor) -> Self {
        let k = routes.shape()[1] / 2;
        Self { x: into_contiguous(x.clone()), routes: into_contiguous(routes.clone()), k }
    }

    fn count(&self) -> usize {
        self.x.shape()[0]
    }

    fn pairs(&self) -> usize {
        self.count() * self.k
    }

    /// Some of the rows.
    fn part(&self, first: usize, last: usize) -> Self {
        let rows = Slice::from(first as isize..last as isize);
        let part = |tensor: &CubeTensor| CubeBackend::float_slice(tensor.clone(), &[rows]);
        Self::new(&part(&self.x), &part(&self.routes))
    }

    /// Room for `width` values of each pair.
    fn of_pairs(&self, width: usize, dtype: DType) -> CubeTensor {
        empty(&self.x, Shape::new([self.pairs(), width]), dtype)
    }

    /// What all rows become, no more of them at one time than memory is meant for.
    fn through(&self, stacks: [&dyn Multiplied; 2]) -> Option<CubeTensor> {
        let [[experts, double, hidden], [_, outputs, inner]] = stacks.map(|stack| stack.size());
        let fits = double == 2 * inner && hidden == self.x.shape()[1] && experts <= MOST_EXPERTS;
        if !fits || self.pairs() == 0 {
            return None;
        }
        let most = PAIRS.min(EXPANDED / double.max(hidden).max(outputs)) / self.k;
        let (count, most) = (self.count(), most.max(1));
        if count <= most {
            return self.at_once(stacks);
        }
        let parts = (0..count).step_by(most);
        let parts = parts.map(|first| self.part(first, count.min(first + most)).at_once(stacks));
        Some(CubeBackend::float_cat(parts.collect::<Option<_>>()?, 0))
    }

    fn at_once(&self, [up, down]: [&dyn Multiplied; 2]) -> Option<CubeTensor> {
        let ([experts, double, _], [_, hidden, _]) = (up.size(), down.size());
        let out = empty(&self.x, Shape::new([self.count(), hidden]), self.x.dtype);
        if self.pairs() <= UNSORTED {
            let between = self.of_pairs(double / 2, self.x.dtype);
            up.gate_up(self, None, &between);
            down.down(self, &between, &out);
            return Some(out);
        }
        let many = self.pairs() > FEW_ROWS * experts;
        let suits = many && up.suits_cores(&self.x) && down.suits_cores(&self.x);
        let form = suits.then(|| Form::of(&self.x, self.pairs() / experts, true)).flatten();
        let rows = form.map_or(TILE, |form| form.rows());
        let tiles = Tiles::sorted(&self.routes, [self.pairs(), self.k, experts], rows);
        let products = match form {
            Some(form) => {
                let work = Work::sorted(form, &tiles.table, tiles.count);
                let both = up.on_cores(&self.gathered(&tiles), work.clone())?;
                down.on_cores(&gated(&both), work)?
            }
            None => {
                let between = self.of_pairs(double / 2, self.x.dtype);
                up.gate_up(self, Some(&tiles), &between);
                let products = self.of_pairs(hidden, DType::F32);
                down.down_tiles(&tiles, &between, &products);
                products
            }
        };
        self.combine(&products, &tiles, &out);
        Some(out)
    }

    /// The rows of sorted pairs.
    fn gathered(&self, tiles: &Tiles) -> CubeTensor {
        let width = self.x.shape()[1];
        let out = self.of_pairs(width, self.x.dtype);
        let vector = vector_size(&[&self.x], &[width]);
        let count = self.pairs() * width / vector;
        let (cubes, dim) = elementwise(&out.client, count);
        // SAFETY: units behind the last vector do nothing, and pairs are of rows that exist.
        unsafe {
            gather_kernel::launch_unchecked(
                &out.client,
                cubes,
                dim,
                vector,
                self.x.clone().into_buffer_arg(),
                tiles.order.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                count,
                width / vector,
                self.k,
                element(out.dtype),
            );
        }
        out
    }

    /// Sums the products of sorted pairs of each row.
    fn combine(&self, products: &CubeTensor, tiles: &Tiles, out: &CubeTensor) {
        let [count, hidden] = out.shape().dims();
        let (cubes, dim) = elementwise(&out.client, count * hidden);
        // SAFETY: units behind the last value do nothing, and every pair has a place.
        unsafe {
            combine_kernel::launch_unchecked(
                &out.client,
                cubes,
                dim,
                products.clone().into_buffer_arg(),
                tiles.places.clone().into_buffer_arg(),
                self.routes.clone().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                count * hidden,
                hidden,
                self.k,
                [element(out.dtype), element(products.dtype)],
            );
        }
    }
}

/// SwiGLU of rows of gates, and behind them their partners.
fn gated(both: &CubeTensor) -> CubeTensor {
    let [count, double] = both.shape().dims();
    let inner = double / 2;
    let out = empty(both, Shape::new([count, inner]), both.dtype);
    let vector = vector_size(&[both], &[inner]);
    let (cubes, dim) = elementwise(&out.client, count * inner / vector);
    // SAFETY: units behind the last vector do nothing.
    unsafe {
        gates_kernel::launch_unchecked(
            &out.client,
            cubes,
            dim,
            vector,
            both.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count * inner / vector,
            inner / vector,
            element(out.dtype),
        );
    }
    out
}
