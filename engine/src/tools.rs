//! Calls of tools: which may be made, and how they stand in an answer (Qwen3's `<tool_call>` blocks of JSON).

use qwen3_vl_model::processor::message::Conversation;
use serde_json::{Value, json};

use crate::Request;
use crate::openai::{BodyError, ToolChoice};
use crate::request::Format;

/// Opens a call.
pub const OPEN: &str = "<tool_call>";
/// Closes a call.
pub const CLOSE: &str = "</tool_call>";

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Unique within the answer.
    pub id: String,
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

impl ToolCall {
    /// OpenAI's object.
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "type": "function",
            "function": { "name": self.name, "arguments": self.arguments },
        })
    }
}

/// Lets `choice` decide which tools the model is told of, and whether it must call one. Returns whether calls are to
/// be looked for.
pub(crate) fn choose(
    conversation: &mut Conversation,
    request: &mut Request,
    choice: Option<&ToolChoice>,
) -> Result<bool, BodyError> {
    if conversation.tools.is_empty() {
        return match choice {
            None | Some(ToolChoice::None | ToolChoice::Auto) => Ok(false),
            Some(_) => Err(BodyError::value("tool_choice", "given", "left out without `tools`")),
        };
    }
    let functions = conversation.tools.iter().enumerate().map(|(i, tool)| function(i, tool));
    let functions: Vec<(String, Value)> = functions.collect::<Result<_, _>>()?;
    let wanted = match choice {
        None | Some(ToolChoice::Auto) => return Ok(true),
        Some(ToolChoice::None) => {
            conversation.tools.clear();
            return Ok(false);
        }
        Some(ToolChoice::Required) => functions,
        Some(ToolChoice::Function(name)) => {
            let named = functions.into_iter().find(|(known, _)| known == name);
            let unknown = || BodyError::value("tool_choice", name, "the name of one of `tools`");
            vec![named.ok_or_else(unknown)?]
        }
    };
    if request.format != Format::Text {
        let must = "left out where `tool_choice` asks for a call";
        return Err(BodyError::value("response_format", "given", must));
    }
    request.format = Format::Calls(wanted);
    Ok(true)
}

/// Name and schema of the arguments of a tool.
fn function(index: usize, tool: &Value) -> Result<(String, Value), BodyError> {
    let at = |field: &str| format!("tools[{index}].{field}");
    if let Some(kind) = tool.get("type").filter(|kind| *kind != "function") {
        return Err(BodyError::value(&at("type"), kind, "\"function\""));
    }
    let function = tool.get("function").unwrap_or(tool);
    let Some(name) = function.get("name").and_then(Value::as_str) else {
        return Err(BodyError::value(&at("function.name"), "missing", "the name of the function"));
    };
    let schema = function.get("parameters").cloned().unwrap_or_else(|| json!({"type": "object"}));
    Ok((name.to_owned(), schema))
}

/// A piece of an answer with tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolPiece {
    Text(String),
    Call(ToolCall),
}

/// Takes the calls out of the text of an answer as it is written. What does not read as a call stays text.
#[derive(Debug)]
pub struct ToolSplitter {
    prefix: String,
    held: String,
    /// White space before the call that is being read.
    gap: String,
    inside: bool,
    calls: usize,
}

