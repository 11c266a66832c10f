//! `POST /v1/messages`: Anthropic's dialect, put into that of chats and back.

mod request;
mod stream;

#[cfg(test)]
mod tests;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response as HttpResponse};
use qwen3_vl_engine::openai::parse_chat;
use qwen3_vl_engine::tools::ToolCall;
use qwen3_vl_engine::{Response, Usage};
use qwen3_vl_model::generate::FinishReason;
use serde_json::{Value, json};

use super::asked::Asked;
use super::pieces::split;
use crate::error::ApiError;

/// Fields of chats that have other names here.
const NAMES: [(&str, &str); 2] =
    [("stop", "stop_sequences"), ("thinking_token_budget", "thinking.budget_tokens")];

/// Whether clients of the endpoint at `path` speak this dialect.
pub fn speaks_at(path: &str) -> bool {
    let below = path.strip_prefix("/v1/messages");
    below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// An error in Anthropic's form.
pub struct MessagesError(ApiError);

impl<E: Into<ApiError>> From<E> for MessagesError {
    fn from(error: E) -> Self {
        let error: ApiError = error.into();
        Self(error.renamed(&NAMES))
    }
}

impl IntoResponse for MessagesError {
    fn into_response(self) -> HttpResponse {
        let body = error_body(&self.0);
        let mut response = self.0.into_response();
        *response.body_mut() = body.to_string().into();
        response.headers_mut().remove(axum::http::header::CONTENT_LENGTH);
        response
    }
}

fn error_body(error: &ApiError) -> Value {
    json!({ "type": "error", "error": { "type": kind(error), "message": error.message } })
}

/// The types of errors that Anthropic names otherwise than OpenAI.
fn kind(error: &ApiError) -> &'static str {
    match error.status {
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::INTERNAL_SERVER_ERROR => "api_error",
        _ => error.kind,
    }
}

/// `POST /v1/messages`.
pub async fn messages(asked: Result<Asked, ApiError>) -> Result<HttpResponse, MessagesError> {
    let mut asked = asked?;
    let body = asked.body.take();
    request::ends_with_a_question(&body)?;
    let mut chat = parse_chat(request::to_chat(body)?)?;
    let head = asked.head(format!("msg_{}", asked.id), chat.model.as_deref())?;
    let (answers, prompt) = asked.answers(&mut chat).await?;
    if chat.stream {
        let dialect = stream::MessageStream::new(head, prompt);
        return Ok(crate::sse::stream(answers, chat.tools, dialect));
    }
    let response = answers.one().await?;
    let (text, calls) = split(chat.tools, &response);
    let mut body = message(&head.id, &head.model);
    body["content"] = content(&response, &text, &calls);
    (body["stop_reason"], body["stop_sequence"]) = stop(&response, calls.len());
    body["usage"] = usage(&response.usage);
    Ok(axum::Json(body).into_response())
}

/// `POST /v1/messages/count_tokens`.
pub async fn count_tokens(
    asked: Result<Asked, ApiError>,
) -> Result<axum::Json<Value>, MessagesError> {
    let mut asked = asked?;
    let chat = parse_chat(request::to_chat(request::countable(asked.body.take()))?)?;
    asked.app.name(chat.model.as_deref())?;
    let ids = asked.app.count(chat.request).await?;
    Ok(axum::Json(json!({ "input_tokens": ids.len() })))
}

/// A message without content.
fn message(id: &str, model: &str) -> Value {
    json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
    })
}

fn content(response: &Response, text: &str, calls: &[ToolCall]) -> Value {
    let mut blocks = Vec::new();
    if let Some(reasoning) = &response.reasoning {
        blocks.push(json!({ "type": "thinking", "thinking": reasoning, "signature": "" }));
    }
    if !text.is_empty() || calls.is_empty() {
        blocks.push(json!({ "type": "text", "text": text }));
    }
    blocks.extend(calls.iter().map(|call| tool_use(call, input_of(call))));
    blocks.into()
}

fn tool_use(call: &ToolCall, input: Value) -> Value {
    json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input })
}

/// Arguments that are no JSON stay text, so that nothing is lost.
fn input_of(call: &ToolCall) -> Value {
    serde_json::from_str(&call.arguments).unwrap_or_else(|_| call.arguments.clone().into())
}

/// `stop_reason` and `stop_sequence`.
fn stop(response: &Response, calls: usize) -> (Value, Value) {
    match (calls, response.finish_reason, &response.stopped_by) {
        (1.., ..) => ("tool_use".into(), Value::Null),
        (_, FinishReason::Length, _) => ("max_tokens".into(), Value::Null),
        (_, _, Some(stop)) => ("stop_sequence".into(), stop.clone().into()),
        _ => ("end_turn".into(), Value::Null),
    }
}

fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    })
}
