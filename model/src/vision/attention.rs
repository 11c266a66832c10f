//! Attention inside each frame.

use burn::module::Module;
use burn::tensor::Tensor;
use qwen3_vl_backends::ops;

use super::VisionPlan;
use crate::config::VisionConfig;
use crate::init::Init;
use crate::linear::Linear;
use crate::rope::Rotary;

/// HF `Qwen3VLVisionAttention`: fused q|k|v with bias, two-dimensional rotary, no mask inside a frame.
#[derive(Module, Debug)]
pub struct VisionAttention {
    pub qkv: Linear,
    pub proj: Linear,
}

impl VisionAttention {
    pub(super) fn new(config: &VisionConfig, init: &Init) -> Self {
        let width = config.hidden_size;
        Self {
            qkv: Linear::with_bias(width, 3 * width, init),
            proj: Linear::with_bias(width, width, init),
        }
    }

    /// `x [patches, hidden]`, same shape out.
    pub(super) fn forward(&self, x: Tensor<2>, plan: &VisionPlan, rotary: &Rotary) -> Tensor<2> {
        // Rows of the product are ordered q|k|v, each head-major; every frame attends to itself.
        let qkv = self.qkv.forward(x);
        let Rotary { cos, sin } = rotary.clone();
        self.proj.forward(ops::rotary_attention(qkv, cos, sin, plan.frame_lengths()))
    }
}
