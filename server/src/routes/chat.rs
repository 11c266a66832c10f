//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::sse::Event as Line;
use axum::response::{IntoResponse, Response as HttpResponse};
use qwen3_vl_engine::openai::{
    self, ChatBody, Head, choice, completion, logprob_entries, message, parse_chat, usage,
};
use qwen3_vl_engine::tools::{ToolCall, ToolPiece, ToolSplitter};
use qwen3_vl_engine::{Prepared, Qwen3Vl, Request, Response, TokenLogprob, grounding_json};
use qwen3_vl_model::stream::StreamEvent;
use serde_json::{Value, json};

use super::Shared;
use super::body::Json;
use super::log::RequestId;
use crate::app::{App, now};
use crate::engine::Client;
use crate::error::ApiError;
use crate::sse::{Dialect, data, stream};

/// `POST /v1/chat/completions`.
pub async fn completions(
    State(app): State<Shared>,
    Extension(RequestId(id)): Extension<RequestId>,
    client: Client,
    Json(body): Json,
) -> Result<HttpResponse, ApiError> {
    let mut chat = parse_chat(body)?;
    let head = head(&app, &format!("chatcmpl-{id}"), chat.model.as_deref())?;
    let prepared = app.prepare(&mut chat.request).await?;
    let answers = app.submit(client, repeat(prepared, &chat.request, chat.n))?;
    let model = Arc::clone(app.model()?);
    if chat.stream {
        return Ok(stream(answers, ChatStream::new(model, head, &chat)));
    }
    let responses = answers.whole().await?;
    let choices = responses.iter().enumerate();
    let choices = choices.map(|(index, response)| whole(&model, &chat, index, response)).collect();
    let all: Vec<&Response> = responses.iter().collect();
    let mut body = completion(&head, choices, usage(&all));
    if let Some(scores) = responses.first().and_then(|first| first.prompt_logprobs.as_deref()) {
        body["prompt_logprobs"] = openai::prompt_logprobs(model.processor().tokenizer(), scores);
    }
    Ok(axum::Json(body).into_response())
}

/// What the objects of an answer begin with.
///
/// # Errors
/// 404 for a model that is not served.
pub fn head(app: &App, id: &str, model: Option<&str>) -> Result<Head, ApiError> {
    Ok(Head { id: id.to_owned(), model: app.name(model)?, created: now() })
}

/// One request per choice; with a seed, each has its own. Only the first tells of the prompt, which is the same for all.
pub fn repeat(prepared: Prepared, request: &Request, n: usize) -> Vec<(Prepared, Request)> {
    let one = |index: usize| {
        let mut request = request.clone();
        request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        request.prompt_logprobs = request.prompt_logprobs.filter(|_| index == 0);
        (prepared.clone(), request)
    };
    (0..n).map(one).collect()
}

/// One choice of an answer that is not streamed.
fn whole(model: &Qwen3Vl, chat: &ChatBody, index: usize, response: &Response) -> Value {
    let (text, calls) = split_tools(chat.tools, response);
    let reasoning = response.reasoning.as_deref().filter(|_| chat.reasoning);
    let mut message = message(&text, reasoning, &calls);
    if chat.grounding {
        message["grounding"] = grounding_json(response);
    }
    let tokens = response.logprobs.as_deref();
    let logprobs = tokens.map(|tokens| logprob_entries(model.processor().tokenizer(), tokens));
    choice(index, message, finish(response, calls.len()), logprobs)
}

/// The text and the calls of an answer.
pub fn split_tools(tools: bool, response: &Response) -> (String, Vec<ToolCall>) {
    if !tools {
        return (response.text.clone(), Vec::new());
    }
    let mut splitter = ToolSplitter::new(call_prefix(response.seed));
    let (mut text, mut calls) = (String::new(), Vec::new());
    for piece in splitter.push(&response.text).into_iter().chain(splitter.finish()) {
        match piece {
            ToolPiece::Text(more) => text.push_str(&more),
            ToolPiece::Call(call) => calls.push(call),
        }
    }
    (text, calls)
}

/// Ids of calls must not repeat within a conversation.
pub fn call_prefix(seed: u64) -> String {
    format!("call_{:x}{seed:x}_", now())
}

/// Why an answer with so many calls ended.
fn finish(response: &Response, calls: usize) -> &'static str {
    match calls {
        0 => response.finish_reason.as_str(),
        _ => "tool_calls",
    }
}

