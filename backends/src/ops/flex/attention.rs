//! Softmax attention in blocks of query rows.

mod few;
mod held;
#[cfg(target_arch = "x86_64")]
mod in_tiles;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

use super::matmul::{Into, Matrix, least_rows, multiply};
use super::products::Kind;
use super::softmax::exponentials;
#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::widen::Widen;
use super::{TILE_ROWS, panel};
use crate::cpu::Level;
use crate::ops::{Products, choose_products, products};

use held::{Head, Part};
pub use held::{in_bytes, over_parts};

/// Query rows per task.
const BLOCK: usize = 128;

/// Keys that are looked at together: their scores, they themselves and their values stay in the cache of one core.
const KEYS: usize = 256;

/// Sizes of an attention.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub heads: usize,
    /// Key/value heads; they divide `heads`.
    pub groups: usize,
    /// Query rows, the last of the `t` positions of all parts.
    pub s: usize,
    pub t: usize,
    pub d: usize,
    pub causal: bool,
}

/// Fewest keys of a block: GEMM sums fewer in another order.
const LEAST_KEYS: usize = 3;

/// Fewest rows of a prompt that are computed together, see [`among_zeros`].
const LEAST_ROWS: usize = least_rows(LEAST_KEYS);

/// `softmax(q·kᵀ / sqrt(d)) · v`, `[batch, heads, s, d]`; `q` is contiguous.
///
/// Steps of answers (see [`crate::ops::steps`]) are computed as each alone, and rows of prompts so that none depends on how many
/// others there are, nor on the parts that keys and values lie in: products of which sums are rounded to a few bits later would
/// show it.
///
/// Few rows over keys that are to be widened take the instructions of `level`, which the processor has, see [`few`]. Where there is
/// nothing to be widened, GEMM takes the keys of each head in less time.
pub fn attention<W: Widen>(
    q: &[f32],
    parts: &[Part<'_, W>],
    sizes: Sizes,
    level: Level,
) -> Vec<f32> {
    let Sizes { heads, groups, s, d, .. } = sizes;
    let mut out = vec![0.0; q.len()];
    let kind = Kind::said();
    let few = kind.map_or(s < TILE_ROWS, |kind| kind == Kind::Steps);
    if few && W::as_f32(&[]).is_none() {
        few::attention(&mut out, q, parts, sizes, level);
        return out;
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(tiling) = panel::tiles().filter(|_| !few) {
        in_tiles::attention(&mut out, q, parts, sizes, tiling);
        return out;
    }
    let chosen = if few { Products::Exact } else { products() };
    let block = if kind == Some(Kind::Steps) { 1 } else { BLOCK };
    let padded = kind == Some(Kind::Prompts);
    let per_head = out.par_chunks_mut(s * d).zip(q.par_chunks(s * d)).enumerate();
    per_head.for_each(|(index, (out, q))| {
        let (batch, group) = (index / heads, index % heads / (heads / groups));
        let blocks = out.par_chunks_mut(block * d).zip(q.par_chunks(block * d)).enumerate();
        blocks.for_each(|(index, (out, q))| {
            let _chosen = choose_products(Some(chosen));
            let rows = q.len() / d;
            let past = sizes.causal.then(|| sizes.t - s + index * block);
            let seen = past.map_or(sizes.t, |past| past + rows);
            let all = seen_of(parts, seen).map(|(part, rows)| part.heads(batch, group, rows, d));
            match padded && rows < LEAST_ROWS {
                true => among_zeros(out, q, d, all, past),
                false => attend(out, d, Matrix::rows(q, d), all, past),
            }
        });
    });
    out
}

/// [`attend`] for rows of which there are few, with zeros behind them, see [`least_rows`].
fn among_zeros<'k, W: Widen>(
    out: &mut [f32],
    q: &[f32],
    d: usize,
    parts: impl Iterator<Item = Pair<'k, W>>,
    past: Option<usize>,
) {
    let mut queries = q.to_vec();
    queries.resize(LEAST_ROWS * d, 0.0);
    let mut room = vec![0.0; LEAST_ROWS * d];
    attend(&mut room, d, Matrix::rows(&queries, d), parts, past);
    out.copy_from_slice(&room[..out.len()]);
}

/// The parts that the first `seen` positions lie in, each with how many of its rows these are.
fn seen_of<'p, 'k, W: Widen>(
    parts: &'p [Part<'k, W>],
    seen: usize,
) -> impl Iterator<Item = (&'p Part<'k, W>, usize)> {
    let firsts = parts.iter().scan(0, |end, part| {
        let first = *end;
        *end += part.rows;
        Some((part, first))
    });
    firsts
        .take_while(move |(_, first)| *first < seen)
        .map(move |(part, first)| (part, part.rows.min(seen - first)))
}

