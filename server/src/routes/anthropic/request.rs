//! A body of `/v1/messages` as one of `/v1/chat/completions`.

use qwen3_vl_engine::openai::BodyError;
use serde_json::{Map, Value, json};

/// Fields that both dialects have.
const SHARED: [&str; 8] =
    ["model", "max_tokens", "stream", "temperature", "top_p", "top_k", "metadata", "seed"];

type Object = Map<String, Value>;

/// The body of a chat with the same meaning.
///
/// # Errors
/// [`BodyError`], naming the field.
pub(super) fn to_chat(body: Value) -> Result<Value, BodyError> {
    let Value::Object(mut body) = body else {
        return Err(BodyError::NoObject { wanted: "messages", found: "something else" });
    };
    body.retain(|_, value| !value.is_null());
    let mut chat = Object::new();
    for field in SHARED {
        move_field(&mut body, field, &mut chat, field);
    }
    if !chat.contains_key("max_tokens") {
        return Err(BodyError::Missing { field: "max_tokens", must: "a number of tokens" });
    }
    move_field(&mut body, "stop_sequences", &mut chat, "stop");
    chat.insert("messages".into(), messages(&mut body)?);
    tools(&mut body, &mut chat)?;
    thinking(body.remove("thinking"), &mut chat)?;
    // A hint for billing that has one value here.
    body.remove("service_tier");
    match body.keys().next() {
        Some(field) => Err(BodyError::Unknown { field: field.clone() }),
        None => Ok(Value::Object(chat)),
    }
}

/// Whether the model is to begin a turn: chat templates cannot go on with one that the request began.
pub(super) fn ends_with_a_question(body: &Value) -> Result<(), BodyError> {
    let messages = body.get("messages").and_then(Value::as_array);
    let Some((last, before)) = messages.and_then(|messages| messages.split_last()) else {
        return Ok(());
    };
    match last.get("role").and_then(Value::as_str) {
        Some("assistant") => {
            let at = format!("messages[{}].role", before.len());
            Err(field(&at, "\"assistant\"", "\"user\" in the last message"))
        }
        _ => Ok(()),
    }
}

/// A body of `/v1/messages/count_tokens`, which has no `max_tokens`.
pub(super) fn countable(mut body: Value) -> Value {
    if let Some(body) = body.as_object_mut() {
        body.entry("max_tokens").or_insert_with(|| 1.into());
    }
    body
}

fn move_field(from: &mut Object, field: &str, to: &mut Object, name: &str) {
    if let Some(value) = from.remove(field) {
        to.insert(name.to_owned(), value);
    }
}

fn messages(body: &mut Object) -> Result<Value, BodyError> {
    let mut all = Vec::new();
    if let Some(system) = body.remove("system") {
        let content = match system {
            Value::Array(blocks) => parts("system", blocks)?.into(),
            text => text,
        };
        all.push(json!({ "role": "system", "content": content }));
    }
    let Some(Value::Array(messages)) = body.remove("messages") else {
        return Err(BodyError::Missing { field: "messages", must: "a list of messages" });
    };
    for (index, message) in messages.into_iter().enumerate() {
        push_message(&format!("messages[{index}]"), message, &mut all)?;
    }
    Ok(all.into())
}

fn push_message(at: &str, message: Value, all: &mut Vec<Value>) -> Result<(), BodyError> {
    let Value::Object(mut message) = message else {
        return Err(field(at, "no object", "an object with `role` and `content`"));
    };
    let role = message.remove("role").unwrap_or_default();
    let content = message.remove("content").unwrap_or_default();
    if let Some(key) = message.keys().next() {
        return Err(BodyError::Unknown { field: format!("{at}.{key}") });
    }
    let Value::Array(blocks) = content else {
        all.push(json!({ "role": role, "content": content }));
        return Ok(());
    };
    let (parts, calls, results, thoughts) = parts_of(&format!("{at}.content"), blocks)?;
    // Results of tools come first, as the turn after the call.
    all.extend(results);
    if parts.is_empty() && calls.is_empty() {
        return Ok(());
    }
    let mut object = json!({ "role": role, "content": parts });
    if !calls.is_empty() {
        object["tool_calls"] = calls.into();
    }
    if let Some(thoughts) = thoughts {
        object["reasoning_content"] = thoughts.into();
    }
    all.push(object);
    Ok(())
}

