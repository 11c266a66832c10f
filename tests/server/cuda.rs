//! A server on a CUDA card that has no room, and on one that breaks. It needs the emulated driver, with which
//! `scripts/test-cuda` runs it.

use crate::harness::{Server, ask};

/// Both fail those who ask; after the first the others are answered as before, after the second nobody is, and the process goes on.
#[test]
fn a_server_outlives_a_card_without_room_and_a_broken_one() {
    if std::env::var_os("CUDA_EMULATOR_CACHE").is_none() {
        println!("skipped: the driver is not emulated");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken");
    let variables =
        [("CUDA_EMULATOR_MEMORY", "16"), ("CUDA_EMULATOR_FAULT", broken.to_str().unwrap())];
    let arguments = ["--device", "cuda:0", "--max-num-seqs", "1", "--kv-cache-memory", "64MB"];
    let server = Server::start_where(&variables, "dense_tied", &arguments);
    let [short, long] = [20, 570].map(|words| ask(&"hello world ".repeat(words), &[], 3));
    let words = |answer: serde_json::Value| answer["choices"][0]["message"]["content"].clone();
    let before = words(server.chat(&short));
    let fails = |code: &str| {
        let (status, answer) = server.try_post("/v1/chat/completions", &long);
        assert_eq!((status, &answer["error"]["code"]), (503, &code.into()), "{answer}");
    };
    fails("device_refused");
    assert_eq!(words(server.chat(&short)), before);

    std::fs::write(&broken, "").unwrap();
    fails("device_lost");
    fails("device_lost");
    let (status, health) = server.get("/health");
    assert!(status == 503 && health.contains("device_lost"), "{status} {health}");
    assert_eq!(server.get("/version").0, 200);
}

/// The answer has been replayed for a while when the card breaks.
#[test]
fn a_card_that_breaks_during_a_replay_is_told_as_lost() {
    if std::env::var_os("CUDA_EMULATOR_CACHE").is_none() {
        println!("skipped: the driver is not emulated");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken");
    let variables = [("CUDA_EMULATOR_FAULT", broken.to_str().unwrap())];
    let server = Server::start_where(&variables, "dense_tied", &["--device", "cuda:0"]);
    let mut body = ask("hello world", &[], 3000);
    body["ignore_eos"] = true.into();
    let (status, answer) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.try_post("/v1/chat/completions", &body));
        let tokens = || server.metric("qwen3_vl_inter_token_latency_seconds_count");
        server.wait_for("tokens", || tokens() >= 25.0);
        std::fs::write(&broken, "").unwrap();
        asked.join().unwrap()
    });
    assert_eq!((status, &answer["error"]["code"]), (503, &"device_lost".into()), "{answer}");
    // Told once, and nothing panicked.
    let complaints = server.complaints();
    assert!(
        matches!(&complaints[..], [one] if one.contains("device `cuda:0` was lost")),
        "{complaints:?}"
    );
}
