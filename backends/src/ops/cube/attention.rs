//! Which kernel attends, and over what.

use burn::backend::TensorMetadata;
use burn::tensor::Shape;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::elementwise;
use super::heads::{Heads, Sums};
use super::launch::empty;
use super::split::{self, KeysAndValues};
use super::tile_kernel::ROWS;
use super::tiles::{Sequence, Target, Tiles};

/// Fewest keys of a part of a long past that query tiles share among them.
const SHARE: usize = 512;

/// As many cubes keep a large device busy.
const BUSY: usize = 256;

/// Whether all have the dtype of the first, and shapes that belong together.
pub(super) fn alike(q: &CubeTensor, parts: &[KeysAndValues]) -> bool {
    let [b, h, _, d] = q.shape().dims();
    let groups = parts[0].0.shape()[1];
    h.is_multiple_of(groups)
        && parts.iter().all(|(k, v)| {
            let t = k.shape()[2];
            let whole = |x: &CubeTensor| x.shape().dims() == [b, groups, t, d];
            k.dtype == q.dtype && v.dtype == q.dtype && whole(k) && whole(v)
        })
}

/// [`crate::ops::attention_over_parts`]; nothing where no kernel fits.
pub(super) fn over_parts(
    q: &CubeTensor,
    parts: &[KeysAndValues],
    causal: bool,
) -> Option<CubeTensor> {
    let [_, h, s, _] = q.shape().dims();
    match h / parts[0].0.shape()[1] * s {
        rows if rows <= split::MOST_ROWS => split::attention(q, parts, causal),
        _ => by_tiles(q, parts, causal),
    }
}

/// [`crate::ops::fixed::attention_up_to`]; nothing where no kernel fits.
pub(super) fn up_to(q: &CubeTensor, both: &KeysAndValues, at: &CubeTensor) -> Option<CubeTensor> {
    let [b, h, s, _] = q.shape().dims();
    let fits = s == 1 && at.shape().dims() == [b] && h / both.0.shape()[1] <= split::MOST_ROWS;
    fits.then(|| split::attention_up_to(q, both, at)).flatten()
}

/// Keys and values from one position of a part on.
struct Piece {
    k: Heads,
    v: Heads,
    keys: usize,
    /// Keys of all parts before them.
    before: usize,
}

/// Parts, and where there are few tiles of query rows, shares of them, so that more cubes have work.
fn pieces(parts: &[KeysAndValues], cubes: usize) -> Vec<Piece> {
    let lengths = || parts.iter().map(|(k, _)| k.shape()[2]);
    let share = (lengths().sum::<usize>() * cubes / BUSY).max(SHARE);
    let mut before = 0;
    let mut all = Vec::new();
    for ((k, v), length) in parts.iter().zip(lengths()) {
        let share = if cubes < BUSY { share } else { length };
        for first in (0..length).step_by(share) {
            let heads = |x: &CubeTensor| {
                let heads = Heads::of_batches(x.clone());
                Heads { start: first * heads.row, ..heads }
            };
            let keys = (length - first).min(share);
            all.push(Piece { k: heads(k), v: heads(v), keys, before });
            before += keys;
        }
    }
    all
}

fn by_tiles(q: &CubeTensor, parts: &[KeysAndValues], causal: bool) -> Option<CubeTensor> {
    let ([b, h, s, d], shape, dtype) = (q.shape().dims(), q.shape(), q.dtype);
    let groups = parts[0].0.shape()[1];
    let pieces = pieces(parts, b * h * s.div_ceil(ROWS));
    let (splits, t) = (pieces.len(), pieces.iter().map(|piece| piece.keys).sum::<usize>());
    let sums = (splits > 1).then(|| Sums::new(q, [b * h * s, splits, d]));
    let out = sums.is_none().then(|| empty(q, shape.clone(), dtype));
    let q = Heads::of_batches(q.clone());
    for (split, Piece { k, v, keys, before }) in pieces.into_iter().enumerate() {
        let seen = causal.then_some((t + 1) as i32 - (s + before) as i32);
        let sequence = |i: usize| {
            let out = (i * h * s * splits + split) * d;
            let starts = [i * q.batch, k.start + i * k.batch, v.start + i * v.batch, out];
            Sequence { starts, rows: s, keys, seen }
        };
        let sequences: Vec<_> = (0..b).map(sequence).collect();
        let repeats = h / groups;
        let tiles = Tiles { q: &q, k: &k, v: &v, heads: h, repeats, d, sequences: &sequences };
        tiles.fit().then_some(())?;
        tiles.launch(match (&sums, &out) {
            (None, Some(out)) => Target::Rows { out, row: d, head: s * d },
            (sums, _) => Target::Part { sums: sums.as_ref()?, queries: s },
        });
    }
    out.or_else(|| Some(sums?.combined(shape, dtype)))
}

