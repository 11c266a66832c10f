//! The kernel of [`super::tiles`].

use burn_cubecl::cubecl;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::heads::LOWEST;

/// Query rows of a tile, and keys.
pub(super) const ROWS: usize = 64;
const KEYS: usize = 32;

/// Units of a cube: sixteen groups of eight. The groups share the rows, the units of a group the keys or dimensions.
pub(super) const UNITS: usize = 128;
const GROUPS: usize = 16;
const MEMBERS: usize = 8;

/// Rows of a unit.
const OWN: usize = 4;

/// Values of a vector, and vectors of the dimensions that are in shared memory at one time.
pub(super) const VECTOR: usize = 4;
const SLICE: usize = 8;

/// Vectors between rows of shared memory, so that members of a group touch different banks.
const PITCH: usize = SLICE + 1;

/// Numbers that describe a tile, see [`task_of`].
pub(super) const WORDS: usize = 7;

/// Strides between heads and rows, in vectors of what they belong to.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Steps {
    pub q_row: usize,
    pub q_head: usize,
    pub k_row: usize,
    pub k_head: usize,
    pub v_row: usize,
    pub v_head: usize,
    pub out_row: usize,
    pub out_head: usize,
}

/// Rows of a matrix that shared memory gets: where the first lies, how far apart they are, how many there are, and which
/// vectors of `pieces` are the first.
#[derive(CubeType)]
struct Block {
    start: usize,
    step: usize,
    rows: usize,
    first: usize,
    pieces: usize,
}

/// Puts eight vectors of `rows` rows into shared memory, times `scale`; what lies behind the last row or vector becomes 0.
/// With `spread`, row `4·a + b` lands at `8·b + a`.
#[cube]
fn load<F: Float>(
    from: &[Vector<F, Const<4>>],
    to: &mut Shared<[Vector<f32, Const<4>>]>,
    block: &Block,
    scale: f32,
    #[comptime] rows: usize,
    #[comptime] spread: bool,
) {
    let mut i = UNIT_POS as usize;
    while i < rows * SLICE {
        let row = i / SLICE;
        let piece = i % SLICE;
        let mut value = Vector::<f32, Const<4>>::new(0.0f32);
        if row < block.rows && block.first + piece < block.pieces {
            let at = block.start + row * block.step + block.first + piece;
            value = Vector::cast_from(from[at]) * Vector::new(scale);
        }
        let mut place = row;
        if comptime!(spread) {
            place = row % VECTOR * MEMBERS + row / VECTOR;
        }
        to[place * PITCH + piece] = value;
        i += UNITS;
    }
}

#[cube]
fn dot(a: Vector<f32, Const<4>>, b: Vector<f32, Const<4>>) -> f32 {
    let both = a * b;
    both.extract(0usize) + both.extract(1usize) + both.extract(2usize) + both.extract(3usize)
}

/// What a cube works at.
#[derive(CubeType)]
pub(super) struct Task {
    /// Where its queries, keys, values and results begin.
    pub q: usize,
    pub k: usize,
    pub v: usize,
    pub out: usize,
    pub rows: usize,
    pub keys: usize,
    /// Row `i` sees keys below `seen + i`.
    pub seen: i32,
}

#[cube]
pub(super) fn task_of(tiles: &[u32], steps: &Steps, repeats: usize) -> Task {
    let tile = CUBE_POS_X as usize * WORDS;
    let head = CUBE_POS_Y as usize;
    let shared = head / repeats;
    Task {
        q: tiles[tile] as usize + head * steps.q_head,
        k: tiles[tile + 1] as usize + shared * steps.k_head,
        v: tiles[tile + 2] as usize + shared * steps.v_head,
        out: tiles[tile + 3] as usize + head * steps.out_head,
        rows: tiles[tile + 4] as usize,
        keys: tiles[tile + 5] as usize,
        seen: i32::cast_from(tiles[tile + 6]),
    }
}

/// How many keys any row sees; WGSL wants to be told that all units have the same number.
#[cube]
pub(super) fn seen_by_any(task: &Task) -> usize {
    let mut bound = Shared::<[u32]>::new_slice(1usize);
    if UNIT_POS == 0 {
        let last = min(task.seen + task.rows as i32 - 1, task.keys as i32);
        bound[0] = u32::cast_from(max(last, 0i32));
    }
    workgroup_uniform_load(&bound[0]) as usize
}

