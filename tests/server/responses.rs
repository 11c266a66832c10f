//! Responses that are kept, and gone on from.

use serde_json::{Value, json};

use crate::harness::{Server, ask, picture};

fn text(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{response}"))
}

fn told(server: &Server, id: &str) -> (u16, Value) {
    let (status, text) = server.get(&format!("/v1/responses/{id}"));
    (status, serde_json::from_str(&text).unwrap())
}

/// The first words of a conversation about a picture.
fn opening() -> Value {
    let image = json!({ "type": "input_image", "image_url": picture("e2e/gradient.png") });
    let question = json!({ "type": "input_text", "text": "What is this?" });
    json!({
        "input": [{ "role": "user", "content": [image, question] }],
        "instructions": "Be brief.",
        "max_output_tokens": 8,
        "temperature": 0,
    })
}

fn next(previous: &Value, words: &str) -> Value {
    json!({
        "input": words,
        "previous_response_id": previous["id"],
        "max_output_tokens": 8,
        "temperature": 0,
    })
}

#[test]
fn a_conversation_goes_on_from_what_was_kept() {
    let server = Server::start("dense_tied", &[]);
    let first = server.post("/v1/responses", &opening());
    assert_eq!((&first["store"], &first["previous_response_id"]), (&json!(true), &Value::Null));
    assert_eq!(told(&server, first["id"].as_str().unwrap()), (200, first.clone()));

    let mut body = next(&first, "And now?");
    let second = server.post("/v1/responses", &body);
    assert_eq!(second["previous_response_id"], first["id"]);
    assert_ne!(second["id"], first["id"]);
    // The same as a chat in which everything is said again; instructions hold for one request.
    let mut chat = ask("What is this?", &["e2e/gradient.png"], 8);
    let messages = chat["messages"].as_array_mut().unwrap();
    messages.push(json!({ "role": "assistant", "content": text(&first) }));
    messages.push(json!({ "role": "user", "content": "And now?" }));
    let whole = server.chat(&chat);
    assert_eq!(whole["choices"][0]["message"]["content"], text(&second));
    assert_eq!(whole["usage"]["prompt_tokens"], second["usage"]["input_tokens"]);

    // Streamed, and from a place before the last.
    (body["stream"], body["instructions"]) = (json!(true), json!("Be long."));
    let lines = server.stream("/v1/responses", &body);
    let last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    let last = &last["response"];
    assert_eq!(told(&server, last["id"].as_str().unwrap()), (200, last.clone()));
    let third = server.post("/v1/responses", &next(last, "Why?"));
    for (role, content) in [("assistant", text(last)), ("user", "Why?")] {
        let messages = chat["messages"].as_array_mut().unwrap();
        messages.push(json!({ "role": role, "content": content }));
    }
    let whole = server.chat(&chat);
    assert_eq!(whole["choices"][0]["message"]["content"], text(&third));
    assert_eq!(whole["usage"]["prompt_tokens"], third["usage"]["input_tokens"]);
}

