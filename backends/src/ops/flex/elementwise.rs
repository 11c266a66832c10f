//! Activation functions over flat values: vectorised, and on all cores.

use rayon::prelude::*;

use super::filled::filled;
use super::softmax::exp;
use crate::simd::vectorised;

/// Values per task.
const CHUNK: usize = 1 << 14;
/// `√(2/π)`, and the factor of the cube.
const SLOPE: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

/// Runs `body(out, x)` over the chunks of `x` and a result of as many zeros.
fn unary(x: &[f32], body: fn(&mut [f32], &[f32])) -> Vec<f32> {
    filled(x.len(), CHUNK, |first, out| body(out, &x[first..][..out.len()]))
}

/// Runs `body(out, x)` over the chunks of `x` and of a copy of `y`.
fn binary(x: &[f32], y: &[f32], body: fn(&mut [f32], &[f32])) -> Vec<f32> {
    filled(y.len(), CHUNK, |first, out| {
        out.copy_from_slice(&y[first..][..out.len()]);
        body(out, &x[first..][..out.len()]);
    })
}

/// GELU by tanh, `x · σ(2u)` with `u = √(2/π)·(x + 0.044715·x³)`.
pub fn gelu_tanh(x: &[f32]) -> Vec<f32> {
    unary(x, gelu_tanh_chunk)
}

/// [`gelu_tanh`] in place of the values.
pub fn gelu_tanh_in_place(x: &mut [f32]) {
    const PART: usize = 512;
    x.par_chunks_mut(CHUNK).for_each(|x| {
        let mut before = [0.0; PART];
        for x in x.chunks_mut(PART) {
            let before = &mut before[..x.len()];
            before.copy_from_slice(x);
            gelu_tanh_chunk(x, before);
        }
    });
}

/// `grad` times the derivative of [`gelu_tanh`] at `x`.
pub fn gelu_tanh_grad(x: &[f32], grad: &[f32]) -> Vec<f32> {
    binary(x, grad, gelu_tanh_grad_chunk)
}

/// The exact GELU, `x/2 · (1 + erf(x/√2))`.
pub fn gelu(x: &[f32]) -> Vec<f32> {
    unary(x, gelu_chunk)
}

/// `grad` times the derivative of [`gelu`] at `x`.
pub fn gelu_grad(x: &[f32], grad: &[f32]) -> Vec<f32> {
    binary(x, grad, gelu_grad_chunk)
}

/// `gate · σ(gate) · up`.
pub fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    binary(gate, up, swiglu_chunk)
}

/// [`swiglu`] in place of `up`.
pub fn swiglu_in_place(gate: &[f32], up: &mut [f32]) {
    up.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).for_each(|(up, gate)| {
        swiglu_chunk(up, gate);
    });
}

/// `grad` times the derivatives of [`swiglu`] with respect to `gate` and to `up`.
pub fn swiglu_grads(gate: &[f32], up: &[f32], grad: &[f32]) -> [Vec<f32>; 2] {
    let (mut for_gate, mut for_up) = (grad.to_vec(), gate.to_vec());
    let outs = for_gate.par_chunks_mut(CHUNK).zip(for_up.par_chunks_mut(CHUNK));
    outs.zip(up.par_chunks(CHUNK)).for_each(|((g, u), up)| swiglu_grad_chunk(g, u, up));
    [for_gate, for_up]
}

/// `x + y`, where `y` repeats one row.
pub fn add_row(x: &mut [f32], row: &[f32]) {
    let rows = (CHUNK / row.len().max(1)).max(1);
    x.par_chunks_mut(rows * row.len().max(1)).for_each(|x| {
        for x in x.chunks_mut(row.len()) {
            x.iter_mut().zip(row).for_each(|(x, y)| *x += y);
        }
    });
}

vectorised! { fn gelu_tanh_chunk(out: &mut [f32], x: &[f32]) = gelu_tanh_with }
vectorised! { fn gelu_tanh_grad_chunk(out: &mut [f32], x: &[f32]) = gelu_tanh_grad_with }
vectorised! { fn gelu_chunk(out: &mut [f32], x: &[f32]) = gelu_with }
vectorised! { fn gelu_grad_chunk(out: &mut [f32], x: &[f32]) = gelu_grad_with }
vectorised! { pub fn swiglu_chunk(out: &mut [f32], gate: &[f32]) = swiglu_with }
vectorised! { fn swiglu_grad_chunk(grad: &mut [f32], gate: &mut [f32], up: &[f32]) = swiglu_grad_with }

