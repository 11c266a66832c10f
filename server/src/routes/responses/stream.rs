//! The events of a streamed response.

use axum::response::sse::Event as Line;
use qwen3_vl_engine::Response;
use qwen3_vl_engine::tools::ToolCall;
use qwen3_vl_model::generate::FinishReason;
use serde_json::{Value, json};

use super::super::pieces::Piece;
use super::{Frame, call_item, message_item, reasoning_item, text_part};
use crate::error::ApiError;
use crate::sse::{Dialect, named};

/// The item that is being written.
enum Open {
    Reasoning(String),
    Text(String),
}

/// One response as it is written.
pub(super) struct ResponseStream {
    frame: Frame,
    open: Option<Open>,
    /// Whole items.
    output: Vec<Value>,
    /// All text and calls of the answer.
    said: String,
    calls: Vec<ToolCall>,
    sequence: u64,
}

impl ResponseStream {
    pub(super) fn new(frame: Frame) -> Self {
        let (output, said, calls) = Default::default();
        Self { frame, open: None, output, said, calls, sequence: 0 }
    }

    fn event(&mut self, kind: &str, mut fields: Value) -> Line {
        fields["type"] = kind.into();
        fields["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        named(&fields)
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}_{}_{}", self.frame.head.id, self.output.len())
    }

    fn added(&mut self, item: Value) -> Line {
        let index = self.output.len();
        self.event("response.output_item.added", json!({ "output_index": index, "item": item }))
    }

    fn item_done(&mut self, item: Value) -> Line {
        let index = self.output.len();
        self.output.push(item.clone());
        self.event("response.output_item.done", json!({ "output_index": index, "item": item }))
    }

    /// An event about the content of the open item.
    fn content(&mut self, kind: &str, prefix: &str, more: (&str, Value)) -> Line {
        let mut fields = json!({
            "item_id": self.id(prefix),
            "output_index": self.output.len(),
            "content_index": 0,
        });
        fields[more.0] = more.1;
        self.event(kind, fields)
    }

    fn think(&mut self, text: &str) -> Vec<Line> {
        let mut lines = Vec::new();
        if !matches!(self.open, Some(Open::Reasoning(_))) {
            lines.extend(self.close());
            let item = reasoning_item(&self.id("rs"), None);
            lines.push(self.added(item));
            self.open = Some(Open::Reasoning(String::new()));
        }
        if let Some(Open::Reasoning(all)) = &mut self.open {
            all.push_str(text);
        }
        lines.push(self.content("response.reasoning_text.delta", "rs", ("delta", text.into())));
        lines
    }

    fn say(&mut self, text: &str) -> Vec<Line> {
        self.said.push_str(text);
        let mut lines = Vec::new();
        if !matches!(self.open, Some(Open::Text(_))) {
            lines.extend(self.close());
            let item = message_item(&self.id("msg"), "in_progress", None);
            lines.push(self.added(item));
            let part = ("part", text_part(""));
            lines.push(self.content("response.content_part.added", "msg", part));
            self.open = Some(Open::Text(String::new()));
        }
        if let Some(Open::Text(all)) = &mut self.open {
            all.push_str(text);
        }
        lines.push(self.content("response.output_text.delta", "msg", ("delta", text.into())));
        lines
    }

    fn close(&mut self) -> Vec<Line> {
        match self.open.take() {
            None => Vec::new(),
            Some(Open::Reasoning(text)) => {
                let done = ("text", text.as_str().into());
                let done = self.content("response.reasoning_text.done", "rs", done);
                let item = reasoning_item(&self.id("rs"), Some(&text));
                vec![done, self.item_done(item)]
            }
            Some(Open::Text(text)) => {
                let whole = ("text", text.as_str().into());
                let done = self.content("response.output_text.done", "msg", whole);
                let part = ("part", text_part(&text));
                let part = self.content("response.content_part.done", "msg", part);
                let item = message_item(&self.id("msg"), "completed", Some(&text));
                vec![done, part, self.item_done(item)]
            }
        }
    }

    fn call(&mut self, call: &ToolCall) -> Vec<Line> {
        self.calls.push(call.clone());
        let mut lines = self.close();
        let item = call_item(call);
        let mut begun = item.clone();
        (begun["arguments"], begun["status"]) = ("".into(), "in_progress".into());
        lines.push(self.added(begun));
        let about = json!({ "item_id": item["id"], "output_index": self.output.len() });
        let with = |key: &str| {
            let mut fields = about.clone();
            fields[key] = call.arguments.as_str().into();
            fields
        };
        let (delta, done) = (with("delta"), with("arguments"));
        lines.push(self.event("response.function_call_arguments.delta", delta));
        lines.push(self.event("response.function_call_arguments.done", done));
        lines.push(self.item_done(item));
        lines
    }
}

impl Dialect for ResponseStream {
    fn begin(&mut self) -> Vec<Line> {
        let object = self.frame.object("in_progress", Vec::new());
        let created = self.event("response.created", json!({ "response": object }));
        vec![created, self.event("response.in_progress", json!({ "response": object }))]
    }

    fn piece(&mut self, _: usize, piece: Piece) -> Vec<Line> {
        match piece {
            Piece::Prompt(_) | Piece::Token(_) => Vec::new(),
            Piece::Reasoning(text) => self.think(&text),
            Piece::Text(text) => self.say(&text),
            Piece::Call(call) => self.call(&call),
        }
    }

    fn done(&mut self, _: usize, response: &Response) -> Vec<Line> {
        let mut lines = self.close();
        if self.output.is_empty() {
            // An answer of nothing is an empty message.
            lines.extend(self.say(""));
            lines.extend(self.close());
        }
        let kind = match response.finish_reason {
            FinishReason::Length => "response.incomplete",
            _ => "response.completed",
        };
        let said = (self.said.as_str(), self.calls.as_slice());
        let object = self.frame.finish(response, self.output.clone(), said);
        lines.push(self.event(kind, json!({ "response": object })));
        lines
    }

    fn end(&mut self, _: &[&Response]) -> Vec<Line> {
        Vec::new()
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Line> {
        let body = json!({ "code": error.code, "message": error.message, "param": error.param });
        vec![self.event("error", body)]
    }
}
