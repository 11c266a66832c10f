use serde_json::{Value, json};

use super::request::{Links, to_chat};

#[test]
fn a_body_becomes_a_chat() {
    let body = json!({
        "model": "m", "instructions": "Be brief.", "max_output_tokens": 9, "store": false,
        "previous_response_id": "resp_1",
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "array"}}},
        "tools": [{"type": "function", "name": "zoom", "parameters": {"type": "object"}}],
        "tool_choice": {"type": "function", "name": "zoom"},
        "input": [
            {"role": "user", "content": [
                {"type": "input_text", "text": "What?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
            ]},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "c", "name": "zoom", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "done"},
        ],
    });
    let mut body = body;
    let links = Links::take(&mut body).unwrap();
    assert_eq!(links, Links { previous: Some("resp_1".into()), store: Some(false) });
    let past = vec![json!({"role": "user", "content": "Before."})];
    let (chat, input) = to_chat(body, past).unwrap();
    assert_eq!(input, chat["messages"].as_array().unwrap()[2..]);
    assert_eq!(
        chat["messages"],
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Before."},
            {"role": "user", "content": [
                {"type": "text", "text": "What?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "zoom", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "done"},
        ])
    );
    assert_eq!(
        chat["response_format"],
        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}})
    );
    assert_eq!(
        chat["tools"],
        json!([{"type": "function", "function": {"name": "zoom", "parameters": {"type": "object"}}}])
    );
    assert_eq!(chat["tool_choice"], json!({"type": "function", "function": {"name": "zoom"}}));
    assert_eq!(chat["max_completion_tokens"], 9);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let with = |field: &str, value: Value| {
        let mut body = json!({"input": "a"});
        body[field] = value;
        Links::take(&mut body).and_then(|_| to_chat(body, Vec::new())).unwrap_err()
    };
    for (field, value, name) in [
        ("previous_response_id", json!(1), "previous_response_id"),
        ("store", json!("yes"), "store"),
        ("conversation", json!("conv_1"), "conversation"),
        ("truncation", json!("auto"), "truncation"),
        ("tools", json!("zoom"), "tools"),
        ("tools", json!([{"type": "web_search"}]), "tools[0].type"),
        ("input", json!([{"type": "item_reference"}]), "input[0].type"),
        ("input", json!([{"role": "user", "content": "a", "name": "b"}]), "input[0].name"),
        (
            "input",
            json!([{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]),
            "input[0].content[0].file_id",
        ),
        ("text", json!("short"), "text"),
        ("text", json!({"verbosity": "low"}), "text.verbosity"),
    ] {
        let error = with(field, value);
        assert_eq!(error.field(), Some(name), "{error}");
    }
}
