//! AdamW in f32 with clipping by the norm of all gradients together.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::Tensor;
use qwen3_vl_backends::ops::update::{AdamWStep, adamw};
use qwen3_vl_model::Qwen3VlModel;

use crate::config::{Optimizer, Rates};
use crate::gradients::ModelGradients;
use crate::groups::Parameter;

/// Moments of one parameter, flat and in f32.
#[derive(Debug, Clone)]
pub struct Moments {
    pub first: Tensor<1>,
    pub second: Tensor<1>,
    /// Updates so far; a parameter that a step does not reach is not updated.
    pub updates: u64,
}

/// AdamW over the trained parameters of a model.
#[derive(Debug)]
pub struct AdamW {
    options: Optimizer,
    /// Highest rate, and weight decay, of each trained parameter.
    settings: HashMap<ParamId, (f64, f64)>,
    pub(crate) moments: BTreeMap<ParamId, Moments>,
}

impl AdamW {
    /// An optimiser for `trained` without moments.
    pub fn new(options: Optimizer, rates: &Rates, trained: &[Parameter]) -> Self {
        let setting = |parameter: &Parameter| {
            let decay = if parameter.decays() { options.weight_decay } else { 0.0 };
            (parameter.id, (rates.of_parameter(parameter), decay))
        };
        let settings = trained.iter().map(setting).collect();
        Self { options, settings, moments: BTreeMap::new() }
    }

    /// Updates the model. `norm` is that of all `gradients`; `factor` multiplies all rates.
    pub fn step(
        &mut self,
        model: Qwen3VlModel,
        gradients: ModelGradients,
        norm: f64,
        factor: f64,
    ) -> Qwen3VlModel {
        let clip = self.options.clip;
        // torch `clip_grad_norm_` divides by the norm plus 1e-6, and never enlarges.
        let scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        model.map(&mut Update { optimizer: self, gradients, scale, factor })
    }

    fn update(
        &mut self,
        id: ParamId,
        value: Tensor<1>,
        grad: Tensor<1>,
        (factor, grad_scale): (f64, f64),
    ) -> Tensor<1> {
        let Optimizer { beta1, beta2, epsilon, .. } = self.options;
        let (rate, decay) = self.settings[&id];
        let rate = rate * factor;
        let before = self.moments.remove(&id).unwrap_or_else(|| Moments {
            first: grad.zeros_like(),
            second: grad.zeros_like(),
            updates: 0,
        });
        let updates = before.updates + 1;
        let unbiased = |beta: f64| 1.0 - beta.powi(updates.min(1 << 30) as i32);
        let step = AdamWStep {
            beta1,
            beta2,
            epsilon,
            rate: rate / unbiased(beta1),
            root: unbiased(beta2).powf(-0.5),
            decay: rate * decay,
            grad_scale,
        };
        let (value, first, second) = adamw((value, before.first, before.second), grad, step);
        self.moments.insert(id, Moments { first, second, updates });
        value
    }
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: ModelGradients,
    scale: f64,
    factor: f64,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        let Some(grad) = self.gradients.remove(id) else { return param };
        let value = param.into_value().inner();
        let shape = value.shape();
        let flat = value.reshape([shape.num_elements()]);
        let value = self.optimizer.update(id, flat, grad, (self.factor, self.scale));
        Param::initialized(id, value.reshape(shape).autodiff().require_grad())
    }
}
