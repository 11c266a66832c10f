//! Shared by the integration tests: fixtures, devices, small checkpoints made from the fixtures.

#![allow(dead_code)] // each test binary uses a part of this

use std::path::{Path, PathBuf};

use qwen3_vl::backends::device;
use qwen3_vl::{LoadOptions, Qwen3Vl};

/// The reference checkpoints.
pub const MODELS: [&str; 4] = ["dense_tied", "dense_untied", "moe", "dense_yarn"];

/// `tests/fixtures`.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The devices of this build that are present, with a printed reason for each that is not tested.
pub fn devices() -> Vec<String> {
    let present: Vec<String> = device::present().into_iter().map(|d| d.name).collect();
    for name in ["ndarray", "flex", "wgpu"] {
        if !present.iter().any(|found| found == name) {
            println!("skipped on {name}: not compiled in, or no such device on this machine");
        }
    }
    present.into_iter().filter(|n| ["ndarray", "flex", "wgpu"].contains(&n.as_str())).collect()
}

/// The CPU devices of this build.
pub fn cpu_devices() -> Vec<String> {
    devices().into_iter().filter(|name| name != "wgpu").collect()
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
