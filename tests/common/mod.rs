//! Shared by the integration tests: fixtures, devices, small checkpoints made from the fixtures.

#![allow(dead_code)] // each test binary uses a part of this

pub mod training;

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use qwen3_vl::backends::device;
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::model::inputs::{ModelInputs, PlaceholderIds};
use qwen3_vl::model::probe::Probe;
use qwen3_vl::verify::Reference;
use qwen3_vl::{LoadOptions, Qwen3Vl};

/// The reference checkpoints.
pub const MODELS: [&str; 4] = ["dense_tied", "dense_untied", "moe", "dense_yarn"];

/// `tests/fixtures`.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// What is tested where it is compiled in and present.
const DEVICES: [&str; 4] = ["ndarray", "flex", "wgpu", "cuda:0"];

/// The devices of this build that are present, with a printed reason for each that is not tested. Those that
/// `QWEN3_VL_TEST_DEVICES` names, where it is set: `ndarray,cuda:0`.
pub fn devices() -> Vec<String> {
    let wanted = std::env::var("QWEN3_VL_TEST_DEVICES").unwrap_or_else(|_| DEVICES.join(","));
    let wanted: Vec<&str> = wanted.split(',').filter(|name| DEVICES.contains(name)).collect();
    let present: Vec<String> = device::present().into_iter().map(|d| d.name).collect();
    for name in &wanted {
        if !present.iter().any(|found| found == name) {
            println!("skipped on {name}: not compiled in, or no such device on this machine");
        }
    }
    present.into_iter().filter(|name| wanted.contains(&name.as_str())).collect()
}

/// Whether a device is not the processor.
pub fn is_card(device: &str) -> bool {
    !["ndarray", "flex"].contains(&device)
}

/// The CPU devices of this build.
pub fn cpu_devices() -> Vec<String> {
    devices().into_iter().filter(|name| !is_card(name)).collect()
}

/// The others.
pub fn cards() -> Vec<String> {
    devices().into_iter().filter(|name| is_card(name)).collect()
}

/// Loads a checkpoint folder on a device in f32.
pub fn load(folder: &Path, device: &str) -> Qwen3Vl {
    let options = LoadOptions {
        device: Some(device.to_owned()),
        dtype: "f32".parse().unwrap(),
        ..LoadOptions::default()
    };
    Qwen3Vl::load(folder.to_str().unwrap(), options)
        .unwrap_or_else(|error| panic!("{} on {device}: {error}", folder.display()))
}

/// The two-image prompt of the references.
pub fn two_images(model: &Qwen3VlModel, name: &str) -> ModelInputs {
    let path = fixtures().join(name).join("ref_two_images.safetensors");
    let reference = Reference::open(&path).unwrap();
    let ids = reference.rows("in.input_ids").unwrap().remove(0);
    let config = model.config();
    let tokens = PlaceholderIds::of(config);
    let patch_len = config.vision.patch_len();
    let images = reference.pixels("in.pixel_values", "in.image_grid_thw", patch_len).unwrap();
    let ids = ids.iter().map(|id| *id as u32).collect();
    ModelInputs::from_ids(ids, images, Default::default(), tokens).unwrap()
}

/// The logits of that prompt, and of one step more, in f32.
pub fn logits_of_two_images(model: &Qwen3VlModel, name: &str) -> Vec<f32> {
    let inputs = two_images(model, name);
    let mut probe = Probe::off();
    let mut prompt = model.prepare(&inputs, &mut probe).unwrap();
    let (rows, mut cache) = (0..inputs.ids.len(), model.new_cache());
    let hidden = model.prefill(&mut prompt, rows, &mut cache, &mut probe);
    let next = model.decode(&[(7, 900)], &mut [&mut cache]);
    let all = [model.logits(hidden), next]
        .map(|logits| logits.into_data().convert_dtype(DType::F32).try_to_vec::<f32>().unwrap());
    all.concat()
}

/// A copy of a fixture checkpoint in a folder of its own, without its reference files.
pub fn copy_of(model: &str) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join(model)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.starts_with("ref_") {
            std::fs::copy(&path, target.path().join(name)).unwrap();
        }
    }
    target
}

/// Whether there is a `python3` that can import `module` and what our scripts need.
pub fn python_has(module: &str) -> bool {
    let imports = format!("import {module}, torch, transformers, safetensors");
    let found = std::process::Command::new("python3").args(["-c", &imports]).output();
    found.is_ok_and(|output| output.status.success())
}

/// Runs a script of `tests/generate`, which must succeed.
pub fn python(script: &str, arguments: &[&std::ffi::OsStr]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/generate").join(script);
    let output = std::process::Command::new("python3").arg(path).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} {arguments:?}: {said}");
}

/// The program on a device, offline, without what the caller's environment would change.
pub fn program(device: &str) -> std::process::Command {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("qwen3-vl"));
    command.env_remove("QWEN3_VL_MODEL").env_remove("QWEN3_VL_DTYPE").env_remove("RUST_LOG");
    command.env("QWEN3_VL_DEVICE", device).env("HF_HUB_OFFLINE", "1");
    command
}
