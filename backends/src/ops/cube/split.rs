//! Attention of few query rows: the keys are spread over cubes, whose sums a second kernel combines.
//!
//! Every key and value is read once for up to four query rows that share it: `2·d` values of memory for `4·d` operations
//! and row, so memory decides. Sums lie in memory in f32, at most one row of them for 32 keys.

use burn::backend::TensorMetadata;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::heads::{Heads, LOWEST, Sums, vector_size};
use super::launch::element;

/// Units of a cube, and most keys that one takes.
const UNITS: usize = 128;

/// Units that share a key.
const LANES: usize = 4;

/// Units that search a row's largest score.
const SEARCHERS: usize = 32;

/// Fewest keys of a cube.
const FEWEST: usize = 32;

/// As many cubes keep a large device busy.
const BUSY: usize = 512;

/// Most query rows that share a key head.
pub(super) const MOST_ROWS: usize = 16;

/// Keys and values of some positions.
pub(super) type KeysAndValues = (CubeTensor, CubeTensor);

#[derive(CubeType, CubeLaunch)]
struct Part {
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
struct Places {
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
pub(super) fn horizontal<N: Size>(values: Vector<f32, N>) -> f32 {
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

/// Cube `(x, y, z)`: chunk `x` of the keys, `rows` query rows from `y · rows` on, key head `z` over all batches.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
fn split_kernel<F: Float, N: Size>(
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
    let size = N::value();
    let scratch = comptime!(usize::max(UNITS * size, rows * UNITS * LANES));
    let mut queries = Shared::<[Vector<f32, N>]>::new_slice(comptime!(rows * pieces));
    let mut partial = Shared::<[f32]>::new_slice(scratch);
    let mut weights = Shared::<[f32]>::new_slice(comptime!(rows * UNITS));
    let mut found = Shared::<[f32]>::new_slice(comptime!(rows * SEARCHERS));
    let task = task_of(&part, rows);
    load_queries::<F, N>(q, &mut queries, &task, part.scale, rows, pieces);
    sync_cube();
    products::<F, N>(k, &keys_at, &queries, &mut partial, &task, rows, pieces);
    sync_cube();
    scores(&partial, &mut weights, &part, &task, rows);
    sync_cube();
    let mut tops = Array::<f32>::new(rows);
    exponents(&mut weights, &mut found, &mut tops, rows);
    let mut all = Array::<Vector<f32, N>>::new(rows);
    weighted::<F, N>(v, &values_at, &weights, &mut all, &task, rows, pieces);
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

/// What all launches over the parts of the keys have in common.
struct Plan {
    q: Heads,
    vector: usize,
    chunk: usize,
    /// Query rows of a cube, and of a key head.
    block: usize,
    rows: usize,
    /// Key heads, and those of all batches.
    groups: usize,
    all_groups: usize,
    queries: usize,
    d: usize,
}

impl Plan {
    fn new(q: &CubeTensor, parts: &[(Heads, Heads)], keys: usize, groups: usize) -> Option<Self> {
        let [b, h, queries, d] = q.shape().dims();
        let q = Heads::of_batches(into_contiguous(q.clone()));
        let vector = vector_size(d, parts.iter().flat_map(|(k, v)| [k, v]).chain([&q]))?;
        (d / vector <= UNITS).then_some(())?;
        let (rows, all_groups) = (h / groups * queries, b * groups);
        let block = rows.next_power_of_two().min(4);
        let cubes = rows.div_ceil(block) * all_groups;
        let chunk = (keys * cubes / BUSY).clamp(FEWEST, UNITS).next_multiple_of(FEWEST);
        Some(Self { q, vector, chunk, block, rows, groups, all_groups, queries, d })
    }

    /// Sums over the keys of a part into its splits, which begin at `split`.
    fn launch(&self, (k, v): (Heads, Heads), [keys, split]: [usize; 2], seen: i32, sums: &Sums) {
        let x = keys.div_ceil(self.chunk) as u32;
        let y = self.rows.div_ceil(self.block) as u32;
        let scale = (self.d as f32).powf(-0.5);
        let (chunk, splits) = (self.chunk, sums.splits);
        let places = |x: &Heads| {
            let [batch, head, row] = [x.batch, x.head, x.row].map(|step| step / self.vector);
            PlacesLaunch::new(batch, head, row)
        };
        let (keys_at, values_at) = (places(&k), places(&v));
        // SAFETY: keys and rows stop at the numbers that the tensors have, and strides are theirs.
        unsafe {
            split_kernel::launch_unchecked(
                &sums.values.client,
                CubeCount::Static(x, y, self.all_groups as u32),
                CubeDim::new_1d(UNITS as u32),
                self.vector,
                self.q.tensor.clone().into_buffer_arg(),
                k.tensor.into_buffer_arg(),
                v.tensor.into_buffer_arg(),
                sums.values.clone().into_buffer_arg(),
                sums.stats.clone().into_buffer_arg(),
                PartLaunch::new(
                    keys,
                    chunk,
                    self.groups,
                    self.rows,
                    self.queries,
                    seen,
                    split,
                    splits,
                    scale,
                ),
                keys_at,
                values_at,
                self.block,
                self.d / self.vector,
                element(self.q.tensor.dtype),
            );
        }
    }
}

/// [`crate::ops::attention_over_parts`] of tensors of one dtype; nothing where no kernel fits.
pub(super) fn attention(
    q: &CubeTensor,
    parts: &[KeysAndValues],
    causal: bool,
) -> Option<CubeTensor> {
    let [b, h, s, d] = q.shape().dims();
    let lengths: Vec<usize> = parts.iter().map(|(k, _)| k.shape()[2]).collect();
    let (g, t) = (parts[0].0.shape()[1], lengths.iter().sum::<usize>());
    let heads = |x: &CubeTensor| Heads::of_batches(x.clone());
    let parts: Vec<_> = parts.iter().map(|(k, v)| (heads(k), heads(v))).collect();
    let plan = Plan::new(q, &parts, t, g)?;
    let splits = lengths.iter().map(|length| length.div_ceil(plan.chunk)).sum();
    let sums = Sums::new(q, [b * h * s, splits, d]);
    let (mut first, mut split) = (0, 0);
    for (part, keys) in parts.into_iter().zip(lengths) {
        let seen = if causal { (t + 1) as i32 - (s + first) as i32 } else { i32::MAX };
        plan.launch(part, [keys, split], seen, &sums);
        first += keys;
        split += keys.div_ceil(plan.chunk);
    }
    Some(sums.combined(q.shape(), q.dtype))
}
