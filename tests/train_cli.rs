//! `train check`, `train show` and `train run` as users meet them: what they say of bad input, and what is left after a crash.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::{Value, json};

mod common;

/// A folder with pictures of 64 x 96 (`a.png`) and 128 x 32 pixels (`b.png`), and damaged ones.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap() };
        for (name, width, height) in [("a.png", 64, 96), ("b.png", 128, 32)] {
            let grey = image::RgbImage::from_pixel(width, height, image::Rgb([128; 3]));
            grey.save(folder.at(name)).unwrap();
        }
        std::fs::write(folder.at("text.png"), "not a picture").unwrap();
        let whole = std::fs::read(folder.at("a.png")).unwrap();
        std::fs::write(folder.at("cut.png"), &whole[..whole.len() - 30]).unwrap();
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Data of these rows and a configuration with `more` lines.
    fn config(&self, rows: &[Value], more: &str) -> PathBuf {
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(self.at("data.jsonl"), lines).unwrap();
        self.toml(&common::fixtures().join("dense_tied"), more)
    }

    fn toml(&self, model: &Path, more: &str) -> PathBuf {
        let data =
            if more.contains("data =") { "" } else { "data = [{ path = \"data.jsonl\" }]\n" };
        let text =
            format!("model = {model:?}\noutput = \"out\"\nlr = {{ base = 1e-3 }}\n{data}{more}\n");
        std::fs::write(self.at("run.toml"), text).unwrap();
        self.at("run.toml")
    }
}

fn train(verb: &str, config: &Path, more: &[&str]) -> Command {
    let mut command = Command::cargo_bin("qwen3-vl").unwrap();
    command.args(["train", verb]).arg(config).args(more).env("QWEN3_VL_DEVICE", "flex");
    command
}

