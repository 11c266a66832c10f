//! Rounded weights: computed alike on every CPU device, and near the reference.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::verify::{Divergence, Tolerance, verify};
use qwen3_vl::{LoadOptions, Qwen3Vl};
use serde_json::Value;

const SCHEMES: [&str; 6] =
    ["int8-g32", "int8-g64", "int8-g128", "int4-g32", "int4-g64", "int4-g128"];
/// Prompts of the references: text, pictures, videos.
const CASES: [&str; 5] = ["text", "image", "two_images", "video", "mixed"];

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

/// `None` where the reference has no logits.
fn divergence(loaded: &Qwen3Vl, model: &str, case: &str) -> Option<Divergence> {
    let reference = fixture(model).join(format!("ref_{case}.safetensors"));
    let outcome = verify(loaded.model(), &reference, Tolerance::Cosine(0.0)).unwrap();
    outcome.logits
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

/// Divergences of all prompts of `models` together.
fn quality(models: &[&str], scheme: &str) -> Divergence {
    let mut all = Divergence { rows: 0, mean_kl: 0.0, max_kl: 0.0, top1: 0.0 };
    for model in models {
        let loaded = load(&fixture(model), "flex", Some(scheme)).unwrap();
        for case in CASES {
            let Some(found) = divergence(&loaded, model, case) else { continue };
            let rows = found.rows as f64;
            all.rows += found.rows;
            all.mean_kl += found.mean_kl * rows;
            all.top1 += found.top1 * rows;
            all.max_kl = all.max_kl.max(found.max_kl);
        }
    }
    let rows = all.rows as f64;
    Divergence { mean_kl: all.mean_kl / rows, top1: all.top1 / rows, ..all }
}

/// `cargo test --test quantised -- --nocapture quality` prints the table of the README. In a mixture of experts, small
/// changes send some rows to other experts, so that single rows move far.
#[test]
fn quality_falls_with_the_bits_and_never_below_its_bounds() {
    println!(
        "| weights | dense: mean KL | largest | same token | experts: mean KL | largest | same token |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut means = BTreeMap::new();
    for scheme in SCHEMES {
        let dense = quality(&["dense_tied", "dense_untied", "dense_yarn"], scheme);
        let experts = quality(&["moe"], scheme);
        let columns = [dense, experts]
            .map(|d| format!("{:.1e} | {:.1e} | {:.1} %", d.mean_kl, d.max_kl, 100.0 * d.top1));
        println!("| {scheme} | {} |", columns.join(" | "));
        assert!(dense.rows > 100 && experts.rows > 100, "{} and {} rows", dense.rows, experts.rows);
        means.insert(scheme, (dense, experts));
    }
    for (scheme, (dense, experts)) in &means {
        let (mean, share) = if scheme.starts_with("int8") { (0.01, 0.9) } else { (1.0, 0.5) };
        assert!(dense.mean_kl > 0.0 && dense.mean_kl < mean, "{scheme}: {dense:?}");
        assert!(experts.mean_kl > 0.0 && experts.mean_kl < 2.0 * mean, "{scheme}: {experts:?}");
        assert!(
            dense.top1 > share && experts.top1 > share - 0.1,
            "{scheme}: {dense:?}, {experts:?}"
        );
    }
    let mean = |scheme| means[scheme].0.mean_kl;
    assert!(mean("int8-g128") < mean("int4-g32") && mean("int4-g32") < mean("int4-g128"));
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
