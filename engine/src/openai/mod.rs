//! OpenAI's chat completion objects: a request body to a [`crate::Request`], a [`crate::Response`] to an answer body.
//!
//! A field is honoured or refused by name; none is ignored, except those that only describe the caller.

mod answer;
mod body;
mod error;
mod media;
mod settings;
mod small;

#[cfg(test)]
mod tests;

pub use answer::{Head, choice, completion, logprob_entries, message, prompt_logprobs, usage};
pub use body::{ChatBody, parse_chat, parse_request};
pub use error::BodyError;
pub use settings::{
    CompletionBody, DESCRIPTIVE, Prompts, StreamOptions, ToolChoice, parse_completion,
};
pub use small::{EmbeddingBody, TokenizeBody, parse_detokenize, parse_embedding, parse_tokenize};

use serde_json::Value;

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
