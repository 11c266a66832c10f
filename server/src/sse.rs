//! Answers that are streamed as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event as Line, KeepAlive, Sse};
use axum::response::{IntoResponse, Response as HttpResponse};
use qwen3_vl_engine::Response;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::engine::{Answers, Event};
use crate::error::ApiError;
use crate::routes::pieces::{Piece, Splitter};

/// Lines that wait for a slow client.
const BUFFER: usize = 64;
/// Between signs of life while nothing is written.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Words the events of an answer in the manner of one endpoint.
pub trait Dialect: Send + 'static {
    /// Before the first piece.
    fn begin(&mut self) -> Vec<Line>;
    /// A piece of answer `index`.
    fn piece(&mut self, index: usize, piece: Piece) -> Vec<Line>;
    /// Answer `index` is complete.
    fn done(&mut self, index: usize, response: &Response) -> Vec<Line>;
    /// All answers are complete, in order.
    fn end(&mut self, responses: &[&Response]) -> Vec<Line>;
    /// An answer failed, and with it the request.
    fn failed(&mut self, error: &ApiError) -> Vec<Line>;
}

/// An event without a name.
pub fn data(value: &serde_json::Value) -> Line {
    Line::default().data(value.to_string())
}

/// An event with the name that its object bears under `type`.
pub fn named(value: &serde_json::Value) -> Line {
    let name = value.get("type").and_then(serde_json::Value::as_str).unwrap_or_default();
    Line::default().event(name).data(value.to_string())
}

/// How OpenAI's chunks end, with those about token counts if they are wanted.
pub fn end_of_chunks(usage: Option<serde_json::Value>) -> Vec<Line> {
    let usage = usage.as_ref().map(data);
    usage.into_iter().chain([Line::default().data("[DONE]")]).collect()
}

/// How they end with an error.
pub fn broken_chunks(error: &ApiError) -> Vec<Line> {
    end_of_chunks(Some(serde_json::json!({ "error": error.body() })))
}

/// Streams `answers`, looking for calls in them if there are `tools`. When the client goes away the answers are cancelled,
/// at the next moment.
pub fn stream(answers: Answers, tools: bool, dialect: impl Dialect) -> HttpResponse {
    let (lines, receiver) = mpsc::channel(BUFFER);
    let splitters = (0..answers.left()).map(|number| Splitter::new(tools, number as u64));
    tokio::spawn(write(answers, splitters.collect(), dialect, lines));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(ReceiverStream::new(receiver)).keep_alive(keep_alive).into_response()
}

type Lines = mpsc::Sender<Result<Line, Infallible>>;

async fn write(
    mut answers: Answers,
    mut splitters: Vec<Splitter>,
    mut dialect: impl Dialect,
    lines: Lines,
) {
    let mut done: Vec<(usize, Response)> = Vec::new();
    if send(&lines, dialect.begin()).await.is_none() {
        return;
    }
    loop {
        let event = tokio::select! {
            event = answers.next() => event,
            () = lines.closed() => return,
        };
        let (more, over) = match event {
            Some(Event::Piece(index, event)) => {
                let pieces = splitters[index].push(event).into_iter();
                (pieces.flat_map(|piece| dialect.piece(index, piece)).collect(), false)
            }
            Some(Event::Done(index, response)) => {
                let rest = splitters[index].finish().into_iter();
                let mut more: Vec<Line> =
                    rest.flat_map(|piece| dialect.piece(index, piece)).collect();
                more.extend(dialect.done(index, &response));
                done.push((index, *response));
                (more, false)
            }
            Some(Event::Failed(error)) => (dialect.failed(&error), true),
            None => {
                done.sort_by_key(|(index, _)| *index);
                let responses: Vec<&Response> = done.iter().map(|(_, response)| response).collect();
                (dialect.end(&responses), true)
            }
        };
        if send(&lines, more).await.is_none() || over {
            return;
        }
    }
}

/// Sends lines; `None` when the client has gone.
async fn send(lines: &Lines, more: Vec<Line>) -> Option<()> {
    for line in more {
        lines.send(Ok(line)).await.ok()?;
    }
    Some(())
}
