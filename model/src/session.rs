//! One conversation with its cache: prompts that begin like the last one are computed from where they differ.

use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use crate::cache::KvCache;
use crate::generate::{Answer, read_rows};
use crate::inputs::{InputError, ModelInputs};
use crate::model::Qwen3VlModel;
use crate::prefix::Trace;
use crate::probe::Probe;
use crate::prompt::Prompt;
use crate::stages::Rest;
use crate::step::{Step, Work};

/// Tokens of a prompt that run through the model at once.
pub const PREFILL_CHUNK: usize = 2048;

/// A cache and what it holds.
#[derive(Debug)]
pub struct Session {
    cache: KvCache,
    trace: Trace,
    next_position: u32,
}

/// What a prefill did.
#[derive(Debug)]
pub struct Prefill {
    /// Logits after the last token of the prompt, `[1, vocabulary]`.
    pub logits: Tensor<2>,
    /// Tokens that were already in the cache.
    pub reused: usize,
    /// Time in the vision tower.
    pub vision: Duration,
    /// Time in the language model.
    pub language: Duration,
}

impl Session {
    /// An empty session.
    pub fn new(model: &Qwen3VlModel) -> Self {
        Self { cache: model.new_cache(), trace: Trace::default(), next_position: 0 }
    }

    /// Keys and values of the tokens held.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The cache, when the conversation is over.
    pub fn into_cache(self) -> KvCache {
        self.cache
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Runs a prompt in chunks of `chunk` tokens, reusing what the cache holds of it.
    ///
    /// # Errors
    /// When the prompt is not one that the model can take, see [`Qwen3VlModel::prepare`].
    pub fn prefill(
        &mut self,
        model: &Qwen3VlModel,
        inputs: &ModelInputs,
        chunk: usize,
    ) -> Result<Prefill, InputError> {
        self.prefill_for(None, model, inputs, chunk)
    }

    /// As [`Self::prefill`], for an answer that may want the prompt's tokens scored. Then nothing is reused.
    pub(crate) fn prefill_for(
        &mut self,
        answer: Option<&mut Answer>,
        model: &Qwen3VlModel,
        inputs: &ModelInputs,
        chunk: usize,
    ) -> Result<Prefill, InputError> {
        let start = Instant::now();
        let trace = Trace::of(inputs);
        let answer = answer.filter(|answer| answer.wants_scores());
        let known = self.trace.common(self.cache.len(), &trace);
        let reused = if answer.is_some() { 0 } else { known };
        let mut prompt = model.prepare(inputs, &mut Probe::off())?;
        self.cache.truncate(reused);
        self.trace.ids.truncate(reused);
        let logits = model.logits(self.run(model, &mut prompt, chunk.max(1), answer));
        let vision = prompt.vision_time();
        self.trace = trace;
        self.next_position = prompt.positions().next;
        Ok(Prefill { logits, reused, vision, language: start.elapsed() - vision })
    }

    /// The final hidden state after the last token of a prompt, which replaces what the session held.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn embed(
        &mut self,
        model: &Qwen3VlModel,
        inputs: &ModelInputs,
        chunk: usize,
    ) -> Result<Vec<f32>, InputError> {
        *self = Self::new(model);
        let mut prompt = model.prepare(inputs, &mut Probe::off())?;
        let last = self.run(model, &mut prompt, chunk.max(1), None);
        Ok(read_rows(last).swap_remove(0))
    }

    /// Runs generated tokens and returns the logits after each, `[tokens, vocabulary]`.
    pub fn step(&mut self, model: &Qwen3VlModel, ids: &[u32]) -> Tensor<2> {
        let work = Work::Tokens { ids, position: self.next_position };
        let mut steps = [Step { work, cache: &mut self.cache }];
        let logits = model.logits(model.forward(&mut steps, &mut Probe::off()));
        self.trace.ids.extend_from_slice(ids);
        self.next_position += ids.len() as u32;
        logits
    }

    /// The position, on all axes, of the next token.
    pub(crate) fn next_position(&self) -> u32 {
        self.next_position
    }

    /// Goes on behind the tokens `ids`, which the cache has got already.
    pub(crate) fn go_on(&mut self, ids: &[u32]) {
        self.trace.ids.extend_from_slice(ids);
        self.next_position += ids.len() as u32;
    }

    pub(crate) fn cache_mut(&mut self) -> &mut KvCache {
        &mut self.cache
    }

    /// Takes back the last `count` tokens of [`Self::step`].
    ///
    /// # Panics
    /// When fewer tokens are held.
    pub fn take_back(&mut self, count: usize) {
        self.cache.truncate(self.cache.len() - count);
        self.trace.ids.truncate(self.cache.len());
        self.next_position -= count as u32;
    }

    /// Runs what the cache lacks of a prompt, and returns the hidden state after its last token, `[1, hidden]`.
    fn run(
        &mut self,
        model: &Qwen3VlModel,
        prompt: &mut Prompt,
        chunk: usize,
        mut scored: Option<&mut Answer>,
    ) -> Tensor<2> {
        let mut last = None;
        let rest = Rest { prompt, cache: &mut self.cache, chunk };
        model.prefill_rest(rest, |start, hidden| {
            if let Some(answer) = &mut scored {
                answer.score(model, &hidden, start);
            }
            last = Some(hidden);
        });
        let hidden = last.expect("at least the last token of a prompt is computed");
        let rows = hidden.dims()[0];
        hidden.narrow(0, rows - 1, 1)
    }
}
