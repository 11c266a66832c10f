use serde_json::{Value, json};

use super::request::{ends_with_a_question, to_chat};

#[test]
fn a_body_becomes_a_chat() {
    let body = json!({
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "Be brief."}],
        "stop_sequences": ["END"],
        "thinking": {"type": "enabled", "budget_tokens": 32},
        "tools": [{"name": "zoom", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "messages": [
            {"role": "user", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                {"type": "text", "text": "What?", "cache_control": {"type": "ephemeral"}},
            ]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "zoom", "input": {"x": 1}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "done"}]},
        ],
    });
    let expected = json!({
        "model": "m",
        "max_tokens": 9,
        "stop": ["END"],
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "What?"},
            ]},
            {"role": "assistant", "content": [], "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "zoom", "arguments": {"x": 1}}},
            ], "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "t1", "content": "done"},
        ],
        "tools": [{"type": "function", "function": {
            "name": "zoom", "description": "d", "parameters": {"type": "object"}}}],
        "parallel_tool_calls": false,
        "tool_choice": "required",
        "chat_template_kwargs": {"enable_thinking": true},
        "thinking_token_budget": 32,
    });
    assert_eq!(to_chat(body).unwrap(), expected);
}

#[test]
fn a_failed_tool_says_so() {
    let content = |result: Value| {
        let mut block = json!({"type": "tool_result", "tool_use_id": "t1"});
        block.as_object_mut().unwrap().append(result.clone().as_object_mut().unwrap());
        let messages = json!([{"role": "user", "content": [block]}]);
        let chat = to_chat(json!({"max_tokens": 1, "messages": messages}));
        chat.map(|chat| chat["messages"][0]["content"].clone())
    };
    for (result, expected) in [
        (json!({"content": "no such file", "is_error": true}), json!("Error: no such file")),
        (json!({"content": "no such file", "is_error": false}), json!("no such file")),
        (json!({"content": "done", "is_error": null}), json!("done")),
        (json!({"is_error": true}), json!("Error:")),
        (
            json!({"content": [{"type": "text", "text": "late"}], "is_error": true}),
            json!([{"type": "text", "text": "Error: "}, {"type": "text", "text": "late"}]),
        ),
    ] {
        assert_eq!(content(result.clone()).unwrap(), expected, "{result}");
    }
    let error = content(json!({"is_error": "yes"})).unwrap_err();
    assert_eq!(error.field(), Some("messages[0].content[0].is_error"), "{error}");
}

#[test]
fn an_answer_that_is_begun_is_refused() {
    let talk = |last: &str| {
        let turn = |role: &str| json!({"role": role, "content": "a"});
        ends_with_a_question(&json!({"messages": [turn("user"), turn("assistant"), turn(last)]}))
    };
    assert!(talk("user").is_ok() && ends_with_a_question(&json!({"messages": []})).is_ok());
    assert_eq!(talk("assistant").unwrap_err().field(), Some("messages[2].role"));
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let with = |field: &str, value: Value| {
        let mut body = json!({"max_tokens": 1, "messages": [{"role": "user", "content": "a"}]});
        body[field] = value;
        to_chat(body).unwrap_err()
    };
    let document = json!([{"role": "user", "content": [{"type": "document"}]}]);
    for (field, value, name) in [
        ("mcp_servers", json!([1]), "mcp_servers"),
        ("messages", document, "messages[0].content[0].type"),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "text", "txt": "a"}]}]),
            "messages[0].content[0].text",
        ),
        ("tools", json!("zoom"), "tools"),
        ("tool_choice", json!({"type": "some"}), "tool_choice"),
        ("tool_choice", json!({"type": "auto", "mode": 1}), "tool_choice.mode"),
        ("thinking", json!({"type": "enabled", "effort": "low"}), "thinking.effort"),
        ("max_tokens", Value::Null, "max_tokens"),
    ] {
        let error = with(field, value);
        assert_eq!(error.field(), Some(name), "{error}");
    }
}