/// Keys and values of one head.
type Pair<'k, W> = (Head<'k, W>, Head<'k, W>);

/// Keys and values of the positions in `range`, where they lie.
fn pieces_of<'k, W: Widen>(parts: &[Pair<'k, W>], range: Range<usize>) -> Vec<Pair<'k, W>> {
    let mut end = 0;
    let pieces = parts.iter().filter_map(|(keys, values)| {
        let first = end;
        end += keys.rows;
        let own = range.start.max(first)..range.end.min(end);
        let piece = |head: &Head<'k, W>| head.part(own.start - first, own.len());
        (!own.is_empty()).then(|| (piece(keys), piece(values)))
    });
    pieces.collect()
}

/// The pieces of a block as one in f32, with zeros behind it where it is very small.
fn joined<'r, W: Widen>(
    pieces: &[Pair<'_, W>],
    room: &'r mut [Vec<f32>; 2],
) -> (Matrix<'r>, Matrix<'r>) {
    room.iter_mut().for_each(Vec::clear);
    for (keys, values) in pieces {
        keys.append_to(&mut room[0]);
        values.append_to(&mut room[1]);
    }
    let d = pieces[0].0.d;
    room.iter_mut().for_each(|room| room.resize(room.len().max(LEAST_KEYS * d), 0.0));
    let [keys, values] = room.each_ref().map(|room| Matrix::rows(room, d));
    (keys, values)
}

/// `softmax(q·kᵀ / sqrt(d)) · v` over the keys and values of all parts, one after the other, in place of rows of `out` that begin
/// `stride` values apart; with `past`, row `i` sees the first `past + i + 1` keys. Only the scores of [`KEYS`] keys exist at a
/// time, and where these are no f32, as many of them and their values in f32: what has been summed is scaled down when a larger
/// score comes (Milakov and Gimelshein 2018, Dao et al. 2022).
fn attend<'k, W: Widen>(
    out: &mut [f32],
    stride: usize,
    q: Matrix<'_>,
    parts: impl Iterator<Item = Pair<'k, W>>,
    past: Option<usize>,
) {
    let d = q.columns;
    let scale = (d as f64).powf(-0.5) as f32;
    let mut scores = vec![0.0; q.rows * KEYS];
    // The largest score of each row and the sum of its weights.
    let mut rows = vec![(f32::NEG_INFINITY, 0.0); q.rows];
    let parts: Vec<_> = parts.collect();
    let (total, mut room) =
        (parts.iter().map(|(keys, _)| keys.rows).sum(), [const { Vec::new() }; 2]);
    for first in (0..total).step_by(KEYS) {
        let count = KEYS.min(total - first);
        let pieces = pieces_of(&parts, first..first + count);
        // The sums of a single row go on from piece to piece as in one.
        let apart = q.rows == 1 || pieces.len() == 1;
        let plain = pieces.iter().map(|(keys, values)| Some((keys.plain()?, values.plain()?)));
        let pieces = match plain.collect::<Option<Vec<_>>>() {
            Some(plain) if apart && plain.iter().all(|(keys, _)| keys.rows >= LEAST_KEYS) => plain,
            _ => vec![joined(&pieces, &mut room)],
        };
        let width = pieces.iter().map(|(keys, _)| keys.rows).sum();
        let mut at = 0;
        for (keys, _) in &pieces {
            multiply(&mut scores[at..], width, scale, (q, keys.transposed()), Into::Replace);
            at += keys.rows;
        }
        for (i, (row, (top, sum))) in scores.chunks_mut(width).zip(&mut rows).enumerate() {
            let seen = past.map_or(count, |past| (past + i + 1).saturating_sub(first).min(count));
            let (row, future) = row.split_at_mut(seen);
            future.fill(0.0);
            let (larger, more) = exponentials(row, *top);
            let factor = if larger > *top { (*top - larger).exp() } else { 1.0 };
            (*top, *sum) = (larger, *sum * factor + more);
            if first > 0 && factor < 1.0 {
                out[i * stride..][..d].iter_mut().for_each(|value| *value *= factor);
            }
        }
        let mut at = 0;
        for (keys, values) in &pieces {
            let into = if first + at == 0 { Into::Replace } else { Into::Add };
            let (all, columns) = (Matrix::rows(&scores, width), keys.rows);
            let weights = Matrix { values: &scores[at..], rows: q.rows, columns, ..all };
            multiply(out, stride, 1.0, (weights, *values), into);
            at += keys.rows;
        }
    }
    for (out, (_, sum)) in out.chunks_mut(stride).zip(&rows) {
        let inverse = 1.0 / sum;
        out[..d].iter_mut().for_each(|value| *value *= inverse);
    }
}

