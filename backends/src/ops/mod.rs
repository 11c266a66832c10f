//! The speed-critical operations as one backend extension.
//!
//! Each operation has a reference body in [`reference`], generic over Burn's `Backend` trait; a backend that
//! can do better overrides it. [`set_kernels`] switches every override off, and the tests compare the two.

pub mod fixed;
pub mod gradients;
pub mod reference;
pub mod update;

#[cfg(feature = "autodiff")]
mod autodiff;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod cube;
#[cfg(feature = "flex")]
mod flex;
mod kept;
mod mixture;
#[cfg(feature = "ndarray")]
mod ndarray;
mod norms;
mod parts;
mod products;
#[cfg(feature = "remote")]
mod remote;
mod rounded;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Int, Tensor};

pub use kept::{attention_over_parts, expand_kv, keep_kv, round_kv};
pub use mixture::{mixture, rounded_mixture};
pub use norms::{add_rms_norm, layer_norm, rms_norm, rms_norm_rotated};
pub use parts::{KvRows, Parts, RoundedStack};
pub use products::{
    Chosen, Products, choose_products, choose_steps, products, set_products, steps,
};

pub use rounded::{
    expand_quantised, expand_rows, gated_quantised, linear_of_rounded_experts, linear_quantised,
    linear_quantised_thrice,
};

use crate::quant::QuantScheme;

/// The environment variable that, set to `off`, makes every operation run its reference body.
pub const KERNELS_VARIABLE: &str = "QWEN3_VL_KERNELS";

/// Operations of Qwen3-VL that are worth a kernel of their own.
#[backend_extension(
    Autodiff: cfg(feature = "autodiff"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(any(feature = "wgpu", feature = "cuda")),
    Remote: cfg(feature = "remote")
)]
pub trait ModelOps: Backend {
    /// `x [.., m, k] · y [.., k, n] -> [.., m, n]`, of f32 in f32: what reference bodies multiply with.
    fn product(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(x, y)
    }

    /// `x [m, k] · weight [n, k]ᵀ -> [m, n]` in the dtype of `x`; the weight may have another float dtype.
    fn linear_nk(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::linear::<Self>(x, weight)
    }

    /// [`Self::linear_nk`] plus `bias [n]` on every row.
    fn affine_nk(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::affine::<Self>(x, weight, bias)
    }

    /// `x [m, k] · wᵀ -> [m, n]` with rounded weights, see [`linear_quantised`].
    fn linear_of_codes(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
    ) -> FloatTensor<Self> {
        reference::linear_of_codes::<Self>(x, codes, scales, scheme)
    }

    /// Three products of one `x`, see [`linear_quantised_thrice`].
    fn linear_of_three_codes(
        x: FloatTensor<Self>,
        #[extension_type] first: RoundedStack<Self>,
        #[extension_type] second: RoundedStack<Self>,
        #[extension_type] third: RoundedStack<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::linear_of_three_codes::<Self>(x, [first, second, third])
    }

    /// SwiGLU of two products of one `x`, see [`gated_quantised`].
    fn gated_of_codes(
        x: FloatTensor<Self>,
        #[extension_type] gate: RoundedStack<Self>,
        #[extension_type] up: RoundedStack<Self>,
    ) -> FloatTensor<Self> {
        reference::gated_of_codes::<Self>(x, gate, up)
    }

    /// The weight `[n, inputs]` that codes and scales stand for, see [`expand_quantised`].
    fn matrix_of_codes(
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
        inputs: usize,
    ) -> FloatTensor<Self> {
        reference::expanded::<Self>(codes, scales, scheme, inputs)
    }

    /// Products of the rows of each expert with its matrix of `stack [experts, n, k]`, see [`linear_of_experts`].
    fn linear_in_shares(
        x: FloatTensor<Self>,
        stack: FloatTensor<Self>,
        shares: Vec<Share>,
    ) -> FloatTensor<Self> {
        reference::linear_in_shares::<Self>(x, stack, &shares)
    }

    /// [`Self::linear_in_shares`] with rounded weights, see [`linear_of_rounded_experts`].
    fn linear_of_codes_in_shares(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
        shares: Vec<Share>,
    ) -> FloatTensor<Self> {
        reference::linear_of_codes_in_shares::<Self>(x, (codes, scales), scheme, &shares)
    }

    /// The rows `ids` of the weight of [`Self::matrix_of_codes`], see [`expand_rows`].
    fn rows_of_codes(
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        ids: IntTensor<Self>,
        scheme: QuantScheme,
        inputs: usize,
    ) -> FloatTensor<Self> {
        let codes = Self::int_select(codes, 0, ids.clone());
        let scales = Self::float_select(scales, 0, ids);
        Self::matrix_of_codes(codes, scales, scheme, inputs)
    }

