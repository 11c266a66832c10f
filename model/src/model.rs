//! The whole model: vision tower, language model, head (HF `Qwen3VLForConditionalGeneration`).

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use qwen3_vl_backends::{Precision, ops};

use crate::cache::KvCache;
use crate::config::Qwen3VlConfig;
use crate::init::Init;
use crate::inputs::{InputError, ModelInputs, Pixels, VisionSpan};
use crate::linear::Linear;
use crate::probe::Probe;
use crate::processor::message::MediaKind;
use crate::text::mrope::Mrope;
use crate::text::positions::{Position, Positions};
use crate::text::{TextContext, TextModel};
use crate::vision::{VisionFeatures, VisionPlan, VisionTower};

/// HF `Qwen3VLForConditionalGeneration` / `Qwen3VLMoeForConditionalGeneration`.
#[derive(Module, Debug)]
pub struct Qwen3VlModel {
    pub visual: VisionTower,
    pub language_model: TextModel,
    /// Absent when the embedding table is the head.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    config: Qwen3VlConfig,
    #[module(skip)]
    mrope: Mrope,
    #[module(skip)]
    precision: Precision,
}

/// A prompt whose pictures have been encoded, ready for the language model.
#[derive(Debug)]
pub struct Prompt {
    ids: Vec<u32>,
    positions: Positions,
    /// Row of `features` for placeholder tokens, `None` for text.
    feature_rows: Vec<Option<usize>>,
    features: Option<VisionFeatures>,
}

impl Prompt {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the prompt has no token (which [`Qwen3VlModel::prepare`] refuses).
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Positions of the prompt's tokens and of the first generated one.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }
}

impl Qwen3VlModel {
    /// A model with lazy parameters: load weights into it, or use it with random ones.
    pub fn new(config: &Qwen3VlConfig, init: &Init) -> Self {
        let text = &config.text;
        let head = (!config.tie_word_embeddings)
            .then(|| Linear::new(text.hidden_size, text.vocab_size, init));
        Self {
            visual: VisionTower::new(&config.vision, init),
            language_model: TextModel::new(text, init),
            lm_head: head,
            mrope: Mrope::new(&text.rope, text.head_dim),
            config: config.clone(),
            precision: init.precision,
        }
    }

    /// The configuration that the model was made of.
    pub fn config(&self) -> &Qwen3VlConfig {
        &self.config
    }

    /// Dtypes of weights and activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The device of the language model's embedding.
    pub fn device(&self) -> Device {
        self.language_model.embed_tokens.weight.lazy_device()
    }

    /// An empty cache for one sequence.
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(&self.config.text, self.precision.compute, &self.device())
    }

    /// Features of all images or clips of one modality; `None` when there are none.
    pub fn encode(&self, pixels: &Pixels, probe: &mut Probe) -> Option<VisionFeatures> {
        if pixels.is_empty() {
            return None;
        }
        let plan = VisionPlan::new(&self.config.vision, &pixels.grids);
        let shape = [plan.patches(), self.config.vision.patch_len()];
        Some(self.visual.forward(TensorData::new(pixels.values.clone(), shape), &plan, probe))
    }

    /// Encodes the pictures of a prompt whose first `cached` tokens need no features any more.
    ///
    /// # Errors
    /// When the prompt is empty, an id lies outside the vocabulary or spans and pixels disagree.
    pub fn prepare(
        &self,
        inputs: &ModelInputs,
        cached: usize,
        probe: &mut Probe,
    ) -> Result<Prompt, InputError> {
        self.check(inputs)?;
        probe.enter("vision.image.");
        let images = self.encode(&remaining(inputs, MediaKind::Image, cached), probe);
        probe.enter("vision.video.");
        let videos = self.encode(&remaining(inputs, MediaKind::Video, cached), probe);
        probe.enter("text.");
        Ok(Prompt {
            ids: inputs.ids.clone(),
            positions: Positions::new(inputs.ids.len(), &inputs.spans),
            feature_rows: feature_rows(inputs, cached),
            features: joined(images, videos),
        })
    }

    /// Runs tokens `rows` of the prompt through the language model, extending `cache`, which must hold exactly
    /// the tokens before. Returns the final hidden states, `[rows, hidden]`.
    pub fn prefill(
        &self,
        prompt: &Prompt,
        rows: Range<usize>,
        cache: &mut KvCache,
        probe: &mut Probe,
    ) -> Tensor<2> {
        assert_eq!(cache.len(), rows.start, "the cache holds the tokens before the chunk");
        let device = self.device();
        let embeds = self.language_model.embed(id_tensor(&prompt.ids[rows.clone()], &device));
        let visual = &prompt.feature_rows[rows.clone()];
        let features = prompt.features.as_ref().filter(|_| visual.iter().any(Option::is_some));
        let (hidden, deepstack) = match features {
            Some(features) => inject(embeds, features, visual, &device),
            None => (embeds, Vec::new()),
        };
        let rotary = self.rotary(&prompt.positions.prompt[rows.clone()], &device);
        if probe.is_on() {
            let (cos, sin) = rotary.full();
            probe.record("rope_cos", &cos);
            probe.record("rope_sin", &sin);
        }
        let context = TextContext { rotary, lengths: vec![rows.len()], deepstack };
        self.language_model.forward(hidden, &context, &mut [cache], probe)
    }

    /// Runs one generated token per sequence, each at its position on all axes, and returns logits
    /// `[sequences, vocabulary]` in f32.
    pub fn decode(&self, tokens: &[(u32, u32)], caches: &mut [&mut KvCache]) -> Tensor<2> {
        let device = self.device();
        let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
        let positions: Vec<_> = tokens.iter().map(|(_, at)| Position([*at; 3])).collect();
        let context = TextContext {
            rotary: self.rotary(&positions, &device),
            lengths: vec![1; tokens.len()],
            deepstack: Vec::new(),
        };
        let embeds = self.language_model.embed(id_tensor(&ids, &device));
        let hidden = self.language_model.forward(embeds, &context, caches, &mut Probe::off());
        self.logits(hidden)
    }

    /// The head: `hidden [n, hidden] -> [n, vocabulary]` in f32.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let weight = match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.language_model.embed_tokens.weight.val(),
        };
        ops::linear(hidden, weight).cast(DType::F32)
    }

    fn rotary(&self, positions: &[Position], device: &Device) -> crate::rope::Rotary {
        self.mrope.rotary(positions, self.precision.compute, device)
    }

    fn check(&self, inputs: &ModelInputs) -> Result<(), InputError> {
        if inputs.ids.is_empty() {
            return Err(InputError::Empty);
        }
        let vocabulary = self.config.text.vocab_size;
        if let Some(position) = inputs.ids.iter().position(|id| *id as usize >= vocabulary) {
            return Err(InputError::Vocabulary { id: inputs.ids[position], position, vocabulary });
        }
        let area = self.config.vision.merge_area();
        for (kind, what) in [(MediaKind::Image, "images"), (MediaKind::Video, "videos")] {
            let expected = inputs.pixels(kind).grids.iter().map(|g| g.patches() / area).sum();
            let found = inputs.placeholders(kind);
            if found != expected {
                return Err(InputError::PlaceholderCount { what, found, expected });
            }
        }
        Ok(())
    }
}

