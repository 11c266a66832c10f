//! Blocks of tokens that caches share.

use std::sync::Arc;

use super::Rows;
use super::store::{LayerRows, Store};

/// Blocks one after the other, of each its first tokens.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocks(Vec<Part>);

/// The first tokens of a block.
#[derive(Debug, Clone)]
struct Part {
    block: Arc<Block>,
    length: usize,
}

/// Keys and values of consecutive tokens, of all layers.
#[derive(Debug)]
struct Block {
    layers: Vec<LayerRows>,
    bytes: u64,
}

/// Names a block among those that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlockId(usize);

/// Keys or values of a layer.
type Side = fn(&LayerRows) -> Option<&Store>;

impl Blocks {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts a block of `length` tokens behind the others.
    pub(super) fn push(&mut self, layers: Vec<LayerRows>, bytes: u64, length: usize) {
        self.0.push(Part { block: Arc::new(Block { layers, bytes }), length });
    }

    /// The blocks as far as they hold the first `length` tokens.
    pub(super) fn first(&self, length: usize) -> Self {
        let mut left = length;
        let part = |part: &Part| {
            let length = part.length.min(left);
            left -= length;
            (length > 0).then(|| Part { block: Arc::clone(&part.block), length })
        };
        Self(self.0.iter().map_while(part).collect())
    }

    /// One block with copies of what all hold of `layers` layers, which is `bytes` bytes.
    pub(super) fn joined(&self, layers: usize, bytes: u64) -> Self {
        let side = |layer: usize, of: Side| {
            let stores = self.0.iter().map(|part| {
                let store = of(&part.block.layers[layer])?;
                Some((store, part.length))
            });
            Store::joined(&stores.collect::<Option<Vec<_>>>()?)
        };
        let layer = |layer| LayerRows {
            keys: side(layer, |rows| rows.keys.as_ref()),
            values: side(layer, |rows| rows.values.as_ref()),
        };
        let mut joined = Self::default();
        let length = self.0.iter().map(|part| part.length).sum();
        joined.push((0..layers).map(layer).collect(), bytes, length);
        joined
    }

    /// The blocks, and their bytes.
    pub(super) fn ids(&self) -> impl Iterator<Item = (BlockId, u64)> {
        let id = |block: &Arc<Block>| BlockId(Arc::as_ptr(block).addr());
        self.0.iter().map(move |part| (id(&part.block), part.block.bytes))
    }

    /// What they hold of one layer, `[1, kv_heads, n, head_dim]` each.
    pub(super) fn of_layer(&self, layer: usize, of: Side) -> Rows {
        let stores =
            self.0.iter().filter_map(|part| Some(of(&part.block.layers[layer])?.read(part.length)));
        stores.collect()
    }
}
