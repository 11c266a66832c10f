//! A body of `/v1/responses` as one of `/v1/chat/completions`.

use qwen3_vl_engine::openai::BodyError;
use serde_json::{Map, Value, json};

/// Fields that both dialects have.
const SHARED: [&str; 12] = [
    "model",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "chat_template_kwargs",
];
/// Fields that a response tells back.
const ECHO: [&str; 9] = [
    "instructions",
    "metadata",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "tool_choice",
    "tools",
    "max_output_tokens",
    "text",
];

/// Keys of an item or part that a response tells, so that clients send them back.
const TOLD: [&str; 5] = ["type", "id", "status", "annotations", "logprobs"];

type Object = Map<String, Value>;

/// What a request has to do with other requests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    /// The response that this one goes on from.
    pub(super) previous: Option<String>,
    /// Whether others may go on from this one.
    pub(super) store: Option<bool>,
}

impl Links {
    /// Takes them out of a body.
    ///
    /// # Errors
    /// [`BodyError`], naming the field.
    pub(super) fn take(body: &mut Value) -> Result<Self, BodyError> {
        let mut take = |field| body.as_object_mut().and_then(|body| body.remove(field));
        let previous = match take("previous_response_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id),
            Some(other) => return Err(refuse("previous_response_id", &other, "a string")),
        };
        let store = match take("store") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(store)) => Some(store),
            Some(other) => return Err(refuse("store", &other, "true or false")),
        };
        Ok(Self { previous, store })
    }
}

/// What a response tells back of its request.
pub(super) fn echo(body: &Value) -> Value {
    let mut echo = json!({ "parallel_tool_calls": true, "tool_choice": "auto", "tools": [] });
    for field in ECHO {
        if let Some(value) = body.get(field) {
            echo[field] = value.clone();
        }
    }
    echo
}

/// The body of a chat with the same meaning, with the messages `past` before its own; and its own messages without the
/// instructions, which hold for this request alone.
///
/// # Errors
/// [`BodyError`], naming the field.
pub(super) fn to_chat(body: Value, past: Vec<Value>) -> Result<(Value, Vec<Value>), BodyError> {
    let Value::Object(mut body) = body else {
        return Err(BodyError::NoObject { wanted: "input", found: "something else" });
    };
    body.retain(|_, value| !value.is_null());
    let mut chat = Object::new();
    for field in SHARED {
        if let Some(value) = body.remove(field) {
            chat.insert(field.to_owned(), value);
        }
    }
    if let Some(tokens) = body.remove("max_output_tokens") {
        chat.insert("max_completion_tokens".into(), tokens);
    }
    let instructions = body.remove("instructions");
    let instructions = instructions.map(|text| json!({ "role": "system", "content": text }));
    let input = input(&mut body)?;
    let messages = instructions.into_iter().chain(past).chain(input.iter().cloned());
    chat.insert("messages".into(), messages.collect());
    tools(&mut body, &mut chat)?;
    format(body.remove("text"), &mut chat)?;
    for (field, only) in
        [("truncation", json!("disabled")), ("background", json!(false)), ("include", json!([]))]
    {
        if let Some(value) = body.remove(field).filter(|value| *value != only) {
            return Err(refuse(field, &value, &only.to_string()));
        }
    }
    match body.keys().next() {
        Some(field) => Err(BodyError::Unknown { field: field.clone() }),
        None => Ok((Value::Object(chat), input)),
    }
}

/// What is asked, as messages of a chat.
fn input(body: &mut Object) -> Result<Vec<Value>, BodyError> {
    let mut all = Vec::new();
    match body.remove("input") {
        Some(Value::String(text)) => all.push(json!({ "role": "user", "content": text })),
        Some(Value::Array(items)) => {
            for (index, item) in items.into_iter().enumerate() {
                push_item(&format!("input[{index}]"), item, &mut all)?;
            }
        }
        _ => return Err(BodyError::Missing { field: "input", must: "a text or a list of items" }),
    }
    Ok(all)
}

