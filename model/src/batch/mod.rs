//! Many answers at once: continuous batching over packed sequences.
//!
//! Every step runs one token of each answer that is being written, and as many prompt tokens of new ones as the
//! budget leaves room for, in one forward pass without padding. A weight is read once per step instead of once per
//! sequence, which is where the speed comes from. While answers are being written, the vision tower runs a few blocks
//! per step, so that a large picture does not hold them up.

mod features;
mod schedule;
mod sequence;

use std::collections::VecDeque;
use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};

use crate::generate::{
    Answer, FinishReason, GenerateError, GenerateOptions, GeneratedToken, Timings, read_rows,
};
use crate::inputs::ModelInputs;
use crate::model::Qwen3VlModel;
use crate::prefix::{Prefixes, Trace};
use crate::probe::Probe;
use crate::sample::Constraint;
use features::FeatureCache;
use sequence::Sequence;

/// How much runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Most sequences that hold a cache (vLLM `max_num_seqs`).
    pub max_num_seqs: usize,
    /// Most tokens of one forward pass (vLLM `max_num_batched_tokens`).
    pub max_num_batched_tokens: usize,
    /// Most bytes of all caches; a sequence waits until its share is free. Without it nothing waits for memory.
    pub kv_bytes: Option<u64>,
    /// Bytes of caches that are kept of ended sequences, so that prompts are computed from where they differ from an
    /// earlier one; within `kv_bytes`. With 0 nothing is shared.
    pub prefix_bytes: u64,
    /// Bytes of features of pictures that are kept for when they are seen again.
    pub feature_bytes: u64,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            max_num_seqs: 32,
            max_num_batched_tokens: 2048,
            kv_bytes: None,
            prefix_bytes: 0,
            feature_bytes: 0,
        }
    }
}

/// Names a sequence of a [`Batch`], in order of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(u64);

/// What happened to a sequence in a step.
#[derive(Debug)]
pub enum BatchEvent {
    /// It got a token; with a reason when that was its last.
    Token { token: GeneratedToken, finish: Option<FinishReason> },
    /// It ended with an error; the others go on.
    Failed(GenerateError),
}

/// How full a batch is, and what its caches have saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchStats {
    pub waiting: usize,
    pub running: usize,
    /// Bytes that running sequences may grow to.
    pub reserved_bytes: u64,
    /// Bytes of caches kept for prompts to come.
    pub prefix_bytes: u64,
    pub feature_bytes: u64,
    /// Frames whose features were known, and were not.
    pub feature_hits: u64,
    pub feature_misses: u64,
    /// Prompt tokens that came from a cache, and all.
    pub reused_tokens: u64,
    pub prompt_tokens: u64,
}

/// Sequences that are computed together. A sequence gives the ids that it would give alone, up to the rounding of
/// sums whose order depends on the number of rows.
#[derive(Debug)]
pub struct Batch<'m> {
    model: &'m Qwen3VlModel,
    options: BatchOptions,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    prefixes: Prefixes,
    features: FeatureCache,
    stats: BatchStats,
    next: u64,
}

impl<'m> Batch<'m> {
    /// An empty batch.
    pub fn new(model: &'m Qwen3VlModel, options: BatchOptions) -> Self {
        Self {
            model,
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            prefixes: Prefixes::default(),
            features: FeatureCache::new(options.feature_bytes),
            stats: BatchStats::default(),
            next: 0,
        }
    }

    /// Queues a prompt.
    ///
    /// # Errors
    /// When it does not fit the model, its context or the memory, or a sampling parameter is out of range.
    pub fn submit(
        &mut self,
        inputs: &ModelInputs,
        options: GenerateOptions,
    ) -> Result<SequenceId, GenerateError> {
        self.submit_constrained(inputs, options, None)
    }

    /// As [`Self::submit`], for an answer of which `constraint` rules out tokens.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn submit_constrained(
        &mut self,
        inputs: &ModelInputs,
        options: GenerateOptions,
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<SequenceId, GenerateError> {
        let reserved = self.reserve(inputs.ids.len(), &options)?;
        let answer = Answer::new(options, inputs.ids.clone())?.with_constraint(constraint);
        let prompt = self.model.prepare(inputs, &mut Probe::off())?;
        let trace = if self.shares() { Trace::of(inputs) } else { Trace::default() };
        let (id, looked) = (SequenceId(self.next), answer.wants_scores());
        self.next += 1;
        self.stats.prompt_tokens += prompt.len() as u64;
        self.waiting.push_back(Sequence {
            id,
            prompt,
            trace,
            answer,
            cache: self.model.new_cache(),
            reserved,
            // Tokens that were computed for another sequence have no scores.
            looked,
            encoding: None,
            rows: 0,
            timings: Timings::default(),
        });
        Ok(id)
    }

