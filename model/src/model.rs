//! The whole model: vision tower, language model, head (HF `Qwen3VLForConditionalGeneration`).

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use qwen3_vl_backends::ops::{Products, choose_products, choose_steps};
use qwen3_vl_backends::threads::on_workers;
use qwen3_vl_backends::{Placement, Precision};

use crate::cache::{KvCache, KvDtype};
use crate::config::Qwen3VlConfig;
use crate::init::{Init, PlacedInit};
use crate::inputs::{InputError, ModelInputs, Pixels};
use crate::linear::Linear;
use crate::pack::{Pack, index_tensor, inject};
use crate::probe::Probe;
use crate::processor::message::MediaKind;
use crate::prompt::Prompt;
use crate::step::{Step, Work};
use crate::text::mrope::Mrope;
use crate::text::{Flow, Past, TextContext, TextModel};
use crate::vision::{VisionFeatures, VisionTower};

/// Patches that run through the vision tower at once, unless one frame has more.
pub const VISION_CHUNK: usize = 4096;

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
    pub(crate) mrope: Mrope,
    #[module(skip)]
    precision: Precision,
    #[module(skip)]
    cache_dtype: KvDtype,
    /// Most bytes of a tensor, where a device has such a limit.
    #[module(skip)]
    max_buffer: Option<u64>,
    /// Absent where the process says it.
    #[module(skip)]
    products: Option<Products>,
    /// Absent when everything is on one device.
    #[module(skip)]
    placement: Option<Placement>,
}

impl Qwen3VlModel {
    /// A model with lazy parameters: load weights into it, or use it with random ones.
    pub fn new(config: &Qwen3VlConfig, init: &Init) -> Self {
        Self::build(config, init, None)
    }

    /// As [`Self::new`], with each part on its device. Between devices go the hidden states, the rotary tables and the
    /// DeepStack features; keys and values stay with their layers.
    ///
    /// # Panics
    /// When `placement` is one of another number of layers.
    pub fn placed(config: &Qwen3VlConfig, placement: &Placement, precision: Precision) -> Self {
        let layers: usize = placement.stages.iter().map(|stage| stage.layers.len()).sum();
        assert_eq!(layers, config.text.layers, "every layer has a place");
        let init = Init::new(&placement.embed.device, precision);
        Self::build(config, &init, Some(placement).filter(|placement| !placement.is_whole()))
    }

