//! One step of AdamW over flat values.

use rayon::prelude::*;

use super::simd::vectorised;
use crate::ops::update::AdamWStep;

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
