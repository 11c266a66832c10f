//! Pairs of a row and an expert in tiles, on the device: sorted by expert, those of an expert by row, so that those of a tile
//! have one expert. A counting sort: blocks of pairs are counted, what goes to each expert is summed, and each pair finds its
//! place, which is the same in every run.

use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::cores::many::WORDS;
use super::super::launch::empty;
use super::kernels::expert_of;

/// Pairs of a tile of kernels for few rows.
pub(super) const TILE: usize = 4;

/// Pairs of a block, and units of a cube.
const BLOCK: usize = 256;

/// Most experts that are sorted.
pub(super) const MOST_EXPERTS: usize = 512;

/// The expert of a unit without a pair.
const NONE: u32 = u32::MAX;

/// Sorted pairs.
pub(super) struct Tiles {
    /// Of each tile [`WORDS`] numbers: its first place, the end of its expert's places, and the expert. Tiles behind the last
    /// end where they begin.
    pub table: CubeTensor,
    /// The pair at each place.
    pub order: CubeTensor,
    /// The place of each pair.
    pub places: CubeTensor,
    /// As many tiles as there can be.
    pub count: usize,
}

/// How many pairs there are, of how many experts of a row, and among how many experts.
#[derive(CubeType, CubeLaunch)]
struct Sizes {
    pairs: usize,
    k: usize,
    experts: usize,
}

/// A unit's pair, its expert, and how many pairs of its block go there too: before it, and behind it with itself.
#[derive(CubeType)]
struct Found {
    pair: usize,
    expert: u32,
    before: u32,
    others: u32,
}

/// Of unit `i` of a cube, pair `i` of its block.
#[cube]
fn found_by_unit(routes: &[f32], sizes: &Sizes) -> Found {
    let mut experts = Shared::<[u32]>::new_slice(BLOCK);
    let unit = UNIT_POS as usize;
    let pair = CUBE_POS * BLOCK + unit;
    let mut expert = NONE.runtime();
    if pair < sizes.pairs {
        expert = expert_of(routes, pair, sizes.k, sizes.experts) as u32;
    }
    experts[unit] = expert;
    sync_cube();
    let mut before = 0u32;
    let mut others = 0u32;
    for other in 0..BLOCK {
        if experts[other] == expert {
            before += select(other < unit, 1u32, 0u32);
            others += select(other < unit, 0u32, 1u32);
        }
    }
    Found { pair, expert, before, others }
}

/// A cube for each block: how many of its pairs go to each expert.
#[cube(launch_unchecked)]
fn count_kernel(routes: &[f32], counts: &mut [u32], sizes: Sizes) {
    let mut sums = Shared::<[u32]>::new_slice(MOST_EXPERTS);
    let mut expert = UNIT_POS as usize;
    while expert < sizes.experts {
        sums[expert] = 0u32;
        expert += BLOCK;
    }
    let own = found_by_unit(routes, &sizes);
    // Behind the barrier there, nobody clears sums any more; one unit has the first pair of an expert.
    if own.expert != NONE && own.before == 0 {
        sums[own.expert as usize] = own.others;
    }
    sync_cube();
    let first = CUBE_POS * sizes.experts;
    let mut expert = UNIT_POS as usize;
    while expert < sizes.experts {
        counts[first + expert] = sums[expert];
        expert += BLOCK;
    }
}

/// Of the pairs of each expert, the first place and the first tile; at the end how many there are of all.
#[cube]
fn firsts(
    counts: &[u32],
    places: &mut Shared<[u32]>,
    tiles: &mut Shared<[u32]>,
    experts: usize,
    blocks: usize,
    #[comptime] rows: usize,
) {
    let mut expert = UNIT_POS as usize;
    while expert < experts {
        let mut sum = 0u32;
        for block in 0..blocks {
            sum += counts[block * experts + expert];
        }
        places[expert] = sum;
        expert += BLOCK;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let mut place = 0u32;
        let mut tile = 0u32;
        for expert in 0..experts {
            let count = places[expert];
            places[expert] = place;
            tiles[expert] = tile;
            place += count;
            tile += (count + comptime!(rows as u32 - 1)) / comptime!(rows as u32);
        }
        places[experts] = place;
        tiles[experts] = tile;
    }
    sync_cube();
}

