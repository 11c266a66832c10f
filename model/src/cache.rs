//! The key/value cache of one sequence.

mod int8;

use std::ops::Range;

use burn::tensor::kind::Basic;
use burn::tensor::{DType, Tensor};
use int8::Int8Rows;

use crate::config::TextConfig;

/// Slots that are added at a time.
const BLOCK: usize = 256;

/// How keys and values are stored (vLLM `--kv-cache-dtype`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KvDtype {
    /// As the model computes.
    #[default]
    Auto,
    /// In a float dtype, converted as they are read.
    Float(DType),
    /// One signed byte per value and an f32 scale per token and head (`max |x| / 127`).
    Int8,
}

impl KvDtype {
    /// Bytes that one head of one token takes in one of keys or values.
    fn row_bytes(self, head_dim: usize, compute: DType) -> u64 {
        match self {
            Self::Auto => (head_dim * compute.size()) as u64,
            Self::Float(dtype) => (head_dim * dtype.size()) as u64,
            Self::Int8 => (head_dim.next_multiple_of(4) + 4) as u64,
        }
    }
}

impl std::str::FromStr for KvDtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            "f32" | "float32" => Ok(Self::Float(DType::F32)),
            "bf16" | "bfloat16" => Ok(Self::Float(DType::BF16)),
            "f16" | "float16" => Ok(Self::Float(DType::F16)),
            "int8" | "q8_0" => Ok(Self::Int8),
            other => Err(format!("`{other}` is no cache dtype; use auto, f32, bf16, f16 or int8")),
        }
    }
}

/// Keys (after rotation) and values of every layer, preallocated in blocks (HF `DynamicCache`).
#[derive(Debug, Clone)]
pub struct KvCache {
    /// From layer `first` on.
    layers: Vec<LayerCache>,
    first: usize,
    length: usize,
    shape: CacheShape,
}

/// What the rows of a cache are.
#[derive(Debug, Clone)]
struct CacheShape {
    head_dim: usize,
    compute: DType,
    storage: KvDtype,
}

/// Absent until the first token.
#[derive(Debug, Clone, Default)]
struct LayerCache {
    keys: Option<Store>,
    values: Option<Store>,
}

/// What all tokens of one layer are kept in, `[1, kv_heads, capacity, ..]`.
#[derive(Debug, Clone)]
enum Store {
    /// `[.., head_dim]`.
    Float(Box<Tensor<4>>),
    Int8(Box<Int8Rows>),
}

impl Store {
    fn slots(&self) -> usize {
        match self {
            Self::Float(tensor) => tensor.dims()[2],
            Self::Int8(rows) => rows.slots(),
        }
    }

    /// The first `length` rows, a view.
    fn first(&self, length: usize) -> Self {
        match self {
            Self::Float(tensor) => Self::Float(Box::new((**tensor).clone().narrow(2, 0, length))),
            Self::Int8(rows) => Self::Int8(Box::new(rows.first(length))),
        }
    }
}

