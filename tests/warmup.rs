//! `qwen3-vl warmup`: every stage runs twice, and nothing is written into the working directory.

mod common;

use std::process::{Output, Stdio};

use serde_json::Value;

/// Small enough for a software adapter.
const QUICK: [&str; 8] = ["-p", "24", "-n", "2", "--batch", "3", "--image", "64x64"];

/// The program in a folder that looks like a cargo workspace, where CubeCL would write by itself.
fn warmup(device: &str, arguments: &[&str]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Cargo.toml"), "[workspace]\n").unwrap();
    let mut command = common::program(device);
    command.arg("warmup").args(arguments).current_dir(folder.path()).stdin(Stdio::null());
    command.env("XDG_CACHE_HOME", folder.path().join("cache")).env_remove("CUBECL_ENVIRONMENT");
    (command.output().unwrap(), folder)
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn all_stages_run_twice_on_every_device() {
    let model = common::fixtures().join("dense_tied");
    let model = model.to_str().unwrap();
    for device in common::devices() {
        let (output, folder) = warmup(&device, &[&[model, "--json"], &QUICK[..]].concat());
        assert!(output.status.success(), "{device}: {}", said(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let stages = report["stages"].as_array().unwrap();
        let names: Vec<_> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
        let expected = [
            "prompt of 16 tokens",
            "prompt of 24 tokens",
            "up to 3 answers together",
            "picture and question",
        ];
        assert_eq!(names, expected, "{device}");
        for time in ["first_s", "again_s"] {
            assert!(stages.iter().all(|stage| stage[time].as_f64().unwrap() > 0.0), "{device}");
        }
        let kernels = &report["kernels"][0];
        assert_eq!(kernels["backend"], device.as_str());
        assert_eq!(kernels["in_program"], !common::is_card(&device));
        assert!(!folder.path().join("target").exists(), "{device} writes where it was started");
    }
}

#[test]
fn times_are_a_table_and_stages_are_told_as_they_begin() {
    let device = &common::cpu_devices()[0];
    let (output, _folder) = warmup(device, &[&["nano"], &QUICK[..]].concat());
    let (table, course) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{course}");
    assert!(table.starts_with("STAGE") && table.lines().count() == 6, "{table}");
    assert!(table.contains("the kernels are in the program"), "{table}");
    assert_eq!(course.matches("warming up: picture and question, again").count(), 1, "{course}");
    assert_eq!(course.matches("warming up:").count(), 8, "{course}");
    let (output, _folder) = warmup(device, &[&["nano", "--quiet"], &QUICK[..]].concat());
    assert_eq!(said(&output.stderr), "");
}

#[test]
fn what_cannot_be_run_is_said() {
    let device = &common::cpu_devices()[0];
    let cases: [(&[&str], i32, &str); 4] = [
        (&["nano", "--batch", "0"], 2, "--batch"),
        (&["nano", "--image", "no-such.png"], 2, "no such file"),
        (&["./no-such-folder"], 1, "no-such-folder"),
        (&["nano", "--device", "tpu"], 1, "unknown device"),
    ];
    for (arguments, code, words) in cases {
        let (output, _folder) = warmup(device, arguments);
        let message = said(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(words), "{arguments:?}: {message}");
    }
}
