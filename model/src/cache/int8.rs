//! Rows as signed bytes, four to a 32-bit word, so that every backend can hold them.

use burn::tensor::{DType, FloatDType, Int, IntDType, Tensor};

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
    let new = new.cast(DType::F32);
    let scales = new.clone().abs().max_dim(3).div_scalar(127.0);
    let codes = (new / scales.clone().clamp_min(f32::MIN_POSITIVE)).round();
    let words = append_rows(old_words, pack(codes), room);
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

    /// The first `end` rows, `[1, heads, end, dim]` in f32.
    pub(super) fn read(&self, end: usize, dim: usize) -> Tensor<4> {
        let words = self.words.clone().narrow(2, 0, end);
        let [one, heads, rows, _] = words.dims();
        // Flipping the sign bit of a byte adds 128. No step leaves 32 bits: ndarray refuses what does.
        let byte = |i: i32| {
            let byte = words.clone().bitwise_right_shift_scalar(8 * i).bitwise_and_scalar(255);
            let code = byte.bitwise_xor_scalar(128).sub_scalar(128);
            code.cast(FloatDType::F32).unsqueeze_dim::<5>(4)
        };
        let codes = Tensor::cat((0..4).map(byte).collect(), 4);
        let codes = codes.reshape([one as i32, heads as i32, rows as i32, -1]);
        codes.narrow(3, 0, dim) * self.scales.clone().narrow(2, 0, end)
    }
}

/// Integral floats in -127..=127, `[.., dim]`, to words `[.., ceil(dim / 4)]`.
fn pack(codes: Tensor<4>) -> Tensor<4, Int> {
    let [one, heads, rows, dim] = codes.dims();
    let words = dim.div_ceil(4);
    let codes = match words * 4 - dim {
        0 => codes,
        gap => {
            let zeros = Tensor::zeros([one, heads, rows, gap], (&codes.device(), DType::F32));
            Tensor::cat(vec![codes, zeros], 3)
        }
    };
    let codes = codes.cast(IntDType::I32).reshape([one, heads, rows, words, 4]);
    let byte = |i: usize| {
        let code = codes.clone().narrow(4, i, 1).squeeze_dim::<4>(4);
        // The highest byte keeps its sign, which is that of the word.
        let code = if i == 3 { code } else { code.bitwise_and_scalar(255) };
        code.bitwise_left_shift_scalar(8 * i as i32)
    };
    (1..4).fold(byte(0), |word, i| word.bitwise_or(byte(i)))
}
