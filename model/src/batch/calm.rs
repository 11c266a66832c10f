//! Steps of a batch to which nobody comes: one that is recorded and replayed for all of its sequences.
//!
//! Sequences that end leave their lane idle. With a new one all go back to their caches, until it has been calm for a while.

use super::{Batch, sequence::Sequence};
use crate::generate::Logits;
use crate::replay::{Asked, Entrant, Replay, Stepping, Terms};

/// Steps without a newcomer before all are recorded, which takes as long as four.
pub(super) const CALM: usize = 8;

impl Sequence {
    /// What it brings to fixed buffers; nothing while it reads its prompt, or where the host needs all logits.
    fn entrant(&self) -> Option<Entrant<'_>> {
        let id = self.answer.generated().last().filter(|_| self.rows == 1)?;
        self.answer.deciding()?;
        let position = self.prompt.positions().next + (self.cache.len() - self.prompt.len()) as u32;
        Some(Entrant { cache: &self.cache, id: *id, position, room: self.answer.room() })
    }

    /// Takes what was run in its lane into its cache.
    pub(super) fn come_back(&mut self, replay: Option<&mut Replay<'_>>) {
        if let (Some(lane), Some(replay)) = (self.lane.take(), replay) {
            replay.settle(lane, &mut self.cache);
        }
    }
}

impl Batch<'_> {
    /// The logits of all sequences, where the step could be one on fixed buffers; else none of them is there any more.
    pub(super) fn replayed(&mut self) -> Option<Vec<Logits>> {
        let writing = |s: &Sequence| s.is_writing() && s.answer.deciding().is_some();
        let calm = !self.running.is_empty() && self.running.iter().all(writing);
        self.calm = if calm { self.calm + 1 } else { 0 };
        let few = self.replay.as_ref().is_some_and(|r| 4 * self.running.len() <= r.lanes());
        if !calm || few {
            self.interrupt();
        }
        if self.replay.is_none() {
            self.begin();
        }
        let logits = self.run_lanes();
        if logits.is_none() && self.replay.is_some() {
            self.be_patient();
            self.interrupt();
        }
        logits
    }

    /// Puts all sequences into lanes, where it has been calm for long enough and there is memory.
    fn begin(&mut self) {
        let fixed = self.options.stepping == Stepping::Fixed;
        if self.calm == 0 || self.calm < self.patience && !fixed {
            return;
        }
        let entrants: Option<Vec<_>> = self.running.iter().map(Sequence::entrant).collect();
        let Some(entrants) = entrants.filter(|all| fixed || all.iter().any(Entrant::is_worth_it))
        else {
            return;
        };
        let terms = Terms { stepping: self.options.stepping, most: self.free() };
        self.replay = Replay::begin(self.model, &entrants, self.deciding(), terms);
        match self.replay {
            Some(_) => {
                self.patience = CALM;
                self.running.iter_mut().enumerate().for_each(|(lane, s)| s.lane = Some(lane));
            }
            None => self.be_patient(),
        }
    }

    /// What did not work out is tried again after twice as long.
    fn be_patient(&mut self) {
        self.calm = 0;
        self.patience = self.patience.saturating_mul(2);
    }

    /// Bytes that caches leave, whatever those who run add to them.
    fn free(&self) -> u64 {
        let Some(budget) = self.options.kv_bytes else { return u64::MAX };
        let blocks = self.blocks();
        let used = self.used(&blocks).saturating_add(self.prefixes.bytes_beside(&blocks));
        budget.saturating_sub(used)
    }

    /// How many of the largest logits decide in every sequence.
    fn deciding(&self) -> usize {
        self.running.iter().filter_map(|s| s.answer.deciding()).max().unwrap_or(1)
    }

    fn run_lanes(&mut self) -> Option<Vec<Logits>> {
        let goes_on = self.running.iter().any(|s| s.answer.room() > 1);
        let (deciding, replay) = (self.deciding(), self.replay.as_mut()?);
        let mut ids = vec![None; replay.lanes()];
        for sequence in &self.running {
            ids[sequence.lane?] = sequence.answer.generated().last().copied();
        }
        let logits = replay.after(&ids, Asked { deciding, goes_on })?;
        let recorded = usize::from(replay.is_recorded());
        self.running.iter_mut().for_each(|s| s.timings.replayed_tokens += recorded);
        Some(logits)
    }

    /// All sequences go back to their caches.
    fn interrupt(&mut self) {
        if let Some(mut replay) = self.replay.take() {
            self.running.iter_mut().for_each(|s| s.come_back(Some(&mut replay)));
        }
    }
}
