//! The products of a mixture of experts, and their sum.

use burn_cubecl::cubecl;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::cores::many::WORDS;
use super::super::elementwise::gated_silu;
use super::super::rows::{LANES, OUTPUTS, Rows, UNITS, first_output, write_sums};
use super::super::split::horizontal;
use super::tiles::TILE;

/// Neighbouring values between gate and down that the units of a team compute, each of a row of gate and one of up.
const PAIRS: usize = OUTPUTS / 2;

/// Teams of a cube, which share outputs.
const TEAMS: usize = UNITS / LANES;

/// Values between gate and down of a cube.
pub(super) const CUBE_PAIRS: usize = TEAMS * PAIRS;

/// The matrices of all experts: their number, rows and columns, the latter in vectors or packs of codes.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Stack {
    pub experts: usize,
    pub outputs: usize,
    pub inputs: usize,
}

/// The expert of a pair: behind the logits of a row stand its `k` experts.
#[cube]
pub(super) fn expert_of(routes: &[f32], pair: usize, k: usize, experts: usize) -> usize {
    let expert = usize::cast_from(routes[pair / k * 2 * k + k + pair % k]);
    min(expert, experts - 1)
}

/// The share of a choice of a row among those of the others, times the sum of all.
#[cube]
pub(super) fn part_of(routes: &[f32], row: usize, choice: usize, k: usize) -> f32 {
    let start = row * 2 * k;
    // The first is the largest.
    (routes[start + choice] - routes[start]).exp()
}

/// `gate · σ(gate) · up`, rounded as the sums and their parts are in HF.
#[cube]
fn gated<F: Float>(gate: f32, up: f32) -> F {
    let gate = Vector::<F, Const<1>>::new(F::cast_from(gate));
    let up = Vector::<F, Const<1>>::new(F::cast_from(up));
    gated_silu::<F, Const<1>>(gate, up).extract(0usize)
}

/// What a cube multiplies: the matrix of an expert from its first row on, its columns, and activations at places before an end.
/// Pairs that are not sorted are at the places of their numbers. `sharers` of them share a row where they enter.
#[derive(CubeType)]
pub(super) struct Task {
    pub first: usize,
    pub inputs: usize,
    pub place: usize,
    pub end: usize,
    pub sharers: usize,
}

/// The pair that has the number of the cube.
#[cube]
fn pair_task(routes: &[f32], stack: &Stack, k: usize) -> Task {
    let place = CUBE_POS_Y as usize;
    let first = expert_of(routes, place, k, stack.experts) * stack.outputs;
    Task { first, inputs: stack.inputs, place, end: place + 1, sharers: k }
}

/// The tile that has it. Those behind the last have nothing to multiply.
#[cube]
pub(super) fn tile_task(tiles: &[u32], stack: &Stack, sharers: usize) -> Task {
    let at = CUBE_POS_Y as usize * WORDS;
    let place = tiles[at] as usize;
    let end = tiles[at + 1] as usize;
    Task {
        first: tiles[at + 2] as usize * stack.outputs,
        inputs: select(place < end, stack.inputs, 0usize),
        place,
        end,
        sharers,
    }
}

/// Where pairs enter: a tile of them, or with a `block` of 1 one that was not sorted.
#[cube]
pub(super) fn task_of(
    routes: &[f32],
    tiles: &[u32],
    stack: &Stack,
    k: usize,
    #[comptime] block: usize,
) -> Task {
    if comptime!(block == 1) { pair_task(routes, stack, k) } else { tile_task(tiles, stack, k) }
}

/// One of four rows of a matrix that a team takes: neighbours, or with `gates` two of gate and two of up.
#[cube]
pub(super) fn matrix_row(stack: &Stack, #[comptime] o: usize, #[comptime] gates: bool) -> usize {
    let mut row = min(first_output() + o, stack.outputs - 1);
    if comptime!(gates) {
        let inner = stack.outputs / 2;
        row = min(first_output() / 2 + comptime!(o % PAIRS), inner - 1)
            + comptime!(o / PAIRS) * inner;
    }
    row
}

