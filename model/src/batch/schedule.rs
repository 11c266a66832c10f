//! Who runs in a step, and with how many tokens.

use super::{Batch, sequence::Sequence};
use crate::cache::KvCache;
use crate::prefix::LEAST;

/// Patches times blocks of the vision tower that run in one step beside answers being written.
const VISION_SLICE: usize = 16_384;

impl Batch<'_> {
    /// Lets sequences run for which there are places and memory. What they share with others needs no more of it.
    pub(super) fn admit(&mut self) {
        while self.running.len() < self.options.max_num_seqs.max(1)
            && let Some(next) = self.waiting.pop_front()
        {
            self.running.push(next);
            self.borrow_prefix(self.running.len() - 1);
            // A block may be larger than what it saves: then the sequence is better off alone.
            let fits = self.shrink_prefixes() || {
                self.give_back();
                self.shrink_prefixes()
            };
            if !fits && let Some(mut last) = self.running.pop() {
                last.looked = last.answer.wants_scores();
                self.waiting.push_front(last);
                return;
            }
        }
    }

    /// Keeps the cache of a sequence that is over, as far as memory allows.
    pub(super) fn retire(&mut self, mut sequence: Sequence) {
        sequence.come_back(self.replay.as_mut());
        if !self.shares() {
            return;
        }
        let (trace, cache) = sequence.into_trace();
        self.prefixes.keep(trace, cache);
        self.shrink_prefixes();
    }

    /// Frees kept caches until they fit beside what runs; false where not even none would.
    pub(super) fn shrink_prefixes(&mut self) -> bool {
        let blocks = self.blocks();
        let free = match self.options.kv_bytes {
            Some(budget) => budget.checked_sub(self.used(&blocks)),
            None => Some(u64::MAX),
        };
        if let Some(free) = free {
            self.prefixes.shrink_to(free.min(self.options.prefix_bytes), &blocks);
        }
        free.is_some()
    }

    /// Takes back what the sequence that was admitted last has borrowed.
    fn give_back(&mut self) {
        if let Some(last) = self.running.last_mut() {
            self.stats.reused_tokens -= last.timings.reused_tokens as u64;
            last.timings.reused_tokens = 0;
            last.cache = self.model.new_cache().up_to(last.most);
        }
    }

    /// Runs the vision tower for the first sequence that waits for it: to the end of its frames where no answer is
    /// being written, else a few blocks.
    pub(super) fn encode(&mut self) {
        let writing = self.running.iter().any(Sequence::is_writing);
        let slice = if writing { VISION_SLICE } else { usize::MAX };
        let mut left = self.options.max_num_batched_tokens.max(1);
        (0..self.running.len()).for_each(|index| self.borrow_prefix(index));
        for index in 0..self.running.len() {
            if self.running[index].is_writing() || self.twin_before(index) {
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

    /// Gives a sequence that has not begun what another one has computed of its prompt.
    fn borrow_prefix(&mut self, index: usize) {
        if !self.shares() || self.running[index].looked || self.twin_before(index) {
            return;
        }
        self.running[index].looked = true;
        if let Some(cache) = self.lend(index) {
            self.stats.reused_tokens += cache.len() as u64;
            let sequence = &mut self.running[index];
            sequence.timings.reused_tokens = cache.len();
            sequence.cache = cache.up_to(sequence.most);
        }
    }

    /// The longest beginning of a sequence's prompt that a cache holds, in the same blocks.
    fn lend(&mut self, to: usize) -> Option<KvCache> {
        let prompt = &self.running[to].trace;
        let others = self.running.iter().enumerate().filter(|(index, _)| *index != to);
        let lengths = others.map(|(from, s)| (from, s.trace.common(s.cache.len(), prompt)));
        let live = lengths.max_by_key(|(_, length)| *length);
        let live = live.filter(|(from, length)| *length >= LEAST && self.fits(*from, to, *length));
        let kept = self.prefixes.find(&self.running[to].trace);
        match live {
            Some((from, length)) if kept.as_ref().is_none_or(|kept| kept.len() < length) => {
                Some(self.running[from].cache.share(length))
            }
            _ => kept,
        }
    }

    /// Whether there is memory for having two sequences share `length` tokens: the one that lends may have to begin
    /// another block before its last one is full.
    fn fits(&self, from: usize, to: usize, length: usize) -> bool {
        let (lender, borrower) = (&self.running[from], &self.running[to]);
        let Some(budget) = self.options.kv_bytes else { return true };
        if length <= lender.cache.in_blocks() {
            return true;
        }
        let after = |most: usize, held: usize| self.model.cache_bytes(most.saturating_sub(held));
        let more = lender.cache.own_bytes() + after(lender.most, lender.cache.len());
        let more = more + after(borrower.most, length);
        let less = self.own_bytes(lender) + self.own_bytes(borrower);
        self.used(&self.blocks()).saturating_add(more) <= budget.saturating_add(less)
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
            sequence.rows = usize::from(sequence.is_writing());
            budget = budget.saturating_sub(sequence.rows);
        }
        // A batch of nothing but answers may use up the budget; prompts must get on all the same.
        budget = budget.max(1);
        for index in 0..self.running.len() {
            if self.running[index].is_writing() || self.twin_before(index) {
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
