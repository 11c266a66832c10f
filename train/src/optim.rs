//! AdamW and Muon in f32 with clipping by the norm of all gradients together.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::Tensor;
use qwen3_vl_backends::ops::update::{AdamWStep, adamw};
use qwen3_vl_model::Qwen3VlModel;

use crate::config::{Optimizer, OptimizerKind, Rates};
use crate::gradients::ModelGradients;
use crate::groups::{Group, Parameter};
use crate::muon;

/// Moments of one parameter, flat and in f32.
#[derive(Debug, Clone)]
pub struct Moments {
    pub first: Tensor<1>,
    /// Muon has none.
    pub second: Option<Tensor<1>>,
    /// Updates so far; a parameter that a step does not reach is not updated.
    pub updates: u64,
}

/// How one parameter is trained.
#[derive(Debug, Clone, Copy)]
struct Setting {
    /// Highest rate.
    rate: f64,
    /// Weight decay.
    decay: f64,
    /// Matrices that lie below each other in it, where Muon moves it.
    muon: Option<usize>,
}

/// AdamW, or Muon beside it, over the trained parameters of a model.
#[derive(Debug)]
pub struct ModelOptimizer {
    options: Optimizer,
    settings: HashMap<ParamId, Setting>,
    pub(crate) moments: BTreeMap<ParamId, Moments>,
}

impl ModelOptimizer {
    /// An optimiser for `trained` without moments.
    pub fn new(options: Optimizer, rates: &Rates, trained: &[Parameter]) -> Self {
        let setting = |parameter: &Parameter| {
            let decay = if parameter.decays() { options.weight_decay } else { 0.0 };
            let muon = muon_matrices(&options, parameter);
            (parameter.id, Setting { rate: rates.of_parameter(parameter), decay, muon })
        };
        let settings = trained.iter().map(setting).collect();
        Self { options, settings, moments: BTreeMap::new() }
    }

    /// Whether a parameter has no second moment.
    pub(crate) fn has_one_moment(&self, id: ParamId) -> bool {
        self.settings.get(&id).is_some_and(|setting| setting.muon.is_some())
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

    fn update<const D: usize>(
        &mut self,
        id: ParamId,
        value: Tensor<D>,
        grad: Tensor<1>,
        (factor, grad_scale): (f64, f64),
    ) -> Tensor<D> {
        let Setting { rate, decay, muon } = self.settings[&id];
        let rate = rate * factor;
        let before = self.moments.remove(&id).unwrap_or_else(|| Moments {
            first: grad.zeros_like(),
            second: muon.is_none().then(|| grad.zeros_like()),
            updates: 0,
        });
        let shape = value.shape();
        let updates = before.updates + 1;
        let (value, first, second) = match (muon, before.second) {
            (Some(matrices), _) => {
                let step = muon::MuonStep {
                    momentum: self.options.momentum,
                    rate,
                    decay: rate * decay,
                    grad_scale,
                    matrices,
                };
                let value = value.reshape([shape[0], shape[1..].iter().product()]);
                let (value, first) = muon::muon(value, before.first, grad, step);
                (value.reshape(shape), first, None)
            }
            (None, second) => {
                let second = second.unwrap_or_else(|| grad.zeros_like());
                let flat = value.reshape([shape.num_elements()]);
                let step = self.adamw_step(updates, (rate, rate * decay), grad_scale);
                let (value, first, second) = adamw((flat, before.first, second), grad, step);
                (value.reshape(shape), first, Some(second))
            }
        };
        self.moments.insert(id, Moments { first, second, updates });
        value
    }

    fn adamw_step(&self, updates: u64, (rate, decay): (f64, f64), grad_scale: f64) -> AdamWStep {
        let Optimizer { beta1, beta2, epsilon, .. } = self.options;
        let unbiased = |beta: f64| 1.0 - beta.powi(updates.min(1 << 30) as i32);
        AdamWStep {
            beta1,
            beta2,
            epsilon,
            rate: rate / unbiased(beta1),
            root: unbiased(beta2).powf(-0.5),
            decay,
            grad_scale,
        }
    }
}

/// As [`matrices`], where the run has Muon; such a parameter has one moment, every other has two.
pub(crate) fn muon_matrices(options: &Optimizer, parameter: &Parameter) -> Option<usize> {
    (options.kind == OptimizerKind::Muon).then(|| matrices(parameter)).flatten()
}

/// How many matrices one parameter holds for Muon; `None` for what AdamW moves: vectors, tables of embeddings and
/// positions, the head and the first layer on pixels (Jordan et al. 2024 give these to Adam), and the narrow pairs of LoRA.
fn matrices(parameter: &Parameter) -> Option<usize> {
    let path = &parameter.path;
    let table = path.contains("embed") || matches!(parameter.group, Group::Embed | Group::Head);
    if parameter.shape.len() != 2 || table || parameter.is_lora() {
        return None;
    }
    Some(if path.contains("qkv") { 3 } else { 1 })
}

struct Update<'a> {
    optimizer: &'a mut ModelOptimizer,
    gradients: ModelGradients,
    scale: f64,
    factor: f64,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        let Some(grad) = self.gradients.remove(id) else { return param };
        let value = param.into_value().inner();
        let value = self.optimizer.update(id, value, grad, (self.factor, self.scale));
        Param::initialized(id, value.autodiff().require_grad())
    }
}
