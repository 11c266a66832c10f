//! The key/value cache of one sequence: blocks that other caches may hold too, and behind them tokens of its own.
//!
//! What is in a block is never written again, so that any number of sequences that begin alike hold it once, and taking it
//! over copies nothing. Attention reads blocks and own tokens where they lie.

mod blocks;
mod dtype;
mod int8;
mod store;

use std::ops::Range;

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};
use qwen3_vl_backends::ops::{KvRows, expand_kv};

pub(crate) use blocks::BlockId;
pub use dtype::KvDtype;

use crate::config::TextConfig;
use blocks::Blocks;
use store::{LayerRows, Room, RowShape, Store};

/// Slots that are added at a time.
const BLOCK: usize = 256;

/// Blocks of one cache beyond which they are made one when the cache is put away: every step visits each of them.
const MANY: usize = 8;

/// Keys (after rotation) and values of every layer (HF `DynamicCache`).
#[derive(Debug)]
pub struct KvCache {
    blocks: Blocks,
    /// What this cache alone holds, behind the blocks; grown in place.
    own: Vec<LayerRows>,
    /// The layer that `own` begins with.
    first: usize,
    /// Tokens in blocks, and in all.
    shared: usize,
    length: usize,
    /// Tokens beyond which it is not grown in advance.
    most: usize,
    /// Tokens whose keys of a layer fit into the largest buffer of a device.
    in_buffer: usize,
    shape: RowShape,
    token_bytes: u64,
}

/// Keys, or values, of all tokens of one layer, in order: `[1, kv_heads, tokens, head_dim]` each, as they are stored.
pub(crate) type Rows = Vec<KvRows<Dispatch>>;

impl KvCache {
    /// An empty cache for a model of `config` that computes in `compute`.
    pub fn new(config: &TextConfig, compute: DType, storage: KvDtype) -> Self {
        Self {
            blocks: Blocks::default(),
            own: vec![LayerRows::default(); config.layers],
            first: 0,
            shared: 0,
            length: 0,
            most: usize::MAX,
            in_buffer: usize::MAX,
            shape: RowShape { head_dim: config.head_dim, compute, storage },
            token_bytes: Self::bytes_per_token(config, compute, storage),
        }
    }

    /// The same cache, which will hold no more than `tokens` tokens, so that it takes no memory for more.
    #[must_use]
    pub fn up_to(self, tokens: usize) -> Self {
        Self { most: tokens, ..self }
    }

    /// The same cache, for a model of `config`, whose tensors take no more than `bytes` each, but for a block of the fewest tokens.
    pub(crate) fn in_buffers_of(self, config: &TextConfig, bytes: Option<u64>) -> Self {
        let RowShape { head_dim, compute, storage } = self.shape;
        let token = (config.kv_heads as u64).saturating_mul(storage.row_bytes(head_dim, compute));
        let tokens = bytes.and_then(|bytes| usize::try_from(bytes / token.max(1)).ok());
        let in_buffer = tokens.map_or(usize::MAX, |tokens| (tokens / BLOCK * BLOCK).max(BLOCK));
        Self { in_buffer, ..self }
    }

    /// Tokens that can be added before what this cache alone holds is too large for a buffer.
    pub(crate) fn room(&self) -> usize {
        self.in_buffer.saturating_sub(self.length - self.shared)
    }

    /// Lets `tokens` more have a buffer of their own where they do not fit into that of the last ones.
    pub(crate) fn make_room(&mut self, tokens: usize) {
        if self.room() < tokens {
            self.close();
        }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first of the tokens held that are in blocks.
    pub fn in_blocks(&self) -> usize {
        self.shared
    }

    /// Tokens beyond those in blocks that there is memory for.
    pub fn own_capacity(&self) -> usize {
        self.own.first().and_then(|layer| layer.keys.as_ref()).map_or(0, Store::slots)
    }

    /// Forgets all tokens from `length` on.
    ///
    /// # Panics
    /// When fewer tokens are held.
    pub fn truncate(&mut self, length: usize) {
        assert!(length <= self.length, "cannot truncate {} tokens to {length}", self.length);
        if length < self.shared {
            (self.blocks, self.shared) = (self.blocks.first(length), length);
            self.own = vec![LayerRows::default(); self.own.len()];
        }
        self.length = length;
    }

    /// A cache of the first `length` tokens. From now on both hold them in the same blocks; nothing is copied.
    ///
    /// # Panics
    /// When fewer tokens are held.
    pub fn share(&mut self, length: usize) -> Self {
        assert!(length <= self.length, "cannot share {length} tokens of {}", self.length);
        if length > self.shared {
            self.close();
        }
        Self {
            blocks: self.blocks.first(length),
            own: vec![LayerRows::default(); self.own.len()],
            first: self.first,
            shared: length,
            length,
            most: usize::MAX,
            in_buffer: self.in_buffer,
            shape: self.shape.clone(),
            token_bytes: self.token_bytes,
        }
    }

    /// Takes what this cache alone holds out, into one cache per run of layers, which share its blocks; [`Self::join`] puts
    /// it back.
    pub(crate) fn split(&mut self, runs: &[Range<usize>]) -> Vec<Self> {
        let mut own = std::mem::take(&mut self.own).into_iter();
        let mut part = |run: &Range<usize>| Self {
            blocks: self.blocks.clone(),
            own: own.by_ref().take(run.len()).collect(),
            first: run.start,
            shared: self.shared,
            length: self.length,
            most: self.most,
            in_buffer: self.in_buffer,
            shape: self.shape.clone(),
            token_bytes: self.token_bytes,
        };
        runs.iter().map(&mut part).collect()
    }

    /// Puts back what [`Self::split`] took out. Tokens that some layers lack, because the work on them ended before, are forgotten.
    pub(crate) fn join(&mut self, parts: Vec<Self>) {
        self.length = parts.iter().map(|part| part.length).min().unwrap_or(self.length);
        self.own = parts.into_iter().flat_map(|part| part.own).collect();
    }

    /// Makes what this cache alone holds a block; many small blocks become one, by a copy, where that fits into a buffer.
    pub(crate) fn put_away(&mut self) {
        self.close();
        if self.blocks.len() > MANY && self.shared <= self.in_buffer {
            let bytes = self.token_bytes.saturating_mul(self.shared as u64);
            self.blocks = self.blocks.joined(self.own.len(), bytes);
        }
    }

    /// The blocks held, and their bytes.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (BlockId, u64)> {
        self.blocks.ids()
    }

