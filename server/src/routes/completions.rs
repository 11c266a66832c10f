//! `POST /v1/completions`: bare prompts, without a chat template.

use std::sync::Arc;

use axum::response::sse::Event as Line;
use axum::response::{IntoResponse, Response as HttpResponse};
use qwen3_vl_engine::openai::{CompletionBody, Head, Prompts, parse_completion, prompt_logprobs};
use qwen3_vl_engine::{Prepared, Qwen3Vl, Response, TokenLogprob};
use qwen3_vl_model::processor::detokenize::token_bytes;
use serde_json::{Map, Value, json};

use super::asked::Asked;
use super::pieces::Piece;
use crate::error::ApiError;
use crate::sse::{Dialect, broken_chunks, data, end_of_chunks, stream};

/// `POST /v1/completions`.
pub async fn completions(mut asked: Asked) -> Result<HttpResponse, ApiError> {
    let mut body = parse_completion(asked.body.take())?;
    let scores = Scores::of(&mut body)?;
    let head = asked.head(format!("cmpl-{}", asked.id), body.model.as_deref())?;
    let prompts = body.prompts.clone();
    let prepare = move |model: &Qwen3Vl, _| prompts.iter().map(|p| prepare(model, p)).collect();
    let prepared: Vec<Prepared> = asked.app.work(prepare).await?;
    let echoes = echoes(&body, &prepared);
    let answers = asked.submit(prepared, &body.request, body.n)?;
    let model = Arc::clone(asked.app.model()?);
    if body.stream {
        let include_usage = body.stream_options.include_usage;
        let writer =
            TextStream { model, head, include_usage, echoes, n: body.n, pending: Vec::new() };
        return Ok(stream(answers, false, writer));
    }
    let responses = answers.whole().await?;
    let all = responses.iter().zip(&echoes).enumerate();
    let choices: Vec<Value> = all
        .map(|(index, (response, echo))| {
            let text = format!("{echo}{}", response.text);
            // The first answer to a prompt tells of the prompt.
            let prompt = &responses[index - index % body.n];
            let logprobs = scores.with_echo(&model, prompt, response);
            let mut choice = choice(index, &text, logprobs, Some(response.finish_reason.as_str()));
            if let Some(prompt) = scores.of_prompt(&model, prompt) {
                choice["prompt_logprobs"] = prompt;
            }
            choice
        })
        .collect();
    let mut reply = head.object("text_completion");
    reply["choices"] = choices.into();
    reply["usage"] = usage(&responses.iter().collect::<Vec<_>>(), body.n);
    Ok(axum::Json(reply).into_response())
}

fn prepare(model: &Qwen3Vl, prompt: &Prompts) -> Result<Prepared, qwen3_vl_engine::Error> {
    match prompt {
        Prompts::Text(text) => model.prepare_text(text),
        Prompts::Ids(ids) => model.prepare_ids(ids.clone(), model.detokenize(ids)?),
    }
}

/// What stands before each answer.
fn echoes(body: &CompletionBody, prepared: &[Prepared]) -> Vec<String> {
    let text = |prompt: &Prepared| match body.echo {
        true => prompt.chat.rendered.clone(),
        false => String::new(),
    };
    prepared.iter().flat_map(|prompt| std::iter::repeat_n(text(prompt), body.n)).collect()
}

fn choice(index: usize, text: &str, logprobs: Option<Value>, finish: Option<&str>) -> Value {
    json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish })
}

/// Token counts over prompts with `n` answers each.
fn usage(responses: &[&Response], n: usize) -> Value {
    let prompt: usize = responses.iter().step_by(n).map(|r| r.usage.prompt_tokens).sum();
    let written: usize = responses.iter().map(|r| r.usage.completion_tokens).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    })
}

/// Which log probabilities of the prompt are told.
struct Scores {
    /// As `prompt_logprobs`, with so many alternatives.
    asked: Option<usize>,
    /// Before those of the answer, with so many alternatives.
    echoed: Option<usize>,
}

impl Scores {
    /// What `body` asks for, which then has the model compute enough for both.
    fn of(body: &mut CompletionBody) -> Result<Self, ApiError> {
        let asked = body.request.prompt_logprobs;
        let echoed = body.request.logprobs.filter(|_| body.echo);
        if echoed.is_some() && body.stream {
            let message = "`logprobs` beside `echo` must be left out where `stream` is true";
            return Err(ApiError::bad_request(message, Some("logprobs")));
        }
        body.request.prompt_logprobs = asked.max(echoed);
        Ok(Self { asked, echoed })
    }

