//! The products of a mixture of experts, and their sum.

use burn_cubecl::cubecl;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::elementwise::gated_silu;
use super::super::rows::{LANES, OUTPUTS, Rows, UNITS, first_output, write_sums};
use super::super::split::horizontal;
use super::tiles::{NONE, TILE};

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

/// Pair `r` of a cube's tile, or [`NONE`]; the only one where pairs are not sorted.
#[cube]
pub(super) fn pair_of(order: &[u32], r: usize, #[comptime] block: usize) -> u32 {
    let tile = CUBE_POS_Y as usize;
    let mut pair = tile as u32;
    if comptime!(block > 1) {
        pair = order[tile * block + r];
    }
    pair
}

/// The expert of a cube's tile.
#[cube]
pub(super) fn owner_of(
    routes: &[f32],
    owners: &[u32],
    k: usize,
    stack: &Stack,
    #[comptime] block: usize,
) -> u32 {
    let tile = CUBE_POS_Y as usize;
    if comptime!(block == 1) {
        expert_of(routes, tile, k, stack.experts) as u32
    } else {
        owners[tile]
    }
}

/// What a cube multiplies: the matrix of an expert from its first row on, its columns, and rows of activations, which `sharers`
/// pairs share.
#[derive(CubeType)]
pub(super) struct Task {
    pub first: usize,
    pub inputs: usize,
    pub sharers: usize,
}

#[cube]
pub(super) fn task_of(owner: u32, stack: &Stack, sharers: usize) -> Task {
    // Tiles behind the last have no expert.
    let expert = select(owner == NONE, 0usize, owner as usize);
    Task {
        first: expert * stack.outputs,
        inputs: select(owner == NONE, 0usize, stack.inputs),
        sharers,
    }
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

/// The row of activations of pair `r` of a tile. A place without a pair computes with the first one, and its result is not
/// written.
#[cube]
pub(super) fn input_row(order: &[u32], task: &Task, r: usize, #[comptime] block: usize) -> usize {
    let found = pair_of(order, r, block);
    let pair = select(found == NONE, pair_of(order, 0usize, block), found);
    pair as usize / task.sharers
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
            let from = input_row(order, task, r, block) * stack.inputs + place;
            let value = Vector::<f32, N>::cast_from(x[from]);
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
    order: &[u32],
    out: &mut [F],
    task: &Task,
    stack: &Stack,
    #[comptime] block: usize,
) {
    let sums = shared_sums(all, comptime!(OUTPUTS * block));
    let (inner, unit) = (stack.outputs / 2, UNIT_POS as usize);
    if task.inputs > 0 && unit < comptime!(TEAMS * PAIRS * block) {
        let team = unit / comptime!(PAIRS * block);
        let own = unit % comptime!(PAIRS * block);
        let gate = total_of(&sums, own, team);
        let up = total_of(&sums, comptime!(PAIRS * block) + own, team);
        let output = (CUBE_POS_X as usize * TEAMS + team) * PAIRS + own / block;
        let pair = pair_of(order, own % block, block);
        if output < inner && pair != NONE {
            out[pair as usize * inner + output] = gated::<F>(gate, up);
        }
    }
}

/// Writes the products of the pairs of a tile.
#[cube]
pub(super) fn write_products(
    all: &Array<f32>,
    order: &[u32],
    out: &mut [f32],
    task: &Task,
    stack: &Stack,
) {
    let sums = shared_sums(all, comptime!(OUTPUTS * TILE));
    let unit = UNIT_POS as usize;
    if task.inputs > 0 && unit < comptime!(TEAMS * OUTPUTS * TILE) {
        let team = unit / comptime!(OUTPUTS * TILE);
        let own = unit % comptime!(OUTPUTS * TILE);
        let output = (CUBE_POS_X as usize * TEAMS + team) * OUTPUTS + own / TILE;
        let pair = pair_of(order, own % TILE, TILE);
        if output < stack.outputs && pair != NONE {
            out[pair as usize * stack.outputs + output] = total_of(&sums, own, team);
        }
    }
}

/// Cube `(x, y)`: eight values from `8 · x` on of what the pairs of tile `y` have between gate and down.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn gate_up_kernel<F: Float, W: Float, N: Size>(
    x: &[Vector<F, N>],
    routes: &[f32],
    owners: &[u32],
    order: &[u32],
    weight: &[Vector<W, N>],
    out: &mut [F],
    stack: Stack,
    k: usize,
    #[comptime] block: usize,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let owner = owner_of(routes, owners, k, &stack, block);
    let task = task_of(owner, &stack, k);
    let mut all = Array::<f32>::new(comptime!(OUTPUTS * block));
    add_products::<F, W, N>(x, weight, order, &task, &stack, &mut all, block, true);
    write_between::<F>(&all, order, out, &task, &stack, block);
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
    owners: &[u32],
    order: &[u32],
    weight: &[Vector<W, N>],
    out: &mut [f32],
    stack: Stack,
    #[define(F, W)] _dtypes: [ElemType; 2],
) {
    let task = task_of(owners[CUBE_POS_Y as usize], &stack, 1usize);
    let mut all = Array::<f32>::new(comptime!(OUTPUTS * TILE));
    add_products::<F, W, N>(between, weight, order, &task, &stack, &mut all, TILE, false);
    write_products(&all, order, out, &task, &stack);
}

/// A unit sums one value of a row over its experts.
#[cube(launch_unchecked)]
pub(super) fn combine_kernel<F: Float>(
    products: &[f32],
    routes: &[f32],
    out: &mut [F],
    count: usize,
    hidden: usize,
    k: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = CUBE_POS * CUBE_DIM as usize + UNIT_POS as usize;
    if at < count {
        let row = at / hidden;
        let mut sum = 0.0f32;
        let mut total = 0.0f32;
        for choice in 0..k {
            let part = part_of(routes, row, choice, k);
            total += part;
            sum += part * products[(row * k + choice) * hidden + at % hidden];
        }
        out[at] = F::cast_from(sum / total);
    }
}