    /// Bytes that the cache of a sequence may grow to.
    fn reserve(&self, prompt: usize, options: &GenerateOptions) -> Result<u64, GenerateError> {
        let tokens = prompt.saturating_add(options.max_new_tokens).min(options.context);
        let needed = self.model.cache_bytes(tokens);
        match self.options.kv_bytes {
            Some(budget) if needed > budget => {
                Err(GenerateError::Memory { tokens, needed, budget })
            }
            _ => Ok(needed),
        }
    }

    /// Sequences whose answer is not complete.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.running.iter().filter(|s| s.goes_on()).count()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a sequence submitted now would run in the next step, if its memory is free.
    pub fn has_room(&self) -> bool {
        self.len() < self.options.max_num_seqs
            && (self.waiting.is_empty() || self.options.kv_bytes.is_none())
    }

    /// How full the batch is, and what its caches have saved so far.
    pub fn stats(&self) -> BatchStats {
        BatchStats {
            waiting: self.waiting.len(),
            running: self.running.iter().filter(|s| s.goes_on()).count(),
            reserved_bytes: self.running.iter().map(|s| s.reserved).sum(),
            prefix_bytes: self.prefixes.bytes(),
            feature_bytes: self.features.bytes(),
            feature_hits: self.features.hits,
            feature_misses: self.features.misses,
            ..self.stats
        }
    }

    /// The answer of a sequence; a complete one can be read until the next step.
    pub fn answer(&self, id: SequenceId) -> Option<(&Answer, Timings)> {
        let mut all = self.running.iter().chain(&self.waiting);
        all.find(|s| s.id == id).map(|s| (&s.answer, s.timings))
    }

    /// Forgets a sequence; returns whether there was one.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        if let Some(index) = self.running.iter().position(|s| s.id == id) {
            let sequence = self.running.remove(index);
            self.retire(sequence);
            return true;
        }
        let before = self.waiting.len();
        self.waiting.retain(|s| s.id != id);
        self.waiting.len() < before
    }

    /// Runs one forward pass, and returns what it brought, in order of submission.
    pub fn step(&mut self) -> Vec<(SequenceId, BatchEvent)> {
        let (going, over) = self.running.drain(..).partition(Sequence::goes_on);
        self.running = going;
        Vec::into_iter(over).for_each(|sequence| self.retire(sequence));
        self.admit();
        self.encode();
        self.share_out();
        let start = Instant::now();
        let logits = self.forward();
        let elapsed = start.elapsed();
        let mut events = Vec::new();
        let mut logits = logits.into_iter();
        for sequence in self.running.iter_mut().filter(|s| s.rows > 0) {
            let ready = sequence.account(elapsed);
            if let Some(logits) = logits.by_ref().take(usize::from(ready)).next() {
                events.push((sequence.id, sequence.sample(&logits)));
            }
        }
        for (id, event) in &events {
            if matches!(event, BatchEvent::Failed(_)) {
                self.running.retain(|s| s.id != *id);
            }
        }
        events
    }

    /// Keeps the cache of a sequence that is over, as far as memory allows.
    fn retire(&mut self, sequence: Sequence) {
        if !self.shares() {
            return;
        }
        let (trace, cache) = sequence.into_trace();
        let bytes = self.model.cache_bytes(cache.capacity());
        self.prefixes.keep(trace, cache, bytes);
        self.prefixes.shrink_to(self.free().unwrap_or(u64::MAX).min(self.options.prefix_bytes));
    }

    /// Whether sequences share what they have in common.
    fn shares(&self) -> bool {
        self.options.prefix_bytes > 0
    }

    /// Bytes that running sequences leave, where there is a bound.
    fn free(&self) -> Option<u64> {
        let reserved: u64 = self.running.iter().map(|s| s.reserved).sum();
        self.options.kv_bytes.map(|budget| budget.saturating_sub(reserved))
    }

    /// Logits after the last row of every sequence whose next token can be sampled, in order.
    fn forward(&mut self) -> Vec<Vec<f32>> {
        let (mut steps, mut last, mut scored, mut rows) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (index, sequence) in self.running.iter_mut().enumerate().filter(|(_, s)| s.rows > 0) {
            if sequence.answer.wants_scores() && sequence.open_prompt() > 0 {
                scored.push((index, sequence.cache.len(), rows, sequence.rows));
            }
            rows += sequence.rows;
            if sequence.rows >= sequence.open_prompt() {
                last.push(rows as i64 - 1);
            }
            steps.push(sequence.work());
        }
        if steps.is_empty() {
            return Vec::new();
        }
        let hidden = self.model.forward(&mut steps, &mut Probe::off());
        for (index, start, first, count) in scored {
            let states = hidden.clone().narrow(0, first, count);
            self.running[index].answer.score(self.model, &states, start);
        }
        if last.is_empty() {
            return Vec::new();
        }
        let count = last.len();
        let data = TensorData::new(last, [count]);
        let last = Tensor::<1, Int>::from_data(data, &hidden.device());
        read_rows(self.model.logits(hidden.select(0, last)))
    }
}
