//! Norms over rows, with their gradients.

use rayon::prelude::*;

use super::filled::{filled, filled_together};
use crate::simd::vectorised;

/// Values per task.
const CHUNK: usize = 1 << 14;
/// Partial sums, so that they vectorise.
const LANES: usize = 16;

/// `x / sqrt(mean(x²) + epsilon) · weight` of each row.
pub fn rms(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    filled(x.len(), chunk(weight.len()), |first, out| {
        rms_chunk(out, &x[first..][..out.len()], weight, epsilon);
    })
}

/// `x + y`, and [`rms`] of it.
pub fn sum_and_rms([x, y]: [&[f32]; 2], weight: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let [sum, normed] = filled_together(x.len(), chunk(weight.len()), |first, [sum, normed]| {
        // Added where the norm finds it in the nearest cache.
        let (x, y) = (&x[first..], &y[first..]);
        sum.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (x, y))| *sum = x + y);
        rms_chunk(normed, sum, weight, epsilon);
    });
    (sum, normed)
}

/// Gradients of [`rms`] with respect to `x` and `weight`.
pub fn rms_grads(x: &[f32], weight: &[f32], epsilon: f32, grad: &[f32]) -> [Vec<f32>; 2] {
    let (mut out, width) = (vec![0.0; x.len()], weight.len());
    let step = chunk(width);
    let parts = out.par_chunks_mut(step).zip(x.par_chunks(step)).zip(grad.par_chunks(step));
    let parts = parts.map(|((out, x), grad)| {
        let mut for_weight = vec![0.0; width];
        rms_grad_chunk(out, &mut for_weight, x, weight, epsilon, grad);
        for_weight
    });
    let for_weight = sum_rows(parts.collect(), width);
    [out, for_weight]
}

/// `(x − mean) / sqrt(variance + epsilon) · weight + bias` of each row.
pub fn layer(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    filled(x.len(), chunk(weight.len()), |first, out| {
        layer_chunk(out, &x[first..][..out.len()], weight, bias, epsilon);
    })
}

/// Gradients of [`layer`] with respect to `x`, `weight` and `bias`.
pub fn layer_grads(x: &[f32], weight: &[f32], epsilon: f32, grad: &[f32]) -> [Vec<f32>; 3] {
    let (mut out, width) = (vec![0.0; x.len()], weight.len());
    let step = chunk(width);
    let parts = out.par_chunks_mut(step).zip(x.par_chunks(step)).zip(grad.par_chunks(step));
    let parts = parts.map(|((out, x), grad)| {
        let mut for_affine = vec![0.0; 2 * width];
        layer_grad_chunk(out, &mut for_affine, x, weight, epsilon, grad);
        for_affine
    });
    let mut for_weight = sum_rows(parts.collect(), 2 * width);
    let for_bias = for_weight.split_off(width);
    [out, for_weight, for_bias]
}

/// The sum of the rows of `x`: the gradient of a bias.
pub fn column_sums(x: &[f32], width: usize) -> Vec<f32> {
    let parts = x.par_chunks(chunk(width)).map(|x| {
        let mut sum = vec![0.0; width];
        for row in x.chunks(width) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        sum
    });
    sum_rows(parts.collect(), width)
}

/// Values of the whole rows of one task.
fn chunk(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1) * width.max(1)
}

/// Adds the parts of all tasks in their order, so that a result has the same bits every time.
fn sum_rows(parts: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for part in parts {
        sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    sum
}

vectorised! {
    /// [`rms`] of the rows of a task.
    pub fn rms_chunk(out: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) = rms_with
}
vectorised! {
    fn rms_grad_chunk(
        out: &mut [f32], for_weight: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32, grad: &[f32],
    ) = rms_grad_with
}
vectorised! {
    fn layer_chunk(out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) = layer_with
}
vectorised! {
    fn layer_grad_chunk(
        out: &mut [f32], for_affine: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32, grad: &[f32],
    ) = layer_grad_with
}

#[inline(always)]
fn rms_with(
    out: &mut [f32],
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    madd: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    let width = weight.len();
    for (out, x) in out.chunks_mut(width).zip(x.chunks(width)) {
        let r = 1.0 / (squares(x, madd) / width as f32 + epsilon).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * r * w;
        }
    }
}

