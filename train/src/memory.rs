//! How much memory a run will need, before its first step.
//!
//! Weights, gradients and moments follow from the parameters, those of side paths among them. Activations follow from what each operation keeps for its
//! gradient (`qwen3_vl_backends::ops`), times the tokens and patches of the largest micro-batch.

use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::config::{Qwen3VlConfig, TextConfig, VisionConfig};
use qwen3_vl_weights::ModelSource;
use qwen3_vl_weights::checkpoint::stored_dtype;
use serde::Serialize;

use crate::config::{BatchTable, Recompute, TrainConfig};
use crate::data::SampleSizes;
use crate::groups::{Group, Parameter, parameters};
use crate::optim::muon_matrices;

/// Bytes of a value; training runs in f32.
const VALUE: u64 = 4;
/// Most logits that exist at a time, see [`qwen3_vl_backends::ops::cross_entropy`].
const LOGITS: u64 = 1 << 24;

/// Rows of each source that are enough to predict the memory of a run.
pub const ROWS_MEASURED: usize = 64;

/// Parameters of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GroupSize {
    pub group: Group,
    /// Parameters that are trained, and all of them.
    pub trained: u64,
    pub all: u64,
    /// The largest tensor that is trained.
    pub largest: u64,
    /// Moments of what is trained: two of each value, but one where Muon moves it.
    pub moments: u64,
}

/// The groups of a model in a run. No weight is looked at.
pub fn group_sizes(model: &Qwen3VlModel, run: &TrainConfig) -> Vec<GroupSize> {
    let list = parameters(model);
    let size = |group| {
        let mut size = GroupSize { group, trained: 0, all: 0, largest: 0, moments: 0 };
        let own = list.iter().filter(|parameter| parameter.group == group);
        own.for_each(|parameter| size.add(parameter, run));
        size
    };
    Group::ALL.into_iter().map(size).collect()
}

impl GroupSize {
    fn add(&mut self, parameter: &Parameter, run: &TrainConfig) {
        let count = parameter.len() as u64;
        self.all += count;
        if run.train.trains(parameter) {
            let one_moment = muon_matrices(&run.optimizer, parameter).is_some();
            self.trained += count;
            self.largest = self.largest.max(count);
            self.moments += if one_moment { count } else { 2 * count };
        }
    }
}

/// The largest micro-batch of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Load {
    pub tokens: usize,
    pub patches: usize,
}

impl Load {
    /// A micro-batch full of the samples that have most patches for their tokens.
    pub fn of(batch: &BatchTable, sizes: &SampleSizes) -> Self {
        if !batch.pack {
            return Self { tokens: sizes.longest, patches: sizes.most_patches };
        }
        let tokens = batch.tokens.max(sizes.longest);
        let (patches, of) = sizes.densest;
        let patches = (patches * tokens).div_ceil(of.max(1)).max(sizes.most_patches);
        Self { tokens, patches }
    }
}

/// Predicted bytes, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    pub load: Load,
    /// All weights, and the moments of those that are trained.
    pub weights: u64,
    pub moments: u64,
    /// Gradients at the end of a backward pass.
    pub gradients: u64,
    /// What forward passes keep, with every activation and with the inputs of blocks only.
    pub activations: u64,
    pub activations_recomputed: u64,
    /// The most that is alive at a time, with and without `memory.recompute = "block"`. It is less than the sum: activations go
    /// while gradients come.
    pub peak_plain: u64,
    pub peak_recomputed: u64,
    /// Which of the two holds for this run.
    pub recompute: bool,
}

impl MemoryEstimate {
    /// The prediction for a run of `model` on samples of these sizes. No weight is looked at, so none need be loaded.
    pub fn new(model: &Qwen3VlModel, run: &TrainConfig, sizes: &SampleSizes) -> Self {
        let groups = group_sizes(model, run);
        let (batch, load) = (&run.batch, Load::of(&run.batch, sizes));
        let sum = |part: fn(&GroupSize) -> u64| VALUE * groups.iter().map(part).sum::<u64>();
        let trained = sum(|g| g.trained);
        let weights = trained + frozen_value(model, run) * (sum(|g| g.all) - trained) / VALUE;
        let largest = VALUE * groups.iter().map(|g| g.largest).max().unwrap_or(0);
        let kept = Kept::new(model.config(), &groups, load);
        // Of several micro-batches, each comes with gradients of its own beside the sum of those before.
        let several = batch.accumulate > 1 || (!batch.pack && batch.tokens > load.tokens);
        let held = if several { trained } else { 0 };
        let moments = sum(|g| g.moments);
        let fixed = weights + moments + kept.inputs;
        let update = weights + moments + trained + largest;
        let plain = held + (kept.plain + kept.head).max(trained + largest) + kept.widest;
        let blocks = trained + kept.blocks + (2 * kept.widest).max(kept.head).max(largest);
        Self {
            load,
            weights,
            moments,
            gradients: trained,
            activations: kept.inputs + kept.plain + kept.head,
            activations_recomputed: kept.inputs + kept.blocks + kept.widest.max(kept.head),
            peak_plain: (fixed + plain).max(update),
            peak_recomputed: (fixed + blocks).max(update),
            recompute: run.memory.recompute == Recompute::Block,
        }
    }