type Parts = (Vec<Value>, Vec<Value>, Vec<Value>, Option<String>);

/// Content parts, calls, results of calls as messages, and reasoning.
fn parts_of(at: &str, blocks: Vec<Value>) -> Result<Parts, BodyError> {
    let (mut content, mut calls, mut results, mut thoughts) = Parts::default();
    for (index, block) in blocks.into_iter().enumerate() {
        let at = format!("{at}[{index}]");
        let Value::Object(mut block) = block else {
            return Err(field(&at, "no object", "a content block"));
        };
        block.remove("cache_control");
        let kind = block.remove("type").unwrap_or_default();
        match kind.as_str() {
            Some("text") => {
                content.push(json!({ "type": "text", "text": take(&at, &mut block, "text")? }))
            }
            Some("image") => {
                let url = source(&format!("{at}.source"), block.remove("source"))?;
                content.push(json!({ "type": "image_url", "image_url": { "url": url } }));
            }
            Some("tool_use") => {
                let (id, name) = (take(&at, &mut block, "id")?, take(&at, &mut block, "name")?);
                let function =
                    json!({ "name": name, "arguments": take(&at, &mut block, "input")? });
                calls.push(json!({ "id": id, "type": "function", "function": function }));
            }
            Some("tool_result") => results.push(tool_result(&at, &mut block)?),
            Some("thinking") => {
                block.remove("signature");
                let text = take(&at, &mut block, "thinking")?;
                thoughts
                    .get_or_insert_with(String::new)
                    .push_str(text.as_str().unwrap_or_default());
            }
            _ => {
                let must = "\"text\", \"image\", \"tool_use\", \"tool_result\" or \"thinking\"";
                return Err(field(&format!("{at}.type"), &kind.to_string(), must));
            }
        }
        if let Some(key) = block.keys().find(|key| *key != "citations") {
            return Err(BodyError::Unknown { field: format!("{at}.{key}") });
        }
    }
    Ok((content, calls, results, thoughts))
}

/// The message of a tool. Templates know no failed tools, so that its text says so.
fn tool_result(at: &str, block: &mut Object) -> Result<Value, BodyError> {
    let id = take(at, block, "tool_use_id")?;
    let mut content = match block.remove("content") {
        Some(Value::Array(blocks)) => parts(&format!("{at}.content"), blocks)?.into(),
        Some(text) => text,
        None => "".into(),
    };
    match block.remove("is_error").unwrap_or_default() {
        Value::Null | Value::Bool(false) => {}
        Value::Bool(true) => content = failed(content),
        other => return Err(field(&format!("{at}.is_error"), &other.to_string(), "true or false")),
    }
    Ok(json!({ "role": "tool", "tool_call_id": id, "content": content }))
}

/// What a tool told of its failure, after a word that it failed.
fn failed(content: Value) -> Value {
    match content {
        Value::String(text) => format!("Error: {text}").trim_end().into(),
        Value::Array(mut parts) => {
            parts.insert(0, json!({ "type": "text", "text": "Error: " }));
            parts.into()
        }
        // It is refused as the content of a message.
        other => other,
    }
}

/// Blocks where only text and pictures may stand.
fn parts(at: &str, blocks: Vec<Value>) -> Result<Vec<Value>, BodyError> {
    let (content, calls, results, thoughts) = parts_of(at, blocks)?;
    match calls.is_empty() && results.is_empty() && thoughts.is_none() {
        true => Ok(content),
        false => Err(field(at, "calls or reasoning", "text and pictures")),
    }
}

