//! What answers consist of, once calls of tools are taken out of their text.

use std::sync::Arc;

use qwen3_vl_engine::Response;
use qwen3_vl_engine::tools::{ToolCall, ToolPiece, ToolSplitter};
use qwen3_vl_model::generate::{GeneratedToken, PromptLogprob};
use qwen3_vl_model::stream::StreamEvent;

use crate::app::now;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// What is known of the tokens of the prompt, before anything of the answer.
    Prompt(Arc<[PromptLogprob]>),
    /// A token, before its text.
    Token(GeneratedToken),
    Reasoning(String),
    Text(String),
    Call(ToolCall),
}

/// Takes one answer apart as it is written.
#[derive(Debug)]
pub struct Splitter(Option<ToolSplitter>);

impl Splitter {
    /// A splitter that looks for calls if there are `tools`. Their ids begin with the time and `number`, as they must not
    /// repeat within a conversation.
    pub fn new(tools: bool, number: u64) -> Self {
        Self(tools.then(|| ToolSplitter::new(format!("call_{:x}{number:x}_", now()))))
    }

    /// The pieces that `event` completes.
    pub fn push(&mut self, event: StreamEvent) -> Vec<Piece> {
        match (event, &mut self.0) {
            (StreamEvent::Prompt(scores), _) => vec![Piece::Prompt(scores)],
            (StreamEvent::Token(token), _) => vec![Piece::Token(token)],
            (StreamEvent::Reasoning(text), _) => vec![Piece::Reasoning(text)],
            (StreamEvent::Text(text), None) => vec![Piece::Text(text)],
            (StreamEvent::Text(text), Some(tools)) => pieces(tools.push(&text)),
        }
    }

    /// What was held back at the end of the answer.
    pub fn finish(&mut self) -> Vec<Piece> {
        self.0.as_mut().map(|tools| pieces(tools.finish())).unwrap_or_default()
    }
}

fn pieces(found: Vec<ToolPiece>) -> Vec<Piece> {
    let piece = |piece| match piece {
        ToolPiece::Text(text) => Piece::Text(text),
        ToolPiece::Call(call) => Piece::Call(call),
    };
    found.into_iter().map(piece).collect()
}

/// The text and the calls of a whole answer.
pub fn split(tools: bool, response: &Response) -> (String, Vec<ToolCall>) {
    let mut splitter = Splitter::new(tools, response.seed);
    let (mut text, mut calls) = (String::new(), Vec::new());
    let pieces = splitter.push(StreamEvent::Text(response.text.clone()));
    for piece in pieces.into_iter().chain(splitter.finish()) {
        match piece {
            Piece::Text(more) => text.push_str(&more),
            Piece::Call(call) => calls.push(call),
            Piece::Prompt(_) | Piece::Token(_) | Piece::Reasoning(_) => {}
        }
    }
    (text, calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(tools: bool, texts: &[&str]) -> Vec<Piece> {
        let mut splitter = Splitter::new(tools, 7);
        let mut found = splitter.push(StreamEvent::Reasoning("<tool_call>".to_owned()));
        let events = texts.iter().map(|text| StreamEvent::Text((*text).to_owned()));
        found.extend(events.flat_map(|event| splitter.push(event)));
        found.extend(splitter.finish());
        found
    }

    #[test]
    fn calls_are_taken_out_of_text_alone_and_where_there_are_tools() {
        let texts = ["Well <tool_", "call>{\"name\": \"f\", \"arguments\": {}}</tool_call>"];
        let found = all(true, &texts);
        assert_eq!(found[0], Piece::Reasoning("<tool_call>".to_owned()));
        let text: String = found
            .iter()
            .filter_map(
                |piece| if let Piece::Text(text) = piece { Some(text.as_str()) } else { None },
            )
            .collect();
        assert_eq!(text.trim(), "Well");
        assert!(matches!(found.last(), Some(Piece::Call(call)) if call.name == "f"), "{found:?}");
        let plain = all(false, &texts);
        assert_eq!(plain[1..], texts.map(|text| Piece::Text(text.to_owned())));
    }
}