/// Sequences one after the other, every row of which begins where `heads` say.
fn sequences(heads: [&Heads; 3], width: usize, lengths: &[usize], causal: bool) -> Vec<Sequence> {
    let mut first = 0;
    let sequence = |length: &usize| {
        let [q, k, v] = heads.map(|heads| heads.start + first * heads.row);
        let starts = [q, k, v, first * width];
        first += length;
        Sequence { starts, rows: *length, keys: *length, seen: causal.then_some(1) }
    };
    lengths.iter().map(sequence).collect()
}

/// [`crate::ops::packed_attention`] of heads of rows; nothing where no kernel fits.
fn packed_heads(
    heads: [Heads; 3],
    [h, g, d]: [usize; 3],
    lengths: &[usize],
    causal: bool,
) -> Option<CubeTensor> {
    let [q, k, v] = &heads;
    let sequences = sequences([q, k, v], h * d, lengths, causal);
    let tiles = Tiles { q, k, v, heads: h, repeats: h / g, d, sequences: &sequences };
    if !tiles.fit() {
        return None;
    }
    let rows = lengths.iter().sum();
    let out = empty(&q.tensor, Shape::new([rows, h * d]), q.tensor.dtype);
    tiles.launch(Target::Rows { out: &out, row: h * d, head: d });
    Some(out)
}

/// [`crate::ops::packed_attention`]; nothing where no kernel fits.
pub(super) fn packed(qkv: [CubeTensor; 3], lengths: &[usize], causal: bool) -> Option<CubeTensor> {
    let [n, h, d] = qkv[0].shape().dims();
    let g = qkv[1].shape()[1];
    let whole = qkv[1..].iter().all(|x| x.shape().dims() == [n, g, d]);
    let alike = qkv.iter().all(|x| x.dtype == qkv[0].dtype);
    let fits = whole && alike && h.is_multiple_of(g) && lengths.iter().sum::<usize>() == n;
    fits.then(|| packed_heads(qkv.map(Heads::of_rows), [h, g, d], lengths, causal)).flatten()
}

/// [`crate::ops::rotary_attention`]: queries and keys are rotated together, values are read where they lie.
pub(super) fn rotary(
    qkv: &CubeTensor,
    [cos, sin]: [&CubeTensor; 2],
    lengths: &[usize],
) -> Option<CubeTensor> {
    let ([n, wide], d) = (qkv.shape().dims(), 2 * cos.shape()[2]);
    let whole = [cos, sin].iter().all(|x| x.shape().dims() == [n, 1, d / 2]);
    let fits = whole && cos.dtype == sin.dtype && wide.is_multiple_of(3 * d);
    if !fits || lengths.iter().sum::<usize>() != n {
        return None;
    }
    let (width, heads, qkv) = (wide / 3, wide / 3 / d, into_contiguous(qkv.clone()));
    let (client, device) = (qkv.client.clone(), qkv.device.clone());
    let shape = Shape::new([n, 3 * heads, d]);
    let all = CubeTensor::new_contiguous(client, device, shape, qkv.handle, qkv.dtype);
    let turned = elementwise::rotate_first(all.clone(), 2 * heads, [cos.clone(), sin.clone()]);
    let part =
        |x: &CubeTensor, start, row| Heads { tensor: x.clone(), start, batch: 0, head: d, row };
    let q = part(&turned, 0, 2 * width);
    let k = part(&turned, width, 2 * width);
    let v = part(&all, 2 * width, wide);
    packed_heads([q, k, v], [heads, heads, d], lengths, false)
}