    /// Bytes of what this cache alone holds.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.token_bytes.saturating_mul(self.own_capacity() as u64)
    }

    fn close(&mut self) {
        let length = self.length - self.shared;
        if length > 0 {
            let (bytes, empty) = (self.own_bytes(), vec![LayerRows::default(); self.own.len()]);
            let layers = std::mem::replace(&mut self.own, empty);
            self.blocks.push(layers, bytes, length);
            self.shared = self.length;
        }
    }

    /// Bytes that `tokens` tokens take in a cache of this configuration, rounded up to whole blocks.
    pub fn bytes(config: &TextConfig, tokens: usize, compute: DType, storage: KvDtype) -> u64 {
        let slots = tokens.div_ceil(BLOCK).saturating_mul(BLOCK) as u64;
        slots.saturating_mul(Self::bytes_per_token(config, compute, storage))
    }

    /// Bytes of the keys and values of one token in all layers.
    pub fn bytes_per_token(config: &TextConfig, compute: DType, storage: KvDtype) -> u64 {
        let rows = (2 * config.layers as u64).saturating_mul(config.kv_heads as u64);
        rows.saturating_mul(storage.row_bytes(config.head_dim, compute))
    }

    /// Writes `keys` and `values [1, kv_heads, n, head_dim]` behind the tokens held and returns all of them.
    /// The length moves on only with [`Self::advance`], once every layer has been written.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        keys: Tensor<4>,
        values: Tensor<4>,
    ) -> (Rows, Rows) {
        let shape = &self.shape;
        let most = self.most.saturating_sub(self.shared).min(self.in_buffer);
        let room = Room { at: self.length - self.shared, most };
        let mut all_keys = self.blocks.of_layer(layer, |rows| rows.keys.as_ref());
        let mut all_values = self.blocks.of_layer(layer, |rows| rows.values.as_ref());
        let own = &mut self.own[layer - self.first];
        all_keys.push(store::write(&mut own.keys, keys, room, shape));
        all_values.push(store::write(&mut own.values, values, room, shape));
        (all_keys, all_values)
    }

    /// All keys and values of one layer, in the compute dtype.
    pub(crate) fn held(&self, layer: usize) -> (Vec<Tensor<4>>, Vec<Tensor<4>>) {
        let RowShape { head_dim, compute, .. } = self.shape;
        let all = |of: fn(&LayerRows) -> Option<&Store>| {
            let mut rows = self.blocks.of_layer(layer, of);
            let (own, length) = (of(&self.own[layer - self.first]), self.length - self.shared);
            rows.extend(own.filter(|_| length > 0).map(|own| own.read(length)));
            rows.into_iter().map(|rows| expand_kv(rows, head_dim, compute)).collect()
        };
        (all(|rows| rows.keys.as_ref()), all(|rows| rows.values.as_ref()))
    }

    /// Takes over `tokens` tokens that were computed elsewhere: `rows` gives keys and values of a layer, as [`Self::append`]
    /// takes them.
    pub(crate) fn adopt(&mut self, tokens: usize, rows: impl Fn(usize) -> [Tensor<4>; 2]) {
        if tokens > 0 {
            for layer in 0..self.own.len() {
                let [keys, values] = rows(layer);
                self.append(layer, keys, values);
            }
            self.advance(tokens);
        }
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }
}

#[cfg(test)]
mod tests;
