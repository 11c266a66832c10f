//! Pairs of a row and an expert in tiles, on the device: those of a tile have one expert.

use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::launch::empty;
use super::kernels::expert_of;

/// Most pairs of a tile.
pub(super) const TILE: usize = 4;

/// Units of the cube that sorts.
const UNITS: usize = 256;

/// Most experts that are sorted.
pub(super) const MOST_EXPERTS: usize = 512;

/// What stands for no pair and for no expert.
pub(super) const NONE: u32 = u32::MAX;

/// The tiles of a pass.
pub(super) struct Tiles {
    /// The expert of each.
    pub owners: CubeTensor,
    /// The pairs of each, `TILE` numbers.
    pub order: CubeTensor,
    /// As many as there can be; those behind the last have no expert.
    pub count: usize,
}

/// How many pairs go to each expert; then the first tile of each, and at the end the number of all.
#[cube]
fn first_tiles(routes: &[f32], firsts: &mut Shared<[u32]>, pairs: usize, k: usize, experts: usize) {
    let mut expert = UNIT_POS as usize;
    while expert < experts {
        let mut count = 0u32;
        for pair in 0..pairs {
            if expert_of(routes, pair, k, experts) == expert {
                count += 1;
            }
        }
        firsts[expert] = count;
        expert += UNITS;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let mut next = 0u32;
        for expert in 0..experts {
            let tiles = (firsts[expert] + comptime!(TILE as u32 - 1)) / comptime!(TILE as u32);
            firsts[expert] = next;
            next += tiles;
        }
        firsts[experts] = next;
    }
    sync_cube();
}

/// One cube: a unit collects the pairs of every 256th expert, in order.
#[cube(launch_unchecked)]
fn sort_kernel(
    routes: &[f32],
    owners: &mut [u32],
    order: &mut [u32],
    pairs: usize,
    k: usize,
    experts: usize,
    tiles: usize,
) {
    let mut firsts = Shared::<[u32]>::new_slice(comptime!(MOST_EXPERTS + 1));
    first_tiles(routes, &mut firsts, pairs, k, experts);
    let mut expert = UNIT_POS as usize;
    while expert < experts {
        let first = firsts[expert] as usize;
        let end = firsts[expert + 1] as usize;
        let mut own = first;
        while own < end {
            owners[own] = expert as u32;
            own += 1;
        }
        let mut to = first * TILE;
        for pair in 0..pairs {
            if expert_of(routes, pair, k, experts) == expert {
                order[to] = pair as u32;
                to += 1;
            }
        }
        while to < end * TILE {
            order[to] = NONE;
            to += 1;
        }
        expert += UNITS;
    }
    let mut tile = firsts[experts] as usize + UNIT_POS as usize;
    while tile < tiles {
        owners[tile] = NONE;
        tile += UNITS;
    }
}

impl Tiles {
    /// Those of `pairs`, `k` of each row, which go to `experts`.
    pub fn sorted(routes: &CubeTensor, [pairs, k, experts]: [usize; 3]) -> Self {
        // All but one tile of an expert are full.
        let count = pairs.min(pairs / TILE + experts);
        let owners = empty(routes, Shape::new([count]), DType::U32);
        let order = empty(routes, Shape::new([count * TILE]), DType::U32);
        // SAFETY: there are no more tiles than `count`, and the experts fit into shared memory.
        unsafe {
            sort_kernel::launch_unchecked(
                &routes.client,
                CubeCount::Static(1, 1, 1),
                CubeDim::new_1d(UNITS as u32),
                routes.clone().into_buffer_arg(),
                owners.clone().into_buffer_arg(),
                order.clone().into_buffer_arg(),
                pairs,
                k,
                experts,
                count,
            );
        }
        Self { owners, order, count }
    }
}
