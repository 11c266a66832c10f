//! What two prompts have in common: tokens, and the media behind their placeholders.

use std::collections::VecDeque;
use std::ops::Range;

use crate::cache::KvCache;
use crate::inputs::{ContentKey, MediaItem, ModelInputs};
use crate::processor::message::MediaKind;

/// Tokens below which a common beginning is not worth a copy of its cache.
const LEAST: usize = 16;

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

/// Caches of sequences that have ended, for prompts that begin like them; the least recently used goes first.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    kept: VecDeque<Kept>,
    bytes: u64,
}

#[derive(Debug)]
struct Kept {
    trace: Trace,
    cache: KvCache,
    bytes: u64,
}

impl Prefixes {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps `cache`, which holds the first tokens of `trace`, in place of those that it continues.
    pub(crate) fn keep(&mut self, trace: Trace, cache: KvCache, bytes: u64) {
        if cache.len() < LEAST {
            return;
        }
        let covers = |old: &Kept| old.trace.common(old.cache.len(), &trace) == old.cache.len();
        while let Some(index) = self.kept.iter().position(covers) {
            self.remove(index);
        }
        self.bytes += bytes;
        self.kept.push_back(Kept { trace, cache, bytes });
    }

    /// Frees the oldest until at most `budget` bytes are held.
    pub(crate) fn shrink_to(&mut self, budget: u64) {
        while self.bytes > budget && !self.kept.is_empty() {
            self.remove(0);
        }
    }

    /// A copy of the longest cached beginning of `prompt`.
    pub(crate) fn find(&mut self, prompt: &Trace) -> Option<KvCache> {
        let lengths = self.kept.iter().map(|kept| kept.trace.common(kept.cache.len(), prompt));
        let (index, length) = lengths.enumerate().max_by_key(|(_, length)| *length)?;
        if length < LEAST {
            return None;
        }
        let kept = self.kept.remove(index)?;
        let cache = kept.cache.fork_prefix(length);
        self.kept.push_back(kept);
        Some(cache)
    }

    fn remove(&mut self, index: usize) {
        if let Some(kept) = self.kept.remove(index) {
            self.bytes -= kept.bytes;
        }
    }
}

/// A copy of what `cache`, which holds the first tokens of `trace`, has of the beginning of `prompt`.
pub(crate) fn borrow(trace: &Trace, cache: &KvCache, prompt: &Trace) -> Option<KvCache> {
    let length = trace.common(cache.len(), prompt);
    (length >= LEAST).then(|| cache.fork_prefix(length))
}
