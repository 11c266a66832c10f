//! What is asked of the model.

use qwen3_vl_model::processor::message::{Conversation, Message};
use qwen3_vl_model::sample::SamplingOverrides;
use serde_json::{Map, Value};

/// A conversation and how to answer it. Whatever is not set comes from the checkpoint's `generation_config.json`.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub conversation: Conversation,
    /// Further variables of the chat template, such as `add_vision_id`.
    pub template: Map<String, Value>,
    /// Most tokens of the answer; without it the file's limit, else 512.
    pub max_tokens: Option<usize>,
    pub sampling: SamplingOverrides,
    /// The answer ends before the first of these strings.
    pub stop: Vec<String>,
    /// The answer ends with the first of these ids, beside the checkpoint's own.
    pub stop_token_ids: Vec<u32>,
    /// Report log probabilities of each token and this many alternatives.
    pub logprobs: Option<usize>,
    /// Go on past end-of-sequence tokens, until `max_tokens`.
    pub ignore_eos: bool,
    /// What the answer must look like.
    pub format: Format,
    /// Most tokens of reasoning; behind them it is closed, and the answer begins.
    pub reasoning_budget: Option<usize>,
}

/// What an answer must look like; it begins behind the reasoning of Thinking checkpoints.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Format {
    /// Anything.
    #[default]
    Text,
    /// JSON that a JSON schema describes.
    Schema(Value),
    /// Calls of tools: name and schema of the arguments of each.
    Calls(Vec<(String, Value)>),
}

impl Format {
    /// Any JSON object.
    pub fn json() -> Self {
        Self::Schema(serde_json::json!({ "type": "object" }))
    }
}

impl Request {
    /// A request for the answer to `messages`.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { conversation: Conversation { messages, tools: Vec::new() }, ..Self::default() }
    }

    /// Limits the answer to `tokens` tokens.
    #[must_use]
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Decodes greedily, whatever the checkpoint's defaults say.
    #[must_use]
    pub fn greedy(mut self) -> Self {
        self.sampling.do_sample = Some(false);
        self
    }
}
