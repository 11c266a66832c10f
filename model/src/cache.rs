//! The key/value cache of one sequence.

use burn::tensor::{DType, Device, Tensor};

use crate::config::TextConfig;

/// Slots that are added at a time.
const BLOCK: usize = 256;

/// Keys (after rotation) and values of every layer, preallocated in blocks (HF `DynamicCache`).
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    length: usize,
    shape: CacheShape,
}

/// Geometry and placement of a cache.
#[derive(Debug, Clone)]
struct CacheShape {
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    device: Device,
}

/// `[1, kv_heads, capacity, head_dim]` each; absent until the first token.
#[derive(Debug, Clone, Default)]
struct LayerCache {
    keys: Option<Tensor<4>>,
    values: Option<Tensor<4>>,
}

impl KvCache {
    /// An empty cache for a model of `config`, on `device`.
    pub fn new(config: &TextConfig, dtype: DType, device: &Device) -> Self {
        Self {
            layers: vec![LayerCache::default(); config.layers],
            length: 0,
            shape: CacheShape {
                kv_heads: config.kv_heads,
                head_dim: config.head_dim,
                dtype,
                device: device.clone(),
            },
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

    /// Bytes that `tokens` tokens take in a cache of this configuration, rounded up to whole blocks.
    pub fn bytes(config: &TextConfig, tokens: usize, dtype: DType) -> u64 {
        let slots = tokens.div_ceil(BLOCK).saturating_mul(BLOCK) as u64;
        let sizes = [2, config.layers, config.kv_heads, config.head_dim, dtype.size()];
        sizes.into_iter().fold(slots, |bytes, size| bytes.saturating_mul(size as u64))
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
        let layer = &mut self.layers[layer];
        (
            write(&mut layer.keys, keys, length, shape),
            write(&mut layer.values, values, length, shape),
        )
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }
}

/// Writes in place where the slot tensor is uniquely owned, and returns a view of what is filled.
fn write(slot: &mut Option<Tensor<4>>, new: Tensor<4>, at: usize, shape: &CacheShape) -> Tensor<4> {
    let end = at + new.dims()[2];
    let room = grown(slot.take(), end, at, shape);
    let filled = room.slice_assign([0..1, 0..shape.kv_heads, at..end, 0..shape.head_dim], new);
    let view = filled.clone().narrow(2, 0, end);
    *slot = Some(filled);
    view
}

/// `room` if `end` slots fit, else a larger tensor with the `used` slots copied over.
fn grown(room: Option<Tensor<4>>, end: usize, used: usize, shape: &CacheShape) -> Tensor<4> {
    let capacity = room.as_ref().map_or(0, |t| t.dims()[2]);
    match room {
        Some(room) if end <= capacity => room,
        Some(room) if used > 0 => {
            let ranges = [0..1, 0..shape.kv_heads, 0..used, 0..shape.head_dim];
            shape
                .zeros(end.max(capacity + capacity / 2))
                .slice_assign(ranges, room.narrow(2, 0, used))
        }
        _ => shape.zeros(end),
    }
}

impl CacheShape {
    fn zeros(&self, slots: usize) -> Tensor<4> {
        let dims = [1, self.kv_heads, slots.next_multiple_of(BLOCK), self.head_dim];
        Tensor::zeros(dims, (&self.device, self.dtype))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;
    use qwen3_vl_backends::device;

    fn cache() -> KvCache {
        let shape = CacheShape {
            kv_heads: 1,
            head_dim: 1,
            dtype: DType::F32,
            device: device::select(None).unwrap().device,
        };
        KvCache { layers: vec![LayerCache::default()], length: 0, shape }
    }

    /// Appends `values` as keys and returns all keys.
    fn push(cache: &mut KvCache, values: &[f32]) -> Vec<f32> {
        let data = TensorData::new(values.to_vec(), [1, 1, values.len(), 1]);
        let new = Tensor::from_data(data, (&cache.shape.device, DType::F32));
        let (keys, _) = cache.append(0, new.clone(), new);
        cache.advance(values.len());
        keys.to_data().try_to_vec().unwrap()
    }

    #[test]
    fn tokens_survive_growth() {
        let mut cache = cache();
        let first: Vec<f32> = (0..BLOCK).map(|i| i as f32).collect();
        push(&mut cache, &first);
        let all = push(&mut cache, &[-1.0, -2.0]);
        assert_eq!(all[..BLOCK], first);
        assert_eq!(all[BLOCK..], [-1.0, -2.0]);
    }

    #[test]
    fn truncation_forgets_and_forks_are_independent() {
        let mut cache = cache();
        push(&mut cache, &[1.0, 2.0, 3.0]);
        let mut fork = cache.fork();
        cache.truncate(1);
        assert_eq!(push(&mut cache, &[9.0]), [1.0, 9.0]);
        assert_eq!(push(&mut fork, &[4.0]), [1.0, 2.0, 3.0, 4.0]);
    }
}
