//! One step of AdamW over flat values, and the orthogonal factor that Muon takes.

use rayon::prelude::*;

use super::matmul::{Matrix, product};
use crate::ops::update::{AdamWStep, ITERATIONS, LEAST_NORM, QUINTIC};
use crate::simd::vectorised;

/// Values per task.
const CHUNK: usize = 1 << 14;

/// Moves `value` and both moments in place.
pub fn adamw(
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    grad: &[f32],
    step: AdamWStep,
) {
    let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
    let values = value.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK));
    values.zip(moments).for_each(|((value, grad), (first, second))| {
        adamw_chunk(value, first, second, grad, step);
    });
}

/// `Σ x²`, in f64 over parts of fixed length, so that it has the same bits every time.
pub fn square_sum(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(CHUNK).map(|x| f64::from(super::dot::dot(x, x))).collect();
    parts.iter().sum()
}

/// Newton-Schulz iterations on rows of `columns` values, see [`crate::ops::update::orthogonal`].
pub fn orthogonal(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    let norm = square_sum(values).sqrt() as f32 + LEAST_NORM;
    let mut x: Vec<f32> = values.iter().map(|value| value / norm).collect();
    let [a, b, c] = QUINTIC;
    for _ in 0..ITERATIONS {
        let matrix = Matrix::rows(&x, columns);
        let square = product(matrix, matrix.transposed());
        let view = Matrix::rows(&square, rows);
        let mut mix = product(view, view);
        mix.iter_mut().zip(&square).for_each(|(mix, square)| *mix = b * square + c * *mix);
        let turned = product(Matrix::rows(&mix, rows), matrix);
        x.iter_mut().zip(&turned).for_each(|(x, turned)| *x = a * *x + turned);
    }
    x
}

vectorised! {
    fn adamw_chunk(
        value: &mut [f32], first: &mut [f32], second: &mut [f32], grad: &[f32], step: AdamWStep,
    ) = adamw_with
}

#[inline(always)]
fn adamw_with(
    value: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    grad: &[f32],
    step: AdamWStep,
    madd: impl Fn(f32, f32, f32) -> f32,
) {
    let [beta1, beta2] = [step.beta1 as f32, step.beta2 as f32];
    let [rest1, rest2] = [(1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32];
    let (keep, rate) = ((1.0 - step.decay) as f32, step.rate as f32);
    let (root, epsilon, scale) = (step.root as f32, step.epsilon as f32, step.grad_scale as f32);
    let moments = first.iter_mut().zip(second.iter_mut());
    for ((value, grad), (first, second)) in value.iter_mut().zip(grad).zip(moments) {
        let grad = grad * scale;
        *first = madd(*first, beta1, grad * rest1);
        *second = madd(*second, beta2, grad * grad * rest2);
        *value = *value * keep - *first / (second.sqrt() * root + epsilon) * rate;
    }
}