/// The row of activations at place `r` of a tile: of those that enter, with `gates`, the one that its pair is of. A place behind
/// the last computes with the first one, and its result is not written.
#[cube]
pub(super) fn input_row(
    order: &[u32],
    task: &Task,
    r: usize,
    #[comptime] block: usize,
    #[comptime] gates: bool,
) -> usize {
    let place = select(task.place + r < task.end, task.place + r, task.place);
    let mut row = place;
    if comptime!(gates && block > 1) {
        row = order[place] as usize;
    }
    if comptime!(gates) {
        row /= task.sharers;
    }
    row
}

/// Adds the products of a tile's pairs, as far as this unit sums them: `all` has a sum for each row of the matrix and pair.
#[cube]
#[allow(clippy::too_many_arguments)]
fn add_products<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[Vector<W, N>],
    order: &[u32],
    task: &Task,
    stack: &Stack,
    all: &mut Array<f32>,
    #[comptime] block: usize,
    #[comptime] gates: bool,
) {
    #[unroll]
    for i in 0..comptime!(OUTPUTS * block) {
        all[i] = 0.0f32;
    }
    let mut starts = Array::<u32>::new(block);
    #[unroll]
    for r in 0..block {
        starts[r] = (input_row(order, task, r, block, gates) * stack.inputs) as u32;
    }
    let mut place = UNIT_POS as usize % LANES;
    while place < task.inputs {
        let mut weights = Array::<Vector<f32, N>>::new(OUTPUTS);
        #[unroll]
        for o in 0..OUTPUTS {
            let row = matrix_row(stack, o, gates);
            weights[o] = Vector::cast_from(weight[(task.first + row) * stack.inputs + place]);
        }
        #[unroll]
        for r in 0..block {
            let value = Vector::<f32, N>::cast_from(x[starts[r] as usize + place]);
            #[unroll]
            for o in 0..OUTPUTS {
                all[o * block + r] += horizontal::<N>(weights[o] * value);
            }
        }
        place += LANES;
    }
}

/// All sums of the units, in shared memory.
#[cube]
fn shared_sums(all: &Array<f32>, #[comptime] each: usize) -> Shared<[f32]> {
    let mut sums = Shared::<[f32]>::new_slice(comptime!(UNITS * each));
    #[unroll]
    for i in 0..each {
        sums[i * UNITS + UNIT_POS as usize] = all[i];
    }
    sync_cube();
    sums
}

/// The sum of what the units of a team have summed.
#[cube]
fn total_of(sums: &Shared<[f32]>, sum: usize, team: usize) -> f32 {
    let mut total = 0.0f32;
    for lane in 0..LANES {
        total += sums[sum * UNITS + team * LANES + lane];
    }
    total
}

/// Writes what the pairs of a tile have between gate and down, of sums for each of four rows of the matrix and pair.
#[cube]
pub(super) fn write_between<F: Float>(
    all: &Array<f32>,
    out: &mut [F],
    task: &Task,
    stack: &Stack,
    #[comptime] block: usize,
) {
    let sums = shared_sums(all, comptime!(OUTPUTS * block));
    let (inner, unit) = (stack.outputs / 2, UNIT_POS as usize);
    if unit < comptime!(TEAMS * PAIRS * block) {
        let team = unit / comptime!(PAIRS * block);
        let own = unit % comptime!(PAIRS * block);
        let gate = total_of(&sums, own, team);
        let up = total_of(&sums, comptime!(PAIRS * block) + own, team);
        let output = (CUBE_POS_X as usize * TEAMS + team) * PAIRS + own / block;
        let place = task.place + own % block;
        if output < inner && place < task.end {
            out[place * inner + output] = gated::<F>(gate, up);
        }
    }
}

/// Writes the products of the pairs of a tile.
#[cube]
pub(super) fn write_products(all: &Array<f32>, out: &mut [f32], task: &Task, stack: &Stack) {
    let sums = shared_sums(all, comptime!(OUTPUTS * TILE));
    let unit = UNIT_POS as usize;
    if unit < comptime!(TEAMS * OUTPUTS * TILE) {
        let team = unit / comptime!(OUTPUTS * TILE);
        let own = unit % comptime!(OUTPUTS * TILE);
        let output = (CUBE_POS_X as usize * TEAMS + team) * OUTPUTS + own / TILE;
        let place = task.place + own % TILE;
        if output < stack.outputs && place < task.end {
            out[place * stack.outputs + output] = total_of(&sums, own, team);
        }
    }
}

