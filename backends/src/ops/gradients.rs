//! Gradients of the operations, on plain (untracked) tensors. A backend that can do better overrides them.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Shape};

use super::reference::{Block, SCORE_BUDGET, cast, slice_rows};
use super::{ModelOps, reference};

/// Gradients of [`ModelOps`]: `grad` is that of the result, and one gradient per differentiable input comes back.
pub trait ModelGradients: ModelOps {
    /// With respect to `x` of `x · weightᵀ`.
    fn linear_input_grad(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let weight = cast::<Self>(weight, grad.dtype());
        Self::product(grad, weight)
    }

    /// With respect to `weight` of `x · weightᵀ`, in `dtype`.
    fn linear_weight_grad(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        dtype: DType,
    ) -> FloatTensor<Self> {
        cast::<Self>(Self::product(Self::float_transpose(grad), x), dtype)
    }

    /// With respect to the bias of `x · weightᵀ + bias`, in `dtype`.
    fn bias_grad(grad: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        let width = grad.shape()[1];
        let sum = Self::float_sum_dim(cast::<Self>(grad, DType::F32), 0);
        cast::<Self>(Self::float_reshape(sum, Shape::new([width])), dtype)
    }

    /// With respect to `q`, `k` and `v` of sequences that lie one after the other.
    fn packed_attention_grads(
        qkv: [FloatTensor<Self>; 3],
        lengths: &[usize],
        causal: bool,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        packed_attention::<Self>(qkv, lengths, causal, grad)
    }

    /// With respect to queries, keys and values side by side, before they are rotated.
    fn rotary_attention_grad(
        qkv: FloatTensor<Self>,
        angles: [FloatTensor<Self>; 2],
        lengths: &[usize],
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        rotary_attention::<Self>(qkv, angles, lengths, grad)
    }

    /// With respect to `x`, `weight` and `bias`.
    fn layer_norm_grads(
        x: FloatTensor<Self>,
        affine: [FloatTensor<Self>; 2],
        epsilon: f64,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        layer_norm::<Self>(x, affine, epsilon, grad)
    }

    /// With respect to `gate` and `up`.
    fn swiglu_grads(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        swiglu::<Self>(gate, up, grad)
    }

    /// With respect to `q`, `k` and `v`.
    fn attention_grads(
        qkv: [FloatTensor<Self>; 3],
        causal: bool,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        attention::<Self>(qkv, causal, grad)
    }

    /// With respect to `x` and `weight`.
    fn rms_norm_grads(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        rms_norm::<Self>(x, weight, epsilon, grad)
    }

    /// With respect to the input of the exact GELU.
    fn gelu_exact_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_mul(grad, reference::gelu_slope::<Self>(x))
    }

    /// With respect to the input of the GELU by tanh.
    fn gelu_by_tanh_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_mul(grad, reference::gelu_tanh_slope::<Self>(x))
    }

    /// With respect to `hidden`, and to `weight` where that is wanted.
    fn cross_entropy_grads(
        inputs: HeadInputs<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        cross_entropy::<Self>(inputs, grad)
    }
}

/// What [`ModelOps::linear_cross_entropy`] was computed from.
#[derive(Debug, Clone)]
pub struct HeadInputs<B: Backend> {
    pub hidden: FloatTensor<B>,
    pub weight: FloatTensor<B>,
    pub targets: IntTensor<B>,
    /// Whether the gradient of `weight` is wanted: it is as large as the head.
    pub of_weight: bool,
}

/// With `s = σ(gate)`: `dgate = g·up·s·(1 + gate·(1 − s))`, `dup = g·gate·s`.
pub fn swiglu<B: ModelOps>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 2] {
    let share = B::sigmoid(gate.clone());
    let rest = B::float_add_scalar(B::float_neg(share.clone()), 1.0.into());
    let slope = B::float_add_scalar(B::float_mul(gate.clone(), rest), 1.0.into());
    let slope = B::float_mul(share.clone(), slope);
    let for_gate = B::float_mul(B::float_mul(grad.clone(), up), slope);
    [for_gate, B::float_mul(grad, B::float_mul(gate, share))]
}

