//! The other endpoints.

use serde_json::{Value, json};

use crate::harness::{Server, alone, ask, picture};

#[test]
fn bare_prompts_are_completed() {
    let server = Server::start("dense_tied", &[]);
    let body = json!({ "prompt": ["One two", "Three"], "max_tokens": 6, "temperature": 0, "n": 2, "logprobs": 1 });
    let reply = server.post("/v1/completions", &body);
    let choices = reply["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    assert_eq!(choices[0]["text"], choices[1]["text"]);
    assert_ne!(choices[0]["text"], choices[2]["text"]);
    assert_eq!(choices[0]["logprobs"]["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(reply["usage"]["completion_tokens"], 24);
    let ids = server.post("/tokenize", &json!({ "prompt": "One two" }))["tokens"].clone();
    let by_ids =
        json!({ "prompt": ids, "max_tokens": 6, "temperature": 0, "echo": true, "stream": true });
    let lines = server.stream("/v1/completions", &by_ids);
    let chunks =
        lines[..lines.len() - 1].iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text: String =
        chunks.map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(text, format!("One two{}", choices[0]["text"].as_str().unwrap()));
}

#[test]
fn tokens_are_counted_and_spelt() {
    let server = Server::start("dense_tied", &[]);
    let ids = server.post("/tokenize", &json!({ "prompt": "Grüße <|im_end|>" }));
    assert_eq!(ids["count"].as_u64().unwrap() as usize, ids["tokens"].as_array().unwrap().len());
    let text = server.post("/detokenize", &json!({ "tokens": ids["tokens"] }));
    assert_eq!(text["prompt"], "Grüße <|im_end|>");
    let (status, error) = server.try_post("/detokenize", &json!({ "tokens": [1, 512] }));
    assert_eq!((status, error["error"]["param"].as_str()), (400, Some("tokens")), "{error}");
    let body = ask("What?", &["e2e/waves.png"], 1);
    let counted = server.post("/tokenize", &body);
    assert_eq!(counted["count"], server.chat(&body)["usage"]["prompt_tokens"]);
}

#[test]
fn embeddings_have_length_one_and_tell_texts_apart() {
    let server = Server::start("dense_tied", &[]);
    let reply = server.post("/v1/embeddings", &json!({ "input": ["one", "two", "one"] }));
    let vectors: Vec<Vec<f64>> = reply["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| serde_json::from_value(entry["embedding"].clone()).unwrap())
        .collect();
    assert_eq!((vectors.len(), vectors[0].len()), (3, 48));
    assert_eq!(vectors[0], vectors[2]);
    assert_ne!(vectors[0], vectors[1]);
    let norm: f64 = vectors[0].iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    let short = server.post("/v1/embeddings", &json!({ "input": "one", "dimensions": 8 }));
    assert_eq!(short["data"][0]["embedding"].as_array().unwrap().len(), 8);
    let (status, error) =
        server.try_post("/v1/embeddings", &json!({ "input": "one", "dimensions": 99 }));
    assert_eq!((status, error["error"]["param"].as_str()), (400, Some("dimensions")));
    for (path, field) in [("/v1/embeddings", "input"), ("/v1/completions", "prompt")] {
        let (status, error) = server.try_post(path, &json!({ field: [512] }));
        assert_eq!((status, error["error"]["param"].as_str()), (400, Some(field)), "{error}");
    }
}

#[test]
fn anthropic_messages_are_answered() {
    let server = Server::start("dense_tied", &[]);
    let data = picture("e2e/gradient.png");
    let source =
        json!({ "type": "base64", "media_type": "image/png", "data": data.rsplit(',').next() });
    let mut body = json!({
        "model": "fixture", "max_tokens": 16, "temperature": 0,
        "messages": [{ "role": "user", "content": [
            { "type": "image", "source": source }, { "type": "text", "text": "What is this?" },
        ]}],
    });
    let expected = alone("dense_tied", "What is this?", &["e2e/gradient.png"], 16);
    let reply = server.post("/v1/messages", &body);
    assert_eq!(reply["content"][0]["text"], expected["text"]);
    assert_eq!(reply["stop_reason"], "max_tokens");
    assert_eq!(reply["usage"]["output_tokens"], 16);
    let counted = server.post("/v1/messages/count_tokens", &body);
    assert_eq!(counted["input_tokens"], expected["usage"]["prompt_tokens"]);
    body["stream"] = json!(true);
    let events: Vec<Value> = server
        .stream("/v1/messages", &body)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        (kinds[0], kinds[1], kinds[kinds.len() - 1]),
        ("message_start", "content_block_start", "message_stop")
    );
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(expected["text"], text);
    // A tool that failed is another thing for the model than one that said the same.
    let call = json!({ "type": "tool_use", "id": "t", "name": "f", "input": {} });
    let tokens = |failed: bool| {
        let result = json!({ "type": "tool_result", "tool_use_id": "t", "content": "no", "is_error": failed });
        let messages = json!([{ "role": "user", "content": "a" },
            { "role": "assistant", "content": [call] }, { "role": "user", "content": [result] }]);
        let counted = server.post("/v1/messages/count_tokens", &json!({ "messages": messages }));
        counted["input_tokens"].as_u64().unwrap()
    };
    assert!(tokens(true) > tokens(false));
    body["messages"].as_array_mut().unwrap().push(json!({ "role": "assistant", "content": "It" }));
    body["stream"] = json!(false);
    let (status, error) = server.try_post("/v1/messages", &body);
    assert_eq!((status, error["error"]["type"].as_str()), (400, Some("invalid_request_error")));
    let wrong = json!({ "max_tokens": 1, "stop_sequences": [""],
        "messages": [{ "role": "user", "content": "a" }] });
    let (status, error) = server.try_post("/v1/messages", &wrong);
    assert!(status == 400 && error["error"]["message"].is_string(), "{error}");
    let (status, error) = server.try_post("/v1/messages", &json!({ "messages": [] }));
    assert_eq!((status, error["type"].as_str()), (400, Some("error")), "{error}");
    let broken = server.request("/v1/messages").set("content-type", "application/json");
    let Err(ureq::Error::Status(400, reply)) = broken.send_string("{") else { panic!("taken") };
    assert!(reply.into_string().unwrap().starts_with("{\"type\":\"error\""));
}

#[test]
fn responses_are_given_whole_and_streamed() {
    let server = Server::start("dense_tied", &[]);
    let mut body =
        json!({ "model": "fixture", "input": "Hello", "max_output_tokens": 12, "temperature": 0 });
    let expected = alone("dense_tied", "Hello", &[], 12);
    let reply = server.post("/v1/responses", &body);
    assert_eq!(reply["output"][0]["content"][0]["text"], expected["text"]);
    assert_eq!(reply["status"], "incomplete");
    body["stream"] = json!(true);
    let events: Vec<Value> = server
        .stream("/v1/responses", &body)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let numbers: Vec<u64> =
        events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let text: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(expected["text"], text);
    assert_eq!(events.last().unwrap()["response"]["usage"], reply["usage"]);
}

#[test]
fn every_endpoint_is_described_and_the_page_is_there() {
    let server = Server::start("dense_tied", &[]);
    let (_, described) = server.get("/openapi.json");
    let described: Value = serde_json::from_str(&described).unwrap();
    for (path, operations) in described["paths"].as_object().unwrap() {
        let method = operations.as_object().unwrap().keys().next().unwrap();
        let status = match method.as_str() {
            "get" => server.get(&path.replace("{name}", "fixture").replace("{id}", "resp_0")).0,
            _ => server.try_post(path, &json!([])).0,
        };
        let known = if path.contains("{id}") { [404; 2] } else { [200, 400] };
        assert!(known.contains(&status), "{method} {path}: {status}");
    }
    for (path, word) in [
        ("/", "<title>qwen3-vl"),
        ("/page.js", "use strict"),
        ("/page.css", "--accent"),
        ("/markdown.js", "use strict"),
    ] {
        let (status, text) = server.get(path);
        assert!(status == 200 && text.contains(word), "{path}");
        let own = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!own.contains("http://"), "{path} asks nobody else");
    }
}