/// Cube `(x, y)`: eight values from `8 · x` on of what the pairs of tile `y` have between gate and down.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn gate_up_kernel<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    routes: &[f32],
    tiles: &[u32],
    order: &[u32],
    weight: &[Vector<W, N>],
    out: &mut [F],
    stack: Stack,
    k: usize,
    #[comptime] block: usize,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let task = task_of(routes, tiles, &stack, k, block);
    let mut all = Array::<f32>::new(comptime!(OUTPUTS * block));
    add_products::<F, W, N>(x, weight, order, &task, &stack, &mut all, block, true);
    write_between::<F>(&all, out, &task, &stack, block);
}

/// Cube `(x, y)`: sixteen outputs from `16 · x` on of row `y`, summed over its experts.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn down_kernel<F: Float, W: Float, N: Size>(
    between: &[Vector<F, N>],
    routes: &[f32],
    weight: &[Vector<W, N>],
    out: &mut [F],
    stack: Stack,
    rows: Rows,
    k: usize,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS_Y as usize;
    let first = first_output();
    let mut all = Array::<f32>::new(OUTPUTS);
    #[unroll]
    for o in 0..OUTPUTS {
        all[o] = 0.0f32;
    }
    let mut total = 0.0f32;
    for choice in 0..k {
        let part = part_of(routes, row, choice, k);
        total += part;
        let pair = row * k + choice;
        let start = expert_of(routes, pair, k, stack.experts) * stack.outputs * stack.inputs;
        let mut place = UNIT_POS as usize % LANES;
        while place < stack.inputs {
            let value = Vector::<f32, N>::cast_from(between[pair * stack.inputs + place]);
            let value = value * Vector::new(part);
            #[unroll]
            for o in 0..OUTPUTS {
                let at = start + min(first + o, stack.outputs - 1) * stack.inputs + place;
                all[o] += horizontal::<N>(Vector::<f32, N>::cast_from(weight[at]) * value);
            }
            place += LANES;
        }
    }
    #[unroll]
    for o in 0..OUTPUTS {
        all[o] /= total;
    }
    write_sums::<F>(&all, out, stack.outputs, &rows);
}

/// Cube `(x, y)`: sixteen outputs from `16 · x` on of the pairs of tile `y`.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn down_tiles_kernel<F: Float, W: Float, N: Size>(
    between: &[Vector<F, N>],
    tiles: &[u32],
    weight: &[Vector<W, N>],
    out: &mut [f32],
    stack: Stack,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let task = tile_task(tiles, &stack, 1usize);
    let mut all = Array::<f32>::new(comptime!(OUTPUTS * TILE));
    // Of tiles alone is an order read where pairs enter.
    add_products::<F, W, N>(between, weight, tiles, &task, &stack, &mut all, TILE, false);
    write_products(&all, out, &task, &stack);
}

/// A unit copies a vector of the row that a place is of.
#[cube(launch_unchecked)]
pub(super) fn gather_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    order: &[u32],
    out: &mut [Vector<F, N>],
    count: usize,
    width: usize,
    k: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < count {
        let row = order[at / width] as usize / k;
        out[at] = x[row * width + at % width];
    }
}

/// A unit computes a vector of what a place has between gate and down, of both products beside each other.
#[cube(launch_unchecked)]
pub(super) fn gates_kernel<F: Float, N: Size>(
    both: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    count: usize,
    inner: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < count {
        let from = at / inner * 2 * inner + at % inner;
        out[at] = gated_silu::<F, N>(both[from], both[from + inner]);
    }
}

/// A unit sums one value of a row over its experts, whose products are at the places of its pairs.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn combine_kernel<F: Float, P: Float>(
    products: &[P],
    places: &[u32],
    routes: &[f32],
    out: &mut [F],
    count: usize,
    hidden: usize,
    k: usize,
    #[define(F, P)] _dtypes: [ElemType; 2],
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < count {
        let row = at / hidden;
        let mut sum = 0.0f32;
        let mut total = 0.0f32;
        for choice in 0..k {
            let part = part_of(routes, row, choice, k);
            total += part;
            let place = places[row * k + choice] as usize;
            sum += part * f32::cast_from(products[place * hidden + at % hidden]);
        }
        out[at] = F::cast_from(sum / total);
    }
}
