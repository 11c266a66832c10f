//! Answers that are written together.

use std::time::Instant;

use qwen3_vl::model::batch::{Batch, BatchEvent, BatchOptions};
use qwen3_vl::model::generate::{GenerateOptions, Timings};
use qwen3_vl::model::session::Session;

use super::rounds::{Task, seconds, wait_for};

/// Tokens for which there is room before those that are timed: a batch records its steps when nobody has come for eight.
pub const SETTLING: usize = 32;

/// Tokens after which a batch that records nothing is timed as it is. Streams that began first are a few tokens ahead.
const PATIENCE: usize = SETTLING - 8;

/// What writing in streams took.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    /// Seconds of a token of every stream.
    pub seconds: f64,
    /// Tokens that a stream had before these.
    pub before: usize,
    /// Steps that were replayed.
    pub replayed: usize,
}

impl Task<'_> {
    /// Tokens of a stream, with those that are not timed.
    pub fn stream_tokens(&self) -> usize {
        self.scope.tokens + if self.writes_in_batch() { SETTLING } else { 1 }
    }

    /// Whether streams are written as `serve` writes them.
    fn writes_in_batch(&self) -> bool {
        self.subject.model.records_steps(self.scope.streams)
    }

    /// Streams behind the text prompt, which `session` has read: of a batch, where its steps are replayed, else of steps that are
    /// given the tokens.
    pub(super) fn write_many(&self, session: Session) -> anyhow::Result<Streams> {
        match self.writes_in_batch() {
            true => {
                drop(session);
                self.write_in_batch()
            }
            false => Ok(self.write_in_steps(session)),
        }
    }

    /// Greedy answers to the text prompt, whose keys and values the streams share until their steps are recorded.
    fn write_in_batch(&self) -> anyhow::Result<Streams> {
        let all = BatchOptions { max_num_seqs: self.scope.streams, ..BatchOptions::default() };
        let options = BatchOptions { prefix_bytes: u64::MAX, ..all };
        let mut batch = Batch::new(&self.subject.model, options);
        let max_new_tokens = self.stream_tokens();
        let answer = GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
        let submitted = |_| batch.submit(&self.text(self.scope.prompt), answer.clone());
        let ids = (0..self.scope.streams).map(submitted).collect::<Result<Vec<_>, _>>()?;
        let mut step = || -> anyhow::Result<(usize, Timings)> {
            for (_, event) in batch.step() {
                if let BatchEvent::Failed(error) = event {
                    return Err(error.into());
                }
            }
            let last = ids.last().and_then(|id| batch.answer(*id));
            Ok(last.map_or_else(Default::default, |(answer, timings)| {
                (answer.generated().len(), timings)
            }))
        };
        let (before, begun) = loop {
            let (written, timings) = step()?;
            if timings.replayed_tokens > 0 || written >= PATIENCE {
                break (written, timings);
            }
        };
        let (start, mut end) = (Instant::now(), begun);
        for _ in 0..self.scope.tokens {
            (_, end) = step()?;
        }
        Ok(Streams {
            seconds: seconds(start) / self.scope.tokens as f64,
            before,
            replayed: end.replayed_tokens - begun.replayed_tokens,
        })
    }

    /// Every step is given its tokens.
    fn write_in_steps(&self, session: Session) -> Streams {
        let model = &self.subject.model;
        let mut prompt = session.into_cache();
        let mut caches: Vec<_> =
            (0..self.scope.streams).map(|_| prompt.share(self.scope.prompt)).collect();
        let mut step = |id, number: usize| {
            let token = (id, (self.scope.prompt + number) as u32);
            let mut caches: Vec<_> = caches.iter_mut().collect();
            wait_for(model.decode(&vec![token; caches.len()], &mut caches));
        };
        // The first step gives every stream room of its own.
        step(0, 0);
        let seconds = self.write(|id, number| step(id, number + 1));
        Streams { seconds, before: 1, replayed: 0 }
    }
}
