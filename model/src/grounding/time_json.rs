//! Times in JSON.

use super::clock;
use super::json::{Fault, Node, Tree};
use super::prose;
use super::spans::{SpanReason, Spans};

/// What a key of an object means for times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Start,
    End,
    Time,
    Label,
    Other,
}

/// The role of a key, whatever its case, underscores and unit.
fn role(key: &str) -> Role {
    let mut plain: String =
        key.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    for unit in ["inseconds", "seconds", "second", "secs", "sec"] {
        if let Some(rest) = plain.strip_suffix(unit).filter(|rest| !rest.is_empty()) {
            plain.truncate(rest.len());
            break;
        }
    }
    match plain.as_str() {
        "start" | "starttime" | "starttimestamp" | "timestart" | "begin" | "begintime" => {
            Role::Start
        }
        "end" | "endtime" | "endtimestamp" | "timeend" | "finish" | "stop" | "stoptime" => {
            Role::End
        }
        "time" | "times" | "timestamp" | "timestamps" | "timerange" | "timeranges" | "timespan"
        | "span" | "spans" | "segment" | "segments" | "interval" | "intervals" | "timeinterval"
        | "timeintervals" | "window" | "windows" | "relevantwindows" => Role::Time,
        "event" | "label" | "description" | "caption" | "action" | "activity" | "name"
        | "query" | "title" | "text" | "content" => Role::Label,
        _ => Role::Other,
    }
}

/// Adds the times of a value and of everything in it.
pub(super) fn collect(node: &Node, found: &mut Spans) {
    match &node.tree {
        Tree::List(items) => match clock_pair(items) {
            Some(pair) => found.add(pair, None, node.range.clone()),
            None => items.iter().for_each(|item| collect(item, found)),
        },
        Tree::Object(members) => collect_object(node, members, found),
        _ => {}
    }
}

/// `["00:12", "00:15"]`, which needs no key.
fn clock_pair(items: &[Node]) -> Option<(f64, f64)> {
    let clock = |item: &Node| match &item.tree {
        Tree::Text(text) if text.contains(':') && item.fault.is_none() => clock::whole(text),
        _ => None,
    };
    match items {
        [start, end] => Some((clock(start)?, clock(end)?)),
        _ => None,
    }
}

fn collect_object(node: &Node, members: &[(String, Node)], found: &mut Spans) {
    let with_role = |wanted| members.iter().find(|(key, _)| role(key) == wanted);
    let label = members.iter().find_map(|(key, value)| match &value.tree {
        Tree::Text(text) if role(key) == Role::Label => Some(text.clone()),
        _ => None,
    });
    match (with_role(Role::Start), with_role(Role::End), node.fault) {
        (None, None, _) => collect_times(members, label.as_ref(), found),
        (_, _, Some(fault)) => found.problem(fault.into(), node.range.clone()),
        (Some(start), Some(end), None) => match (time_of(start), time_of(end)) {
            (Ok(start), Ok(end)) => found.add((start, end), label, node.range.clone()),
            (Err(reason), _) | (_, Err(reason)) => found.problem(reason, node.range.clone()),
        },
        (Some(one), None, None) | (None, Some(one), None) => {
            if time_of(one).is_ok() {
                found.problem(SpanReason::HalfOpen { key: one.0.clone() }, node.range.clone());
            }
        }
    }
    let others = members.iter().filter(|(key, _)| matches!(role(key), Role::Other | Role::Label));
    others.for_each(|(_, value)| collect(value, found));
}

/// The values under keys such as `timestamp`, in an object without start and end.
fn collect_times(members: &[(String, Node)], label: Option<&String>, found: &mut Spans) {
    for (key, value) in members.iter().filter(|(key, _)| role(key) == Role::Time) {
        match value.fault {
            Some(fault) => found.problem(fault.into(), value.range.clone()),
            None => collect_time(key, value, label, found),
        }
    }
}

fn collect_time(key: &str, value: &Node, label: Option<&String>, found: &mut Spans) {
    let range = value.range.clone();
    if let Some(time) = time(value) {
        return found.add((time, time), label.cloned(), range);
    }
    match &value.tree {
        Tree::List(items) => match &items[..] {
            [start, end] if time(start).is_some() && time(end).is_some() => {
                let pair = (time(start).unwrap_or(0.0), time(end).unwrap_or(0.0));
                found.add(pair, label.cloned(), range);
            }
            items => items.iter().for_each(|item| collect_time(key, item, label, found)),
        },
        Tree::Object(_) => collect(value, found),
        Tree::Text(text) => collect_text(key, text, value, label, found),
        _ => found.problem(unreadable(key, value), range),
    }
}

/// A text such as `00:12 - 00:15`. Texts that do not start as a time are about something else.
fn collect_text(key: &str, text: &str, value: &Node, label: Option<&String>, found: &mut Spans) {
    let mut inner = Spans::default();
    prose::collect(text, &[], &mut inner);
    if inner.found() == 0 && text.trim_start().starts_with(|c: char| c.is_ascii_digit()) {
        found.problem(unreadable(key, value), value.range.clone());
    }
    for span in inner.spans {
        let label = label.cloned().or(span.label);
        found.add((span.start, span.end), label, value.range.clone());
    }
    for problem in inner.problems {
        found.problem(problem.reason, value.range.clone());
    }
}

fn time_of((key, value): &(String, Node)) -> Result<f64, SpanReason> {
    time(value).ok_or_else(|| unreadable(key, value))
}

fn time(node: &Node) -> Option<f64> {
    match &node.tree {
        Tree::Number(seconds) if seconds.is_finite() && *seconds >= 0.0 => Some(*seconds),
        Tree::Text(text) => clock::whole(text),
        _ => None,
    }
}

fn unreadable(key: &str, value: &Node) -> SpanReason {
    SpanReason::Unreadable { key: key.to_owned(), value: value.to_json().to_string() }
}

impl From<Fault> for SpanReason {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Cut => Self::Truncated,
            Fault::Syntax { at, expected } => Self::Malformed { at, expected },
        }
    }
}
