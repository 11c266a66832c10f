//! `qwen3-vl bench serve` on a server of this build.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Server, program};

fn bench(server: &Server, file: &Path) {
    let mut command = program();
    command.args(["bench", "serve", "--url", &server.url, "--api-key", "secret"]);
    command.args(["--concurrency", "2", "--num-requests", "3", "-n", "4", "-o"]).arg(file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn results_are_kept_with_what_they_depend_on() {
    let server = Server::start("dense_tied", &["--api-key", "secret"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results.json");
    (0..2).for_each(|_| bench(&server, &file));
    let text = std::fs::read_to_string(&file).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["requests"], &report["failed"]), (&3.into(), &0.into()), "{report}");
    assert_eq!(report["server"]["model"], "fixture");
    assert_eq!(report["server"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["machine"]["processor"].is_string() && report["date"].is_string(), "{report}");
    let first = |name: &str| report[name]["mean"].as_f64().unwrap();
    assert!(first("engine_first_token_ms") <= first("time_to_first_token_ms"), "{report}");
    assert!(report["command"].as_str().unwrap().starts_with("qwen3-vl bench serve"), "{report}");
    assert!(!text.contains("secret"), "{text}");

    let file = folder.path().join("results.md");
    (0..2).for_each(|_| bench(&server, &file));
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches(": fixture, 2 clients\n").count(), 2, "{text}");
    assert_eq!(text.matches("first token, ms").count(), 2, "{text}");
    assert!(text.contains("load average") && !text.contains("secret"), "{text}");
}
