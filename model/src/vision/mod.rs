//! The vision tower: patches in, features for the language model out (HF `Qwen3VLVisionModel`).

mod attention;
mod block;
mod merger;
pub(crate) mod plan;
mod pos_embed;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use qwen3_vl_backends::device::lost;

pub use plan::VisionPlan;

use crate::config::VisionConfig;
use crate::init::Init;
use crate::linear::Linear;
use crate::probe::Probe;
use crate::rope::Rotary;
use block::VisionBlock;
use merger::PatchMerger;
use pos_embed::PositionTable;

/// HF `Qwen3VLVisionPatchEmbed`. Kernel equals stride, so the Conv3d is a linear map of flattened patches.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    pub proj: Linear,
}

/// HF `Qwen3VLVisionModel`.
#[derive(Module, Debug)]
pub struct VisionTower {
    pub patch_embed: PatchEmbed,
    pub pos_embed: PositionTable,
    pub blocks: Vec<VisionBlock>,
    pub merger: PatchMerger,
    pub deepstack_merger_list: Vec<PatchMerger>,
    #[module(skip)]
    config: VisionConfig,
    #[module(skip)]
    compute: DType,
}

/// What the tower hands to the language model, one row per language-model token.
#[derive(Debug, Clone)]
pub struct VisionFeatures {
    /// `[tokens, out_hidden_size]`.
    pub embeds: Tensor<2>,
    /// One `[tokens, out_hidden_size]` per DeepStack level.
    pub deepstack: Vec<Tensor<2>>,
}

impl VisionFeatures {
    /// The same features on another device.
    pub(crate) fn move_to(self, device: &Device) -> Self {
        let levels = self.deepstack.into_iter().map(|level| lost::moved(level, device));
        Self { embeds: lost::moved(self.embeds, device), deepstack: levels.collect() }
    }
}

/// Patches on their way through the blocks, so that a large picture can be interrupted.
#[derive(Debug)]
pub(crate) struct VisionPass {
    x: Tensor<2>,
    plan: VisionPlan,
    rotary: Rotary,
    /// DeepStack features, with their levels.
    levels: Vec<(usize, Tensor<2>)>,
    next: usize,
}

impl VisionPass {
    /// Patches in all.
    pub(crate) fn patches(&self) -> usize {
        self.plan.patches()
    }

    /// Whether no block of `tower` is left.
    pub(crate) fn is_over(&self, tower: &VisionTower) -> bool {
        self.next == tower.blocks.len()
    }
}

impl VisionTower {
    /// A tower with lazy parameters.
    pub fn new(config: &VisionConfig, init: &Init) -> Self {
        let init = &Init { std: config.initializer_range, ..init.clone() };
        let merger = |after_shuffle| PatchMerger::new(config, after_shuffle, init);
        Self {
            patch_embed: PatchEmbed {
                proj: Linear::with_bias(config.patch_len(), config.hidden_size, init),
            },
            pos_embed: PositionTable::new(config, init),
            blocks: (0..config.layers).map(|_| VisionBlock::new(config, init)).collect(),
            merger: merger(false),
            deepstack_merger_list: config.deepstack_indexes.iter().map(|_| merger(true)).collect(),
            config: config.clone(),
            compute: init.precision.compute,
        }
    }

    /// Pixels of any number of images or clips, `[patches, patch_len]` in the plan's order, to features.
    pub fn forward(
        &self,
        pixels: TensorData,
        plan: &VisionPlan,
        probe: &mut Probe,
    ) -> VisionFeatures {
        let pass = self.begin(pixels, plan.clone(), probe);
        self.end(self.advance(pass, self.blocks.len(), probe), probe)
    }

    /// A pass that stands before the first block.
    pub(crate) fn begin(
        &self,
        pixels: TensorData,
        plan: VisionPlan,
        probe: &mut Probe,
    ) -> VisionPass {
        let x = self.enter(pixels, &plan, probe);
        let rotary = plan.rotary(&self.device());
        if probe.is_on() {
            let (cos, sin) = rotary.full();
            probe.record("rope_cos", &cos);
            probe.record("rope_sin", &sin);
        }
        VisionPass { x, plan, rotary, levels: Vec::new(), next: 0 }
    }

    /// Runs the next `blocks` blocks, or those that are left.
    pub(crate) fn advance(&self, pass: VisionPass, blocks: usize, probe: &mut Probe) -> VisionPass {
        let VisionPass { mut x, plan, rotary, mut levels, next } = pass;
        let end = next.saturating_add(blocks).min(self.blocks.len());
        for (index, block) in self.blocks.iter().enumerate().take(end).skip(next) {
            x = block.forward(x, &plan, &rotary);
            probe.record(format!("block.{index}"), &x);
            levels.extend(self.taps(index, &x));
        }
        VisionPass { x, plan, rotary, levels, next: end }
    }

    /// The features of a pass whose blocks have all run.
    pub(crate) fn end(&self, pass: VisionPass, probe: &mut Probe) -> VisionFeatures {
        let embeds = self.merger.forward(pass.x);
        probe.record("embeds", &embeds);
        VisionFeatures { embeds, deepstack: in_order(pass.levels, probe) }
    }

    /// What the first block reads: patches with their positions, `[patches, hidden]`.
    pub(crate) fn enter(
        &self,
        pixels: TensorData,
        plan: &VisionPlan,
        probe: &mut Probe,
    ) -> Tensor<2> {
        let device = &self.device();
        let pixels = Tensor::<2>::from_data(pixels, (device, DType::F32)).cast(self.compute);
        let patches = self.patch_embed.proj.forward(pixels);
        probe.record("patch_embed", &patches);
        let x = patches + self.pos_embed.forward(plan, device).cast(self.compute);
        probe.record("block_in", &x);
        x
    }

    /// The DeepStack features that the output `x` of block `index` makes, with their levels.
    pub(crate) fn taps(&self, index: usize, x: &Tensor<2>) -> Vec<(usize, Tensor<2>)> {
        let taps = self.config.deepstack_indexes.iter().zip(&self.deepstack_merger_list);
        let here = taps.enumerate().filter(|(_, (tap, _))| **tap == index);
        here.map(|(level, (_, merger))| (level, merger.forward(x.clone()))).collect()
    }

    /// Where the tower is; what is uploaded to it takes no part in gradients.
    pub(crate) fn device(&self) -> Device {
        self.patch_embed.proj.weight.device().without_autodiff()
    }
}

/// Sorts the tapped features by level, which need not be the order of the blocks.
fn in_order(mut levels: Vec<(usize, Tensor<2>)>, probe: &mut Probe) -> Vec<Tensor<2>> {
    levels.sort_by_key(|(level, _)| *level);
    for (level, features) in &levels {
        probe.record(format!("deepstack.{level}"), features);
    }
    levels.into_iter().map(|(_, features)| features).collect()
}
