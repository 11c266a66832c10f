//! Loss and gradients of every parameter against those of transformers, on every device.

mod common;

use std::collections::BTreeMap;

use common::training::two_images;
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::train::gradients::ModelGradients;
use qwen3_vl::train::groups::parameters;
use qwen3_vl::train::pass::{Batch, BatchLoss, PassOptions, backward};
use qwen3_vl::train::trainable::trainable;
use qwen3_vl::verify::Reference;
use qwen3_vl::weights::names::stored_name;

/// HF `router_aux_loss_coef` of the reference.
const ROUTER_AUX: f64 = 0.001;
/// Bound on differences, relative to the largest value of a gradient. The shader language promises less of `tanh` and
/// `exp` than a CPU's mathematics library.
fn bound(device: &str) -> f32 {
    if common::is_card(device) { 5e-3 } else { 1e-4 }
}

/// Values of one gradient that the reference stores.
const SAMPLES: usize = 512;

fn gradients(
    model: &Qwen3VlModel,
    batch: Batch,
    recompute: bool,
) -> (BatchLoss, BTreeMap<String, Vec<f32>>) {
    let mut collected = ModelGradients::default();
    let router_aux = if model.config().text.moe.is_some() { ROUTER_AUX } else { 0.0 };
    let options = PassOptions { scale: 1.0 / batch.targets() as f64, recompute, router_aux };
    let loss = backward(model, batch, &options, &mut collected);
    let values = parameters(model).into_iter().filter_map(|parameter| {
        let grad = collected.remove(parameter.id)?;
        let (name, _) = stored_name(&parameter.path).unwrap();
        Some((name, grad.into_data().try_to_vec::<f32>().unwrap()))
    });
    let values = values.collect();
    (loss, values)
}

fn check(name: &str) {
    for device in common::devices() {
        let model = common::load(&common::fixtures().join(name), &device);
        let model = trainable(model.model().clone(), |_| true);
        let (loss, found) = gradients(&model, two_images(&model, name), false);
        let reference =
            Reference::open(&common::fixtures().join(name).join("ref_train.safetensors")).unwrap();
        check_loss(&loss, &reference, name, &device);
        let norms = reference.floats("norms").unwrap().unwrap().values;
        let keys = reference.keys().unwrap();
        let names: Vec<&str> = keys.iter().filter_map(|key| key.strip_prefix("grad.")).collect();
        assert_eq!(names.len(), found.len(), "{name} on {device}: {:?}", found.keys());
        assert_eq!(names.len(), norms.len());
        for (key, norm) in names.into_iter().zip(norms) {
            let samples = reference.floats(&format!("grad.{key}")).unwrap().unwrap().values;
            let found = &found[key];
            let largest =
                samples.iter().fold(norm / (found.len() as f32).sqrt(), |a, b| a.max(b.abs()));
            let ours: f64 = found.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let off = (ours - f64::from(norm)).abs();
            assert!(
                off <= f64::from(bound(&device) * norm),
                "{name} on {device}: {key}: norm {ours}, not {norm}"
            );
            let stride = found.len().div_ceil(SAMPLES);
            for (at, (ours, theirs)) in found.iter().step_by(stride).zip(&samples).enumerate() {
                let off = (ours - theirs).abs();
                assert!(
                    off <= bound(&device) * largest,
                    "{name} on {device}: {key}[{at}]: {ours}, not {theirs}"
                );
            }
        }
    }
}

fn check_loss(loss: &BatchLoss, reference: &Reference, name: &str, device: &str) {
    let mean = loss.losses.iter().sum::<f32>() / loss.losses.len() as f32;
    let value = |key| reference.floats(key).unwrap().map(|floats| floats.values[0]);
    let mut total = mean;
    if let Some(expected) = value("aux_loss") {
        let aux = loss.router_aux.expect("an expert model has a load-balancing loss");
        assert!((aux - expected).abs() < 1e-5, "{name} on {device}: {aux}, not {expected}");
        total += ROUTER_AUX as f32 * aux;
    }
    let expected = value("loss").unwrap();
    assert!(
        (total - expected).abs() < 1e-6 * expected,
        "{name} on {device}: {total}, not {expected}"
    );
}

#[test]
fn gradients_of_a_tied_model_are_those_of_transformers() {
    check("dense_tied");
}

#[test]
fn gradients_of_an_untied_model_are_those_of_transformers() {
    check("dense_untied");
}

#[test]
fn gradients_of_experts_and_router_are_those_of_transformers() {
    check("moe");
}

#[test]
fn gradients_under_yarn_are_those_of_transformers() {
    check("dense_yarn");
}

/// Running blocks a second time changes nothing but memory.
#[test]
fn recomputed_gradients_are_the_plain_ones() {
    for (name, device) in
        common::MODELS.iter().flat_map(|m| common::cpu_devices().into_iter().map(move |d| (m, d)))
    {
        let model = common::load(&common::fixtures().join(name), &device);
        let model = trainable(model.model().clone(), |_| true);
        let (plain_loss, plain) = gradients(&model, two_images(&model, name), false);
        let (loss, again) = gradients(&model, two_images(&model, name), true);
        for (a, b) in plain_loss.losses.iter().zip(&loss.losses) {
            assert!((a - b).abs() <= 1e-6 * a, "{name} on {device}: {a}, not {b}");
        }
        assert_eq!(plain.len(), again.len());
        for (key, plain) in &plain {
            let largest = plain.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            for (a, b) in plain.iter().zip(&again[key]) {
                assert!((a - b).abs() <= 1e-5 * largest, "{name} on {device}: {key}: {a}, not {b}");
            }
        }
    }
}
