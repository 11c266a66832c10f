//! Reference bodies, generic over Burn's `Backend` trait. Every kernel is tested against these.

mod attention;
mod draw;
mod fixed;
mod kept;
mod largest;
mod mixture;
mod rounded;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, Shape, Slice};

pub(super) use attention::{Block, attention_weights};
pub use attention::{attention, attention_over_parts};
pub use draw::draw_of_rows;
pub use fixed::{attention_up_to, enter, write_rows};
pub use kept::{expanded_kv, rows_in_bytes};
pub use largest::largest_of_rows;
pub use mixture::{mixture, mixture_of_codes};
pub use rounded::{
    expanded, gated_of_codes, linear_of_codes, linear_of_codes_in_shares, linear_of_three_codes,
};

use super::{ModelOps, Share};

/// Most attention scores that exist at one time.
pub(super) const SCORE_BUDGET: usize = 1 << 24;

/// Body of [`super::ModelOps::linear_nk`].
pub fn linear<B: ModelOps>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let weight = cast::<B>(weight, x.dtype());
    B::product(x, B::float_transpose(weight))
}

/// Body of [`super::ModelOps::linear_in_shares`]: one product per share.
pub fn linear_in_shares<B: ModelOps>(
    x: FloatTensor<B>,
    stack: FloatTensor<B>,
    shares: &[Share],
) -> FloatTensor<B> {
    by_shares::<B>(x, stack.shape()[1], shares, |x, expert| {
        let weight = B::float_slice(stack.clone(), &[one(expert)]);
        let [_, n, k] = weight.shape().dims();
        B::linear_nk(x, B::float_reshape(weight, Shape::new([n, k])))
    })
}

/// One index along an axis.
fn one(index: usize) -> Slice {
    Slice::from(index as isize..index as isize + 1)
}

/// What `product` makes of each share's rows, `[.., width]`, one after the other.
pub(super) fn by_shares<B: Backend>(
    x: FloatTensor<B>,
    width: usize,
    shares: &[Share],
    product: impl Fn(FloatTensor<B>, usize) -> FloatTensor<B>,
) -> FloatTensor<B> {
    let mut first = 0;
    let parts = shares.iter().map(|share| {
        let rows = Slice::from(first as isize..(first + share.rows) as isize);
        first += share.rows;
        product(B::float_slice(x.clone(), &[rows]), share.expert)
    });
    let mut parts: Vec<FloatTensor<B>> = parts.collect();
    match parts.len() {
        0 => B::float_zeros(Shape::new([0, width]), &x.device(), x.dtype().into()),
        1 => parts.remove(0),
        _ => B::float_cat(parts, 0),
    }
}

/// Some columns of a matrix.
fn columns<B: Backend>(x: FloatTensor<B>, range: std::ops::Range<usize>) -> FloatTensor<B> {
    let range = Slice::from(range.start as isize..range.end as isize);
    B::float_slice(x, &[Slice::from(..), range])
}

/// Body of [`super::ModelOps::affine_nk`].
pub fn affine<B: ModelOps>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    let y = B::linear_nk(x, weight);
    let (bias, width) = (cast::<B>(bias, y.dtype()), y.shape()[1]);
    B::float_add(y, B::float_reshape(bias, Shape::new([1, width])))
}

/// Body of [`super::ModelOps::gated_silu`].
pub fn swiglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let share = B::sigmoid(gate.clone());
    B::float_mul(B::float_mul(gate, share), up)
}

/// Body of [`super::ModelOps::layer_norm_rows`].
pub fn layer_norm<B: Backend>(
    x: FloatTensor<B>,
    [weight, bias]: [FloatTensor<B>; 2],
    epsilon: f64,
) -> FloatTensor<B> {
    let (dtype, width) = (x.dtype(), x.shape()[1]);
    let (normed, _) = standardised::<B>(cast::<B>(x, DType::F32), epsilon);
    let row = |t| B::float_reshape(cast::<B>(t, DType::F32), Shape::new([1, width]));
    cast::<B>(B::float_add(B::float_mul(normed, row(weight)), row(bias)), dtype)
}

/// Rows of mean 0 and variance 1, and the roots of their variances, `[n, 1]`.
pub(super) fn standardised<B: Backend>(
    x: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let centred = B::float_sub(x.clone(), B::float_mean_dim(x, 1));
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let root = B::float_sqrt(B::float_add_scalar(variance, epsilon.into()));
    (B::float_div(centred, root.clone()), root)
}

/// Body of [`super::ModelOps::rotate_halves`].
pub fn rotate<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    let (dtype, half) = (x.dtype(), cos.shape()[2]);
    let x = cast::<B>(x, cos.dtype());
    let full = Slice::from(..);
    let part = |start: usize| {
        let range = Slice::from(start as isize..(start + half) as isize);
        B::float_slice(x.clone(), &[full, full, range])
    };
    let (a, b) = (part(0), part(half));
    let first =
        B::float_sub(B::float_mul(a.clone(), cos.clone()), B::float_mul(b.clone(), sin.clone()));
    let second = B::float_add(B::float_mul(b, cos), B::float_mul(a, sin));
    cast::<B>(B::float_cat(vec![first, second], 2), dtype)
}

