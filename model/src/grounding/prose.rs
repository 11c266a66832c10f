//! Times in prose.

use std::ops::Range;

use super::clock::{Form, Time, time};
use super::spans::Spans;

/// What may stand around a time: brackets, quotes, Markdown's stars.
const OPENERS: [char; 8] = ['<', '[', '(', '"', '\'', '*', '`', '【'];
const CLOSERS: [char; 8] = ['>', ']', ')', '"', '\'', '*', '`', '】'];
/// What may stand between the ends of a span, longer ones first.
const SEPARATORS: [&str; 20] = [
    "and ends at",
    "and ending at",
    "and finishes at",
    "and ends",
    "through",
    "until",
    "till",
    "-->",
    "->",
    "to",
    "-",
    "–",
    "—",
    "~",
    "～",
    "→",
    "至",
    "到",
    "‒",
    "−",
];
/// Words before a time that say how exact it is.
const HEDGES: [&str; 8] =
    ["about", "around", "approximately", "roughly", "exactly", "the", "~", "≈"];
/// Words before a number of seconds that make it an instant.
const CUES: [&str; 12] = [
    "at",
    "near",
    "from",
    "until",
    "till",
    "since",
    "@",
    "=",
    "timestamp",
    "timestamps",
    "time",
    "before",
];
/// Words before a time that make it a duration.
const DURATIONS: [&str; 9] =
    ["for", "lasts", "lasted", "lasting", "last", "duration", "length", "takes", "within"];
/// Words after a time that make it a duration or a time of day.
const NO_TIMES: [&str; 13] = [
    "long", "later", "earlier", "am", "pm", "a.m", "p.m", "o'clock", "minutes", "minute", "min",
    "hours", "duration",
];

/// Adds the times of `text` outside the ranges `read`, which are in order.
pub(super) fn collect(text: &str, read: &[Range<usize>], found: &mut Spans) {
    let mut at = 0;
    while let Some(start) = next_digit(text, at) {
        if let Some(range) = read.iter().find(|range| range.contains(&start)) {
            at = range.end;
            continue;
        }
        at = match is_left_edge(text, start).then(|| span(text, start)).flatten() {
            Some((pair, end)) => {
                found.add(pair, line_label(text, start, end), start..end);
                end
            }
            None => digits_end(text, start),
        };
    }
}

fn next_digit(text: &str, at: usize) -> Option<usize> {
    text[at..].find(|c: char| c.is_ascii_digit()).map(|found| at + found)
}

fn digits_end(text: &str, at: usize) -> usize {
    text[at..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |end| at + end)
}

/// Whether a number may start here: not inside a word, a larger number, a date or an amount of money.
fn is_left_edge(text: &str, start: usize) -> bool {
    let mut before = text[..start].chars().rev();
    let (last, previous) = (before.next(), before.next());
    let after_digit = previous.is_some_and(|c| c.is_ascii_alphanumeric());
    match last {
        Some('.' | ',' | ':' | '-') if after_digit => false,
        // A minus sign; as the dash of a list it stands before a clock or after a line's start.
        Some('-') => previous.is_none_or(|c| c == '\n'),
        Some('/' | '$' | '€' | '#' | '_' | '+') => false,
        Some(c) => !c.is_ascii_alphanumeric() && !is_after_date(&text[..start]),
        None => true,
    }
}

/// Whether the last word is a date such as `2024-01-31`.
fn is_after_date(before: &str) -> bool {
    let word = last_word(before);
    let marks = word.matches(['-', '/']).count();
    marks == 2 && word.len() >= 8 && word.chars().all(|c| c.is_ascii_digit() || "-/".contains(c))
}

/// The span that starts at a digit, and the byte after it.
fn span(text: &str, start: usize) -> Option<((f64, f64), usize)> {
    let first = time(text, start)?;
    let is_duration = is_duration(&text[..start]);
    if let Some((from, to)) = range(text, start, first) {
        let is_time = !is_duration && !is_followed_by(text, to.end, &NO_TIMES);
        return is_time.then_some(((from, to.seconds), to.end));
    }
    let is_instant = match first.form {
        Form::Clock => true,
        Form::Units(_) => has_cue(text, start, first.end),
        Form::Number => false,
    };
    let is_time = is_instant && !is_duration && !is_followed_by(text, first.end, &NO_TIMES);
    is_time.then_some(((first.seconds, first.seconds), first.end))
}

