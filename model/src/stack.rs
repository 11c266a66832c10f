//! The weights of the experts of a layer: as they were trained, rounded to a few bits, or left on the host.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::tensor::{Device, Tensor};
use qwen3_vl_backends::ops::{self, Share};
use qwen3_vl_backends::quant::QuantScheme;

use crate::experts::Streamed;
use crate::weight::{Quantised, module_of_either};

/// The matrices of all experts of a layer, which have one shape. As a module it is what it holds, like
/// [`Weight`](crate::weight::Weight).
#[derive(Debug, Clone)]
pub enum Stack {
    /// `[experts, out, in]`.
    Dense(Param<Tensor<3>>),
    /// One matrix after the other.
    Quantised(Quantised),
    /// On the host, and some of them on the device.
    Streamed(Streamed),
}

module_of_either!(Stack: Dense, Quantised, Streamed);

impl Stack {
    /// `[experts, out, in]`; nothing is allocated.
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Dense(weight) => weight.lazy_shape().dims(),
            Self::Quantised(weight) => weight.shape_of_matrices(),
            Self::Streamed(weight) => weight.shape(),
        }
    }

    /// How it is rounded, if it is.
    pub fn scheme(&self) -> Option<QuantScheme> {
        match self {
            Self::Dense(_) => None,
            Self::Quantised(weight) => Some(weight.scheme()),
            Self::Streamed(weight) => weight.scheme(),
        }
    }

    /// The numbers themselves, `[experts, out, in]`; rounded ones are expanded to f32.
    pub fn values(&self) -> Tensor<3> {
        match self {
            Self::Dense(weight) => weight.val(),
            Self::Quantised(weight) => weight.values().reshape(self.shape()),
            Self::Streamed(weight) => weight.values(),
        }
    }

    /// `x [n, in] -> [n, out]` in the dtype of `x`: each share of rows times the matrix of its expert.
    pub fn product(&self, x: Tensor<2>, shares: Vec<Share>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => ops::linear_of_experts(x, weight.val(), shares),
            Self::Quantised(weight) => weight.product_in_shares(x, shares),
            Self::Streamed(weight) => weight.product(x, &shares),
        }
    }
}
