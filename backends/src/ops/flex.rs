//! Overrides for Flex, the fast CPU backend.
//!
//! Burn's own bf16 product converts both operands on every call and its matrix-vector product runs on one
//! thread. Here weights stay in the file's dtype and order: few rows go through a dot-product kernel on all
//! cores, many rows through f32 GEMM over converted panels.

mod attention;
mod dot;
mod elementwise;
mod matmul;
mod panel;
mod softmax;

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Bytes, DType, Shape, bf16, f16};
use rayon::prelude::*;

use super::gradients::ModelGradients;
use super::{ModelOps, kernels_on, reference};
use attention::{Heads, Sizes};

/// From this many rows on, converting the weight for GEMM costs less than repeated dot products.
const GEMM_ROWS: usize = 65;

impl ModelGradients for Flex {
    fn gelu_by_tanh_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        match (kernels_on(), x.as_slice::<f32>(), grad.as_slice::<f32>()) {
            (true, Some(values), Some(grads)) => {
                f32_tensor(elementwise::gelu_tanh_grad(values, grads), x.shape())
            }
            _ => Self::float_mul(grad, reference::gelu_tanh_slope::<Self>(x)),
        }
    }
}

impl ModelOps for Flex {
    fn linear_nk(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !kernels_on() || x.dtype() != DType::F32 {
            return reference::linear::<Self>(x, weight);
        }
        let x = x.to_contiguous();
        let out = match weight.dtype() {
            DType::F32 => weight.as_slice::<f32>().map(|w| product(rows_of(&x), w, &weight)),
            DType::BF16 => weight.as_slice::<bf16>().map(|w| product(rows_of(&x), w, &weight)),
            DType::F16 => weight.as_slice::<f16>().map(|w| product(rows_of(&x), w, &weight)),
            _ => None,
        };
        out.unwrap_or_else(|| reference::linear::<Self>(x, weight))
    }

    fn grouped_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        let all_f32 = [&q, &k, &v].iter().all(|t| t.dtype() == DType::F32);
        if !kernels_on() || !all_f32 {
            return reference::attention::<Self>(q, k, v, causal);
        }
        let [batch, heads, s, d] = q.layout().shape().dims();
        let [_, groups, t, _] = k.layout().shape().dims();
        let (q, k, v) = (q.to_contiguous(), by_rows(k), by_rows(v));
        let sizes = Sizes { heads, groups, s, t, d, causal };
        let out = attention::attention(rows_of(&q), heads_of(&k), heads_of(&v), sizes);
        f32_tensor(out, Shape::new([batch, heads, s, d]))
    }

    fn gelu_by_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = x.to_contiguous();
        match x.as_slice::<f32>() {
            Some(values) if kernels_on() => f32_tensor(elementwise::gelu_tanh(values), x.shape()),
            _ => reference::gelu_tanh::<Self>(x),
        }
    }

    fn rms_norm_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let x = x.to_contiguous();
        match (kernels_on(), x.as_slice::<f32>(), weight.as_slice::<f32>()) {
            (true, Some(rows), Some(w)) => f32_tensor(norm_rows(rows, w, epsilon), x.shape()),
            _ => reference::rms_norm::<Self>(x, weight, epsilon),
        }
    }
}

/// A weight element that can be widened to f32 without loss.
pub(super) trait Widen: Copy + Sync {
    fn widen(self) -> f32;

    /// The same slice, where no widening is needed.
    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        let _ = values;
        None
    }
}

impl Widen for f32 {
    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Widen for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
}

impl Widen for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// The tensor itself where the rows of each head lie one after the other (as in a view of a cache), else a copy.
fn by_rows(x: FlexTensor) -> FlexTensor {
    let width = x.layout().shape()[3] as isize;
    let strides = x.layout().strides();
    let plain = strides[3] == 1 && strides[2] == width && strides[..2].iter().all(|s| *s >= 0);
    if plain { x } else { x.to_contiguous() }
}

fn heads_of(x: &FlexTensor) -> Heads<'_> {
    let strides = x.layout().strides();
    Heads {
        values: &x.storage::<f32>()[x.layout().start_offset()..],
        strides: [strides[0] as usize, strides[1] as usize],
    }
}

fn rows_of(x: &FlexTensor) -> &[f32] {
    x.as_slice::<f32>().expect("a contiguous f32 tensor")
}

fn product<W: Widen>(x: &[f32], w: &[W], weight: &FlexTensor) -> FlexTensor {
    let [n, k] = weight.shape().dims();
    let m = x.len() / k;
    let out = if m < GEMM_ROWS { dot::rows(x, w, m, n, k) } else { panel::gemm(x, w, m, n, k) };
    f32_tensor(out, Shape::new([m, n]))
}

fn norm_rows(rows: &[f32], weight: &[f32], epsilon: f64) -> Vec<f32> {
    let width = weight.len();
    let mut out = vec![0.0; rows.len()];
    let norm = |(x, y): (&[f32], &mut [f32])| {
        let mean = dot::dot(x, x) / width as f32;
        let root = (mean + epsilon as f32).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x / root * w;
        }
    };
    let pairs = rows.par_chunks(width).zip(out.par_chunks_mut(width));
    pairs.with_min_len((1 << 14) / width.max(1) + 1).for_each(norm);
    out
}

fn f32_tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}