fn source(at: &str, source: Option<Value>) -> Result<String, BodyError> {
    only(at, source.as_ref(), &["type", "url", "media_type", "data"])?;
    let text = |key: &str| source.as_ref().and_then(|s| s.get(key)).and_then(Value::as_str);
    match (text("type"), text("url"), text("media_type"), text("data")) {
        (Some("url"), Some(url), ..) => Ok(url.to_owned()),
        (Some("base64"), _, Some(kind), Some(data)) => Ok(format!("data:{kind};base64,{data}")),
        _ => {
            Err(field(at, "incomplete", "of type \"base64\" with media_type and data, or \"url\""))
        }
    }
}

fn tools(body: &mut Object, chat: &mut Object) -> Result<(), BodyError> {
    if let Some(tools) = body.remove("tools").filter(|tools| !tools.is_null()) {
        let Value::Array(tools) = tools else {
            return Err(field("tools", &tools.to_string(), "a list of tools"));
        };
        let tools = tools.into_iter().enumerate().map(|(index, tool)| {
            let at = format!("tools[{index}]");
            let Value::Object(mut tool) = tool else {
                return Err(field(&at, "no object", "a tool"));
            };
            if let Some(kind) = tool.remove("type").filter(|kind| kind != "custom") {
                return Err(field(&format!("{at}.type"), &kind.to_string(), "\"custom\""));
            }
            tool.remove("cache_control");
            let parameters = take(&at, &mut tool, "input_schema")?;
            tool.insert("parameters".into(), parameters);
            Ok(json!({ "type": "function", "function": tool }))
        });
        chat.insert("tools".into(), tools.collect::<Result<Vec<_>, _>>()?.into());
    }
    let Some(choice) = body.remove("tool_choice") else { return Ok(()) };
    only("tool_choice", Some(&choice), &["type", "name", "disable_parallel_tool_use"])?;
    if choice.get("disable_parallel_tool_use").and_then(Value::as_bool) == Some(true) {
        chat.insert("parallel_tool_calls".into(), false.into());
    }
    let wanted = match (choice.get("type").and_then(Value::as_str), choice.get("name")) {
        (Some("auto"), _) => "auto".into(),
        (Some("any"), _) => "required".into(),
        (Some("none"), _) => "none".into(),
        (Some("tool"), Some(name)) => json!({ "type": "function", "function": { "name": name } }),
        _ => {
            let must = "of type \"auto\", \"any\", \"none\", or \"tool\" with a name";
            return Err(field("tool_choice", &choice.to_string(), must));
        }
    };
    chat.insert("tool_choice".into(), wanted);
    Ok(())
}

/// Whether the model thinks is a matter of its checkpoint and template; the budget is ours.
fn thinking(thinking: Option<Value>, chat: &mut Object) -> Result<(), BodyError> {
    let Some(thinking) = thinking else { return Ok(()) };
    only("thinking", Some(&thinking), &["type", "budget_tokens"])?;
    let enabled = match thinking.get("type").and_then(Value::as_str) {
        Some("enabled") => true,
        Some("disabled") => false,
        _ => {
            return Err(field(
                "thinking",
                &thinking.to_string(),
                "of type \"enabled\" or \"disabled\"",
            ));
        }
    };
    chat.insert("chat_template_kwargs".into(), json!({ "enable_thinking": enabled }));
    if let Some(budget) = thinking.get("budget_tokens") {
        chat.insert("thinking_token_budget".into(), budget.clone());
    }
    Ok(())
}

/// Refuses other keys than these.
fn only(at: &str, value: Option<&Value>, known: &[&str]) -> Result<(), BodyError> {
    let mut keys = value.and_then(Value::as_object).into_iter().flat_map(Map::keys);
    match keys.find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(BodyError::Unknown { field: format!("{at}.{key}") }),
        None => Ok(()),
    }
}

fn take(at: &str, object: &mut Object, key: &str) -> Result<Value, BodyError> {
    object.remove(key).ok_or_else(|| field(&format!("{at}.{key}"), "missing", "given"))
}

fn field(field: &str, value: &str, must: &str) -> BodyError {
    BodyError::Field { field: field.to_owned(), value: value.to_owned(), must: must.to_owned() }
}
