//! Who runs in a step, and with how many tokens.

use super::{Batch, sequence::Sequence};
use crate::cache::KvCache;
use crate::prefix::borrow;

/// Patches times blocks of the vision tower that run in one step beside answers being written.
const VISION_SLICE: usize = 16_384;

impl Batch<'_> {
    pub(super) fn admit(&mut self) {
        while self.running.len() < self.options.max_num_seqs.max(1)
            && let Some(next) = self.waiting.front()
        {
            if let Some(free) = self.free() {
                let Some(left) = free.checked_sub(next.reserved) else { return };
                self.prefixes.shrink_to(left);
            }
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// Runs the vision tower for the first sequence that waits for it: to the end of its frames where no answer is
    /// being written, else a few blocks.
    pub(super) fn encode(&mut self) {
        let writing = self.running.iter().any(|s| s.open_prompt() == 0);
        let slice = if writing { VISION_SLICE } else { usize::MAX };
        let mut left = self.options.max_num_batched_tokens.max(1);
        self.borrow_prefixes();
        for index in 0..self.running.len() {
            if self.running[index].open_prompt() == 0 || self.twin_before(index) {
                continue;
            }
            let sequence = &mut self.running[index];
            let held = sequence.cache.len();
            let rows = held..held + sequence.open_prompt().min(left);
            left -= rows.len();
            if sequence.encoding.is_none() {
                self.features.lend(&mut sequence.prompt, &rows);
            }
            let Sequence { prompt, encoding, .. } = sequence;
            let waits = encoding.is_some() || prompt.ready(&rows) < rows.len();
            for frames in self.model.encode_some(prompt, encoding, &rows, slice) {
                self.features.keep(prompt, &frames);
            }
            if left == 0 || writing && waits {
                return;
            }
        }
    }

    /// Gives sequences that have not begun what another one has computed of their prompt.
    fn borrow_prefixes(&mut self) {
        if !self.shares() {
            return;
        }
        for index in 0..self.running.len() {
            let sequence = &self.running[index];
            if sequence.looked || self.twin_before(index) {
                continue;
            }
            let others = self.running.iter().filter(|s| s.id != sequence.id && !s.cache.is_empty());
            let live = others.filter_map(|s| borrow(&s.trace, &s.cache, &sequence.trace));
            let found = live.chain(self.prefixes.find(&sequence.trace)).max_by_key(KvCache::len);
            let sequence = &mut self.running[index];
            sequence.looked = true;
            if let Some(cache) = found {
                self.stats.reused_tokens += cache.len() as u64;
                sequence.timings.reused_tokens = cache.len();
                sequence.cache = cache;
            }
        }
    }

    /// Whether an earlier sequence is computing the same prompt, so that it is better to wait and take it over.
    fn twin_before(&self, index: usize) -> bool {
        let sequence = &self.running[index];
        let twin = |s: &Sequence| s.open_prompt() > 0 && s.trace.is_twin(&sequence.trace);
        self.shares() && !sequence.looked && self.running[..index].iter().any(twin)
    }

    /// Answers being written come first, one token each; what is left of the budget goes to prompts in order, as far
    /// as their pictures have been encoded.
    pub(super) fn share_out(&mut self) {
        let mut budget = self.options.max_num_batched_tokens.max(1);
        for sequence in self.running.iter_mut() {
            sequence.rows = usize::from(sequence.open_prompt() == 0);
            budget = budget.saturating_sub(sequence.rows);
        }
        // A batch of nothing but answers may use up the budget; prompts must get on all the same.
        budget = budget.max(1);
        for index in 0..self.running.len() {
            if self.running[index].open_prompt() == 0 || self.twin_before(index) {
                continue;
            }
            let sequence = &mut self.running[index];
            let held = sequence.cache.len();
            let rows = held..held + sequence.open_prompt().min(budget);
            sequence.rows = sequence.prompt.ready(&rows);
            budget -= sequence.rows;
        }
    }
}