fn push_item(at: &str, mut item: Value, all: &mut Vec<Value>) -> Result<(), BodyError> {
    let kind = item.get("type").and_then(Value::as_str).unwrap_or("message").to_owned();
    let mut take = |key: &str| item.get_mut(key).map(Value::take).unwrap_or_default();
    match kind.as_str() {
        "message" => {
            let content = match take("content") {
                Value::Array(parts) => {
                    let parts = parts.into_iter().enumerate();
                    let part = |(n, part)| content_part(&format!("{at}.content[{n}]"), part);
                    parts.map(part).collect::<Result<Vec<_>, _>>()?.into()
                }
                text => text,
            };
            all.push(json!({ "role": take("role"), "content": content }));
        }
        "function_call" => {
            let function = json!({ "name": take("name"), "arguments": take("arguments") });
            let call = json!({ "id": take("call_id"), "type": "function", "function": function });
            match all
                .last_mut()
                .filter(|last| last["role"] == "assistant" && last["tool_calls"].is_array())
            {
                Some(last) => last["tool_calls"]
                    .as_array_mut()
                    .into_iter()
                    .for_each(|calls| calls.push(call.clone())),
                None => {
                    all.push(json!({ "role": "assistant", "content": null, "tool_calls": [call] }))
                }
            }
        }
        "function_call_output" => {
            let output = match take("output") {
                Value::Array(parts) => {
                    let parts = parts.into_iter().enumerate();
                    let part = |(n, part)| content_part(&format!("{at}.output[{n}]"), part);
                    parts.map(part).collect::<Result<Vec<_>, _>>()?.into()
                }
                text => text,
            };
            all.push(json!({ "role": "tool", "tool_call_id": take("call_id"), "content": output }));
        }
        // Templates drop the reasoning of earlier turns.
        "reasoning" => return Ok(()),
        other => {
            let must = "\"message\", \"function_call\", \"function_call_output\" or \"reasoning\"";
            return Err(refuse(&format!("{at}.type"), &other.into(), must));
        }
    }
    all_taken(at, &item)
}

/// Refuses what is left of an item or part.
fn all_taken(at: &str, rest: &Value) -> Result<(), BodyError> {
    let mut rest = rest.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    match rest.find(|(key, _)| !TOLD.contains(&key.as_str())) {
        Some((key, _)) => Err(BodyError::Unknown { field: format!("{at}.{key}") }),
        None => Ok(()),
    }
}

fn content_part(at: &str, mut part: Value) -> Result<Value, BodyError> {
    let kind = part.get("type").cloned().unwrap_or_default();
    let mut take = |key: &str| part.get_mut(key).map(Value::take).unwrap_or_default();
    let chat = match kind.as_str() {
        Some("input_text" | "output_text" | "text") => {
            json!({ "type": "text", "text": take("text") })
        }
        Some("input_image") => {
            let mut url = json!({ "url": take("image_url") });
            let detail = take("detail");
            if !detail.is_null() {
                url["detail"] = detail;
            }
            json!({ "type": "image_url", "image_url": url })
        }
        Some("input_video" | "video_url") => {
            json!({ "type": "video_url", "video_url": { "url": take("video_url") } })
        }
        _ => {
            let must = "\"input_text\", \"output_text\" or \"input_image\"";
            return Err(refuse(&format!("{at}.type"), &kind, must));
        }
    };
    all_taken(at, &part).map(|()| chat)
}

/// Functions stand flat here and nested in chats.
fn tools(body: &mut Object, chat: &mut Object) -> Result<(), BodyError> {
    if let Some(tools) = body.remove("tools").filter(|tools| !tools.is_null()) {
        let Value::Array(tools) = tools else {
            return Err(refuse("tools", &tools, "a list of tools"));
        };
        let tools = tools.into_iter().enumerate().map(|(index, mut tool)| {
            if tool.get("type").and_then(Value::as_str) != Some("function") {
                let kind = tool.get("type").cloned().unwrap_or_default();
                return Err(refuse(&format!("tools[{index}].type"), &kind, "\"function\""));
            }
            tool.as_object_mut().into_iter().for_each(|tool| drop(tool.remove("type")));
            Ok(json!({ "type": "function", "function": tool }))
        });
        chat.insert("tools".into(), tools.collect::<Result<Vec<_>, _>>()?.into());
    }
    if let Some(choice) = body.remove("tool_choice") {
        let choice = match choice.get("name") {
            Some(name) => json!({ "type": "function", "function": { "name": name } }),
            None => choice,
        };
        chat.insert("tool_choice".into(), choice);
    }
    Ok(())
}

fn format(text: Option<Value>, chat: &mut Object) -> Result<(), BodyError> {
    let mut text = match text {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(text)) => text,
        Some(other) => return Err(refuse("text", &other, "an object")),
    };
    if let Some(mut format) = text.remove("format") {
        let format = match format.get("type").and_then(Value::as_str) {
            Some("json_schema") => {
                format.as_object_mut().into_iter().for_each(|format| drop(format.remove("type")));
                json!({ "type": "json_schema", "json_schema": format })
            }
            _ => format,
        };
        chat.insert("response_format".into(), format);
    }
    match text.keys().next() {
        Some(field) => Err(BodyError::Unknown { field: format!("text.{field}") }),
        None => Ok(()),
    }
}

fn refuse(field: &str, value: &Value, must: &str) -> BodyError {
    BodyError::Field { field: field.to_owned(), value: value.to_string(), must: must.to_owned() }
}
