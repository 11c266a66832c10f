//! Overrides for Flex, the fast CPU backend.
//!
//! Burn's own bf16 product converts both operands on every call and its matrix-vector product runs on one
//! thread. Here weights stay in the file's dtype and order: few rows go through a dot-product kernel on all
//! cores, many rows through tiles of bf16 where the processor is fast at them, else through f32 GEMM over converted panels.

mod attention;
mod dot;
#[cfg(test)]
mod edges;
mod elementwise;
mod experts;
mod filled;
mod gradients;
mod half;
#[cfg(test)]
mod levels;
mod loss;
mod matmul;
mod norms;
mod panel;
mod products;
mod quantised;
#[cfg(target_arch = "x86_64")]
mod registers;
mod rotary;
mod softmax;
mod sums;
mod tensors;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod turned;
mod update;
mod widen;

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Bytes, DType, Shape, bf16, f16};
use rayon::prelude::*;

use super::update::{AdamWStep, Moved, UpdateOps};
use super::{ModelOps, Parts, RoundedStack, Share, kernels_on, reference};
use crate::quant::QuantScheme;
use products::{affine_product, matrix_product, product_of_codes};
use quantised::Scales;
use rotary::Angles;
use tensors::{Turned, bytes_of, f32_tensor, head_rows, own_values, rows_of, slices};
use widen::Widen;

/// The same where weights, or keys and values, are packed into tiles.
const TILE_ROWS: usize = 16;

/// What an expression makes of the numbers of a contiguous tensor of f32, bf16 or f16.
macro_rules! widened {
    ($tensor:expr, |$values:ident| $made:expr) => {
        match $tensor.dtype() {
            DType::F32 => $tensor.as_slice::<f32>().map(|$values| $made),
            DType::BF16 => $tensor.as_slice::<bf16>().map(|$values| $made),
            DType::F16 => $tensor.as_slice::<f16>().map(|$values| $made),
            _ => None,
        }
    };
}
use widened;

impl ModelOps for Flex {
    fn linear_nk(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !kernels_on() || x.dtype() != DType::F32 {
            return reference::linear::<Self>(x, weight);
        }
        let x = x.to_contiguous();
        let out = widened!(weight, |w| product(rows_of(&x), w, None, &weight));
        out.unwrap_or_else(|| reference::linear::<Self>(x, weight))
    }

    fn linear_of_codes(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
    ) -> FloatTensor<Self> {
        let (n, k) = (codes.shape()[0], x.shape()[1]);
        let out = match (bytes_of(&codes), Scales::of(&scales)) {
            (Some(codes), Some(scales)) if kernels_on() && x.dtype() == DType::F32 => {
                let weights = quantised::Weights { codes, scales, k, scheme };
                product_of_codes(rows_of(&x.to_contiguous()), weights, n)
            }
            _ => return reference::linear_of_codes::<Self>(x, codes, scales, scheme),
        };
        f32_tensor(out, Shape::new([x.shape()[0], n]))
    }

    fn linear_of_three_codes(
        x: FloatTensor<Self>,
        first: RoundedStack<Self>,
        second: RoundedStack<Self>,
        third: RoundedStack<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let weights = [first, second, third];
        match quantised::together::products(&x, weights.each_ref()) {
            Some([a, b, c]) => (a, b, c),
            None => reference::linear_of_three_codes::<Self>(x, weights),
        }
    }

    fn gated_of_codes(
        x: FloatTensor<Self>,
        gate: RoundedStack<Self>,
        up: RoundedStack<Self>,
    ) -> FloatTensor<Self> {
        quantised::together::gated(&x, [&gate, &up])
            .unwrap_or_else(|| reference::gated_of_codes::<Self>(x, gate, up))
    }

    fn matrix_of_codes(
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
        inputs: usize,
    ) -> FloatTensor<Self> {
        let (codes, scales) = (codes.to_contiguous(), scales.to_contiguous());
        let rows = codes.shape()[0];
        let out = match (bytes_of(&codes), Scales::of(&scales)) {
            (Some(codes), Some(scales)) if kernels_on() => {
                let mut out = vec![0.0; rows * inputs];
                quantised::Weights { codes, scales, k: inputs, scheme }.expand(0, &mut out);
                out
            }
            _ => return reference::expanded::<Self>(codes, scales, scheme, inputs),
        };
        f32_tensor(out, Shape::new([rows, inputs]))
    }

    fn linear_in_shares(
        x: FloatTensor<Self>,
        stack: FloatTensor<Self>,
        shares: Vec<Share>,
    ) -> FloatTensor<Self> {
        experts::linear(&x, &stack, &shares)
            .unwrap_or_else(|| reference::linear_in_shares::<Self>(x, stack, &shares))
    }

