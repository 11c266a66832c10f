//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::response::sse::Event as Line;
use axum::response::{IntoResponse, Response as HttpResponse};
use qwen3_vl_engine::openai::{
    self, ChatBody, Head, choice, completion, logprob_entries, message, parse_chat, usage,
};
use qwen3_vl_engine::{Qwen3Vl, Response, TokenLogprob, grounding_json};
use serde_json::{Value, json};

use super::asked::Asked;
use super::pieces::{Piece, split};
use crate::error::ApiError;
use crate::sse::{Dialect, broken_chunks, data, end_of_chunks, stream};

/// `POST /v1/chat/completions`.
pub async fn completions(mut asked: Asked) -> Result<HttpResponse, ApiError> {
    let mut chat = parse_chat(asked.body.take())?;
    let head = asked.head(format!("chatcmpl-{}", asked.id), chat.model.as_deref())?;
    let (answers, _) = asked.answers(&mut chat).await?;
    let model = Arc::clone(asked.app.model()?);
    if chat.stream {
        return Ok(stream(answers, chat.tools, ChatStream::new(model, head, &chat)));
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

/// One choice of an answer that is not streamed.
fn whole(model: &Qwen3Vl, chat: &ChatBody, index: usize, response: &Response) -> Value {
    let (text, calls) = split(chat.tools, response);
    let reasoning = response.reasoning.as_deref().filter(|_| chat.reasoning);
    let mut message = message(&text, reasoning, &calls);
    if chat.grounding {
        message["grounding"] = grounding_json(response);
    }
    let tokens = response.logprobs.as_deref();
    let logprobs = tokens.map(|tokens| logprob_entries(model.processor().tokenizer(), tokens));
    choice(index, message, finish(response, calls.len()), logprobs)
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
    /// Log probabilities whose text has not been sent.
    logprobs: Option<Vec<TokenLogprob>>,
    calls: usize,
}

impl ChatStream {
    fn new(model: Arc<Qwen3Vl>, head: Head, chat: &ChatBody) -> Self {
        let one =
            |_| ChoiceStream { logprobs: chat.request.logprobs.map(|_| Vec::new()), calls: 0 };
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
        data(&self.delta_chunk(index, delta, finish))
    }

    fn delta_chunk(&mut self, index: usize, delta: Value, finish: Option<&str>) -> Value {
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
        self.chunk(vec![choice])
    }
}

impl Dialect for ChatStream {
    fn begin(&mut self) -> Vec<Line> {
        let role = || json!({ "role": "assistant", "content": "" });
        (0..self.choices.len()).map(|index| self.delta(index, role(), None)).collect()
    }

    fn piece(&mut self, index: usize, piece: Piece) -> Vec<Line> {
        let delta = match piece {
            Piece::Prompt(scores) => {
                let scores = openai::prompt_logprobs(self.model.processor().tokenizer(), &scores);
                let mut chunk = self.delta_chunk(index, json!({}), None);
                chunk["prompt_logprobs"] = scores;
                return vec![data(&chunk)];
            }
            Piece::Token(token) => {
                if let (Some(all), Some(logprobs)) =
                    (&mut self.choices[index].logprobs, token.logprobs)
                {
                    all.push(TokenLogprob { id: token.id, logprobs });
                }
                return Vec::new();
            }
            Piece::Reasoning(_) if !self.reasoning => return Vec::new(),
            Piece::Reasoning(text) => json!({ "reasoning_content": text }),
            Piece::Text(text) => json!({ "content": text }),
            Piece::Call(call) => {
                let mut object = call.to_json();
                object["index"] = self.choices[index].calls.into();
                self.choices[index].calls += 1;
                json!({ "tool_calls": [object] })
            }
        };
        vec![self.delta(index, delta, None)]
    }

    fn done(&mut self, index: usize, response: &Response) -> Vec<Line> {
        let delta = match self.grounding {
            true => json!({ "grounding": grounding_json(response) }),
            false => json!({}),
        };
        let reason = finish(response, self.choices[index].calls);
        vec![self.delta(index, delta, Some(reason))]
    }

    fn end(&mut self, responses: &[&Response]) -> Vec<Line> {
        end_of_chunks(self.include_usage.then(|| {
            let mut chunk = self.chunk(Vec::new());
            chunk["usage"] = usage(responses);
            chunk
        }))
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Line> {
        broken_chunks(error)
    }
}
