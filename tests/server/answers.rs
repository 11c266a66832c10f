//! What `/v1/chat/completions` answers, whole and streamed.

use serde_json::{Value, json};

use crate::harness::{Server, alone, ask};

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap()
}

/// Deltas of a stream, joined, and its chunks.
fn joined(lines: &[String], field: &str) -> (String, Vec<Value>) {
    assert_eq!(lines.last().map(String::as_str), Some("[DONE]"));
    let chunks = lines[..lines.len() - 1].iter().map(|line| serde_json::from_str(line).unwrap());
    let chunks: Vec<Value> = chunks.collect();
    let delta = |chunk: &Value| chunk["choices"][0]["delta"][field].as_str().map(str::to_owned);
    (chunks.iter().filter_map(delta).collect(), chunks)
}

#[test]
fn models_and_health_tell_what_there_is() {
    let server = Server::start("dense_tied", &[]);
    let (status, models) = server.get("/v1/models");
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!(status, 200);
    assert_eq!(models["data"][0]["id"], "fixture");
    assert_eq!(models["data"][0]["max_model_len"], 4096);
    assert_eq!(server.get("/v1/models/fixture").0, 200);
    assert_eq!(server.get("/v1/models/other").0, 404);
    assert_eq!(server.get("/nothing").0, 404);
    assert_eq!(server.get("/v1/chat/completions").0, 405);
    assert!(server.get("/version").1.contains("0.1.0"));
    // Without a terminal the log has no colours.
    let told = || server.logged(|line| line.contains("status=404"));
    server.wait_for("line in the log", || !told().is_empty());
}

#[test]
fn answers_are_those_of_the_command_line_whole_and_streamed() {
    let server = Server::start("moe", &[]);
    for pictures in [&[][..], &["e2e/gradient.png"], &["images/photo.jpg", "e2e/waves.png"]] {
        let expected = alone("moe", "What is this?", pictures, 20);
        let body = ask("What is this?", pictures, 20);
        let reply = server.chat(&body);
        assert_eq!(content(&reply), expected["text"].as_str().unwrap(), "{pictures:?}");
        assert_eq!(reply["choices"][0]["finish_reason"], expected["finish_reason"]);
        for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(reply["usage"][count], expected["usage"][count], "{count}");
        }
        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        streamed["stream_options"] = json!({ "include_usage": true });
        let (text, chunks) = joined(&server.stream("/v1/chat/completions", &streamed), "content");
        assert_eq!(text, content(&reply));
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let last = chunks.last().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["total_tokens"], reply["usage"]["total_tokens"]);
        assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "length");
    }
}

