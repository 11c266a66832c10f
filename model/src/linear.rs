//! `y = x·Wᵀ + b` with the weight in Hugging Face's order.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use qwen3_vl_backends::ops;

use crate::init::Init;

/// HF `nn.Linear`: weight `[out, in]`, optional bias `[out]`.
#[derive(Module, Debug)]
pub struct Linear {
    pub weight: Param<Tensor<2>>,
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// A layer without bias.
    pub fn new(inputs: usize, outputs: usize, init: &Init) -> Self {
        Self { weight: init.normal([outputs, inputs]), bias: None }
    }

    /// A layer with bias.
    pub fn with_bias(inputs: usize, outputs: usize, init: &Init) -> Self {
        Self { bias: Some(init.zeros([outputs])), ..Self::new(inputs, outputs, init) }
    }

    /// `x [n, in] -> [n, out]` in the dtype of `x`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => ops::affine(x, self.weight.val(), bias.val()),
            None => ops::linear(x, self.weight.val()),
        }
    }
}
