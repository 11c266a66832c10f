//! The official Python clients, and an evaluation by evalscope.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::fixtures;
use crate::harness::{Server, alone, ask};

/// A Python that has these packages: `QWEN3_VL_TEST_PYTHON`, else `python3`.
fn python(packages: &str) -> Option<String> {
    let python = std::env::var("QWEN3_VL_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", &format!("import {packages}")]).output();
    let found = found.is_ok_and(|output| output.status.success()).then_some(python);
    if found.is_none() {
        println!("skipped: no python3 that can import {packages} (see QWEN3_VL_TEST_PYTHON)");
    }
    found
}

/// What a script of this folder prints about a server; it must succeed.
fn run(python: &str, script: &str, server: &Server, argument: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server").join(script);
    let mut command = Command::new(python);
    command.arg(script).arg(&server.url).arg(argument);
    for proxy in
        ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
    {
        command.env_remove(proxy);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn official_clients_understand_the_server() {
    let Some(python) = python("openai, anthropic") else { return };
    let server = Server::start("dense_tied", &[]);
    let said = run(&python, "clients.py", &server, &fixtures().join("e2e/gradient.png"));
    assert_eq!(said.lines().count(), 13, "{said}");
}

/// A file of the repository; the harness takes whole paths for those of fixtures.
fn file(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    path.to_str().unwrap().to_owned()
}

/// Questions about two pictures, with the answers of the command line, and one with an answer that is wrong.
#[test]
fn evalscope_scores_a_local_task() {
    let Some(python) = python("evalscope") else { return };
    let model = file("assets/nano");
    let (shapes, text) = (file("examples/nano/shapes.png"), file("examples/nano/text.png"));
    let mut rows = Vec::new();
    for (question, picture) in [
        ("What is in this picture?", &shapes),
        ("How many objects are there?", &shapes),
        ("What does the text say?", &text),
    ] {
        let said = alone(&model, question, &[picture], 64);
        let answer = said["text"].as_str().unwrap().to_owned();
        rows.push(
            json!({ "messages": ask(question, &[picture], 64)["messages"], "answer": answer }),
        );
    }
    rows.push(json!({ "messages": rows[0]["messages"], "answer": "zebra" }));
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(folder.path().join("tiny.jsonl"), lines.join("\n")).unwrap();
    let server = Server::start(&model, &[]);
    let said = run(&python, "local_task.py", &server, folder.path());
    let told: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(told["answers"], 4, "{told}");
    assert!((told["score"].as_f64().unwrap() - 0.75).abs() < 1e-3, "{told}");
}
