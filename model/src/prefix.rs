//! What two prompts have in common: tokens, and the media behind their placeholders.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use crate::cache::{BlockId, KvCache};
use crate::inputs::{ContentKey, MediaItem, ModelInputs};
use crate::processor::message::MediaKind;

/// Tokens below which a common beginning is not worth a block of its own.
pub(crate) const LEAST: usize = 16;

/// One image or clip of a prompt, recognised by its pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    kind: MediaKind,
    /// From its first placeholder to behind its last.
    range: Range<usize>,
    key: ContentKey,
}

/// Tokens and media of a sequence, as far as a cache holds them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    pub(crate) ids: Vec<u32>,
    pub(crate) items: Vec<Item>,
}

impl Trace {
    pub(crate) fn of(inputs: &ModelInputs) -> Self {
        Self { ids: inputs.ids.clone(), items: items(inputs) }
    }

    /// Length of the common beginning with `prompt`, of which this trace's first `held` tokens are cached; at most all
    /// but the prompt's last token, never inside an item.
    pub(crate) fn common(&self, held: usize, prompt: &Self) -> usize {
        let held = self.ids.len().min(held);
        let common = self.ids[..held].iter().zip(&prompt.ids).take_while(|(a, b)| a == b).count();
        let mut length = common.min(prompt.ids.len().saturating_sub(1));
        for item in &prompt.items {
            let known = item.range.end <= length && self.items.contains(item);
            if item.range.start < length && !known {
                length = item.range.start;
            }
        }
        length
    }

    /// Whether both begin and end alike.
    pub(crate) fn is_twin(&self, other: &Self) -> bool {
        self.ids == other.ids && self.items == other.items
    }
}

/// The items of a prompt in order of their placeholders.
fn items(inputs: &ModelInputs) -> Vec<Item> {
    let mut items: Vec<Item> = [MediaKind::Image, MediaKind::Video]
        .into_iter()
        .flat_map(|kind| items_of(inputs, kind))
        .collect();
    items.sort_by_key(|item| item.range.start);
    items
}

fn items_of(inputs: &ModelInputs, kind: MediaKind) -> Vec<Item> {
    let mut spans = inputs.spans.iter().filter(|span| span.kind == kind);
    let item = |item: &MediaItem| {
        let mut frames = spans.by_ref().take(item.grid.t);
        let first = frames.next()?;
        let end = frames.last().unwrap_or(first).range().end;
        Some(Item { kind, range: first.start..end, key: item.content_key() })
    };
    inputs.pixels(kind).items.iter().map_while(item).collect()
}

/// The blocks of any number of caches, each counted once however many hold it.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    /// How many caches hold it, and its bytes.
    held: HashMap<BlockId, (usize, u64)>,
    bytes: u64,
}

impl Blocks {
    fn add(&mut self, cache: &KvCache) {
        for (id, bytes) in cache.blocks() {
            let (holders, _) = self.held.entry(id).or_insert((0, bytes));
            self.bytes += if *holders == 0 { bytes } else { 0 };
            *holders += 1;
        }
    }

    fn remove(&mut self, cache: &KvCache) {
        for (id, bytes) in cache.blocks() {
            let Some((holders, _)) = self.held.get_mut(&id) else { continue };
            *holders -= 1;
            if *holders == 0 {
                self.held.remove(&id);
                self.bytes -= bytes;
            }
        }
    }

    /// Bytes of all blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the blocks that two caches or more hold, of these or of `others` too.
    pub(crate) fn shared_bytes(&self, others: &Self) -> u64 {
        let shared = self
            .held
            .iter()
            .filter(|(id, (holders, _))| *holders > 1 || others.held.contains_key(id));
        shared.map(|(_, (_, bytes))| bytes).sum()
    }

    fn bytes_in_both(&self, other: &Self) -> u64 {
        let both = self.held.iter().filter(|(id, _)| other.held.contains_key(id));
        both.map(|(_, (_, bytes))| bytes).sum()
    }
}

impl<'c> FromIterator<&'c KvCache> for Blocks {
    fn from_iter<I: IntoIterator<Item = &'c KvCache>>(caches: I) -> Self {
        let mut all = Self::default();
        caches.into_iter().for_each(|cache| all.add(cache));
        all
    }
}

/// Caches of sequences that have ended, for prompts that begin like them; the least recently used goes first.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    kept: VecDeque<Kept>,
    blocks: Blocks,
}

#[derive(Debug)]
struct Kept {
    trace: Trace,
    cache: KvCache,
}

impl Prefixes {
    /// The blocks of all.
    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Bytes of blocks that are held here and not by those that run.
    pub(crate) fn bytes_beside(&self, running: &Blocks) -> u64 {
        self.blocks.bytes() - running.bytes_in_both(&self.blocks)
    }

    /// Keeps `cache`, which holds the first tokens of `trace`, in place of those that it continues.
    pub(crate) fn keep(&mut self, trace: Trace, mut cache: KvCache) {
        if cache.len() < LEAST {
            return;
        }
        cache.put_away();
        self.blocks.add(&cache);
        let covers = |old: &Kept| old.trace.common(old.cache.len(), &trace) == old.cache.len();
        while let Some(index) = self.kept.iter().position(covers) {
            self.remove(index);
        }
        self.kept.push_back(Kept { trace, cache });
    }

    /// Frees the oldest until at most `budget` bytes are held that those that run do not hold too.
    pub(crate) fn shrink_to(&mut self, budget: u64, running: &Blocks) {
        while !self.kept.is_empty() && self.bytes_beside(running) > budget {
            self.remove(0);
        }
    }

    /// The longest cached beginning of `prompt`, in the same blocks.
    pub(crate) fn find(&mut self, prompt: &Trace) -> Option<KvCache> {
        let lengths = self.kept.iter().map(|kept| kept.trace.common(kept.cache.len(), prompt));
        let (index, length) = lengths.enumerate().max_by_key(|(_, length)| *length)?;
        if length < LEAST {
            return None;
        }
        let mut kept = self.kept.remove(index)?;
        let cache = kept.cache.share(length);
        self.kept.push_back(kept);
        Some(cache)
    }

    fn remove(&mut self, index: usize) {
        if let Some(kept) = self.kept.remove(index) {
            self.blocks.remove(&kept.cache);
        }
    }
}
