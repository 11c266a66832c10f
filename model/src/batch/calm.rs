//! Steps of a batch to which nobody comes: one that is recorded and replayed for all of its sequences.
//!
//! Sequences that end leave their lane idle. A new one reads its prompt beside the others, and joins them in such a lane. Where there
//! is none, or it needs more than was recorded, all go back to their caches, until it has been calm for a while.

use super::{Batch, sequence::Sequence};
use crate::generate::Logits;
use crate::replay::{Entrant, Replay, Stepping, Terms, Turn, first_slots};

/// Steps without a newcomer before all are recorded, which takes as long as four.
pub(super) const CALM: usize = 8;

impl Sequence {
    /// What it brings to fixed buffers; nothing while it reads its prompt, or where the host needs all logits.
    fn entrant(&self) -> Option<Entrant<'_>> {
        let id = self.answer.generated().last().filter(|_| self.rows == 1)?;
        self.answer.deciding()?;
        let position = self.prompt.positions().next + (self.cache.len() - self.prompt.len()) as u32;
        let (room, sampler) = (self.answer.room(), self.answer.sampler());
        Some(Entrant { cache: &self.cache, id: *id, position, room, sampler })
    }

    /// Slots that it will need at first.
    fn slots(&self) -> usize {
        first_slots(self.cache.len().max(self.prompt.len()), self.answer.room())
    }

    /// Takes what was run in its lane into its cache.
    pub(super) fn come_back(&mut self, replay: Option<&mut Replay<'_>>) {
        if let (Some(lane), Some(replay)) = (self.lane.take(), replay) {
            replay.settle(lane, &mut self.cache);
        }
    }
}

impl Batch<'_> {
    /// The logits of those running sequences that are on fixed buffers.
    pub(super) fn replayed(&mut self) -> Vec<Option<Logits>> {
        let writing = |s: &Sequence| s.is_writing() && s.answer.deciding().is_some();
        let calm = !self.running.is_empty() && self.running.iter().all(writing);
        self.calm = if calm { self.calm + 1 } else { 0 };
        if !self.replay.as_ref().is_some_and(|replay| self.stays(replay)) {
            self.interrupt();
            self.begin();
        }
        self.join();
        let logits = self.run_lanes();
        if logits.is_none() && self.replay.is_some() {
            self.be_patient();
            self.interrupt();
        }
        logits.unwrap_or_else(|| self.running.iter().map(|_| None).collect())
    }

    /// Whether those who are in lanes stay there: they are not few by now, and all others have room beside them.
    fn stays(&self, replay: &Replay<'_>) -> bool {
        let lanes = replay.lanes();
        let others = || self.running.iter().filter(|s| s.lane.is_none());
        let takes = |s: &Sequence| s.answer.deciding().is_some_and(|n| replay.takes(s.slots(), n));
        let room = others().next().is_none() || replay.bytes() <= self.free();
        let many = 4 * self.running.len() > lanes && self.running.len() <= lanes;
        many && room && others().all(takes)
    }

    /// Puts those who have read their prompt into lanes beside the others.
    fn join(&mut self) {
        let most = self.free();
        let Some(replay) = &mut self.replay else { return };
        for sequence in self.running.iter_mut().filter(|s| s.lane.is_none() && s.is_writing()) {
            sequence.lane = sequence.entrant().and_then(|entrant| replay.join(&entrant, most));
        }
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

    fn run_lanes(&mut self) -> Option<Vec<Option<Logits>>> {
        let in_lanes = || self.running.iter().filter_map(|s| Some((s, s.lane?)));
        let goes_on = in_lanes().any(|(s, _)| s.answer.room() > 1);
        let replay = self.replay.as_mut()?;
        let mut turns = vec![None; replay.lanes()];
        for (Sequence { answer, .. }, lane) in in_lanes() {
            let last = answer.generated().last();
            turns[lane] = last.map(|id| Turn { id: *id, sampler: answer.sampler() });
        }
        let mut logits = replay.after(&turns, goes_on)?;
        let (recorded, foreseen) = (replay.is_recorded(), replay.was_foreseen());
        for sequence in self.running.iter_mut().filter(|s| s.lane.is_some()) {
            sequence.timings.replayed_tokens += usize::from(recorded);
            sequence.timings.foreseen_tokens += usize::from(foreseen);
        }
        let of = |s: &Sequence| s.lane.and_then(|lane| logits[lane].take());
        Some(self.running.iter().map(of).collect())
    }

    /// All sequences go back to their caches.
    fn interrupt(&mut self) {
        if let Some(mut replay) = self.replay.take() {
            self.running.iter_mut().for_each(|s| s.come_back(Some(&mut replay)));
        }
    }
}
