//! What is asked of the model.

use qwen3_vl_model::processor::message::{Conversation, Message};
use qwen3_vl_model::sample::SamplingOverrides;

/// A conversation and how to answer it. Whatever is not set comes from the checkpoint's `generation_config.json`.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub conversation: Conversation,
    /// Most tokens of the answer; without it the file's limit, else 512.
    pub max_tokens: Option<usize>,
    pub sampling: SamplingOverrides,
    /// The answer ends before the first of these strings.
    pub stop: Vec<String>,
    /// Report log probabilities of each token and this many alternatives.
    pub logprobs: Option<usize>,
    /// Go on past end-of-sequence tokens, until `max_tokens`.
    pub ignore_eos: bool,
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
