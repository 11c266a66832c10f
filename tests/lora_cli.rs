//! LoRA from the command line: train, export, answer.

mod common;

use std::path::Path;
use std::process::Output;

use common::training::Folder;
use qwen3_vl::train::config::TrainConfig;

fn program(arguments: &[&str]) -> Output {
    common::program("flex").args(arguments).output().unwrap()
}

/// Runs and expects an exit code; returns what was said on both streams.
fn says(arguments: &[&str], code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = program(arguments);
    let [out, said] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(status.code(), Some(code), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    (out, said)
}

fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    let (_, said) = says(arguments, code);
    for word in words {
        assert!(said.contains(word), "{arguments:?} should mention {word}: {said}");
    }
}

const LORA: &str = "train = { merger = true, llm = \"lora\" }\nmethod = { kind = \"lora\", rank = 4, targets = [\"llm.attention\"] }\n";
const STEPS: &str = "steps = 3\nbatch = { tokens = 300 }\nlr = { base = 1e-2, warmup = 0 }\noptimizer = { clip = 0.0 }\n";

/// Token ids of a greedy answer about a picture.
fn answer(model: &str, picture: &Path, more: &[&str]) -> serde_json::Value {
    let picture = picture.to_str().unwrap();
    let question = ["run", model, "--image", picture, "-p", "What colour?", "-n", "12", "--greedy"];
    let (out, _) = says(&[&question[..], &["--json", "--dtype", "f32"], more].concat(), 0);
    serde_json::from_str::<serde_json::Value>(&out).unwrap()["token_ids"].clone()
}

#[test]
fn a_run_leaves_as_a_checkpoint_or_as_an_adapter() {
    let folder = Folder::new();
    folder.config("dense_tied", "run", &format!("{STEPS}{LORA}"));
    let path = |name: &str| folder.folder.path().join(name).to_str().unwrap().to_owned();
    let (_, said) = says(&["train", "run", &path("run.toml")], 0);
    for words in
        ["parameters, frozen; 6144 of LoRA, trained", "LoRA of rank 4, scaled by 2", "step 3"]
    {
        assert!(said.contains(words), "{said}");
    }
    let (_, said) =
        says(&["train", "export", &path("run.toml"), "--out", &path("a"), "--adapter"], 0);
    assert!(said.contains("step 3: 16 pairs and"), "{said}");
    says(&["train", "export", &path("run"), "--merge", "--out", &path("merged")], 0);
    let base = common::fixtures().join("dense_tied");
    let (base, picture) = (base.to_str().unwrap(), folder.folder.path().join("p0.png"));
    let merged = answer(&path("merged"), &picture, &[]);
    assert_eq!(answer(base, &picture, &["--lora", &path("a")]), merged);
    assert_ne!(answer(base, &picture, &[]), merged);

    let out = path("b");
    let export = ["train", "export", &path("run"), "--out", &out, "--adapter"];
    fails(&[&export[..], &["--merge"]].concat(), 2, &["--merge"]);
    fails(&[&export[..], &["--dtype", "bf16"]].concat(), 2, &["--dtype"]);
    let other = common::fixtures().join("dense_untied");
    let asked = ["run", other.to_str().unwrap(), "-p", "x", "--lora", &path("a")];
    fails(&asked, 1, &["model"]);
    fails(&["run", base, "-p", "x", "--lora", &path("nowhere")], 1, &["adapter_config.json"]);
}

#[test]
fn runs_without_lora_have_no_adapter() {
    let folder = Folder::new();
    folder.config("dense_tied", "run", STEPS);
    let path = |name: &str| folder.folder.path().join(name).to_str().unwrap().to_owned();
    says(&["train", "run", "--quiet", &path("run.toml")], 0);
    let export = ["train", "export", &path("run"), "--out", &path("a"), "--adapter"];
    fails(&export, 2, &["--adapter is for runs with LoRA"]);
    says(&["train", "export", &path("run"), "--out", &path("a")], 0);
}

#[test]
fn a_wrong_target_is_told_by_check() {
    let folder = Folder::new();
    let wrong = LORA.replace("llm.attention", "llm.attn");
    folder.config("dense_tied", "run", &format!("{STEPS}{wrong}"));
    let config = folder.folder.path().join("run.toml");
    for verb in ["check", "run"] {
        let words = ["`method.targets` names `llm.attn`", "the nearest name is `llm."];
        fails(&["train", verb, config.to_str().unwrap()], 1, &words);
    }
}

/// The example in the repository is one that is read.
#[test]
fn the_example_is_a_run_with_lora() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/lora.toml");
    let config = TrainConfig::open(&path).unwrap();
    assert_eq!((config.lora().unwrap().rank, config.lora().unwrap().scale()), (16, 2.0));
}
