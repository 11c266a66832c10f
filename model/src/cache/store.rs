//! What keys or values of consecutive tokens are kept in.

use burn::backend::Dispatch;
use burn::tensor::kind::Basic;
use burn::tensor::{DType, Tensor};
use qwen3_vl_backends::ops::{KvRows, keep_kv};

use super::BLOCK;
use super::dtype::KvDtype;
use super::int8::{self, Int8Rows};

/// What the rows of a cache are.
#[derive(Debug, Clone)]
pub(super) struct RowShape {
    pub(super) head_dim: usize,
    pub(super) compute: DType,
    pub(super) storage: KvDtype,
}

impl RowShape {
    fn float(&self) -> DType {
        match self.storage {
            KvDtype::Float(dtype) => dtype,
            KvDtype::Auto | KvDtype::Int8 => self.compute,
        }
    }
}

/// Keys and values of one layer; absent until the first token.
#[derive(Debug, Clone, Default)]
pub(super) struct LayerRows {
    pub(super) keys: Option<Store>,
    pub(super) values: Option<Store>,
}

/// Keys or values of one layer, `[1, kv_heads, capacity, ..]`.
#[derive(Debug, Clone)]
pub(super) enum Store {
    /// `[.., head_dim]`.
    Float(Box<Tensor<4>>),
    Int8(Box<Int8Rows>),
}

/// Where rows are written: behind the first `at`, and the most that there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) at: usize,
    pub(super) most: usize,
}

impl Store {
    /// Rows that there is memory for.
    pub(super) fn slots(&self) -> usize {
        match self {
            Self::Float(tensor) => tensor.dims()[2],
            Self::Int8(rows) => rows.slots(),
        }
    }

    /// The first `length` rows as they are stored, a view.
    pub(super) fn read(&self, length: usize) -> KvRows<Dispatch> {
        match self {
            Self::Float(tensor) => (**tensor).clone().narrow(2, 0, length).into(),
            Self::Int8(rows) => rows.read(length),
        }
    }

    /// The first rows of several stores, one after the other, copied.
    pub(super) fn joined(parts: &[(&Self, usize)]) -> Option<Self> {
        let floats = parts.iter().map(|(store, length)| match store {
            Self::Float(tensor) => Some((**tensor).clone().narrow(2, 0, *length)),
            Self::Int8(_) => None,
        });
        let bytes = parts.iter().map(|(store, length)| match store {
            Self::Int8(rows) => Some((&**rows, *length)),
            Self::Float(_) => None,
        });
        match (floats.collect::<Option<Vec<_>>>(), bytes.collect::<Option<Vec<_>>>()) {
            (Some(floats), _) if !floats.is_empty() => {
                Some(Self::Float(Box::new(Tensor::cat(floats, 2))))
            }
            (_, Some(bytes)) if !bytes.is_empty() => {
                Some(Self::Int8(Box::new(Int8Rows::joined(&bytes))))
            }
            _ => None,
        }
    }
}

/// Writes in place where the store is uniquely owned, and returns all rows as they are stored.
pub(super) fn write(
    slot: &mut Option<Store>,
    new: Tensor<4>,
    room: Room,
    shape: &RowShape,
) -> KvRows<Dispatch> {
    let end = room.at + new.dims()[2];
    let store = match (slot.take(), shape.storage) {
        (Some(Store::Int8(rows)), _) => Store::Int8(Box::new(int8::append(Some(*rows), new, room))),
        (None, KvDtype::Int8) => Store::Int8(Box::new(int8::append(None, new, room))),
        (old, _) => {
            let old = old.and_then(|store| match store {
                Store::Float(tensor) => Some(*tensor),
                Store::Int8(_) => None,
            });
            Store::Float(Box::new(append_rows(old, keep_kv(new, shape.float()), room)))
        }
    };
    slot.insert(store).read(end)
}

/// `old` with the rows `new` behind its first ones, made larger in blocks where they do not fit.
pub(super) fn append_rows<K: Basic>(
    old: Option<Tensor<4, K>>,
    new: Tensor<4, K>,
    Room { at, most }: Room,
) -> Tensor<4, K> {
    let [one, heads, rows, width] = new.dims();
    let end = at + rows;
    let capacity = old.as_ref().map_or(0, |t| t.dims()[2]);
    let empty = |slots: usize| {
        let dims = [one, heads, slots.next_multiple_of(BLOCK), width];
        Tensor::<4, K>::empty(dims, (&new.device(), new.dtype()))
    };
    let grown = end.max((capacity + capacity / 2).min(most));
    let room = match old {
        Some(room) if end <= capacity => room,
        Some(room) if at > 0 => {
            empty(grown).slice_assign([0..1, 0..heads, 0..at, 0..width], room.narrow(2, 0, at))
        }
        _ => empty(end),
    };
    room.slice_assign([0..1, 0..heads, at..end, 0..width], new)
}