/// `dx = r·(g·w − x̂·mean(g·w·x̂))` with `x̂ = x·r`.
#[inline(always)]
fn rms_grad_with(
    out: &mut [f32],
    for_weight: &mut [f32],
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    grad: &[f32],
    madd: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    let width = weight.len();
    let rows = out.chunks_mut(width).zip(x.chunks(width)).zip(grad.chunks(width));
    for ((out, x), grad) in rows {
        let r = 1.0 / (squares(x, madd) / width as f32 + epsilon).sqrt();
        for (((out, sum), w), (x, g)) in
            out.iter_mut().zip(for_weight.iter_mut()).zip(weight).zip(x.iter().zip(grad))
        {
            *sum = madd(g * r, *x, *sum);
            *out = g * w;
        }
        let share = products(out, x, madd) * r * r / width as f32;
        for (out, x) in out.iter_mut().zip(x) {
            *out = r * madd(-share, *x, *out);
        }
    }
}

#[inline(always)]
fn layer_with(
    out: &mut [f32],
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    madd: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    let width = weight.len();
    for (out, x) in out.chunks_mut(width).zip(x.chunks(width)) {
        let r = centre(out, x, epsilon, madd);
        for ((out, w), b) in out.iter_mut().zip(weight).zip(bias) {
            *out = madd(*out * r, *w, *b);
        }
    }
}

/// `dx = r·(g·w − mean(g·w) − x̂·mean(g·w·x̂))` with `x̂ = (x − mean)·r`.
#[inline(always)]
fn layer_grad_with(
    out: &mut [f32],
    for_affine: &mut [f32],
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    grad: &[f32],
    madd: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    let width = weight.len();
    let (for_weight, for_bias) = for_affine.split_at_mut(width);
    let mut scaled = vec![0.0; width];
    let rows = out.chunks_mut(width).zip(x.chunks(width)).zip(grad.chunks(width));
    for ((out, x), grad) in rows {
        let r = centre(out, x, epsilon, madd);
        for ((out, g), (sum, plain)) in
            out.iter_mut().zip(grad).zip(for_weight.iter_mut().zip(for_bias.iter_mut()))
        {
            *out *= r;
            *sum = madd(*g, *out, *sum);
            *plain += g;
        }
        for ((scaled, g), w) in scaled.iter_mut().zip(grad).zip(weight) {
            *scaled = g * w;
        }
        let mean = total(&scaled) / width as f32;
        let share = products(&scaled, out, madd) / width as f32;
        for (out, scaled) in out.iter_mut().zip(&scaled) {
            *out = r * madd(-share, *out, *scaled - mean);
        }
    }
}

/// Writes `x − mean` and returns `1 / sqrt(variance + epsilon)`.
#[inline(always)]
fn centre(
    out: &mut [f32],
    x: &[f32],
    epsilon: f32,
    madd: impl Fn(f32, f32, f32) -> f32 + Copy,
) -> f32 {
    let mean = total(x) / x.len() as f32;
    for (out, x) in out.iter_mut().zip(x) {
        *out = x - mean;
    }
    1.0 / (squares(out, madd) / x.len() as f32 + epsilon).sqrt()
}

#[inline(always)]
fn squares(x: &[f32], madd: impl Fn(f32, f32, f32) -> f32) -> f32 {
    products(x, x, madd)
}

#[inline(always)]
fn products(a: &[f32], b: &[f32], madd: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = madd(*a, *b, *sum);
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[inline(always)]
fn total(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (x, rest) = x.as_chunks::<LANES>();
    for x in x {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}
