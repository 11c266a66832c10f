//! The kernel of [`super`].

use burn_cubecl::cubecl;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::super::heads::LOWEST;
use super::super::super::tile_kernel::{Steps, Task, seen_by_any, task_of};
use super::super::product::{
    ALIGNMENT, EDGE, Layout, PARTS, QUAD, SCRATCH, STRIP, add, half, nothing, plane, put, row,
    taken,
};
use super::Form;

/// Most neighbouring tiles that a plane sums at one time, for which it loads a left factor once.
const GROUP: usize = 4;

/// Rows of a matrix that shared memory gets: where the first lies, how far apart they are, and how many there are.
#[derive(CubeType)]
struct Block {
    start: usize,
    step: usize,
    rows: usize,
}

/// Puts `rows` rows of heads into shared memory; what lies behind the last row or value becomes 0.
#[cube]
fn load<F: Float, N: Size>(
    from: &[Vector<F, N>],
    to: &mut Shared<[Vector<F, N>]>,
    block: &Block,
    #[comptime] rows: usize,
    #[comptime] form: Form,
) {
    let size = N::value().comptime();
    let width = comptime!(form.d.next_multiple_of(EDGE) / size);
    for turn in 0..comptime!((rows * width).div_ceil(form.units())) {
        let i = UNIT_POS as usize + turn * comptime!(form.units());
        let row = i / width;
        let piece = i % width;
        if row < rows {
            let mut value = Vector::<F, N>::new(F::new(0.0));
            if row < block.rows && piece < comptime!(form.d / size) {
                value = from[block.start + row * block.step + piece];
            }
            to[row * comptime!(form.pitch() / size) + piece] = value;
        }
    }
}

/// The running softmax of a row, of which each of two units has half of the scores and sums.
#[derive(CubeType)]
struct Softmax {
    /// The largest score, and the sum of this unit's weights.
    row: Array<f32>,
    /// Sums of weighted values.
    all: Array<Vector<f32, Const<4>>>,
}

/// Products of a plane's queries with a block of keys.
#[cube]
fn score<F: Float, N: Size>(
    queries: &Shared<[Vector<F, N>]>,
    keys: &Shared<[Vector<F, N>]>,
    scratch: &mut Shared<[Vector<f32, Const<4>>]>,
    scores: &mut Array<Vector<f32, Const<4>>>,
    #[comptime] form: Form,
) {
    let pitch = comptime!(form.pitch());
    let tiles = comptime!(form.keys / EDGE);
    #[unroll]
    for group in 0..comptime!(tiles.div_ceil(GROUP)) {
        let first = comptime!(group * GROUP);
        let columns = comptime!((tiles - first).min(GROUP));
        let layout =
            comptime!(Layout { rows: 1, columns, left: pitch, right: pitch, turned: true });
        let mut sums = nothing(columns, comptime!(form.cores));
        for step in 0..comptime!(form.d.div_ceil(EDGE)) {
            let left = plane() * comptime!(EDGE * pitch) + step * EDGE;
            let right = step * EDGE + comptime!(first * EDGE * pitch);
            add::<F, N, N>(&mut sums, queries, left, keys, right, layout);
        }
        #[unroll]
        for strip in 0..comptime!(columns.div_ceil(STRIP)) {
            let tile = comptime!(strip * STRIP);
            let count = comptime!((columns - tile).min(STRIP));
            put(&sums, scratch, tile, count);
            #[unroll]
            for i in 0..comptime!(count * PARTS) {
                let quad = taken(&*scratch, comptime!(i / PARTS), comptime!(i % PARTS));
                scores[comptime!((first + tile) * PARTS + i)] = quad;
            }
        }
    }
}

/// Scales scores and hides those that the row does not see; returns the largest of both units.
#[cube]
fn hide(
    scores: &mut Array<Vector<f32, Const<4>>>,
    found: &mut Shared<[f32]>,
    task: &Task,
    first_key: usize,
    scale: f32,
    #[comptime] form: Form,
) -> f32 {
    let row = plane() * EDGE + row();
    let seen = min(task.seen + row as i32, task.keys as i32);
    let mut top = f32::new(LOWEST);
    #[unroll]
    for i in 0..comptime!(form.keys / QUAD / 2) {
        let mut quad = scores[i];
        #[unroll]
        for j in 0..QUAD {
            let key = first_key + half() * QUAD + comptime!(i * 2 * QUAD + j);
            let score = quad.extract(j) * scale;
            let score = select((key as i32) < seen, score, f32::new(LOWEST));
            quad.insert(j, score);
            top = max(top, score);
        }
        scores[i] = quad;
    }
    found[row * 2 + half()] = top;
    sync_plane();
    max(found[row * 2], found[row * 2 + 1])
}

