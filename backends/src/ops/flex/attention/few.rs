//! Attention of few query rows: steps of answers.
//!
//! A task takes some keys of one head for all query heads that share it, so that keys and values are read once, in the dtype
//! that they are kept in, by as many cores as there are, and what the tasks found is joined at the end ("flash decoding", Dao
//! et al. 2023). The keys of a task are the same whatever the number of threads and of query rows, and wherever parts end: a row
//! gets the same bits in each case.

use rayon::prelude::*;

use super::super::dot::Inputs;
use super::super::softmax::exponentials;
use super::super::sums::{self, Weighted};
use super::super::widen::Widen;
use super::{Pair, Part, Sizes, pieces_of, seen_of};
use crate::cpu::Level;

/// Keys whose scores exist at a time.
const CHUNK: usize = 128;

/// Positions of queries that are looked at together.
const ROWS: usize = 16;

/// Fewest products of a task: fewer cost less than to hand them to another core.
const TASK: usize = 1 << 16;

/// [`super::attention`] with instructions that the processor has, in place of `out`.
pub fn attention<W: Widen>(
    out: &mut [f32],
    q: &[f32],
    parts: &[Part<'_, W>],
    sizes: Sizes,
    level: Level,
) {
    let Sizes { heads, groups, s, d, .. } = sizes;
    let each = heads / groups * s * d;
    let per_group = out.par_chunks_mut(each).zip(q.par_chunks(each)).enumerate();
    per_group.for_each(|(index, (out, q))| {
        let place = (index / groups, index % groups);
        for first in (0..s).step_by(ROWS) {
            let rows = ROWS.min(s - first);
            Queries::new(q, parts, sizes, (first, rows), level).attend(out, place);
        }
    });
}

/// Query rows of the heads that share keys and values: those of `count` positions of each head, one after the other.
struct Queries<'a, W> {
    rows: Inputs<W>,
    parts: &'a [Part<'a, W>],
    sizes: Sizes,
    /// The first position, and how many there are.
    first: usize,
    count: usize,
    /// Values of a row of keys, zeros behind them included.
    width: usize,
    level: Level,
}

/// What some keys give for all query rows.
struct Partial {
    /// The largest score of each row and the sum of its weights.
    rows: Vec<(f32, f32)>,
    /// The sum of weighted values of each row, as [`sums::add`] orders them.
    values: Vec<f32>,
}

impl<'a, W: Widen> Queries<'a, W> {
    /// From `q [heads, s, d]` of one group.
    fn new(
        q: &[f32],
        parts: &'a [Part<'a, W>],
        sizes: Sizes,
        (first, count): (usize, usize),
        level: Level,
    ) -> Self {
        let Sizes { s, d, .. } = sizes;
        let width = parts.first().map_or(d, Part::width);
        let mut rows = Vec::with_capacity(q.len() / s * count / d * width);
        for head in q.chunks(s * d) {
            for row in head[first * d..][..count * d].chunks(d) {
                rows.extend_from_slice(row);
                rows.resize(rows.len() + width - d, 0.0);
            }
        }
        Self { rows: Inputs::new(rows, width, level), parts, sizes, first, count, width, level }
    }

    /// Keys that the row sees.
    fn seen(&self, row: usize) -> usize {
        let Sizes { s, t, causal, .. } = self.sizes;
        if causal { t - s + self.first + row % self.count + 1 } else { t }
    }

    /// Writes the rows of `out [heads, s, d]`.
    fn attend(&self, out: &mut [f32], (batch, group): (usize, usize)) {
        let Sizes { s, d, .. } = self.sizes;
        let seen = self.seen(self.count - 1);
        let heads: Vec<_> = seen_of(self.parts, seen)
            .map(|(part, rows)| part.heads(batch, group, rows, d))
            .collect();
        let least = TASK / (CHUNK * self.width * self.rows.rows()).max(1);
        let chunks = (0..seen.div_ceil(CHUNK)).into_par_iter().with_min_len(least.max(1));
        let partials: Vec<_> = chunks
            .map(|chunk| {
                let first = chunk * CHUNK;
                let count = CHUNK.min(seen - first);
                self.over(&pieces_of(&heads, first..first + count), first, count)
            })
            .collect();
        for (head, out) in out.chunks_mut(s * d).enumerate() {
            let places = out[self.first * d..].chunks_mut(d).take(self.count).enumerate();
            places.for_each(|(i, out)| self.join(&partials, head * self.count + i, out));
        }
    }

    /// What the pieces give, which are `count` keys from `first` on.
    fn over(&self, pieces: &[Pair<'_, W>], first: usize, count: usize) -> Partial {
        let (m, width) = (self.rows.rows(), self.width);
        let mut weights = self.scores(pieces, count);
        let weigh = |(row, weights): (usize, &mut [f32])| {
            let (seen, future) =
                weights.split_at_mut(self.seen(row).saturating_sub(first).min(count));
            future.fill(0.0);
            exponentials(seen, f32::NEG_INFINITY)
        };
        let rows = weights.chunks_mut(count).enumerate().map(weigh).collect();
        let mut values = vec![0.0; m * width];
        let mut at = 0;
        for (_, piece) in pieces {
            if let Some(scales) = piece.scales {
                for weights in weights.chunks_mut(count) {
                    let weights = weights[at..].iter_mut().zip(scales);
                    weights.for_each(|(weight, scale)| *weight *= scale);
                }
            }
            let rows = &piece.values[..piece.rows * width];
            let weighted = Weighted { weights: &weights[at..], stride: count, values: rows, width };
            sums::add(&mut values, weighted, self.level);
            at += piece.rows;
        }
        Partial { rows, values }
    }

    /// `q·kᵀ / sqrt(d)`, `[rows, count]`.
    fn scores(&self, pieces: &[Pair<'_, W>], count: usize) -> Vec<f32> {
        let (m, scale) = (self.rows.rows(), (self.sizes.d as f64).powf(-0.5) as f32);
        let mut by_key = vec![0.0; count * m];
        let mut at = 0;
        for (piece, _) in pieces {
            let out = &mut by_key[at * m..][..piece.rows * m];
            self.rows.products(out, &piece.values[..piece.rows * self.width]);
            for (j, out) in out.chunks_mut(m).enumerate() {
                let scale = piece.scales.map_or(scale, |scales| scales[j] * scale);
                out.iter_mut().for_each(|score| *score *= scale);
            }
            at += piece.rows;
        }
        if m == 1 {
            return by_key;
        }
        let mut scores = vec![0.0; m * count];
        for (i, row) in scores.chunks_mut(count).enumerate() {
            row.iter_mut().zip(by_key.chunks(m)).for_each(|(score, all)| *score = all[i]);
        }
        scores
    }

    /// Writes what all keys together give for one row.
    fn join(&self, partials: &[Partial], row: usize, out: &mut [f32]) {
        let top = partials.iter().map(|all| all.rows[row].0).fold(f32::NEG_INFINITY, f32::max);
        let mut values = vec![0.0; self.width];
        let mut sum = 0.0;
        for partial in partials {
            let (own, weights) = partial.rows[row];
            let factor = (own - top).exp();
            sum += weights * factor;
            let own = &partial.values[row * self.width..][..self.width];
            values.iter_mut().zip(own).for_each(|(value, own)| *value += own * factor);
        }
        sums::in_order::<W>(&mut values, self.level);
        out.iter_mut().zip(&values).for_each(|(out, value)| *out = value / sum);
    }
}