    fn build(config: &Qwen3VlConfig, init: &Init, placement: Option<&Placement>) -> Self {
        let text = &config.text;
        let places = PlacedInit::new(init, placement);
        let head = || Linear::new(text.hidden_size, text.vocab_size, &places.head());
        Self {
            visual: VisionTower::new(&config.vision, &places.vision()),
            language_model: TextModel::new(text, &places),
            lm_head: (!config.tie_word_embeddings).then(head),
            mrope: Mrope::new(&text.rope, text.head_dim),
            config: config.clone(),
            precision: init.precision,
            cache_dtype: KvDtype::Auto,
            max_buffer: None,
            products: None,
            placement: placement.cloned(),
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

    /// The device of the language model's embedding; what is uploaded to it takes no part in gradients.
    pub fn device(&self) -> Device {
        self.language_model.embed_tokens.weight.device().without_autodiff()
    }

    /// Which device holds which part, where they are on several or run in several stages.
    pub fn placement(&self) -> Option<&Placement> {
        self.placement.as_ref()
    }

    /// Stores the keys and values of new caches in `dtype`.
    #[must_use]
    pub fn with_cache_dtype(mut self, dtype: KvDtype) -> Self {
        self.cache_dtype = dtype;
        self
    }

    /// Divides the keys and values of new caches so that none of their tensors has more bytes, as far as that is possible.
    #[must_use]
    pub fn with_max_buffer(mut self, bytes: Option<u64>) -> Self {
        self.max_buffer = bytes;
        self
    }

    /// Most bytes of keys and values of all layers, where they are one tensor for each.
    pub(crate) fn most_held(&self) -> u64 {
        let tensors = 2 * self.config.text.layers as u64;
        self.max_buffer.map_or(u64::MAX, |bytes| bytes.saturating_mul(tensors))
    }

    /// How keys and values of new caches are stored.
    pub fn cache_dtype(&self) -> KvDtype {
        self.cache_dtype
    }

    /// Multiplies matrices as `products` says, on processors, whatever [`set_products`](qwen3_vl_backends::ops::set_products)
    /// has chosen for the process. Passes of training follow that alone.
    #[must_use]
    pub fn with_products(mut self, products: Products) -> Self {
        self.products = Some(products);
        self
    }

    /// Runs `work`, which computes with a part of this model on `device`, where and as exactly as it is to be computed. Of its rows
    /// the first `steps` are steps of answers.
    pub(crate) fn compute<T: Send>(
        &self,
        device: &Device,
        steps: usize,
        work: impl FnOnce() -> T + Send,
    ) -> T {
        on_workers(device, || {
            let _products = choose_products(self.products);
            let _steps = choose_steps(Some(steps));
            work()
        })
    }

    /// An empty cache for one sequence.
    pub fn new_cache(&self) -> KvCache {
        let compute = self.precision.compute;
        let config = &self.config.text;
        KvCache::new(config, compute, self.cache_dtype).in_buffers_of(config, self.max_buffer)
    }

    /// Bytes of a cache of `tokens` tokens.
    pub fn cache_bytes(&self, tokens: usize) -> u64 {
        let compute = self.precision.compute;
        KvCache::bytes(&self.config.text, tokens, compute, self.cache_dtype)
    }

    /// Features of all images or clips of one modality in one call of the tower; `None` when there are none.
    pub fn encode(&self, pixels: &Pixels, probe: &mut Probe) -> Option<VisionFeatures> {
        let mut values = Vec::new();
        pixels.items.iter().for_each(|item| item.append_patches(0..item.grid.t, &mut values));
        (!pixels.is_empty()).then(|| self.tower(&pixels.grids(), values, probe))
    }

    /// Checks a prompt and places its tokens. Its pictures are encoded as [`Self::forward`] reaches them; with a
    /// probe that is on, all of them at once and now, so that the records are whole.
    ///
    /// # Errors
    /// When the prompt is empty, an id lies outside the vocabulary or spans and pixels disagree.
    pub fn prepare(&self, inputs: &ModelInputs, probe: &mut Probe) -> Result<Prompt, InputError> {
        inputs.check(&self.config)?;
        let mut prompt = Prompt::new(inputs);
        if probe.is_on() {
            for kind in [MediaKind::Image, MediaKind::Video] {
                probe.enter(&format!("vision.{kind}."));
                if let Some(features) = self.encode(prompt.pixels(kind), probe) {
                    prompt.fill(&prompt.frames_of(kind), self.at_embedding(features));
                }
            }
            probe.enter("text.");
        }
        Ok(prompt)
    }

    /// Runs tokens `rows` of one prompt through the language model, see [`Self::forward`].
    pub fn prefill(
        &self,
        prompt: &mut Prompt,
        rows: Range<usize>,
        cache: &mut KvCache,
        probe: &mut Probe,
    ) -> Tensor<2> {
        self.forward(&mut [Step { work: Work::Prompt { prompt, rows }, cache }], probe)
    }

    /// Runs one generated token per sequence, each at its position on all axes, and returns logits
    /// `[sequences, vocabulary]` in f32.
    pub fn decode(&self, tokens: &[(u32, u32)], caches: &mut [&mut KvCache]) -> Tensor<2> {
        let caches = caches.iter_mut().map(|cache| &mut **cache);
        let pairs = tokens.iter().zip(caches).map(|((id, position), cache)| {
            let work = Work::Tokens { ids: std::slice::from_ref(id), position: *position };
            Step { work, cache }
        });
        let mut steps: Vec<Step<'_>> = pairs.collect();
        self.logits(self.forward(&mut steps, &mut Probe::off()))
    }

    /// Runs the work of any number of sequences in one pass, packed one after the other without padding, and
    /// extends their caches. Generated tokens come first, and prompts after them. Returns the final hidden states of all rows,
    /// `[rows, hidden]`. Many rows go in pieces through the stages of a map, which are at work at the same time.
    ///
    /// # Panics
    /// When a cache does not hold exactly the tokens before the rows of its prompt, or generated tokens come after a prompt.
    pub fn forward(&self, steps: &mut [Step<'_>], probe: &mut Probe) -> Tensor<2> {
        for step in steps.iter_mut() {
            if let Work::Prompt { prompt, rows } = &mut step.work {
                assert_eq!(step.cache.len(), rows.start, "the cache holds the tokens before");
                self.encode_some(prompt, &mut None, rows, usize::MAX);
            }
            step.cache.make_room(step.work.rows());
        }
        let in_stages = if probe.is_on() { None } else { self.forward_in_stages(steps) };
        let hidden = in_stages.unwrap_or_else(|| self.forward_at_once(steps, probe));
        for step in steps {
            if let Work::Prompt { prompt, rows } = &mut step.work {
                prompt.forget(rows.end);
            }
        }
        hidden
    }

    /// [`Self::forward`] with all rows in every stage.
    fn forward_at_once(&self, steps: &mut [Step<'_>], probe: &mut Probe) -> Tensor<2> {
        let mut pack = Pack::default();
        steps.iter().for_each(|step| pack.add(&step.work));
        let flow = self.enter(pack, probe);
        let mut caches: Vec<_> = steps.iter_mut().map(|step| &mut *step.cache).collect();
        self.through(flow, &mut Past::Cached(&mut caches), probe)
    }

    /// What the first layer reads.
    pub(crate) fn enter(&self, pack: Pack, probe: &mut Probe) -> Flow {
        let device = self.device();
        let embeds = self.language_model.embed(index_tensor(pack.ids, &device));
        let (hidden, deepstack) = inject(embeds, &pack.features, &pack.visual, &device);
        let first = self.stages()[0].device.unwrap_or(&device);
        let rotary = self.mrope.rotary(&pack.positions, self.precision.compute, first);
        if probe.is_on() {
            let (cos, sin) = rotary.full();
            probe.record("rope_cos", &cos);
            probe.record("rope_sin", &sin);
        }
        let deepstack = deepstack.into_iter().map(Some).collect();
        let context = TextContext { rotary, lengths: pack.lengths, deepstack };
        Flow { hidden, context, steps: pack.steps }
    }

    /// The head: `hidden [n, hidden] -> [n, vocabulary]` in f32, each row as by itself.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.compute(&hidden.device(), hidden.dims()[0], || {
            let logits = match &self.lm_head {
                Some(head) => head.forward(hidden),
                None => self.language_model.embed_tokens.weight.product(hidden, None),
            };
            logits.cast(DType::F32)
        })
    }

    /// Weight of the head, `[vocabulary, hidden]`; the embedding table where the two are tied.
    pub fn head(&self) -> Tensor<2> {
        self.lm_head
            .as_ref()
            .map_or(&self.language_model.embed_tokens.weight, |head| &head.weight)
            .values()
    }
}