/// What a command that ends with 1 says on standard error.
fn complaint(mut command: Command) -> String {
    said(&command.assert().code(1).get_output().stderr)
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn row(text: &str, answer: &str) -> Value {
    json!({"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]})
}

fn with(mut row: Value, key: &str, value: Value) -> Value {
    row[key] = value;
    row
}

fn picture(name: &str) -> Value {
    with(row("<image>\nWhat?", "A square."), "image", json!(name))
}

#[test]
fn check_names_every_bad_row_by_its_line() {
    let folder = Folder::new();
    let boxes = with(
        picture("a.png"),
        "conversations",
        json!([
        {"from": "human", "value": "<image>box?"},
        {"from": "gpt", "value": "{\"bbox_2d\": [12, 20, 1300, 80]}"}]),
    );
    let objects = json!({"messages": [{"role": "user", "content": "<image>Where?"}, {"role": "assistant", "content": "<bbox>"}],
        "images": ["a.png"], "objects": {"bbox": [[0, 0, 70, 5]]}});
    let cases = [
        (picture("a.png"), ""),
        (picture("text.png"), "text.png"),
        (picture("none.png"), "none.png is missing"),
        (row("<image>\nWhat?", "x"), "1 `<image>` stand in the text, but `image` holds 0 file(s)"),
        (
            with(row("What?", "x"), "image", json!("a.png")),
            "0 `<image>` stand in the text, but `image` holds 1 file(s)",
        ),
        (
            with(row("What?", "x"), "imag", json!("a.png")),
            "the key `imag` is not known here (did you mean `image`?)",
        ),
        (with(row("What?", "x"), "messages", json!([])), "mixes two ways of writing"),
        (boxes, "has 1300, but coordinates run from 0 to 1000; this looks like pixels"),
        (objects, "70 lies outside of 0 to 64"),
        (
            json!({"conversations": [{"from": "human", "value": "What?"}]}),
            "No token of the row would be learned",
        ),
    ];
    let rows: Vec<Value> = cases.iter().map(|(row, _)| row.clone()).collect();
    let config = folder.config(&rows, "steps = 1");
    let mut data = std::fs::read_to_string(folder.at("data.jsonl")).unwrap();
    data.push_str("{\"conversations\": [\n");
    std::fs::write(folder.at("data.jsonl"), data).unwrap();
    let output = train("check", &config, &[]).assert().code(1).get_output().stdout.clone();
    let text = said(&output);
    assert!(text.starts_with("11 rows, 1 good; 1 samples are trained on"), "{text}");
    for (index, (_, expected)) in cases.iter().enumerate().filter(|(_, (_, text))| !text.is_empty())
    {
        let start = format!("data.jsonl, line {}: ", index + 1);
        let line = text.lines().find(|line| line.contains(&start));
        assert!(line.is_some_and(|line| line.contains(expected)), "{start}{expected}\n{text}");
    }
    assert!(text.contains("data.jsonl, line 11: The row is not valid JSON"), "{text}");
    assert!(text.contains("at a time"), "{text}");
    assert!(text.contains("assistant\n\u{27e6}A square.<|im_end|>\n\u{27e7}"), "{text}");
    // A run stops at the row that it cannot use.
    let output = train("run", &config, &[]).assert().code(1).get_output().stderr.clone();
    assert!(said(&output).contains("data.jsonl, line "), "{}", said(&output));
}

#[test]
fn samples_that_are_too_long_are_counted_by_policy() {
    let folder = Folder::new();
    image::RgbImage::new(256, 256).save(folder.at("big.png")).unwrap();
    let rows = [
        picture("a.png"),
        with(
            picture("big.png"),
            "conversations",
            json!([
        {"from": "human", "value": "<image>Q"}, {"from": "gpt", "value": "a ".repeat(20)}]),
        ),
    ];
    for (policy, code, counts, line) in [
        (
            "error",
            1,
            "2 rows, 1 good; 1 samples are trained on, 0 dropped",
            "64 of them of pictures",
        ),
        (
            "drop",
            0,
            "2 rows, 2 good; 1 samples are trained on, 1 dropped, 0 shrunk, 0 trimmed",
            "tokens is too long; it is dropped",
        ),
        (
            "shrink",
            0,
            "2 rows, 2 good; 2 samples are trained on, 0 dropped, 1 shrunk, 0 trimmed",
            "were shrunk from 64 to",
        ),
        (
            "trim_text",
            0,
            "2 rows, 2 good; 2 samples are trained on, 0 dropped, 0 shrunk, 1 trimmed",
            "text was cut at the end",
        ),
    ] {
        let limits = format!("steps = 1\nlimits = {{ sequence = 90, too_long = \"{policy}\" }}");
        let config = folder.config(&rows, &limits);
        let output = train("check", &config, &[]).assert().code(code).get_output().stdout.clone();
        let text = said(&output);
        assert!(text.starts_with(counts), "{policy}: {text}");
        let found = text.lines().find(|found| found.contains("data.jsonl, line 2: "));
        assert!(found.is_some_and(|found| found.contains(line)), "{policy}: {text}");
    }
}

#[test]
fn check_looks_at_held_out_rows_too() {
    let folder = Folder::new();
    let held_out = format!("{}\n{}\n", row("Q", "A"), picture("none.png"));
    std::fs::write(folder.at("held.jsonl"), held_out).unwrap();
    let eval = |more: &str| {
        format!(
            "data = [{{ path = \"data.jsonl\" }}]\nsteps = 1\neval = {{ every = 1, data = [{{ path = \"held.jsonl\"{more} }}] }}"
        )
    };
    let config = folder.config(&[row("Say hi", "Hi there.")], &eval(""));
    let failed = train("check", &config, &[]).assert().code(1);
    let text = said(&failed.get_output().stdout);
    assert!(text.starts_with("1 rows, 1 good;"), "{text}");
    assert!(text.contains("\neval.data: 2 rows, 1 good; 1 samples"), "{text}");
    assert!(text.contains("held.jsonl, line 2: The file"), "{text}");
    let failed = train("check", &config, &["--json"]).assert().code(1);
    let report: Value = serde_json::from_slice(&failed.get_output().stdout).unwrap();
    assert_eq!((&report["good"], &report["eval"]["good"]), (&json!(1), &json!(1)));
    let failed = train("check", &folder.config(&[row("Q", "A")], &eval(", sample = 7.0")), &[]);
    let text = complaint(failed);
    assert!(text.contains("`eval.data[0].sample` is 7"), "{text}");
    std::fs::remove_file(folder.at("held.jsonl")).unwrap();
    let text = complaint(train("check", &folder.config(&[row("Q", "A")], &eval("")), &[]));
    assert!(text.contains("`eval.data`") && text.contains("held.jsonl"), "{text}");
}

/// A check that passes means that a run can begin.
#[test]
fn check_fails_where_a_run_would() {
    let folder = Folder::new();
    let short = "steps = 1\nlimits = { sequence = 10 }";
    let config = folder.config(&[row("Say hi", "Hi there."), row("Q", "A")], short);
    let text = complaint(train("check", &config, &[]));
    let expected =
        "no sample of `data` is left: all 2 have more than the 10 tokens of limits.sequence";
    assert!(text.contains(expected), "{text}");
    train("run", &config, &[]).assert().code(1);
    let model = middle_sized(&folder);
    folder.config(&[row("Q", "A")], "");
    let config = folder.toml(&model, "steps = 1");
    let text = complaint(train("check", &config, &[]));
    assert!(text.contains("holds neither model.safetensors nor"), "{text}");
    train("check", &folder.toml(&model, "steps = 1\ninit = \"random\""), &[]).assert().success();
    let alone = "steps = 1\ntrain = { merger = false, llm = false, embed = false, head = true }";
    for verb in ["check", "run"] {
        let text = complaint(train(verb, &folder.config(&[row("Q", "A")], alone), &[]));
        assert!(text.contains("nothing would be trained"), "{verb}: {text}");
    }
    let frozen = "steps = 1\ntrain = { merger = true, llm = true, embed = false }";
    let done = train("check", &folder.config(&[row("Q", "A")], frozen), &[]).assert().success();
    let text = said(&done.get_output().stdout);
    assert!(text.contains("note: the head of this model is its embedding table"), "{text}");
}

#[test]
fn a_run_says_what_was_too_long_and_what_looks_like_pixels() {
    let folder = Folder::new();
    let boxes = |x: usize| {
        let answer = format!("[{{\"bbox_2d\": [1, 2, {x}, 32], \"label\": \"x\"}}]");
        with(row("<image>box?", &answer), "image", json!("a.png"))
    };
    let rows = [boxes(20), boxes(30), boxes(40), row("Q", &"a ".repeat(200))];
    let config = folder.config(&rows, "batch = { tokens = 1 }\nlimits = { sequence = 120 }");
    let done = train("run", &config, &[]).assert().success();
    let text = said(&done.get_output().stderr);
    assert!(text.contains("warning: Channel data: all 3 boxes on 3 pictures lie inside"), "{text}");
    let last = text.lines().last().unwrap_or_default();
    let counted =
        "step 3 of 3, samples that were too long: 1 dropped, 0 shrunk, 0 trimmed, checkpoint ";
    assert!(last.starts_with(counted), "{text}");
    let log = std::fs::read_to_string(folder.at("out/log.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!([&last["dropped"], &last["shrunk"], &last["trimmed"]], [1, 0, 0]);
}

/// `model` is found as other verbs find it, and what training cannot take is said.
#[test]
fn a_model_may_be_named() {
    let folder = Folder::new();
    folder.config(&[row("Say hi", "Hi there.")], "");
    let cache = folder.at("cache");
    let named = |verb: &str, model: &str, more: &[&str]| {
        let config = folder.toml(Path::new(model), "steps = 1\nbatch = { tokens = 1 }");
        let mut command = train(verb, &config, more);
        command.env("XDG_CACHE_HOME", &cache).env("HF_HOME", &cache).env("HF_HUB_OFFLINE", "1");
        command
    };
    if qwen3_vl::nano::default_model().is_some() {
        named("check", "nano", &[]).assert().success();
        named("run", "nano", &["-q"]).assert().success();
        let out = folder.at("exported");
        named("export", "nano", &["--out", out.to_str().unwrap()]).assert().success();
        assert!(out.join("model.safetensors").is_file());
    }
    std::fs::write(folder.at("m.gguf"), "GGUF").unwrap();
    for (model, expected) in [
        ("m.gguf", "a GGUF file; training takes a checkpoint folder with safetensors"),
        ("none", "which is no folder; training takes a checkpoint folder with safetensors"),
        ("Owner/Name", "`model` is Owner/Name, and no folder beside the file has that name"),
    ] {
        let text = complaint(named("run", model, &[]));
        assert!(text.contains(expected), "{model}: {text}");
    }
}

#[test]
fn show_draws_boxes_on_pictures_of_their_own_size() {
    let folder = Folder::new();
    let two = json!({"messages": [
        {"role": "user", "content": "<image><image>Where?"},
        {"role": "assistant", "content": "<bbox> and <bbox>"}],
        "images": ["a.png", "b.png"],
        "objects": {"ref": [], "bbox": [[8, 16, 40, 80], [64, 8, 120, 24]], "image_id": [0, 1]}});
    let answer = "[{\"bbox_2d\": [125, 250, 625, 750], \"label\": \"x\"}]";
    let one = with(row("<image>box?", answer), "image", json!("a.png"));
    std::fs::write(folder.at("other.jsonl"), format!("{one}\n")).unwrap();
    let data = "steps = 1\ndata = [{ path = \"data.jsonl\" }, { path = \"other.jsonl\" }]";
    let config = folder.config(&[row("Q", "A"), two], data);
    let out = folder.at("boxes.png");
    let path = out.to_str().unwrap();
    let shown = train("show", &config, &["--row", "2", "--draw", path]).assert().success();
    let text = said(&shown.get_output().stdout);
    assert!(
        text.contains("\u{27e6}[125, 167, 625, 833] and [500, 250, 938, 750]<|im_end|>"),
        "{text}"
    );
    let frame = |name: &str, size: (u32, u32), inside: (u32, u32), edge: (u32, u32)| {
        let picture = image::open(folder.at(name)).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), size, "{name}");
        assert_eq!(picture.get_pixel(inside.0, inside.1).0, [128; 3], "{name}");
        assert_ne!(picture.get_pixel(edge.0, edge.1).0, [128; 3], "{name}");
    };
    frame("boxes-1.png", (64, 96), (20, 40), (8, 40));
    frame("boxes-2.png", (128, 32), (90, 16), (64, 16));
    train("show", &config, &["--source", "2", "--draw", path]).assert().success();
    frame("boxes.png", (64, 96), (30, 60), (8, 60));
    let none = train("show", &config, &["--draw", path]).assert().failure();
    assert!(said(&none.get_output().stderr).contains("the row has no picture"));
    let past = train("show", &config, &["--source", "3"]).assert().failure();
    assert!(said(&past.get_output().stderr).contains("`data` has 2 sources"));
}

#[test]
fn a_damaged_picture_stops_the_run_and_is_named() {
    let folder = Folder::new();
    let config =
        folder.config(&[row("Q", "A"), picture("cut.png")], "steps = 2\nbatch = { tokens = 1 }");
    // Its header is whole, so that the check passes, unless it decodes.
    train("check", &config, &[]).assert().success();
    let failed = train("check", &config, &["--decode"]).assert().code(1);
    let text = said(&failed.get_output().stdout);
    assert!(text.contains("data.jsonl, line 2: ") && text.contains("cut.png"), "{text}");
    let failed = train("run", &config, &[]).assert().code(1);
    let text = said(&failed.get_output().stderr);
    assert!(text.contains("data.jsonl, line 2: ") && text.contains("cut.png"), "{text}");
}

/// Starts a long run that saves after every step.
fn start(folder: &Folder) -> (PathBuf, Child) {
    let rows = [row("Say hi", "Hi there."), row("1+1?", "2")];
    let config = folder.config(&rows, "steps = 100000\nsave = { every = 1, keep = 2 }");
    let program = env!("CARGO_BIN_EXE_qwen3-vl");
    let mut command = std::process::Command::new(program);
    command.args(["train", "run", "-q"]).arg(&config).env("QWEN3_VL_DEVICE", "flex");
    (config, command.stderr(Stdio::piped()).spawn().unwrap())
}

fn wait_for(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < Duration::from_secs(120), "it never happened");
        std::thread::yield_now();
    }
}

fn begins_with(folder: &Path, start: &str) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start)).count()
}

