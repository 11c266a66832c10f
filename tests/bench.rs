//! `qwen3-vl bench`: every figure is there and can be, in every format, for stored and for random weights.

mod common;

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

/// Small enough for a second.
const QUICK: [&str; 13] = [
    "-p",
    "9",
    "-n",
    "2",
    "-r",
    "2",
    "--batch",
    "3",
    "--read",
    "1MB",
    "--square",
    "64",
    "--threads=2",
];

/// Exit code, standard output and standard error.
fn bench(arguments: &[&str]) -> (Option<i32>, String, String) {
    bench_on(&common::cpu_devices()[0], arguments)
}

fn bench_on(device: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let cache = tempfile::tempdir().unwrap();
    let mut command = common::program(device);
    command.arg("bench").args(arguments).stdin(Stdio::null()).env("XDG_CACHE_HOME", cache.path());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn done(arguments: &[&str]) -> String {
    let image = if arguments.contains(&"--image") { &[][..] } else { &["--image", "96x64"] };
    let (code, said, errors) = bench(&[&QUICK[..], image, arguments].concat());
    assert_eq!(code, Some(0), "{arguments:?}: {errors}");
    said
}

fn figures(shape: &str, more: &[&str]) -> Value {
    serde_json::from_str(&done(&[&["--shape", shape, "-o", "json"], more].concat())).unwrap()
}

fn fixture(name: &str) -> String {
    common::fixtures().join(name).to_str().unwrap().to_owned()
}

/// A folder with the configuration of a fixture alone.
fn without_weights(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = Path::new(&fixture(name)).join("config.json");
    std::fs::copy(config, folder.path().join("config.json")).unwrap();
    folder
}

/// The schema: what is a number here is one for everybody who reads it.
const NUMBERS: [(&str, &[&str]); 12] = [
    ("", &["schema"]),
    ("/model", &["parameters"]),
    ("/machine", &["threads", "read_bytes_per_s", "matmul_flop_per_s", "matmul_side"]),
    (
        "/settings",
        &[
            "repetitions",
            "prompt_tokens",
            "new_tokens",
            "streams",
            "image_width",
            "image_height",
            "resized_width",
            "resized_height",
        ],
    ),
    ("/load", &["s", "first_text_token_s"]),
    ("/preprocess", &["ms", "ms_per_megapixel"]),
    (
        "/vision",
        &[
            "patches",
            "tokens",
            "ms",
            "patches_per_s",
            "tokens_per_s",
            "flop",
            "flop_per_s",
            "matmul_share",
        ],
    ),
    ("/prefill", &["tokens", "ms", "tokens_per_s", "flop", "flop_per_s", "matmul_share"]),
    (
        "/question",
        &["tokens", "ms", "tokens_per_s", "flop", "flop_per_s", "matmul_share", "first_token_ms"],
    ),
    (
        "/decode",
        &[
            "ms_per_token",
            "tokens_per_s",
            "past_tokens",
            "weight_bytes_per_token",
            "cache_bytes_per_token",
            "bytes_per_s",
            "memory_share",
            "flop_per_s",
        ],
    ),
    (
        "/batch_decode",
        &[
            "streams",
            "ms_per_step",
            "tokens_per_s",
            "ratio",
            "weight_bytes_per_step",
            "cache_bytes_per_step",
            "bytes_per_s",
            "memory_share",
            "flop_per_s",
        ],
    ),
    ("/memory", &["weight_bytes", "cache_bytes", "streams_cache_bytes"]),
];
/// Of Linux.
const OF_THE_SYSTEM: [&str; 4] = [
    "/memory/peak_bytes",
    "/memory/streams_peak_bytes",
    "/machine/load_average_start",
    "/machine/load_average_end",
];

fn check(report: &Value) {
    for (place, keys) in NUMBERS {
        for key in keys {
            let found = &report.pointer(place).unwrap()[key];
            let number = found.as_f64().unwrap_or_else(|| panic!("{place}/{key} is {found}"));
            assert!(number > 0.0 && number.is_finite(), "{place}/{key} is {number}");
        }
    }
    for path in OF_THE_SYSTEM {
        let found = report.pointer(path).unwrap_or_else(|| panic!("{path} is missing"));
        assert!(found.as_f64().is_some_and(|x| x >= 0.0) || !cfg!(target_os = "linux"), "{path}");
    }
    let texts =
        ["/version", "/model/shape", "/model/weights", "/machine/device", "/machine/hardware"];
    for path in texts.into_iter().chain(["/machine/matmul_kernel"]) {
        assert!(
            report.pointer(path).and_then(Value::as_str).is_some_and(|t| !t.is_empty()),
            "{path}"
        );
    }
    let first = report["question"]["first_token_ms"].as_f64().unwrap();
    let parts = ["vision", "question"].map(|part| report[part]["ms"].as_f64().unwrap());
    assert!(first >= parts[0].min(parts[1]), "{first} after {parts:?}");
}

#[test]
fn every_figure_is_there_and_positive() {
    let report = figures(&fixture("dense_tied"), &[]);
    check(&report);
    assert_eq!(report["model"]["random"], false);
    assert_eq!(report["settings"]["streams"], 3);
    assert_eq!(report["machine"]["threads"], 2);
    assert_eq!(report["preprocess"]["decode_ms"], Value::Null);
    assert_eq!(report["decode"]["past_tokens"], 9.5);
    // The prompt of 9 tokens once, and of 3 streams one token each, half of the second one, and the new one.
    let bytes = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap();
    let (one, all) =
        (bytes("/decode/cache_bytes_per_token"), bytes("/batch_decode/cache_bytes_per_step"));
    assert_eq!(all * 10.5, one * (9.0 + 3.0 * 2.5));
    assert_eq!(
        bytes("/decode/weight_bytes_per_token"),
        bytes("/batch_decode/weight_bytes_per_step")
    );
    assert_eq!(report["speculative"]["ratio"], Value::Null);
}

/// A greedy answer is told apart from the tokens that the other figures are about.
#[test]
fn guessed_tokens_are_told_apart() {
    let shape = fixture("dense_tied");
    let guess = ["--shape", &shape, "-p", "9", "-n", "24", "-r", "1", "--read", "1MB", "--square"];
    let how = ["64", "--only", "text", "--speculative", "ngram", "--speculative-tokens", "4", "-o"];
    let said = |format| {
        let (code, said, errors) = bench(&[&guess[..], &how, &[format]].concat());
        assert_eq!(code, Some(0), "{errors}");
        said
    };
    let report: Value = serde_json::from_str(&said("json")).unwrap();
    let part = |key: &str| report["speculative"][key].as_f64().unwrap_or(-1.0);
    for key in ["tokens_per_s", "plain_tokens_per_s", "ratio"] {
        assert!(part(key) > 0.0, "{key} of {report}");
    }
    assert_eq!(part("guesses"), 4.0);
    let (drafted, accepted) = (part("drafted_tokens"), part("accepted_tokens"));
    assert!((0.0..=drafted).contains(&accepted) && accepted <= 24.0, "{report}");
    let table = said("md");
    for words in ["greedy answer, a token", "the same, tokens guessed", "guesses right"] {
        assert!(table.contains(words), "{words} in {table}");
    }
}

/// With the vision tower that lies beside it, and without one.
#[test]
fn gguf_files_are_measured() {
    let model = fixture("gguf/model.gguf");
    let report = figures(&model, &[]);
    check(&report);
    assert_eq!(report["model"]["random"], false);
    let mmproj = fixture("gguf/mmproj-model.gguf");
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("model.gguf");
    std::fs::copy(&model, &alone).unwrap();
    let alone = alone.to_str().unwrap();
    check(&figures(alone, &["--mmproj", &mmproj]));
    let report = figures(alone, &[]);
    for path in ["/vision/ms", "/question/ms", "/question/first_token_ms"] {
        assert_eq!(report.pointer(path), Some(&Value::Null), "{path}");
    }
    assert!(report["prefill"]["ms"].is_number() && report["decode"]["bytes_per_s"].is_number());
    let (code, _, errors) = bench(&["--shape", alone, "--only", "question"]);
    assert!(code == Some(2) && errors.contains("--mmproj"), "{errors}");
    let (code, _, errors) = bench(&["--shape", "2b", "--mmproj", &mmproj]);
    assert!(code == Some(1) && errors.contains("--mmproj goes with a GGUF file"), "{errors}");
}

/// A card's own memory is what its shares are of.
#[test]
fn cards_are_measured_as_processors_are() {
    for device in common::cards() {
        let shape = fixture("dense_tied");
        let only = ["--shape", &shape, "--image", "96x64", "-o", "json", "--dtype", "f32"];
        let (code, said, errors) = bench_on(&device, &[&QUICK[..], &only].concat());
        assert_eq!(code, Some(0), "{device}: {errors}");
        let report: Value = serde_json::from_str(&said).unwrap();
        check(&report);
        assert_eq!(report["machine"]["device"], device.as_str());
        assert_eq!(report["batch_decode"]["replayed_steps"], 2.0, "as a server writes them");
        // Each of the three streams has the prompt of 9 tokens for itself.
        let bytes = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap();
        let one = bytes("/decode/cache_bytes_per_token") / 10.5;
        assert!(bytes("/batch_decode/cache_bytes_per_step") > one * 27.0, "{report}");
    }
}

#[cfg(feature = "nano")]
#[test]
fn nano_and_a_file_are_measured() {
    let report = figures("nano", &["--image", "examples/nano/shapes.png"]);
    check(&report);
    assert!(report["preprocess"]["decode_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    assert_eq!(report["settings"]["image_width"], 320);
    assert!((3_500_000..4_000_000).contains(&report["model"]["parameters"].as_u64().unwrap()));
}

/// Tokens that are held before the prompt are read before the clock starts, and attended to.
#[test]
fn prompts_are_read_behind_others() {
    let [none, some] = [&[][..], &["-d", "200"]].map(|more| figures("nano", more));
    let number = |report: &Value, path: &str| report.pointer(path).and_then(Value::as_f64).unwrap();
    let of = |path: &str| number(&some, path) - number(&none, path);
    assert_eq!((of("/settings/depth"), of("/settings/prompt_tokens")), (200.0, 0.0));
    assert_eq!((of("/prefill/tokens"), of("/decode/past_tokens")), (0.0, 200.0));
    assert!(of("/prefill/flop") > 0.0);
}

/// Dense, with experts and rounded: a folder without weights is filled, and its memory told.
#[test]
fn random_weights_are_made_where_there_are_none() {
    let dense = without_weights("dense_untied");
    let bytes = |more: &[&str]| {
        let report = figures(dense.path().to_str().unwrap(), more);
        check(&report);
        assert_eq!(report["model"]["random"], true);
        let part = |path: &str| report.pointer(path).and_then(Value::as_u64).unwrap();
        [part("/memory/weight_bytes"), part("/decode/weight_bytes_per_token")]
    };
    let (plain, half) = (bytes(&["--dtype", "f32"]), bytes(&[]));
    let (eight, four) = (bytes(&["--quant", "int8"]), bytes(&["--quant", "int4-g64"]));
    for which in 0..2 {
        let sizes = [plain, half, eight, four].map(|bytes| bytes[which]);
        assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
    }
    // What other programs would have made is measured by weights of ours.
    let group =
        json!({"group_0": {"weights": {"num_bits": 4, "group_size": 64, "symmetric": false}}});
    for (settings, weights) in [
        (json!({"quant_method": "awq", "bits": 4, "group_size": 128}), "int4-g128"),
        (json!({"quant_method": "fp8", "weight_block_size": [128, 128]}), "int8-g128"),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": group}),
            "int4-g64",
        ),
    ] {
        let config = dense.path().join("config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
        json["quantization_config"] = settings;
        std::fs::write(&config, json.to_string()).unwrap();
        let report = figures(dense.path().to_str().unwrap(), &[]);
        check(&report);
        assert_eq!(report["model"]["weights"], weights);
    }
    let experts = without_weights("moe");
    check(&figures(experts.path().to_str().unwrap(), &["--dtype", "f32"]));
}

#[test]
fn tables_and_lines_can_be_read() {
    let shape = fixture("dense_tied");
    let csv = done(&["--shape", &shape, "-o", "csv"]);
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("name,value"));
    let decode = lines.find(|line| line.starts_with("decode.tokens_per_s,")).unwrap();
    assert!(decode.split_once(',').unwrap().1.parse::<f64>().unwrap() > 0.0);
    assert!(csv.lines().all(|line| line.split_once(',').is_some_and(|(name, _)| !name.is_empty())));
    let json = figures(&shape, &[]);
    let count = |value: &Value| value.as_object().map(serde_json::Map::len).unwrap_or(1);
    let fields: usize = json.as_object().unwrap().values().map(count).sum();
    assert_eq!(csv.lines().count(), 1 + fields);

    let table = done(&["--shape", &shape]);
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 2 + 9, "{table}");
    assert!(rows.iter().all(|row| row.matches('|').count() == 5 && row.ends_with('|')), "{table}");
    assert!(rows[1].trim_matches('|').chars().all(|c| "-|".contains(c)), "{table}");
    for words in ["tokens/s", "patches/s", "GB/s", "% of memory", "% of matmul", "peak", "load"] {
        assert!(table.contains(words), "{words} in {table}");
    }
    let streams = rows.iter().find(|row| row.contains("answer, 3 streams")).unwrap();
    assert!(streams.contains("% of memory") && streams.contains("FLOP/s"), "{table}");
}

/// What is left out is null and has no row; streams go on from the text.
#[test]
fn stages_can_be_measured_alone() {
    let shape = fixture("dense_tied");
    let report = figures(&shape, &["--only", "picture"]);
    assert!(report["preprocess"]["ms"].is_number() && report["memory"]["peak_bytes"].is_number());
    for path in ["/vision/ms", "/question/first_token_ms", "/prefill/ms", "/decode/tokens_per_s"] {
        assert_eq!(report.pointer(path), Some(&Value::Null), "{path}");
    }
    let report = figures(&shape, &["--only", "streams"]);
    assert!(
        report["batch_decode"]["ratio"].is_number() && report["decode"]["ms_per_token"].is_number()
    );
    assert_eq!(report["preprocess"]["ms"], Value::Null);
    let table = done(&["--shape", &shape, "--only", "question,text"]);
    assert!(table.contains("answer, a token") && table.contains("vision tower"), "{table}");
    assert!(!table.contains("streams |") && !table.contains("preprocess"), "{table}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let shape = fixture("dense_tied");
    let context = ["--shape", &shape, "-p", "1000000"];
    // Before there are weights, for which few machines have room.
    let early = ["--shape", "30b-a3b", "-p", "1000000"];
    let guess = ["--shape", &shape, "--only", "picture", "--speculative", "ngram"];
    for (arguments, code, words) in [
        (&["--threads", "0"][..], 2, ["--threads", "0 is not in 1.."]),
        (&["--batch", "0"], 2, ["--batch", "1..=256"]),
        (&["-r", "0"], 2, ["--repetitions", "1..=1000"]),
        (&["--image", "0x7"], 2, ["--image", "640x480"]),
        (&["--image", "nowhere.png"], 2, ["nowhere.png", "no such file"]),
        (&["--shape", "3b"], 1, ["3b", "2b, 4b, 8b, 30b-a3b"]),
        (&context, 2, ["context", "1000065"]),
        (&early, 2, ["context", "1000065"]),
        (&["--shape", "2b", "--dtype", "f12"], 2, ["f12", "bf16"]),
        (&["decode"], 1, ["decode", "2b, 4b, 8b, 30b-a3b"]),
        (&["nano", "--shape", "2b"], 2, ["SHAPE", "cannot be used with"]),
        (&["--shape", &shape, "--read", "900TB"], 1, ["--read 818.5 TiB", "are free"]),
        (&guess, 2, ["--speculative", "--only"]),
    ] {
        let (found, said, errors) = bench(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {said}{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        for word in words {
            assert!(errors.contains(word), "{arguments:?} should mention {word}: {errors}");
        }
    }
}

/// A checkpoint of 151 million parameters, 16 layers of almost nothing but matrices.
#[cfg(all(target_os = "linux", feature = "flex"))]
fn of_some_size() -> tempfile::TempDir {
    use burn::tensor::DType;
    use qwen3_vl::backends::{Placement, Precision, device};
    use qwen3_vl::model::Qwen3VlConfig;
    use qwen3_vl::weights::export::{ExportOptions, export_model};
    use qwen3_vl::weights::{LoadHow, random_model};

    let source = common::copy_of("dense_tied");
    std::fs::remove_file(source.path().join("model.safetensors")).unwrap();
    let path = source.path().join("config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in
        [("hidden_size", 768), ("intermediate_size", 4096), ("num_hidden_layers", 16)]
    {
        json["text_config"][key] = value.into();
    }
    json["vision_config"]["out_hidden_size"] = 768.into();
    for part in ["", "/text_config"] {
        json.pointer_mut(part).unwrap()["dtype"] = "bfloat16".into();
    }
    std::fs::write(&path, json.to_string()).unwrap();
    let config = Qwen3VlConfig::from_json(&json.to_string()).unwrap();
    let flex = device::open("flex").unwrap();
    let placement = Placement::whole(&flex, config.text.layers);
    let precision = Precision { weights: DType::BF16, compute: DType::F32 };
    let how = LoadHow::new(precision, None);
    let model = random_model(&config, &placement, how, &mut ()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("bf16");
    export_model(&model, source.path(), &out, &ExportOptions::default(), &mut ()).unwrap();
    folder
}

/// Beside what the program takes without them, weights that lie in a file are resident once, and keys and values: nothing is
/// converted or copied, in bf16, rounded by this program, or as it is read.
#[cfg(all(target_os = "linux", feature = "flex"))]
#[test]
fn resident_memory_is_weights_and_cache() {
    let folder = of_some_size();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for scheme in ["int8", "int4"] {
        let program = &mut common::program("flex");
        let output = program
            .args(["quantize", &path("bf16"), "-o", &path(scheme), "--quant", scheme])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let memory = |shape: &str, more: &[&str]| -> [u64; 2] {
        let arguments =
            [&QUICK[..], &["--only", "text", "--shape", shape, "-o", "json"], more].concat();
        let (code, said, errors) = bench_on("flex", &arguments);
        assert_eq!(code, Some(0), "{shape} {more:?}: {errors}");
        let report: Value = serde_json::from_str(&said).unwrap();
        let bytes = |key: &str| report["memory"][key].as_u64().unwrap();
        [bytes("peak_bytes"), bytes("weight_bytes") + bytes("cache_bytes")]
    };
    let [base, _] = memory(&fixture("dense_tied"), &[]);
    let (bf16, int8, int4) = (path("bf16"), path("int8"), path("int4"));
    // What is rounded as it is read is there in f32 besides, one matrix at a time.
    let matrix = 768 * 4096 * 4;
    let cases: [(&str, &[&str], u64, u64); 4] = [
        (&bf16, &[], 302, 0),
        (&int8, &[], 153, 0),
        (&int4, &[], 80, 0),
        (&bf16, &["--quant", "int8"], 153, matrix),
    ];
    for (shape, more, least, beside) in cases {
        let [peak, held] = memory(shape, more);
        assert!(held > least * 1_000_000, "{shape} {more:?}: {held}");
        let most = base + held + held * 15 / 100 + beside;
        assert!(
            peak <= most,
            "{shape} {more:?}: {peak} of {most}, of which {base} without weights"
        );
    }
}
