//! What is said of CUDA cards: why they cannot be used, what has no room, and what takes longer once. It needs the emulated driver, with which `scripts/test-cuda` runs it.

#![cfg(feature = "cuda")]

mod common;

use std::io::Read;
use std::process::Stdio;

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
    ] {
        let Some(said) = said(device, &[(variable, value)]) else { return };
        assert!(said.contains(expected), "{device} with {variable}={value}: {said}");
    }
}

/// Where there is no toolkit, kernels are linked with functions of our own, which need a folder that can be written to.
#[test]
fn answers_need_no_toolkit() {
    if std::env::var_os("CUDA_EMULATOR_CACHE").is_none() {
        println!("skipped: the driver is not emulated");
        return;
    }
    let [cache, temporary] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [cache, temporary] = [&cache, &temporary].map(|folder| folder.path().to_str().unwrap());
    let answer = |variables: &[(&str, &str)]| {
        let mut program = common::program("cuda:0");
        program.arg("run").arg(common::fixtures().join("dense_tied"));
        program.args(["-p", "hello", "--max-new-tokens", "8"]);
        let output = program.envs(variables.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // LLVM speaks where it doubts that what it links fits together.
        assert!(!said.contains("Linking"), "{said}");
        output.status.success().then_some(output.stdout).ok_or(said)
    };
    let expected = answer(&[]).unwrap();
    let none = ("CUDA_PATH", "/nowhere");
    assert_eq!(answer(&[none, ("XDG_CACHE_HOME", cache)]), Ok(expected.clone()));
    let no_cache = [none, ("XDG_CACHE_HOME", "/proc/nowhere"), ("TMPDIR", temporary)];
    assert_eq!(answer(&no_cache), Ok(expected));
    let nothing = [none, ("XDG_CACHE_HOME", "/proc/nowhere"), ("TMPDIR", "/proc/nowhere")];
    let said = answer(&nothing).unwrap_err();
    assert!(said.contains("can be written neither") && said.contains("TMPDIR"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
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

/// A card that breaks while a recorded step is replayed is lost like any other.
#[test]
fn a_card_that_breaks_in_the_middle_of_an_answer_is_lost() {
    if std::env::var_os("CUDA_EMULATOR_CACHE").is_none() {
        println!("skipped: the driver is not emulated");
        return;
    }
    for drawn in [&["--temperature", "0"][..], &["--temperature", "0.8", "--top-k", "9"]] {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken");
        let mut program = common::program("cuda:0");
        program.arg("run").arg(common::fixtures().join("dense_tied")).args(["-p", "hello"]);
        program.args(["--max-new-tokens", "3000", "--ignore-eos"]).args(drawn);
        program.env("CUDA_EMULATOR_FAULT", &broken).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = program.spawn().unwrap();
        // Some twenty tokens, of which the first is not replayed.
        let mut said = [0; 100];
        running.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        std::fs::write(&broken, "").unwrap();
        let output = running.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("device `cuda:0` was lost"), "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
}

/// Cards with unequal room divide the layers unequally.
#[test]
fn layers_are_divided_by_the_memory_of_cards() {
    if std::env::var_os("CUDA_EMULATOR_CACHE").is_none() {
        println!("skipped: the driver is not emulated");
        return;
    }
    let layers = |memory: &str| {
        let mut program = common::program("");
        program.env_remove("QWEN3_VL_DEVICE");
        program.arg("plan").arg(common::fixtures().join("dense_tied"));
        program.args(["--device-map", "cuda:0,cuda:1", "--json"]);
        program.env("CUDA_EMULATOR_DEVICES", "2").env("CUDA_EMULATOR_MEMORY", memory);
        let output = program.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        let parts = |which: usize| plan["devices"][which]["parts"].to_string();
        [parts(0), parts(1)]
    };
    let layers_of = |parts: &str| ["0-2", "1-3"].iter().find(|all| parts.contains(**all)).copied();
    let [equal, first] = [layers("512"), layers("512,64")];
    assert_eq!(equal.each_ref().map(|parts| layers_of(parts)), [None, Some("1-3")], "{equal:?}");
    assert_eq!(first.each_ref().map(|parts| layers_of(parts)), [Some("0-2"), None], "{first:?}");
}

/// The kernels of a card are kept, and who waits for them is told once.
#[test]
fn the_first_run_on_a_card_says_that_it_compiles() {
    if std::env::var_os("CUDA_EMULATOR_CACHE").is_none() {
        println!("skipped: the driver is not emulated");
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let says_so = || {
        let mut program = common::program("cuda:0");
        program.arg("run").arg(common::fixtures().join("dense_tied"));
        program.args(["-p", "hello", "--max-new-tokens", "2"]).env("XDG_CACHE_HOME", cache.path());
        let output = program.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        said.contains("kernels of cuda:0 are compiled as they are first used")
    };
    assert_eq!([says_so(), says_so()], [true, false]);
}
