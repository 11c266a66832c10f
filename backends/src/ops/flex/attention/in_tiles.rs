//! Attention in tiles, see [`tiles`](super::super::tiles): keys and values are packed once, tasks of twice as many query rows read them.

use std::borrow::Cow;

use rayon::prelude::*;

use super::super::TILE_ROWS;
use super::super::matmul::Matrix;
use super::super::panel::Tiling;
use super::super::tiles::attention::{Packed, attend};
use super::{BLOCK, Heads, Part, Rows, Sizes};

/// [`super::attention`] with keys and values that are packed once for the query heads that share them.
pub fn attention(out: &mut [f32], q: &[f32], parts: &[Part<'_>], sizes: Sizes, tiling: Tiling) {
    let Sizes { heads, groups, s, t, d, causal } = sizes;
    let pack = |index: usize| {
        let (batch, group) = (index / groups, index % groups);
        let whole = |side| gathered(parts, side, (batch, group), d);
        let (keys, values) = (whole(|part| part.keys), whole(|part| part.values));
        Packed::new(Matrix::rows(&keys, d), Matrix::rows(&values, d), tiling)
    };
    let packed: Vec<_> =
        (0..out.len() / (heads * s * d) * groups).into_par_iter().map(pack).collect();
    let block = s.div_ceil(4).clamp(32, 2 * BLOCK).next_multiple_of(32);
    let per_head = out.par_chunks_mut(s * d).zip(q.par_chunks(s * d)).enumerate();
    per_head.for_each(|(index, (out, q))| {
        let head = &packed[index / heads * groups + index % heads / (heads / groups)];
        let blocks = out.par_chunks_mut(block * d).zip(q.par_chunks(block * d)).enumerate();
        blocks.for_each(|(index, (out, q))| {
            let past = causal.then(|| t - s + index * block);
            attend(out, d, Matrix::rows(q, d), head, past);
        });
    });
}

/// One head of the keys or values of all parts.
fn gathered<'p>(
    parts: &[Part<'p>],
    side: fn(&Part<'p>) -> Heads<'p>,
    (batch, group): (usize, usize),
    d: usize,
) -> Cow<'p, [f32]> {
    let head = |part| side(part).head(batch, group, part.rows, d).values;
    match parts {
        [part] => Cow::Borrowed(head(part)),
        _ => parts.iter().flat_map(|part| head(part).iter().copied()).collect(),
    }
}

/// Keys and values of each head of each sequence, where it is long enough.
pub fn pack_sequences(
    [k, v]: [Rows<'_>; 2],
    lengths: &[usize],
    tiling: Tiling,
) -> Vec<Option<Packed>> {
    let starts = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some((*end - length, *length))
    });
    let jobs = starts.flat_map(|(start, length)| (0..k.heads).map(move |h| (h, start, length)));
    let jobs: Vec<_> = jobs.collect();
    let pack = |(head, start, length)| {
        let (keys, values) = (k.head(head, start, length), v.head(head, start, length));
        (length >= TILE_ROWS).then(|| Packed::new(keys, values, tiling))
    };
    jobs.into_par_iter().map(pack).collect()
}
