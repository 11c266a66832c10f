//! What sequences bring to fixed buffers, and what they are there.

use std::ops::Range;

use super::Stepping;
use super::buffers::Next;
use crate::cache::KvCache;
use crate::sample::Sampler;

/// Shortest rest of an answer that is worth a recording, which runs a step four times.
const SHORTEST: usize = 8;

/// Fewest slots.
const FEWEST: usize = 64;

/// Tokens of an answer for which there is room from the start.
const FORESEEN: usize = 128;

/// A sequence that is to be run on fixed buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entrant<'c> {
    /// What it holds.
    pub cache: &'c KvCache,
    /// Its next token, and the position of that.
    pub id: u32,
    pub position: u32,
    /// Tokens that its answer may still have.
    pub room: usize,
    /// Who chooses them.
    pub sampler: &'c Sampler,
}

impl Entrant<'_> {
    /// Whether its answer is long enough for a recording.
    pub fn is_worth_it(&self) -> bool {
        self.room >= SHORTEST
    }

    /// Slots that it needs at first.
    pub fn slots(&self) -> usize {
        first_slots(self.cache.len(), self.room)
    }

    /// What it is where it is run.
    pub(super) fn lane(&self) -> Lane {
        let &Entrant { cache, id, position, .. } = self;
        Lane { first: Next { id, place: cache.len(), position }, ids: Vec::new() }
    }
}

/// Slots for a prompt, and for as much of its answer as is foreseen.
pub(crate) fn first_slots(prompt: usize, answer: usize) -> usize {
    prompt.saturating_add(answer.min(FORESEEN)).next_power_of_two().max(FEWEST)
}

/// The most slots that exist at one time until an answer of so many tokens is over.
pub(super) fn most_slots(prompt: usize, answer: usize) -> usize {
    let last = prompt.saturating_add(answer).next_power_of_two().max(FEWEST);
    // Those that there was room for first are there for a while when the last come.
    if last > first_slots(prompt, answer) { last + last / 2 } else { last }
}

/// How sequences run on fixed buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub stepping: Stepping,
    /// Most bytes of keys and values there.
    pub most: u64,
}

/// The token that a lane runs, and who chooses the next one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn<'s> {
    pub id: u32,
    pub sampler: &'s Sampler,
}

/// A sequence that runs on fixed buffers.
#[derive(Debug)]
pub(crate) struct Lane {
    /// The first token that was run here.
    pub first: Next,
    /// The tokens that were run here and that the answer has.
    pub ids: Vec<u32>,
}

impl Lane {
    /// The token `id` behind those that were run.
    pub fn next(&self, id: u32) -> Next {
        let Next { place, position, .. } = self.first;
        Next { id, place: place + self.ids.len(), position: position + self.ids.len() as u32 }
    }

    /// The slots of what was run.
    pub fn slots(&self) -> Range<usize> {
        self.first.place..self.first.place + self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_what_is_foreseen_and_twice_as_much_comes_beside_it() {
        assert_eq!(first_slots(10, 20), 64);
        assert_eq!(first_slots(10, 4000), 256);
        assert_eq!(most_slots(10, 20), 64);
        assert_eq!(most_slots(100, 156), 256);
        // 256 slots become 512, and both are there while the rows move.
        assert_eq!(most_slots(100, 157), 768);
        assert_eq!(most_slots(100, 4000), 8192 + 4096);
    }
}
