//! What is asked of the model.

use qwen3_vl_model::generate::Lookup;
use qwen3_vl_model::processor::message::{Conversation, Message};
use qwen3_vl_model::sample::SamplingOverrides;
use serde_json::{Map, Value};

use crate::Error;

/// Most values that are told of a prompt's tokens: each is some hundred bytes on its way to the client.
const MAX_PROMPT_LOGPROBS: usize = 1 << 17;

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
    /// Report them of the prompt's tokens too, with this many alternatives. The prompt is computed in full then.
    pub prompt_logprobs: Option<usize>,
    /// Go on past end-of-sequence tokens, until `max_tokens`.
    pub ignore_eos: bool,
    /// What the answer must look like.
    pub format: Format,
    /// Most tokens of reasoning; behind them it is closed, and the answer begins.
    pub reasoning_budget: Option<usize>,
    /// Guesses tokens from prompt and answer, where one answer is written at a time; it does not change the answer.
    pub lookup: Option<Lookup>,
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

    /// Whether all token ids are known.
    pub(crate) fn check_ids(&self, vocabulary: usize) -> Result<(), Error> {
        let biased = self.sampling.logit_bias.iter().map(|(id, _)| ("logit_bias", *id));
        let stops = self.stop_token_ids.iter().map(|id| ("stop_token_ids", *id));
        match biased.chain(stops).find(|(_, id)| *id as usize >= vocabulary) {
            Some((field, id)) => Err(Error::TokenId { field, id, vocabulary }),
            None => Ok(()),
        }
    }

    /// Whether what is to be told of a prompt of `tokens` tokens can be held.
    pub(crate) fn check_prompt_logprobs(&self, tokens: usize) -> Result<(), Error> {
        let values = self.prompt_logprobs.map_or(0, |n| tokens.saturating_mul(n + 1));
        let limit = MAX_PROMPT_LOGPROBS;
        if values > limit {
            return Err(Error::PromptLogprobs { tokens, values, limit });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_known_by_field() {
        let stops = Request { stop_token_ids: vec![3, 9], ..Request::default() };
        assert!(stops.check_ids(10).is_ok());
        let error = stops.check_ids(9).unwrap_err().to_string();
        assert!(error.contains("`stop_token_ids`"), "{error}");
    }

    #[test]
    fn long_prompts_tell_few_alternatives() {
        let check = |n, tokens| {
            Request { prompt_logprobs: n, ..Request::default() }.check_prompt_logprobs(tokens)
        };
        assert!(check(None, usize::MAX).is_ok() && check(Some(0), MAX_PROMPT_LOGPROBS).is_ok());
        assert!(check(Some(20), 6241).is_ok() && check(Some(20), 6242).is_err());
        assert!(check(Some(1), usize::MAX).is_err());
    }
}