/// Start and end, where a separator and a second time follow `first`.
fn range(text: &str, start: usize, first: Time) -> Option<(f64, Time)> {
    let rest = text[first.end..].trim_start_matches(|c: char| c == ' ' || CLOSERS.contains(&c));
    let separator = match SEPARATORS.iter().find(|sep| starts_with_word(rest, sep)) {
        Some(separator) => separator.len(),
        None if starts_with_word(rest, "and") && is_after_word(text, start, "between") => 3,
        None => return None,
    };
    let mut rest = skip_openers(&rest[separator..]);
    for word in HEDGES.iter().chain(&["at"]) {
        if starts_with_word(rest, word) {
            rest = skip_openers(&rest[word.len()..]);
        }
    }
    let second = time(text, text.len() - rest.len())?;
    let from = match (first.form, second.form) {
        (Form::Number, Form::Units(scale)) => first.seconds * scale,
        (Form::Number, _) | (_, Form::Number) => return None,
        _ => first.seconds,
    };
    Some((from, second))
}

fn skip_openers(text: &str) -> &str {
    text.trim_start_matches(|c: char| c == ' ' || OPENERS.contains(&c))
}

/// Whether `text` starts with `word`, and no other letter follows a word of letters.
fn starts_with_word(text: &str, word: &str) -> bool {
    let starts = text.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word));
    let is_letter = |c: char| c.is_ascii_alphabetic();
    starts && !(word.ends_with(is_letter) && text[word.len()..].starts_with(is_letter))
}

fn is_followed_by(text: &str, end: usize, words: &[&str]) -> bool {
    let rest = text[end..].trim_start_matches([' ', '-', '\u{a0}']);
    words.iter().any(|word| starts_with_word(rest, word))
}

fn is_duration(before: &str) -> bool {
    let (before, _) = without_hedges(before);
    let word = last_word(before);
    let word = match word.eq_ignore_ascii_case("of") || word.eq_ignore_ascii_case("is") {
        true => last_word(&before[..before.len() - word.len()]),
        false => word,
    };
    DURATIONS.iter().any(|known| known.eq_ignore_ascii_case(word))
}

fn is_after_word(text: &str, start: usize, word: &str) -> bool {
    last_word(without_hedges(&text[..start]).0).eq_ignore_ascii_case(word)
}

/// Whether a number of seconds is a moment rather than a duration.
fn has_cue(text: &str, start: usize, end: usize) -> bool {
    let after = text[end..].trim_start();
    let (before, _) = without_hedges(&text[..start]);
    let is_bracketed =
        text[..start].trim_end().ends_with(['<', '[', '(']) && after.starts_with(['>', ']', ')']);
    let word = last_word(before).trim_end_matches(':');
    let is_cued = CUES.iter().any(|cue| cue.eq_ignore_ascii_case(word))
        || before.ends_with(['@', '=', '第', '在']);
    let is_list_item = is_line_start(text, start)
        && after.trim_start_matches(CLOSERS).trim_start().starts_with([':', '：']);
    is_bracketed || is_cued || is_list_item || is_followed_by(text, end, &["into", "mark"])
}

/// `before` without openers, blanks and hedges at its end.
fn without_hedges(before: &str) -> (&str, bool) {
    let mut rest = before;
    loop {
        rest = rest.trim_end_matches(|c: char| c == ' ' || OPENERS.contains(&c));
        let word = last_word(rest);
        if !HEDGES.iter().any(|hedge| hedge.eq_ignore_ascii_case(word)) {
            return (rest, rest.len() < before.len());
        }
        rest = &rest[..rest.len() - word.len()];
    }
}

/// The last word of a text, blanks after it aside; it has no blanks, brackets or line ends.
fn last_word(before: &str) -> &str {
    let before = before.trim_end_matches(' ');
    let is_edge = |c: char| c.is_whitespace() || OPENERS.contains(&c);
    before.rsplit(is_edge).next().unwrap_or_default()
}

/// Whether only marks of a list, a heading or a quote stand before `start` on its line.
fn is_line_start(text: &str, start: usize) -> bool {
    let line = text[..start].rsplit('\n').next().unwrap_or_default();
    let marks = line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
    let marks = marks.trim_start_matches(['.', ')']);
    marks.chars().all(|c| c == ' ' || "-•>#|".contains(c) || OPENERS.contains(&c))
}

/// What a line that starts with a span says of it: `00:12 - 00:15: a dog jumps`.
fn line_label(text: &str, start: usize, end: usize) -> Option<String> {
    if !is_line_start(text, start) {
        return None;
    }
    let line = text[end..].lines().next()?;
    let rest = line.trim_start_matches(|c: char| c == ' ' || CLOSERS.contains(&c));
    let label = rest.strip_prefix([':', '：', '-', '–', '—', '|'])?;
    let label = label.trim_matches(|c: char| c.is_whitespace() || "*|-".contains(c));
    (!label.is_empty()).then(|| label.to_owned())
}
