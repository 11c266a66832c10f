//! Damaged requests and damaged media: nothing panics, and no fault is told as the server's own.
//!
//! The usual run is short. The long one is `QWEN3_VL_FUZZ=10000 cargo test --release --test server fuzz -- --nocapture`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::common::fixtures;
use crate::harness::{Server, ask, data_uri_of, number, picture};
use crate::random::Random;

/// Most tokens of prompt and answer: a damaged request may ask for any length.
const CONTEXT: &str = "600";

/// A sound request to every endpoint, with most of its fields.
fn sound() -> Vec<(&'static str, Value)> {
    let schema = json!({ "type": "object", "properties": { "a": { "enum": [1, 2] } } });
    let function = json!({ "name": "f", "description": "d", "parameters": schema });
    let mut chat = ask("Hi", &["e2e/tower.png"], 2);
    chat["tools"] = json!([{ "type": "function", "function": function }]);
    (chat["tool_choice"], chat["parallel_tool_calls"]) = (json!("auto"), json!(false));
    (chat["stop"], chat["logit_bias"], chat["seed"]) =
        (json!(["a", "b"]), json!({ "3": 1 }), json!(1));
    (chat["logprobs"], chat["top_logprobs"], chat["prompt_logprobs"]) =
        (json!(true), json!(2), json!(1));
    (chat["n"], chat["top_k"], chat["min_p"], chat["top_p"]) =
        (json!(1), json!(5), json!(0.1), json!(0.9));
    chat["mm_processor_kwargs"] = json!({ "max_pixels": 4096 });
    chat["media_io_kwargs"] = json!({ "video": { "num_frames": 4 } });
    let mut form = ask("JSON", &[], 3);
    form["response_format"] =
        json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } });
    (form["stream"], form["stream_options"]) = (json!(true), json!({ "include_usage": true }));
    let input = json!([{ "role": "user", "content": [
        { "type": "input_image", "image_url": picture("e2e/tower.png") }, { "type": "input_text", "text": "Hi" }] },
        { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "c", "output": "o" }]);
    let source = json!({ "type": "base64", "media_type": "image/png",
        "data": picture("e2e/tower.png").rsplit(',').next() });
    let blocks = json!([{ "type": "image", "source": source }, { "type": "text", "text": "Hi" }]);
    let tools = json!([{ "name": "f", "input_schema": schema }]);
    vec![
        ("/v1/chat/completions", chat.clone()),
        ("/v1/chat/completions", form),
        (
            "/v1/completions",
            json!({ "prompt": ["One", "Two"], "max_tokens": 2, "echo": true, "logprobs": 1, "n": 2 }),
        ),
        ("/v1/completions", json!({ "prompt": [5, 6, 7], "max_tokens": 2, "stream": true })),
        (
            "/v1/responses",
            json!({ "input": input, "instructions": "i", "max_output_tokens": 2, "store": true,
            "previous_response_id": null, "text": { "format": { "type": "json_object" } } }),
        ),
        (
            "/v1/messages",
            json!({ "max_tokens": 2, "system": "s", "tools": tools, "stop_sequences": ["x"],
            "messages": [{ "role": "user", "content": blocks }], "thinking": { "type": "disabled" } }),
        ),
        ("/v1/messages/count_tokens", json!({ "messages": [{ "role": "user", "content": "Hi" }] })),
        (
            "/v1/embeddings",
            json!({ "input": ["One", [5, 6]], "dimensions": 4, "encoding_format": "base64" }),
        ),
        ("/tokenize", chat),
        ("/detokenize", json!({ "tokens": [5, 6, 7] })),
    ]
}

/// Values that have broken other servers.
fn odd_value(random: &mut Random) -> Value {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let all = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(1_000_000_000_000_i64),
        json!(u64::MAX),
        json!(1e300),
        json!(-0.5),
        json!(""),
        json!("x"),
        json!("\u{0}\u{202e}<|im_end|><|image_pad|>"),
        json!("word ".repeat(2000)),
        json!("data:image/png;base64,"),
        json!("file:///etc/passwd"),
        json!([]),
        json!([null]),
        json!({}),
        json!({ "type": "text" }),
        deep,
    ];
    random.pick(&all).clone()
}

/// Replaces, removes or adds one value somewhere in `value`.
fn twist(value: &mut Value, random: &mut Random) {
    let deeper = random.below(4) > 0;
    match value {
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let at = random.below(fields.len());
            let key = fields.keys().nth(at).unwrap().clone();
            match random.below(10) {
                0 => drop(fields.remove(&key)),
                1 => drop(fields.insert(format!("{key}x"), odd_value(random))),
                _ => twist(&mut fields[&key], random),
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = random.below(items.len());
            match random.below(10) {
                0 => drop(items.remove(at)),
                1 => items.insert(at, odd_value(random)),
                2 => items.push(items[at].clone()),
                _ => twist(&mut items[at], random),
            }
        }
        value => *value = odd_value(random),
    }
}