/// Adds products of the queries and keys in shared memory to the scores of four rows and four keys.
#[cube]
fn add_products(
    left: &Shared<[Vector<f32, Const<4>>]>,
    right: &Shared<[Vector<f32, Const<4>>]>,
    scores: &mut Array<f32>,
    width: usize,
) {
    let group = UNIT_POS as usize / MEMBERS;
    let member = UNIT_POS as usize % MEMBERS;
    for piece in 0..width {
        let mut columns = Array::<Vector<f32, Const<4>>>::new(VECTOR);
        #[unroll]
        for j in 0..VECTOR {
            columns[j] = right[(j * MEMBERS + member) * PITCH + piece];
        }
        #[unroll]
        for i in 0..OWN {
            let query = left[(i * GROUPS + group) * PITCH + piece];
            #[unroll]
            for j in 0..VECTOR {
                scores[i * VECTOR + j] += dot(query, columns[j]);
            }
        }
    }
}

/// Hides scores that rows do not see, and tells the others of the group the largest of this unit.
#[cube]
fn hide(scores: &mut Array<f32>, found: &mut Shared<[f32]>, task: &Task, first_key: usize) {
    let group = UNIT_POS as usize / MEMBERS;
    let member = UNIT_POS as usize % MEMBERS;
    #[unroll]
    for i in 0..OWN {
        let row = i * GROUPS + group;
        let seen = min(task.seen + row as i32, task.keys as i32);
        let mut top = f32::new(LOWEST);
        #[unroll]
        for j in 0..VECTOR {
            let key = (first_key + member * VECTOR + j) as i32;
            let score = select(key < seen, scores[i * VECTOR + j], f32::new(LOWEST));
            scores[i * VECTOR + j] = score;
            top = max(top, score);
        }
        found[row * MEMBERS + member] = top;
    }
}

/// The running softmax of a unit's rows.
#[derive(CubeType)]
struct Softmax {
    tops: Array<f32>,
    /// Sums of weights of this unit's keys.
    totals: Array<f32>,
    /// Sums of weighted values, slice after slice.
    all: Array<Vector<f32, Const<4>>>,
}

/// Weights take the place of queries; what was summed so far is measured by the new largest.
#[cube]
fn weigh(
    scores: &Array<f32>,
    found: &Shared<[f32]>,
    left: &mut Shared<[Vector<f32, Const<4>>]>,
    softmax: &mut Softmax,
    #[comptime] slices: usize,
) {
    let group = UNIT_POS as usize / MEMBERS;
    let member = UNIT_POS as usize % MEMBERS;
    #[unroll]
    for i in 0..OWN {
        let row = i * GROUPS + group;
        let mut top = softmax.tops[i];
        #[unroll]
        for other in 0..MEMBERS {
            top = max(top, found[row * MEMBERS + other]);
        }
        let shrink = (softmax.tops[i] - top).exp();
        softmax.tops[i] = top;
        let mut weights = Vector::<f32, Const<4>>::new(0.0f32);
        let mut total = softmax.totals[i] * shrink;
        #[unroll]
        for j in 0..VECTOR {
            let score = scores[i * VECTOR + j];
            let weight = select(score > LOWEST, (score - top).exp(), 0.0f32);
            weights.insert(j, weight);
            total += weight;
        }
        softmax.totals[i] = total;
        left[row * PITCH + member] = weights;
        #[unroll]
        for slice in 0..slices {
            softmax.all[slice * OWN + i] *= Vector::new(shrink);
        }
    }
}

/// Adds weighted values of four rows and four dimensions of a slice.
#[cube]
fn add_values(
    left: &Shared<[Vector<f32, Const<4>>]>,
    right: &Shared<[Vector<f32, Const<4>>]>,
    all: &mut Array<Vector<f32, Const<4>>>,
    #[comptime] slice: usize,
) {
    let group = UNIT_POS as usize / MEMBERS;
    let member = UNIT_POS as usize % MEMBERS;
    for four in 0..KEYS / VECTOR {
        let mut weights = Array::<Vector<f32, Const<4>>>::new(OWN);
        #[unroll]
        for i in 0..OWN {
            weights[i] = left[(i * GROUPS + group) * PITCH + four];
        }
        #[unroll]
        for j in 0..VECTOR {
            let value = right[(four * VECTOR + j) * PITCH + member];
            #[unroll]
            for i in 0..OWN {
                let weight = Vector::new(weights[i].extract(j));
                all[slice * OWN + i] += value * weight;
            }
        }
    }
}

