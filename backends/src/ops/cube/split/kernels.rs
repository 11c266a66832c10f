//! The kernels that attend to a chunk of the keys.

use burn_cubecl::cubecl;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::heads::LOWEST;

/// Units of a cube, and most keys that one takes.
pub(super) const UNITS: usize = 128;

/// Units that share a key.
const LANES: usize = 4;

/// Units that search a row's largest score.
const SEARCHERS: usize = 32;

#[derive(CubeType, CubeLaunch)]
pub(in super::super) struct Part {
    keys: usize,
    /// Keys of a cube.
    chunk: usize,
    /// Key heads.
    groups: usize,
    /// Query rows that share a key head.
    rows: usize,
    /// Query rows of a head.
    queries: usize,
    /// Query `i` sees this many keys plus `i`.
    seen: i32,
    /// The first of its splits, and how many there are of all parts.
    split: usize,
    splits: usize,
    scale: f32,
}

/// Where keys or values lie, in vectors.
#[derive(CubeType, CubeLaunch)]
pub(in super::super) struct Places {
    batch: usize,
    head: usize,
    row: usize,
}

/// What a cube works at.
#[derive(CubeType)]
struct Task {
    /// Its first query row among all, how many there are from there on, and its place among those of its head.
    row: usize,
    rows: usize,
    place: usize,
    /// Its first key, and how many it has.
    key: usize,
    keys: usize,
    /// Batch and key head.
    batch: usize,
    head: usize,
}

#[cube]
fn task_of(part: &Part, #[comptime] rows: usize) -> Task {
    let group = CUBE_POS_Z as usize;
    let place = CUBE_POS_Y as usize * rows;
    let key = CUBE_POS_X as usize * part.chunk;
    Task {
        row: group * part.rows + place,
        rows: part.rows - place,
        place,
        key,
        keys: min(part.keys - key, part.chunk),
        batch: group / part.groups,
        head: group % part.groups,
    }
}

#[cube]
fn start_of(task: &Task, at: &Places) -> usize {
    task.batch * at.batch + task.head * at.head + task.key * at.row
}

/// The sum of the values of a vector.
#[cube]
pub(in super::super) fn horizontal<N: Size>(values: Vector<f32, N>) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..N::value() {
        sum += values.extract(i);
    }
    sum
}

/// The queries, scaled; rows behind the last are 0.
#[cube]
fn load_queries<F: Float, N: Size>(
    q: &[Vector<F, N>],
    queries: &mut Shared<[Vector<f32, N>]>,
    task: &Task,
    scale: f32,
    #[comptime] rows: usize,
    #[comptime] pieces: usize,
) {
    let mut i = UNIT_POS as usize;
    while i < rows * pieces {
        let mut query = Vector::<f32, N>::new(0.0f32);
        if i / pieces < task.rows {
            query = Vector::cast_from(q[task.row * pieces + i]) * Vector::new(scale);
        }
        queries[i] = query;
        i += UNITS;
    }
}

/// Products of keys and queries: four units share a key, and sum a quarter of the dimensions each.
#[cube]
fn products<F: Float, N: Size>(
    k: &[Vector<F, N>],
    at: &Places,
    queries: &Shared<[Vector<f32, N>]>,
    partial: &mut Shared<[f32]>,
    task: &Task,
    #[comptime] rows: usize,
    #[comptime] pieces: usize,
) {
    let start = start_of(task, at);
    let lane = UNIT_POS as usize % LANES;
    let mut key = UNIT_POS as usize / LANES;
    while key < task.keys {
        let mut dots = Array::<Vector<f32, N>>::new(rows);
        #[unroll]
        for r in 0..rows {
            dots[r] = Vector::new(0.0f32);
        }
        let from = start + key * at.row;
        let mut piece = lane;
        while piece < pieces {
            let value = Vector::<f32, N>::cast_from(k[from + piece]);
            #[unroll]
            for r in 0..rows {
                dots[r] += value * queries[r * pieces + piece];
            }
            piece += LANES;
        }
        #[unroll]
        for r in 0..rows {
            partial[(r * UNITS + key) * LANES + lane] = horizontal::<N>(dots[r]);
        }
        key += UNITS / LANES;
    }
}

/// Scores, of one key per unit; hidden ones and those behind the last are the lowest.
#[cube]
fn scores(
    partial: &Shared<[f32]>,
    weights: &mut Shared<[f32]>,
    part: &Part,
    task: &Task,
    #[comptime] rows: usize,
) {
    let unit = UNIT_POS as usize;
    #[unroll]
    for r in 0..rows {
        let query = (task.place + r) % part.queries;
        let before = (task.key + unit) as i32 - query as i32;
        let mut score = f32::new(LOWEST);
        if unit < task.keys && before < part.seen {
            score = 0.0f32;
            #[unroll]
            for lane in 0..LANES {
                score += partial[(r * UNITS + unit) * LANES + lane];
            }
        }
        weights[r * UNITS + unit] = score;
    }
}

/// The largest score of each row, which all units get; weights become `exp(score - largest)`, and `found` the sums of some
/// of them.
#[cube]
fn exponents(
    weights: &mut Shared<[f32]>,
    found: &mut Shared<[f32]>,
    tops: &mut Array<f32>,
    #[comptime] rows: usize,
) {
    let unit = UNIT_POS as usize;
    let row = unit / SEARCHERS;
    if row < rows {
        let mut top = f32::new(LOWEST);
        #[unroll]
        for i in 0..UNITS / SEARCHERS {
            top = max(top, weights[row * UNITS + i * SEARCHERS + unit % SEARCHERS]);
        }
        found[unit] = top;
    }
    sync_cube();
    #[unroll]
    for r in 0..rows {
        let mut top = f32::new(LOWEST);
        for i in 0..SEARCHERS {
            top = max(top, found[r * SEARCHERS + i]);
        }
        tops[r] = top;
        let score = weights[r * UNITS + unit];
        weights[r * UNITS + unit] = select(score > LOWEST, (score - top).exp(), 0.0f32);
    }
    sync_cube();
    if row < rows {
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..UNITS / SEARCHERS {
            sum += weights[row * UNITS + i * SEARCHERS + unit % SEARCHERS];
        }
        found[unit] = sum;
    }
}

