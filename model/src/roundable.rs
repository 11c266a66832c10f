//! The weights of a model that may be rounded.

use burn::module::Param;
use burn::tensor::Tensor;
use qwen3_vl_backends::quant::QuantScheme;

use crate::experts::Streamed;
use crate::lora::{Layers, layers};
use crate::model::Qwen3VlModel;
use crate::stack::Stack;
use crate::weight::{Quantised, Weight};

/// A weight in its place in a model.
#[derive(Debug)]
pub enum Roundable<'m> {
    /// Of a linear layer or a table.
    Matrix(&'m mut Weight),
    /// Of all experts of a layer.
    Experts(&'m mut Stack),
}

impl Roundable<'_> {
    /// Matrices that lie one after the other.
    pub fn matrices(&self) -> usize {
        match self {
            Self::Matrix(_) => 1,
            Self::Experts(stack) => stack.shape()[0],
        }
    }

    /// Whether it is no weight of experts.
    pub fn is_matrix(&self) -> bool {
        matches!(self, Self::Matrix(_))
    }

    /// `[out, in]` of all matrices as one; nothing is allocated.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Matrix(weight) => weight.shape(),
            Self::Experts(stack) => {
                let [experts, outputs, inputs] = stack.shape();
                [experts * outputs, inputs]
            }
        }
    }

    /// How it is rounded, if it is.
    pub fn scheme(&self) -> Option<QuantScheme> {
        match self {
            Self::Matrix(weight) => weight.scheme(),
            Self::Experts(stack) => stack.scheme(),
        }
    }

    /// The numbers themselves, all matrices as one; rounded ones are expanded to f32.
    pub fn values(&self) -> Tensor<2> {
        match self {
            Self::Matrix(weight) => weight.values(),
            Self::Experts(stack) => stack.values().reshape(self.shape()),
        }
    }

    /// Puts a rounded weight of the same shape in its place.
    pub fn round(&mut self, rounded: Quantised) {
        let matrices = self.matrices();
        match self {
            Self::Matrix(weight) => **weight = Weight::Quantised(rounded),
            Self::Experts(stack) => **stack = Stack::Quantised(rounded.stacked(matrices)),
        }
    }

    /// Puts its rows in blocks in its place.
    ///
    /// # Panics
    /// Where it is one of experts, or has another shape.
    pub fn split(&mut self, blocks: Vec<Weight>) {
        let Self::Matrix(weight) = self else { panic!("experts are not split") };
        let split = Weight::of_blocks(blocks);
        assert_eq!(split.shape(), weight.shape(), "blocks of a weight");
        **weight = split;
    }

    /// Leaves the weights of experts on the host.
    ///
    /// # Panics
    /// Where it is none of experts, or has another shape.
    pub fn stream(&mut self, streamed: Streamed) {
        let Self::Experts(stack) = self else { panic!("experts alone can stay on the host") };
        assert_eq!(streamed.shape(), stack.shape(), "experts on the host");
        **stack = Stack::Streamed(streamed);
    }

    /// Puts the numbers themselves in the place of a rounded weight.
    pub fn expand(&mut self) {
        match self {
            Self::Matrix(weight) => **weight = weight.expanded(),
            Self::Experts(stack) => **stack = Stack::Dense(Param::from_tensor(stack.values())),
        }
    }
}

impl Qwen3VlModel {
    /// The weights that may be rounded, by path of the parameter: those of [`Self::linears_mut`], of experts, the embedding,
    /// and the head where it has a weight of its own.
    pub fn roundable_mut(&mut self) -> Vec<(String, Roundable<'_>)> {
        let text = &mut self.language_model;
        let Layers { linears, experts } = layers(&mut self.visual, &mut text.layers);
        let matrix = |path: &str, weight| (format!("{path}.weight"), Roundable::Matrix(weight));
        let mut found: Vec<(String, Roundable<'_>)> =
            linears.into_iter().map(|(path, linear)| matrix(&path, &mut linear.weight)).collect();
        found.extend(experts.into_iter().map(|(path, stack)| (path, Roundable::Experts(stack))));
        found.push(matrix("language_model.embed_tokens", &mut text.embed_tokens.weight));
        found.extend(self.lm_head.as_mut().map(|head| matrix("lm_head", &mut head.weight)));
        found
    }
}