    fn of_prompt(&self, model: &Qwen3Vl, response: &Response) -> Option<Value> {
        let (n, mut scores) = self.asked.zip(response.prompt_logprobs.clone())?;
        scores.iter_mut().for_each(|score| score.logprobs.top.truncate(n));
        Some(prompt_logprobs(model.processor().tokenizer(), &scores))
    }

    /// The log probabilities of an answer, behind those of its prompt where it is echoed.
    fn with_echo(&self, model: &Qwen3Vl, prompt: &Response, answer: &Response) -> Option<Value> {
        let answer = answer.logprobs.as_deref()?.iter().map(Word::of);
        let mut words: Vec<Word<'_>> = Vec::new();
        if let Some((n, scores)) = self.echoed.zip(prompt.prompt_logprobs.as_deref()) {
            let first = prompt.prompt_token_ids.first();
            words.extend(first.map(|id| Word { id: *id, logprob: None, top: &[] }));
            words.extend(scores.iter().map(|score| Word {
                id: score.id,
                logprob: Some(score.logprobs.chosen),
                top: score.logprobs.top.get(..n).unwrap_or(&score.logprobs.top),
            }));
        }
        words.extend(answer);
        Some(legacy(model, &words))
    }
}

/// A token and what is told of it.
struct Word<'a> {
    id: u32,
    /// Nothing for the first of a prompt.
    logprob: Option<f32>,
    top: &'a [(u32, f32)],
}

impl<'a> Word<'a> {
    fn of(token: &'a TokenLogprob) -> Self {
        let logprobs = &token.logprobs;
        Self { id: token.id, logprob: Some(logprobs.chosen), top: &logprobs.top }
    }
}

/// Log probabilities in the form that completions have.
fn legacy(model: &Qwen3Vl, tokens: &[Word<'_>]) -> Value {
    let text =
        |id| String::from_utf8_lossy(&token_bytes(model.processor().tokenizer(), id)).into_owned();
    let mut offset = 0;
    let (mut words, mut offsets) = (Vec::new(), Vec::new());
    for token in tokens {
        let word = text(token.id);
        offsets.push(offset);
        offset += word.chars().count();
        words.push(word);
    }
    let top = |token: &Word<'_>| {
        let entries = token.top.iter().map(|(id, value)| (text(*id), json!(value)));
        token.logprob.map(|_| entries.collect::<Map<_, _>>())
    };
    json!({
        "tokens": words,
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

/// Chunks of completions.
struct TextStream {
    model: Arc<Qwen3Vl>,
    head: Head,
    include_usage: bool,
    echoes: Vec<String>,
    n: usize,
    /// Tokens whose text has not been sent, with the choice that they belong to.
    pending: Vec<(usize, TokenLogprob)>,
}

impl TextStream {
    fn chunk(&mut self, index: usize, text: &str, finish: Option<&str>) -> Line {
        let mine = self.pending.extract_if(.., |(at, _)| *at == index).map(|(_, token)| token);
        let tokens: Vec<TokenLogprob> = mine.collect();
        let words: Vec<Word<'_>> = tokens.iter().map(Word::of).collect();
        let logprobs = (!words.is_empty()).then(|| legacy(&self.model, &words));
        let mut chunk = self.head.object("text_completion");
        chunk["choices"] = json!([choice(index, text, logprobs, finish)]);
        data(&chunk)
    }
}

impl Dialect for TextStream {
    fn begin(&mut self) -> Vec<Line> {
        let echoes = self.echoes.clone();
        let given = echoes.iter().enumerate().filter(|(_, echo)| !echo.is_empty());
        given.map(|(index, echo)| self.chunk(index, echo, None)).collect()
    }

    fn piece(&mut self, index: usize, piece: Piece) -> Vec<Line> {
        match piece {
            Piece::Token(token) => {
                let id = token.id;
                let waiting = token.logprobs.map(|logprobs| (index, TokenLogprob { id, logprobs }));
                self.pending.extend(waiting);
                Vec::new()
            }
            Piece::Reasoning(text) | Piece::Text(text) => vec![self.chunk(index, &text, None)],
            // Nobody looks for calls in bare texts.
            Piece::Call(_) => Vec::new(),
        }
    }

    fn done(&mut self, index: usize, response: &Response) -> Vec<Line> {
        vec![self.chunk(index, "", Some(response.finish_reason.as_str()))]
    }

    fn end(&mut self, responses: &[&Response]) -> Vec<Line> {
        end_of_chunks(self.include_usage.then(|| {
            let mut chunk = self.head.object("text_completion");
            chunk["choices"] = json!([]);
            chunk["usage"] = usage(responses, self.n);
            chunk
        }))
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Line> {
        broken_chunks(error)
    }
}
