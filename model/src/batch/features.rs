//! Features of frames that were seen before.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use crate::inputs::ContentKey;
use crate::prompt::{FeatureRows, Prompt};

/// Content of an item, and frame within it.
pub(crate) type FrameKey = (ContentKey, usize);

/// What the tower made of frames, within a budget of bytes; the least recently used goes first. The frames of one
/// call of the tower share a tensor, so they come and go together.
#[derive(Debug, Default)]
pub(crate) struct FeatureCache {
    budget: u64,
    used: u64,
    calls: VecDeque<Call>,
    frames: HashMap<FrameKey, (u64, FeatureRows)>,
    next: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

#[derive(Debug)]
struct Call {
    id: u64,
    keys: Vec<FrameKey>,
    bytes: u64,
}

impl FeatureCache {
    /// An empty cache; a budget of 0 keeps nothing.
    pub(crate) fn new(budget: u64) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Gives all up; what was counted stays.
    pub(crate) fn clear(&mut self) {
        let (hits, misses) = (self.hits, self.misses);
        *self = Self { hits, misses, ..Self::new(self.budget) };
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.used
    }

    /// Gives the frames in tokens `rows` of `prompt` the features that are known.
    pub(crate) fn lend(&mut self, prompt: &mut Prompt, rows: &Range<usize>) {
        if self.budget == 0 {
            return;
        }
        for frame in prompt.unseen(rows) {
            match self.frames.get(&prompt.frame_key(frame)) {
                Some((call, features)) => {
                    let call = *call;
                    prompt.lend(frame, features.clone());
                    self.hits += 1;
                    self.touch(call);
                }
                None => self.misses += 1,
            }
        }
    }

    /// Keeps what one call of the tower made of `frames`.
    pub(crate) fn keep(&mut self, prompt: &Prompt, frames: &[usize]) {
        let rows: Vec<_> = frames.iter().filter_map(|f| prompt.lent(*f)).collect();
        let bytes = rows.iter().map(|rows| rows.bytes()).sum();
        if bytes > self.budget {
            return;
        }
        let (id, mut keys) = (self.next, Vec::new());
        self.next += 1;
        for (frame, rows) in frames.iter().zip(rows) {
            let key = prompt.frame_key(*frame);
            self.frames.insert(key, (id, rows.clone()));
            keys.push(key);
        }
        self.used += bytes;
        self.calls.push_back(Call { id, keys, bytes });
        while self.used > self.budget {
            self.drop_oldest();
        }
    }

    fn touch(&mut self, id: u64) {
        if let Some(index) = self.calls.iter().position(|call| call.id == id)
            && let Some(call) = self.calls.remove(index)
        {
            self.calls.push_back(call);
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(call) = self.calls.pop_front() {
            self.used -= call.bytes;
            for key in call.keys {
                if self.frames.get(&key).is_some_and(|(id, _)| *id == call.id) {
                    self.frames.remove(&key);
                }
            }
        }
    }
}