    /// Softmax attention of `q [b, h, s, d]` over `k, v [b, g, t, d]`, see [`attention`].
    fn grouped_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        reference::attention::<Self>(q, k, v, causal)
    }

    /// Words and scales of `rows [b, g, t, d]`, see [`round_kv`].
    fn rows_in_bytes(rows: FloatTensor<Self>) -> (IntTensor<Self>, FloatTensor<Self>) {
        reference::rows_in_bytes::<Self>(rows)
    }

    /// `rows [b, g, t, d]` in the float dtype in which they are kept, see [`keep_kv`].
    fn rows_in_dtype(rows: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        reference::cast::<Self>(rows, dtype)
    }

    /// Keys or values as floats `[b, g, t, d]` of `dtype`, see [`expand_kv`].
    fn expanded_kv(
        #[extension_type] rows: KvRows<Self>,
        d: usize,
        dtype: DType,
    ) -> FloatTensor<Self> {
        reference::expanded_kv::<Self>(rows, d, dtype)
    }

    /// [`Self::grouped_attention`] over keys and values in several tensors, see [`attention_over_parts`].
    fn attention_over_parts(
        q: FloatTensor<Self>,
        #[extension_type] parts: Parts<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        reference::attention_over_parts::<Self>(q, parts, causal)
    }

    /// Attention inside each of many packed sequences, see [`packed_attention`].
    fn attention_in_sequences(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        lengths: Vec<usize>,
        causal: bool,
    ) -> FloatTensor<Self> {
        reference::packed_attention::<Self>([q, k, v], &lengths, causal)
    }

    /// Rotates queries and keys and attends inside each of many packed sequences, see [`rotary_attention`].
    fn attention_of_rotated(
        qkv: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        lengths: Vec<usize>,
    ) -> FloatTensor<Self> {
        reference::rotary_attention::<Self>(qkv, [cos, sin], &lengths)
    }

    /// Rotary positions, see [`rotate`].
    fn rotate_halves(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::rotate::<Self>(x, cos, sin)
    }

    /// Layer norm of the rows of `x [n, width]`, see [`layer_norm`].
    fn layer_norm_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        reference::layer_norm::<Self>(x, [weight, bias], epsilon)
    }

    /// `gate · σ(gate) · up`, see [`swiglu`].
    fn gated_silu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::swiglu::<Self>(gate, up)
    }

    /// Root-mean-square norm of the rows of `x [.., n]`, see [`rms_norm`].
    fn rms_norm_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        reference::rms_norm::<Self>(x, weight, epsilon)
    }

    /// The norm of a sum, and the sum, see [`add_rms_norm`].
    fn sum_and_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::add_rms_norm::<Self>([x, y], weight, epsilon)
    }

    /// The norm of every head, rotated, see [`rms_norm_rotated`].
    fn norm_of_heads_rotated(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        reference::rms_norm_rotated::<Self>(x, weight, [cos, sin], epsilon)
    }

    /// `x/2 · (1 + erf(x/√2))`, see [`gelu`].
    fn gelu_exact(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }

    /// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`, see [`gelu_tanh`].
    fn gelu_by_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::gelu_tanh::<Self>(x)
    }

    /// The `k` largest values of each row of `x`, see [`largest_of_rows`].
    fn largest_of_rows(x: FloatTensor<Self>, k: usize) -> FloatTensor<Self> {
        reference::largest_of_rows::<Self>(x, k)
    }

    /// A mixture of experts, see [`mixture`].
    fn mixture_of_routes(
        x: FloatTensor<Self>,
        routes: FloatTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::mixture::<Self>(x, routes, gate_up, down)
    }

    /// [`Self::mixture_of_routes`] with rounded weights, see [`rounded_mixture`].
    fn mixture_of_codes(
        x: FloatTensor<Self>,
        routes: FloatTensor<Self>,
        #[extension_type] gate_up: RoundedStack<Self>,
        #[extension_type] down: RoundedStack<Self>,
    ) -> FloatTensor<Self> {
        reference::mixture_of_codes::<Self>(x, routes, gate_up, down)
    }

    /// Cross-entropy of each row of `hidden [n, k]` under the head `weight [v, k]`, see [`cross_entropy`].
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::cross_entropy::<Self>(hidden, weight, targets)
    }
}

/// `x [m, k] · weight [n, k]ᵀ -> [m, n]`: torch's `linear` without bias, with the weight as Hugging Face stores it.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::linear_nk(x.into_dispatch(), weight.into_dispatch()))
}

/// [`linear`] plus `bias [n]`: torch's `linear`.
pub fn affine(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::affine_nk(x, weight, bias.into_dispatch()))
}

