//! What is said where a CUDA card cannot be used. It needs the emulated driver, with which `scripts/test-cuda` runs it.

#![cfg(feature = "cuda")]

mod common;

use serde_json::{Value, json};

/// What the program says, which must fail, on `device` with these variables; nothing where the driver is not emulated.
fn said(device: &str, variables: &[(&str, &str)]) -> Option<String> {
    if std::env::var_os("CUDA_EMULATOR_CACHE").is_none() {
        println!("skipped: the driver is not emulated");
        return None;
    }
    let model = common::fixtures().join("dense_tied");
    let mut program = common::program(device);
    program.arg("run").arg(&model).args(["-p", "hello", "--max-new-tokens", "2"]);
    let output = program.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    Some(said)
}

#[test]
fn what_stands_in_the_way_of_a_card_is_told() {
    for (device, variable, value, expected) in [
        ("cuda:7", "CUDA_EMULATOR_DEVICES", "1", "numbered from 0"),
        ("cuda:0", "CUDA_EMULATOR_DEVICES", "0", "the NVIDIA driver finds no GPU"),
        ("cuda:0", "CUDA_EMULATOR_DRIVER", "11040", "too old: it knows CUDA 11.4"),
        ("cuda:0", "LD_LIBRARY_PATH", "", "no NVIDIA driver was found"),
        ("cuda:0", "CUDA_PATH", "/nowhere", "libdevice.10.bc"),
    ] {
        let Some(said) = said(device, &[(variable, value)]) else { return };
        assert!(said.contains(expected), "{device} with {variable}={value}: {said}");
    }
}

#[test]
fn weights_without_room_are_refused_with_figures() {
    let Some(said) = said("cuda:0", &[("CUDA_EMULATOR_MEMORY", "1")]) else { return };
    let figures = said.contains("take") && said.contains("of its 1 MiB are free");
    assert!(figures && said.contains("--quant"), "{said}");
}

/// Memory that runs out in the middle of a prompt fails that row, and the next one is answered as the one before it was.
#[test]
fn a_prompt_without_room_fails_alone() {
    if std::env::var_os("CUDA_EMULATOR_CACHE").is_none() {
        println!("skipped: the driver is not emulated");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [rows, results] = ["rows.jsonl", "results.jsonl"].map(|name| folder.path().join(name));
    let row = |(index, words): (usize, usize)| {
        let messages = json!([{ "role": "user", "content": "hello world ".repeat(words) }]);
        let body = json!({ "messages": messages, "max_tokens": 3, "temperature": 0 });
        let url = "/v1/chat/completions";
        json!({ "custom_id": format!("row {index}"), "method": "POST", "url": url, "body": body })
            .to_string()
    };
    let text: Vec<String> = [20, 570, 20].into_iter().enumerate().map(row).collect();
    std::fs::write(&rows, text.join("\n")).unwrap();
    let mut program = common::program("cuda:0");
    program.arg("batch").arg(&rows).arg("-m").arg(common::fixtures().join("dense_tied"));
    program.arg("-o").arg(&results).args(["--max-num-seqs", "1"]);
    let output = program.env("CUDA_EMULATOR_MEMORY", "16").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    let found = std::fs::read_to_string(&results).unwrap_or_else(|_| panic!("{said}"));
    let found: Vec<Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answer = |row: &Value| row["response"]["body"]["choices"][0]["message"]["content"].clone();
    assert!(answer(&found[0]).is_string() && answer(&found[0]) == answer(&found[2]), "{found:?}");
    let message = found[1]["error"]["message"].as_str().unwrap();
    assert!(message.contains("out of memory") && message.contains("of whose 16 MiB"), "{message}");
}