/// The members of a group sum their weights; each writes its dimensions, of a part of the keys as they are.
#[cube]
fn write<O: Float>(
    out: &mut [Vector<O, Const<4>>],
    stats: &mut [f32],
    found: &Shared<[f32]>,
    softmax: &Softmax,
    task: &Task,
    step: usize,
    #[comptime] pieces: usize,
    #[comptime] partial: bool,
) {
    let group = UNIT_POS as usize / MEMBERS;
    let member = UNIT_POS as usize % MEMBERS;
    #[unroll]
    for i in 0..OWN {
        let row = i * GROUPS + group;
        if row < task.rows {
            let mut share = 0.0f32;
            for other in 0..MEMBERS {
                share += found[row * MEMBERS + other];
            }
            let to = task.out + row * step;
            if comptime!(partial) {
                if member == 0 {
                    stats[to / pieces * 2] = softmax.tops[i];
                    stats[to / pieces * 2 + 1] = share;
                }
                share = 1.0f32;
            }
            #[unroll]
            for slice in 0..comptime!(pieces.div_ceil(SLICE)) {
                let piece = slice * SLICE + member;
                if piece < pieces {
                    let value = softmax.all[slice * OWN + i] / Vector::new(share);
                    out[to + piece] = Vector::cast_from(value);
                }
            }
        }
    }
}

/// Cube `(x, y)`: tile `x` of the query rows, head `y`. `tiles` says for each tile where its rows and keys begin.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(super) fn tiles_kernel<F: Float, O: Float>(
    q: &[Vector<F, Const<4>>],
    k: &[Vector<F, Const<4>>],
    v: &[Vector<F, Const<4>>],
    out: &mut [Vector<O, Const<4>>],
    stats: &mut [f32],
    tiles: &[u32],
    steps: Steps,
    repeats: usize,
    scale: f32,
    #[comptime] pieces: usize,
    #[comptime] partial: bool,
    #[define(F, O)] _dtypes: [ElemType; 2],
) {
    // The queries of a slice, then the weights; the keys of a slice, then the values.
    let mut left = Shared::<[Vector<f32, Const<4>>]>::new_slice(ROWS * PITCH);
    let mut right = Shared::<[Vector<f32, Const<4>>]>::new_slice(KEYS * PITCH);
    let mut found = Shared::<[f32]>::new_slice(ROWS * MEMBERS);
    let slices = comptime!(pieces.div_ceil(SLICE));
    let task = task_of(tiles, &steps, repeats);
    let mut softmax = Softmax {
        tops: Array::new(OWN),
        totals: Array::new(OWN),
        all: Array::new(comptime!(slices * OWN)),
    };
    #[unroll]
    for i in 0..OWN {
        softmax.tops[i] = f32::new(LOWEST);
    }
    let mut scores = Array::<f32>::new(OWN * VECTOR);
    let last = seen_by_any(&task);
    let mut first_key = 0usize;
    while first_key < last {
        #[unroll]
        for i in 0..OWN * VECTOR {
            scores[i] = 0.0f32;
        }
        let rows = task.keys - first_key;
        for slice in 0..slices {
            let first = slice * SLICE;
            sync_cube();
            let block = Block { start: task.q, step: steps.q_row, rows: task.rows, first, pieces };
            load::<F>(q, &mut left, &block, scale, ROWS, false);
            let start = task.k + first_key * steps.k_row;
            let block = Block { start, step: steps.k_row, rows, first, pieces };
            load::<F>(k, &mut right, &block, 1.0f32, KEYS, true);
            sync_cube();
            add_products(&left, &right, &mut scores, min(pieces - first, SLICE));
        }
        hide(&mut scores, &mut found, &task, first_key);
        sync_cube();
        weigh(&scores, &found, &mut left, &mut softmax, slices);
        #[unroll]
        for slice in 0..slices {
            sync_cube();
            let start = task.v + first_key * steps.v_row;
            let block = Block { start, step: steps.v_row, rows, first: slice * SLICE, pieces };
            load::<F>(v, &mut right, &block, 1.0f32, KEYS, false);
            sync_cube();
            add_values(&left, &right, &mut softmax.all, slice);
        }
        first_key += KEYS;
    }
    sync_cube();
    #[unroll]
    for i in 0..OWN {
        let row = i * GROUPS + UNIT_POS as usize / MEMBERS;
        found[row * MEMBERS + UNIT_POS as usize % MEMBERS] = softmax.totals[i];
    }
    sync_cube();
    write::<O>(out, stats, &found, &softmax, &task, steps.out_row, pieces, partial);
}
