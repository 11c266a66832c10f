//! Reference bodies, generic over Burn's `Backend` trait. Every kernel is tested against these.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{DType, FloatDType, Shape, Slice};

/// Most attention scores that exist at one time.
const SCORE_BUDGET: usize = 1 << 24;

/// Body of [`super::ModelOps::linear_nk`].
pub fn linear<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let weight = cast::<B>(weight, x.dtype());
    B::float_matmul(x, B::float_transpose(weight))
}

/// Body of [`super::ModelOps::rms_norm_rows`].
pub fn rms_norm<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let (shape, dtype) = (x.shape(), x.dtype());
    let last = shape.num_dims() - 1;
    let wide = cast::<B>(x, DType::F32);
    let mean = B::float_mean_dim(B::float_mul(wide.clone(), wide.clone()), last);
    let root = B::float_sqrt(B::float_add_scalar(mean, epsilon.into()));
    let normed = cast::<B>(B::float_div(wide, root), dtype);
    let mut row = vec![1; shape.num_dims()];
    row[last] = shape[last];
    B::float_mul(normed, B::float_reshape(cast::<B>(weight, dtype), Shape::from(row)))
}

/// Body of [`super::ModelOps::grouped_attention`]: query rows in blocks, each against the keys that it can see.
pub fn attention<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    causal: bool,
) -> FloatTensor<B> {
    let [b, h, s, d] = q.shape().dims();
    let [_, g, t, _] = k.shape().dims();
    let rep = h / g;
    let rows = (SCORE_BUDGET / (b * h * t).max(1)).clamp(1, s);
    let q = B::float_reshape(q, Shape::new([b * g, rep, s, d]));
    let k = B::float_reshape(k, Shape::new([b * g, 1, t, d]));
    let v = B::float_reshape(v, Shape::new([b * g, 1, t, d]));
    let mut blocks = Vec::with_capacity(s.div_ceil(rows));
    for start in (0..s).step_by(rows) {
        let end = (start + rows).min(s);
        let seen = if causal { t - s + end } else { t };
        let block = slice_rows::<B>(q.clone(), start, end);
        let (keys, values) =
            (slice_rows::<B>(k.clone(), 0, seen), slice_rows::<B>(v.clone(), 0, seen));
        blocks.push(attend::<B>(block, keys, values, causal && end - start > 1));
    }
    let out = if blocks.len() == 1 { blocks.remove(0) } else { B::float_cat(blocks, 2) };
    B::float_reshape(out, Shape::new([b, h, s, d]))
}

/// `softmax(q·kᵀ / sqrt(d)) · v` with every score in memory; causal is aligned at the bottom right.
fn attend<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    causal: bool,
) -> FloatTensor<B> {
    let dtype = q.dtype();
    let scale = (q.shape()[3] as f64).powf(-0.5);
    let scores = cast::<B>(B::float_matmul(q, B::float_transpose(k)), DType::F32);
    let mut scores = B::float_mul_scalar(scores, scale.into());
    if causal {
        let mask = future_mask::<B>(&scores);
        scores = B::float_mask_fill(scores, mask, f32::NEG_INFINITY.into());
    }
    let top = B::float_max_dim(scores.clone(), 3);
    let weights = B::float_exp(B::float_sub(scores, top));
    let sum = B::float_sum_dim(weights.clone(), 3);
    B::float_matmul(cast::<B>(B::float_div(weights, sum), dtype), v)
}

/// True where a key lies in the future of a query, for scores `[b, h, s, t]` of the last `s` positions.
fn future_mask<B: Backend>(scores: &FloatTensor<B>) -> BoolTensor<B> {
    let device = scores.device();
    let [b, h, s, t] = scores.shape().dims();
    let settings = get_or_init_device_settings::<B>(&device);
    let first = (t - s) as i64;
    let rows = B::int_arange(first..first + s as i64, &device, settings.int_dtype);
    let columns = B::int_arange(0..t as i64, &device, settings.int_dtype);
    let rows = B::int_reshape(rows, Shape::new([s, 1]));
    let columns = B::int_reshape(columns, Shape::new([1, t]));
    let mask = B::int_lower(rows, columns, settings.bool_dtype);
    B::bool_expand(B::bool_reshape(mask, Shape::new([1, 1, s, t])), Shape::new([b, h, s, t]))
}

fn slice_rows<B: Backend>(tensor: FloatTensor<B>, start: usize, end: usize) -> FloatTensor<B> {
    if start == 0 && end == tensor.shape()[2] {
        return tensor;
    }
    let full = Slice::from(..);
    let rows = Slice::from(start as isize..end as isize);
    B::float_slice(tensor, &[full, full, rows, full])
}

fn cast<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if tensor.dtype() == dtype {
        return tensor;
    }
    B::float_cast(tensor, FloatDType::from(dtype))
}