/// A run that is killed while it writes a checkpoint goes on from the one before.
#[test]
#[cfg(unix)]
fn a_run_that_was_killed_while_saving_goes_on() {
    let folder = Folder::new();
    let out = folder.at("out");
    for attempt in 0.. {
        let (config, mut child) = start(&folder);
        wait_for(|| begins_with(&out, "step-") > 0 && begins_with(&out, ".partial-") > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        if begins_with(&out, ".partial-") > 0 {
            let step = qwen3_vl::train::checkpoint::newest(&out).unwrap();
            let step = qwen3_vl::train::checkpoint::read_state(&step).unwrap().step;
            let more = std::fs::read_to_string(&config).unwrap();
            let more = more.replace("steps = 100000", &format!("steps = {}", step + 1));
            std::fs::write(&config, more).unwrap();
            std::fs::create_dir(out.join(".partial-step-99999999")).unwrap();
            let done = train("run", &config, &[]).assert().success();
            let text = said(&done.get_output().stderr);
            assert!(text.contains(&format!("going on from step {step}\n")), "{text}");
            assert_eq!(
                begins_with(&out, ".partial-"),
                0,
                "what was half written is gone, of any step"
            );
            return;
        }
        assert!(attempt < 50, "it was never caught while saving");
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_a_checkpoint_and_the_next_run_goes_on() {
    let folder = Folder::new();
    let (config, child) = start(&folder);
    wait_for(|| begins_with(&folder.at("out"), "step-") > 0);
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output.stderr));
    let step = qwen3_vl::train::checkpoint::newest(&folder.at("out")).unwrap();
    let step = qwen3_vl::train::checkpoint::read_state(&step).unwrap().step;
    let log = std::fs::read_to_string(folder.at("out/log.jsonl")).unwrap();
    assert_eq!(log.lines().count() as u64, step, "every step is saved and logged");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("steps = 100000", &format!("steps = {}", step + 2));
    std::fs::write(&config, text).unwrap();
    let done = train("run", &config, &[]).assert().success();
    assert!(said(&done.get_output().stderr).contains(&format!("going on from step {step}\n")));
}

/// A limit on the size of files stands for a full disk: the checkpoint cannot be written, the one before stays.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_checkpoint_before() {
    let folder = Folder::new();
    let rows = [row("Say hi", "Hi there."), row("1+1?", "2")];
    let config = folder.config(&rows, "steps = 2");
    train("run", &config, &["-q"]).assert().success();
    let text = std::fs::read_to_string(&config).unwrap().replace("steps = 2", "steps = 3");
    std::fs::write(&config, text).unwrap();
    let program = env!("CARGO_BIN_EXE_qwen3-vl");
    let script = format!("trap '' XFSZ; ulimit -f 32; exec {program:?} train run -q {config:?}");
    let mut shell = Command::new("bash");
    let failed = shell.args(["-c", &script]).env("QWEN3_VL_DEVICE", "flex").assert().code(1);
    let text = said(&failed.get_output().stderr);
    assert!(text.contains(".partial-step-00000003") && text.contains("too large"), "{text}");
    assert_eq!(begins_with(&folder.at("out"), ".partial-"), 0, "the space is given back");
    let newest = qwen3_vl::train::checkpoint::newest(&folder.at("out")).unwrap();
    assert!(newest.ends_with("step-00000002"), "{newest:?}");
    let done = train("run", &config, &[]).assert().success();
    assert!(said(&done.get_output().stderr).contains("going on from step 2\n"));
}

