//! The two norms: RMSNorm of the language model, LayerNorm of the vision tower.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use qwen3_vl_backends::ops;

use crate::init::Init;
use crate::rope::Rotary;

/// HF `Qwen3VLTextRMSNorm`: f32 inside, cast back to the input's dtype before the weight is applied.
#[derive(Module, Debug)]
pub struct RmsNorm {
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
}

impl RmsNorm {
    /// A norm over the last `width` values.
    pub fn new(width: usize, epsilon: f64, init: &Init) -> Self {
        Self { weight: init.ones([width]), epsilon }
    }

    /// `x [.., width]`, same shape and dtype out.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, self.weight.val(), self.epsilon)
    }

    /// `x + y` and its norm, `[n, width]` each.
    pub(crate) fn of_sum(&self, x: Tensor<2>, y: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        ops::add_rms_norm(x, y, self.weight.val(), self.epsilon)
    }

    /// The norms of the heads of `x [n, heads, width]`, rotated.
    pub(crate) fn rotated(&self, x: Tensor<3>, rotary: &Rotary) -> Tensor<3> {
        ops::rms_norm_rotated(x, self.weight.val(), rotary.tables(), self.epsilon)
    }

    pub(crate) const fn epsilon(&self) -> f64 {
        self.epsilon
    }
}

/// HF `nn.LayerNorm` of the vision tower (epsilon 1e-6), f32 inside.
#[derive(Module, Debug)]
pub struct LayerNorm {
    pub weight: Param<Tensor<1>>,
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    const EPSILON: f64 = 1e-6;

    /// A norm over the last `width` values.
    pub fn new(width: usize, init: &Init) -> Self {
        Self { weight: init.ones([width]), bias: init.zeros([width]) }
    }

    /// `x [n, width]`, same shape and dtype out.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), Self::EPSILON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, TensorData};
    use qwen3_vl_backends::{Precision, device};

    /// Rows of tiny variance tell epsilon 1e-6 from 1e-5, which ordinary rows do not.
    #[test]
    fn layer_norm_uses_an_epsilon_of_1e_minus_6() {
        let device = device::select(None).unwrap().device;
        let norm = LayerNorm::new(2, &Init::new(&device, Precision::F32));
        let row = TensorData::new(vec![1e-3f32, -1e-3], [1, 2]);
        let y = norm.forward(Tensor::from_data(row, (&device, DType::F32)));
        let expected = 1e-3 / (1e-6f32 + 1e-6).sqrt();
        let found = y.to_data().try_to_vec::<f32>().unwrap()[0];
        assert!((found - expected).abs() < 1e-5, "{found} against {expected}");
    }
}