/// Body of [`super::ModelOps::attention_in_sequences`].
pub fn packed_attention<B: ModelOps>(
    [q, k, v]: [FloatTensor<B>; 3],
    lengths: &[usize],
    causal: bool,
) -> FloatTensor<B> {
    let [rows, heads, d] = q.shape().dims();
    let parts = runs(lengths).map(|run| {
        let [q, k, v] = [&q, &k, &v].map(|x| by_head::<B>(x.clone(), run));
        by_row::<B>(B::grouped_attention(q, k, v, causal))
    });
    B::float_reshape(joined::<B>(parts.collect()), Shape::new([rows, heads * d]))
}

/// Body of [`super::ModelOps::attention_of_rotated`].
pub fn rotary_attention<B: ModelOps>(
    qkv: FloatTensor<B>,
    angles: [FloatTensor<B>; 2],
    lengths: &[usize],
) -> FloatTensor<B> {
    let [q, k, v] = rotated::<B>(qkv, angles);
    B::attention_in_sequences(q, k, v, lengths.to_vec(), false)
}

/// Queries and keys rotated, and values, `[n, h, d]` each.
pub(super) fn rotated<B: ModelOps>(
    qkv: FloatTensor<B>,
    [cos, sin]: [FloatTensor<B>; 2],
) -> [FloatTensor<B>; 3] {
    let ([rows, wide], d) = (qkv.shape().dims(), 2 * cos.shape()[2]);
    let width = wide / 3;
    let part = |i: usize| {
        let columns = Slice::from((i * width) as isize..((i + 1) * width) as isize);
        let part = B::float_slice(qkv.clone(), &[Slice::from(..), columns]);
        B::float_reshape(part, Shape::new([rows, width / d, d]))
    };
    let turn = |x| B::rotate_halves(x, cos.clone(), sin.clone());
    [turn(part(0)), turn(part(1)), part(2)]
}

/// Consecutive sequences of equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub start: usize,
    pub count: usize,
    pub length: usize,
}

/// Sequences of equal length attend as one batch.
pub(super) fn runs(lengths: &[usize]) -> impl Iterator<Item = Run> {
    let mut start = 0;
    lengths.chunk_by(|a, b| a == b).map(move |equal| {
        let run = Run { start, count: equal.len(), length: equal[0] };
        start += run.count * run.length;
        run
    })
}

/// The rows of a run of `x [n, h, d]` as `[count, h, length, d]`.
pub(super) fn by_head<B: Backend>(x: FloatTensor<B>, run: Run) -> FloatTensor<B> {
    let [rows, heads, d] = x.shape().dims();
    let (start, end) = (run.start, run.start + run.count * run.length);
    let full = Slice::from(..);
    let x = match (start, end) {
        (0, end) if end == rows => x,
        _ => B::float_slice(x, &[Slice::from(start as isize..end as isize), full, full]),
    };
    let x = B::float_reshape(x, Shape::new([run.count, run.length, heads, d]));
    B::float_swap_dims(x, 1, 2)
}

/// The way back: `[count, h, length, d]` as `[count · length, h, d]`.
pub(super) fn by_row<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let [count, heads, length, d] = x.shape().dims();
    B::float_reshape(B::float_swap_dims(x, 1, 2), Shape::new([count * length, heads, d]))
}

pub(super) fn joined<B: Backend>(mut parts: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    if parts.len() == 1 { parts.remove(0) } else { B::float_cat(parts, 0) }
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

/// Body of [`super::ModelOps::sum_and_norm`].
pub fn add_rms_norm<B: ModelOps>(
    [x, y]: [FloatTensor<B>; 2],
    weight: FloatTensor<B>,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let sum = B::float_add(x, y);
    (sum.clone(), B::rms_norm_rows(sum, weight, epsilon))
}

/// Body of [`super::ModelOps::norm_of_heads_rotated`].
pub fn rms_norm_rotated<B: ModelOps>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    [cos, sin]: [FloatTensor<B>; 2],
    epsilon: f64,
) -> FloatTensor<B> {
    B::rotate_halves(B::rms_norm_rows(x, weight, epsilon), cos, sin)
}

/// `√(2/π)`.
pub(super) const GELU_SLOPE: f64 =
    std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
pub(super) const GELU_CUBE: f64 = 0.044_715;

/// Body of [`super::ModelOps::gelu_by_tanh`].
pub fn gelu_tanh<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let (_, tanh) = gelu_parts::<B>(x.clone());
    let sum = B::float_add_scalar(tanh, 1.0.into());
    B::float_mul_scalar(B::float_mul(x, sum), 0.5.into())
}