#[test]
fn calls_of_tools_are_kept_with_their_ids() {
    let server = Server::start("dense_tied", &[]);
    let schema = json!({ "type": "object", "properties": { "a": { "enum": [1, 2] } },
        "required": ["a"], "additionalProperties": false });
    let tools = json!([{ "type": "function", "name": "pick", "parameters": schema }]);
    for stream in [false, true] {
        let body = json!({ "input": "Pick.", "tools": tools, "tool_choice": "required", "stream": stream,
            "parallel_tool_calls": false, "max_output_tokens": 900, "temperature": 0 });
        let first = match stream {
            false => server.post("/v1/responses", &body),
            true => {
                let lines = server.stream("/v1/responses", &body);
                let last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
                last["response"].clone()
            }
        };
        let call = first["output"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(call["type"], "function_call", "{first}");
        let mut body = next(&first, "");
        let id = &call["call_id"];
        let output = json!([{ "type": "function_call_output", "call_id": id, "output": "done" }]);
        (body["input"], body["tools"]) = (output.clone(), tools.clone());
        let kept = server.post("/v1/responses", &body);
        // The same, with everything said again.
        let mut all = vec![json!({ "role": "user", "content": "Pick." })];
        all.extend(first["output"].as_array().unwrap().iter().cloned());
        all.extend(output.as_array().unwrap().iter().cloned());
        (body["input"], body["previous_response_id"]) = (json!(all), Value::Null);
        let again = server.post("/v1/responses", &body);
        assert_eq!(text(&again), text(&kept));
        assert_eq!(again["usage"]["input_tokens"], kept["usage"]["input_tokens"]);
    }
}

#[test]
fn what_is_not_kept_or_forgotten_is_missing() {
    let server = Server::start("dense_tied", &[]);
    let mut body = json!({ "input": "Hello", "max_output_tokens": 2, "store": false });
    let unkept = server.post("/v1/responses", &body);
    assert_eq!(unkept["store"], false);
    body["store"] = json!(true);
    let kept = server.post("/v1/responses", &body);
    let path = format!("/v1/responses/{}", kept["id"].as_str().unwrap());
    let (status, error) = server.get(&format!("{path}?stream=true"));
    assert!(status == 400 && error.contains("stream"), "{error}");
    let (status, gone) = server.delete(&path);
    assert!(status == 200 && gone.contains("\"deleted\":true"), "{gone}");
    assert_eq!(server.delete(&path).0, 404);
    for lost in [&unkept, &kept, &json!({ "id": "resp_0" })] {
        assert_eq!(told(&server, lost["id"].as_str().unwrap()).0, 404);
        let (status, error) = server.try_post("/v1/responses", &next(lost, "Go on."));
        let error = &error["error"];
        let found = (status, error["param"].as_str(), error["code"].as_str());
        let right = (400, Some("previous_response_id"), Some("previous_response_not_found"));
        assert_eq!(found, right, "{error}");
    }
}

#[test]
fn keys_see_their_own_responses_and_a_server_may_keep_none() {
    let server = Server::start("dense_tied", &["--api-key", "one", "--api-key", "two"]);
    let send = |key: &str, method: &str, path: &str, body: &str| {
        let request = ureq::request(method, &format!("{}{path}", server.url));
        let request = request.set("authorization", &format!("Bearer {key}"));
        let sent = match body {
            "" => request.call(),
            body => request.set("content-type", "application/json").send_string(body),
        };
        match sent {
            Ok(reply) | Err(ureq::Error::Status(_, reply)) => (
                reply.status(),
                serde_json::from_str::<Value>(&reply.into_string().unwrap()).unwrap(),
            ),
            Err(error) => panic!("{error}"),
        }
    };
    let body = json!({ "input": "Hello", "max_output_tokens": 2 }).to_string();
    let (_, kept) = send("one", "POST", "/v1/responses", &body);
    let path = format!("/v1/responses/{}", kept["id"].as_str().unwrap());
    assert_eq!(send("two", "GET", &path, "").0, 404);
    assert_eq!(send("two", "DELETE", &path, "").0, 404);
    let on = next(&kept, "Go on.").to_string();
    assert_eq!(send("two", "POST", "/v1/responses", &on).0, 400);
    assert_eq!(send("one", "POST", "/v1/responses", &on).0, 200);
    assert_eq!(send("one", "GET", &path, "").0, 200);

    let server = Server::start("dense_tied", &["--response-store-memory", "0B"]);
    let mut body = json!({ "input": "Hello", "max_output_tokens": 2 });
    assert_eq!(server.post("/v1/responses", &body)["store"], false);
    body["store"] = json!(true);
    let (status, error) = server.try_post("/v1/responses", &body);
    assert_eq!((status, error["error"]["param"].as_str()), (400, Some("store")), "{error}");
}
