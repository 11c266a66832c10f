//! Turns with `from` and `value`: the form of Qwen's `qwen-vl-finetune`, and ShareGPT.

use serde_json::{Map, Value as Json, json};

use super::draft::Turn;
use super::error::{RowProblem, describe, nearest, type_error};
use super::keys::{self, LOSS};

const ROLES: [&str; 5] = ["human", "gpt", "system", "observation", "function_call"];
const KNOWN: &str = "human, gpt, system, observation and function_call";

/// One turn. Where the original makes every speaker but `human` the model, here each name has one role.
pub(super) fn turn(map: &Map<String, Json>, at: String) -> Result<Turn, RowProblem> {
    keys::check(map, &at, &[&["from", "value"], &LOSS])?;
    let from = keys::text(map, &at, "from", "human, gpt, system, observation or function_call")?;
    let value = keys::text(map, &at, "value", "the text of this turn")?;
    let text = Json::String(value.to_owned());
    let loss = keys::loss(map, &at)?;
    let turn = match from {
        "human" => Turn::new(at, "user", text),
        "gpt" => Turn::new(at, "assistant", text),
        "system" => Turn::new(at, "system", text),
        "observation" => Turn::new(at, "tool", text),
        "function_call" => {
            let calls = calls(value, &format!("{at}.value"))?;
            let mut turn = Turn::new(at, "assistant", Json::String(String::new()));
            turn.json.insert("tool_calls".into(), Json::Array(calls));
            turn
        }
        other => return Err(unknown_role(other, format!("{at}.from"))),
    };
    Ok(Turn { loss, ..turn })
}

fn unknown_role(role: &str, at: String) -> RowProblem {
    let nearest = match role.to_lowercase().as_str() {
        "user" => Some("human".to_owned()),
        "assistant" | "model" | "bot" | "chatgpt" => Some("gpt".to_owned()),
        "tool" | "function_response" => Some("observation".to_owned()),
        _ => nearest(role, &ROLES),
    };
    RowProblem::UnknownRole { at, role: role.to_owned(), nearest, known: KNOWN }
}

/// The tool calls that `value` holds as JSON: one object, or a list of them.
fn calls(value: &str, at: &str) -> Result<Vec<Json>, RowProblem> {
    let must = |error: String| RowProblem::Value {
        at: at.to_owned(),
        value: describe(&Json::String(value.to_owned())),
        must: format!("be a tool call as JSON, with `name` and `arguments`; {error}"),
    };
    let parsed: Json = serde_json::from_str(value).map_err(|error| must(error.to_string()))?;
    let list = match parsed {
        Json::Array(calls) => calls,
        call => vec![call],
    };
    list.into_iter().map(|call| one_call(call, at)).collect()
}

fn one_call(call: Json, at: &str) -> Result<Json, RowProblem> {
    let Json::Object(mut map) = call else {
        return Err(type_error(at, "a tool call object", &call));
    };
    keys::check(&map, at, &[&["name", "arguments"]])?;
    let arguments = map.shift_remove("arguments").ok_or_else(|| RowProblem::Missing {
        at: format!("{at}.arguments"),
        wanted: "the arguments of the call",
    })?;
    let name = keys::text(&map, at, "name", "the name of the function that is called")?;
    Ok(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
}
