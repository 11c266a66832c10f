//! Products with rounded weights.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{DType, FloatDType, Shape, TensorData};

use super::{by_shares, cast, columns, linear, one};
use crate::ops::{ModelOps, RoundedStack, Share};
use crate::quant::{Codes, OFFSET_OF_FOUR, QuantScheme, float8};

/// Body of [`ModelOps::linear_of_codes`]: expands the weight, and multiplies.
pub fn linear_of_codes<B: ModelOps>(
    x: FloatTensor<B>,
    codes: IntTensor<B>,
    scales: FloatTensor<B>,
    scheme: QuantScheme,
) -> FloatTensor<B> {
    let inputs = x.shape()[1];
    linear::<B>(x, expanded::<B>(codes, scales, scheme, inputs))
}

/// Body of [`ModelOps::linear_of_three_codes`].
pub fn linear_of_three_codes<B: ModelOps>(
    x: FloatTensor<B>,
    weights: [RoundedStack<B>; 3],
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [a, b, c] = weights.map(|w| B::linear_of_codes(x.clone(), w.codes, w.scales, w.scheme));
    (a, b, c)
}

/// Body of [`ModelOps::gated_of_codes`].
pub fn gated_of_codes<B: ModelOps>(
    x: FloatTensor<B>,
    gate: RoundedStack<B>,
    up: RoundedStack<B>,
) -> FloatTensor<B> {
    let [gate, up] = [gate, up].map(|w| B::linear_of_codes(x.clone(), w.codes, w.scales, w.scheme));
    B::gated_silu(gate, up)
}

/// Body of [`ModelOps::linear_of_codes_in_shares`]: one product per share.
pub fn linear_of_codes_in_shares<B: ModelOps>(
    x: FloatTensor<B>,
    (codes, scales): (IntTensor<B>, FloatTensor<B>),
    scheme: QuantScheme,
    shares: &[Share],
) -> FloatTensor<B> {
    by_shares::<B>(x, codes.shape()[1], shares, |x, expert| {
        let (codes, scales) = (
            B::int_slice(codes.clone(), &[one(expert)]),
            B::float_slice(scales.clone(), &[one(expert)]),
        );
        let ([_, n, bytes], [_, _, columns]) = (codes.shape().dims(), scales.shape().dims());
        let codes = B::int_reshape(codes, Shape::new([n, bytes]));
        B::linear_of_codes(x, codes, B::float_reshape(scales, Shape::new([n, columns])), scheme)
    })
}

/// The weight `[n, inputs]` that codes, scales and minimums stand for, in f32.
pub fn expanded<B: Backend>(
    codes: IntTensor<B>,
    scales: FloatTensor<B>,
    scheme: QuantScheme,
    inputs: usize,
) -> FloatTensor<B> {
    let (groups, scales) = (scheme.groups(inputs), cast::<B>(scales, DType::F32));
    let values = match (scheme.codes(), scheme.has_minimums()) {
        (Codes::Int8, _) => B::int_into_float(codes, FloatDType::F32),
        (Codes::Float8, _) => numbers_of_float8::<B>(codes),
        (Codes::Int4, true) => halves_of_bytes::<B>(codes),
        (Codes::Int4, false) => {
            B::float_sub_scalar(halves_of_bytes::<B>(codes), f64::from(OFFSET_OF_FOUR).into())
        }
    };
    let of_groups = |first: usize| {
        let part = columns::<B>(scales.clone(), first..first + groups);
        columns::<B>(repeated::<B>(part, scheme.group()), 0..inputs)
    };
    let scaled = B::float_mul(columns::<B>(values, 0..inputs), of_groups(0));
    match scheme.has_minimums() {
        true => B::float_sub(scaled, of_groups(groups)),
        false => scaled,
    }
}

/// Every column of a matrix `count` times.
fn repeated<B: Backend>(x: FloatTensor<B>, count: usize) -> FloatTensor<B> {
    let [rows, width] = x.shape().dims();
    let x = B::float_reshape(x, Shape::new([rows, width, 1]));
    let x = B::float_expand(x, Shape::new([rows, width, count]));
    B::float_reshape(x, Shape::new([rows, width * count]))
}

/// Codes of four bits as they are stored, from 0 to 15: the low half of each byte, then the high one. Integers are not cast, which
/// Burn's remote devices do not do.
fn halves_of_bytes<B: Backend>(codes: IntTensor<B>) -> FloatTensor<B> {
    let [rows, bytes] = codes.shape().dims();
    let whole = B::int_into_float(codes, FloatDType::F32);
    let high = B::float_floor(B::float_mul_scalar(whole.clone(), (1.0 / 16.0).into()));
    let low = B::float_sub(whole, B::float_mul_scalar(high.clone(), 16.0.into()));
    let column = |half| B::float_reshape(half, Shape::new([rows, bytes, 1]));
    let both = B::float_cat(vec![column(low), column(high)], 2);
    B::float_reshape(both, Shape::new([rows, 2 * bytes]))
}

/// The numbers that E4M3 codes stand for, from a table.
fn numbers_of_float8<B: Backend>(codes: IntTensor<B>) -> FloatTensor<B> {
    let (device, shape) = (codes.device(), codes.shape());
    let settings = get_or_init_device_settings::<B>(&device);
    let table: Vec<f32> = (0..=255).map(float8).collect();
    let table = B::float_from_data(TensorData::new(table, [256]), &device);
    let places = B::int_into_float(codes, FloatDType::F32);
    let places = B::float_into_int(places, settings.int_dtype);
    let places = B::int_reshape(places, Shape::new([shape.num_elements()]));
    B::float_reshape(B::float_select(table, 0, places), shape)
}
