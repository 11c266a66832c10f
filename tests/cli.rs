//! The program from outside: output, exit codes, and what it says about bad input.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

fn program() -> Command {
    common::program(&common::cpu_devices()[0])
}

fn model() -> String {
    common::fixtures().join("dense_tied").to_str().unwrap().to_owned()
}

fn fixture(name: &str) -> String {
    common::fixtures().join(name).to_str().unwrap().to_owned()
}

fn output(arguments: &[&str]) -> Output {
    program().args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs and expects an exit code and words on standard error; a panic never passes.
fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    let output = output(arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{arguments:?} should mention {word}: {message}");
    }
}

fn run_json(arguments: &[&str]) -> Value {
    let model = model();
    let all = [&["run", &model, "--json"], arguments].concat();
    let output = output(&all);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{all:?}: {message}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn run_streams_text_and_json_tells_everything() {
    let picture = fixture("e2e/gradient.png");
    let question = ["--image", &picture, "-p", "Describe the picture.", "-n", "24", "--greedy"];
    let json = run_json(&[&question[..], &["--logprobs", "2"]].concat());
    let model = model();
    let plain = output(&[&["run", &model], &question[..]].concat());
    assert_eq!(stdout(&plain), format!("{}\n", json["text"].as_str().unwrap()));
    assert_eq!(json["finish_reason"], "length");
    assert_eq!(json["usage"]["completion_tokens"], 24);
    assert_eq!(json["usage"]["image_tokens"], 6);
    assert_eq!(json["token_ids"].as_array().unwrap().len(), 24);
    assert_eq!(json["usage"]["prompt_tokens"], json["prompt_token_ids"].as_array().unwrap().len());
    let first = &json["logprobs"]["content"][0];
    assert_eq!(first["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(first["logprob"], first["top_logprobs"][0]["logprob"]);
    for timing in ["load_s", "preprocess_s", "vision_s", "prefill_s", "decode_tok_s"] {
        assert!(json["timings"][timing].is_number(), "{timing}");
    }
}

#[test]
fn pictures_come_by_path_data_uri_url_and_messages_alike() {
    let path = fixture("e2e/gradient.png");
    let bytes = std::fs::read(&path).unwrap();
    let data = format!("data:image/png;base64,{}", base64(&bytes));
    let server = serve(bytes, "200 OK");
    let file = format!("file://{path}");
    let ask = |image: &str| {
        let json = run_json(&["--image", image, "-p", "What?", "-n", "4", "--greedy"]);
        (json["prompt_token_ids"].clone(), json["token_ids"].clone())
    };
    let expected = ask(&path);
    for other in [&data, &server, &file] {
        assert_eq!(ask(other), expected, "{}", &other[..other.len().min(60)]);
    }
    let messages = tempfile::NamedTempFile::new().unwrap();
    let parts = serde_json::json!([
        {"type": "image_url", "image_url": {"url": data}},
        {"type": "text", "text": "What?"}
    ]);
    let text = serde_json::json!([{"role": "user", "content": parts}]).to_string();
    std::fs::write(messages.path(), text).unwrap();
    let file = messages.path().to_str().unwrap();
    let json = run_json(&["--messages", file, "-n", "4", "--greedy"]);
    assert_eq!((json["prompt_token_ids"].clone(), json["token_ids"].clone()), expected);
}

#[test]
fn a_seed_repeats_an_answer_and_a_stop_string_ends_it() {
    let sampled = |seed: &str| {
        run_json(&["-p", "Hello", "-n", "12", "--temperature", "1.5", "--seed", seed])["token_ids"]
            .clone()
    };
    assert_eq!(sampled("7"), sampled("7"));
    assert_ne!(sampled("7"), sampled("8"));
    let whole = run_json(&["-p", "Hello", "-n", "12", "--greedy"]);
    let text = whole["text"].as_str().unwrap();
    let stop = text.chars().nth(3).unwrap().to_string();
    let stopped = run_json(&["-p", "Hello", "-n", "12", "--greedy", "--stop", &stop]);
    assert_eq!(stopped["finish_reason"], "stop");
    let first = text.find(&stop).unwrap();
    assert_eq!(stopped["text"].as_str().unwrap(), &text[..first]);
}

/// A placeholder that a user types is text: it takes no picture and the count stays right.
#[test]
fn a_typed_placeholder_stays_text() {
    let picture = fixture("e2e/gradient.png");
    let json = run_json(&["--image", &picture, "-p", "is <|image_pad|> a word?", "-n", "2"]);
    assert_eq!(json["usage"]["image_tokens"], 6);
    let ids = json["prompt_token_ids"].as_array().unwrap();
    assert_eq!(ids.iter().filter(|id| **id == 505).count(), 6);
}

#[test]
fn reasoning_is_told_from_the_answer() {
    let folder = fixture("dense_untied");
    let output = output(&["run", &folder, "-p", "Why?", "-n", "8", "--greedy", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["reasoning"].as_str().is_some_and(|text| !text.is_empty()), "{json}");
    assert_eq!(json["text"], "");
}

#[test]
fn chat_remembers_and_reuses() {
    let mut child = program()
        .args(["chat", &model(), "-n", "6", "--greedy"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let picture = fixture("e2e/gradient.png");
    let lines = format!(
        "/image {picture}\n/image /no/such.png\nWhat is it?\nAnd now?\n/history\n/nonsense\n/exit\n"
    );
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("user (1 pictures or videos): What is it?"), "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such.png"));
    assert!(
        text.contains("user: And now?") && text.contains("unknown command /nonsense"),
        "{text}"
    );
}

#[test]
fn devices_inspect_plan_and_verify_report() {
    let devices = stdout(&output(&["devices"]));
    assert!(devices.contains(&common::cpu_devices()[0]) && devices.contains("f32"), "{devices}");
    let inspected = output(&["inspect", &fixture("moe"), "--json"]);
    let json: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(json["model_type"], "qwen3_vl_moe");
    assert_eq!(json["complete"], true);
    assert!(stdout(&output(&["inspect", &model()])).contains("tied embeddings"));
    let picture = fixture("e2e/gradient.png");
    let planned = output(&["plan", &model(), "--image", &picture, "-p", "What?", "--json"]);
    let json: Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!((&json["images"][0]["tokens"], &json["fits"]), (&6.into(), &true.into()));
    let prompt = run_json(&["--image", &picture, "-p", "What?", "-n", "1"]);
    assert_eq!(json["prompt_tokens"], prompt["usage"]["prompt_tokens"]);
    let reference = fixture("dense_tied/ref_image.safetensors");
    let verified = output(&["verify", &model(), "--reference", &reference, "--dtype", "f32"]);
    assert!(verified.status.success() && stdout(&verified).contains("stages pass"));
    let foreign = fixture("dense_tied/ref_image.safetensors");
    fails(&["verify", &fixture("moe"), "--reference", &foreign], 1, &["in.pixel_values"]);
    let wrong = fixture("dense_yarn/ref_image.safetensors");
    fails(&["verify", &model(), "--reference", &wrong], 1, &[]);
}

#[test]
fn bad_arguments_are_usage_errors() {
    let model = model();
    fails(&[], 2, &["Usage"]);
    match cfg!(feature = "nano") {
        true => fails(&["run"], 2, &["prompt"]),
        false => fails(&["run"], 2, &["no model"]),
    }
    fails(&["run", &model, "-p", "x", "--top-p", "1.5"], 2, &["top_p", "1.5"]);
    fails(&["run", &model, "-p", "x", "--temperature", "NaN"], 2, &["temperature"]);
    fails(&["run", &model, "-p", "x", "--max-tokens", "0"], 2, &["max-tokens"]);
    fails(&["run", &model, "-p", "x", "--dtype", "int3"], 2, &["int3", "bf16"]);
    fails(&["run", &model, "-p", "x", "--logprobs", "3"], 2, &["--json"]);
    fails(&["run", &model, "-p", "x", "--device", "tpu"], 1, &["tpu", "flex"]);
    fails(
        &["run", &model, "-p", "x", "--min-pixels", "9999", "--max-pixels", "100"],
        2,
        &["9999", "100"],
    );
    fails(&["run", &model, "-p", "x", "--top-p", "-1"], 2, &["top_p", "-1"]);
    fails(&["run", &model, "-p", "x", "--temperature", "1e-40"], 2, &["temperature"]);
    let hyphen = run_json(&["-p", "- a list?", "--presence-penalty", "-0.5", "-n", "1"]);
    assert_eq!(hyphen["usage"]["completion_tokens"], 1);
}

/// `--threads` of every verb that computes; what rayon would pass over is named.
#[test]
fn threads_are_counted_from_one() {
    let (model, data) = (model(), fixture("videos/rows.jsonl"));
    let verbs: [&[&str]; 9] = [
        &["run", &model, "-p", "x"],
        &["chat", &model],
        &["batch", &data, "-o", "out", "-m", &model],
        &["eval", &model, &data],
        &["verify", &model, "--reference", &data],
        &["warmup", &model],
        &["bench", "--shape", &model],
        &["quantize", &model, "-o", "out", "--quant", "int8"],
        &["train", "run", "run.toml"],
    ];
    let serve: &[&str] = if cfg!(feature = "server") { &["serve", &model] } else { verbs[0] };
    for verb in verbs.into_iter().chain([serve]) {
        fails(&[verb, &["--threads", "0"]].concat(), 2, &["--threads", "0 is not in 1.."]);
    }
    for value in ["0", "two"] {
        let mut command = program();
        command.env("RAYON_NUM_THREADS", value).args(["run", &model, "-p", "x", "-n", "1"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(&format!("RAYON_NUM_THREADS is `{value}`")), "{message}");
    }
    run_json(&["-p", "x", "-n", "1", "--threads", "1"]);
}

#[cfg(target_os = "linux")]
#[test]
fn as_many_threads_compute_as_were_asked_for() {
    let tasks = |threads: &str| {
        let mut child = program()
            .args(["chat", &model(), "-n", "1", "--greedy", "--threads", threads])
            .env("RAYON_NUM_THREADS", "9")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"Hello\n/history\n").unwrap();
        // The answer has begun.
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
        let count = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().count();
        drop(input);
        child.wait_with_output().unwrap();
        count
    };
    assert_eq!(tasks("6"), tasks("2") + 4);
}

#[test]
fn devices_tell_the_instructions_that_can_be_forced() {
    let devices = |level: &str, json: &[&str]| {
        let mut command = program();
        command.arg("devices").args(json).env("QWEN3_VL_CPU", level).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        stdout(&output)
    };
    let text = devices("portable", &[]);
    assert!(text.contains("instructions for flex: portable") && text.contains("is used"), "{text}");
    let json: Value = serde_json::from_str(&devices("portable", &["--json"])).unwrap();
    assert_eq!(json["instructions"]["used"], "portable");
    let present = json["instructions"]["present"].as_array().unwrap();
    assert!(present.contains(&"portable".into()), "{json}");
    let json: Value = serde_json::from_str(&devices("", &["--json"])).unwrap();
    assert_eq!(json["instructions"]["used"], *present.last().unwrap());
    let json: Value = serde_json::from_str(&devices("sse9", &["--json"])).unwrap();
    assert_eq!(json["instructions"]["used"], Value::Null);
    let text = devices("sse9", &[]);
    assert!(text.contains("instructions for flex: portable") && text.contains("`sse9`"), "{text}");
}

/// Before the weights are read, which are broken here.
#[test]
fn a_model_without_a_vision_tower_refuses_pictures_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    std::fs::write(&model, b"no weights").unwrap();
    let (model, picture) = (model.to_str().unwrap(), fixture("e2e/gradient.png"));
    let words = ["language model alone", "--mmproj FILE"];
    fails(&["run", model, "--image", &picture, "-p", "What?"], 1, &words);
    fails(&["chat", model, "--image", &picture], 1, &words);
    fails(&["run", model, "-p", "What?"], 1, &["GGUF"]);
}

#[test]
fn bad_checkpoints_are_named() {
    fails(&["run", "/no/such/folder", "-p", "x"], 1, &["/no/such/folder"]);
    fails(&["run", "owner/name", "-p", "x"], 1, &["owner/name"]);
    let empty = tempfile::tempdir().unwrap();
    fails(&["run", empty.path().to_str().unwrap(), "-p", "x"], 1, &["config.json"]);
    let folder = common::copy_of("dense_tied");
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    for (from, to, word) in [
        ("\"qwen3_vl\"", "\"qwen2_vl\"", "qwen2_vl"),
        ("\"vision_config\"", "\"vision_konfig\"", "vision_config"),
        ("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 1000000000", "num_hidden_layers"),
        ("\"vocab_size\": 512", "\"vocab_size\": 1000000000000", "vocab_size"),
        ("\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": -1", "rms_norm_eps"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&config, text.replace(from, to)).unwrap();
        fails(&["run", folder.path().to_str().unwrap(), "-p", "x"], 1, &["config.json", word]);
    }
}

#[test]
fn bad_pictures_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| -> String {
        let path: PathBuf = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let jpeg = std::fs::read(common::fixtures().join("images/photo.jpg")).unwrap();
    let cases = [
        (file("text.png", b"this is not a picture"), "text.png"),
        (file("empty.jpg", b""), "empty.jpg"),
        (file("half.jpg", &jpeg[..jpeg.len() / 2]), "half.jpg"),
        (fixture("images/strip_1x500.png"), "200"),
        (fixture("images/bomb_20000x20000.png"), "20000x20000"),
        ("/no/such/picture.png".to_owned(), "/no/such/picture.png"),
        (folder.path().to_str().unwrap().to_owned(), "directory"),
        ("data:image/png;base64,@@@@".to_owned(), "base64"),
        ("ftp://example.org/a.png".to_owned(), "ftp"),
        (serve(Vec::new(), "404 Not Found"), "404"),
        (serve(b"<html>no</html>".to_vec(), "200 OK"), "not an image"),
    ];
    for (image, word) in &cases {
        fails(&["run", &model(), "--image", image, "-p", "x"], 1, &[word]);
    }
    let tiny = run_json(&["--image", &fixture("images/one_pixel.png"), "-p", "x", "-n", "1"]);
    assert_eq!(tiny["images"][0]["resized_width"], 64);
}

#[test]
fn pictures_and_placeholders_must_match() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = r#"[{"role":"user","content":[{"type":"image"},{"type":"image"},{"type":"text","text":"x"}]}]"#;
    std::fs::write(file.path(), text).unwrap();
    let messages = file.path().to_str().unwrap();
    let picture = fixture("e2e/gradient.png");
    let model = model();
    fails(&["run", &model, "--messages", messages, "--image", &picture], 1, &["1", "2"]);
    std::fs::write(file.path(), r#"[{"role":"user","content":[{"type":"text"}]}]"#).unwrap();
    fails(&["run", &model, "--messages", messages], 1, &["messages[0].content[0]"]);
    std::fs::write(file.path(), "[{").unwrap();
    fails(&["run", &model, "--messages", messages], 1, &["JSON"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_the_excess() {
    let folder = fixture("dense_yarn");
    let long = "word ".repeat(200);
    fails(&["run", &folder, "-p", &long], 1, &["128", "more than the context"]);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = program()
        .args(["run", &model(), "-p", "Hello", "-n", "200", "--greedy"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!message.contains("panicked") && !message.contains("error"), "{message}");
    assert_eq!(output.status.code(), Some(0));
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_was_written() {
    let mut child = program()
        .args(["run", &model(), "-p", "Hello", "-n", "4000", "--greedy", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The handler is there once the answer has begun; before, the signal simply ends the program.
    std::thread::sleep(Duration::from_millis(1500));
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    let finished_first = status.code() == Some(0);
    assert!(finished_first || status.code() == Some(130), "{status:?}");
    let json: Value = serde_json::from_str(&text).unwrap();
    let reason = json["finish_reason"].as_str().unwrap();
    assert!(finished_first || reason == "interrupted", "{reason}");
    assert!(!json["token_ids"].as_array().unwrap().is_empty());
}

/// Serves `body` once per connection on a local port and returns its URL.
fn serve(body: Vec<u8>, status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 2048];
            let _ = stream.read(&mut request);
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    format!("http://{address}/picture.png")
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, b| w << 8 | *b as u32) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i) & 63) as usize] as char;
            out.push(if i <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

#[test]
fn batches_answer_each_row_and_go_on_after_an_interruption() {
    let folder = tempfile::tempdir().unwrap();
    let (input, results) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let picture = common::fixtures().join("e2e/blocks.png");
    let film = common::fixtures().join("videos/animation.gif");
    let row = |id: &str, content: serde_json::Value| {
        serde_json::json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "m", "temperature": 0, "max_tokens": 4, "ignore_eos": true,
                     "messages": [{"role": "user", "content": content}]}})
        .to_string()
    };
    let part = |kind: &str, path: &std::path::Path| serde_json::json!([{"type": kind, kind: path.to_str().unwrap()}, {"type": "text", "text": "?"}]);
    let rows = [
        row("text", "Hello".into()),
        "{broken".to_owned(),
        row("picture", part("image", &picture)),
        row("gone", part("image", std::path::Path::new("/no/such.png"))),
        row("film", part("video", &film)),
        row("text", "Again".into()),
        r#"{"custom_id": "n", "body": {"messages": [{"role":"user","content":"x"}], "n": 3}}"#
            .to_owned(),
    ];
    std::fs::write(&input, rows.join("\n")).unwrap();
    let model = model();
    let run = |more: &[&str]| {
        let paths = [input.to_str().unwrap(), "-o", results.to_str().unwrap(), "-m"];
        let mut arguments = vec!["batch"];
        arguments.extend(paths);
        arguments.push(model.as_str());
        arguments.extend(["--dtype", "f32"]);
        arguments.extend(more);
        output(&arguments)
    };
    let found = || -> std::collections::BTreeMap<u64, serde_json::Value> {
        let text = std::fs::read_to_string(&results).unwrap();
        let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
        rows.map(|row: serde_json::Value| (row["line"].as_u64().unwrap(), row)).collect()
    };
    let content = |row: &serde_json::Value| {
        row["response"]["body"]["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    assert_eq!(run(&[]).status.code(), Some(1), "rows failed");
    let whole = found();
    assert_eq!(whole.len(), rows.len());
    for (line, expected) in [(2, "no JSON"), (4, "/no/such.png"), (6, "line 1"), (7, "`n`")] {
        let message = whole[&line]["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{line}: {message}");
    }
    // Each row is what `run` answers.
    let path = picture.to_str().unwrap();
    let arguments = ["--image", path, "-p", "?", "--greedy", "-n", "4", "--ignore-eos", "--json"];
    let arguments = [&["run", model.as_str(), "--dtype", "f32"], &arguments[..]].concat();
    let alone: serde_json::Value = serde_json::from_str(&stdout(&output(&arguments))).unwrap();
    assert_eq!(content(&whole[&3]), alone["text"].as_str().unwrap());
    assert!(
        whole[&5]["response"]["body"]["usage"]["prompt_tokens_details"]["video_tokens"].as_u64()
            > Some(0)
    );
    // A killed run leaves half a line; the next one goes on behind the last whole one.
    let text = std::fs::read_to_string(&results).unwrap();
    let kept: usize = text.lines().take(2).map(|line| line.len() + 1).sum();
    std::fs::write(&results, &text[..kept + 20]).unwrap();
    assert_eq!(run(&["--max-num-seqs", "1"]).status.code(), Some(1));
    let again = found();
    assert_eq!(again.len(), rows.len());
    for line in [1, 3, 5] {
        assert_eq!(content(&again[&line]), content(&whole[&line]), "line {line}");
    }
    std::fs::write(&results, "something else\n").unwrap();
    let refused = run(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--overwrite"));
}

#[test]
fn videos_are_planned_and_answered_with_their_frames() {
    let film = fixture("videos/constant25.mp4");
    let (film, model) = (film.as_str(), model());
    let arguments = ["--video", film, "--num-frames", "4", "-p", "What?", "-n", "2", "--json"];
    let plan = [&["plan", model.as_str()], &arguments[..]].concat();
    let plan: serde_json::Value = serde_json::from_str(&stdout(&output(&plan))).unwrap();
    let run = [&["run", model.as_str(), "--greedy"], &arguments[..]].concat();
    let run: serde_json::Value = serde_json::from_str(&stdout(&output(&run))).unwrap();
    assert_eq!(plan["videos"], run["videos"]);
    assert_eq!(run["videos"][0]["frame_indices"], serde_json::json!([0, 4, 7, 11]));
    assert_eq!(plan["prompt_tokens"], run["usage"]["prompt_tokens"]);
    let tiny = ["--max-model-len", "10"];
    let refused = output(&[&["run", model.as_str()], &arguments[..], &tiny[..]].concat());
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && message.contains("more than the context of 10"),
        "{message}"
    );
    let both = output(&[&["run", model.as_str(), "--fps", "1"], &arguments[..]].concat());
    assert_eq!(both.status.code(), Some(2), "--fps excludes --num-frames");
}

#[test]
fn drawing_needs_a_picture_and_a_known_format() {
    let folder = tempfile::tempdir().unwrap();
    let picture = common::fixtures().join("e2e/blocks.png");
    let out = folder.path().join("out.png");
    let arguments = |file: &std::path::Path| {
        let mut all: Vec<String> = ["run", &model(), "-p", "?", "--greedy", "-n", "1", "--draw"]
            .map(str::to_owned)
            .to_vec();
        all.push(file.to_str().unwrap().to_owned());
        all
    };
    let run = |all: Vec<String>| output(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = run(arguments(&out));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--image"));
    let mut with_picture = arguments(&out);
    with_picture.extend(["--image".to_owned(), picture.to_str().unwrap().to_owned()]);
    assert!(run(with_picture.clone()).status.success());
    assert!(std::fs::read(&out).unwrap().starts_with(b"\x89PNG"));
    with_picture[8] = folder.path().join("out.xyz").to_str().unwrap().to_owned();
    assert!(!run(with_picture).status.success());
}
