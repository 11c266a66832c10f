//! What a cache of experts knows of every matrix.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::thread::ThreadId;

use super::{ExpertMatrix, ExpertUsage};

/// A stack and an expert in it.
pub(super) type Key = (usize, usize);

/// What a panic left behind.
pub(super) type Payload = Box<dyn Any + Send>;

/// What may give way to a new matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// What no thread is going to use in its layer.
    Unwanted,
    /// That first, then the rest.
    Any,
}

#[derive(Debug, Default)]
pub(super) struct State {
    held: HashMap<Key, Held>,
    /// When each was used last, the oldest first.
    order: BTreeMap<u64, Key>,
    clock: u64,
    /// What is being copied, which has its room in `usage.held` already.
    coming: HashSet<Key>,
    /// Copies that nobody has asked for yet and that failed.
    pub failed: HashMap<Key, Payload>,
    /// What each thread is still going to use in its layer.
    wanted: HashMap<ThreadId, HashSet<Key>>,
    pub usage: ExpertUsage,
}

#[derive(Debug)]
struct Held {
    matrix: ExpertMatrix,
    bytes: u64,
    used: u64,
    /// Whether it was brought before it was needed, and has not been used.
    fresh: bool,
}

impl State {
    pub fn new(budget: u64) -> Self {
        Self { usage: ExpertUsage { budget, ..ExpertUsage::default() }, ..Self::default() }
    }

    /// Whether a matrix is on the device.
    pub fn holds(&self, key: Key) -> bool {
        self.held.contains_key(&key)
    }

    /// Whether it is there or coming.
    pub fn has(&self, key: Key) -> bool {
        self.holds(key) || self.coming.contains(&key)
    }

    /// A matrix that is there, which becomes the youngest.
    pub fn hit(&mut self, key: Key) -> Option<ExpertMatrix> {
        let held = self.held.get_mut(&key)?;
        self.clock += 1;
        self.order.remove(&held.used);
        self.order.insert(self.clock, key);
        held.used = self.clock;
        self.usage.hits += u64::from(!std::mem::take(&mut held.fresh));
        Some(held.matrix.clone())
    }

    /// Keeps room for a matrix that is to be copied; returns whether there is any. A matrix that is larger than all the room is
    /// alone there.
    pub fn reserve(&mut self, key: Key, bytes: u64, room: Room) -> bool {
        let found = self.make_room(bytes, Room::Unwanted)
            || (room == Room::Any && self.make_room(bytes, Room::Any));
        if found {
            // This attempt counts.
            self.failed.remove(&key);
            self.coming.insert(key);
            self.usage.held += bytes;
        }
        found
    }

    /// Lets the oldest go until there is room for `bytes` more.
    fn make_room(&mut self, bytes: u64, room: Room) -> bool {
        while self.usage.held > 0 && self.usage.held + bytes > self.usage.budget {
            let may_go = |key| room == Room::Any || !self.is_wanted(key);
            let oldest = self.order.iter().find(|(_, key)| may_go(**key));
            let Some((used, key)) = oldest.map(|(used, key)| (*used, *key)) else { return false };
            self.order.remove(&used);
            self.usage.held -= self.held.remove(&key).map_or(0, |held| held.bytes);
        }
        true
    }

    /// A copy has ended, or failed, for which there was room.
    pub fn arrive(&mut self, key: Key, bytes: u64, matrix: Option<&ExpertMatrix>, fresh: bool) {
        self.coming.remove(&key);
        let Some(matrix) = matrix.cloned() else {
            self.usage.held -= bytes;
            return;
        };
        self.usage.misses += 1;
        self.usage.uploaded += bytes;
        self.clock += 1;
        self.order.insert(self.clock, key);
        self.held.insert(key, Held { matrix, bytes, used: self.clock, fresh });
    }

    pub fn want(&mut self, thread: ThreadId, keys: impl Iterator<Item = Key>) {
        self.wanted.entry(thread).or_default().extend(keys);
    }

    pub fn release(&mut self, thread: ThreadId, key: Key) {
        if let Some(keys) = self.wanted.get_mut(&thread) {
            keys.remove(&key);
            if keys.is_empty() {
                self.wanted.remove(&thread);
            }
        }
    }

    /// A thread wants nothing any more.
    pub fn forget(&mut self, thread: ThreadId) {
        self.wanted.remove(&thread);
    }

    fn is_wanted(&self, key: Key) -> bool {
        self.wanted.values().any(|keys| keys.contains(&key))
    }
}
