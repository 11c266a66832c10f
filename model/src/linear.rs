//! `y = x·Wᵀ + b` with the weight in Hugging Face's order.

use burn::backend::Dispatch;
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use qwen3_vl_backends::ops::{self, RoundedStack};

use crate::init::Init;
use crate::lora::Lora;
use crate::weight::Weight;

/// HF `nn.Linear`: weight `[out, in]`, optional bias `[out]`; with a side path, peft's `Linear`.
#[derive(Module, Debug)]
pub struct Linear {
    pub weight: Weight,
    pub bias: Option<Param<Tensor<1>>>,
    pub lora: Option<Lora>,
}

impl Linear {
    /// A layer without bias.
    pub fn new(inputs: usize, outputs: usize, init: &Init) -> Self {
        let weight = Weight::Dense(init.normal([outputs, inputs]));
        Self { weight, bias: None, lora: None }
    }

    /// A layer with bias.
    pub fn with_bias(inputs: usize, outputs: usize, init: &Init) -> Self {
        Self { bias: Some(init.zeros([outputs])), ..Self::new(inputs, outputs, init) }
    }

    /// `x [n, in] -> [n, out]` in the dtype of `x`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.lora {
            Some(lora) => {
                let y = self.whole(x.clone());
                let dtype = y.dtype();
                y + lora.forward(x).cast(dtype)
            }
            None => self.whole(x),
        }
    }

    /// What three layers make of the same `x`; rounded weights are multiplied together.
    pub(crate) fn forward_thrice(layers: [&Self; 3], x: Tensor<2>) -> [Tensor<2>; 3] {
        match layers.map(Self::rounded) {
            [Some(a), Some(b), Some(c)] => ops::linear_quantised_thrice(x, [a, b, c]),
            _ => layers.map(|layer| layer.forward(x.clone())),
        }
    }

    /// `silu(gate(x)) · up(x)`; rounded weights are multiplied together.
    pub(crate) fn gated(gate: &Self, up: &Self, x: Tensor<2>) -> Tensor<2> {
        match [gate, up].map(Self::rounded) {
            [Some(gate), Some(up)] => ops::gated_quantised(x, gate, up),
            _ => ops::swiglu(gate.forward(x.clone()), up.forward(x)),
        }
    }

    /// The weight, where it is rounded and all that the layer has.
    fn rounded(&self) -> Option<RoundedStack<Dispatch>> {
        let alone = self.bias.is_none() && self.lora.is_none();
        alone.then(|| self.weight.rounded()).flatten()
    }

    /// The layer without its side path.
    fn whole(&self, x: Tensor<2>) -> Tensor<2> {
        self.weight.product(x, self.bias.as_ref().map(Param::val))
    }

    /// Block `index` of [`Self::merged_weight`], see [`Weight::blocks`].
    ///
    /// # Panics
    /// When there is no such block.
    pub fn merged_block(&self, index: usize) -> Tensor<2> {
        let (before, rest) = self.weight.blocks().split_at(index);
        let first = before.iter().map(|block| block.shape()[0]).sum();
        match &self.lora {
            Some(lora) => {
                let update = lora.update_of(first, rest[0].shape()[0]);
                rest[0].values().cast(DType::F32) + update.cast(DType::F32)
            }
            None => rest[0].values(),
        }
    }

    /// The weight with the side path in it, in f32; as it is where there is none.
    pub fn merged_weight(&self) -> Tensor<2> {
        match &self.lora {
            Some(lora) => self.weight.values().cast(DType::F32) + lora.update().cast(DType::F32),
            None => self.weight.values(),
        }
    }
}