/// `dx = (g·w − mean(g·w) − x̂·mean(g·w·x̂)) / root`; `dw = Σ g·x̂`, `db = Σ g` over the rows.
pub fn layer_norm<B: ModelOps>(
    x: FloatTensor<B>,
    [weight, bias]: [FloatTensor<B>; 2],
    epsilon: f64,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let (dtype, weight_dtype, bias_dtype) = (x.dtype(), weight.dtype(), bias.dtype());
    let width = x.shape()[1];
    let (x, grad) = (cast::<B>(x, DType::F32), cast::<B>(grad, DType::F32));
    let weight = B::float_reshape(cast::<B>(weight, DType::F32), Shape::new([1, width]));
    let (normed, root) = reference::standardised::<B>(x, epsilon);
    let scaled = B::float_mul(grad.clone(), weight);
    let mean = B::float_mean_dim(scaled.clone(), 1);
    let share = B::float_mean_dim(B::float_mul(scaled.clone(), normed.clone()), 1);
    let along = B::float_mul(normed.clone(), share);
    let for_x = B::float_div(B::float_sub(B::float_sub(scaled, mean), along), root);
    let flat =
        |t, dtype| cast::<B>(B::float_reshape(B::float_sum_dim(t, 0), Shape::new([width])), dtype);
    let for_weight = flat(B::float_mul(grad.clone(), normed), weight_dtype);
    [cast::<B>(for_x, dtype), for_weight, flat(grad, bias_dtype)]
}

/// Sequence by sequence, those of equal length as one batch.
pub fn packed_attention<B: ModelGradients>(
    qkv: [FloatTensor<B>; 3],
    lengths: &[usize],
    causal: bool,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let grad = B::float_reshape(grad, qkv[0].shape());
    let mut parts: [Vec<FloatTensor<B>>; 3] = Default::default();
    for run in reference::runs(lengths) {
        let inputs = qkv.each_ref().map(|x| reference::by_head::<B>(x.clone(), run));
        let grad = reference::by_head::<B>(grad.clone(), run);
        let found = B::attention_grads(inputs, causal, grad);
        for (parts, found) in parts.iter_mut().zip(found) {
            parts.push(reference::by_row::<B>(found));
        }
    }
    parts.map(reference::joined::<B>)
}

/// The gradients of rotated queries and keys are turned back.
pub fn rotary_attention<B: ModelGradients>(
    qkv: FloatTensor<B>,
    angles: [FloatTensor<B>; 2],
    lengths: &[usize],
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    let [rows, wide] = qkv.shape().dims();
    let inputs = reference::rotated::<B>(qkv, angles.clone());
    let [q, k, v] = B::packed_attention_grads(inputs, lengths, false, grad);
    let [cos, sin] = angles;
    let sin = B::float_neg(sin);
    let turned = [q, k].map(|x| B::rotate_halves(x, cos.clone(), sin.clone()));
    let flat = |x| B::float_reshape(x, Shape::new([rows, wide / 3]));
    let parts = turned.into_iter().chain([v]).map(flat);
    B::float_cat(parts.collect(), 1)
}

/// `dx = r·(g·w) − x·r³·mean(g·w·x)` with `r = 1/sqrt(mean(x²) + ε)`; `dw = Σ g·x·r` over the rows.
pub fn rms_norm<B: ModelOps>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    epsilon: f64,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 2] {
    let (shape, dtype, weight_dtype) = (x.shape(), x.dtype(), weight.dtype());
    let width = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / width.max(1);
    let flat = |t| cast::<B>(B::float_reshape(t, Shape::new([rows, width])), DType::F32);
    let (x, grad) = (flat(x), flat(grad));
    let weight = B::float_reshape(cast::<B>(weight, DType::F32), Shape::new([1, width]));
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 1);
    let r = B::float_recip(B::float_sqrt(B::float_add_scalar(mean, epsilon.into())));
    let normed = B::float_mul(x, r.clone());
    let for_weight = B::float_sum_dim(B::float_mul(grad.clone(), normed.clone()), 0);
    let scaled = B::float_mul(grad, weight);
    let share = B::float_mean_dim(B::float_mul(scaled.clone(), normed.clone()), 1);
    let for_x = B::float_mul(B::float_sub(scaled, B::float_mul(normed, share)), r);
    [
        cast::<B>(B::float_reshape(for_x, shape), dtype),
        cast::<B>(B::float_reshape(for_weight, Shape::new([width])), weight_dtype),
    ]
}