/// `x²`, and the hyperbolic tangent inside of the approximation.
fn gelu_parts<B: Backend>(x: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let square = B::float_mul(x.clone(), x.clone());
    let factor = B::float_mul_scalar(square.clone(), (GELU_CUBE * GELU_SLOPE).into());
    let factor = B::float_add_scalar(factor, GELU_SLOPE.into());
    (square, B::float_tanh(B::float_mul(x, factor)))
}

/// Derivative of [`gelu_tanh`] at `x`.
pub(super) fn gelu_tanh_slope<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let (square, tanh) = gelu_parts::<B>(x.clone());
    let inner = B::float_mul_scalar(square, (3.0 * GELU_CUBE * GELU_SLOPE).into());
    let inner = B::float_add_scalar(inner, GELU_SLOPE.into());
    let rest = B::float_mul(tanh.clone(), tanh.clone());
    let rest = B::float_add_scalar(B::float_neg(rest), 1.0.into());
    let bend = B::float_mul(B::float_mul(x, inner), rest);
    B::float_mul_scalar(B::float_add_scalar(B::float_add(tanh, bend), 1.0.into()), 0.5.into())
}

/// Derivative of the exact GELU at `x`: the normal distribution's integral plus `x` times its density.
pub(super) fn gelu_slope<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let density = B::float_mul_scalar(B::float_mul(x.clone(), x.clone()), (-0.5).into());
    let density = B::float_mul_scalar(B::float_exp(density), (0.5 * GELU_SLOPE).into());
    let erf = B::float_mul_scalar(x.clone(), std::f64::consts::FRAC_1_SQRT_2.into());
    let integral = B::float_add_scalar(B::float_erf(erf), 1.0.into());
    let integral = B::float_mul_scalar(integral, 0.5.into());
    B::float_add(integral, B::float_mul(x, density))
}

pub(super) fn slice_rows<B: Backend>(
    tensor: FloatTensor<B>,
    start: usize,
    end: usize,
) -> FloatTensor<B> {
    if start == 0 && end == tensor.shape()[2] {
        return tensor;
    }
    let full = Slice::from(..);
    let rows = Slice::from(start as isize..end as isize);
    B::float_slice(tensor, &[full, full, rows, full])
}

pub(super) fn cast<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if tensor.dtype() == dtype {
        return tensor;
    }
    B::float_cast(tensor, FloatDType::from(dtype))
}

/// Most logits that exist at one time.
const LOGIT_BUDGET: usize = 1 << 24;

/// Body of [`super::ModelOps::linear_cross_entropy`]: `log Σ exp(logits) − logits[target]`.
pub fn cross_entropy<B: ModelOps>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
    targets: IntTensor<B>,
) -> FloatTensor<B> {
    let [rows, _] = hidden.shape().dims();
    let chunk = logit_rows(rows, weight.shape()[0]);
    let mut losses = Vec::with_capacity(rows.div_ceil(chunk));
    for start in (0..rows).step_by(chunk) {
        let end = (start + chunk).min(rows);
        let hidden = slice_first::<B>(hidden.clone(), start, end);
        let targets = slice_targets::<B>(targets.clone(), start, end);
        let (logits, top, sum) = softmax_parts::<B>(hidden, weight.clone());
        let picked = B::float_gather(1, logits, targets);
        losses.push(B::float_sub(B::float_add(B::float_log(sum), top), picked));
    }
    let losses = if losses.len() == 1 { losses.remove(0) } else { B::float_cat(losses, 0) };
    B::float_reshape(losses, Shape::new([rows]))
}

/// Logits in f32, the largest of each row, and the row sums of `exp(logits − largest)`.
pub(super) fn softmax_parts<B: ModelOps>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let logits = cast::<B>(B::linear_nk(hidden, weight), DType::F32);
    let top = B::float_max_dim(logits.clone(), 1);
    let exp = B::float_exp(B::float_sub(logits.clone(), top.clone()));
    (logits, top, B::float_sum_dim(exp, 1))
}

/// Rows whose logits are computed together.
pub(super) fn logit_rows(rows: usize, vocabulary: usize) -> usize {
    (LOGIT_BUDGET / vocabulary.max(1)).clamp(1, rows.max(1))
}

/// Rows `start..end` of a matrix.
pub(super) fn slice_first<B: Backend>(
    tensor: FloatTensor<B>,
    start: usize,
    end: usize,
) -> FloatTensor<B> {
    B::float_slice(tensor, &[Slice::from(start as isize..end as isize), Slice::from(..)])
}

/// Targets `start..end` as a column.
pub(super) fn slice_targets<B: Backend>(
    targets: IntTensor<B>,
    start: usize,
    end: usize,
) -> IntTensor<B> {
    let part = B::int_slice(targets, &[Slice::from(start as isize..end as isize)]);
    B::int_reshape(part, Shape::new([end - start, 1]))
}
