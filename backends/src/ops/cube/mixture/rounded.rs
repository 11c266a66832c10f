//! The products of a mixture of experts whose weights are rounded: codes and scales are read where they lie, activations as
//! they are, and sums run in f32.

use burn::backend::TensorMetadata;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::codes::{Matrix, MatrixLaunch, Rounded, add_pack, sums_of};
use super::super::cores::many::Work;
use super::super::launch::element;
use super::super::rows::{
    CUBE_OUTPUTS, LANES, OUTPUTS, Rows, RowsLaunch, UNITS, first_output, write_sums,
};
use super::kernels::{
    CUBE_PAIRS, Stack, StackLaunch, Task, expert_of, input_row, matrix_row, part_of, task_of,
    tile_task, write_between, write_products,
};
use super::tiles::{TILE, Tiles};
use super::{Multiplied, Routed, tables};
use crate::ops::RoundedStack;

/// Sums of the products of a tile's pairs, as far as this unit adds them, for each row of the matrix and pair.
#[cube]
#[allow(clippy::too_many_arguments)]
fn products<F: Float, S: Numeric, N: Size>(
    x: &[Vector<F, Const<4>>],
    codes: &[Vector<u32, N>],
    scales: &[S],
    order: &[u32],
    task: &Task,
    stack: &Stack,
    matrix: &Matrix,
    #[comptime] block: usize,
    #[comptime] gates: bool,
) -> Array<f32> {
    let mut outputs = Array::<u32>::new(OUTPUTS);
    #[unroll]
    for o in 0..OUTPUTS {
        outputs[o] = (task.first + matrix_row(stack, o, gates)) as u32;
    }
    let mut starts = Array::<u32>::new(block);
    #[unroll]
    for r in 0..block {
        let row = input_row(order, task, r, block, gates);
        starts[r] = (row * (matrix.inputs / 4)) as u32;
    }
    let mut all = Array::<Vector<f32, Const<4>>>::new(comptime!(OUTPUTS * block));
    let mut place = UNIT_POS as usize % LANES;
    while place < task.inputs {
        add_pack::<F, S, N>(
            x, codes, scales, &mut all, &outputs, &starts, matrix, place, 1.0f32, block,
        );
        place += LANES;
    }
    sums_of(&all, comptime!(OUTPUTS * block))
}

/// Cube `(x, y)`: eight values from `8 · x` on of what the pairs of tile `y` have between gate and down.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn gate_up_codes_kernel<F: Float, S: Numeric, N: Size>(
    x: &[Vector<F, Const<4>>],
    routes: &[f32],
    tiles: &[u32],
    order: &[u32],
    codes: &[Vector<u32, N>],
    scales: &[S],
    out: &mut [F],
    stack: Stack,
    matrix: Matrix,
    k: usize,
    #[comptime] block: usize,
    #[define(F, S)] _dtypes: [ElemType; 2],
) {
    let task = task_of(routes, tiles, &stack, k, block);
    let all = products::<F, S, N>(x, codes, scales, order, &task, &stack, &matrix, block, true);
    write_between::<F>(&all, out, &task, &stack, block);
}

/// Cube `(x, y)`: sixteen outputs from `16 · x` on of row `y`, summed over its experts.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn down_codes_kernel<F: Float, S: Numeric, N: Size>(
    between: &[Vector<F, Const<4>>],
    routes: &[f32],
    codes: &[Vector<u32, N>],
    scales: &[S],
    out: &mut [F],
    stack: Stack,
    matrix: Matrix,
    rows: Rows,
    k: usize,
    #[define(F, S)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS_Y as usize;
    let mut outputs = Array::<u32>::new(OUTPUTS);
    let mut starts = Array::<u32>::new(1usize);
    let mut all = Array::<Vector<f32, Const<4>>>::new(OUTPUTS);
    let mut total = 0.0f32;
    for choice in 0..k {
        let part = part_of(routes, row, choice, k);
        total += part;
        let pair = row * k + choice;
        let first = expert_of(routes, pair, k, stack.experts) * stack.outputs;
        #[unroll]
        for o in 0..OUTPUTS {
            outputs[o] = (first + min(first_output() + o, stack.outputs - 1)) as u32;
        }
        starts[0] = (pair * (matrix.inputs / 4)) as u32;
        let mut place = UNIT_POS as usize % LANES;
        while place < stack.inputs {
            add_pack::<F, S, N>(
                between, codes, scales, &mut all, &outputs, &starts, &matrix, place, part, 1usize,
            );
            place += LANES;
        }
    }
    let mut sums = sums_of(&all, OUTPUTS);
    #[unroll]
    for o in 0..OUTPUTS {
        sums[o] /= total;
    }
    write_sums::<F>(&sums, out, stack.outputs, &rows);
}

