//! Several tensors as one argument of an operation: keys and values in parts, and codes with their scales.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType,
};
use burn::tensor::{Int, Tensor};

use crate::quant::QuantScheme;

/// Keys and values `[b, g, t, d]` of consecutive positions; each tensor of `keys` belongs to that of `values` with the same
/// index, and there is at least one.
#[derive(Debug, Clone)]
pub struct Parts<B: Backend> {
    pub keys: Vec<FloatTensor<B>>,
    pub values: Vec<FloatTensor<B>>,
}

/// By hand, as the derive knows no lists.
impl<B: Backend> ExtensionType<B> for Parts<B> {
    type Target = Parts<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |tensor| {
            let kind = map_kind(BackendTensor::Float(tensor));
            DispatchTensor { kind, autodiff }
        };
        Parts {
            keys: self.keys.into_iter().map(wrap).collect(),
            values: self.values.into_iter().map(wrap).collect(),
        }
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        let unwrap = |tensor| unwrap_kind(tensor).float();
        Self {
            keys: target.keys.into_iter().map(unwrap).collect(),
            values: target.values.into_iter().map(unwrap).collect(),
        }
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.keys.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.keys.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let all = target.keys.iter().chain(&target.values).map(|tensor| tensor.autodiff);
        all.fold(DispatchAutodiffContext::Disabled, DispatchAutodiffContext::merge)
    }
}

/// Matrices of experts that were rounded: `codes [experts, n, ..]` and `scales [experts, n, ..]`, as
/// [`super::linear_quantised`] takes those of one.
#[derive(Debug, Clone, ExtensionType)]
pub struct RoundedStack<B: Backend> {
    pub codes: IntTensor<B>,
    pub scales: FloatTensor<B>,
    pub scheme: QuantScheme,
}

impl RoundedStack<Dispatch> {
    /// Of tensors.
    pub fn new(codes: Tensor<3, Int>, scales: Tensor<3>, scheme: QuantScheme) -> Self {
        Self { codes: codes.into_dispatch(), scales: scales.into_dispatch(), scheme }
    }
}