/// Chunks of a chat.
struct ChatStream {
    model: Arc<Qwen3Vl>,
    head: Head,
    include_usage: bool,
    reasoning: bool,
    grounding: bool,
    choices: Vec<ChoiceStream>,
}

#[derive(Default)]
struct ChoiceStream {
    tools: Option<ToolSplitter>,
    /// Log probabilities whose text has not been sent.
    logprobs: Option<Vec<TokenLogprob>>,
    calls: usize,
}

impl ChatStream {
    fn new(model: Arc<Qwen3Vl>, head: Head, chat: &ChatBody) -> Self {
        let one = |index: usize| ChoiceStream {
            tools: chat.tools.then(|| ToolSplitter::new(call_prefix(index as u64))),
            logprobs: chat.request.logprobs.map(|_| Vec::new()),
            calls: 0,
        };
        Self {
            model,
            head,
            include_usage: chat.stream_options.include_usage,
            reasoning: chat.reasoning,
            grounding: chat.grounding,
            choices: (0..chat.n).map(one).collect(),
        }
    }

    fn chunk(&self, choices: Vec<Value>) -> Value {
        let mut chunk = self.head.object("chat.completion.chunk");
        chunk["choices"] = choices.into();
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn delta(&mut self, index: usize, delta: Value, finish: Option<&str>) -> Line {
        let tokenizer = self.model.processor().tokenizer();
        let waiting = self.choices[index].logprobs.as_mut().map(std::mem::take);
        let logprobs = waiting.filter(|waiting| !waiting.is_empty());
        let logprobs =
            logprobs.map(|tokens| json!({ "content": logprob_entries(tokenizer, &tokens) }));
        let choice = json!({
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        });
        data(&self.chunk(vec![choice]))
    }

    fn tool_piece(&mut self, index: usize, piece: ToolPiece) -> Line {
        match piece {
            ToolPiece::Text(text) => self.delta(index, json!({ "content": text }), None),
            ToolPiece::Call(call) => {
                let mut object = call.to_json();
                object["index"] = self.choices[index].calls.into();
                self.choices[index].calls += 1;
                self.delta(index, json!({ "tool_calls": [object] }), None)
            }
        }
    }
}

impl Dialect for ChatStream {
    fn begin(&mut self) -> Vec<Line> {
        let role = || json!({ "role": "assistant", "content": "" });
        (0..self.choices.len()).map(|index| self.delta(index, role(), None)).collect()
    }

    fn piece(&mut self, index: usize, event: StreamEvent) -> Vec<Line> {
        match event {
            StreamEvent::Token(token) => {
                if let (Some(all), Some(logprobs)) =
                    (&mut self.choices[index].logprobs, token.logprobs)
                {
                    all.push(TokenLogprob { id: token.id, logprobs });
                }
                Vec::new()
            }
            StreamEvent::Reasoning(text) if self.reasoning => {
                vec![self.delta(index, json!({ "reasoning_content": text }), None)]
            }
            StreamEvent::Reasoning(_) => Vec::new(),
            StreamEvent::Text(text) => match &mut self.choices[index].tools {
                None => vec![self.delta(index, json!({ "content": text }), None)],
                Some(tools) => {
                    let pieces = tools.push(&text);
                    pieces.into_iter().map(|piece| self.tool_piece(index, piece)).collect()
                }
            },
        }
    }

    fn done(&mut self, index: usize, response: &Response) -> Vec<Line> {
        let rest = self.choices[index].tools.as_mut().map(ToolSplitter::finish).unwrap_or_default();
        let mut lines: Vec<Line> =
            rest.into_iter().map(|piece| self.tool_piece(index, piece)).collect();
        let delta = match self.grounding {
            true => json!({ "grounding": grounding_json(response) }),
            false => json!({}),
        };
        let reason = finish(response, self.choices[index].calls);
        lines.push(self.delta(index, delta, Some(reason)));
        lines
    }

    fn end(&mut self, responses: &[&Response]) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.include_usage {
            let mut chunk = self.chunk(Vec::new());
            chunk["usage"] = openai::usage(responses);
            lines.push(data(&chunk));
        }
        lines.push(Line::default().data("[DONE]"));
        lines
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Line> {
        vec![data(&json!({ "error": error.body() })), Line::default().data("[DONE]")]
    }
}
