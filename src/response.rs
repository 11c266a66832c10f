//! A whole answer.

use std::time::Duration;

use qwen3_vl_model::generate::{FinishReason, Timings};
use qwen3_vl_model::processor::PreparedChat;
use qwen3_vl_model::processor::image::PlannedImage;
use qwen3_vl_model::processor::message::MediaKind;
use qwen3_vl_model::sample::TokenLogprobs;

/// Token counts of a request (OpenAI `usage`, with the share of pictures).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    /// Tokens of the prompt that stand for pictures.
    pub image_tokens: usize,
    /// Tokens of the prompt that an earlier turn had left in the cache.
    pub cached_tokens: usize,
}

/// Log probabilities of one generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    pub id: u32,
    pub logprobs: TokenLogprobs,
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The answer without reasoning, special tokens and stop string.
    pub text: String,
    /// What a Thinking checkpoint wrote before its answer.
    pub reasoning: Option<String>,
    /// All generated ids, an end-of-sequence token included.
    pub token_ids: Vec<u32>,
    pub prompt_token_ids: Vec<u32>,
    pub finish_reason: FinishReason,
    pub usage: Usage,
    pub timings: Timings,
    /// Seconds in which pictures were read, resized and cut.
    pub preprocess: Duration,
    /// What became of each picture.
    pub images: Vec<PlannedImage>,
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// The sampler's seed, which repeats the answer.
    pub seed: u64,
}

impl Response {
    /// The answer to a prepared conversation, before its first token.
    pub(crate) fn begun(chat: PreparedChat, preprocess: Duration, logprobs: bool) -> Self {
        let image_tokens = chat.inputs.placeholders(MediaKind::Image);
        Self {
            text: String::new(),
            reasoning: None,
            token_ids: Vec::new(),
            prompt_token_ids: chat.inputs.ids,
            finish_reason: FinishReason::Interrupted,
            usage: Usage { image_tokens, ..Usage::default() },
            timings: Timings::default(),
            preprocess,
            images: chat.images,
            logprobs: logprobs.then(Vec::new),
            seed: 0,
        }
    }
}