#[test]
fn reasoning_stands_beside_the_answer_and_keeps_its_budget() {
    let server = Server::start("dense_untied", &[]);
    let mut body = ask("Think.", &[], 24);
    let free = server.chat(&body);
    let expected = alone("dense_untied", "Think.", &[], 24);
    assert_eq!(free["choices"][0]["message"]["reasoning_content"], expected["reasoning"]);
    let reasoning = |reply: &Value| {
        reply["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap()
    };
    assert_eq!(expected["usage"]["reasoning_tokens"], reasoning(&free));
    assert!(reasoning(&free) > 4, "{free}");
    body["thinking_token_budget"] = json!(4);
    body["response_format"] =
        json!({ "type": "json_schema", "json_schema": { "schema": { "enum": ["yes", "no"] } } });
    let bounded = server.chat(&body);
    let answer: Value = serde_json::from_str(content(&bounded)).unwrap();
    assert!(["yes", "no"].iter().any(|word| answer == *word), "{bounded}");
    assert!(bounded["usage"]["completion_tokens"].as_u64().unwrap() < 24, "{bounded}");
    assert_eq!(reasoning(&bounded), 4, "{bounded}");
    body["include_reasoning"] = json!(false);
    assert!(server.chat(&body)["choices"][0]["message"]["reasoning_content"].is_null());
    let body = json!({ "input": "Think.", "max_output_tokens": 24, "temperature": 0 });
    let told = server.post("/v1/responses", &body);
    let counted = &told["usage"]["output_tokens_details"]["reasoning_tokens"];
    assert_eq!(*counted, reasoning(&free), "{told}");
}

#[test]
fn sampling_fields_are_honoured() {
    let server = Server::start("dense_tied", &[]);
    let greedy = server.chat(&ask("Go.", &[], 12));
    let mut body = ask("Go.", &[], 12);
    body["temperature"] = json!(1.3);
    (body["seed"], body["n"]) = (json!(11), json!(2));
    let first = server.chat(&body);
    assert_eq!(first["choices"], server.chat(&body)["choices"], "a seed repeats the answer");
    assert_ne!(first["choices"][0]["message"], first["choices"][1]["message"]);
    assert_eq!(first["choices"][1]["index"], 1);

    let mut body = ask("Go.", &[], 12);
    (body["logprobs"], body["top_logprobs"]) = (json!(true), json!(2));
    let told = server.chat(&body);
    let tokens = told["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), 12);
    assert_eq!(tokens[0]["top_logprobs"][0]["logprob"], tokens[0]["logprob"]);
    body["stream"] = json!(true);
    let (_, chunks) = joined(&server.stream("/v1/chat/completions", &body), "content");
    let entries = chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(entries.flatten().cloned().collect::<Vec<_>>(), *tokens);

    let id = tokens[0]["id"].as_u64().unwrap();
    let mut body = ask("Go.", &[], 12);
    body["logit_bias"] = json!({ id.to_string(): -100 });
    assert_ne!(content(&server.chat(&body)), content(&greedy));
    body["logit_bias"] = json!({ "7": 100 });
    body["max_tokens"] = json!(3);
    body["logprobs"] = json!(true);
    let biased = server.chat(&body);
    assert!(
        biased["choices"][0]["logprobs"]["content"]
            .as_array()
            .unwrap()
            .iter()
            .all(|t| t["id"] == 7)
    );

    let mut body = ask("Go.", &[], 12);
    body["stop_token_ids"] = json!([id]);
    let stopped = server.chat(&body);
    assert_eq!(stopped["usage"]["completion_tokens"], 1);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
}

#[test]
fn forms_are_kept() {
    let server = Server::start("dense_tied", &[]);
    let schema = json!({
        "type": "object",
        "properties": { "a": { "type": "integer", "minimum": 0, "maximum": 9 }, "b": { "enum": ["x", "y"] } },
        "required": ["a", "b"],
        "additionalProperties": false,
    });
    let mut body = ask("JSON, please.", &[], 900);
    body["response_format"] =
        json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } });
    let reply = server.chat(&body);
    let object: Value =
        serde_json::from_str(content(&reply)).unwrap_or_else(|e| panic!("{reply}: {e}"));
    assert!(object["a"].as_u64().unwrap() <= 9, "{object}");
    assert!(object["b"] == "x" || object["b"] == "y", "{object}");
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");

    let tool = json!({ "type": "function", "function": { "name": "pick", "parameters": schema } });
    let mut body = ask("Pick.", &[], 900);
    (body["tools"], body["tool_choice"]) = (json!([tool]), json!("required"));
    body["parallel_tool_calls"] = json!(false);
    let reply = server.chat(&body);
    let call = &reply["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "pick", "{reply}");
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["a"].is_u64(), "{arguments}");
    assert_eq!(reply["choices"][0]["finish_reason"], "tool_calls");
    body["stream"] = json!(true);
    let (_, chunks) = joined(&server.stream("/v1/chat/completions", &body), "content");
    let streamed = chunks.iter().find_map(|c| c["choices"][0]["delta"]["tool_calls"].as_array());
    assert_eq!(streamed.unwrap()[0]["function"], call["function"]);

    // Neither what is no schema nor what nothing fits.
    let endless = json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/a" } } });
    for schema in [json!({ "type": "nonsense" }), endless] {
        let mut body = ask("x", &[], 5);
        body["response_format"] =
            json!({ "type": "json_schema", "json_schema": { "schema": schema } });
        body["stream"] = json!(true);
        let (status, error) = server.try_post("/v1/chat/completions", &body);
        let told = (status, error["error"]["param"].as_str());
        assert_eq!(told, (400, Some("response_format")), "{error}");
        assert!(!error.to_string().contains("<state>"), "{error}");
    }
}
