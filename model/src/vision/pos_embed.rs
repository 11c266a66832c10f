//! Learned positions, interpolated to the grid of each image.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

use crate::config::VisionConfig;
use crate::init::Init;
use crate::vision::VisionPlan;

/// HF `pos_embed`: a square table `[side · side, hidden]`, row-major.
#[derive(Module, Debug)]
pub struct PositionTable {
    pub weight: Param<Tensor<2>>,
}

impl PositionTable {
    pub(super) fn new(config: &VisionConfig, init: &Init) -> Self {
        Self { weight: init.normal([config.position_embeddings, config.hidden_size]) }
    }

    /// The positions of all patches of the plan, `[patches, hidden]`, weighted and summed in f32.
    pub(super) fn forward(&self, plan: &VisionPlan, device: &Device) -> Tensor<2> {
        let table = self.weight.val();
        let width = table.dims()[1];
        let (rows, weights) = plan.tap_tensors(device);
        let taps = table.select(0, rows).cast(DType::F32).reshape([4, plan.patches(), width]);
        (taps * weights).sum_dim(0).squeeze_dim(0)
    }
}
