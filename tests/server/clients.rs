//! The official Python clients.

use std::process::Command;

use crate::common::fixtures;
use crate::harness::Server;

/// A Python that has both packages: `QWEN3_VL_TEST_PYTHON`, else `python3`.
fn python() -> Option<String> {
    let python = std::env::var("QWEN3_VL_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import openai, anthropic"]).output();
    found.is_ok_and(|output| output.status.success()).then_some(python)
}

#[test]
fn official_clients_understand_the_server() {
    let Some(python) = python() else {
        println!(
            "skipped: no python3 with the packages openai and anthropic (see QWEN3_VL_TEST_PYTHON)"
        );
        return;
    };
    let server = Server::start("dense_tied", &[]);
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/clients.py");
    let mut command = Command::new(python);
    command.arg(script).arg(&server.url).arg(fixtures().join("e2e/gradient.png"));
    for proxy in
        ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
    {
        command.env_remove(proxy);
    }
    let output = command.output().unwrap();
    let (said, wrong) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{wrong}");
    assert_eq!(said.lines().count(), 13, "{said}");
}