/// Request `number`: where it goes, and its bytes.
fn damaged(number: usize, sound: &[(&'static str, Value)]) -> (&'static str, Vec<u8>) {
    let mut random = Random::new(number as u64);
    let (path, body) = random.pick(sound);
    let mut body = body.clone();
    match random.below(3) {
        0 => {
            let mut bytes = body.to_string().into_bytes();
            random.damage(&mut bytes, b" {}[]\",:0-9e\\u");
            (*path, bytes)
        }
        more => {
            (0..more).for_each(|_| twist(&mut body, &mut random));
            (*path, body.to_string().into_bytes())
        }
    }
}

/// Picture and video files of the fixtures, with the kind of part that they go into.
fn media() -> Vec<(PathBuf, &'static str)> {
    let files = |folder: &str| {
        let entries = std::fs::read_dir(fixtures().join(folder)).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| {
            let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
            !["json", "safetensors", "bin"].contains(&kind)
        });
        paths.sort();
        paths
    };
    let pictures = files("images").into_iter().map(|path| (path, "image_url"));
    let videos = files("videos").into_iter().map(|path| (path, "video_url"));
    pictures.chain(videos).collect()
}

/// A chat about a damaged file.
fn damaged_medium(number: usize, media: &[(PathBuf, &'static str)]) -> (&'static str, Vec<u8>) {
    let mut random = Random::new(number as u64);
    let (path, kind) = random.pick(media);
    let mut bytes = std::fs::read(path).unwrap();
    let any: Vec<u8> = (0..=255).collect();
    random.damage(&mut bytes, &any);
    let mut part = json!({ "type": kind });
    part[kind] = json!({ "url": data_uri_of(&bytes, "application/octet-stream") });
    let message = json!({ "role": "user", "content": [part] });
    let mut body = json!({ "messages": [message], "temperature": 0 });
    let endpoint = random.pick(&["/v1/chat/completions", "/v1/chat/completions", "/tokenize"]);
    if !endpoint.starts_with("/tok") {
        body["max_tokens"] = json!(1);
        body["mm_processor_kwargs"] = json!({ "max_pixels": 8192, "num_frames": 4 });
    }
    (*endpoint, body.to_string().into_bytes())
}

/// Sends `count` requests by four clients; returns how often each status came.
fn send(
    server: &Server,
    count: usize,
    make: impl Fn(usize) -> (&'static str, Vec<u8>) + Sync,
) -> BTreeMap<u16, usize> {
    let (next, counts) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let one = |number: usize| {
        let (path, bytes) = make(number);
        let request = server.request(path).set("content-type", "application/json");
        let reply = match request.send_bytes(&bytes) {
            Ok(reply) | Err(ureq::Error::Status(_, reply)) => reply,
            Err(error) => panic!("request {number} to {path}: {error}"),
        };
        let status = reply.status();
        let told = reply.into_reader().read_to_end(&mut Vec::new());
        told.unwrap_or_else(|error| panic!("request {number} to {path}: {error}"));
        if status >= 500 {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
            println!("request {number} to {path}: {status}: {start}");
        }
        *counts.lock().unwrap().entry(status).or_default() += 1;
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    match next.fetch_add(1, Ordering::Relaxed) {
                        number if number < count => one(number),
                        _ => break,
                    }
                }
            });
        }
    });
    counts.into_inner().unwrap()
}

fn check(server: &Server, counts: &BTreeMap<u16, usize>) {
    let faults: usize = counts.range(500..).map(|(_, count)| count).sum();
    assert_eq!((faults, server.complaints()), (0, Vec::<String>::new()), "{counts:?}");
    assert!(counts.keys().any(|status| *status == 400), "nothing was refused: {counts:?}");
    // The server is as it was.
    server.chat(&ask("Hello", &[], 2));
}

#[test]
fn damaged_requests_are_refused_or_answered() {
    let server = Server::start("dense_tied", &["--max-model-len", CONTEXT]);
    let sound = sound();
    for (path, body) in &sound {
        let request = server.request(path).set("content-type", "application/json");
        if let Err(error) = request.send_string(&body.to_string()) {
            let reply = error.into_response().map(|reply| reply.into_string());
            panic!("{path}: {reply:?}");
        }
    }
    let count = number("QWEN3_VL_FUZZ", 200) / 2;
    let counts = send(&server, count, |number| damaged(number, &sound));
    println!("{count} damaged requests: {counts:?}");
    check(&server, &counts);
}

#[test]
fn damaged_media_are_refused_or_shown() {
    let server = Server::start("dense_tied", &["--max-model-len", CONTEXT]);
    let media = media();
    assert!(media.len() > 60, "{media:?}");
    let count = number("QWEN3_VL_FUZZ", 200) / 2;
    let counts = send(&server, count, |number| damaged_medium(number, &media));
    println!("{count} damaged media: {counts:?}");
    check(&server, &counts);
}
