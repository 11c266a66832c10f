//! `POST /v1/completions`: bare prompts, without a chat template.

use std::sync::Arc;

use axum::response::sse::Event as Line;
use axum::response::{IntoResponse, Response as HttpResponse};
use qwen3_vl_engine::openai::{CompletionBody, Head, Prompts, parse_completion, prompt_logprobs};
use qwen3_vl_engine::{Error, Prepared, Qwen3Vl, Ready, Response, TokenLogprob};
use qwen3_vl_model::generate::PromptLogprob;
use qwen3_vl_model::processor::detokenize::token_bytes;
use serde_json::{Map, Value, json};

use super::asked::Asked;
use super::pieces::Piece;
use crate::error::ApiError;
use crate::sse::{Dialect, broken_chunks, data, end_of_chunks, stream};

/// `POST /v1/completions`.
pub async fn completions(mut asked: Asked) -> Result<HttpResponse, ApiError> {
    let mut body = parse_completion(asked.body.take())?;
    let scores = Scores::of(&mut body);
    let head = asked.head(format!("cmpl-{}", asked.id), body.model.as_deref())?;
    let (texts, request, limits) = (body.prompts, body.request, asked.app.limits()?);
    let prepare = move |model: &Qwen3Vl, _| {
        let ready = |prompt| model.check(prepare(model, prompt)?, &request, &limits);
        texts.iter().map(ready).collect()
    };
    let ready: Vec<Ready> = asked.app.work(prepare).await.map_err(of_prompt)?;
    let prompts = ready.iter().map(|ready| Asking::of(ready.prepared(), body.echo)).collect();
    let answers = asked.submit(ready, body.n)?;
    let model = Arc::clone(asked.app.model()?);
    let telling = Telling { model, scores, prompts, n: body.n };
    if body.stream {
        let include_usage = body.stream_options.include_usage;
        return Ok(stream(answers, false, TextStream::new(head, telling, include_usage)));
    }
    let responses = answers.whole().await.map_err(of_prompt)?;
    let choices = responses.iter().enumerate();
    let choices: Vec<Value> = choices
        .map(|(index, response)| {
            // The first answer to a prompt tells of the prompt.
            let prompt = responses[index - index % body.n].prompt_logprobs.as_deref();
            telling.whole(index, prompt, response)
        })
        .collect();
    let mut reply = head.object("text_completion");
    reply["choices"] = choices.into();
    reply["usage"] = usage(&responses.iter().collect::<Vec<_>>(), body.n);
    Ok(axum::Json(reply).into_response())
}

fn of_prompt(error: ApiError) -> ApiError {
    error.renamed(&[("messages", "prompt")])
}

fn prepare(model: &Qwen3Vl, prompt: &Prompts) -> Result<Prepared, Error> {
    match prompt {
        Prompts::Text(text) => model.prepare_text(text),
        Prompts::Ids(ids) => model.prepare_ids(ids.clone(), model.detokenize(ids)?),
    }
}

/// What the answers to a prompt tell of it.
struct Asking {
    /// What stands before each answer.
    echo: String,
    /// Its first token.
    first: Option<u32>,
}

impl Asking {
    fn of(prepared: &Prepared, echo: bool) -> Self {
        let echo = if echo { prepared.chat.rendered.clone() } else { String::new() };
        Self { echo, first: prepared.chat.inputs.ids.first().copied() }
    }
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
#[derive(Debug, Clone, Copy)]
struct Scores {
    /// As `prompt_logprobs`, with so many alternatives.
    asked: Option<usize>,
    /// Before those of the answer, with so many alternatives.
    echoed: Option<usize>,
}

impl Scores {
    /// What `body` asks for, which then has the model compute enough for both.
    fn of(body: &mut CompletionBody) -> Self {
        let asked = body.request.prompt_logprobs;
        let echoed = body.request.logprobs.filter(|_| body.echo);
        body.request.prompt_logprobs = asked.max(echoed);
        Self { asked, echoed }
    }

    fn any(self) -> bool {
        self.asked.or(self.echoed).is_some()
    }
}

/// What is told beside the texts of the answers.
struct Telling {
    model: Arc<Qwen3Vl>,
    scores: Scores,
    prompts: Vec<Asking>,
    /// Answers per prompt.
    n: usize,
}

impl Telling {
    /// The prompt of answer `index`.
    fn prompt(&self, index: usize) -> &Asking {
        &self.prompts[index / self.n]
    }

    /// The choice of a whole answer, with what is known of its prompt.
    fn whole(&self, index: usize, prompt: Option<&[PromptLogprob]>, response: &Response) -> Value {
        let text = format!("{}{}", self.prompt(index).echo, response.text);
        let logprobs = response.logprobs.as_deref().map(|tokens| {
            let mut words = self.echoed(index, prompt);
            words.extend(tokens.iter().map(Word::of));
            legacy(&self.model, &words)
        });
        let finish = Some(response.finish_reason.as_str());
        self.with_prompt(prompt, choice(index, &text, logprobs, finish))
    }

