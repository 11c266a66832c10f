//! Experts that stay on the host: the same bits with a few of them on the device as with all, and clear words where it
//! makes no sense. The devices are `ndarray`, which like a card has copies of what it computes with, and cards, whose kernels for
//! all experts together add up in another order than those for one.

mod common;

use std::path::Path;
use std::process::Stdio;

use qwen3_vl::model::experts::ExpertUsage;
use qwen3_vl::weights::Rounding;
use qwen3_vl::weights::export::{QuantizeOptions, quantize_checkpoint};
use qwen3_vl::{LoadOptions, Qwen3Vl};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// A device with memory of its own, as far as this build has one.
fn device() -> Option<String> {
    let found = common::cpu_devices().into_iter().find(|name| name == "ndarray");
    if found.is_none() {
        println!("skipped: ndarray is not compiled in");
    }
    found
}

fn options(device: &str, quant: Option<&str>, expert_memory: Option<u64>) -> LoadOptions {
    LoadOptions {
        device: Some(device.to_owned()),
        quant: quant.map(|scheme| Rounding::new(scheme.parse().unwrap())),
        expert_memory,
        ..LoadOptions::default()
    }
}

fn load(folder: &Path, options: LoadOptions) -> Result<Qwen3Vl, String> {
    Qwen3Vl::load(folder.to_str().unwrap(), options).map_err(|error| error.to_string())
}

fn moe() -> std::path::PathBuf {
    common::fixtures().join("moe")
}

/// The checkpoint `moe` as published files hold it: the last two axes of experts swapped.
fn published() -> tempfile::TempDir {
    let folder = common::copy_of("moe");
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let turned = |(name, view): (String, TensorView<'_>)| {
        let (mut shape, data) = (view.shape().to_vec(), view.data());
        let mut bytes = data.to_vec();
        if name.contains(".experts.") {
            let (a, b) = (shape[1], shape[2]);
            for (at, value) in bytes.chunks_mut(4).enumerate() {
                let (matrix, row, column) = (at / (a * b), at / a % b, at % a);
                let from = (matrix * a * b + column * b + row) * 4;
                value.copy_from_slice(&data[from..from + 4]);
            }
            shape.swap(1, 2);
        }
        (name, view.dtype(), shape, bytes)
    };
    let tensors: Vec<_> = file.tensors().into_iter().map(turned).collect();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    folder
}

fn logits(loaded: &Qwen3Vl) -> Vec<f32> {
    common::logits_of_two_images(loaded.model(), "moe")
}

fn usage(loaded: &Qwen3Vl) -> ExpertUsage {
    loaded.model().expert_usage().unwrap()
}

/// Bytes of the largest matrix of an expert, `[40, 48]`, in f32.
const LARGEST: u64 = 40 * 48 * 4;
/// Of all matrices: six experts in two layers.
const ALL: u64 = 2 * 6 * (40 * 48 + 48 * 20) * 4;

