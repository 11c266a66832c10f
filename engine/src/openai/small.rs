//! The bodies of `/tokenize`, `/detokenize` and `/v1/embeddings`.

use serde::Deserialize;
use serde_json::Value;

use super::settings::{PromptJson, describe, object, read};
use super::{BodyError, Prompts, parse_chat};
use crate::Request;

/// What is to be tokenized.
#[derive(Debug)]
pub enum TokenizeBody {
    Text(String),
    Chat(Box<Request>),
}

/// The body of `POST /v1/embeddings`.
#[derive(Debug)]
pub struct EmbeddingBody {
    pub model: Option<String>,
    pub inputs: Vec<Prompts>,
    /// Values that are kept of each vector.
    pub dimensions: Option<usize>,
    /// Whether vectors are told as bytes in base64.
    pub base64: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EmbeddingSettings {
    input: Option<PromptJson>,
    dimensions: Option<usize>,
    encoding_format: Encoding,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    Base64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenizeSettings {
    prompt: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DetokenizeSettings {
    tokens: Vec<u32>,
}

/// Reads the body of `POST /tokenize`: `prompt`, or `messages` and what goes with them. Returns the model's name too.
///
/// # Errors
/// [`BodyError`], naming the field.
pub fn parse_tokenize(body: Value) -> Result<(Option<String>, TokenizeBody), BodyError> {
    if body.get("messages").is_some() {
        let chat = parse_chat(body)?;
        return Ok((chat.model, TokenizeBody::Chat(Box::new(chat.request))));
    }
    let mut body = object(body, "prompt")?;
    let model = describe(&mut body)?;
    let TokenizeSettings { prompt } = read(body)?;
    Ok((model, TokenizeBody::Text(prompt)))
}

/// Reads the body of `POST /detokenize`: the model's name, and ids.
///
/// # Errors
/// [`BodyError`], naming the field.
pub fn parse_detokenize(body: Value) -> Result<(Option<String>, Vec<u32>), BodyError> {
    let mut body = object(body, "tokens")?;
    let model = describe(&mut body)?;
    let DetokenizeSettings { tokens } = read(body)?;
    Ok((model, tokens))
}

/// Reads the body of `POST /v1/embeddings`.
///
/// # Errors
/// [`BodyError`], naming the field.
pub fn parse_embedding(body: Value) -> Result<EmbeddingBody, BodyError> {
    let mut body = object(body, "input")?;
    let model = describe(&mut body)?;
    let settings: EmbeddingSettings = read(body)?;
    let inputs = settings.input.map(PromptJson::prompts).unwrap_or_default();
    if inputs.is_empty() {
        return Err(BodyError::Missing { field: "input", must: "a text, token ids, or a list" });
    }
    if settings.dimensions == Some(0) {
        return Err(BodyError::value("dimensions", 0, "at least 1"));
    }
    let base64 = settings.encoding_format == Encoding::Base64;
    Ok(EmbeddingBody { model, inputs, dimensions: settings.dimensions, base64 })
}
