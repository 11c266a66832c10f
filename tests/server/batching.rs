//! Many requests at once: the same answers, shared work, clients that go away.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, alone, ask};

const QUESTIONS: [(&str, &[&str]); 6] = [
    ("What is this?", &["e2e/gradient.png"]),
    ("Tell me a story about a long walk through a town.", &[]),
    ("Compare.", &["e2e/waves.png", "e2e/blocks.png"]),
    ("And this?", &["e2e/tower.png"]),
    ("Hello", &[]),
    ("What is this?", &["e2e/waves.png"]),
];

#[test]
fn batched_answers_equal_single_ones() {
    let expected: Vec<Value> =
        QUESTIONS.iter().map(|(text, pictures)| alone("dense_tied", text, pictures, 24)).collect();
    // A small budget cuts prompts into chunks, and makes requests wait for each other.
    let server = Arc::new(Server::start(
        "dense_tied",
        &["--max-num-seqs", "5", "--max-num-batched-tokens", "48"],
    ));
    let clients = (0..24).map(|client: usize| {
        let (server, expected) = (Arc::clone(&server), expected.clone());
        std::thread::spawn(move || {
            for round in 0..3 {
                let which = (client + round) % QUESTIONS.len();
                let (text, pictures) = QUESTIONS[which];
                let reply = server.chat(&ask(text, pictures, 24));
                let found = &reply["choices"][0]["message"]["content"];
                assert_eq!(*found, expected[which]["text"], "{text} {pictures:?}");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.join().unwrap();
    }
    assert_eq!(server.metric("qwen3_vl_answers_total"), 72.0);
}

#[test]
fn a_repeated_picture_costs_no_vision_and_a_repeated_prompt_no_prefill() {
    let server = Server::start("dense_tied", &[]);
    let picture = "images/photo.jpg";
    let first = server.chat(&ask("What is this?", &[picture], 8));
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let misses = server.metric("qwen3_vl_vision_cache_misses_total");
    assert!(misses >= 1.0);
    let again = server.chat(&ask("What is this?", &[picture], 8));
    assert_eq!(again["choices"], first["choices"]);
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], prompt - 1);

    // The same picture elsewhere in a prompt is not in a cached prefix, but its features are known.
    let mut other = ask("Now what?", &[picture], 8);
    other["messages"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({ "role": "system", "content": "Be brief." }));
    server.chat(&other);
    assert_eq!(server.metric("qwen3_vl_vision_cache_misses_total"), misses);
    assert!(server.metric("qwen3_vl_vision_cache_hits_total") >= 1.0);

    // Another picture of the same size has the same tokens, and must not be taken for the first.
    let wrong = server.chat(&ask("What is this?", &["e2e/blocks.png"], 8));
    let right = alone("dense_tied", "What is this?", &["e2e/blocks.png"], 8);
    assert_eq!(wrong["choices"][0]["message"]["content"], right["text"]);
}

#[test]
fn without_caches_nothing_is_shared() {
    let server =
        Server::start("dense_tied", &["--prefix-cache-memory", "0", "--vision-cache-memory", "0B"]);
    let first = server.chat(&ask("What is this?", &["e2e/waves.png"], 6));
    let again = server.chat(&ask("What is this?", &["e2e/waves.png"], 6));
    assert_eq!(first["choices"], again["choices"]);
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(server.metric("qwen3_vl_vision_cache_hits_total"), 0.0);
}

#[test]
fn a_client_that_goes_away_takes_its_answer_with_it() {
    let server = Server::start("dense_tied", &["--max-num-seqs", "1"]);
    let mut endless = ask("Never stop.", &[], 4000);
    (endless["stream"], endless["ignore_eos"]) = (json!(true), json!(true));
    let stream = server.open_stream("/v1/chat/completions", &endless);
    server.wait_for("running answer", || server.metric("qwen3_vl_num_requests_running") == 1.0);
    drop(stream);
    // Its place is free at once: 4,000 tokens would take far longer than this one.
    let reply = server.chat(&ask("Hello", &[], 4));
    assert_eq!(reply["usage"]["completion_tokens"], 4);
    assert_eq!(server.metric("qwen3_vl_answers_total"), 1.0);
    server.wait_for("end", || server.metric("qwen3_vl_num_requests_running") == 0.0);
}

#[test]
fn too_many_requests_are_refused_and_what_never_fits_too() {
    let limits = ["--max-num-seqs", "1", "--max-queue", "1", "--kv-cache-memory", "2MiB"];
    let server = Server::start("dense_tied", &limits);
    let (status, error) = server.try_post("/v1/chat/completions", &ask("x", &[], 4000));
    assert_eq!((status, error["error"]["param"].as_str()), (400, Some("max_tokens")), "{error}");
    let mut many = ask("x", &[], 4);
    many["n"] = json!(3);
    let request = server.request("/v1/chat/completions").set("content-type", "application/json");
    match request.send_string(&many.to_string()) {
        Err(ureq::Error::Status(429, reply)) => assert!(reply.header("retry-after").is_some()),
        other => panic!("{other:?}"),
    }
}

/// Status and field of the error that a streamed request gets instead of a stream.
fn refused(server: &Server, path: &str, mut body: Value) -> (u16, Value) {
    body["stream"] = json!(true);
    let (status, error) = server.try_post(path, &body);
    (status, error["error"]["param"].clone())
}

#[test]
fn what_never_fits_is_refused_before_the_stream() {
    let server = Server::start("dense_tied", &["--kv-cache-memory", "2MiB"]);
    let long =
        |prompt: &str, text: Value| json!({ prompt: text, "max_tokens": 4000, "temperature": 0 });
    let wrong = (400, json!("max_tokens"));
    assert_eq!(refused(&server, "/v1/chat/completions", ask("x", &[], 4000)), wrong);
    assert_eq!(refused(&server, "/v1/completions", long("prompt", json!("x"))), wrong);
    let messages = json!([{ "role": "user", "content": "x" }]);
    assert_eq!(refused(&server, "/v1/messages", long("messages", messages)).0, 400);
    let responses = json!({ "input": "x", "max_output_tokens": 4000 });
    let wrong = (400, json!("max_output_tokens"));
    assert_eq!(refused(&server, "/v1/responses", responses), wrong);
    for prompt in [json!([1, 512]), json!([])] {
        let body = json!({ "prompt": prompt, "max_tokens": 2 });
        let told = refused(&server, "/v1/completions", body);
        assert_eq!(told, (400, json!("prompt")), "{prompt}");
    }
}

#[test]
#[cfg(unix)]
fn stopping_finishes_answers_and_refuses_new_ones() {
    let mut server = Server::start("dense_tied", &[]);
    let mut long = ask("Go on.", &[], 400);
    (long["stream"], long["ignore_eos"]) = (json!(true), json!(true));
    let mut stream = server.open_stream("/v1/chat/completions", &long);
    server.wait_for("running answer", || server.metric("qwen3_vl_num_requests_running") == 1.0);
    server.terminate();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(
        text.contains("\"finish_reason\":\"length\"") && text.ends_with("data: [DONE]\n\n"),
        "{text}"
    );
    let begun = std::time::Instant::now();
    let status = server.child.wait().unwrap();
    assert!(status.success() && begun.elapsed() < Duration::from_secs(10), "{status}");
}
