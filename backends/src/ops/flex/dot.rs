//! Dot products of a few activation rows with every weight row, bound by memory bandwidth.

use rayon::prelude::*;

use super::Widen;

/// Independent partial sums, so that additions overlap and vectorise.
const LANES: usize = 64;
/// Weight rows per task.
const ROWS_PER_TASK: usize = 16;

/// `x [m, k] · w [n, k]ᵀ -> [m, n]`.
pub fn rows<W: Widen>(x: &[f32], w: &[W], m: usize, n: usize, k: usize) -> Vec<f32> {
    let mut transposed = vec![0.0; n * m];
    let tasks = transposed.par_chunks_mut(ROWS_PER_TASK * m).zip(w.par_chunks(ROWS_PER_TASK * k));
    tasks.for_each(|(out, weights)| {
        for (out, weight) in out.chunks_mut(m).zip(weights.chunks(k)) {
            for (out, x) in out.iter_mut().zip(x.chunks(k)) {
                *out = dot(weight, x);
            }
        }
    });
    if m == 1 { transposed } else { transpose(&transposed, n, m) }
}

fn transpose(values: &[f32], n: usize, m: usize) -> Vec<f32> {
    (0..m).flat_map(|row| (0..n).map(move |column| values[column * m + row])).collect()
}

/// `Σ a·b` in f32, with the widest instructions that the processor has.
pub fn dot<W: Widen>(a: &[W], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            // SAFETY: the processor has just been asked for these features; the function has no other
            // precondition (it only indexes slices).
            return unsafe { dot_avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { dot_avx2(a, b) };
        }
    }
    dot_with(a, b, |w, x, sum| w * x + sum)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
fn dot_avx512<W: Widen>(a: &[W], b: &[f32]) -> f32 {
    dot_with(a, b, f32::mul_add)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_avx2<W: Widen>(a: &[W], b: &[f32]) -> f32 {
    dot_with(a, b, f32::mul_add)
}

/// The one body, compiled for each instruction set.
#[inline(always)]
fn dot_with<W: Widen>(a: &[W], b: &[f32], madd: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((sum, w), x) in sums.iter_mut().zip(a).zip(b) {
            *sum = madd(w.widen(), *x, *sum);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(w, x)| w.widen() * x).sum();
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0] + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::bf16;

    #[test]
    fn every_length_and_instruction_set_agrees_with_f64() {
        for len in [0, 1, 15, 63, 64, 65, 127, 128, 1000, 4304] {
            let a: Vec<bf16> = (0..len).map(|i| bf16::from_f32((i as f32 * 0.37).sin())).collect();
            let b: Vec<f32> = (0..len).map(|i| (i as f32 * 0.11).cos()).collect();
            let exact: f64 = a.iter().zip(&b).map(|(a, b)| a.to_f64() * *b as f64).sum();
            let portable = dot_with(&a, &b, |w, x, sum| w * x + sum);
            for found in [dot(&a, &b), portable] {
                assert!((found as f64 - exact).abs() < 1e-4, "{len}: {found} against {exact}");
            }
        }
    }
}
