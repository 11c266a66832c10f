//! Keys and values as a cache holds them, generic over Burn's `Backend` trait.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, IntDType, Shape, Slice};

use super::super::KvRows;
use super::cast;

/// Body of [`crate::ops::ModelOps::expanded_kv`]: the rows, `d` wide, in `dtype`.
pub fn expanded_kv<B: Backend>(rows: KvRows<B>, d: usize, dtype: DType) -> FloatTensor<B> {
    match rows {
        KvRows::Float(rows) => cast::<B>(rows, dtype),
        KvRows::Int8 { words, scales } => {
            cast::<B>(B::float_mul(codes_of_words::<B>(words, d), scales), dtype)
        }
    }
}

/// Body of [`crate::ops::ModelOps::rows_in_bytes`].
pub fn rows_in_bytes<B: Backend>(rows: FloatTensor<B>) -> (IntTensor<B>, FloatTensor<B>) {
    let rows = cast::<B>(rows, DType::F32);
    let top = B::float_max_dim(B::float_abs(rows.clone()), 3);
    let scales = B::float_div_scalar(top, 127i64.into());
    let least = f64::from(f32::MIN_POSITIVE);
    let codes = B::float_div(rows, B::float_clamp_min(scales.clone(), least.into()));
    (words_of_codes::<B>(B::float_round(codes)), scales)
}

/// Integral floats in -127..=127, `[b, g, t, d]`, to words `[b, g, t, ceil(d / 4)]`.
fn words_of_codes<B: Backend>(codes: FloatTensor<B>) -> IntTensor<B> {
    let ([b, g, t, d], device) = (codes.shape().dims(), codes.device());
    let width = d.div_ceil(4);
    let codes = match 4 * width - d {
        0 => codes,
        gap => {
            let zeros = B::float_zeros(Shape::new([b, g, t, gap]), &device, FloatDType::F32);
            B::float_cat(vec![codes, zeros], 3)
        }
    };
    let codes = B::float_into_int(codes, IntDType::I32);
    let codes = B::int_reshape(codes, Shape::new([b, g, t, width, 4]));
    let byte = |i: i64| {
        let (full, place) = (Slice::from(..), Slice::from(i as isize..i as isize + 1));
        let code = B::int_slice(codes.clone(), &[full, full, full, full, place]);
        let code = B::int_reshape(code, Shape::new([b, g, t, width]));
        // The highest byte keeps its sign, which is that of the word.
        let code = if i == 3 { code } else { B::bitwise_and_scalar(code, 255i64.into()) };
        B::bitwise_left_shift_scalar(code, (8 * i).into())
    };
    (1..4).fold(byte(0), |word, i| B::bitwise_or(word, byte(i)))
}

/// `[b, g, t, ceil(d / 4)]` words to `[b, g, t, d]` codes in f32.
fn codes_of_words<B: Backend>(words: IntTensor<B>, d: usize) -> FloatTensor<B> {
    let [b, g, t, width] = words.shape().dims();
    // Flipping the sign bit of a byte adds 128. No step leaves 32 bits: ndarray refuses what does.
    let byte = |i: i64| {
        let byte = B::bitwise_right_shift_scalar(words.clone(), (8 * i).into());
        let byte = B::bitwise_and_scalar(byte, 255i64.into());
        let code = B::int_sub_scalar(B::bitwise_xor_scalar(byte, 128i64.into()), 128i64.into());
        let code = B::int_into_float(code, FloatDType::F32);
        B::float_reshape(code, Shape::new([b, g, t, width, 1]))
    };
    let codes = B::float_cat((0..4).map(byte).collect(), 4);
    let codes = B::float_reshape(codes, Shape::new([b, g, t, 4 * width]));
    if d == 4 * width {
        return codes;
    }
    let full = Slice::from(..);
    B::float_slice(codes, &[full, full, full, Slice::from(0..d as isize)])
}
