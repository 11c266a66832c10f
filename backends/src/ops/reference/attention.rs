//! Softmax attention, generic over Burn's `Backend` trait.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{DType, Shape, Slice};

use super::super::{KvRows, ModelOps, Parts};
use super::{SCORE_BUDGET, cast, slice_rows};

/// Body of [`crate::ops::ModelOps::grouped_attention`].
pub fn attention<B: ModelOps>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    causal: bool,
) -> FloatTensor<B> {
    attention_over_parts::<B>(q, Parts::floats(vec![k], vec![v]), causal)
}

/// Body of [`crate::ops::ModelOps::attention_over_parts`]: keys and values in the dtype of `q`, and query rows in blocks,
/// each against the keys that it can see. Only scores are joined, never keys or values.
pub fn attention_over_parts<B: ModelOps>(
    q: FloatTensor<B>,
    Parts { keys, values }: Parts<B>,
    causal: bool,
) -> FloatTensor<B> {
    let ([b, h, s, d], dtype) = (q.shape().dims(), q.dtype());
    let expanded = |all: Vec<KvRows<B>>| {
        all.into_iter().map(|rows| B::expanded_kv(rows, d, dtype)).collect::<Vec<_>>()
    };
    let (keys, values) = (expanded(keys), expanded(values));
    let g = keys[0].shape()[1];
    let t = keys.iter().map(|part| part.shape()[2]).sum::<usize>();
    let rows = (SCORE_BUDGET / (b * h * t).max(1)).clamp(1, s);
    let q = B::float_reshape(q, Shape::new([b * g, h / g, s, d]));
    let grouped = |part: FloatTensor<B>| {
        let t = part.shape()[2];
        B::float_reshape(part, Shape::new([b * g, 1, t, d]))
    };
    let parts: Vec<_> =
        keys.into_iter().zip(values).map(|(k, v)| (grouped(k), grouped(v))).collect();
    let mut blocks = Vec::with_capacity(s.div_ceil(rows));
    for start in (0..s).step_by(rows) {
        let end = (start + rows).min(s);
        let seen = if causal { t - s + end } else { t };
        let block = slice_rows::<B>(q.clone(), start, end);
        let causal_from = (causal && end - start > 1).then(|| t - s + start);
        blocks.push(attend::<B>(block, seen_of::<B>(&parts, seen), Block { causal_from }));
    }
    let out = if blocks.len() == 1 { blocks.remove(0) } else { B::float_cat(blocks, 2) };
    B::float_reshape(out, Shape::new([b, h, s, d]))
}

/// Keys and values of the first `seen` positions.
type KeysAndValues<B> = Vec<(FloatTensor<B>, FloatTensor<B>)>;

fn seen_of<B: Backend>(
    parts: &[(FloatTensor<B>, FloatTensor<B>)],
    seen: usize,
) -> KeysAndValues<B> {
    let mut left = seen;
    let first = parts.iter().map_while(|(k, v)| {
        let rows = k.shape()[2].min(left);
        left -= rows;
        let first = |x: &FloatTensor<B>| slice_rows::<B>(x.clone(), 0, rows);
        (rows > 0).then(|| (first(k), first(v)))
    });
    first.collect()
}

/// A block of query rows over all that it sees.
fn attend<B: ModelOps>(q: FloatTensor<B>, parts: KeysAndValues<B>, block: Block) -> FloatTensor<B> {
    let scores = parts.iter().map(|(k, _)| scores::<B>(q.clone(), k.clone()));
    let mut scores: Vec<_> = scores.collect();
    let scores = if scores.len() == 1 { scores.remove(0) } else { B::float_cat(scores, 3) };
    let weights = softmax::<B>(scores, block);
    let mut first = 0;
    let outputs = parts.into_iter().map(|(_, v)| {
        let end = first + v.shape()[2];
        let mine = slice_columns::<B>(weights.clone(), first, end);
        first = end;
        B::product(cast::<B>(mine, v.dtype()), v)
    });
    outputs.reduce(B::float_add).expect("attention has keys")
}

/// Which keys the rows of a block may see.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Block {
    /// Position of the first row, where later positions are hidden.
    pub causal_from: Option<usize>,
}

/// `softmax(q·kᵀ / sqrt(d))` in f32, every score in memory.
pub(in crate::ops) fn attention_weights<B: ModelOps>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    block: Block,
) -> FloatTensor<B> {
    softmax::<B>(scores::<B>(q, k), block)
}

/// `q·kᵀ / sqrt(d)` in f32.
pub(super) fn scores<B: ModelOps>(q: FloatTensor<B>, k: FloatTensor<B>) -> FloatTensor<B> {
    let scale = (q.shape()[3] as f64).powf(-0.5);
    let scores = cast::<B>(B::product(q, B::float_transpose(k)), DType::F32);
    B::float_mul_scalar(scores, scale.into())
}

/// Softmax of the rows of scores, over what each may see.
pub(super) fn softmax<B: Backend>(mut scores: FloatTensor<B>, block: Block) -> FloatTensor<B> {
    if let Some(first) = block.causal_from {
        let mask = future_mask::<B>(&scores, first);
        scores = B::float_mask_fill(scores, mask, f32::NEG_INFINITY.into());
    }
    let top = B::float_max_dim(scores.clone(), 3);
    let weights = B::float_exp(B::float_sub(scores, top));
    let sum = B::float_sum_dim(weights.clone(), 3);
    B::float_div(weights, sum)
}

/// True where a key lies in the future of a query, for scores `[b, h, s, t]` of the positions from `first` on.
fn future_mask<B: Backend>(scores: &FloatTensor<B>, first: usize) -> BoolTensor<B> {
    let device = scores.device();
    let [b, h, s, t] = scores.shape().dims();
    let settings = get_or_init_device_settings::<B>(&device);
    let first = first as i64;
    let rows = B::int_arange(first..first + s as i64, &device, settings.int_dtype);
    let columns = B::int_arange(0..t as i64, &device, settings.int_dtype);
    let rows = B::int_reshape(rows, Shape::new([s, 1]));
    let columns = B::int_reshape(columns, Shape::new([1, t]));
    let mask = B::int_lower(rows, columns, settings.bool_dtype);
    B::bool_expand(B::bool_reshape(mask, Shape::new([1, 1, s, t])), Shape::new([b, h, s, t]))
}

fn slice_columns<B: Backend>(tensor: FloatTensor<B>, start: usize, end: usize) -> FloatTensor<B> {
    if start == 0 && end == tensor.shape()[3] {
        return tensor;
    }
    let full = Slice::from(..);
    let columns = Slice::from(start as isize..end as isize);
    B::float_slice(tensor, &[full, full, full, columns])
}