/// Softmax over the keys of every query row; with `past`, row `i` sees the first `past + i + 1` of them.
fn weights(q: Matrix<'_>, keys: Matrix<'_>, past: Option<usize>) -> Vec<f32> {
    let seen = keys.rows;
    let mut scores = vec![0.0; q.rows * seen];
    let scale = (q.columns as f64).powf(-0.5) as f32;
    multiply(&mut scores, seen, scale, (q, keys.transposed()), Into::Replace);
    for (i, row) in scores.chunks_mut(seen).enumerate() {
        let (row, future) = row.split_at_mut(past.map_or(seen, |past| past + i + 1));
        let inverse = 1.0 / exponentials(row, f32::NEG_INFINITY).1;
        row.iter_mut().for_each(|weight| *weight *= inverse);
        future.fill(0.0);
    }
    scores
}

/// Rows of all heads side by side: row `i` of head `h` begins at `i · stride + h · d`.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub heads: usize,
    pub d: usize,
}

impl<'a> Rows<'a> {
    /// Rows `start..start + rows` of one head.
    fn head(&self, head: usize, start: usize, rows: usize) -> Matrix<'a> {
        Matrix {
            values: &self.values[start * self.stride + head * self.d..],
            rows,
            columns: self.d,
            row_stride: self.stride,
            column_stride: 1,
        }
    }
}

/// A block of query rows of one sequence.
struct Task<'o> {
    out: &'o mut [f32],
    sequence: usize,
    /// First row of the sequence, first row of the block inside of it, rows of the sequence.
    start: usize,
    first: usize,
    length: usize,
}