/// Rows that go to one expert, those of one share after those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub expert: usize,
    /// One at least.
    pub rows: usize,
    /// How many of them, the first ones, are steps of answers, see [`choose_steps`].
    pub steps: Option<usize>,
}

/// [`linear`] of many experts at once: the rows of `x [m, k]` come in `shares`, which sum to `m`, and each share is
/// multiplied with the matrix of its expert in `stack [experts, n, k]`; the result is `[m, n]`. Matrices of other experts are
/// not read, and those that lie the other way round, as views of `[experts, k, n]`, are not copied by kernels.
pub fn linear_of_experts(x: Tensor<2>, stack: Tensor<3>, shares: Vec<Share>) -> Tensor<2> {
    let (x, stack) = (x.into_dispatch(), stack.into_dispatch());
    Tensor::from_dispatch(Dispatch::linear_in_shares(x, stack, shares))
}

/// Softmax attention with grouped key/value heads.
///
/// `q [b, h, s, d]`, `k, v [b, g, t, d]` with `g` dividing `h`: query head `i` reads key head `i / (h / g)`.
/// Scores are scaled by `1/sqrt(d)`, softmax runs in f32. With `causal`, query `i` sees keys up to
/// `t - s + i` (the queries are the last `s` positions). No `s x t` matrix is kept beyond a fixed budget.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, causal: bool) -> Tensor<4> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::grouped_attention(q, k, v, causal))
}

/// [`attention`] inside each of many sequences that lie one after the other: `q [n, h, d]`, `k, v [n, g, d]`, the
/// `lengths` sum to `n`; the result is `[n, h · d]`.
pub fn packed_attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    lengths: Vec<usize>,
    causal: bool,
) -> Tensor<2> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::attention_in_sequences(q, k, v, lengths, causal))
}

/// [`packed_attention`] without a mask of `qkv [n, 3 · h · d]` (queries, keys, values, each head after head), where
/// queries and keys are rotated first, see [`rotate`]; `cos, sin [n, 1, d / 2]`; the result is `[n, h · d]`.
pub fn rotary_attention(
    qkv: Tensor<2>,
    cos: Tensor<3>,
    sin: Tensor<3>,
    lengths: Vec<usize>,
) -> Tensor<2> {
    let (cos, sin) = (cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(Dispatch::attention_of_rotated(qkv.into_dispatch(), cos, sin, lengths))
}

/// Rotates the halves `a|b` of every head of `x [n, h, d]` to `a·cos − b·sin | b·cos + a·sin` (HF `rotate_half`
/// form), with `cos, sin [n, 1, d / 2]`. Runs in their dtype and returns that of `x`; they get no gradients.
pub fn rotate(x: Tensor<3>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<3> {
    let (cos, sin) = (cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(Dispatch::rotate_halves(x.into_dispatch(), cos, sin))
}

/// `gate · σ(gate) · up`, elementwise (SwiGLU).
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::gated_silu(gate.into_dispatch(), up.into_dispatch()))
}

/// The exact GELU, `x/2 · (1 + erf(x/√2))` (torch `nn.GELU()`); its gradient is exact on every device.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::gelu_exact(x.into_dispatch()))
}

/// GELU by its tanh approximation (HF `gelu_pytorch_tanh`).
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::gelu_by_tanh(x.into_dispatch()))
}

/// The `k` largest values of each row of `x [n, width]`, best first and of equal ones the first, and behind them their places:
/// `[n, 2k]` in f32, which holds places below 2²⁴ exactly. NaN counts as infinity.
pub fn largest_of_rows(x: Tensor<2>, k: usize) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::largest_of_rows(x.into_dispatch(), k))
}

/// `-log softmax(hidden · weightᵀ)[target]` of each row of `hidden [n, k]`, `[n]` in f32; `weight` is `[v, k]`,
/// `targets` are `n` ids below `v`. Logits exist for a bounded number of rows at a time, also backwards.
pub fn cross_entropy(hidden: Tensor<2>, weight: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let (hidden, weight) = (hidden.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::linear_cross_entropy(hidden, weight, targets.into_dispatch()))
}

fn switch() -> &'static AtomicBool {
    static SWITCH: OnceLock<AtomicBool> = OnceLock::new();
    SWITCH.get_or_init(|| {
        let off = std::env::var(KERNELS_VARIABLE).is_ok_and(|v| v.eq_ignore_ascii_case("off"));
        AtomicBool::new(!off)
    })
}

/// Switches the overrides of all backends on (the default) or off, for the whole process.
pub fn set_kernels(on: bool) {
    switch().store(on, Ordering::Relaxed);
}

/// Whether backends use their own kernels.
pub fn kernels_on() -> bool {
    switch().load(Ordering::Relaxed)
}

#[cfg(all(test, feature = "flex"))]
mod tests;