/// A model of 15 million random parameters, whose memory is well above that of the program itself.
fn middle_sized(folder: &Folder) -> PathBuf {
    let source = common::copy_of("dense_tied");
    let model = folder.at("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(source.path()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".safetensors") {
            std::fs::copy(entry.path(), model.join(name)).unwrap();
        }
    }
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value) in
        [("hidden_size", 256), ("intermediate_size", 1024), ("num_hidden_layers", 6)]
    {
        config["text_config"][key] = json!(value);
    }
    for (key, value) in
        [("hidden_size", 256), ("intermediate_size", 1024), ("out_hidden_size", 256)]
    {
        config["vision_config"][key] = json!(value);
    }
    std::fs::write(&path, config.to_string()).unwrap();
    model
}

/// The predicted peak against that of real runs, less what the program takes without a model worth the name. Batches are not quite
/// full, and how long two threads hold what they have read differs from run to run: it may be a fifth less, but hardly more.
#[test]
#[cfg(target_os = "linux")]
fn predicted_memory_is_near_what_a_run_takes() {
    let folder = Folder::new();
    let model = middle_sized(&folder);
    image::RgbImage::new(384, 384).save(folder.at("big.png")).unwrap();
    let big = with(
        picture("big.png"),
        "conversations",
        json!([
        {"from": "human", "value": "<image>Q"}, {"from": "gpt", "value": "what ".repeat(40)}]),
    );
    let rows = vec![big; 8];
    let measured = |config: &Path| {
        let _ = std::fs::remove_dir_all(folder.at("out"));
        let report = train("check", config, &["--json"]).assert().success();
        let report: Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
        train("run", config, &["-q"]).assert().success();
        let log = std::fs::read_to_string(folder.at("out/log.jsonl")).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        let mib = |value: &Value| value.as_f64().unwrap() / f64::from(1 << 20);
        (mib(&report["memory"]["peak"]), mib(&last["peak_bytes"]))
    };
    let small = folder.config(&[row("Say hi", "Hi there.")], "steps = 2\nbatch = { tokens = 1 }");
    let (predicted, taken) = measured(&small);
    let program = taken - predicted;
    let all = "init = \"random\"\nsteps = 3\ntrain = { vision = true }\n";
    for (batch, recompute) in [
        ("tokens = 2048", "none"),
        ("tokens = 2048", "block"),
        ("tokens = 1024, accumulate = 2", "none"),
        ("tokens = 256", "none"),
    ] {
        folder.config(&rows, "");
        let more =
            format!("{all}batch = {{ {batch} }}\nmemory = {{ recompute = \"{recompute}\" }}");
        let (predicted, taken) = measured(&folder.toml(&model, &more));
        let taken = taken - program;
        println!("{batch}, {recompute}: predicted {predicted:.0} MiB, taken {taken:.0} MiB");
        let ratio = taken / predicted;
        assert!(
            (0.8..1.1).contains(&ratio),
            "{batch}, {recompute}: {predicted} MiB, taken {taken} MiB"
        );
    }
}