    fn linear_of_codes_in_shares(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
        shares: Vec<Share>,
    ) -> FloatTensor<Self> {
        experts::linear_of_codes(&x, (&codes, &scales), scheme, &shares).unwrap_or_else(|| {
            reference::linear_of_codes_in_shares::<Self>(x, (codes, scales), scheme, &shares)
        })
    }

    fn grouped_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        Self::attention_over_parts(q, Parts::floats(vec![k], vec![v]), causal)
    }

    fn attention_over_parts(
        q: FloatTensor<Self>,
        parts: Parts<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        let usable = kernels_on() && q.dtype() == DType::F32;
        match usable.then(|| attention::over_parts(&q, &parts, causal)).flatten() {
            Some(out) => f32_tensor(out, q.shape()),
            None => reference::attention_over_parts::<Self>(q, parts, causal),
        }
    }

    fn rows_in_bytes(rows: FloatTensor<Self>) -> (IntTensor<Self>, FloatTensor<Self>) {
        let inputs = [rows.to_contiguous()];
        match slices(&inputs) {
            Some([values]) => {
                let [b, g, t, d] = rows.shape().dims();
                let (words, scales) = attention::in_bytes(values, d);
                let words = Bytes::from_elems(words);
                let layout = Layout::contiguous(Shape::new([b, g, t, d.div_ceil(4)]));
                let scales = f32_tensor(scales, Shape::new([b, g, t, 1]));
                (FlexTensor::new(words, layout, DType::I32), scales)
            }
            None => reference::rows_in_bytes::<Self>(rows),
        }
    }

    fn rows_in_dtype(rows: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        let inputs = [rows.to_contiguous()];
        let elements = match (slices(&inputs), dtype) {
            (Some([values]), DType::BF16) => Bytes::from_elems(narrowed(values, bf16::from_f32)),
            (Some([values]), DType::F16) => Bytes::from_elems(narrowed(values, f16::from_f32)),
            _ => return reference::cast::<Self>(rows, dtype),
        };
        FlexTensor::new(elements, Layout::contiguous(rows.shape()), dtype)
    }

    fn affine_nk(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (dtype, width) = (x.dtype(), weight.shape()[0]);
        let bias = reference::cast::<Self>(bias, dtype);
        if !kernels_on() || dtype != DType::F32 || width == 0 {
            return reference::affine::<Self>(x, weight, bias);
        }
        let (x, bias) = (x.to_contiguous(), bias.to_contiguous());
        let out = widened!(weight, |w| product(rows_of(&x), w, Some(rows_of(&bias)), &weight));
        out.unwrap_or_else(|| reference::affine::<Self>(x, weight, bias))
    }

    fn attention_in_sequences(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        lengths: Vec<usize>,
        causal: bool,
    ) -> FloatTensor<Self> {
        let inputs = [q.to_contiguous(), k.to_contiguous(), v.to_contiguous()];
        let Some([q, k, v]) = head_rows(&inputs) else {
            return reference::packed_attention::<Self>([q, k, v], &lengths, causal);
        };
        let shape = Shape::new([inputs[0].shape()[0], q.stride]);
        f32_tensor(attention::packed([q, k, v], &lengths, causal), shape)
    }

    fn attention_of_rotated(
        qkv: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        lengths: Vec<usize>,
    ) -> FloatTensor<Self> {
        let inputs = [qkv.to_contiguous(), cos.to_contiguous(), sin.to_contiguous()];
        let Some(turned) = Turned::new(&inputs) else {
            return reference::rotary_attention::<Self>(qkv, [cos, sin], &lengths);
        };
        let shape = Shape::new([qkv.shape()[0], turned.width]);
        f32_tensor(attention::packed(turned.rows(), &lengths, false), shape)
    }

    fn rotate_halves(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let inputs = [x.to_contiguous(), cos.to_contiguous(), sin.to_contiguous()];
        let Some([values, cos_rows, sin_rows]) = slices(&inputs) else {
            return reference::rotate::<Self>(x, cos, sin);
        };
        let ([_, heads, d], mut out) = (x.shape().dims(), values.to_vec());
        let angles = Angles { cos: cos_rows, sin: sin_rows, half: d / 2 };
        rotary::rotate(&mut out, heads * d, heads * d, angles, false);
        f32_tensor(out, x.shape())
    }

    fn layer_norm_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let inputs = [x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous()];
        match slices(&inputs) {
            Some([rows, w, b]) => f32_tensor(norms::layer(rows, w, b, epsilon as f32), x.shape()),
            None => reference::layer_norm::<Self>(x, [weight, bias], epsilon),
        }
    }

    fn gated_silu(gate: FloatTensor<Self>, mut up: FloatTensor<Self>) -> FloatTensor<Self> {
        let gates = gate.to_contiguous();
        if let (Some([gates]), Some(ups)) = (slices(&[gates]), own_values(&mut up)) {
            elementwise::swiglu_in_place(gates, ups);
            return up;
        }
        let inputs = [gate.to_contiguous(), up.to_contiguous()];
        match slices(&inputs) {
            Some([gates, ups]) => f32_tensor(elementwise::swiglu(gates, ups), gate.shape()),
            None => reference::swiglu::<Self>(gate, up),
        }
    }

    fn gelu_exact(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match slices(&[x.to_contiguous()]) {
            Some([values]) => f32_tensor(elementwise::gelu(values), x.shape()),
            None => <Self as burn::backend::ops::ActivationOps<Self>>::gelu(x),
        }
    }

    fn gelu_by_tanh(mut x: FloatTensor<Self>) -> FloatTensor<Self> {
        if let Some(values) = own_values(&mut x) {
            elementwise::gelu_tanh_in_place(values);
            return x;
        }
        match slices(&[x.to_contiguous()]) {
            Some([values]) => f32_tensor(elementwise::gelu_tanh(values), x.shape()),
            None => reference::gelu_tanh::<Self>(x),
        }
    }

    fn rms_norm_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        match slices(&[x.to_contiguous(), weight.to_contiguous()]) {
            Some([rows, w]) => f32_tensor(norms::rms(rows, w, epsilon as f32), x.shape()),
            None => reference::rms_norm::<Self>(x, weight, epsilon),
        }
    }

    fn sum_and_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match slices(&[x.to_contiguous(), y.to_contiguous(), weight.to_contiguous()]) {
            Some([a, b, w]) => {
                let (sum, normed) = norms::sum_and_rms([a, b], w, epsilon as f32);
                (f32_tensor(sum, x.shape()), f32_tensor(normed, x.shape()))
            }
            None => reference::add_rms_norm::<Self>([x, y], weight, epsilon),
        }
    }

    fn norm_of_heads_rotated(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let inputs = [&x, &weight, &cos, &sin].map(FlexTensor::to_contiguous);
        let Some([values, w, cos_rows, sin_rows]) = slices(&inputs) else {
            return reference::rms_norm_rotated::<Self>(x, weight, [cos, sin], epsilon);
        };
        let [_, heads, d] = x.shape().dims();
        let angles = Angles { cos: cos_rows, sin: sin_rows, half: d / 2 };
        f32_tensor(rotary::normed(values, heads * d, (w, epsilon as f32), angles), x.shape())
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let (plain, head, k) =
            ([hidden.to_contiguous()], weight.to_contiguous(), weight.shape()[1]);
        let found = slices(&plain).zip(targets.as_slice::<i64>());
        let found = found.filter(|_| head.shape().num_elements() > 0);
        let losses = found
            .and_then(|([rows], ids)| widened!(head, |w| loss::cross_entropy(rows, w, ids, k)));
        match losses {
            Some(losses) => f32_tensor(losses, targets.shape()),
            None => reference::cross_entropy::<Self>(hidden, weight, targets),
        }
    }
}