/// Softmax attention backwards, the weights computed again for a block of query rows at a time.
pub fn attention<B: ModelOps>(
    [q, k, v]: [FloatTensor<B>; 3],
    causal: bool,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let dtype = q.dtype();
    let [b, h, s, d] = q.shape().dims();
    let [_, g, t, _] = k.shape().dims();
    let rep = h / g;
    let wide = |x, heads, rows| {
        cast::<B>(B::float_reshape(x, Shape::new([b * g, heads, rows, d])), DType::F32)
    };
    let (q, grad) = (wide(q, rep, s), wide(grad, rep, s));
    let (k, v) = (wide(k, 1, t), wide(v, 1, t));
    let rows = (SCORE_BUDGET / (b * h * t).max(1)).clamp(1, s);
    let device = q.device();
    let zeros = || B::float_zeros(k.shape(), &device, FloatDType::F32);
    let (mut for_k, mut for_v) = (zeros(), zeros());
    let mut for_q = Vec::with_capacity(s.div_ceil(rows));
    for start in (0..s).step_by(rows) {
        let end = (start + rows).min(s);
        let block = Block { causal_from: causal.then(|| t - s + start) };
        let (q, grad) =
            (slice_rows::<B>(q.clone(), start, end), slice_rows::<B>(grad.clone(), start, end));
        let [dq, dk, dv] = block_grads::<B>([q, k.clone(), v.clone()], block, grad);
        for_q.push(dq);
        for_k = B::float_add(for_k, dk);
        for_v = B::float_add(for_v, dv);
    }
    let for_q = if for_q.len() == 1 { for_q.remove(0) } else { B::float_cat(for_q, 2) };
    let back =
        |x, heads, rows| cast::<B>(B::float_reshape(x, Shape::new([b, heads, rows, d])), dtype);
    [back(for_q, h, s), back(for_k, g, t), back(for_v, g, t)]
}

/// With `p = softmax(q·kᵀ·scale)`: `dv = pᵀ·g`, `ds = p ∘ (g·vᵀ − Σ p∘(g·vᵀ))`, `dq = ds·k·scale`, `dk = dsᵀ·q·scale`;
/// the query heads of a group share its keys, so their contributions are summed.
fn block_grads<B: ModelOps>(
    [q, k, v]: [FloatTensor<B>; 3],
    block: Block,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let scale = (q.shape()[3] as f64).powf(-0.5);
    let p = reference::attention_weights::<B>(q.clone(), k.clone(), block);
    let dv = B::product(B::float_transpose(p.clone()), grad.clone());
    let dp = B::product(grad, B::float_transpose(v));
    let mean = B::float_sum_dim(B::float_mul(p.clone(), dp.clone()), 3);
    let ds = B::float_mul_scalar(B::float_mul(p, B::float_sub(dp, mean)), scale.into());
    let dq = B::product(ds.clone(), k);
    let dk = B::product(B::float_transpose(ds), q);
    [dq, B::float_sum_dim(dk, 1), B::float_sum_dim(dv, 1)]
}

/// `dlogits = (softmax − onehot)·g` for a chunk of rows at a time; `dh = dlogits·W`, `dW = dlogitsᵀ·h`.
pub fn cross_entropy<B: ModelGradients>(
    inputs: HeadInputs<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let HeadInputs { hidden, weight, targets, of_weight } = inputs;
    let (dtype, weight_dtype) = (hidden.dtype(), weight.dtype());
    let [rows, _] = hidden.shape().dims();
    let chunk = reference::logit_rows(rows, weight.shape()[0]);
    let device = hidden.device();
    let mut for_weight =
        of_weight.then(|| B::float_zeros(weight.shape(), &device, FloatDType::F32));
    let mut for_hidden = Vec::with_capacity(rows.div_ceil(chunk));
    for start in (0..rows).step_by(chunk) {
        let end = (start + chunk).min(rows);
        let h = reference::slice_first::<B>(hidden.clone(), start, end);
        let picked = reference::slice_targets::<B>(targets.clone(), start, end);
        let g = reference::slice_first::<B>(
            B::float_reshape(grad.clone(), Shape::new([rows, 1])),
            start,
            end,
        );
        let (logits, top, sum) = reference::softmax_parts::<B>(h.clone(), weight.clone());
        let p = B::float_div(B::float_exp(B::float_sub(logits, top)), sum);
        let p = B::float_mul(p, g.clone());
        let dlogits = B::float_scatter(1, p, picked, B::float_neg(g), IndexingUpdateOp::Add);
        let dlogits = cast::<B>(dlogits, dtype);
        for_hidden.push(B::linear_input_grad(dlogits.clone(), weight.clone()));
        for_weight =
            for_weight.map(|sum| B::float_add(sum, B::linear_weight_grad(dlogits, h, DType::F32)));
    }
    let for_hidden =
        if for_hidden.len() == 1 { for_hidden.remove(0) } else { B::float_cat(for_hidden, 0) };
    (for_hidden, for_weight.map(|sum| cast::<B>(sum, weight_dtype)))
}