/// Each sequence of `lengths` rows attends to itself; `[rows, heads · d]`.
pub fn packed(qkv: [Rows<'_>; 3], lengths: &[usize], causal: bool) -> Vec<f32> {
    let [q, k, v] = qkv;
    let width = q.heads * q.d;
    let rows: usize = lengths.iter().sum();
    let tiling = panel::tiles();
    let block = rows.div_ceil(4 * rayon::current_num_threads());
    let block = match tiling {
        Some(_) => block.clamp(32, 2 * BLOCK).next_multiple_of(32),
        None => block.clamp(16, BLOCK),
    };
    let mut out = vec![0.0; rows * width];
    let mut tasks = Vec::new();
    let (mut rest, mut start) = (&mut out[..], 0);
    for (sequence, length) in lengths.iter().enumerate() {
        let part = rest.split_off_mut(..length * width).expect("as many rows as asked for");
        for (index, out) in part.chunks_mut(block * width).enumerate() {
            tasks.push(Task { out, sequence, start, first: index * block, length: *length });
        }
        start += length;
    }
    #[cfg(target_arch = "x86_64")]
    let packed = tiling.map(|tiling| in_tiles::pack_sequences([k, v], lengths, tiling));
    let chosen = products();
    tasks.into_par_iter().for_each(|Task { out, sequence, start, first, length }| {
        let _chosen = choose_products(Some(chosen));
        #[cfg(not(target_arch = "x86_64"))]
        let _ = sequence;
        let rows = out.len() / width;
        let past = causal.then_some(first);
        let seen = past.map_or(length, |past| past + rows);
        for head in 0..q.heads {
            let group = head / (q.heads / k.heads);
            let (out, q) = (&mut out[head * q.d..], q.head(head, start + first, rows));
            #[cfg(target_arch = "x86_64")]
            if let Some(Some(head)) = packed.as_ref().map(|all| &all[sequence * k.heads + group]) {
                tiles::attention::attend(out, width, q, head, past);
                continue;
            }
            let part = [&k, &v].map(|rows| Head::of(rows.head(group, start, seen))).into();
            attend(out, width, q, [part].into_iter(), past);
        }
    });
    out
}

/// Query rows whose weights are computed together on the way back.
const BACK_BLOCK: usize = 128;

/// Gradients of one key head and the query heads that read it: `[heads, length, d]`, `[length, d]` twice.
struct HeadGrads {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// Gradients of [`packed`] with respect to queries, keys and values.
pub fn packed_grads(
    qkv: [Rows<'_>; 3],
    lengths: &[usize],
    causal: bool,
    grad: &[f32],
) -> PackedGrads {
    let [q, k, _] = qkv;
    let mut jobs = Vec::with_capacity(lengths.len() * k.heads);
    let mut start = 0;
    for length in lengths {
        jobs.extend((0..k.heads).map(|group| (start, *length, group)));
        start += length;
    }
    let grad = Rows { values: grad, stride: q.heads * q.d, ..q };
    let parts = jobs.into_par_iter();
    let chosen = products();
    let parts = parts.map(|(start, length, group)| {
        let _chosen = choose_products(Some(chosen));
        head_grads(qkv, grad, start, length, group, causal)
    });
    PackedGrads { parts: parts.collect(), groups: k.heads, lengths: lengths.to_vec(), d: q.d }
}

/// What [`packed_grads`] finds, per sequence and key head.
pub struct PackedGrads {
    parts: Vec<HeadGrads>,
    groups: usize,
    lengths: Vec<usize>,
    d: usize,
}

impl PackedGrads {
    /// Writes the gradients of queries, keys and values into rows of `width`, beginning at the given columns.
    pub fn write(&self, out: &mut [f32], width: usize, columns: [Option<usize>; 3]) {
        let mut rest = out;
        let mut sequences = Vec::with_capacity(self.lengths.len());
        for length in &self.lengths {
            sequences
                .push(rest.split_off_mut(..length * width).expect("as many rows as lengths say"));
        }
        let parts = self.parts.par_chunks(self.groups);
        sequences.into_par_iter().zip(parts).for_each(|(out, parts)| {
            for (group, part) in parts.iter().enumerate() {
                let values = [&part.q, &part.k, &part.v];
                for (values, column) in values.into_iter().zip(columns) {
                    let Some(column) = column else { continue };
                    let each = values.len() * width / out.len().max(1);
                    let (d, column) = (self.d, column + group * each);
                    spread(out, width, column, values, d);
                }
            }
        });
    }
}

/// Writes `values [heads, rows, d]` into the rows of `out`, the heads side by side from `column` on.
fn spread(out: &mut [f32], width: usize, column: usize, values: &[f32], d: usize) {
    let rows = out.len() / width.max(1);
    for (head, values) in values.chunks((rows * d).max(1)).enumerate() {
        let column = column + head * d;
        for (out, values) in out.chunks_mut(width).zip(values.chunks(d)) {
            out[column..column + d].copy_from_slice(values);
        }
    }
}

/// With `p = softmax(q·kᵀ·scale)`: `dv = pᵀ·g`, `ds = p ∘ (g·vᵀ − Σ p∘(g·vᵀ))·scale`, `dq = ds·k`, `dk = dsᵀ·q`.
fn head_grads(
    [q, k, v]: [Rows<'_>; 3],
    grad: Rows<'_>,
    start: usize,
    length: usize,
    group: usize,
    causal: bool,
) -> HeadGrads {
    let (repeats, d) = (q.heads / k.heads, q.d);
    let size = length * d;
    let mut out =
        HeadGrads { q: vec![0.0; repeats * size], k: vec![0.0; size], v: vec![0.0; size] };
    let mut dp = Vec::new();
    for repeat in 0..repeats {
        let head = group * repeats + repeat;
        for first in (0..length).step_by(BACK_BLOCK) {
            let rows = BACK_BLOCK.min(length - first);
            let past = causal.then_some(first);
            let seen = past.map_or(length, |past| past + rows);
            let (q, g) = (q.head(head, start + first, rows), grad.head(head, start + first, rows));
            let (k, v) = (k.head(group, start, seen), v.head(group, start, seen));
            let p = weights(q, k, past);
            dp.resize(rows * seen, 0.0);
            multiply(&mut dp, seen, 1.0, (g, v.transposed()), Into::Replace);
            multiply(&mut out.v, d, 1.0, (Matrix::rows(&p, seen).transposed(), g), Into::Add);
            score_grads(&mut dp, &p, seen, (d as f64).powf(-0.5) as f32);
            let ds = Matrix::rows(&dp, seen);
            multiply(&mut out.q[repeat * size + first * d..], d, 1.0, (ds, k), Into::Replace);
            multiply(&mut out.k, d, 1.0, (ds.transposed(), q), Into::Add);
        }
    }
    out
}

/// `p ∘ (dp − Σ p∘dp) · scale` of each row, in place of `dp`.
fn score_grads(dp: &mut [f32], p: &[f32], seen: usize, scale: f32) {
    for (dp, p) in dp.chunks_mut(seen).zip(p.chunks(seen)) {
        let mean = super::dot::dot(p, dp);
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - mean) * scale;
        }
    }
}
