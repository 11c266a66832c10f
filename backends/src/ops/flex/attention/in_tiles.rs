//! Attention in tiles, see [`tiles`](super::super::tiles): keys and values are packed once, tasks of twice as many query rows read them.

use std::borrow::Cow;

use rayon::prelude::*;

use super::super::TILE_ROWS;
use super::super::matmul::Matrix;
use super::super::panel::Tiling;
use super::super::tiles::attention::{Packed, attend};
use super::super::widen::Widen;
use super::{BLOCK, Head, Part, Rows, Sizes};

/// [`super::attention`] with keys and values that are packed once for the query heads that share them.
pub fn attention<W: Widen>(
    out: &mut [f32],
    q: &[f32],
    parts: &[Part<'_, W>],
    sizes: Sizes,
    tiling: Tiling,
) {
    let Sizes { heads, groups, s, t, d, causal } = sizes;
    let pack = |index: usize| {
        let (batch, group) = (index / groups, index % groups);
        let heads = parts.iter().map(|part| part.heads(batch, group, part.rows, d));
        let (keys, values): (Vec<_>, Vec<_>) = heads.unzip();
        let (keys, values) = (gathered(&keys), gathered(&values));
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

/// One head of the keys or values of all parts, in f32.
fn gathered<'p, W: Widen>(parts: &[Head<'p, W>]) -> Cow<'p, [f32]> {
    if let [part] = parts
        && let Some(plain) = part.plain()
    {
        return Cow::Borrowed(plain.values);
    }
    let mut all = Vec::with_capacity(parts.iter().map(|part| part.rows * part.d).sum());
    parts.iter().for_each(|part| part.append_to(&mut all));
    Cow::Owned(all)
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
