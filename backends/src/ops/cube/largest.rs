//! The largest values of rows, in order: a cube searches a part of a row, and one more what all of these found.
//!
//! Each of the `k` searches of a part reads its values again, from a cache: 8 KiB of them, for 4 operations each. What is
//! searched are ranks, unsigned integers in the order of the values, which no compiler reorders.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{cubes, empty};

/// Units of a cube.
const UNITS: usize = 256;

/// Values of a part.
const PART: usize = 2048;

/// The rank of 0. Larger values have larger ranks; no value has the rank 0.
const ZERO: u32 = 1 << 31;

/// Infinity, as bits.
const INFINITE: u32 = 0x7f80_0000;

/// A row: how many values, in how many parts; and how many cubes have something to search.
#[derive(CubeType, CubeLaunch)]
struct Row {
    cubes: usize,
    width: usize,
    parts: usize,
}

/// A rank and its place in the row.
#[derive(CubeType)]
struct Item {
    rank: u32,
    place: u32,
}

/// The rank of a value in f32: both zeros have one, and NaN that of infinity.
#[cube]
fn rank_of(bits: u32) -> u32 {
    let size = bits & (ZERO - 1);
    let number = size <= INFINITE;
    let size = min(size, INFINITE);
    let negative = number && bits >= ZERO;
    select(negative, ZERO - size, ZERO + size)
}

/// The value of a rank.
#[cube]
fn value_of(rank: u32) -> u32 {
    select(rank >= ZERO, rank - ZERO, (ZERO - rank) | ZERO)
}

/// Item `i` of what the cube searches: values of a part, or what was found in parts before.
#[cube]
fn item(
    words: &[u32],
    i: usize,
    row: &Row,
    #[comptime] k: usize,
    #[comptime] merged: bool,
) -> Item {
    if comptime!(merged) {
        let at = (CUBE_POS * row.parts + i / k) * comptime!(2 * k) + i % k;
        Item { rank: words[at], place: words[at + k] }
    } else {
        let place = CUBE_POS % row.parts * PART + i;
        let bits = words[CUBE_POS / row.parts * row.width + place];
        Item { rank: rank_of(bits), place: place as u32 }
    }
}

/// The best of the items that come behind `last`, of those that this unit looks at.
#[cube]
fn best_behind(
    words: &[u32],
    last: &Item,
    row: &Row,
    #[comptime] k: usize,
    #[comptime] merged: bool,
) -> Item {
    let mut count = row.parts * k;
    if comptime!(!merged) {
        count = min(row.width - CUBE_POS % row.parts * PART, PART);
    }
    let mut rank = 0u32;
    let mut place = u32::MAX.runtime();
    let mut i = UNIT_POS as usize;
    while i < count {
        let next = item(words, i, row, k, merged);
        let behind = next.rank < last.rank || (next.rank == last.rank && next.place > last.place);
        let better = next.rank > rank || (next.rank == rank && next.place < place);
        if behind && better {
            rank = next.rank;
            place = next.place;
        }
        i += UNITS;
    }
    Item { rank, place }
}

/// The best of all units' items, which all units get.
#[cube]
fn best_of_cube(mine: Item, ranks: &mut Shared<[u32]>, places: &mut Shared<[u32]>) -> Item {
    let unit = UNIT_POS as usize;
    // Others may still read the best before this one.
    sync_cube();
    ranks[unit] = mine.rank;
    places[unit] = mine.place;
    sync_cube();
    let mut step = comptime!(UNITS / 2).runtime();
    while step > 0 {
        if unit < step {
            let rank = ranks[unit + step];
            let place = places[unit + step];
            if rank > ranks[unit] || (rank == ranks[unit] && place < places[unit]) {
                ranks[unit] = rank;
                places[unit] = place;
            }
        }
        sync_cube();
        step /= 2;
    }
    Item { rank: ranks[0], place: places[0] }
}

/// Writes the `k` best items of a cube: as ranks and places, or, where these are those of a row, as values and places in f32.
#[cube(launch_unchecked)]
fn largest_kernel(
    words: &[u32],
    out: &mut [u32],
    row: Row,
    #[comptime] k: usize,
    #[comptime] merged: bool,
    #[comptime] whole: bool,
) {
    let mut ranks = Shared::<[u32]>::new_slice(UNITS);
    let mut places = Shared::<[u32]>::new_slice(UNITS);
    if CUBE_POS < row.cubes {
        let to = CUBE_POS * comptime!(2 * k);
        let mut rank = u32::MAX.runtime();
        let mut place = 0u32;
        for j in 0..k {
            let last = Item { rank, place };
            let mine = best_behind(words, &last, &row, k, merged);
            let best = best_of_cube(mine, &mut ranks, &mut places);
            rank = best.rank;
            place = best.place;
            if UNIT_POS == 0 {
                if comptime!(whole) {
                    out[to + j] = value_of(rank);
                    out[to + k + j] = u32::reinterpret(f32::cast_from(place));
                } else {
                    out[to + j] = rank;
                    out[to + k + j] = place;
                }
            }
        }
    }
}

/// [`crate::ops::largest_of_rows`] of a tensor in f32; nothing where rows do not have as many values.
pub(super) fn of_rows(x: &CubeTensor, k: usize) -> Option<CubeTensor> {
    let [rows, width] = x.shape().dims();
    if k == 0 || k > width {
        return None;
    }
    let parts = width.div_ceil(PART);
    let found = launch(&into_contiguous(x.clone()), [rows * parts, width, parts, k], false);
    match parts {
        1 => Some(found),
        _ => Some(launch(&found, [rows, width, parts, k], true)),
    }
}

fn launch(words: &CubeTensor, [count, width, parts, k]: [usize; 4], merged: bool) -> CubeTensor {
    let out = empty(words, Shape::new([count, 2 * k]), DType::F32);
    // SAFETY: places stop at the end of a part or of what was found in all parts, each cube has its own `2 · k` words, and cubes
    // behind the last do nothing.
    unsafe {
        largest_kernel::launch_unchecked(
            &out.client,
            cubes(count),
            CubeDim::new_1d(UNITS as u32),
            words.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            RowLaunch::new(count, width, parts),
            k,
            merged,
            merged || parts == 1,
        );
    }
    out
}