/// Turns scores into weights, in the dtype of the values; what was summed so far is measured by the new largest.
#[cube]
fn weigh<F: Float>(
    scores: &Array<Vector<f32, Const<4>>>,
    weights: &mut Shared<[Vector<F, Const<4>>]>,
    softmax: &mut Softmax,
    top: f32,
    #[comptime] form: Form,
) {
    let top = max(softmax.row[0], top);
    let shrink = (softmax.row[0] - top).exp();
    let mut total = softmax.row[1] * shrink;
    let place = (plane() * EDGE + row()) * comptime!(form.weights_pitch() / QUAD) + half();
    #[unroll]
    for i in 0..comptime!(form.keys / QUAD / 2) {
        let mut quad = scores[i];
        #[unroll]
        for j in 0..QUAD {
            let score = quad.extract(j);
            let weight = select(score > LOWEST, (score - top).exp(), 0.0f32);
            quad.insert(j, weight);
            total += weight;
        }
        weights[place + comptime!(i * 2)] = Vector::cast_from(quad);
    }
    softmax.row[0] = top;
    softmax.row[1] = total;
    #[unroll]
    for i in 0..comptime!(form.d / QUAD / 2) {
        softmax.all[i] *= Vector::new(shrink);
    }
    sync_plane();
}

/// Adds products of a plane's weights with a block of values.
#[cube]
fn add_values<F: Float, N: Size>(
    weights: &Shared<[Vector<F, Const<4>>]>,
    values: &Shared<[Vector<F, N>]>,
    scratch: &mut Shared<[Vector<f32, Const<4>>]>,
    all: &mut Array<Vector<f32, Const<4>>>,
    #[comptime] form: Form,
) {
    let (left, right) = comptime!((form.weights_pitch(), form.pitch()));
    let tiles = comptime!(form.d.div_ceil(EDGE));
    #[unroll]
    for group in 0..comptime!(tiles.div_ceil(GROUP)) {
        let first = comptime!(group * GROUP);
        let columns = comptime!((tiles - first).min(GROUP));
        let layout = comptime!(Layout { rows: 1, columns, left, right, turned: false });
        let mut sums = nothing(columns, comptime!(form.cores));
        for step in 0..comptime!(form.keys / EDGE) {
            let weights_at = plane() * comptime!(EDGE * left) + step * EDGE;
            let values_at = step * comptime!(EDGE * right) + comptime!(first * EDGE);
            add::<F, Const<4>, N>(&mut sums, weights, weights_at, values, values_at, layout);
        }
        #[unroll]
        for strip in 0..comptime!(columns.div_ceil(STRIP)) {
            let tile = comptime!(strip * STRIP);
            let count = comptime!((columns - tile).min(STRIP));
            put(&sums, scratch, tile, count);
            #[unroll]
            for i in 0..comptime!(count * PARTS) {
                let place = comptime!((first + tile) * PARTS + i);
                // A last tile of 8 dimensions has a second half of zeros.
                if comptime!(place < form.d / QUAD / 2) {
                    all[place] += taken(&*scratch, comptime!(i / PARTS), comptime!(i % PARTS));
                }
            }
        }
    }
}

/// Both units of a row sum their weights; each writes its dimensions, of a part of the keys as they are.
#[cube]
fn write<O: Float>(
    out: &mut [Vector<O, Const<4>>],
    stats: &mut [f32],
    found: &mut Shared<[f32]>,
    softmax: &Softmax,
    task: &Task,
    step: usize,
    #[comptime] form: Form,
    #[comptime] partial: bool,
) {
    let row = plane() * EDGE + row();
    sync_plane();
    found[row * 2 + half()] = softmax.row[1];
    sync_plane();
    if row < task.rows {
        let mut share = found[row * 2] + found[row * 2 + 1];
        let to = task.out + row * step;
        if comptime!(partial) {
            if half() == 0 {
                let at = to / comptime!(form.d / QUAD) * 2;
                stats[at] = softmax.row[0];
                stats[at + 1] = share;
            }
            share = 1.0f32;
        }
        #[unroll]
        for i in 0..comptime!(form.d / QUAD / 2) {
            let value = softmax.all[i] / Vector::new(share);
            out[to + half() + comptime!(i * 2)] = Vector::cast_from(value);
        }
    }
}