/// One cube, a unit for every 256th expert: counts become the places of the first of a block's pairs that go to an expert, and
/// tiles of `rows` pairs are written.
#[cube(launch_unchecked)]
fn tiles_kernel(
    counts: &mut [u32],
    table: &mut [u32],
    experts: usize,
    blocks: usize,
    count: usize,
    #[comptime] rows: usize,
) {
    let mut places = Shared::<[u32]>::new_slice(comptime!(MOST_EXPERTS + 1));
    let mut tiles = Shared::<[u32]>::new_slice(comptime!(MOST_EXPERTS + 1));
    firsts(&*counts, &mut places, &mut tiles, experts, blocks, rows);
    let mut expert = UNIT_POS as usize;
    while expert < experts {
        let mut place = places[expert];
        let end = places[expert + 1];
        let mut tile = tiles[expert] as usize;
        while tile < tiles[expert + 1] as usize {
            table[tile * WORDS] = place;
            table[tile * WORDS + 1] = end;
            table[tile * WORDS + 2] = expert as u32;
            place += comptime!(rows as u32);
            tile += 1;
        }
        place = places[expert];
        for block in 0..blocks {
            let at = block * experts + expert;
            let own = counts[at];
            counts[at] = place;
            place += own;
        }
        expert += BLOCK;
    }
    let mut tile = tiles[experts] as usize + UNIT_POS as usize;
    while tile < count {
        table[tile * WORDS] = 0u32;
        table[tile * WORDS + 1] = 0u32;
        table[tile * WORDS + 2] = 0u32;
        tile += BLOCK;
    }
}

/// A cube for each block: its pairs go to their places.
#[cube(launch_unchecked)]
fn order_kernel(
    routes: &[f32],
    counts: &[u32],
    order: &mut [u32],
    places: &mut [u32],
    sizes: Sizes,
) {
    let own = found_by_unit(routes, &sizes);
    if own.expert != NONE {
        let first = counts[CUBE_POS * sizes.experts + own.expert as usize];
        let place = first + own.before;
        order[place as usize] = own.pair as u32;
        places[own.pair] = place;
    }
}

impl Tiles {
    /// Those of at most `rows` of `pairs`, `k` of each row, which go to `experts`.
    pub fn sorted(routes: &CubeTensor, [pairs, k, experts]: [usize; 3], rows: usize) -> Self {
        // All but one tile of an expert are full.
        let count = pairs.min(pairs / rows + experts);
        let blocks = pairs.div_ceil(BLOCK);
        let numbers = |count: usize| empty(routes, Shape::new([count]), DType::U32);
        let (counts, table) = (numbers(blocks * experts), numbers(count * WORDS));
        let (order, places) = (numbers(pairs), numbers(pairs));
        let (client, dim) = (&routes.client, CubeDim::new_1d(BLOCK as u32));
        let cubes = |count: usize| CubeCount::Static(count as u32, 1, 1);
        let sizes = || SizesLaunch::new(pairs, k, experts);
        // SAFETY: units behind the last pair have none, experts fit into shared memory, there are no more tiles than `count`,
        // and a pair's place is one of `pairs`.
        unsafe {
            count_kernel::launch_unchecked(
                client,
                cubes(blocks),
                dim,
                routes.clone().into_buffer_arg(),
                counts.clone().into_buffer_arg(),
                sizes(),
            );
            tiles_kernel::launch_unchecked(
                client,
                cubes(1),
                dim,
                counts.clone().into_buffer_arg(),
                table.clone().into_buffer_arg(),
                experts,
                blocks,
                count,
                rows,
            );
            order_kernel::launch_unchecked(
                client,
                cubes(blocks),
                dim,
                routes.clone().into_buffer_arg(),
                counts.into_buffer_arg(),
                order.clone().into_buffer_arg(),
                places.clone().into_buffer_arg(),
                sizes(),
            );
        }
        Self { table, order, places, count }
    }
}
