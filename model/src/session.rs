//! One conversation with its cache: prompts that begin like the last one are computed from where they differ.

use std::ops::Range;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use crate::cache::KvCache;
use crate::inputs::{InputError, MediaItem, ModelInputs};
use crate::model::Qwen3VlModel;
use crate::probe::Probe;
use crate::processor::message::MediaKind;
use crate::prompt::Prompt;

/// Tokens of a prompt that run through the model at once.
pub const PREFILL_CHUNK: usize = 2048;

/// A cache and what it holds.
#[derive(Debug)]
pub struct Session {
    cache: KvCache,
    ids: Vec<u32>,
    items: Vec<Item>,
    next_position: u32,
}

/// One image or clip of a prompt, recognised by its pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    kind: MediaKind,
    /// From its first placeholder to behind its last.
    range: Range<usize>,
    hash: u64,
}

/// What a prefill did.
#[derive(Debug)]
pub struct Prefill {
    /// Logits after the last token of the prompt, `[1, vocabulary]`.
    pub logits: Tensor<2>,
    /// Tokens that were already in the cache.
    pub reused: usize,
    /// Time in the vision tower.
    pub vision: Duration,
    /// Time in the language model.
    pub language: Duration,
}

impl Session {
    /// An empty session.
    pub fn new(model: &Qwen3VlModel) -> Self {
        Self { cache: model.new_cache(), ids: Vec::new(), items: Vec::new(), next_position: 0 }
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Runs a prompt in chunks of `chunk` tokens, reusing what the cache holds of it.
    ///
    /// # Errors
    /// When the prompt is not one that the model can take, see [`Qwen3VlModel::prepare`].
    pub fn prefill(
        &mut self,
        model: &Qwen3VlModel,
        inputs: &ModelInputs,
        chunk: usize,
    ) -> Result<Prefill, InputError> {
        let start = Instant::now();
        let items = items(inputs);
        let reused = self.reusable(&inputs.ids, &items);
        let mut prompt = model.prepare(inputs, &mut Probe::off())?;
        self.cache.truncate(reused);
        self.ids.truncate(reused);
        let logits = self.run(model, &mut prompt, chunk.max(1));
        let vision = prompt.vision_time();
        self.ids.clone_from(&inputs.ids);
        self.items = items;
        self.next_position = prompt.positions().next;
        Ok(Prefill { logits, reused, vision, language: start.elapsed() - vision })
    }

    /// Runs one generated token and returns the logits after it, `[1, vocabulary]`.
    pub fn step(&mut self, model: &Qwen3VlModel, id: u32) -> Tensor<2> {
        let logits = model.decode(&[(id, self.next_position)], &mut [&mut self.cache]);
        self.ids.push(id);
        self.next_position += 1;
        logits
    }

    fn run(&mut self, model: &Qwen3VlModel, prompt: &mut Prompt, chunk: usize) -> Tensor<2> {
        let mut last = None;
        while self.cache.len() < prompt.len() {
            let start = self.cache.len();
            let rows = start..start.saturating_add(chunk).min(prompt.len());
            last = Some(model.prefill(prompt, rows, &mut self.cache, &mut Probe::off()));
        }
        let hidden = last.expect("at least the last token of a prompt is computed");
        let rows = hidden.dims()[0];
        model.logits(hidden.narrow(0, rows - 1, 1))
    }

    /// Length of the common beginning of cache and prompt, at most all but the last token, never inside an item.
    fn reusable(&self, ids: &[u32], items: &[Item]) -> usize {
        let held = self.ids.len().min(self.cache.len());
        let common = self.ids[..held].iter().zip(ids).take_while(|(a, b)| a == b).count();
        let mut length = common.min(ids.len().saturating_sub(1));
        for item in items {
            let known = item.range.end <= length && self.items.contains(item);
            if item.range.start < length && !known {
                length = item.range.start;
            }
        }
        length
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
        Some(Item { kind, range: first.start..end, hash: item.content_hash() })
    };
    inputs.pixels(kind).items.iter().map_while(item).collect()
}