#[inline(always)]
fn gelu_tanh_with(out: &mut [f32], x: &[f32], madd: impl Fn(f32, f32, f32) -> f32 + Copy) {
    for (out, x) in out.iter_mut().zip(x) {
        let (share, _) = sigmoids(2.0 * SLOPE * x * madd(CUBE * x, *x, 1.0), madd);
        *out = x * share;
    }
}

#[inline(always)]
fn gelu_tanh_grad_with(out: &mut [f32], x: &[f32], madd: impl Fn(f32, f32, f32) -> f32 + Copy) {
    for (out, x) in out.iter_mut().zip(x) {
        let (share, rest) = sigmoids(2.0 * SLOPE * x * madd(CUBE * x, *x, 1.0), madd);
        let inner = 2.0 * SLOPE * madd(3.0 * CUBE * x, *x, 1.0);
        *out *= madd(x * inner, share * rest, share);
    }
}

#[inline(always)]
fn gelu_with(out: &mut [f32], x: &[f32], madd: impl Fn(f32, f32, f32) -> f32 + Copy) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = x * integral(*x, madd);
    }
}

/// The slope is the normal distribution's integral plus `x` times its density.
#[inline(always)]
fn gelu_grad_with(out: &mut [f32], x: &[f32], madd: impl Fn(f32, f32, f32) -> f32 + Copy) {
    for (out, x) in out.iter_mut().zip(x) {
        let density = 0.5 * SLOPE * exp(-0.5 * x * x, madd);
        *out *= madd(*x, density, integral(*x, madd));
    }
}

#[inline(always)]
fn swiglu_with(out: &mut [f32], gate: &[f32], madd: impl Fn(f32, f32, f32) -> f32 + Copy) {
    for (out, gate) in out.iter_mut().zip(gate) {
        *out *= gate * sigmoids(*gate, madd).0;
    }
}

/// Turns `grad` into the gate's gradient, and `gate` into that of the other factor.
#[inline(always)]
fn swiglu_grad_with(
    grad: &mut [f32],
    gate: &mut [f32],
    up: &[f32],
    madd: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    for ((grad, gate), up) in grad.iter_mut().zip(gate).zip(up) {
        let (g, x) = (*grad, *gate);
        let (share, rest) = sigmoids(x, madd);
        *gate = g * x * share;
        *grad = g * up * madd(x * share, rest, share);
    }
}

/// `σ(x)` and `1 − σ(x)`, both without cancellation.
#[inline(always)]
fn sigmoids(x: f32, madd: impl Fn(f32, f32, f32) -> f32) -> (f32, f32) {
    let small = exp(-x.abs(), madd);
    let large = 1.0 / (1.0 + small);
    let small = small * large;
    if x < 0.0 { (small, large) } else { (large, small) }
}

