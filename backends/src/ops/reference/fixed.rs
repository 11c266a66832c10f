//! Steps on fixed tensors, generic over Burn's `Backend` trait.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{BoolDType, FloatDType, Shape};

use super::super::ModelOps;
use super::super::fixed::{Entering, FixedOps};
use super::attention::{scores, softmax};
use super::{Block, cast};

/// Body of [`crate::ops::fixed::FixedOps::rows_written`].
pub fn write_rows<B: Backend>(
    into: FloatTensor<B>,
    rows: FloatTensor<B>,
    at: FloatTensor<B>,
) -> FloatTensor<B> {
    let (shape, dtype) = (into.shape(), into.dtype());
    let [b, _, t, _] = shape.dims();
    let here = compared::<B>(at, [b, t], B::float_equal);
    let here = B::bool_expand(B::bool_reshape(here, Shape::new([b, 1, t, 1])), shape.clone());
    B::float_mask_where(into, here, B::float_expand(cast::<B>(rows, dtype), shape))
}

/// Body of [`crate::ops::fixed::FixedOps::heads_entered`]: one operation after the other.
pub fn enter<B: FixedOps>(
    [keys, values]: [FloatTensor<B>; 2],
    at: FloatTensor<B>,
    new: Entering<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let turned =
        |x, weight| B::norm_of_heads_rotated(x, weight, new.cos.clone(), new.sin.clone(), epsilon);
    let row = |x: FloatTensor<B>| {
        let [b, g, d] = x.shape().dims();
        B::float_reshape(x, Shape::new([b, g, 1, d]))
    };
    let queries = turned(new.queries, new.query_weight);
    let keys = B::rows_written(keys, row(turned(new.keys, new.key_weight)), at.clone());
    (queries, keys, B::rows_written(values, row(new.values), at))
}

/// Body of [`crate::ops::fixed::FixedOps::attention_up_to_places`]: every score in memory.
pub fn attention_up_to<B: ModelOps>(
    [q, k, v]: [FloatTensor<B>; 3],
    at: FloatTensor<B>,
) -> FloatTensor<B> {
    let ([b, h, s, d], [_, g, t, _]) = (q.shape().dims(), k.shape().dims());
    let behind = compared::<B>(at, [b, t], B::float_greater);
    let behind = B::bool_reshape(behind, Shape::new([b, 1, 1, t]));
    let behind = B::bool_expand(behind, Shape::new([b, g, h / g, t]));
    let behind = B::bool_reshape(behind, Shape::new([b * g, h / g, 1, t]));
    let grouped = |x: FloatTensor<B>| B::float_reshape(x, Shape::new([b * g, 1, t, d]));
    let q = B::float_reshape(q, Shape::new([b * g, h / g, s, d]));
    let (k, v) = (grouped(k), grouped(v));
    let scores = B::float_mask_fill(scores::<B>(q, k), behind, f32::NEG_INFINITY.into());
    let weights = softmax::<B>(scores, Block { causal_from: None });
    let out = B::product(cast::<B>(weights, v.dtype()), v);
    B::float_reshape(out, Shape::new([b, h, s, d]))
}

/// `[b, t]`: what comparing says of the places `0..t` and those of each batch.
fn compared<B: Backend>(
    at: FloatTensor<B>,
    [b, t]: [usize; 2],
    compare: fn(FloatTensor<B>, FloatTensor<B>, BoolDType) -> BoolTensor<B>,
) -> BoolTensor<B> {
    let (device, shape) = (at.device(), Shape::new([b, t]));
    let settings = get_or_init_device_settings::<B>(&device);
    let places = B::int_arange(0..t as i64, &device, settings.int_dtype);
    let places = B::int_into_float(places, FloatDType::F32);
    let places = B::float_expand(B::float_reshape(places, Shape::new([1, t])), shape.clone());
    let at = B::float_expand(B::float_reshape(at, Shape::new([b, 1])), shape);
    compare(places, at, settings.bool_dtype)
}
