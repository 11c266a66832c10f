//! Many clients with good, bad and interrupted requests: no wrong answer, no crash, no growth.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::{Server, alone, ask};

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

const QUESTIONS: [(&str, &[&str]); 4] = [
    ("What is this?", &["e2e/gradient.png"]),
    ("Tell me more about it, please.", &[]),
    ("Compare.", &["e2e/waves.png", "e2e/blocks.png"]),
    ("Hello", &[]),
];

#[cfg(target_os = "linux")]
fn resident_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn client(server: &Server, seed: u64, rounds: usize, expected: &[Value], right: &AtomicUsize) {
    let mut random = Random(seed);
    for _ in 0..rounds {
        let which = random.next(QUESTIONS.len());
        let (text, pictures) = QUESTIONS[which];
        let mut body = ask(text, pictures, 12);
        match random.next(5) {
            0 => {
                (body["stream"], body["max_tokens"]) = (json!(true), json!(900));
                let mut stream = server.open_stream("/v1/chat/completions", &body);
                let _ = stream.read(&mut [0; 64]);
            }
            1 => {
                body["max_tokens"] = json!("many");
                assert_eq!(server.try_post("/v1/chat/completions", &body).0, 400);
            }
            _ => {
                let (status, reply) = server.try_post("/v1/chat/completions", &body);
                assert_eq!(status, 200, "{reply}");
                assert_eq!(reply["choices"][0]["message"]["content"], expected[which]["text"]);
                right.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn mixed_requests_of_many_clients_are_answered_rightly() {
    let expected: Vec<Value> =
        QUESTIONS.iter().map(|(text, pictures)| alone("dense_tied", text, pictures, 12)).collect();
    let server = Arc::new(Server::start(
        "dense_tied",
        &["--max-num-seqs", "16", "--kv-cache-memory", "64MiB"],
    ));
    let right = Arc::new(AtomicUsize::new(0));
    let round = |count: usize| {
        let clients: Vec<_> = (0..count as u64)
            .map(|seed| {
                let (server, right, expected) =
                    (Arc::clone(&server), Arc::clone(&right), expected.clone());
                std::thread::spawn(move || client(&server, seed + 1, 6, &expected, &right))
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        server.wait_for("idle server", || server.metric("qwen3_vl_num_requests_running") == 0.0);
    };
    round(32);
    #[cfg(target_os = "linux")]
    let warm = resident_kib(&server);
    round(32);
    round(32);
    #[cfg(target_os = "linux")]
    {
        let grown = resident_kib(&server).saturating_sub(warm);
        // Two further rounds fill caches within their budget of 64 MiB, and nothing else.
        assert!(grown < 100 * 1024, "{grown} KiB more than {warm} KiB");
    }
    println!("{} right answers", right.load(Ordering::Relaxed));
    assert!(right.load(Ordering::Relaxed) > 250);
}

#[test]
fn mutated_requests_never_fail_within_the_server() {
    let server = Server::start("dense_tied", &[]);
    let tool = json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } });
    let mut body = ask("Hi", &["e2e/tower.png"], 2);
    body["tools"] = json!([tool]);
    (body["stop"], body["logit_bias"]) = (json!(["a", "b"]), json!({ "3": 1 }));
    body["response_format"] =
        json!({ "type": "json_schema", "json_schema": { "schema": { "type": "string" } } });
    let whole = body.to_string();
    let mut random = Random(7);
    for path in
        ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/tokenize"]
    {
        for _ in 0..60 {
            let mut bytes = whole.clone().into_bytes();
            for _ in 0..=random.next(4) {
                let at = random.next(bytes.len());
                match random.next(4) {
                    0 => bytes[at] = b" {}[]\",:0-9e\\"[random.next(13)],
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, bytes[random.next(bytes.len())]),
                    _ => {
                        let end = (at + random.next(40)).min(bytes.len());
                        drop(bytes.drain(at..end));
                    }
                }
            }
            let request = server.request(path).set("content-type", "application/json");
            match request.send_bytes(&bytes) {
                Ok(_) => {}
                Err(ureq::Error::Status(status, _)) => {
                    let text = String::from_utf8_lossy(&bytes);
                    assert!((400..500).contains(&status), "{path}: {status}: {text}");
                }
                Err(error) => panic!("{path}: {error}: {}", String::from_utf8_lossy(&bytes)),
            }
        }
    }
    server.chat(&ask("Hello", &[], 2));
}
