//! Times of an answer about a video.

use std::ops::Range;

use super::scan::scan;
use super::{prose, time_json};

/// A stretch of a video that an answer names.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeSpan {
    /// Seconds from the start of the video.
    pub start: f64,
    /// Seconds from the start of the video, `>= start`; equal to it for a single instant.
    pub end: f64,
    /// What happens then: the `event` (or `label`, `description`, ...) of a JSON object, or the rest of a line that
    /// starts with the time.
    pub label: Option<String>,
    /// The bytes of the answer it was read from.
    pub text_range: Range<usize>,
}

/// What [`parse_spans`] found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spans {
    /// The spans, in the answer's order.
    pub spans: Vec<TimeSpan>,
    /// What was meant as a time and could not be used, in the answer's order.
    pub problems: Vec<SpanProblem>,
    /// The answer ends inside its JSON, as one does that reached its token limit: there may have been more.
    pub truncated: bool,
}

/// Something in an answer that looks like a span and could not be used.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanProblem {
    /// The bytes of the answer it is about.
    pub text_range: Range<usize>,
    pub reason: SpanReason,
}

/// Why a piece of an answer could not be used as a span.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpanReason {
    #[error("The span from {start} to {end} seconds ends before it starts.")]
    Reversed { start: f64, end: f64 },
    #[error("`{key}` is {value}, which is no time in seconds, mm:ss or hh:mm:ss.")]
    Unreadable { key: String, value: String },
    #[error("`{key}` is given without the other end of the span.")]
    HalfOpen { key: String },
    #[error("The JSON is broken at byte {at}: expected {expected}.")]
    Malformed { at: usize, expected: &'static str },
    #[error("The JSON ends before this item does.")]
    Truncated,
}

impl Spans {
    /// Adds a span, or the problem that it ends before it starts.
    pub(super) fn add(
        &mut self,
        (start, end): (f64, f64),
        label: Option<String>,
        text_range: Range<usize>,
    ) {
        match start <= end {
            true => self.spans.push(TimeSpan { start, end, label, text_range }),
            false => self.problem(SpanReason::Reversed { start, end }, text_range),
        }
    }

    pub(super) fn problem(&mut self, reason: SpanReason, text_range: Range<usize>) {
        self.problems.push(SpanProblem { text_range, reason });
    }

    pub(super) fn found(&self) -> usize {
        self.spans.len() + self.problems.len()
    }
}

/// Finds the times of an answer.
///
/// ```text
/// span    = time sep time | number sep units | instant
/// time    = clock | units                       each may stand in < > [ ] ( ) " or **
/// clock   = [h:]mm:ss[.f][s]                    seconds always two digits below 60; minutes too, after hours
/// units   = [n hours] [n minutes] n seconds     also h, min, m, sec, s, 秒; `5 m` alone is no time
/// sep     = - – — ~ -> --> → to until till through 至 到 | "and ends at" | "and", after "between"
/// instant = clock
///         | units in brackets (<12.5 seconds>), after `at`, `near`, `@`, `t=`, `timestamp`, ..., before `into` or
///           `mark`, or at the start of a line that goes on with a colon
/// ```
///
/// JSON, also broken (as for [`parse_grounding`](super::parse_grounding)): objects with a start and an end (`start`,
/// `start_time`, `begin`, `end`, `end_time`, ...), lists of two under `timestamp`, `time`, `span`, `segment`,
/// `interval`, `window` and their plurals, one time or a text of the forms above under these keys, and lists of two
/// clocks. Numbers are seconds; text may be any time above.
///
/// No times are: numbers without unit, ratios (`16:9`, as seconds have two digits), times of day with am or pm or
/// after a date, and durations (`for 5 seconds`, `lasts 2:30`, `10 seconds long`).
/// A lone clock in prose, such as a score of 3:10, cannot be told from a time and counts as one.
pub fn parse_spans(text: &str) -> Spans {
    let scan = scan(text);
    let mut found = Spans { truncated: scan.truncated, ..Spans::default() };
    let mut read = Vec::new();
    for root in &scan.roots {
        let before = found.found();
        time_json::collect(root, &mut found);
        if found.found() > before {
            read.push(root.range.clone());
        }
    }
    prose::collect(text, &read, &mut found);
    found.spans.sort_by_key(|span| span.text_range.start);
    found.problems.sort_by_key(|problem| problem.text_range.start);
    found
}
