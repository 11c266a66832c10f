//! Rows as signed bytes, four to a 32-bit word, so that every backend can hold them.

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};
use qwen3_vl_backends::ops::{KvRows, round_kv};

use super::store::{Room, append_rows};

/// Values of one token and head share a scale.
#[derive(Debug, Clone)]
pub(super) struct Int8Rows {
    /// `[1, heads, capacity, ceil(dim / 4)]`, the first value in the lowest byte.
    words: Tensor<4, Int>,
    /// `[1, heads, capacity, 1]` in f32.
    scales: Tensor<4>,
}

/// `rows` with `new [1, heads, n, dim]` behind the first ones.
pub(super) fn append(rows: Option<Int8Rows>, new: Tensor<4>, room: Room) -> Int8Rows {
    let (old_words, old_scales) = rows.map(|rows| (rows.words, rows.scales)).unzip();
    let (words, scales) = round_kv(new);
    let words = append_rows(old_words, words, room);
    Int8Rows { words, scales: append_rows(old_scales, scales, room) }
}

impl Int8Rows {
    /// Rows that there is memory for.
    pub(super) fn slots(&self) -> usize {
        self.words.dims()[2]
    }

    /// The first rows of each, one after the other, copied.
    pub(super) fn joined(parts: &[(&Self, usize)]) -> Self {
        let words = parts.iter().map(|(rows, length)| rows.words.clone().narrow(2, 0, *length));
        let scales = parts.iter().map(|(rows, length)| rows.scales.clone().narrow(2, 0, *length));
        Self { words: Tensor::cat(words.collect(), 2), scales: Tensor::cat(scales.collect(), 2) }
    }

    /// The first `end` rows, a view.
    pub(super) fn read(&self, end: usize) -> KvRows<Dispatch> {
        KvRows::int8(self.words.clone().narrow(2, 0, end), self.scales.clone().narrow(2, 0, end))
    }
}