/// The largest difference, as a share of the largest number.
fn far(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.map(f32::abs).fold(0.0, f32::max);
    let size = largest(&mut expected.iter().copied());
    largest(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / size
}

#[test]
fn a_few_experts_on_the_device_compute_the_same_bits_as_all() {
    device().iter().for_each(|device| compare_on(device));
}

/// Bits are those of a device whose experts all came on demand and stayed.
#[test]
fn on_a_card_a_few_experts_compute_the_same_bits_as_many() {
    common::cards().iter().for_each(|card| compare_on(card));
}

fn compare_on(device: &str) {
    let (folder, published) = (tempfile::tempdir().unwrap(), published());
    let rounded = folder.path().join("int4");
    let rounding = Rounding::new("int4".parse().unwrap());
    let how = QuantizeOptions { rounding, max_shard_bytes: 5_000_000_000 };
    quantize_checkpoint(&moe(), &rounded, &how, &mut ()).unwrap();
    for (what, folder, quant) in [
        ("as they are", moe().as_path(), None),
        ("published", published.path(), None),
        ("rounded before", rounded.as_path(), None),
        ("rounded now", moe().as_path(), Some("int8")),
    ] {
        let whole = load(folder, options(device, quant, None)).unwrap();
        assert_eq!(whole.model().expert_usage(), None);
        let mut expected = logits(&whole);
        if common::is_card(device) {
            let many = load(folder, options(device, quant, Some(10 * ALL))).unwrap();
            let found = logits(&many);
            let far = far(&found, &expected);
            assert!(far < 1e-4, "{what} on {device}: {far}");
            expected = found;
        }
        for budget in [LARGEST, 3 * LARGEST + 1, 10 * ALL] {
            let loaded = load(folder, options(device, quant, Some(budget))).unwrap();
            assert!(loaded.report().unexpected.is_empty(), "{what}: {:?}", loaded.report());
            assert_eq!(loaded.scheme(), whole.scheme());
            let per_token = |loaded: &Qwen3Vl| loaded.model().bytes_per_token();
            assert_eq!(per_token(&loaded), per_token(&whole), "{what}");
            assert_eq!(usage(&loaded), ExpertUsage { budget, ..ExpertUsage::default() });
            assert!(logits(&loaded) == expected, "{what} with {budget} bytes");
            let after = usage(&loaded);
            assert!(after.held <= budget && after.held > 0, "{what}: {after:?}");
            assert!(after.misses > 0 && after.uploaded >= after.held, "{what}: {after:?}");
            assert!(!after.uploading.is_zero(), "{what}: {after:?}");
            // Prompt and one step more: with room for all, nothing is uploaded twice.
            match budget > ALL {
                true => {
                    assert!(after.hits > 0 && after.misses <= 24, "{what}: {after:?}");
                    assert_eq!(after.uploaded, after.held, "{what}");
                    assert!(logits(&loaded) == expected, "{what}, again");
                    assert_eq!(usage(&loaded).misses, after.misses, "{what}, again");
                }
                false => assert!(after.uploaded > after.held, "{what}: {after:?}"),
            }
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let message = |model: &str, device: &str, budget| {
        let loaded = load(&common::fixtures().join(model), options(device, None, Some(budget)));
        loaded.map(|_| ()).unwrap_err()
    };
    if common::cpu_devices().iter().any(|name| name == "flex") {
        let error = message("moe", "flex", ALL);
        assert!(error.contains("flex") && error.contains("leave --expert-memory out"), "{error}");
    }
    let Some(device) = device() else { return };
    let error = message("dense_tied", &device, ALL);
    assert!(error.contains("no experts"), "{error}");
    let error = message("moe", &device, LARGEST - 1);
    assert!(error.contains("7680 bytes") && error.contains("7679"), "{error}");
    assert!(error.contains("experts.gate_up_proj"), "{error}");
}

/// Exit code, standard output and standard error.
fn program(device: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = common::program(device).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_program_counts_what_it_uploads_and_plans_for_it() {
    let Some(device) = device() else { return };
    let model = moe();
    let model = model.to_str().unwrap();
    let done = |arguments: &[&str]| {
        let (code, said, errors) = program(&device, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {errors}");
        said
    };
    let json = |arguments: &[&str]| serde_json::from_str::<Value>(&done(arguments)).unwrap();
    let ask = ["run", model, "-p", "Say hello.", "-n", "6", "--greedy", "--json"];
    let ids = |arguments: &[&str]| json(arguments)["token_ids"].clone();
    assert_eq!(ids(&[&ask[..], &["--expert-memory", "20KB"]].concat()), ids(&ask));

    let plan = ["plan", model, "-p", "Hi", "--json"];
    let weights = |arguments: &[&str]| json(arguments)["weight_bytes"].as_u64().unwrap();
    let (all, few) = (weights(&plan), weights(&[&plan[..], &["--expert-memory", "20KB"]].concat()));
    assert!((all - few).abs_diff(ALL - 20_000) < 10, "{all} and {few}");

    let bench = [
        "bench", "--shape", model, "-p", "9", "-n", "3", "-r", "1", "--only", "text", "--read",
        "1MB", "--square", "64", "--image", "96x64",
    ];
    let told = json(&[&bench[..], &["--expert-memory", "20KB", "-o", "json"]].concat());
    let experts = |key: &str| told["experts"][key].as_u64().unwrap();
    assert_eq!(experts("budget_bytes"), 20_000);
    assert!(experts("held_bytes") <= 20_000 && experts("misses") > 4, "{}", told["experts"]);
    assert_eq!(told["memory"]["weight_bytes"].as_u64(), Some(few));
    let said = done(&[&bench[..], &["--expert-memory", "20KB"]].concat());
    assert!(said.contains("hits") && said.contains("misses that uploaded"), "{said}");
    let told = json(&[&bench[..], &["-o", "json"]].concat());
    assert_eq!(told["experts"]["hits"], Value::Null);
}

#[test]
fn sizes_that_are_none_are_wrong_usage() {
    let model = moe();
    let run = ["run", model.to_str().unwrap(), "-p", "Hi", "--expert-memory"];
    for size in ["0", "lots", "-1GB", "5XB"] {
        let (code, _, errors) = program("cpu", &[&run[..], &[size]].concat());
        assert_eq!(code, Some(2), "{size}: {errors}");
        assert!(errors.contains("--expert-memory") || errors.contains("-1"), "{size}: {errors}");
    }
    let plan = ["plan", model.to_str().unwrap(), "--device", "flex", "--expert-memory", "1GB"];
    let (code, _, errors) = program("cpu", &plan);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("leave --expert-memory out"), "{errors}");
    for (device, shape, words) in
        [("flex", "30b-a3b", "leave --expert-memory out"), ("cpu", "2b", "no experts")]
    {
        let random = ["bench", "--shape", shape, "--device", device, "--expert-memory", "1GB"];
        let (code, _, errors) = program("cpu", &random);
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains(words), "{errors}");
    }
}

/// A folder with the configuration of `moe` alone gets random experts on the host, dense and rounded, of which no more than the
/// given memory are on the device.
#[test]
fn random_experts_are_uploaded_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(moe().join("config.json"), folder.path().join("config.json")).unwrap();
    let bench = |device: &str, more: &[&str]| {
        let quick = [
            "bench",
            "--shape",
            folder.path().to_str().unwrap(),
            "-p",
            "9",
            "-n",
            "4",
            "-r",
            "2",
            "--only",
            "text",
            "--read",
            "1MB",
            "--square",
            "64",
            "--image",
            "96x64",
        ];
        let (code, said, errors) = program(device, &[&quick[..], more].concat());
        assert_eq!(code, Some(0), "{more:?} on {device}: {errors}");
        said
    };
    let devices = device().into_iter().chain(common::cards());
    for device in devices {
        for quant in [
            &["--dtype", "f32"][..],
            &["--dtype", "f32", "--quant", "int8"],
            &["--dtype", "f32", "--quant", "int4"],
        ] {
            let json = ["-o", "json", "--expert-memory", "10KB"];
            let told = bench(&device, &[quant, &json].concat());
            let told: Value = serde_json::from_str(&told).unwrap();
            assert_eq!(told["model"]["random"], true);
            let experts = |key: &str| {
                let found = &told["experts"][key];
                found.as_f64().unwrap_or_else(|| panic!("{key} on {device}: {told}"))
            };
            assert_eq!(experts("budget_bytes"), 10_000.0);
            let held = experts("held_bytes");
            assert!(held > 0.0 && held <= 10_000.0, "{quant:?} on {device}: {told}");
            for key in [
                "misses",
                "uploaded_bytes",
                "upload_s",
                "upload_bytes_per_s",
                "answer_misses",
                "answer_uploaded_bytes",
                "answer_upload_ms",
            ] {
                assert!(experts(key) > 0.0, "{key} with {quant:?} on {device}: {told}");
            }
            let (per_second, seconds) = (experts("upload_bytes_per_s"), experts("upload_s"));
            let bytes = experts("uploaded_bytes");
            assert!((per_second * seconds - bytes).abs() < 1e-6 * bytes, "{told}");
            for key in ["hits", "hit_share", "wait_s", "answer_hits", "answer_wait_ms"] {
                assert!(experts(key) >= 0.0, "{key} with {quant:?} on {device}: {told}");
            }
        }
    }
    let Some(device) = device() else { return };
    let few = ["--dtype", "f32", "--expert-memory", "10KB"];
    let table = bench(&device, &few);
    for words in [
        "hits",
        "misses that uploaded",
        "GB/s; waited",
        "experts of a token",
        "one layer for all layers",
    ] {
        assert!(table.contains(words), "{words} in {table}");
    }
    let csv = bench(&device, &[&few[..], &["-o", "csv"]].concat());
    assert!(csv.contains("\nexperts.upload_bytes_per_s,") && csv.contains("\nexperts.wait_s,"));
    let all = ["--dtype", "f32", "--expert-memory", "1GB", "-o", "json"];
    let told: Value = serde_json::from_str(&bench(&device, &all)).unwrap();
    assert_eq!(told["experts"]["held_bytes"], told["experts"]["uploaded_bytes"]);
}