impl super::fixed::FixedOps for Flex {}

impl UpdateOps for Flex {
    fn adamw_step(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        step: AdamWStep,
    ) -> Moved<FloatTensor<Self>> {
        let mut moved = [value, first, second].map(|t| t.to_contiguous());
        let grad = grad.to_contiguous();
        let whole = moved.iter().all(|t| t.storage::<f32>().len() == t.shape().num_elements());
        if !kernels_on() || !whole {
            let [value, first, second] = moved;
            return super::update::reference::<Self>((value, first, second), grad, step);
        }
        let [value, first, second] = moved.each_mut().map(|t| t.storage_mut::<f32>());
        update::adamw(value, first, second, rows_of(&grad), step);
        let [value, first, second] = moved;
        (value, first, second)
    }

    fn newton_schulz(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let columns = x.shape()[1];
        match slices(&[x.to_contiguous()]) {
            Some([values]) => f32_tensor(update::orthogonal(values, columns), x.shape()),
            None => super::update::orthogonal_reference::<Self>(x),
        }
    }

    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match slices(&[x.to_contiguous()]) {
            Some([values]) => f32_tensor(vec![update::square_sum(values) as f32], Shape::new([1])),
            None => Self::float_sum(Self::float_mul(x.clone(), x)),
        }
    }
}

/// The values in another dtype, made on all cores.
fn narrowed<E: Copy + Send>(values: &[f32], narrow: impl Fn(f32) -> E + Sync) -> Vec<E> {
    const LEAST: usize = 1 << 12;
    values.par_iter().with_min_len(LEAST).map(|value| narrow(*value)).collect()
}

fn product<W: Widen>(x: &[f32], w: &[W], bias: Option<&[f32]>, weight: &FlexTensor) -> FlexTensor {
    let [n, k] = weight.shape().dims();
    f32_tensor(affine_product(x, w, bias, [n, k]), Shape::new([x.len() / k, n]))
}

/// Numbers between -1 and 1, the same for the same seed, for tests of kernels.
#[cfg(test)]
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
