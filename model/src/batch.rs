//! Many answers at once: continuous batching over packed sequences.
//!
//! Every step runs one token of each answer that is being written, and as many prompt tokens of new ones as the
//! budget leaves room for, in one forward pass without padding. A weight is read once per step instead of once per
//! sequence, which is where the speed comes from.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use burn::tensor::{Int, Tensor, TensorData};

use crate::cache::KvCache;
use crate::generate::{
    Answer, FinishReason, GenerateError, GenerateOptions, GeneratedToken, Timings, read_rows,
};
use crate::inputs::ModelInputs;
use crate::model::{Qwen3VlModel, Step, Work};
use crate::probe::Probe;
use crate::prompt::Prompt;

/// How much runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Most sequences that hold a cache (vLLM `max_num_seqs`).
    pub max_num_seqs: usize,
    /// Most tokens of one forward pass (vLLM `max_num_batched_tokens`).
    pub max_num_batched_tokens: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { max_num_seqs: 32, max_num_batched_tokens: 2048 }
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

/// Sequences that are computed together. A sequence gives the ids that it would give alone, up to the rounding of
/// sums whose order depends on the number of rows.
#[derive(Debug)]
pub struct Batch<'m> {
    model: &'m Qwen3VlModel,
    options: BatchOptions,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    next: u64,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    prompt: Prompt,
    answer: Answer,
    cache: KvCache,
    /// Rows that the step being made runs; 0 outside of a step.
    rows: usize,
    timings: Timings,
}

impl<'m> Batch<'m> {
    /// An empty batch.
    pub fn new(model: &'m Qwen3VlModel, options: BatchOptions) -> Self {
        Self { model, options, waiting: VecDeque::new(), running: Vec::new(), next: 0 }
    }

    /// Queues a prompt.
    ///
    /// # Errors
    /// When it does not fit the model or its context, or a sampling parameter is out of range.
    pub fn submit(
        &mut self,
        inputs: &ModelInputs,
        options: GenerateOptions,
    ) -> Result<SequenceId, GenerateError> {
        let answer = Answer::new(options, inputs.ids.clone())?;
        let prompt = self.model.prepare(inputs, &mut Probe::off())?;
        let id = SequenceId(self.next);
        self.next += 1;
        let cache = self.model.new_cache();
        let timings = Timings::default();
        self.waiting.push_back(Sequence { id, prompt, answer, cache, rows: 0, timings });
        Ok(id)
    }

    /// Sequences whose answer is not complete.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.running.iter().filter(|s| s.goes_on()).count()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a sequence submitted now would run in the next step.
    pub fn has_room(&self) -> bool {
        self.len() < self.options.max_num_seqs
    }

    /// The answer of a sequence; a complete one can be read until the next step.
    pub fn answer(&self, id: SequenceId) -> Option<(&Answer, Timings)> {
        let mut all = self.running.iter().chain(&self.waiting);
        all.find(|s| s.id == id).map(|s| (&s.answer, s.timings))
    }

    /// Forgets a sequence; returns whether there was one.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let before = self.waiting.len() + self.running.len();
        self.waiting.retain(|s| s.id != id);
        self.running.retain(|s| s.id != id);
        self.waiting.len() + self.running.len() < before
    }

    /// Runs one forward pass, and returns what it brought, in order of submission.
    pub fn step(&mut self) -> Vec<(SequenceId, BatchEvent)> {
        self.running.retain(Sequence::goes_on);
        self.admit();
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

    fn admit(&mut self) {
        let room = self.options.max_num_seqs.max(1).saturating_sub(self.running.len());
        let arrivals = self.waiting.drain(..room.min(self.waiting.len()));
        self.running.extend(arrivals);
    }

    /// Answers being written come first, one token each; what is left of the budget goes to prompts in order.
    fn share_out(&mut self) {
        let mut budget = self.options.max_num_batched_tokens.max(1);
        for sequence in self.running.iter_mut() {
            sequence.rows = usize::from(sequence.open_prompt() == 0);
            budget = budget.saturating_sub(sequence.rows);
        }
        // A batch of nothing but answers may use up the budget; prompts must get on all the same.
        budget = budget.max(1);
        for sequence in self.running.iter_mut().filter(|s| s.open_prompt() > 0) {
            sequence.rows = sequence.open_prompt().min(budget);
            budget -= sequence.rows;
        }
    }

    /// Logits after the last row of every sequence whose next token can be sampled, in order.
    fn forward(&mut self) -> Vec<Vec<f32>> {
        let (mut steps, mut last, mut rows) = (Vec::new(), Vec::new(), 0);
        for sequence in self.running.iter_mut().filter(|s| s.rows > 0) {
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
        if last.is_empty() {
            return Vec::new();
        }
        let count = last.len();
        let data = TensorData::new(last, [count]);
        let last = Tensor::<1, Int>::from_data(data, &self.model.device());
        read_rows(self.model.logits(hidden.select(0, last)))
    }
}

impl Sequence {
    fn goes_on(&self) -> bool {
        self.answer.finish_reason().is_none()
    }

    /// Prompt tokens that are not in the cache.
    fn open_prompt(&self) -> usize {
        self.prompt.len().saturating_sub(self.cache.len())
    }

    fn work(&mut self) -> Step<'_> {
        let held = self.cache.len();
        let work = match self.answer.generated().last() {
            Some(id) if self.rows == 1 && held >= self.prompt.len() => {
                let position = self.prompt.positions().next + (held - self.prompt.len()) as u32;
                Work::Token { id: *id, position }
            }
            _ => Work::Prompt { prompt: &mut self.prompt, rows: held..held + self.rows },
        };
        Step { work, cache: &mut self.cache }
    }

    /// Books the time of the step that ran; returns whether the sequence has logits now.
    fn account(&mut self, elapsed: Duration) -> bool {
        let ready = self.open_prompt() == 0;
        match self.answer.generated().is_empty() {
            true => self.timings.prefill += elapsed,
            false => self.timings.decode += elapsed,
        }
        self.timings.vision = self.prompt.vision_time();
        self.rows = 0;
        ready
    }

    fn sample(&mut self, logits: &[f32]) -> BatchEvent {
        match self.answer.sample(logits) {
            Ok(token) => BatchEvent::Token { token, finish: self.answer.finish_reason() },
            Err(error) => BatchEvent::Failed(error.into()),
        }
    }
}