/// Cube `(x, y)`: sixteen outputs from `16 · x` on of the pairs of tile `y`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn down_codes_tiles_kernel<F: Float, S: Numeric, N: Size>(
    between: &[Vector<F, Const<4>>],
    tiles: &[u32],
    codes: &[Vector<u32, N>],
    scales: &[S],
    out: &mut [f32],
    stack: Stack,
    matrix: Matrix,
    #[define(F, S)] _dtypes: [ElemType; 2],
) {
    let task = tile_task(tiles, &stack, 1usize);
    // Of tiles alone is an order read where pairs enter.
    let all =
        products::<F, S, N>(between, codes, scales, tiles, &task, &stack, &matrix, TILE, false);
    write_products(&all, out, &task, &stack);
}

/// Rounded matrices of all experts as the kernels take them.
pub(super) struct Coded {
    weight: Rounded,
    /// `[experts, out]`.
    size: [usize; 2],
    /// Words of a pack, and packs of a row.
    words: usize,
    packs: usize,
}

impl Coded {
    /// Those of `inputs` columns, which multiply activations that begin as `x` does; nothing where rows of codes are no whole
    /// words.
    pub fn new(stack: &RoundedStack<CubeBackend>, x: &CubeTensor, inputs: usize) -> Option<Self> {
        let [experts, outputs, _] = stack.codes.shape().dims();
        let weight = Rounded::stack(&stack.codes, &stack.scales, stack.scheme, inputs)?;
        let words = weight.pack(x)?;
        let packs = inputs * stack.scheme.bits() / (32 * words);
        Some(Self { weight, size: [experts, outputs], words, packs })
    }

    fn codes(&self) -> CubeTensor {
        self.weight.codes.clone()
    }

    fn scales(&self) -> CubeTensor {
        self.weight.scales.clone()
    }

    fn shape(&self) -> (StackLaunch, MatrixLaunch) {
        let [experts, outputs] = self.size;
        (StackLaunch::new(experts, outputs, self.packs), self.weight.matrix())
    }
}

impl Multiplied for Coded {
    fn size(&self) -> [usize; 3] {
        let [experts, outputs] = self.size;
        [experts, outputs, self.weight.inputs]
    }

    fn gate_up(&self, rows: &Routed, tiles: Option<&Tiles>, out: &CubeTensor) {
        let [pairs, inner] = out.shape().dims();
        let ([table, order], count) = tables(tiles, pairs, out);
        let (stack, matrix) = self.shape();
        // SAFETY: outputs behind the last are read as the last and not written, pairs that a tile lacks as its first, and tiles
        // behind the last multiply nothing; there is a cube for each tile, or for each pair. Packs are whole, see `new`.
        unsafe {
            gate_up_codes_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(inner.div_ceil(CUBE_PAIRS) as u32, count as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                self.words,
                rows.x.clone().into_buffer_arg(),
                rows.routes.clone().into_buffer_arg(),
                table.into_buffer_arg(),
                order.into_buffer_arg(),
                self.codes().into_buffer_arg(),
                self.scales().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                stack,
                matrix,
                rows.k,
                if tiles.is_some() { TILE } else { 1 },
                [element(out.dtype), self.weight.scale_element()],
            );
        }
    }

    fn down(&self, rows: &Routed, between: &CubeTensor, out: &CubeTensor) {
        let [count, hidden] = out.shape().dims();
        let (stack, matrix) = self.shape();
        // SAFETY: as above, with a cube for each row.
        unsafe {
            down_codes_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(hidden.div_ceil(CUBE_OUTPUTS) as u32, count as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                self.words,
                between.clone().into_buffer_arg(),
                rows.routes.clone().into_buffer_arg(),
                self.codes().into_buffer_arg(),
                self.scales().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                stack,
                matrix,
                RowsLaunch::new(count, 1),
                rows.k,
                [element(out.dtype), self.weight.scale_element()],
            );
        }
    }

    fn down_tiles(&self, tiles: &Tiles, between: &CubeTensor, out: &CubeTensor) {
        let [_, hidden] = out.shape().dims();
        let (stack, matrix) = self.shape();
        // SAFETY: as above, with a cube for each tile.
        unsafe {
            down_codes_tiles_kernel::launch_unchecked(
                &out.client,
                CubeCount::Static(hidden.div_ceil(CUBE_OUTPUTS) as u32, tiles.count as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                self.words,
                between.clone().into_buffer_arg(),
                tiles.table.clone().into_buffer_arg(),
                self.codes().into_buffer_arg(),
                self.scales().into_buffer_arg(),
                out.clone().into_buffer_arg(),
                stack,
                matrix,
                [element(between.dtype), self.weight.scale_element()],
            );
        }
    }

    fn suits_cores(&self, _x: &CubeTensor) -> bool {
        true
    }

    fn on_cores(&self, x: &CubeTensor, work: Work) -> Option<CubeTensor> {
        self.weight.many_rows_sorted(x, self.size[1], work)
    }
}
