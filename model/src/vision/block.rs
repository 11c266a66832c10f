//! One transformer block of the vision tower.

use burn::module::Module;
use burn::tensor::Tensor;
use qwen3_vl_backends::ops::gelu_tanh;

use super::VisionPlan;
use super::attention::VisionAttention;
use crate::config::VisionConfig;
use crate::init::Init;
use crate::linear::Linear;
use crate::norm::LayerNorm;
use crate::rope::Rotary;

/// HF `Qwen3VLVisionBlock`.
#[derive(Module, Debug)]
pub struct VisionBlock {
    pub norm1: LayerNorm,
    pub attn: VisionAttention,
    pub norm2: LayerNorm,
    pub mlp: VisionMlp,
}

impl VisionBlock {
    pub(super) fn new(config: &VisionConfig, init: &Init) -> Self {
        Self {
            norm1: LayerNorm::new(config.hidden_size, init),
            attn: VisionAttention::new(config, init),
            norm2: LayerNorm::new(config.hidden_size, init),
            mlp: VisionMlp::new(config, init),
        }
    }

    /// `x [patches, hidden]`, same shape out.
    pub(crate) fn forward(&self, x: Tensor<2>, plan: &VisionPlan, rotary: &Rotary) -> Tensor<2> {
        let x = x.clone() + self.attn.forward(self.norm1.forward(x), plan, rotary);
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }
}

/// HF `Qwen3VLVisionMLP`: `fc2(gelu_tanh(fc1(x)))`.
#[derive(Module, Debug)]
pub struct VisionMlp {
    pub linear_fc1: Linear,
    pub linear_fc2: Linear,
}

impl VisionMlp {
    fn new(config: &VisionConfig, init: &Init) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        Self {
            linear_fc1: Linear::with_bias(width, inner, init),
            linear_fc2: Linear::with_bias(inner, width, init),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear_fc2.forward(gelu_tanh(self.linear_fc1.forward(x)))
    }
}
