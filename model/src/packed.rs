//! Whole samples in one pass without a cache, for training: packed one after the other without padding, in pieces
//! between which activations can be dropped and computed again.

use burn::tensor::{Tensor, TensorData};

use crate::inputs::{InputError, ModelInputs};
use crate::model::Qwen3VlModel;
use crate::pack::{index_tensor, inject};
use crate::probe::Probe;
use crate::processor::image::Grid;
use crate::processor::message::MediaKind;
use crate::prompt::FeatureRows;
use crate::rope::Rotary;
use crate::text::positions::{Position, Positions};
use crate::text::{Past, Residual, TextContext};
use crate::vision::{VisionFeatures, VisionPlan};

/// Any number of samples, as the host prepares them: every sample starts at position 0 and sees itself only.
#[derive(Debug, Default)]
pub struct PackedInputs {
    pub ids: Vec<u32>,
    positions: Vec<Position>,
    lengths: Vec<usize>,
    visual: Vec<bool>,
    grids: Vec<Grid>,
    /// Patch rows of all frames, in the order of their placeholders.
    patches: Vec<f32>,
}

impl PackedInputs {
    /// Tokens of each sample.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Patches of all pictures and frames.
    pub fn patch_count(&self) -> usize {
        self.grids.iter().map(Grid::patches).sum()
    }

    fn push(&mut self, inputs: &ModelInputs) {
        let mut visual = vec![false; inputs.ids.len()];
        let mut next = [(0, 0); 2];
        for span in &inputs.spans {
            visual[span.range()].fill(true);
            let (item, frame) = &mut next[usize::from(span.kind == MediaKind::Video)];
            let medium = &inputs.pixels(span.kind).items[*item];
            self.grids.push(Grid { t: 1, ..medium.grid });
            self.patches.extend_from_slice(&medium.patches(*frame..*frame + 1));
            *frame += 1;
            if *frame == medium.grid.t {
                (*item, *frame) = (*item + 1, 0);
            }
        }
        self.visual.append(&mut visual);
        self.positions.extend(Positions::new(inputs.ids.len(), &inputs.spans).prompt);
        self.lengths.push(inputs.ids.len());
        self.ids.extend_from_slice(&inputs.ids);
    }
}

impl Qwen3VlModel {
    /// Packs samples for [`PackedPass`].
    ///
    /// # Errors
    /// When a sample is empty, an id lies outside the vocabulary or spans and pixels disagree.
    pub fn pack<'i>(
        &self,
        samples: impl IntoIterator<Item = &'i ModelInputs>,
    ) -> Result<PackedInputs, InputError> {
        let mut packed = PackedInputs::default();
        for inputs in samples {
            inputs.check(self.config())?;
            packed.push(inputs);
        }
        Ok(packed)
    }
}

/// The tables of one pass over packed samples. Its pieces run on any model of the same shape, so that a pass may
/// begin without gradients and be repeated with them.
#[derive(Debug)]
pub struct PackedPass {
    packed: PackedInputs,
    vision: Option<(VisionPlan, Rotary)>,
    rotary: Rotary,
}

impl PackedPass {
    /// Tables for `packed` on the model's device.
    pub fn new(model: &Qwen3VlModel, packed: PackedInputs) -> Self {
        let device = model.device();
        let vision = (!packed.grids.is_empty()).then(|| {
            let plan = VisionPlan::new(&model.config().vision, &packed.grids);
            let rotary = plan.rotary(&device);
            (plan, rotary)
        });
        let rotary = model.mrope.rotary(&packed.positions, model.precision().compute, &device);
        Self { packed, vision, rotary }
    }

    /// The samples.
    pub fn packed(&self) -> &PackedInputs {
        &self.packed
    }

    /// Final hidden states `[rows, hidden]`, all pieces in order.
    pub fn forward(&self, model: &Qwen3VlModel, probe: &mut Probe) -> Tensor<2> {
        let features = self.patches(model).map(|mut x| {
            let mut levels = Vec::new();
            for index in 0..model.visual.blocks.len() {
                let taps;
                (x, taps) = self.vision_block(model, index, x);
                levels.extend(taps);
            }
            self.features(model, x, levels)
        });
        let (mut hidden, deepstack) = self.embed(model, features);
        for index in 0..model.language_model.layers.len() {
            hidden = self.text_layer(model, index, hidden, deepstack.get(index).cloned(), probe);
        }
        model.language_model.norm.forward(hidden)
    }

    /// What the first vision block reads; `None` without pictures.
    pub fn patches(&self, model: &Qwen3VlModel) -> Option<Tensor<2>> {
        let (plan, _) = self.vision.as_ref()?;
        let shape = [plan.patches(), model.config().vision.patch_len()];
        let pixels = TensorData::new(self.packed.patches.clone(), shape);
        Some(model.visual.enter(pixels, plan, &mut Probe::off()))
    }

    /// Vision block `index`, and the DeepStack features that its output makes, with their levels.
    ///
    /// # Panics
    /// Without pictures.
    pub fn vision_block(
        &self,
        model: &Qwen3VlModel,
        index: usize,
        x: Tensor<2>,
    ) -> (Tensor<2>, Vec<(usize, Tensor<2>)>) {
        let (plan, rotary) = self.vision.as_ref().expect("a pass with pictures");
        let x = model.visual.blocks[index].forward(x, plan, rotary);
        let taps = model.visual.taps(index, &x);
        (x, taps)
    }

    /// Features of the last block's output `x` and of the levels tapped before.
    pub fn features(
        &self,
        model: &Qwen3VlModel,
        x: Tensor<2>,
        mut levels: Vec<(usize, Tensor<2>)>,
    ) -> VisionFeatures {
        levels.sort_by_key(|(level, _)| *level);
        let deepstack = levels.into_iter().map(|(_, features)| features).collect();
        VisionFeatures { embeds: model.visual.merger.forward(x), deepstack }
    }

    /// What the first text layer reads, and what DeepStack adds after the first layers.
    pub fn embed(
        &self,
        model: &Qwen3VlModel,
        features: Option<VisionFeatures>,
    ) -> (Tensor<2>, Vec<Tensor<2>>) {
        let device = model.device();
        let ids = self.packed.ids.iter().map(|id| i64::from(*id)).collect();
        let embeds = model.language_model.embed(index_tensor(ids, &device));
        let features: Vec<_> = features.map(FeatureRows::all).into_iter().collect();
        inject(embeds, &features, &self.packed.visual, &device)
    }

    /// Text layer `index`, and what DeepStack adds to its output.
    pub fn text_layer(
        &self,
        model: &Qwen3VlModel,
        index: usize,
        hidden: Tensor<2>,
        level: Option<Tensor<2>>,
        probe: &mut Probe,
    ) -> Tensor<2> {
        let context = TextContext {
            rotary: self.rotary.clone(),
            lengths: self.packed.lengths.clone(),
            deepstack: Vec::new(),
        };
        let layer = &model.language_model.layers[index];
        let hidden = Residual::new(hidden);
        let hidden = layer.forward(hidden, index, &context, &mut Past::Empty, probe).sum();
        match level {
            Some(level) => hidden + level,
            None => hidden,
        }
    }
}
