//! What the engine thread does: take requests, step the batch, hand out pieces.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use qwen3_vl_engine::{Qwen3Vl, Requests, Response};
use qwen3_vl_model::batch::BatchOptions;
use qwen3_vl_model::stream::StreamEvent;

use super::queue::FairQueue;
use super::{Client, Inbox, Job, Sink};
use crate::app::Loss;
use crate::config::Config;
use crate::error::ApiError;
use crate::routes::Metrics;

/// What a batch on `model` may hold, beside the memory that is taken now.
pub fn limits(model: &Qwen3Vl, config: &Config) -> BatchOptions {
    config.batch(model.placement().free_memory())
}

/// Runs `model` until the channel is closed. Without requests the thread sleeps.
pub fn run(
    model: &Qwen3Vl,
    options: BatchOptions,
    inbox: Inbox,
    (metrics, lost): (&Metrics, &Loss),
) {
    tracing::info!(?options, "the engine is ready");
    let requests = model.batch(options);
    let mut worker = Worker { model, options, metrics, lost, requests, queue: FairQueue::new() };
    let Inbox(mut inbox) = inbox;
    loop {
        if worker.requests.is_empty() && worker.queue.is_empty() {
            worker.report();
            match inbox.blocking_recv() {
                Some(job) => worker.queue.push(job.client.clone(), job),
                None => return,
            }
        }
        while let Ok(job) = inbox.try_recv() {
            worker.queue.push(job.client.clone(), job);
        }
        worker.turn();
    }
}

struct Worker<'m> {
    model: &'m Qwen3Vl,
    options: BatchOptions,
    metrics: &'m Metrics,
    lost: &'m Loss,
    requests: Requests<'m, Running>,
    queue: FairQueue<Client, Job>,
}

/// An answer that the batch is writing.
struct Running {
    sink: Sink,
    clock: std::cell::Cell<Clock>,
}

/// When an answer was begun, and last grew.
#[derive(Debug, Clone, Copy)]
struct Clock {
    begun: Instant,
    last: Option<Instant>,
}

impl Worker<'_> {
    /// One step for everybody.
    fn turn(&mut self) {
        let metrics = self.metrics;
        let mut hand_out = |running: &Running, event: &StreamEvent| {
            running.tick(event, metrics);
            running.sink.piece(event);
        };
        self.queue.retain(|job| !job.sink.is_closed());
        // Who goes gives back what is on the device, and who comes may borrow of it.
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            self.requests.retain(|running| !running.sink.is_closed());
            self.start_waiting();
            self.report();
            self.requests.step_with(&mut hand_out)
        }));
        match stepped {
            Ok(done) => done.into_iter().for_each(|(running, result)| self.end(running, result)),
            Err(_) => {
                let lost = self.requests.len();
                tracing::error!(lost, "the engine panicked in a step; the answers are lost");
                // The sinks go with the batch, which tells their clients.
                self.requests = self.model.batch(self.options);
            }
        }
    }

    fn start_waiting(&mut self) {
        while self.requests.has_room()
            && let Some(job) = self.queue.pop()
        {
            let Job { ready, sink, waiting, .. } = job;
            drop(waiting);
            let clock = Clock { begun: Instant::now(), last: None };
            let running = Running { sink, clock: clock.into() };
            if let Err((running, error)) = self.requests.try_submit(running, ready) {
                running.sink.end(Err(error.into()));
            }
        }
    }

    fn end(&self, running: Running, result: Result<Response, qwen3_vl_engine::Error>) {
        match &result {
            Ok(response) => self.metrics.answered(response, running.clock.get().begun.elapsed()),
            Err(error) => self.lost.note(error),
        }
        running.sink.end(result.map_err(ApiError::from));
    }

    fn report(&self) {
        self.metrics.engine(&self.requests.stats(), self.queue.len());
    }
}

impl Running {
    /// Measures the time to the first token, and from each token to the next.
    fn tick(&self, event: &StreamEvent, metrics: &Metrics) {
        if !matches!(event, StreamEvent::Token(_)) {
            return;
        }
        let (clock, now) = (self.clock.get(), Instant::now());
        match clock.last {
            None => metrics.first_token(now - clock.begun),
            Some(last) => metrics.next_token(now - last),
        }
        self.clock.set(Clock { last: Some(now), ..clock });
    }
}
