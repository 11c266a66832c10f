//! A queue in which clients take turns.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Items of several owners; each owner's in order, the owners in turn.
#[derive(Debug)]
pub struct FairQueue<K, T> {
    turns: VecDeque<K>,
    items: HashMap<K, VecDeque<T>>,
}

impl<K: Clone + Eq + Hash, T> FairQueue<K, T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self { turns: VecDeque::new(), items: HashMap::new() }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Items in all.
    pub fn len(&self) -> usize {
        self.items.values().map(VecDeque::len).sum()
    }

    /// Adds an item behind those of its owner.
    pub fn push(&mut self, owner: K, item: T) {
        let items = self.items.entry(owner.clone()).or_default();
        if items.is_empty() {
            self.turns.push_back(owner);
        }
        items.push_back(item);
    }

    /// The next item of the owner whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let owner = self.turns.pop_front()?;
        let items = self.items.get_mut(&owner)?;
        let item = items.pop_front();
        if items.is_empty() {
            self.items.remove(&owner);
        } else {
            self.turns.push_back(owner);
        }
        item
    }

    /// Drops the items that are not wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(&T) -> bool) {
        self.items.values_mut().for_each(|items| items.retain(&mut wanted));
        self.items.retain(|_, items| !items.is_empty());
        self.turns.retain(|owner| self.items.contains_key(owner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut FairQueue<char, u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn owners_take_turns() {
        let mut queue = FairQueue::new();
        for item in [1, 2, 3] {
            queue.push('a', item);
        }
        queue.push('b', 10);
        queue.push('c', 20);
        queue.push('b', 11);
        assert_eq!(queue.len(), 6);
        assert_eq!(drain(&mut queue), [1, 10, 20, 2, 11, 3]);
        assert!(queue.is_empty());
    }

    #[test]
    fn unwanted_items_go_and_their_owner_waits_no_more() {
        let mut queue = FairQueue::new();
        for (owner, item) in [('a', 1), ('b', 2), ('a', 3), ('c', 4)] {
            queue.push(owner, item);
        }
        queue.retain(|item| *item != 2 && *item != 1);
        queue.push('b', 5);
        assert_eq!(drain(&mut queue), [3, 4, 5]);
    }
}
