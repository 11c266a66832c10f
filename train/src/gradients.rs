//! Gradients of all trained parameters, flat and in f32.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Gradients, Tensor};
use qwen3_vl_backends::ops::update::sum_of_squares;
use qwen3_vl_model::Qwen3VlModel;

use crate::pass::value;

/// One flat gradient in f32 per trained parameter. A parameter that no sample reached has none.
#[derive(Debug, Default)]
pub struct ModelGradients {
    values: BTreeMap<ParamId, Tensor<1>>,
}

impl ModelGradients {
    /// Adds what a backward pass left on the parameters of `model`.
    pub fn collect(&mut self, model: &Qwen3VlModel, grads: &mut Gradients) {
        model.visit(&mut Collector { into: self, grads });
    }

    /// The gradient of one parameter.
    pub fn get(&self, id: ParamId) -> Option<&Tensor<1>> {
        self.values.get(&id)
    }

    /// Takes the gradient of one parameter out.
    pub fn remove(&mut self, id: ParamId) -> Option<Tensor<1>> {
        self.values.remove(&id)
    }

    /// `sqrt(Σ g²)` over all parameters (torch `clip_grad_norm_`).
    pub fn norm(&self) -> f64 {
        let squares = self.values.values().map(|g| f64::from(value(sum_of_squares(g.clone()))));
        // Ids are random; a sum in the order of size is the same in every process.
        let mut squares: Vec<f64> = squares.collect();
        squares.sort_by(f64::total_cmp);
        squares.iter().sum::<f64>().sqrt()
    }

    fn add(&mut self, id: ParamId, grad: Tensor<1>) {
        let sum = match self.values.remove(&id) {
            Some(before) => before + grad,
            None => grad,
        };
        self.values.insert(id, sum);
    }
}

struct Collector<'a> {
    into: &'a mut ModelGradients,
    grads: &'a mut Gradients,
}

impl ModuleVisitor for Collector<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.is_autodiff() {
            return;
        }
        if let Some(grad) = value.grad_remove(self.grads) {
            let count = grad.shape().num_elements();
            self.into.add(param.id, grad.inner().reshape([count]).cast(DType::F32));
        }
    }
}
