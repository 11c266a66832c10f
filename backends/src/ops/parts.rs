//! Several tensors as one argument of an operation: keys and values in parts, and codes with their scales.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType,
};
use burn::tensor::{Int, Tensor};

use crate::quant::QuantScheme;

/// Keys, or values, `[b, g, t, d]` of consecutive positions, as a cache holds them.
#[derive(Debug, Clone, ExtensionType)]
pub enum KvRows<B: Backend> {
    /// In any float dtype.
    Float(FloatTensor<B>),
    /// Signed bytes, four to a word of 32 bits with the first in the lowest byte, `[b, g, t, ceil(d / 4)]`, where zeros are behind
    /// the last of a row; and what the bytes of each row are multiplied by, `[b, g, t, 1]` in f32.
    Int8 { words: IntTensor<B>, scales: FloatTensor<B> },
}

impl KvRows<Dispatch> {
    /// Bytes in words, and their scales.
    pub fn int8(words: Tensor<4, Int>, scales: Tensor<4>) -> Self {
        Self::Int8 { words: words.into_dispatch(), scales: scales.into_dispatch() }
    }
}

impl From<Tensor<4>> for KvRows<Dispatch> {
    fn from(rows: Tensor<4>) -> Self {
        Self::Float(rows.into_dispatch())
    }
}

/// Keys and values of consecutive positions; each of `keys` belongs to that of `values` with the same index, and there is at least
/// one.
#[derive(Debug, Clone)]
pub struct Parts<B: Backend> {
    pub keys: Vec<KvRows<B>>,
    pub values: Vec<KvRows<B>>,
}

impl<B: Backend> Parts<B> {
    /// Of floats.
    pub fn floats(keys: Vec<FloatTensor<B>>, values: Vec<FloatTensor<B>>) -> Self {
        let list = |all: Vec<_>| all.into_iter().map(KvRows::Float).collect();
        Self { keys: list(keys), values: list(values) }
    }
}

/// By hand, as the derive knows no lists.
impl<B: Backend> ExtensionType<B> for Parts<B> {
    type Target = Parts<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |rows: KvRows<B>| rows.map_to_dispatch(&map_kind, autodiff);
        Parts {
            keys: self.keys.into_iter().map(wrap).collect(),
            values: self.values.into_iter().map(wrap).collect(),
        }
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        let unwrap = |rows| KvRows::map_from_dispatch(rows, &unwrap_kind);
        Self {
            keys: target.keys.into_iter().map(unwrap).collect(),
            values: target.values.into_iter().map(unwrap).collect(),
        }
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.keys.first().and_then(<KvRows<B> as ExtensionType<B>>::routing_tensor)
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.keys.first().and_then(<KvRows<B> as ExtensionType<B>>::routing_float_tensor)
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let all = target.keys.iter().chain(&target.values);
        let all = all.map(<KvRows<B> as ExtensionType<B>>::autodiff_context);
        all.fold(DispatchAutodiffContext::Disabled, DispatchAutodiffContext::merge)
    }
}

/// Matrices of experts that were rounded: `codes [experts, n, ..]` and `scales [experts, n, ..]`, as
/// [`super::linear_quantised`] takes those of one; or one matrix, without the first axis.
#[derive(Debug, Clone, ExtensionType)]
pub struct RoundedStack<B: Backend> {
    pub codes: IntTensor<B>,
    pub scales: FloatTensor<B>,
    pub scheme: QuantScheme,
}

impl RoundedStack<Dispatch> {
    /// Of tensors: with three axes of experts, with two of one matrix.
    pub fn new<const D: usize>(
        codes: Tensor<D, Int>,
        scales: Tensor<D>,
        scheme: QuantScheme,
    ) -> Self {
        Self { codes: codes.into_dispatch(), scales: scales.into_dispatch(), scheme }
    }
}
