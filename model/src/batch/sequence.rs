//! One sequence of a batch.

use std::time::Duration;

use super::{BatchEvent, SequenceId};
use crate::cache::KvCache;
use crate::encode::Encoding;
use crate::generate::{Answer, Logits, Timings};
use crate::prefix::Trace;
use crate::prompt::Prompt;
use crate::step::{Step, Work};

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    pub(super) prompt: Prompt,
    pub(super) trace: Trace,
    pub(super) answer: Answer,
    pub(super) cache: KvCache,
    /// Tokens that the cache may grow to.
    pub(super) most: usize,
    /// Whether its prompt was looked for in other caches.
    pub(super) looked: bool,
    /// Frames in the vision tower.
    pub(super) encoding: Option<Encoding>,
    /// Rows that the step being made runs; 0 outside of a step.
    pub(super) rows: usize,
    pub(super) timings: Timings,
    /// Where it is on fixed buffers.
    pub(super) lane: Option<usize>,
}

impl Sequence {
    pub(super) fn goes_on(&self) -> bool {
        self.answer.finish_reason().is_none()
    }

    /// Prompt tokens that are not in the cache.
    pub(super) fn open_prompt(&self) -> usize {
        self.prompt.len().saturating_sub(self.cache.len())
    }

    /// Whether its prompt has been computed.
    pub(super) fn is_writing(&self) -> bool {
        self.open_prompt() == 0
    }

    pub(super) fn work(&mut self) -> Step<'_> {
        let held = self.cache.len();
        let work = match self.answer.generated().last() {
            Some(id) if self.is_writing() => {
                let position = self.prompt.positions().next + (held - self.prompt.len()) as u32;
                Work::Tokens { ids: std::slice::from_ref(id), position }
            }
            _ => Work::Prompt { prompt: &mut self.prompt, rows: held..held + self.rows },
        };
        Step { work, cache: &mut self.cache }
    }

    /// Books the time of the step that ran.
    pub(super) fn account(&mut self, elapsed: Duration) {
        match self.answer.generated().is_empty() {
            true => self.timings.prefill += elapsed,
            false => self.timings.decode += elapsed,
        }
        self.timings.vision = self.prompt.vision_time();
        self.rows = 0;
    }

    pub(super) fn sample(&mut self, logits: &Logits) -> BatchEvent {
        match self.answer.sample(logits) {
            Ok(token) => BatchEvent::Token { token, finish: self.answer.finish_reason() },
            Err(error) => BatchEvent::Failed(error),
        }
    }

    /// What the cache holds, to be kept when the sequence is over.
    pub(super) fn into_trace(self) -> (Trace, KvCache) {
        let mut trace = self.trace;
        trace.ids.extend_from_slice(self.answer.generated());
        trace.ids.truncate(self.cache.len());
        (trace, self.cache)
    }
}