impl ToolSplitter {
    /// A splitter whose calls have ids that begin with `prefix`.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            held: String::new(),
            gap: String::new(),
            inside: false,
            calls: 0,
        }
    }

    /// Calls found so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// The pieces that `text` completes.
    pub fn push(&mut self, text: &str) -> Vec<ToolPiece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while let Some(at) = self.held.find(if self.inside { CLOSE } else { OPEN }) {
            let marker = if self.inside { CLOSE } else { OPEN };
            let rest = self.held.split_off(at + marker.len());
            let mut head = std::mem::replace(&mut self.held, rest);
            head.truncate(at);
            self.inside = !self.inside;
            match !self.inside {
                true => pieces.push(self.call(head, CLOSE)),
                false => {
                    // White space before a call belongs to its layout.
                    self.gap = head.split_off(head.trim_end().len());
                    push_text(&mut pieces, head);
                }
            }
        }
        if !self.inside {
            // A marker may be half written, and white space before it is not shown yet.
            let keep = partial(&self.held);
            let shown = self.held[..self.held.len() - keep].trim_end().len();
            let rest = self.held.split_off(shown);
            push_text(&mut pieces, std::mem::replace(&mut self.held, rest));
        }
        pieces
    }

    /// What was held back when the answer ended; a call that a stop string cut off behind its JSON counts.
    pub fn finish(&mut self) -> Vec<ToolPiece> {
        let held = std::mem::take(&mut self.held);
        let mut pieces = Vec::new();
        match std::mem::take(&mut self.inside) {
            true => pieces.push(self.call(held, "")),
            false if self.calls > 0 && held.trim().is_empty() => {}
            false => push_text(&mut pieces, held),
        }
        pieces
    }

    fn call(&mut self, json: String, close: &str) -> ToolPiece {
        let gap = std::mem::take(&mut self.gap);
        let Some((name, arguments)) = read_call(&json) else {
            return ToolPiece::Text(format!("{gap}{OPEN}{json}{close}"));
        };
        let id = format!("{}{}", self.prefix, self.calls);
        self.calls += 1;
        ToolPiece::Call(ToolCall { id, name, arguments })
    }
}

fn read_call(json: &str) -> Option<(String, String)> {
    let call: Value = serde_json::from_str(json.trim()).ok()?;
    let name = call.get("name")?.as_str()?.to_owned();
    let arguments = match call.get("arguments") {
        Some(Value::String(text)) => text.clone(),
        Some(object @ Value::Object(_)) => object.to_string(),
        None => "{}".to_owned(),
        Some(_) => return None,
    };
    Some((name, arguments))
}

fn push_text(pieces: &mut Vec<ToolPiece>, text: String) {
    if !text.is_empty() {
        pieces.push(ToolPiece::Text(text));
    }
}

/// Bytes at the end of `text` that may become the opening of a call.
fn partial(text: &str) -> usize {
    let longest = (OPEN.len() - 1).min(text.len());
    (1..=longest)
        .rev()
        .find(|n| {
            text.is_char_boundary(text.len() - n) && OPEN.starts_with(&text[text.len() - n..])
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(parts: &[&str]) -> Vec<ToolPiece> {
        let mut splitter = ToolSplitter::new("call_");
        let mut pieces: Vec<_> = parts.iter().flat_map(|part| splitter.push(part)).collect();
        pieces.extend(splitter.finish());
        pieces
    }

    fn call(index: usize, name: &str, arguments: &str) -> ToolPiece {
        let id = format!("call_{index}");
        ToolPiece::Call(ToolCall { id, name: name.into(), arguments: arguments.into() })
    }

    const TEXT: &str = "I look.\n<tool_call>\n{\"name\": \"zoom\", \"arguments\": {\"x\": 1}}\n</tool_call>\n\
        <tool_call>\n{\"name\": \"end\"}\n</tool_call>";

    #[test]
    fn calls_are_found_however_the_text_is_cut() {
        let whole = split(&[TEXT]);
        let expected =
            [ToolPiece::Text("I look.".into()), call(0, "zoom", "{\"x\":1}"), call(1, "end", "{}")];
        assert_eq!(whole, expected);
        let letters: Vec<String> = TEXT.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        let mut cut = split(&letters);
        let calls = cut.split_off(cut.len() - 2);
        assert_eq!(calls, expected[1..]);
        let text = cut.iter().map(|piece| match piece {
            ToolPiece::Text(text) => text.as_str(),
            ToolPiece::Call(_) => unreachable!(),
        });
        assert_eq!(text.collect::<String>(), "I look.");
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in
            ["a <tool_call>no JSON</tool_call> b", "a < b <tool", "<tool_call>[1]", " end \n"]
        {
            let pieces = split(&[text]);
            let joined = pieces.iter().map(|piece| match piece {
                ToolPiece::Text(text) => text.as_str(),
                ToolPiece::Call(call) => panic!("{text}: {call:?}"),
            });
            assert_eq!(joined.collect::<String>(), text);
        }
    }

    #[test]
    fn a_call_that_a_stop_string_ended_is_one() {
        assert_eq!(
            split(&["<tool_call>{\"name\": \"a\", \"arguments\": {}}"]),
            [call(0, "a", "{}")]
        );
    }
}
