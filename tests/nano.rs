//! The embedded checkpoint: it is there without a folder or a download, and knows what its table says.

#![cfg(feature = "nano")]

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn program(cache: &Path) -> Command {
    let mut command = common::program(&common::cpu_devices()[0]);
    command.env("XDG_CACHE_HOME", cache).stdin(Stdio::null());
    command
}

fn stdout(output: Output) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{message}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn without_a_model_the_embedded_one_answers_as_transformers_does() {
    let cache = tempfile::tempdir().unwrap();
    let rows = std::fs::read_to_string(common::fixtures().join("nano.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    assert_eq!(rows.len(), 6);
    for row in rows {
        let [image, question] = ["image", "question"].map(|key| row[key].as_str().unwrap());
        let arguments = ["run", "--image", image, "-p", question, "--greedy", "--json"];
        let said = stdout(program(cache.path()).args(arguments).output().unwrap());
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["token_ids"], row["ids"], "{question}: {}", said["text"]);
    }
    assert!(cache.path().join("qwen3-vl").is_dir(), "unpacked where XDG_CACHE_HOME says");
}

/// The README's first command and what it prints.
#[test]
fn the_answer_of_the_readme_is_true() {
    let cache = tempfile::tempdir().unwrap();
    let readme = std::fs::read_to_string("README.md").unwrap();
    let command = "run --image examples/nano/shapes.png -p \"What is in this picture?\"";
    assert!(readme.contains(command));
    let arguments =
        ["run", "--image", "examples/nano/shapes.png", "-p", "What is in this picture?"];
    let said = stdout(program(cache.path()).args(arguments).output().unwrap());
    assert_eq!(said, "There is a red circle, a blue square and a green triangle.\n");
    assert!(readme.contains(&said));
}

#[test]
fn its_name_can_be_given() {
    let cache = tempfile::tempdir().unwrap();
    let inspected = program(cache.path()).args(["inspect", "nano", "--json"]).output().unwrap();
    let inspected: Value = serde_json::from_str(&stdout(inspected)).unwrap();
    let bare = program(cache.path()).args(["inspect", "--json"]).output().unwrap();
    assert_eq!(inspected, serde_json::from_str::<Value>(&stdout(bare)).unwrap());
}