/// Cube `(x, y)`: tile `x` of the query rows, head `y`; a plane has 16 of the rows. Scores and weighted values pass through
/// shared memory, as where a tensor core keeps which sum is not told, so that the units can go on with them in f32.
///
/// Of 64 rows and 64 keys of heads of 128, a cube takes `4 · 64 · 64 · 128` operations, which the tensor cores of an SM do
/// in 1,024 cycles where they do 1,024 products and sums in each (sm_80). Of shared memory, tiles take 160 KiB, as a left one
/// is loaded for four products and a right one for one, scores and weighted values that pass through it 96 KiB, and keys,
/// values and weights that come in 40 KiB: 2,400 cycles at 128 bytes. So shared memory bounds it, at two fifths of what the
/// cores could do. Such a cube takes 71 KiB of it, one of 32 keys 50 KiB.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub(in super::super::super) fn cores_kernel<F: Float, O: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    out: &mut [Vector<O, Const<4>>],
    stats: &mut [f32],
    tiles: &[u32],
    steps: Steps,
    repeats: usize,
    scale: f32,
    #[comptime] form: Form,
    #[comptime] partial: bool,
    #[define(F, O)] _dtypes: [ElemType; 2],
) {
    let size = N::value().comptime();
    let (rows, pitch) = comptime!((form.rows(), form.pitch() / size));
    let block = comptime!(form.keys * pitch);
    let weights = comptime!(rows * form.weights_pitch() / QUAD);
    let mut queries = Shared::<[Vector<F, N>]>::new_aligned_slice(rows * pitch, ALIGNMENT);
    let mut keys = Shared::<[Vector<F, N>]>::new_aligned_slice(block, ALIGNMENT);
    let mut values = Shared::<[Vector<F, N>]>::new_aligned_slice(block, ALIGNMENT);
    let mut weights = Shared::<[Vector<F, Const<4>>]>::new_aligned_slice(weights, ALIGNMENT);
    let scratch = comptime!(form.planes * SCRATCH);
    let mut scratch = Shared::<[Vector<f32, Const<4>>]>::new_aligned_slice(scratch, ALIGNMENT);
    let mut found = Shared::<[f32]>::new_slice(comptime!(rows * 2));
    let task = task_of(tiles, &steps, repeats);
    let mut softmax =
        Softmax { row: Array::new(2usize), all: Array::new(comptime!(form.d / QUAD / 2)) };
    softmax.row[0] = f32::new(LOWEST);
    let mut scores = Array::<Vector<f32, Const<4>>>::new(comptime!(form.keys / QUAD / 2));
    let start = Block { start: task.q, step: steps.q_row, rows: task.rows };
    load::<F, N>(q, &mut queries, &start, rows, form);
    let last = seen_by_any(&task);
    let mut first_key = 0usize;
    while first_key < last {
        let rows = task.keys - first_key;
        sync_cube();
        let start = task.k + first_key * steps.k_row;
        let start = Block { start, step: steps.k_row, rows };
        load::<F, N>(k, &mut keys, &start, comptime!(form.keys), form);
        let start = task.v + first_key * steps.v_row;
        let start = Block { start, step: steps.v_row, rows };
        load::<F, N>(v, &mut values, &start, comptime!(form.keys), form);
        sync_cube();
        score::<F, N>(&queries, &keys, &mut scratch, &mut scores, form);
        let top = hide(&mut scores, &mut found, &task, first_key, scale, form);
        weigh::<F>(&scores, &mut weights, &mut softmax, top, form);
        add_values::<F, N>(&weights, &values, &mut scratch, &mut softmax.all, form);
        first_key += form.keys;
    }
    write::<O>(out, stats, &mut found, &softmax, &task, steps.out_row, form, partial);
}
