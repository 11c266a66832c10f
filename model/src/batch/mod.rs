//! Many answers at once: continuous batching over packed sequences.
//!
//! Every step runs one token of each answer that is being written, and as many prompt tokens of new ones as the
//! budget leaves room for, in one forward pass without padding. A weight is read once per step instead of once per
//! sequence, which is where the speed comes from. While answers are being written, the vision tower runs a few blocks
//! per step, so that a large picture does not hold them up.

mod calm;
mod features;
mod options;
mod schedule;
mod sequence;

use std::collections::VecDeque;
use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};
use qwen3_vl_backends::DeviceFailure;
use qwen3_vl_backends::device::lost::caught;

use crate::generate::{
    Answer, FinishReason, GenerateError, GenerateOptions, GeneratedToken, Logits, Timings,
};
use crate::inputs::ModelInputs;
use crate::model::Qwen3VlModel;
use crate::prefix::{Blocks, Prefixes, Trace};
use crate::probe::Probe;
use crate::replay::Replay;
use crate::sample::Constraint;
use features::FeatureCache;
pub use options::{BatchOptions, BatchStats};
use sequence::Sequence;

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

/// Sequences that are computed together. A sequence gives the ids that it would give alone: on flex with rounded weights
/// bit for bit, else up to the rounding of sums whose order depends on the number of rows.
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
    /// Steps without a newcomer, how many there must be before they are recorded, and what replays them.
    calm: usize,
    patience: usize,
    replay: Option<Replay<'m>>,
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
            calm: 0,
            patience: calm::CALM,
            replay: None,
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
        let most = self.options.check(self.model, inputs, &options)?;
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
            cache: self.model.new_cache().up_to(most),
            most,
            // Tokens that were computed for another sequence have no scores.
            looked,
            encoding: None,
            rows: 0,
            timings: Timings::default(),
            lane: None,
        });
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

    /// Whether a sequence submitted now would run in the next step, if its memory is free.
    pub fn has_room(&self) -> bool {
        self.len() < self.options.max_num_seqs
            && (self.waiting.is_empty() || self.options.kv_bytes.is_none())
    }

    /// How full the batch is, and what its caches have saved so far.
    pub fn stats(&self) -> BatchStats {
        let blocks = self.blocks();
        BatchStats {
            waiting: self.waiting.len(),
            running: self.running.iter().filter(|s| s.goes_on()).count(),
            reserved_bytes: self.used(&blocks),
            shared_bytes: blocks.shared_bytes(self.prefixes.blocks()),
            prefix_bytes: self.prefixes.bytes_beside(&blocks),
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

    /// Runs one forward pass, and returns what it brought, in order of submission. When a device fails, so do all sequences; when it
    /// only has no room, those that run.
    pub fn step(&mut self) -> Vec<(SequenceId, BatchEvent)> {
        caught(|| self.advance()).unwrap_or_else(|failure| self.give_up(&failure))
    }

    /// Ends the sequences that run, some of whose caches are half written, and where the device is lost those that wait too. What
    /// was kept for later ones goes as well: it takes memory, of which there may be too little, and some of it may have failed
    /// without having been read.
    fn give_up(&mut self, failure: &DeviceFailure) -> Vec<(SequenceId, BatchEvent)> {
        self.replay = None;
        self.prefixes = Prefixes::default();
        self.features.clear();
        let running = self.running.drain(..).filter(Sequence::goes_on);
        let waiting = match failure {
            DeviceFailure::Refused { .. } => self.waiting.drain(..0),
            _ => self.waiting.drain(..),
        };
        let failed = |s: Sequence| (s.id, BatchEvent::Failed(failure.clone().into()));
        running.chain(waiting).map(failed).collect()
    }

    fn advance(&mut self) -> Vec<(SequenceId, BatchEvent)> {
        let (going, over) = self.running.drain(..).partition(Sequence::goes_on);
        self.running = going;
        Vec::into_iter(over).for_each(|sequence| self.retire(sequence));
        self.admit();
        self.encode();
        self.share_out();
        let start = Instant::now();
        let (replayed, found) = (self.replayed(), self.forward());
        let elapsed = start.elapsed();
        let mut events = Vec::new();
        let all = self.running.iter_mut().zip(replayed.into_iter().zip(found));
        for (sequence, (replayed, found)) in all {
            if sequence.rows > 0 {
                sequence.account(elapsed);
            }
            if let Some(logits) = replayed.or(found) {
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

    /// Whether sequences share what they have in common.
    fn shares(&self) -> bool {
        self.options.prefix_bytes > 0
    }

    /// The blocks of running sequences.
    fn blocks(&self) -> Blocks {
        self.running.iter().map(|sequence| &sequence.cache).collect()
    }

    /// Bytes of these, and of what running sequences may add to them.
    fn used(&self, blocks: &Blocks) -> u64 {
        self.running.iter().map(|sequence| self.own_bytes(sequence)).sum::<u64>() + blocks.bytes()
    }

    /// Bytes that the cache of a sequence may take beside its blocks.
    fn own_bytes(&self, sequence: &Sequence) -> u64 {
        self.model.cache_bytes(sequence.most.saturating_sub(sequence.cache.in_blocks()))
    }

    /// For every running sequence that is in no lane the logits after its last row, where its next token can be sampled.
    fn forward(&mut self) -> Vec<Option<Logits>> {
        let mut found: Vec<Option<Logits>> = self.running.iter().map(|_| None).collect();
        let (mut steps, mut scored, mut rows) = (Vec::new(), Vec::new(), 0);
        let (mut last, mut needs, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        let running =
            self.running.iter_mut().enumerate().filter(|(_, s)| s.rows > 0 && s.lane.is_none());
        let mut running: Vec<(usize, &mut Sequence)> = running.collect();
        running.sort_by_key(|(_, sequence)| !sequence.is_writing());
        for (index, sequence) in running {
            if sequence.answer.wants_scores() && sequence.open_prompt() > 0 {
                scored.push((index, sequence.cache.len(), rows, sequence.rows));
            }
            rows += sequence.rows;
            if sequence.rows >= sequence.open_prompt() {
                last.push(rows as i64 - 1);
                needs.push(sequence.answer.deciding());
                owners.push(index);
            }
            steps.push(sequence.work());
        }
        if steps.is_empty() {
            return found;
        }
        let hidden = self.model.forward(&mut steps, &mut Probe::off());
        for (index, start, first, count) in scored {
            let states = hidden.clone().narrow(0, first, count);
            self.running[index].answer.score(self.model, &states, start);
        }
        if last.is_empty() {
            return found;
        }
        let count = last.len();
        let data = TensorData::new(last, [count]);
        let last = Tensor::<1, Int>::from_data(data, &hidden.device());
        let logits = Logits::read(self.model.logits(hidden.select(0, last)), &needs);
        owners.into_iter().zip(logits).for_each(|(index, logits)| found[index] = Some(logits));
        found
    }
}
