//! The optimiser's step as an operation, on plain (untracked) tensors.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// Numbers of one step of AdamW (Loshchilov and Hutter 2019, algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Rate over `1 − beta1^t`.
    pub rate: f64,
    /// `1 / sqrt(1 − beta2^t)`.
    pub root: f64,
    /// Rate times weight decay: the share of the value that is lost.
    pub decay: f64,
    /// Multiplies the gradient first (clipping).
    pub grad_scale: f64,
}

/// A value and its two moments.
pub type Moved<T> = (T, T, T);

/// What an optimiser needs.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(any(feature = "wgpu", feature = "cuda"))
)]
pub trait UpdateOps: Backend {
    /// Moves flat f32 values, see [`adamw`].
    fn adamw_step(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::<Self>((value, first, second), grad, step)
    }

    /// `Σ x²` of flat f32 values, `[1]`.
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_sum(Self::float_mul(x.clone(), x))
    }
}

/// Decays the value, moves the moments, then the value: `m = β₁m + (1−β₁)g`, `v = β₂v + (1−β₂)g²`,
/// `w = w·(1−decay) − rate·m / (sqrt(v)·root + ε)`. All tensors are `[n]` in f32.
pub fn adamw(
    (value, first, second): Moved<Tensor<1>>,
    grad: Tensor<1>,
    step: AdamWStep,
) -> Moved<Tensor<1>> {
    let (value, first, second) = Dispatch::adamw_step(
        value.into_dispatch(),
        first.into_dispatch(),
        second.into_dispatch(),
        grad.into_dispatch(),
        step,
    );
    (Tensor::from_dispatch(value), Tensor::from_dispatch(first), Tensor::from_dispatch(second))
}

/// `Σ x²` in f32.
pub fn sum_of_squares(x: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::sum_of_squares(x.into_dispatch()))
}

/// Body of [`UpdateOps::adamw_step`].
pub fn reference<B: Backend>(
    (value, first, second): Moved<FloatTensor<B>>,
    grad: FloatTensor<B>,
    step: AdamWStep,
) -> Moved<FloatTensor<B>> {
    let grad = B::float_mul_scalar(grad, step.grad_scale.into());
    let square = B::float_mul(grad.clone(), grad.clone());
    let first = B::float_add(
        B::float_mul_scalar(first, step.beta1.into()),
        B::float_mul_scalar(grad, (1.0 - step.beta1).into()),
    );
    let second = B::float_add(
        B::float_mul_scalar(second, step.beta2.into()),
        B::float_mul_scalar(square, (1.0 - step.beta2).into()),
    );
    let root = B::float_mul_scalar(B::float_sqrt(second.clone()), step.root.into());
    let quotient = B::float_div(first.clone(), B::float_add_scalar(root, step.epsilon.into()));
    let value = B::float_mul_scalar(value, (1.0 - step.decay).into());
    let value = B::float_sub(value, B::float_mul_scalar(quotient, step.rate.into()));
    (value, first, second)
}