/// Sums of weighted values: a unit has one vector of the dimensions, and every `slots`-th key.
#[cube]
fn weighted<F: Float, N: Size>(
    v: &[Vector<F, N>],
    at: &Places,
    weights: &Shared<[f32]>,
    all: &mut Array<Vector<f32, N>>,
    task: &Task,
    #[comptime] rows: usize,
    #[comptime] pieces: usize,
) {
    let slots = comptime!(UNITS / pieces);
    let start = start_of(task, at) + UNIT_POS as usize % pieces;
    let slot = UNIT_POS as usize / pieces;
    let mut key = slot;
    // Units behind the last slot have no keys.
    let keys = select(slot < slots, task.keys, 0usize);
    while key < keys {
        let value = Vector::<f32, N>::cast_from(v[start + key * at.row]);
        #[unroll]
        for r in 0..rows {
            all[r] += value * Vector::new(weights[r * UNITS + key]);
        }
        key += slots;
    }
}

/// The sum over the slots of one row, and where it goes.
#[cube]
fn finish<N: Size>(
    mine: Vector<f32, N>,
    partial: &mut Shared<[f32]>,
    sums: &mut [f32],
    to: usize,
    inside: bool,
    #[comptime] pieces: usize,
) {
    let size = N::value();
    let d = comptime!(pieces * size);
    let slots = comptime!(UNITS / pieces);
    let unit = UNIT_POS as usize;
    let (slot, piece) = (unit / pieces, unit % pieces);
    sync_cube();
    if slot < slots {
        #[unroll]
        for i in 0..size {
            partial[slot * d + piece * size + i] = mine.extract(i);
        }
    }
    sync_cube();
    let mut dim = select(inside, unit, d);
    while dim < d {
        let mut sum = 0.0f32;
        for slot in 0..slots {
            sum += partial[slot * d + dim];
        }
        sums[to * d + dim] = sum;
        dim += UNITS;
    }
}

/// What a cube sums over its keys.
#[cube]
#[allow(clippy::too_many_arguments)]
fn attend<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    sums: &mut [f32],
    stats: &mut [f32],
    part: &Part,
    task: &Task,
    keys_at: &Places,
    values_at: &Places,
    #[comptime] rows: usize,
    #[comptime] pieces: usize,
) {
    let size = N::value();
    let scratch = comptime!(usize::max(UNITS * size, rows * UNITS * LANES));
    let mut queries = Shared::<[Vector<f32, N>]>::new_slice(comptime!(rows * pieces));
    let mut partial = Shared::<[f32]>::new_slice(scratch);
    let mut weights = Shared::<[f32]>::new_slice(comptime!(rows * UNITS));
    let mut found = Shared::<[f32]>::new_slice(comptime!(rows * SEARCHERS));
    load_queries::<F, N>(q, &mut queries, task, part.scale, rows, pieces);
    sync_cube();
    products::<F, N>(k, keys_at, &queries, &mut partial, task, rows, pieces);
    sync_cube();
    scores(&partial, &mut weights, part, task, rows);
    sync_cube();
    let mut tops = Array::<f32>::new(rows);
    exponents(&mut weights, &mut found, &mut tops, rows);
    let mut all = Array::<Vector<f32, N>>::new(rows);
    weighted::<F, N>(v, values_at, &weights, &mut all, task, rows, pieces);
    #[unroll]
    for r in 0..rows {
        let to = (task.row + r) * part.splits + part.split + CUBE_POS_X as usize;
        let inside = r < task.rows;
        finish::<N>(all[r], &mut partial, sums, to, inside, pieces);
        if inside && UNIT_POS == 0 {
            let mut sum = 0.0f32;
            for i in 0..SEARCHERS {
                sum += found[r * SEARCHERS + i];
            }
            stats[2 * to] = tops[r];
            stats[2 * to + 1] = sum;
        }
    }
}

/// Cube `(x, y, z)`: chunk `x` of the keys, `rows` query rows from `y · rows` on, key head `z` over all batches.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn split_kernel<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    sums: &mut [f32],
    stats: &mut [f32],
    part: Part,
    keys_at: Places,
    values_at: Places,
    #[comptime] rows: usize,
    #[comptime] pieces: usize,
    #[define(F)] _dtype: ElemType,
) {
    let task = task_of(&part, rows);
    attend::<F, N>(q, k, v, sums, stats, &part, &task, &keys_at, &values_at, rows, pieces);
}

/// As [`split_kernel`], where a batch sees the keys up to its place in `at`, and what lies behind is not read.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn bounded_kernel<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    at: &[f32],
    sums: &mut [f32],
    stats: &mut [f32],
    part: Part,
    keys_at: Places,
    values_at: Places,
    #[comptime] rows: usize,
    #[comptime] pieces: usize,
    #[define(F)] _dtype: ElemType,
) {
    let all = task_of(&part, rows);
    let seen = usize::cast_from(at[all.batch]) + 1;
    let keys = min(max(seen, all.key) - all.key, all.keys);
    let task = Task {
        row: all.row,
        rows: all.rows,
        place: all.place,
        key: all.key,
        keys,
        batch: all.batch,
        head: all.head,
    };
    attend::<F, N>(q, k, v, sums, stats, &part, &task, &keys_at, &values_at, rows, pieces);
}
