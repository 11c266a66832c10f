//! Norms of rows, alone and with what lies before or behind them.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::ModelOps;

/// `(x − mean) / sqrt(variance + epsilon) · weight + bias` of the rows of `x [n, width]`, in f32 and cast back
/// (torch `nn.LayerNorm`).
pub fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let (weight, bias) = (weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::layer_norm_rows(x.into_dispatch(), weight, bias, epsilon))
}

/// `x / sqrt(mean(x²) + epsilon)` over the last axis in f32, cast back to the dtype of `x`, then times `weight`
/// (HF `Qwen3VLTextRMSNorm`, whose rounding order this is).
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::rms_norm_rows(x, weight, epsilon))
}

/// `x + y`, rounded to their dtype, and [`rms_norm`] of that; `x, y [n, width]` of one dtype.
pub fn add_rms_norm(
    x: Tensor<2>,
    y: Tensor<2>,
    weight: Tensor<1>,
    epsilon: f64,
) -> (Tensor<2>, Tensor<2>) {
    let (x, y) = (x.into_dispatch(), y.into_dispatch());
    let (sum, normed) = Dispatch::sum_and_norm(x, y, weight.into_dispatch(), epsilon);
    (Tensor::from_dispatch(sum), Tensor::from_dispatch(normed))
}

/// [`super::rotate`] of [`rms_norm`] of every head of `x [n, h, d]`, with `weight [d]` and `cos, sin [n, 1, d / 2]`.
pub fn rms_norm_rotated(
    x: Tensor<3>,
    weight: Tensor<1>,
    [cos, sin]: [Tensor<3>; 2],
    epsilon: f64,
) -> Tensor<3> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let (cos, sin) = (cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(Dispatch::norm_of_heads_rotated(x, weight, cos, sin, epsilon))
}
