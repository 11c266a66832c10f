//! Four patches become one token of the language model.

use burn::module::Module;
use burn::tensor::Tensor;
use qwen3_vl_backends::ops::gelu;

use crate::config::VisionConfig;
use crate::init::Init;
use crate::linear::Linear;
use crate::norm::LayerNorm;

/// HF `Qwen3VLVisionPatchMerger`. The main merger normalises each patch and then groups
/// (`use_postshuffle_norm=False`); the DeepStack mergers group first. The GELU is the exact one.
#[derive(Module, Debug)]
pub struct PatchMerger {
    pub norm: LayerNorm,
    pub linear_fc1: Linear,
    pub linear_fc2: Linear,
    group: usize,
    norm_after_grouping: bool,
}

impl PatchMerger {
    pub(super) fn new(config: &VisionConfig, norm_after_grouping: bool, init: &Init) -> Self {
        let group = config.merge_area();
        let wide = config.hidden_size * group;
        Self {
            norm: LayerNorm::new(if norm_after_grouping { wide } else { config.hidden_size }, init),
            linear_fc1: Linear::with_bias(wide, wide, init),
            linear_fc2: Linear::with_bias(wide, config.out_hidden_size, init),
            group,
            norm_after_grouping,
        }
    }

    /// `x [patches, hidden] -> [patches / 4, out_hidden]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [patches, width] = x.dims();
        let wide = [patches / self.group, width * self.group];
        let x = if self.norm_after_grouping {
            self.norm.forward(x.reshape(wide))
        } else {
            self.norm.forward(x).reshape(wide)
        };
        self.linear_fc2.forward(gelu(self.linear_fc1.forward(x)))
    }
}
