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
    Cube: cfg(any(feature = "wgpu", feature = "cuda")),
    Remote: cfg(feature = "remote")
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

    /// Newton-Schulz iterations on an f32 matrix with at most as many rows as columns, see [`orthogonal`].
    fn newton_schulz(x: FloatTensor<Self>) -> FloatTensor<Self> {
        orthogonal_reference::<Self>(x)
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

/// Iterations of [`orthogonal`].
pub(super) const ITERATIONS: usize = 5;

/// Coefficients `a`, `b` and `c` of [`orthogonal`] (Jordan et al. 2024): they bring singular values near 1 fast, and leave them
/// between about 0.7 and 1.2.
pub(super) const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// Kept away from dividing by zero.
pub(super) const LEAST_NORM: f32 = 1e-7;

/// The matrix `x [m, n]` with its singular vectors and singular values near 1, by Newton-Schulz iterations on `X / |X|`:
/// `X = aX + (bXXᵀ + c(XXᵀ)²)X` (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"). Products are
/// rounded as [`super::products`] says.
pub fn orthogonal(x: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = x.dims();
    if rows > columns {
        return orthogonal(x.transpose()).transpose();
    }
    Tensor::from_dispatch(Dispatch::newton_schulz(x.into_dispatch()))
}

/// Body of [`UpdateOps::newton_schulz`].
pub fn orthogonal_reference<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let square = B::float_sum(B::float_mul(x.clone(), x.clone()));
    let norm = B::float_add_scalar(B::float_sqrt(square), LEAST_NORM.into());
    let mut x = B::float_div(x, B::float_reshape(norm, [1, 1].into()));
    let [a, b, c] = QUINTIC;
    for _ in 0..ITERATIONS {
        let square = B::float_matmul(x.clone(), B::float_transpose(x.clone()));
        let fourth = B::float_matmul(square.clone(), square.clone());
        let mix = B::float_add(
            B::float_mul_scalar(square, b.into()),
            B::float_mul_scalar(fourth, c.into()),
        );
        let turned = B::float_matmul(mix, x.clone());
        x = B::float_add(B::float_mul_scalar(x, a.into()), turned);
    }
    x
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
