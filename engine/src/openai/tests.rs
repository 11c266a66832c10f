use serde_json::{Value, json};

use super::*;
use crate::Format;

fn body(extra: &str) -> Value {
    let text = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{extra}}}"#);
    serde_json::from_str(&text).unwrap()
}

const TOOL: &str =
    r#"{"type":"function","function":{"name":"zoom","parameters":{"type":"object"}}}"#;

#[test]
fn settings_reach_the_request() {
    let extra = r#","max_tokens":9.0,"temperature":0.5,"top_k":-1,"seed":7.0,"stop":"end","user":"me",
        "logprobs":true,"top_logprobs":3,"tools":null,"frequency_penalty":null,"logit_bias":{"5":-100},
        "stop_token_ids":[4],"prompt_logprobs":2,"chat_template_kwargs":{"add_vision_id":true},"thinking_token_budget":8"#;
    let request = parse_request(body(extra)).unwrap();
    assert_eq!((request.max_tokens, request.logprobs), (Some(9), Some(3)));
    assert_eq!((request.sampling.temperature, request.sampling.top_k), (Some(0.5), Some(0)));
    assert_eq!((request.sampling.seed, request.stop), (Some(7), vec!["end".to_owned()]));
    assert_eq!(request.sampling.logit_bias, [(5, -100.0)]);
    assert_eq!((request.stop_token_ids, request.reasoning_budget), (vec![4], Some(8)));
    assert_eq!(request.prompt_logprobs, Some(2));
    assert_eq!(request.template["add_vision_id"], json!(true));
    let both = parse_request(body(r#","max_tokens":9,"max_completion_tokens":5"#)).unwrap();
    assert_eq!(both.max_tokens, Some(5));
}

#[test]
fn chats_stream_and_repeat() {
    let extra = r#","n":3,"stream":true,"stream_options":{"include_usage":true}"#;
    let chat = parse_chat(body(extra)).unwrap();
    assert_eq!((chat.n, chat.stream, chat.stream_options.include_usage), (3, true, true));
    assert_eq!(chat.model.as_deref(), Some("m"));
}

#[test]
fn formats_and_tools_become_forms() {
    let object = parse_chat(body(r#","response_format":{"type":"json_object"}"#)).unwrap();
    assert_eq!(object.request.format, Format::json());
    let schema = r#","response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"array"}}}"#;
    let schema = parse_chat(body(schema)).unwrap();
    assert_eq!(schema.request.format, Format::Schema(json!({"type": "array"})));
    let auto = parse_chat(body(&format!(r#","tools":[{TOOL}]"#))).unwrap();
    assert!(auto.tools && auto.request.format == Format::Text);
    let calls = Format::Calls(vec![("zoom".to_owned(), json!({"type": "object"}))]);
    for choice in [r#""required""#, r#"{"type":"function","function":{"name":"zoom"}}"#] {
        let chat =
            parse_chat(body(&format!(r#","tools":[{TOOL}],"tool_choice":{choice}"#))).unwrap();
        assert_eq!(chat.request.format, calls, "{choice}");
    }
    let none = parse_chat(body(&format!(r#","tools":[{TOOL}],"tool_choice":"none""#))).unwrap();
    assert!(!none.tools && none.request.conversation.tools.is_empty());
}

#[test]
fn what_is_not_honoured_is_refused_by_name() {
    for (extra, name) in [
        (r#","n":2"#, "n"),
        (r#","n":0"#, "n"),
        (r#","grounding":true"#, "grounding"),
        (r#","stream":true"#, "stream"),
        (r#","stream_options":{}"#, "stream_options"),
        (r#","logit_bias":{"a":1}"#, "logit_bias"),
        (r#","logit_bias":{"1":101}"#, "logit_bias.1"),
        (r#","logit_bias":{"1":1,"+1":1}"#, "logit_bias"),
        (r#","logit_bias":{"01":1}"#, "logit_bias"),
        (r#","top_logprobs":3"#, "top_logprobs"),
        (r#","prompt_logprobs":-1"#, "prompt_logprobs"),
        (r#","prompt_logprobs":21"#, "prompt_logprobs"),
        (r#","prompt_logprobs":1.5"#, "prompt_logprobs"),
        (r#","temperature":"hot""#, "temperature"),
        (r#","mm_processor_kwargs":{"max_pixel":1}"#, "mm_processor_kwargs.max_pixel"),
        (r#","mm_processor_kwargs":{"max_pixels":0}"#, "mm_processor_kwargs.max_pixels"),
        (r#","media_io_kwargs":{"video":{"num_frames":0}}"#, "media_io_kwargs.video.num_frames"),
        (r#","chat_template_kwargs":{"tools":[]}"#, "chat_template_kwargs.tools"),
        (r#","tool_choice":"required""#, "tool_choice"),
        (
            r#","messages":[{"role":"user","content":[{"type":"image_url"}]}]"#,
            "messages[0].content[0].image_url",
        ),
        (r#","reasoning_effort":"high""#, "reasoning_effort"),
    ] {
        let error = parse_request(body(extra)).unwrap_err();
        assert_eq!(error.field(), Some(name), "{extra}: {error}");
    }
    let error = parse_request(json!([1])).unwrap_err().to_string();
    assert!(error.contains("a list"), "{error}");
    assert!(parse_request(json!({})).unwrap_err().to_string().contains("messages"));
}

#[test]
fn lists_that_would_slow_every_token_are_refused() {
    let with = |field: &str, value: Value| {
        let mut body = body("");
        body[field] = value;
        parse_chat(body).map(|chat| chat.request)
    };
    let words = |count: usize, length: usize| json!(vec!["x".repeat(length); count]);
    assert_eq!(with("stop", words(256, 32)).unwrap().stop.len(), 256);
    for stops in [words(257, 1), words(256, 33), json!("x".repeat(8193))] {
        assert_eq!(with("stop", stops).unwrap_err().field(), Some("stop"));
    }
    assert!(with("stop_token_ids", json!(vec![1; 1024])).is_ok());
    let error = with("stop_token_ids", json!(vec![1; 1025])).unwrap_err();
    assert_eq!(error.field(), Some("stop_token_ids"), "{error}");
}

#[test]
fn completions_take_texts_and_ids() {
    let one = parse_completion(json!({"prompt": "a", "echo": true, "logprobs": 2})).unwrap();
    assert_eq!((one.prompts, one.echo), (vec![Prompts::Text("a".into())], true));
    assert_eq!(one.request.logprobs, Some(2));
    let ids = parse_completion(json!({"prompt": [1, 2]})).unwrap();
    assert_eq!(ids.prompts, [Prompts::Ids(vec![1, 2])]);
    let many = parse_completion(json!({"prompt": ["a", "b"]})).unwrap();
    assert_eq!(many.prompts.len(), 2);
    assert!(parse_completion(json!({"suffix": "x", "prompt": "a"})).is_err());
    assert_eq!(parse_completion(json!({})).unwrap_err().field(), Some("prompt"));
}
