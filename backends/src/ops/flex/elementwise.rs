//! Activation functions over flat values: vectorised, and on all cores.

use rayon::prelude::*;

use super::softmax::exp;

/// Values per task.
const CHUNK: usize = 1 << 14;
/// `√(2/π)`, and the factor of the cube.
const SLOPE: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

/// GELU by tanh, `x · σ(2u)` with `u = √(2/π)·(x + 0.044715·x³)`.
pub fn gelu_tanh(x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| gelu_chunk(out, x));
    out
}

/// `grad` times the derivative of [`gelu_tanh`] at `x`.
pub fn gelu_tanh_grad(x: &[f32], grad: &[f32]) -> Vec<f32> {
    let mut out = grad.to_vec();
    let pairs = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    pairs.for_each(|(out, x)| gelu_grad_chunk(out, x));
    out
}

/// Compiles one body for each instruction set, and chooses when it runs.
macro_rules! vectorised {
    ($name:ident, $body:ident) => {
        fn $name(out: &mut [f32], x: &[f32]) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512(out: &mut [f32], x: &[f32]) {
                    $body(out, x, f32::mul_add);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2(out: &mut [f32], x: &[f32]) {
                    $body(out, x, f32::mul_add);
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                {
                    // SAFETY: the processor has just been asked for these features; there is no other precondition.
                    return unsafe { avx512(out, x) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    return unsafe { avx2(out, x) };
                }
            }
            $body(out, x, |a, b, c| a * b + c);
        }
    };
}

vectorised!(gelu_chunk, gelu_with);
vectorised!(gelu_grad_chunk, gelu_grad_with);

#[inline(always)]
fn gelu_with(out: &mut [f32], x: &[f32], madd: impl Fn(f32, f32, f32) -> f32 + Copy) {
    for (out, x) in out.iter_mut().zip(x) {
        let (share, _) = sigmoids(2.0 * SLOPE * x * madd(CUBE * x, *x, 1.0), madd);
        *out = x * share;
    }
}

#[inline(always)]
fn gelu_grad_with(out: &mut [f32], x: &[f32], madd: impl Fn(f32, f32, f32) -> f32 + Copy) {
    for (out, x) in out.iter_mut().zip(x) {
        let (share, rest) = sigmoids(2.0 * SLOPE * x * madd(CUBE * x, *x, 1.0), madd);
        let inner = 2.0 * SLOPE * madd(3.0 * CUBE * x, *x, 1.0);
        *out *= madd(x * inner, share * rest, share);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(x: f64) -> (f64, f64) {
        let slope = (2.0 / std::f64::consts::PI).sqrt();
        let tanh = (slope * (x + 0.044_715 * x.powi(3))).tanh();
        let bend = slope * (1.0 + 3.0 * 0.044_715 * x * x);
        (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * bend)
    }

    #[test]
    fn gelu_and_its_slope_are_those_of_f64() {
        let x: Vec<f32> = (-40_000..40_000).map(|i| i as f32 / 3000.0).collect();
        let ones = vec![1.0; x.len()];
        let (values, slopes) = (gelu_tanh(&x), gelu_tanh_grad(&x, &ones));
        let mut portable = [vec![0.0; x.len()], ones];
        let [a, b] = &mut portable;
        gelu_with(a, &x, |a, b, c| a * b + c);
        gelu_grad_with(b, &x, |a, b, c| a * b + c);
        for (at, x) in x.iter().enumerate() {
            let (value, slope) = exact(f64::from(*x));
            for (found, expected) in [
                (values[at], value),
                (slopes[at], slope),
                (portable[0][at], value),
                (portable[1][at], slope),
            ] {
                let off = (f64::from(found) - expected).abs();
                assert!(off <= 1e-6 * expected.abs().max(1.0), "{x}: {found}, not {expected}");
            }
        }
    }
}
