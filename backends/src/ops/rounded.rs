//! Products with rounded weights, see [`crate::quant`].

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};

use super::{ModelOps, RoundedStack, Share};
use crate::quant::QuantScheme;

/// [`super::linear`] with a weight `[n, k]` that was rounded by `scheme`, see [`crate::quant`]: `codes` are `[n, ..]` in its code
/// dtype, `scales` `[n, scale_columns(k)]` in f32, bf16 or f16.
///
/// Kernels round `x` to eight bits too, group by group, where codes are integers; the reference body takes it as it is.
pub fn linear_quantised(
    x: Tensor<2>,
    codes: Tensor<2, Int>,
    scales: Tensor<2>,
    scheme: QuantScheme,
) -> Tensor<2> {
    let (codes, scales) = (codes.into_dispatch(), scales.into_dispatch());
    Tensor::from_dispatch(Dispatch::linear_of_codes(x.into_dispatch(), codes, scales, scheme))
}

/// [`linear_quantised`] with each of three weights, which kernels multiply a single row with in one pass; the results are the same.
pub fn linear_quantised_thrice(
    x: Tensor<2>,
    [first, second, third]: [RoundedStack<Dispatch>; 3],
) -> [Tensor<2>; 3] {
    let (a, b, c) = Dispatch::linear_of_three_codes(x.into_dispatch(), first, second, third);
    [a, b, c].map(Tensor::from_dispatch)
}

/// [`super::swiglu`] of [`linear_quantised`] with `gate` and with `up`, for a single row in one pass too.
pub fn gated_quantised(
    x: Tensor<2>,
    gate: RoundedStack<Dispatch>,
    up: RoundedStack<Dispatch>,
) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::gated_of_codes(x.into_dispatch(), gate, up))
}

/// The weight `[n, inputs]` of [`linear_quantised`] itself, in f32.
pub fn expand_quantised(
    codes: Tensor<2, Int>,
    scales: Tensor<2>,
    scheme: QuantScheme,
    inputs: usize,
) -> Tensor<2> {
    let (codes, scales) = (codes.into_dispatch(), scales.into_dispatch());
    Tensor::from_dispatch(Dispatch::matrix_of_codes(codes, scales, scheme, inputs))
}

/// [`super::linear_of_experts`] with weights that were rounded, as [`linear_quantised`] takes them: `codes [experts, n, ..]` and
/// `scales [experts, n, ..]`.
pub fn linear_of_rounded_experts(
    x: Tensor<2>,
    (codes, scales): (Tensor<3, Int>, Tensor<3>),
    scheme: QuantScheme,
    shares: Vec<Share>,
) -> Tensor<2> {
    let (x, codes, scales) = (x.into_dispatch(), codes.into_dispatch(), scales.into_dispatch());
    Tensor::from_dispatch(Dispatch::linear_of_codes_in_shares(x, codes, scales, scheme, shares))
}

/// The rows `ids` of [`expand_quantised`], as of an embedding.
pub fn expand_rows(
    codes: Tensor<2, Int>,
    scales: Tensor<2>,
    ids: Tensor<1, Int>,
    scheme: QuantScheme,
    inputs: usize,
) -> Tensor<2> {
    let (codes, scales) = (codes.into_dispatch(), scales.into_dispatch());
    Tensor::from_dispatch(Dispatch::rows_of_codes(
        codes,
        scales,
        ids.into_dispatch(),
        scheme,
        inputs,
    ))
}
