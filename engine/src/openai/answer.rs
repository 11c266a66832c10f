//! Answers as OpenAI words them.

use qwen3_vl_model::generate::PromptLogprob;
use qwen3_vl_model::processor::detokenize::token_bytes;
use qwen3_vl_model::processor::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use crate::tools::ToolCall;
use crate::{Response, TokenLogprob};

/// What all objects of one answer begin with.
#[derive(Debug, Clone)]
pub struct Head {
    pub id: String,
    pub model: String,
    /// Seconds since 1970.
    pub created: u64,
}

impl Head {
    /// An object of the kind `object`.
    pub fn object(&self, object: &str) -> Value {
        json!({ "id": self.id, "object": object, "created": self.created, "model": self.model })
    }
}

/// The body of a whole answer, a `chat.completion` object.
pub fn completion(head: &Head, choices: Vec<Value>, usage: Value) -> Value {
    let mut body = head.object("chat.completion");
    body["choices"] = choices.into();
    body["usage"] = usage;
    body
}

/// The message of an answer; `text` is what remains beside the calls of tools.
pub fn message(text: &str, reasoning: Option<&str>, calls: &[ToolCall]) -> Value {
    let content = (!text.is_empty() || calls.is_empty()).then_some(text);
    let mut message = json!({ "role": "assistant", "content": content });
    if let Some(reasoning) = reasoning {
        message["reasoning_content"] = json!(reasoning);
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.iter().map(ToolCall::to_json).collect();
    }
    message
}

/// One choice; `logprobs` as [`logprob_entries`] words them.
pub fn choice(index: usize, message: Value, finish: &str, logprobs: Option<Vec<Value>>) -> Value {
    json!({
        "index": index,
        "message": message,
        "logprobs": logprobs.map(|content| json!({ "content": content })),
        "finish_reason": finish,
    })
}

/// Token counts of all answers to one prompt.
pub fn usage(answers: &[&Response]) -> Value {
    let Some(first) = answers.first().map(|answer| &answer.usage) else { return Value::Null };
    let completion: usize = answers.iter().map(|answer| answer.usage.completion_tokens).sum();
    let reasoning: usize = answers.iter().map(|answer| answer.usage.reasoning_tokens).sum();
    json!({
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": first.prompt_tokens + completion,
        "prompt_tokens_details": {
            "cached_tokens": first.cached_tokens,
            "image_tokens": first.image_tokens,
            "video_tokens": first.video_tokens,
        },
        "completion_tokens_details": { "reasoning_tokens": reasoning },
    })
}

/// Log probabilities token by token.
pub fn logprob_entries(tokenizer: &Tokenizer, tokens: &[TokenLogprob]) -> Vec<Value> {
    tokens.iter().map(|token| logprob(tokenizer, token)).collect()
}

fn logprob(tokenizer: &Tokenizer, token: &TokenLogprob) -> Value {
    let top: Vec<Value> =
        token.logprobs.top.iter().map(|(id, value)| entry(tokenizer, *id, *value)).collect();
    let mut chosen = entry(tokenizer, token.id, token.logprobs.chosen);
    chosen["top_logprobs"] = json!(top);
    chosen
}

fn entry(tokenizer: &Tokenizer, id: u32, value: f32) -> Value {
    let bytes = token_bytes(tokenizer, id);
    json!({ "token": String::from_utf8_lossy(&bytes), "id": id, "logprob": value, "bytes": bytes })
}

/// Log probabilities of a prompt as vLLM words them: one entry per token, null for the first, else the token itself and
/// the alternatives by id.
pub fn prompt_logprobs(tokenizer: &Tokenizer, tokens: &[PromptLogprob]) -> Value {
    let entry = |id: u32, logprob: f32, rank: usize| {
        let text = String::from_utf8_lossy(&token_bytes(tokenizer, id)).into_owned();
        // JSON has no infinity; this is what vLLM writes.
        let logprob = if logprob == f32::NEG_INFINITY { -9999.0 } else { logprob };
        (id.to_string(), json!({ "logprob": logprob, "rank": rank, "decoded_token": text }))
    };
    let one = |token: &PromptLogprob| {
        let own = entry(token.id, token.logprobs.chosen, token.rank);
        let top = token.logprobs.top.iter().zip(1..).filter(|((id, _), _)| *id != token.id);
        let top = top.map(|((id, logprob), rank)| entry(*id, *logprob, rank));
        std::iter::once(own).chain(top).collect::<Map<String, Value>>()
    };
    let known = tokens.iter().map(|token| Value::Object(one(token)));
    std::iter::once(Value::Null).chain(known).collect()
}
