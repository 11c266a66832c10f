//! What is told of prompts: log probabilities of their tokens, in vLLM's shape.

use serde_json::{Value, json};

use crate::harness::{Server, ask};

fn near(found: &Value, right: &Value) {
    let (found, right) = (found.as_f64().unwrap(), right.as_f64().unwrap());
    assert!((found - right).abs() < 1e-3, "{found} is not {right}");
}

/// Whether both are alike but for the rounding of numbers.
fn assert_alike(found: &Value, right: &Value) {
    match (found, right) {
        (Value::Array(found), Value::Array(right)) if found.len() == right.len() => {
            found.iter().zip(right).for_each(|(found, right)| assert_alike(found, right));
        }
        (Value::Object(found), Value::Object(right)) if found.len() == right.len() => {
            found.iter().for_each(|(key, found)| assert_alike(found, &right[key]));
        }
        (Value::Number(_), Value::Number(_)) => near(found, right),
        _ => assert_eq!(found, right),
    }
}

/// The entry of a prompt's token with this id.
fn entry<'v>(entries: &'v [Value], at: usize, id: &Value) -> &'v Value {
    &entries[at][id.to_string()]
}

#[test]
fn tokens_of_prompts_are_as_probable_as_when_they_were_written() {
    let server = Server::start("dense_tied", &[]);
    let ids = |text: &str| server.post("/tokenize", &json!({ "prompt": text }))["tokens"].clone();
    let prompt = ids("One two three");
    let body = json!({ "prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 3 });
    let written = server.post("/v1/completions", &body)["choices"][0].clone();
    assert_eq!(written["prompt_logprobs"], Value::Null);
    let tokens = server.chat(&{
        let mut body = ask("Hello", &["e2e/gradient.png"], 6);
        (body["logprobs"], body["prompt_logprobs"], body["n"]) = (json!(true), json!(0), json!(2));
        body
    });
    let entries = tokens["prompt_logprobs"].as_array().unwrap();
    assert_eq!(entries.len() as u64, tokens["usage"]["prompt_tokens"].as_u64().unwrap());
    assert!(entries[0].is_null());
    for entry in &entries[1..] {
        let entry = entry.as_object().unwrap();
        let only = entry.values().next().unwrap();
        assert_eq!(entry.len(), 1, "with 0 alternatives the token stands alone: {entry:?}");
        assert!(only["logprob"].as_f64().unwrap() <= 0.0 && only["rank"].as_u64().unwrap() >= 1);
        assert!(only["decoded_token"].is_string());
    }

    // The answer, put behind its prompt, is scored as it was when it was written.
    let chosen = &written["logprobs"]["token_logprobs"];
    let known = prompt.as_array().unwrap().len();
    let mut body = json!({ "prompt": prompt, "max_tokens": 1, "temperature": 0 });
    let mut all: Vec<Value> = prompt.as_array().unwrap().clone();
    all.extend(generated(&server, &body));
    body["prompt"] = json!(all);
    (body["prompt_logprobs"], body["n"]) = (json!(2), json!(2));
    let reply = server.post("/v1/completions", &body);
    for choice in reply["choices"].as_array().unwrap() {
        let entries = choice["prompt_logprobs"].as_array().unwrap();
        assert_eq!(entries.len(), all.len());
        for (index, right) in chosen.as_array().unwrap().iter().enumerate() {
            let found = entry(entries, known + index, &all[known + index]);
            near(&found["logprob"], right);
            assert_eq!(found["decoded_token"], written["logprobs"]["tokens"][index]);
            assert_eq!(found["rank"], 1, "greedy answers are the most probable");
            let count = entries[known + index].as_object().unwrap().len();
            assert_eq!(count, 2, "the token itself is one of the two best");
        }
    }

    // With `echo`, the log probabilities of the prompt stand before those of the answer.
    (body["echo"], body["logprobs"], body["n"]) = (json!(true), json!(3), json!(1));
    body["prompt_logprobs"] = json!(1);
    let echoed = server.post("/v1/completions", &body)["choices"][0].clone();
    let logprobs = &echoed["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), all.len() + 1);
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
    for (index, right) in chosen.as_array().unwrap().iter().enumerate() {
        near(&logprobs["token_logprobs"][known + index], right);
        // Each field has as many alternatives as it asked for.
        assert_eq!(logprobs["top_logprobs"][known + index].as_object().unwrap().len(), 3);
        let entries = echoed["prompt_logprobs"].as_array().unwrap();
        assert_eq!(entries[known + index].as_object().unwrap().len(), 1);
    }
}

/// The ids of a greedy answer, one at a time, so that no text stands between.
fn generated(server: &Server, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["prompt_logprobs"] = json!(1);
    let mut ids = Vec::new();
    let mut prompt = body["prompt"].as_array().unwrap().clone();
    for _ in 0..8 {
        // A further token makes the prompt one longer, and the best of its place is the answer's next.
        prompt.push(json!(5));
        body["prompt"] = json!(prompt);
        let reply = server.post("/v1/completions", &body);
        let last = reply["choices"][0]["prompt_logprobs"].as_array().unwrap().last().unwrap();
        let best = last.as_object().unwrap().iter().find(|(_, entry)| entry["rank"] == 1).unwrap();
        let id: u32 = best.0.parse().unwrap();
        prompt.pop();
        prompt.push(json!(id));
        ids.push(json!(id));
    }
    ids
}

#[test]
fn what_cannot_be_told_of_a_prompt_is_refused() {
    let server = Server::start("dense_tied", &[]);
    let refused = |path: &str, body: Value, field: &str| {
        let (status, error) = server.try_post(path, &body);
        assert_eq!((status, error["error"]["param"].as_str()), (400, Some(field)), "{error}");
    };
    let body = json!({ "prompt": "a", "max_tokens": 1, "prompt_logprobs": -1 });
    refused("/v1/completions", body, "prompt_logprobs");
    let body = ask("x", &[], 1);
    for (value, field) in [(json!(21), "prompt_logprobs"), (json!("all"), "prompt_logprobs")] {
        let mut body = body.clone();
        (body["prompt_logprobs"], body["stream"]) = (value, json!(true));
        refused("/v1/chat/completions", body, field);
    }
}

/// The chunks of a stream that ends well.
fn chunks(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let lines = server.stream(path, &body);
    assert_eq!(lines.last().map(String::as_str), Some("[DONE]"), "{lines:?}");
    lines[..lines.len() - 1].iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn streams_tell_of_the_prompt_before_the_answer() {
    let server = Server::start("dense_tied", &[]);
    let mut body = ask("Hello", &["e2e/gradient.png"], 6);
    (body["prompt_logprobs"], body["n"]) = (json!(2), json!(2));
    let whole = server.chat(&body);
    let told = chunks(&server, "/v1/chat/completions", &body);
    let at = told.iter().position(|chunk| chunk["prompt_logprobs"].is_array()).unwrap();
    assert_alike(&told[at]["prompt_logprobs"], &whole["prompt_logprobs"]);
    let with = told.iter().filter(|chunk| !chunk["prompt_logprobs"].is_null());
    assert_eq!(with.count(), 1, "they are told once");
    let begun = |chunk: &Value| {
        let choice = &chunk["choices"][0];
        choice["index"] == 0 && choice["delta"]["content"].as_str().is_some_and(|t| !t.is_empty())
    };
    assert!(!told[..at].iter().any(begun), "{told:?}");

    // Completions: each choice tells of its prompt first, with the prompt's text where it is echoed.
    let mut body =
        json!({ "prompt": ["One two three", "Four"], "max_tokens": 5, "temperature": 0 });
    (body["prompt_logprobs"], body["n"]) = (json!(1), json!(2));
    for (echo, logprobs) in [(false, Value::Null), (true, json!(3)), (true, Value::Null)] {
        (body["echo"], body["logprobs"]) = (json!(echo), logprobs);
        let whole = server.post("/v1/completions", &body);
        let told = chunks(&server, "/v1/completions", &body);
        for choice in whole["choices"].as_array().unwrap() {
            let mine = |chunk: &&Value| chunk["choices"][0]["index"] == choice["index"];
            let mine: Vec<&Value> = told.iter().filter(mine).map(|c| &c["choices"][0]).collect();
            assert_alike(&mine[0]["prompt_logprobs"], &choice["prompt_logprobs"]);
            let text: String = mine.iter().filter_map(|c| c["text"].as_str()).collect();
            assert_eq!(text, choice["text"].as_str().unwrap());
            for field in ["tokens", "token_logprobs"] {
                let parts = mine.iter().filter_map(|c| c["logprobs"][field].as_array());
                let found: Vec<Value> = parts.flatten().cloned().collect();
                let right = choice["logprobs"][field].as_array().cloned().unwrap_or_default();
                assert_alike(&json!(found), &json!(right));
            }
        }
    }
}
