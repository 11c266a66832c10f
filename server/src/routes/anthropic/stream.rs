//! The events of a streamed message.

use axum::response::sse::Event as Line;
use qwen3_vl_engine::Response;
use qwen3_vl_engine::openai::Head;
use qwen3_vl_engine::tools::ToolCall;
use serde_json::{Value, json};

use super::super::pieces::Piece;
use super::{error_body, message, stop, tool_use, usage};
use crate::error::ApiError;
use crate::sse::{Dialect, named};

/// What the open content block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
}

/// One message as it is written.
pub(super) struct MessageStream {
    head: Head,
    prompt: usize,
    open: Option<Block>,
    /// Blocks begun so far.
    blocks: usize,
    calls: usize,
}

impl MessageStream {
    /// The answer to a prompt of `prompt` tokens.
    pub(super) fn new(head: Head, prompt: usize) -> Self {
        Self { head, prompt, open: None, blocks: 0, calls: 0 }
    }

    fn start(&mut self, block: Value) -> Line {
        self.blocks += 1;
        let index = self.blocks - 1;
        named(&json!({ "type": "content_block_start", "index": index, "content_block": block }))
    }

    fn delta(&self, delta: Value) -> Line {
        let index = self.blocks - 1;
        named(&json!({ "type": "content_block_delta", "index": index, "delta": delta }))
    }

    fn close(&mut self) -> Option<Line> {
        self.open.take().map(|_| self.end_block())
    }

    fn end_block(&self) -> Line {
        named(&json!({ "type": "content_block_stop", "index": self.blocks - 1 }))
    }

    fn write(&mut self, block: Block, text: &str) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.open != Some(block) {
            lines.extend(self.close());
            lines.push(self.start(match block {
                Block::Thinking => json!({ "type": "thinking", "thinking": "", "signature": "" }),
                Block::Text => json!({ "type": "text", "text": "" }),
            }));
            self.open = Some(block);
        }
        lines.push(self.delta(match block {
            Block::Thinking => json!({ "type": "thinking_delta", "thinking": text }),
            Block::Text => json!({ "type": "text_delta", "text": text }),
        }));
        lines
    }

    fn call(&mut self, call: &ToolCall) -> Vec<Line> {
        self.calls += 1;
        let mut lines: Vec<Line> = self.close().into_iter().collect();
        lines.push(self.start(tool_use(call, json!({}))));
        let arguments = json!({ "type": "input_json_delta", "partial_json": call.arguments });
        lines.push(self.delta(arguments));
        lines.push(self.end_block());
        lines
    }
}

impl Dialect for MessageStream {
    fn begin(&mut self) -> Vec<Line> {
        let mut message = message(&self.head.id, &self.head.model);
        message["usage"] = json!({ "input_tokens": self.prompt, "output_tokens": 0 });
        vec![named(&json!({ "type": "message_start", "message": message }))]
    }

    fn piece(&mut self, _: usize, piece: Piece) -> Vec<Line> {
        match piece {
            Piece::Prompt(_) | Piece::Token(_) => Vec::new(),
            Piece::Reasoning(text) => self.write(Block::Thinking, &text),
            Piece::Text(text) => self.write(Block::Text, &text),
            Piece::Call(call) => self.call(&call),
        }
    }

    fn done(&mut self, _: usize, response: &Response) -> Vec<Line> {
        let mut lines: Vec<Line> = self.close().into_iter().collect();
        let (reason, sequence) = stop(response, self.calls);
        let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
        let usage = usage(&response.usage);
        lines.push(named(&json!({ "type": "message_delta", "delta": delta, "usage": usage })));
        lines
    }

    fn end(&mut self, _: &[&Response]) -> Vec<Line> {
        vec![named(&json!({ "type": "message_stop" }))]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Line> {
        vec![named(&error_body(error))]
    }
}
