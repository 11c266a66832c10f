//! `/v1/responses`: what was said before comes with the request, or from a response that was kept.

mod kept;
mod request;
mod stream;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::response::{IntoResponse, Response as HttpResponse};
use qwen3_vl_engine::openai::{Head, message, parse_chat};
use qwen3_vl_engine::tools::ToolCall;
use qwen3_vl_engine::{Response, Usage};
use qwen3_vl_model::generate::FinishReason;
use serde_json::{Value, json};

pub use kept::{delete, get};

use super::asked::Asked;
use super::pieces::split;
use crate::error::ApiError;
use crate::store::{Draft, Store, Turn};
use request::Links;

/// Fields of chats that have other names here.
const NAMES: [(&str, &str); 4] = [
    ("messages", "input"),
    ("max_tokens", "max_output_tokens"),
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format", "text.format"),
];

/// `POST /v1/responses`.
pub async fn responses(asked: Asked) -> Result<HttpResponse, ApiError> {
    answer(asked).await.map_err(|error| error.renamed(&NAMES))
}

async fn answer(mut asked: Asked) -> Result<HttpResponse, ApiError> {
    let mut body = asked.body.take();
    let links = Links::take(&mut body)?;
    let mut echo = request::echo(&body);
    echo["previous_response_id"] = links.previous.clone().into();
    let store = kept::wanted(&asked.app, &links)?;
    let past = kept::past(&asked.app, asked.owner, &links)?;
    let before = Turn::messages(&past).map_err(|error| ApiError::internal(&error))?;
    let (chat, input) = request::to_chat(body, before)?;
    let mut chat = parse_chat(chat)?;
    let head = asked.head(kept::new_id()?, chat.model.as_deref())?;
    let draft = Draft { id: head.id.clone(), owner: asked.owner, past, asked: input };
    let mut frame = Frame { head, echo, keep: store.map(|store| (store, draft)) };
    let (answers, _) = asked.answers(&mut chat).await?;
    if chat.stream {
        return Ok(crate::sse::stream(answers, chat.tools, stream::ResponseStream::new(frame)));
    }
    let response = answers.one().await?;
    let (text, calls) = split(chat.tools, &response);
    let output = output(&frame.head.id, &response, &text, &calls);
    Ok(axum::Json(frame.finish(&response, output, (&text, &calls))).into_response())
}

/// What all states of a response have in common.
struct Frame {
    head: Head,
    /// Fields of the request that are told back.
    echo: Value,
    /// Where the response is kept, and with what.
    keep: Option<(Arc<Store>, Draft)>,
}

impl Frame {
    fn object(&self, status: &str, output: Vec<Value>) -> Value {
        let mut object = json!({
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "error": null,
            "incomplete_details": null,
            "model": self.head.model,
            "output": output,
            "usage": null,
        });
        for (field, value) in self.echo.as_object().into_iter().flatten() {
            object[field] = value.clone();
        }
        object["store"] = self.keep.is_some().into();
        object
    }

    /// The whole response, which is kept from now on; `said` is the text and the calls of the answer.
    fn finish(
        &mut self,
        response: &Response,
        output: Vec<Value>,
        said: (&str, &[ToolCall]),
    ) -> Value {
        let (text, calls) = said;
        let mut object = self.finished(response, output);
        if let Some((store, draft)) = self.keep.take() {
            let answer = message(text, response.reasoning.as_deref(), calls);
            object["store"] = store.keep(draft, answer, &object).into();
        }
        object
    }

    fn finished(&self, response: &Response, output: Vec<Value>) -> Value {
        let cut = response.finish_reason == FinishReason::Length;
        let mut object = self.object(if cut { "incomplete" } else { "completed" }, output);
        if cut {
            object["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        object["usage"] = usage(&response.usage);
        object
    }
}

fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": { "cached_tokens": usage.cached_tokens },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
        "total_tokens": usage.total_tokens,
    })
}

/// The items of a whole answer.
fn output(id: &str, response: &Response, text: &str, calls: &[ToolCall]) -> Vec<Value> {
    let mut items = Vec::new();
    if let Some(reasoning) = &response.reasoning {
        items.push(reasoning_item(&format!("rs_{id}"), Some(reasoning)));
    }
    if !text.is_empty() || calls.is_empty() {
        items.push(message_item(&format!("msg_{id}"), "completed", Some(text)));
    }
    items.extend(calls.iter().map(call_item));
    items
}

fn reasoning_item(id: &str, text: Option<&str>) -> Value {
    let content: Vec<Value> =
        text.iter().map(|text| json!({ "type": "reasoning_text", "text": text })).collect();
    json!({ "type": "reasoning", "id": id, "summary": [], "content": content })
}

fn message_item(id: &str, status: &str, text: Option<&str>) -> Value {
    let content: Vec<Value> = text.iter().map(|text| text_part(text)).collect();
    json!({ "type": "message", "id": id, "status": status, "role": "assistant", "content": content })
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

fn call_item(call: &ToolCall) -> Value {
    json!({
        "type": "function_call",
        "id": format!("fc_{}", call.id),
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    })
}
