//! Counters for Prometheus.

use std::sync::Mutex;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};
use qwen3_vl_engine::Response;
use qwen3_vl_model::batch::BatchStats;

use super::Shared;

/// Bounds of the buckets of durations, in seconds.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    path: String,
    status: u16,
}

/// All counters of a server.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    answers: Counter,
    completion_tokens: Counter,
    first_token: Histogram,
    next_token: Histogram,
    answer: Histogram,
    running: Gauge,
    waiting: Gauge,
    reserved_bytes: Gauge,
    shared_bytes: Gauge,
    prefix_bytes: Gauge,
    feature_bytes: Gauge,
    prompt_tokens: Counter,
    reused_tokens: Counter,
    feature_hits: Counter,
    feature_misses: Counter,
    /// What the engine told last, because counters only grow.
    last: Mutex<BatchStats>,
}

impl Metrics {
    /// Counters that stand at 0.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("qwen3_vl");
        let r = &mut registry;
        let seconds = || Histogram::new(SECONDS);
        Self {
            requests: add(r, "requests", "HTTP requests by endpoint and status", Family::default()),
            answers: add(r, "answers", "Answers that were completed", Counter::default()),
            completion_tokens: add(r, "generation_tokens", "Tokens written", Counter::default()),
            first_token: add_seconds(
                r,
                "time_to_first_token",
                "From the batch to a token",
                seconds(),
            ),
            next_token: add_seconds(r, "inter_token_latency", "From token to token", seconds()),
            answer: add_seconds(r, "answer_duration", "From the batch to the end", seconds()),
            running: add(r, "num_requests_running", "Answers being written", Gauge::default()),
            waiting: add(r, "num_requests_waiting", "Answers that wait", Gauge::default()),
            reserved_bytes: add(
                r,
                "kv_cache_reserved_bytes",
                "Bytes that caches of running answers may take",
                Gauge::default(),
            ),
            shared_bytes: add(
                r,
                "kv_cache_shared_bytes",
                "Of these, bytes that other answers or kept caches hold too",
                Gauge::default(),
            ),
            prefix_bytes: add(
                r,
                "prefix_cache_bytes",
                "Bytes of caches kept for later prompts",
                Gauge::default(),
            ),
            feature_bytes: add(
                r,
                "vision_cache_bytes",
                "Bytes of features kept of pictures",
                Gauge::default(),
            ),
            prompt_tokens: add(r, "prompt_tokens", "Tokens of prompts", Counter::default()),
            reused_tokens: add(
                r,
                "prefix_cache_hit_tokens",
                "Prompt tokens that came from a cache",
                Counter::default(),
            ),
            feature_hits: add(
                r,
                "vision_cache_hits",
                "Frames whose features were known",
                Counter::default(),
            ),
            feature_misses: add(
                r,
                "vision_cache_misses",
                "Frames that ran through the vision tower",
                Counter::default(),
            ),
            last: Mutex::default(),
            registry,
        }
    }

    /// A request was answered with `status`.
    pub fn request(&self, path: &str, status: u16) {
        self.requests.get_or_create(&RequestLabels { path: path.to_owned(), status }).inc();
    }

    /// An answer has its first token.
    pub fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    /// An answer has another token.
    pub fn next_token(&self, after: Duration) {
        self.next_token.observe(after.as_secs_f64());
    }

    /// An answer is complete.
    pub fn answered(&self, response: &Response, after: Duration) {
        self.answers.inc();
        self.completion_tokens.inc_by(response.usage.completion_tokens as u64);
        self.answer.observe(after.as_secs_f64());
    }

    /// What the engine tells of itself; `queued` requests wait in front of it.
    pub fn engine(&self, stats: &BatchStats, queued: usize) {
        let gauge = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        gauge(&self.running, stats.running as u64);
        gauge(&self.waiting, (stats.waiting + queued) as u64);
        gauge(&self.reserved_bytes, stats.reserved_bytes);
        gauge(&self.shared_bytes, stats.shared_bytes);
        gauge(&self.prefix_bytes, stats.prefix_bytes);
        gauge(&self.feature_bytes, stats.feature_bytes);
        let Ok(mut last) = self.last.lock() else { return };
        let grow = |counter: &Counter, now: u64, then: u64| {
            counter.inc_by(now.saturating_sub(then));
        };
        grow(&self.prompt_tokens, stats.prompt_tokens, last.prompt_tokens);
        grow(&self.reused_tokens, stats.reused_tokens, last.reused_tokens);
        grow(&self.feature_hits, stats.feature_hits, last.feature_hits);
        grow(&self.feature_misses, stats.feature_misses, last.feature_misses);
        *last = *stats;
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn add_seconds(registry: &mut Registry, name: &str, help: &str, metric: Histogram) -> Histogram {
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}

/// `GET /metrics`.
pub async fn text(State(app): State<Shared>) -> impl IntoResponse {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = encode(&mut text, &app.metrics.registry);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