    /// The choice that stands before a streamed answer, with what is known of its prompt.
    fn before(&self, index: usize, prompt: &[PromptLogprob]) -> Value {
        let words = self.echoed(index, Some(prompt));
        let logprobs = (!words.is_empty()).then(|| legacy(&self.model, &words));
        let choice = choice(index, &self.prompt(index).echo, logprobs, None);
        self.with_prompt(Some(prompt), choice)
    }

    /// `choice` with `prompt_logprobs`, where they are asked for.
    fn with_prompt(&self, prompt: Option<&[PromptLogprob]>, mut choice: Value) -> Value {
        if let Some((n, prompt)) = self.scores.asked.zip(prompt) {
            let mut prompt = prompt.to_vec();
            prompt.iter_mut().for_each(|score| score.logprobs.top.truncate(n));
            let tokenizer = self.model.processor().tokenizer();
            choice["prompt_logprobs"] = prompt_logprobs(tokenizer, &prompt);
        }
        choice
    }

    /// The tokens of the prompt, where they are echoed and told.
    fn echoed<'a>(&self, index: usize, prompt: Option<&'a [PromptLogprob]>) -> Vec<Word<'a>> {
        let Some((n, prompt)) = self.scores.echoed.zip(prompt) else { return Vec::new() };
        let first = self.prompt(index).first;
        let first = first.map(|id| Word { id, logprob: None, top: &[] });
        let rest = prompt.iter().map(|score| Word {
            id: score.id,
            logprob: Some(score.logprobs.chosen),
            top: score.logprobs.top.get(..n).unwrap_or(&score.logprobs.top),
        });
        first.into_iter().chain(rest).collect()
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
    head: Head,
    telling: Telling,
    include_usage: bool,
    /// Tokens whose text has not been sent, with the choice that they belong to.
    pending: Vec<(usize, TokenLogprob)>,
    /// For each prompt of which something is still to be told, chunks that come behind that.
    held: Vec<Option<Vec<Line>>>,
}

impl TextStream {
    fn new(head: Head, telling: Telling, include_usage: bool) -> Self {
        let waits = telling.scores.any().then(Vec::new);
        let held = vec![waits; telling.prompts.len()];
        Self { head, telling, include_usage, pending: Vec::new(), held }
    }

    fn line(&self, choice: Value) -> Line {
        let mut chunk = self.head.object("text_completion");
        chunk["choices"] = json!([choice]);
        data(&chunk)
    }

    /// A chunk of answer `index`, which is kept where its prompt comes first.
    fn chunk(&mut self, index: usize, text: &str, finish: Option<&str>) -> Vec<Line> {
        let mine = self.pending.extract_if(.., |(at, _)| *at == index).map(|(_, token)| token);
        let tokens: Vec<TokenLogprob> = mine.collect();
        let words: Vec<Word<'_>> = tokens.iter().map(Word::of).collect();
        let logprobs = (!words.is_empty()).then(|| legacy(&self.telling.model, &words));
        let line = self.line(choice(index, text, logprobs, finish));
        match &mut self.held[index / self.telling.n] {
            None => vec![line],
            Some(held) => {
                held.push(line);
                Vec::new()
            }
        }
    }

    /// What is known of the prompt of answer `index`, before all of its answers.
    fn prompt(&mut self, index: usize, scores: &[PromptLogprob]) -> Vec<Line> {
        let (n, prompt) = (self.telling.n, index / self.telling.n);
        let answers = prompt * n..(prompt + 1) * n;
        let mut lines: Vec<Line> =
            answers.map(|index| self.line(self.telling.before(index, scores))).collect();
        lines.extend(self.held[prompt].take().into_iter().flatten());
        lines
    }
}

impl Dialect for TextStream {
    fn begin(&mut self) -> Vec<Line> {
        let answers = 0..self.telling.prompts.len() * self.telling.n;
        let echoes = answers.map(|index| (index, self.telling.prompt(index).echo.clone()));
        let echoes: Vec<_> = echoes.filter(|(_, echo)| !echo.is_empty()).collect();
        match self.telling.scores.any() {
            true => Vec::new(),
            false => echoes.iter().flat_map(|(at, echo)| self.chunk(*at, echo, None)).collect(),
        }
    }

    fn piece(&mut self, index: usize, piece: Piece) -> Vec<Line> {
        match piece {
            Piece::Prompt(scores) => self.prompt(index, &scores),
            Piece::Token(token) => {
                let id = token.id;
                let waiting = token.logprobs.map(|logprobs| (index, TokenLogprob { id, logprobs }));
                self.pending.extend(waiting);
                Vec::new()
            }
            Piece::Reasoning(text) | Piece::Text(text) => self.chunk(index, &text, None),
            // Nobody looks for calls in bare texts.
            Piece::Call(_) => Vec::new(),
        }
    }

    fn done(&mut self, index: usize, response: &Response) -> Vec<Line> {
        self.chunk(index, "", Some(response.finish_reason.as_str()))
    }

    fn end(&mut self, responses: &[&Response]) -> Vec<Line> {
        end_of_chunks(self.include_usage.then(|| {
            let mut chunk = self.head.object("text_completion");
            chunk["choices"] = json!([]);
            chunk["usage"] = usage(responses, self.telling.n);
            chunk
        }))
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Line> {
        broken_chunks(&of_prompt(error.clone()))
    }
}
