//! Rounded weights: computed alike on every CPU device, and near the reference.

mod common;

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::{LoadOptions, Qwen3Vl};
use serde_json::Value;

fn options(device: &str, quant: Option<&str>) -> LoadOptions {
    LoadOptions {
        device: Some(device.to_owned()),
        dtype: "f32".parse().unwrap(),
        quant: quant.map(|scheme| scheme.parse().unwrap()),
        ..LoadOptions::default()
    }
}

fn load(folder: &Path, device: &str, quant: Option<&str>) -> Result<Qwen3Vl, String> {
    Qwen3Vl::load(folder.to_str().unwrap(), options(device, quant)).map_err(|e| e.to_string())
}

fn fixture(model: &str) -> PathBuf {
    common::fixtures().join(model)
}

/// The logits of a prompt with two pictures.
fn logits(model: &Qwen3VlModel, name: &str) -> Vec<f32> {
    let inputs = common::two_images(model, name);
    let mut probe = qwen3_vl::model::probe::Probe::off();
    let mut prompt = model.prepare(&inputs, &mut probe).unwrap();
    let (rows, mut cache) = (0..inputs.ids.len(), model.new_cache());
    let hidden = model.prefill(&mut prompt, rows, &mut cache, &mut probe);
    let next = model.decode(&[(7, 900)], &mut [&mut cache]);
    let all = [model.logits(hidden), next]
        .map(|logits| logits.into_data().convert_dtype(DType::F32).try_to_vec::<f32>().unwrap());
    all.concat()
}

/// Flex rounds the activations of few rows too, and ndarray takes the reference body.
#[test]
fn the_cpu_backends_agree() {
    if common::cpu_devices().len() < 2 {
        println!("skipped: only one CPU backend is compiled in");
        return;
    }
    for model in ["dense_tied", "moe"] {
        for scheme in ["int8", "int4"] {
            let of = |device| {
                logits(load(&fixture(model), device, Some(scheme)).unwrap().model(), model)
            };
            let (a, b) = (of("flex"), of("ndarray"));
            let dot =
                |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
            assert!(cosine > 0.999, "{model} {scheme}: {cosine}");
        }
    }
}

/// Side paths of LoRA lie beside rounded weights as beside others.
#[test]
fn adapters_go_on_rounded_weights() {
    for adapter in ["plain", "rslora"] {
        let adapter = common::fixtures().join("adapters").join(adapter);
        let config = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let name = config["base_model_name_or_path"].as_str().unwrap();
        let with = |quant| LoadOptions { adapter: Some(adapter.clone()), ..options("flex", quant) };
        let load = |options| Qwen3Vl::load(fixture(name).to_str().unwrap(), options).unwrap();
        let whole = load(with(None));
        let rounded = load(with(Some("int8")));
        let bare = load(options("flex", Some("int8")));
        let of = |loaded: &Qwen3Vl| logits(loaded.model(), name);
        let far =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let (whole, rounded, bare) = (of(&whole), of(&rounded), of(&bare));
        assert!(far(&rounded, &whole) < 0.2 * far(&rounded, &bare), "the adapter has no effect");
    }
}
