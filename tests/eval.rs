//! `train export` and `eval` from the command line: a trained model is written, loaded and judged.

mod common;

use assert_cmd::Command;

const ROWS: &str = r#"{"messages":[{"role":"user","content":"Say hi"},{"role":"assistant","content":"Hi there."}],"channel":"greeting"}
{"messages":[{"role":"user","content":"box?"},{"role":"assistant","content":"[{\"bbox_2d\": [312, 125, 812, 625], \"label\": \"square\"}]"}],"channel":"box"}
{"messages":[{"role":"user","content":"When?"},{"role":"assistant","content":"From 1.0 to 2.5 seconds."},{"role":"user","content":"Sure?"},{"role":"assistant","content":"Yes."}],"channel":"time"}
"#;

fn qwen3_vl(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("qwen3-vl").unwrap();
    command.args(args).env("QWEN3_VL_DEVICE", "flex");
    command
}

#[test]
fn what_was_learned_by_heart_is_answered_after_export() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(at("data.jsonl"), ROWS).unwrap();
    // The fixture ends no answer by itself.
    let source = common::copy_of("dense_tied");
    let model = source.path();
    let tokenizer = std::fs::read(model.join("tokenizer.json")).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_slice(&tokenizer).unwrap();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let end = added.iter().find(|token| token["content"] == "<|im_end|>").unwrap();
    let defaults = format!("{{\"eos_token_id\": {}}}", end["id"]);
    std::fs::remove_file(model.join("generation_config.json")).unwrap();
    std::fs::write(model.join("generation_config.json"), defaults).unwrap();
    let config = format!(
        "model = {model:?}\noutput = \"run\"\ndata = [{{ path = \"data.jsonl\" }}]\nsteps = 80\n\
         train = {{ vision = false }}\nlr = {{ base = 3e-3, warmup = 5, schedule = \"constant\" }}\n"
    );
    std::fs::write(at("run.toml"), config).unwrap();
    qwen3_vl(&["train", "run", &at("run.toml"), "-q"]).assert().success();
    qwen3_vl(&[
        "train",
        "export",
        &at("run"),
        "--out",
        &at("trained"),
        "--max-shard-size",
        "300KB",
    ])
    .assert()
    .success();
    assert!(folder.path().join("trained/model.safetensors.index.json").is_file());
    let eval = |model: &str| -> serde_json::Value {
        let args =
            ["eval", model, &at("data.jsonl"), "--json", "-q", "-n", "60", "--out", &at("out")];
        let output = qwen3_vl(&args).assert().success().get_output().stdout.clone();
        serde_json::from_slice(&output).unwrap()
    };
    let report = eval(&at("trained"));
    assert_eq!(report["all"]["answers"], 4, "{report}");
    assert_eq!(report["all"]["exact_match"], 1.0, "{report}");
    assert_eq!(report["channels"]["box"]["box_iou"], 1.0);
    assert_eq!(report["channels"]["time"]["interval_near"], 1.0);
    assert_eq!(report["channels"]["greeting"]["box_iou"], serde_json::Value::Null);
    let lines = std::fs::read_to_string(at("out")).unwrap();
    assert!(lines.lines().count() == 4 && lines.contains("\"answer\":\"Hi there.\""), "{lines}");
    let before = eval(&model.display().to_string());
    assert_eq!(before["all"]["exact_match"], 0.0, "{before}");
    let again = qwen3_vl(&["train", "export", &at("run"), "--out", &at("trained")]).assert();
    let said = String::from_utf8_lossy(&again.failure().get_output().stderr).into_owned();
    assert!(said.contains("not an empty folder"), "{said}");
    let none = qwen3_vl(&["train", "export", &at(""), "--out", &at("x")]).assert().failure();
    assert!(String::from_utf8_lossy(&none.get_output().stderr).contains("no checkpoint of a run"));
}