impl KvCache {
    /// An empty cache for a model of `config` that computes in `compute`.
    pub fn new(config: &TextConfig, compute: DType, storage: KvDtype) -> Self {
        Self {
            layers: vec![LayerCache::default(); config.layers],
            first: 0,
            length: 0,
            shape: CacheShape { head_dim: config.head_dim, compute, storage },
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

    /// Forgets all tokens from `length` on.
    ///
    /// # Panics
    /// When fewer tokens are held.
    pub fn truncate(&mut self, length: usize) {
        assert!(length <= self.length, "cannot truncate {} tokens to {length}", self.length);
        self.length = length;
    }

    /// An independent copy; tensors are shared until one of the two is written.
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// A copy of the first `length` tokens, which shares memory with this cache until it is written.
    ///
    /// # Panics
    /// When fewer tokens are held.
    pub fn fork_prefix(&self, length: usize) -> Self {
        assert!(length <= self.length, "cannot cut {length} tokens out of {}", self.length);
        let cut = |store: &Option<Store>| store.as_ref().map(|store| store.first(length));
        let layer =
            |layer: &LayerCache| LayerCache { keys: cut(&layer.keys), values: cut(&layer.values) };
        let layers = self.layers.iter().map(layer).collect();
        Self { layers, first: self.first, length, shape: self.shape.clone() }
    }

    /// Takes the layers out, into one cache per run of them; [`Self::join`] puts them back.
    pub(crate) fn split(&mut self, runs: &[Range<usize>]) -> Vec<Self> {
        let mut layers = std::mem::take(&mut self.layers).into_iter();
        let mut part = |run: &Range<usize>| Self {
            layers: layers.by_ref().take(run.len()).collect(),
            first: run.start,
            length: self.length,
            shape: self.shape.clone(),
        };
        runs.iter().map(&mut part).collect()
    }

    /// Puts back what [`Self::split`] took out.
    pub(crate) fn join(&mut self, parts: Vec<Self>) {
        self.length = parts[0].length;
        assert!(parts.iter().all(|part| part.length == self.length), "all layers hold the same");
        self.layers = parts.into_iter().flat_map(|part| part.layers).collect();
    }

    /// Tokens that there is memory for.
    pub fn capacity(&self) -> usize {
        self.layers.first().and_then(|layer| layer.keys.as_ref()).map_or(0, Store::slots)
    }

    /// Bytes that `tokens` tokens take in a cache of this configuration, rounded up to whole blocks.
    pub fn bytes(config: &TextConfig, tokens: usize, compute: DType, storage: KvDtype) -> u64 {
        let slots = tokens.div_ceil(BLOCK).saturating_mul(BLOCK) as u64;
        slots.saturating_mul(Self::bytes_per_token(config, compute, storage))
    }

    /// Bytes of the keys and values of one token in all layers.
    pub fn bytes_per_token(config: &TextConfig, compute: DType, storage: KvDtype) -> u64 {
        let heads = (2 * config.layers as u64).saturating_mul(config.kv_heads as u64);
        heads.saturating_mul(storage.row_bytes(config.head_dim, compute))
    }

    /// Writes `keys` and `values [1, kv_heads, n, head_dim]` behind the tokens held and returns all of them.
    /// The length moves on only with [`Self::advance`], once every layer has been written.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        keys: Tensor<4>,
        values: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        let (length, shape) = (self.length, &self.shape);
        let layer = &mut self.layers[layer - self.first];
        (
            write(&mut layer.keys, keys, length, shape),
            write(&mut layer.values, values, length, shape),
        )
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }
}

/// Writes in place where the store is uniquely owned, and returns all tokens in the compute dtype.
fn write(slot: &mut Option<Store>, new: Tensor<4>, at: usize, shape: &CacheShape) -> Tensor<4> {
    let end = at + new.dims()[2];
    let (store, all) = match shape.storage {
        KvDtype::Int8 => {
            let old = slot.take().map(|store| match store {
                Store::Int8(rows) => *rows,
                Store::Float(_) => unreachable!("a cache keeps its storage"),
            });
            let rows = int8::append(old, new, at);
            let all = rows.read(end, shape.head_dim).cast(shape.compute);
            (Store::Int8(Box::new(rows)), all)
        }
        KvDtype::Auto | KvDtype::Float(_) => {
            let room = slot.take().map(|store| match store {
                Store::Float(tensor) => *tensor,
                Store::Int8(_) => unreachable!("a cache keeps its storage"),
            });
            let filled = append_rows(room, new.cast(shape.float()), at);
            let all = filled.clone().narrow(2, 0, end).cast(shape.compute);
            (Store::Float(Box::new(filled)), all)
        }
    };
    *slot = Some(store);
    all
}

/// `room` with the rows `new` from slot `at` on, made larger in blocks where they do not fit.
fn append_rows<K: Basic>(room: Option<Tensor<4, K>>, new: Tensor<4, K>, at: usize) -> Tensor<4, K> {
    let [one, heads, rows, width] = new.dims();
    let end = at + rows;
    let capacity = room.as_ref().map_or(0, |t| t.dims()[2]);
    let empty = |slots: usize| {
        let dims = [one, heads, slots.next_multiple_of(BLOCK), width];
        Tensor::<4, K>::empty(dims, (&new.device(), new.dtype()))
    };
    let room = match room {
        Some(room) if end <= capacity => room,
        Some(room) if at > 0 => empty(end.max(capacity + capacity / 2))
            .slice_assign([0..1, 0..heads, 0..at, 0..width], room.narrow(2, 0, at)),
        _ => empty(end),
    };
    room.slice_assign([0..1, 0..heads, at..end, 0..width], new)
}

impl CacheShape {
    fn float(&self) -> DType {
        match self.storage {
            KvDtype::Float(dtype) => dtype,
            KvDtype::Auto | KvDtype::Int8 => self.compute,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;
    use qwen3_vl_backends::device;

    fn cache(storage: KvDtype, head_dim: usize) -> KvCache {
        let shape = CacheShape { head_dim, compute: DType::F32, storage };
        KvCache { layers: vec![LayerCache::default()], first: 0, length: 0, shape }
    }

    fn tensor(values: &[f32], shape: [usize; 4]) -> Tensor<4> {
        let device = device::select(None).unwrap().device;
        Tensor::from_data(TensorData::new(values.to_vec(), shape), (&device, DType::F32))
    }

    /// Appends `values` as keys and returns all keys.
    fn push(cache: &mut KvCache, values: &[f32]) -> Vec<f32> {
        let new = tensor(values, [1, 1, values.len(), 1]);
        let (keys, _) = cache.append(0, new.clone(), new);
        cache.advance(values.len());
        keys.to_data().try_to_vec().unwrap()
    }

    #[test]
    fn tokens_survive_growth() {
        let mut cache = cache(KvDtype::Auto, 1);
        let first: Vec<f32> = (0..BLOCK).map(|i| i as f32).collect();
        push(&mut cache, &first);
        let all = push(&mut cache, &[-1.0, -2.0]);
        assert_eq!(all[..BLOCK], first);
        assert_eq!(all[BLOCK..], [-1.0, -2.0]);
    }

    #[test]
    fn truncation_forgets_and_forks_are_independent() {
        let mut cache = cache(KvDtype::Auto, 1);
        push(&mut cache, &[1.0, 2.0, 3.0]);
        let mut fork = cache.fork();
        cache.truncate(1);
        assert_eq!(push(&mut cache, &[9.0]), [1.0, 9.0]);
        assert_eq!(push(&mut fork, &[4.0]), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn layers_that_were_taken_out_come_back() {
        let mut cache =
            KvCache { layers: vec![LayerCache::default(); 3], ..cache(KvDtype::Auto, 1) };
        let write = |cache: &mut KvCache, layers: Range<usize>, value: f32| {
            let mut found = Vec::new();
            for layer in layers {
                let new = tensor(&[value + layer as f32], [1, 1, 1, 1]);
                let (keys, _) = cache.append(layer, new.clone(), new);
                found.push(keys.to_data().try_to_vec::<f32>().unwrap());
            }
            cache.advance(1);
            found
        };
        write(&mut cache, 0..3, 10.0);
        let runs = [0..1, 1..3];
        let mut parts = cache.split(&runs);
        for (part, run) in parts.iter_mut().zip(runs) {
            write(part, run, 20.0);
        }
        cache.join(parts);
        assert_eq!(cache.len(), 2);
        let found = write(&mut cache, 0..3, 30.0);
        assert_eq!(found, [[10.0, 20.0, 30.0], [11.0, 21.0, 31.0], [12.0, 22.0, 32.0]]);
    }

    #[test]
    fn bytes_hold_keys_to_half_a_step() {
        let mut cache = cache(KvDtype::Int8, 6);
        let rows: Vec<f32> = (0..6 * 300).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
        let mut found = Vec::new();
        for part in rows.chunks(6 * 100) {
            let new = tensor(part, [1, 1, 100, 6]);
            let (keys, _) = cache.append(0, new.clone(), new);
            cache.advance(100);
            found = keys.to_data().try_to_vec::<f32>().unwrap();
        }
        assert_eq!(found.len(), rows.len());
        for (row, found) in rows.chunks(6).zip(found.chunks(6)) {
            let step = row.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= step * 0.501;
            assert!(row.iter().zip(found).all(near), "{row:?} became {found:?}");
        }
    }
}
