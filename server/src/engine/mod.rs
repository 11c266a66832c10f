//! The thread that runs the model, and the channel to it.

mod queue;
mod worker;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use qwen3_vl_engine::{Ready, Response};
use qwen3_vl_model::stream::StreamEvent;
use tokio::sync::mpsc;

pub use worker::{limits, run};

use crate::error::ApiError;

/// Who asks: clients take turns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Client {
    /// The digest of an API key.
    Key([u8; 32]),
    Address(IpAddr),
}

/// Something that happened to an answer, with its index among those of its request; a failure ends them all.
#[derive(Debug)]
pub enum Event {
    Piece(usize, StreamEvent),
    Done(usize, Box<Response>),
    Failed(ApiError),
}

/// One answer to be given.
pub(super) struct Job {
    client: Client,
    ready: Ready,
    sink: Sink,
    waiting: Counted,
}

/// Where the pieces of one answer go. It is closed when nobody listens any more.
pub(super) struct Sink {
    index: usize,
    events: mpsc::UnboundedSender<Event>,
    /// Whether single tokens are of interest.
    tokens: bool,
    _open: Counted,
}

impl Sink {
    fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    fn piece(&self, event: &StreamEvent) {
        if self.tokens || !matches!(event, StreamEvent::Token(_)) {
            // A closed channel is seen before the next step.
            let _ = self.events.send(Event::Piece(self.index, event.clone()));
        }
    }

    fn end(self, result: Result<Response, ApiError>) {
        let event = match result {
            Ok(response) => Event::Done(self.index, Box::new(response)),
            Err(error) => Event::Failed(error),
        };
        let _ = self.events.send(event);
    }
}

/// Counts itself as long as it lives.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The sending half of the channel to the engine thread.
pub struct Engine {
    inbox: mpsc::UnboundedSender<Job>,
    waiting: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    max_queue: usize,
}

/// The receiving half.
pub struct Inbox(mpsc::UnboundedReceiver<Job>);

impl Engine {
    /// A channel on which at most `max_queue` requests wait.
    pub fn new(max_queue: usize) -> (Self, Inbox) {
        let (inbox, receiver) = mpsc::unbounded_channel();
        let (waiting, open) = Default::default();
        (Self { inbox, waiting, open, max_queue }, Inbox(receiver))
    }

    /// Answers that are not complete.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Queues one answer per request.
    ///
    /// # Errors
    /// 429 when too many wait, 503 when the engine has ended.
    pub fn submit(&self, client: Client, requests: Vec<Ready>) -> Result<Answers, ApiError> {
        let (waiting, left) = (self.waiting.load(Ordering::Relaxed), requests.len());
        if waiting + left > self.max_queue {
            let message = format!(
                "{waiting} requests wait already, and {} may; try again later",
                self.max_queue
            );
            return Err(ApiError::busy(&message, 1 + waiting as u64 / 16));
        }
        let (events, receiver) = mpsc::unbounded_channel();
        for (index, ready) in requests.into_iter().enumerate() {
            let tokens = ready.tells_tokens();
            let open = Counted::new(&self.open);
            let sink = Sink { index, events: events.clone(), tokens, _open: open };
            let waiting = Counted::new(&self.waiting);
            let job = Job { client: client.clone(), ready, sink, waiting };
            if self.inbox.send(job).is_err() {
                return Err(ApiError::unavailable("the engine has stopped"));
            }
        }
        Ok(Answers { events: receiver, left })
    }
}

/// The answers to one request as they are written. Dropping this cancels them.
pub struct Answers {
    events: mpsc::UnboundedReceiver<Event>,
    left: usize,
}

impl Answers {
    /// The next event; `None` when all answers have ended.
    pub async fn next(&mut self) -> Option<Event> {
        if self.left == 0 {
            return None;
        }
        let lost = || Event::Failed(ApiError::internal(&"the engine dropped the answer"));
        let event = self.events.recv().await.unwrap_or_else(lost);
        match &event {
            Event::Piece(..) => {}
            Event::Done(..) => self.left -= 1,
            Event::Failed(_) => self.left = 0,
        }
        Some(event)
    }

    /// Answers that have not ended.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The only answer, whole.
    ///
    /// # Errors
    /// When it failed.
    pub async fn one(self) -> Result<Response, ApiError> {
        let answer = self.whole().await?.into_iter().next();
        answer.ok_or_else(|| ApiError::internal(&"a request without an answer"))
    }

    /// All answers, whole and in order.
    ///
    /// # Errors
    /// When one of them failed.
    pub async fn whole(mut self) -> Result<Vec<Response>, ApiError> {
        let mut done = Vec::with_capacity(self.left);
        while let Some(event) = self.next().await {
            match event {
                Event::Piece(..) => {}
                Event::Done(index, response) => done.push((index, *response)),
                Event::Failed(error) => return Err(error),
            }
        }
        done.sort_by_key(|(index, _)| *index);
        Ok(done.into_iter().map(|(_, response)| response).collect())
    }
}
