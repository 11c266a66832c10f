//! Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"): the summed gradients of a matrix, made
//! orthogonal, are its step.
//!
//! The step is scaled as in Liu et al. 2025 ("Muon is scalable for LLM training", section 2.2), so that rate and weight
//! decay of AdamW fit.

use burn::tensor::Tensor;
use qwen3_vl_backends::ops::update::orthogonal;

/// Size of a step, root of the mean square, at rate 1: that of AdamW's steps.
const STEP: f64 = 0.2;

/// Numbers of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MuonStep {
    /// Share of the sum of gradients that is kept.
    pub momentum: f64,
    pub rate: f64,
    /// Share of the value that is lost.
    pub decay: f64,
    /// Multiplies the gradient first (clipping).
    pub grad_scale: f64,
    /// Matrices that lie below each other in the parameter, such as those of queries, keys and values.
    pub matrices: usize,
}

/// `m = μ·m + g`, `w = w·(1 − decay) − rate·0.2·sqrt(max(rows, columns))·orthogonal(g + μ·m)` on every matrix of `value
/// [rows, columns]`; `sum` and `grad` are flat. Returns value and sum.
pub fn muon(
    value: Tensor<2>,
    sum: Tensor<1>,
    grad: Tensor<1>,
    step: MuonStep,
) -> (Tensor<2>, Tensor<1>) {
    let [rows, columns] = value.dims();
    let grad = grad * step.grad_scale;
    let sum = sum * step.momentum + grad.clone();
    let ahead = (grad + sum.clone() * step.momentum).reshape([rows, columns]);
    let parts = ahead.chunk(step.matrices, 0).into_iter().map(orthogonal).collect();
    let height = (rows / step.matrices).max(columns) as f64;
    let moved = Tensor::cat(parts, 0) * (step.rate * STEP * height.sqrt());
    (value * (1.0 - step.decay) - moved, sum)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};
    use qwen3_vl_backends::device;

    use super::*;

    fn random(shape: [usize; 2]) -> Tensor<2> {
        let device = device::select(Some("cpu")).expect("a CPU backend").device;
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device)
    }

    #[test]
    fn stacked_matrices_move_like_single_ones() {
        let step = MuonStep { momentum: 0.9, rate: 0.1, decay: 0.01, grad_scale: 0.5, matrices: 2 };
        let (value, grad) = (random([8, 8]), random([8, 8]));
        let sum = random([1, 64]).reshape([64]);
        let (both, _) = muon(value.clone(), sum.clone(), grad.clone().reshape([64]), step);
        let half = |from: usize| {
            let part = |x: Tensor<2>| x.narrow(0, from, 4);
            let sum = part(sum.clone().reshape([8, 8])).reshape([32]);
            let grad = part(grad.clone()).reshape([32]);
            muon(part(value.clone()), sum, grad, MuonStep { matrices: 1, ..step }).0
        };
        let single = Tensor::cat(vec![half(0), half(4)], 0);
        both.into_data().assert_approx_eq::<f32>(&single.into_data(), Tolerance::absolute(1e-5));
    }
}