/// `(1 + erf(x/√2)) / 2`, by the rational approximation of `erf` in the Eigen library.
#[inline(always)]
fn integral(x: f32, madd: impl Fn(f32, f32, f32) -> f32) -> f32 {
    const NUMERATOR: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_5e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const DENOMINATOR: [f32; 5] =
        [-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_474e-2];
    let x = (x * std::f32::consts::FRAC_1_SQRT_2).clamp(-4.0, 4.0);
    let square = x * x;
    let (mut above, mut below) = (NUMERATOR[0], DENOMINATOR[0]);
    for c in &NUMERATOR[1..] {
        above = madd(above, square, *c);
    }
    for c in &DENOMINATOR[1..] {
        below = madd(below, square, *c);
    }
    madd(0.5 * x, above / below, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replaces_an_operand_is_the_same() {
        for count in [0, 1, 511, 513, CHUNK + 700] {
            let values = |seed: f32| (0..count).map(|i| ((i as f32) * seed).sin() * 6.0).collect();
            let (x, y): (Vec<f32>, Vec<f32>) = (values(0.37), values(0.11));
            let (mut gelu, mut product) = (x.clone(), y.clone());
            gelu_tanh_in_place(&mut gelu);
            swiglu_in_place(&x, &mut product);
            assert_eq!(gelu, gelu_tanh(&x), "{count}");
            assert_eq!(product, swiglu(&x, &y), "{count}");
        }
    }

    fn gelu_by_tanh(x: f64) -> (f64, f64) {
        let slope = (2.0 / std::f64::consts::PI).sqrt();
        let tanh = (slope * (x + 0.044_715 * x.powi(3))).tanh();
        let bend = slope * (1.0 + 3.0 * 0.044_715 * x * x);
        (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * bend)
    }

    /// The integral of the normal density from 0, by Simpson's rule in steps that `x` divides.
    fn gelu_by_integral(x: f64) -> (f64, f64) {
        let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let steps = 2000;
        let h = x / steps as f64;
        let inner: f64 = (1..steps).map(|i| density(h * i as f64) * [2.0, 4.0][i % 2]).sum();
        let phi = 0.5 + h / 3.0 * (density(0.0) + inner + density(x));
        (x * phi, phi + x * density(x))
    }

    fn silu(x: f64) -> (f64, f64) {
        let share = 1.0 / (1.0 + (-x).exp());
        (x * share, share + x * share * (1.0 - share))
    }

    type Values = fn(&[f32]) -> Vec<f32>;
    type Slopes = fn(&[f32], &[f32]) -> Vec<f32>;

    /// Compares a function and its slope with those in f64, also in the body that needs no special instructions.
    fn check(values: [Values; 2], slopes: [Slopes; 2], exact: fn(f64) -> (f64, f64)) {
        let x: Vec<f32> = (-4_000..4_000).map(|i| i as f32 / 300.0).collect();
        let ones = vec![1.0; x.len()];
        for (values, slopes) in values.iter().zip(slopes) {
            let (values, slopes) = (values(&x), slopes(&x, &ones));
            for (at, x) in x.iter().enumerate() {
                let (value, slope) = exact(f64::from(*x));
                for (found, expected) in [(values[at], value), (slopes[at], slope)] {
                    let off = (f64::from(found) - expected).abs();
                    assert!(off <= 1e-6 * expected.abs().max(1.0), "{x}: {found}, not {expected}");
                }
            }
        }
    }

    const PLAIN: fn(f32, f32, f32) -> f32 = |a, b, c| a * b + c;

    #[test]
    fn gelu_by_tanh_and_its_slope_are_those_of_f64() {
        let plain = |x: &[f32]| unary(x, |o, x| gelu_tanh_with(o, x, PLAIN));
        let plain_grad =
            |x: &[f32], g: &[f32]| binary(x, g, |o, x| gelu_tanh_grad_with(o, x, PLAIN));
        check([gelu_tanh, plain], [gelu_tanh_grad, plain_grad], gelu_by_tanh);
    }

    #[test]
    fn gelu_and_its_slope_are_those_of_f64() {
        let plain = |x: &[f32]| unary(x, |o, x| gelu_with(o, x, PLAIN));
        let plain_grad = |x: &[f32], g: &[f32]| binary(x, g, |o, x| gelu_grad_with(o, x, PLAIN));
        check([gelu, plain], [gelu_grad, plain_grad], gelu_by_integral);
    }

    #[test]
    fn swiglu_and_its_slopes_are_those_of_f64() {
        let value = |x: &[f32]| swiglu(x, &vec![1.0; x.len()]);
        let slope = |x: &[f32], g: &[f32]| {
            let [for_gate, for_up] = swiglu_grads(x, &vec![1.0; x.len()], g);
            let value = swiglu(x, &vec![1.0; x.len()]);
            assert_eq!(for_up, value, "with a gradient of one");
            for_gate
        };
        let plain = |x: &[f32]| binary(x, &vec![1.0; x.len()], |o, x| swiglu_with(o, x, PLAIN));
        let plain_slope = |x: &[f32], g: &[f32]| {
            let (mut grad, mut gate) = (g.to_vec(), x.to_vec());
            swiglu_grad_with(&mut grad, &mut gate, &vec![1.0; x.len()], PLAIN);
            grad
        };
        check([value, plain], [slope, plain_slope], silu);
    }
}