    /// The most that is alive at a time in this run.
    pub fn peak(&self) -> u64 {
        if self.recompute { self.peak_recomputed } else { self.peak_plain }
    }
}

/// Bytes of a value that is not trained: beside LoRA, weights keep the dtype of their file.
fn frozen_value(model: &Qwen3VlModel, run: &TrainConfig) -> u64 {
    let source = ModelSource::Folder(run.model.clone());
    let weights = run.lora().and_then(|_| source.weights().ok());
    let stored = weights.map(|weights| stored_dtype(weights.as_ref(), model.config()));
    stored.map_or(VALUE, |dtype| dtype.size() as u64)
}

/// Bytes that one pass keeps.
struct Kept {
    /// Patches as numbers.
    inputs: u64,
    /// Everything, block after block.
    plain: u64,
    /// The inputs of blocks.
    blocks: u64,
    /// Everything of the largest block.
    widest: u64,
    /// Logits, and as much again for their gradient.
    head: u64,
}

impl Kept {
    fn new(config: &Qwen3VlConfig, groups: &[GroupSize], load: Load) -> Self {
        let has = |group| groups.iter().any(|size| size.group == group && size.trained > 0);
        let [vision, merger] = [Group::Vision, Group::Merger].map(has);
        let towers = vision || merger;
        let inner = towers || has(Group::Llm) || has(Group::Embed);
        let bytes = |count: usize, values: u64| VALUE * count as u64 * values;
        let (text, tower) = (&config.text, &config.vision);
        let (width, hidden) = (tower.hidden_size as u64, text.hidden_size as u64);
        let levels = tower.deepstack_indexes.len() as u64;
        let merged = load.patches / tower.merge_area().max(1);

        let pixels = bytes(load.patches, tower.patch_len() as u64);
        let block = if vision { bytes(load.patches, vision_values(tower, true)) } else { 0 };
        let mergers =
            if towers { (levels + 1) * bytes(merged, merger_values(tower, merger)) } else { 0 };
        let layer = |index| bytes(load.tokens, text_values(text, index, has(Group::Llm)));
        let layers: Vec<u64> = (0..text.layers).map(layer).collect();
        let all_layers: u64 = if inner { layers.iter().sum() } else { 0 };
        // Embeddings with pictures in them, the DeepStack levels, the last hidden states and their norm.
        let ends = bytes(load.tokens, (levels + 3) * hidden);
        let logits =
            (text.vocab_size as u64 * load.tokens as u64).min(LOGITS.max(text.vocab_size as u64));
        let tower_blocks = bytes(load.patches, (tower.layers as u64 + 1) * width);
        Self {
            inputs: if vision { 2 * pixels } else { pixels },
            plain: tower.layers as u64 * block + mergers + all_layers + ends,
            blocks: tower_blocks + bytes(load.tokens, (text.layers as u64 + 1) * hidden) + ends,
            widest: layers.into_iter().fold(block.max(mergers), u64::max),
            head: VALUE * 2 * logits,
        }
    }
}

/// Values that a text layer keeps for each token. Where its weights are not trained, the inputs of its linear layers go.
fn text_values(text: &TextConfig, layer: usize, trained: bool) -> u64 {
    let inputs = usize::from(trained);
    let (q, kv) = (text.heads * text.head_dim, text.kv_heads * text.head_dim);
    // Inputs of both norms and of q, k, v; raw and rotated queries and keys, values, the result of attention.
    let attention = text.hidden_size * (2 + 2 * inputs) + q * (2 + inputs) + 3 * kv;
    let feed_forward = match text.moe.as_ref().filter(|_| text.is_moe_layer(layer)) {
        // Rows of each chosen expert: its input, gate and up, both factors, their product, and its result.
        Some(moe) => {
            let expert = moe.intermediate_size * (4 + inputs) + text.hidden_size * (1 + inputs);
            moe.experts_per_token * expert + 2 * moe.experts
        }
        None => text.intermediate_size * (2 + inputs),
    };
    (attention + feed_forward) as u64
}

/// Values that a vision block keeps for each patch.
fn vision_values(vision: &VisionConfig, trained: bool) -> u64 {
    let inputs = usize::from(trained);
    let (width, inner) = (vision.hidden_size, vision.intermediate_size);
    // Inputs of both norms, q|k|v, the input of GELU; then the inputs of the four linear layers.
    (width * (5 + 3 * inputs) + inner * (1 + inputs)) as u64
}

/// Values that a merger keeps for each token that it makes.
fn merger_values(vision: &VisionConfig, trained: bool) -> u64 {
    let wide = vision.hidden_size * vision.merge_area();
    // The input of its norm and of GELU; then the inputs of both linear layers.
    (wide * if trained { 4 } else { 2 }) as u64
}