/// Items of `kind` whose placeholders lie at or behind `cached`.
fn remaining(inputs: &ModelInputs, kind: MediaKind, cached: usize) -> Pixels {
    let pixels = inputs.pixels(kind);
    let mut spans = inputs.spans.iter().filter(|span| span.kind == kind);
    let done = pixels.grids.iter().take_while(|grid| {
        let mut frames = spans.by_ref().take(grid.t);
        let first = frames.next().map(|span| span.start);
        frames.for_each(drop);
        first.is_some_and(|start| start < cached)
    });
    let skip = done.count();
    if skip == 0 {
        return pixels.clone();
    }
    let before: usize = pixels.grids[..skip].iter().map(|g| g.patches()).sum();
    Pixels {
        values: pixels.values[before * pixels.patch_len()..].to_vec(),
        grids: pixels.grids[skip..].to_vec(),
    }
}

/// Rows of the joined features, images first, for the placeholders at or behind `cached`.
fn feature_rows(inputs: &ModelInputs, cached: usize) -> Vec<Option<usize>> {
    let mut rows = vec![None; inputs.ids.len()];
    let ahead = |span: &&VisionSpan| span.start >= cached;
    let mut next = 0;
    for kind in [MediaKind::Image, MediaKind::Video] {
        for span in inputs.spans.iter().filter(ahead).filter(|s| s.kind == kind) {
            for position in span.range() {
                rows[position] = Some(next);
                next += 1;
            }
        }
    }
    rows
}

fn joined(
    images: Option<VisionFeatures>,
    videos: Option<VisionFeatures>,
) -> Option<VisionFeatures> {
    match (images, videos) {
        (Some(images), Some(videos)) => Some(VisionFeatures {
            embeds: Tensor::cat(vec![images.embeds, videos.embeds], 0),
            deepstack: images
                .deepstack
                .into_iter()
                .zip(videos.deepstack)
                .map(|(image, video)| Tensor::cat(vec![image, video], 0))
                .collect(),
        }),
        (images, videos) => images.or(videos),
    }
}

/// Puts vision features in the place of placeholder embeddings, and spreads the DeepStack levels over the rows.
fn inject(
    embeds: Tensor<2>,
    features: &VisionFeatures,
    visual: &[Option<usize>],
    device: &Device,
) -> (Tensor<2>, Vec<Tensor<2>>) {
    let count = visual.len();
    let pick = visual.iter().enumerate().map(|(i, row)| row.map_or(i, |row| count + row) as i64);
    let pick = index_tensor(pick.collect(), device);
    let dtype = embeds.dtype();
    let width = embeds.dims()[1];
    let table = Tensor::cat(vec![embeds, features.embeds.clone().cast(dtype)], 0);
    // Row 0 of each level's table is zero: that is what text rows receive.
    let spread = visual.iter().map(|row| row.map_or(0, |row| row as i64 + 1)).collect();
    let spread = index_tensor(spread, device);
    let zero = Tensor::<2>::zeros([1, width], (device, dtype));
    let level = |level: &Tensor<2>| {
        let table = Tensor::cat(vec![zero.clone(), level.clone().cast(dtype)], 0);
        table.select(0, spread.clone())
    };
    (table.select(0, pick), features.deepstack.iter().map(level).collect())
}

fn id_tensor(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    index_tensor(ids.iter().map(|id| *id as i64).collect(), device)
}

fn index_tensor(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
