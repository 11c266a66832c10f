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
    heads: usize,
}

impl VisionAttention {
    pub(super) fn new(config: &VisionConfig, init: &Init) -> Self {
        let width = config.hidden_size;
        Self {
            qkv: Linear::with_bias(width, 3 * width, init),
            proj: Linear::with_bias(width, width, init),
            heads: config.heads,
        }
    }

    /// `x [patches, hidden]`, same shape out.
    pub(super) fn forward(&self, x: Tensor<2>, plan: &VisionPlan, rotary: &Rotary) -> Tensor<2> {
        let [patches, width] = x.dims();
        let head_dim = width / self.heads;
        // 1. One product for queries, keys and values; rows are ordered q|k|v, each head-major.
        let qkv = self.qkv.forward(x);
        let part = |i: usize| {
            qkv.clone().narrow(1, i * width, width).reshape([patches, self.heads, head_dim])
        };
        // 2. Rotate queries and keys by their row and column.
        let (q, k, v) = (rotary.rotate(part(0)), rotary.rotate(part(1)), part(2));
        // 3. Attend frame by frame, frames of equal size as one batch.
        let mut start = 0;
        let mut outputs = Vec::with_capacity(plan.segments().len());
        for segment in plan.segments() {
            let rows = segment.frames * segment.patches;
            let frames = |t: &Tensor<3>| {
                t.clone()
                    .narrow(0, start, rows)
                    .reshape([segment.frames, segment.patches, self.heads, head_dim])
                    .swap_dims(1, 2)
            };
            let out = ops::attention(frames(&q), frames(&k), frames(&v), false);
            outputs.push(out.swap_dims(1, 2).reshape([rows, width]));
            start += rows;
        }
        // 4. Join the frames and project.
        self.proj.forward(Tensor::cat(outputs, 0))
    }
}
