//! Backwards block by block: the forward pass keeps the input of every block and nothing else; each block is then run
//! a second time, from the last to the first, with gradients.
//!
//! For a block `y = f(x)` with the gradient `g` of `y`, the gradients of `Σ y·g` with respect to `x` and the
//! parameters are those of the loss.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Gradients, Tensor};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::packed::PackedPass;
use qwen3_vl_model::probe::Probe;

use crate::gradients::ModelGradients;
use crate::pass::{Balance, BatchLoss, Head, values};

/// The same parameters without gradients; nothing is copied.
pub fn without_gradients(model: &Qwen3VlModel) -> Qwen3VlModel {
    model.clone().map(&mut Plain)
}

struct Plain;

impl ModuleMapper for Plain {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        Param::initialized(id, param.val().inner())
    }
}

/// Inputs of all blocks of one pass.
#[derive(Default)]
struct Inputs {
    /// Input of every vision block, then the output of the last.
    vision: Vec<Tensor<2>>,
    levels: Vec<(usize, Tensor<2>)>,
    /// Input of every text layer, then the output of the last.
    text: Vec<Tensor<2>>,
    deepstack: Vec<Tensor<2>>,
    router: Vec<Tensor<2>>,
}

/// Adds the gradients of a pass to `gradients`.
pub(crate) fn backward(
    model: &Qwen3VlModel,
    pass: &PackedPass,
    head: &Head,
    router_aux: f64,
    gradients: &mut ModelGradients,
) -> BatchLoss {
    let inputs = forward(&without_gradients(model), pass, router_aux > 0.0);
    let balance = Balance::new(model, &inputs.router);
    let aux = balance.as_ref().map(|(balance, logits)| values(balance.loss(logits))[0]);
    let balance = balance.map(|(balance, _)| (balance, router_aux));
    let (losses, grad) = last(model, &inputs, head, gradients);
    let (grad, levels) = text(model, pass, &inputs, grad, balance.as_ref(), gradients);
    vision(model, pass, &inputs, grad, levels, gradients);
    BatchLoss { losses, router_aux: aux }
}

fn forward(model: &Qwen3VlModel, pass: &PackedPass, router: bool) -> Inputs {
    let mut inputs = Inputs::default();
    let mut probe = if router { Probe::router() } else { Probe::off() };
    if let Some(mut x) = pass.patches(model) {
        for index in 0..model.visual.blocks.len() {
            inputs.vision.push(x.clone());
            let taps;
            (x, taps) = pass.vision_block(model, index, x);
            inputs.levels.extend(taps);
        }
        inputs.vision.push(x);
    }
    let last = inputs.vision.last().cloned();
    let features = last.map(|x| pass.features(model, x, inputs.levels.clone()));
    let (mut hidden, deepstack) = pass.embed(model, features);
    inputs.deepstack = deepstack;
    for index in 0..model.language_model.layers.len() {
        inputs.text.push(hidden.clone());
        let level = inputs.deepstack.get(index).cloned();
        hidden = pass.text_layer(model, index, hidden, level, &mut probe);
    }
    inputs.text.push(hidden);
    inputs.router = probe.take_router();
    inputs
}

/// Final norm and head.
fn last(
    model: &Qwen3VlModel,
    inputs: &Inputs,
    head: &Head,
    gradients: &mut ModelGradients,
) -> (Vec<f32>, Tensor<2>) {
    let hidden = tracked(inputs.text.last().expect("the output of the last layer"));
    let losses = head.losses(model, model.language_model.norm.forward(hidden.clone()));
    let mut grads = (losses.clone().sum() * head.scale).backward();
    gradients.collect(model, &mut grads);
    (values(losses), grad_of(&hidden, &mut grads))
}

/// All text layers; returns the gradients of what the first reads and of the DeepStack levels.
fn text(
    model: &Qwen3VlModel,
    pass: &PackedPass,
    inputs: &Inputs,
    mut grad: Tensor<2>,
    balance: Option<&(Balance, f64)>,
    gradients: &mut ModelGradients,
) -> (Tensor<2>, Vec<Tensor<2>>) {
    let mut levels = Vec::new();
    for index in (0..model.language_model.layers.len()).rev() {
        // The level is added to the layer's output, so its gradient is that of the output.
        if index < inputs.deepstack.len() {
            levels.push(grad.clone());
        }
        let hidden = tracked(&inputs.text[index]);
        let mut probe = if balance.is_some() { Probe::router() } else { Probe::off() };
        let out = pass.text_layer(model, index, hidden.clone(), None, &mut probe);
        let mut total = (out * grad).sum();
        let logits = probe.take_router();
        if let (Some((balance, weight)), false) = (balance, logits.is_empty()) {
            total = total + balance.loss(&logits) * *weight;
        }
        let mut grads = total.backward();
        gradients.collect(model, &mut grads);
        grad = grad_of(&hidden, &mut grads);
    }
    levels.reverse();
    (grad, levels)
}

/// Embedding, mergers, vision blocks and patch embedding.
fn vision(
    model: &Qwen3VlModel,
    pass: &PackedPass,
    inputs: &Inputs,
    grad: Tensor<2>,
    levels: Vec<Tensor<2>>,
    gradients: &mut ModelGradients,
) {
    let output = inputs.vision.last().map(tracked);
    let tapped: Vec<_> = inputs.levels.iter().map(|(level, x)| (*level, tracked(x))).collect();
    let features = output.clone().map(|x| pass.features(model, x, tapped.clone()));
    let (hidden, deepstack) = pass.embed(model, features);
    let spread = deepstack.into_iter().zip(levels).map(|(x, g)| (x * g).sum());
    let total = spread.fold((hidden * grad).sum(), |sum, part| sum + part);
    if !total.is_autodiff() {
        return;
    }
    let mut grads = total.backward();
    gradients.collect(model, &mut grads);
    let Some(output) = output else { return };
    let mut grad = grad_of(&output, &mut grads);
    let mut tap_grads: Vec<(usize, Tensor<2>)> =
        tapped.iter().map(|(level, x)| (*level, grad_of(x, &mut grads))).collect();
    for index in (0..model.visual.blocks.len()).rev() {
        let x = tracked(&inputs.vision[index]);
        let (out, taps) = pass.vision_block(model, index, x.clone());
        let mut total = (out * grad).sum();
        for (level, tap) in taps {
            let place = tap_grads.iter().position(|(other, _)| *other == level);
            let (_, grad) = tap_grads.swap_remove(place.expect("every level was tapped once"));
            total = total + (tap * grad).sum();
        }
        let mut grads = total.backward();
        gradients.collect(model, &mut grads);
        grad = grad_of(&x, &mut grads);
    }
    let patches = pass.patches(model).expect("a pass with pictures");
    if patches.is_autodiff() {
        gradients.collect(model, &mut (patches * grad).sum().backward());
    }
}

fn tracked(x: &Tensor<2>) -> Tensor<2> {
    x.clone().autodiff().require_grad()
}

fn grad_of(x: &Tensor<2>, grads: &mut Gradients) -> Tensor<2> {
    match x.grad_remove(grads) {
        Some(grad) => grad.inner(),
        None => x.clone().inner().zeros_like(),
    }
}
