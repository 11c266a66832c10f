//! Times as text: `mm:ss.f`, `hh:mm:ss`, `12.5 seconds`, `1m30s`.

/// A time read from text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Time {
    pub seconds: f64,
    /// The byte after it.
    pub end: usize,
    pub form: Form,
}

/// How a [`Time`] was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// `mm:ss` or `hh:mm:ss`.
    Clock,
    /// Numbers with units; the seconds in the last unit.
    Units(f64),
    /// A number alone.
    Number,
}

/// Most digits of a number before or after its point.
const MAX_DIGITS: usize = 9;
/// Names of units with their seconds; a single letter `h` or `m` counts only before a smaller unit.
const UNITS: [(f64, &[&str]); 3] = [
    (3600.0, &["hours", "hour", "hrs", "hr", "h", "小时"]),
    (60.0, &["minutes", "minute", "mins", "min", "m", "分钟", "分"]),
    (1.0, &["seconds", "second", "secs", "sec", "s", "秒钟", "秒"]),
];

/// The time that starts at byte `at` and does not run into other letters or digits.
pub(super) fn time(text: &str, at: usize) -> Option<Time> {
    clock(text, at).or_else(|| units(text, at)).or_else(|| {
        let (seconds, end) = number(text, at)?;
        Some(Time { seconds, end, form: Form::Number })
    })
}

/// The time that `text` is, brackets and blanks around it aside; a number alone is seconds.
pub(super) fn whole(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || "<>[]()".contains(c));
    time(text, 0).filter(|time| time.end == text.len()).map(|time| time.seconds)
}

/// `[h:]mm:ss[.f]`, seconds and, after hours, minutes of exactly two digits below 60.
fn clock(text: &str, at: usize) -> Option<Time> {
    let (first, mut end) = digits(text, at, 3)?;
    let mut fields = vec![first];
    while fields.len() < 3
        && let Some((field, after)) = two_digits(text, end)
    {
        fields.push(field);
        end = after;
    }
    if fields.len() < 2 || fields[1..].iter().any(|field| *field >= 60.0) {
        return None;
    }
    let (fraction, end) = fraction(text, end, fields.len() == 3);
    // `12:34.56s` is a common form.
    let end = match text[end..].strip_prefix('s') {
        Some(rest) if !rest.starts_with(|c: char| c.is_ascii_alphanumeric()) => end + 1,
        _ => end,
    };
    let whole = fields.iter().fold(0.0, |sum, field| sum * 60.0 + field);
    is_end(text, end).then_some(Time { seconds: whole + fraction, end, form: Form::Clock })
}

/// The field after a colon at `at`.
fn two_digits(text: &str, at: usize) -> Option<(f64, usize)> {
    let from = at + text[at..].strip_prefix(':').map(|_| 1)?;
    digits(text, from, 2).filter(|(_, end)| *end == from + 2)
}

/// `.5`, and, as subtitles have it after hours, `,500`; 0 where there is none.
fn fraction(text: &str, at: usize, after_hours: bool) -> (f64, usize) {
    let rest = &text[at..];
    let is_comma = rest.starts_with(',') && after_hours;
    if !rest.starts_with('.') && !is_comma {
        return (0.0, at);
    }
    match digits(text, at + 1, MAX_DIGITS) {
        Some((_, end)) if !is_comma || end == at + 4 => {
            (format!("0.{}", &text[at + 1..end]).parse().unwrap_or(0.0), end)
        }
        _ => (0.0, at),
    }
}

/// Whether a clock may end at `end`: no digit, letter or further field follows.
fn is_end(text: &str, end: usize) -> bool {
    let mut rest = text[end..].chars();
    match rest.next() {
        Some(':' | '.' | ',') => !rest.next().is_some_and(|c| c.is_ascii_digit()),
        next => !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '%'),
    }
}

/// `12.5s`, `2 minutes 5 seconds`, `1h2m3s`: units from large to small.
fn units(text: &str, at: usize) -> Option<Time> {
    let (mut total, mut last, mut pos) = (0.0, None, at);
    while let Some((value, after)) = number(text, pos) {
        let Some((scale, name, end)) = unit(text, after) else {
            break;
        };
        if last.is_some_and(|(larger, _, _)| larger <= scale) {
            break;
        }
        total += value * scale;
        last = Some((scale, name, end));
        pos = end + blanks(text, end);
    }
    // `5 m` are metres as likely as minutes.
    let (scale, name, end) = last?;
    (!matches!(name, "m" | "h")).then_some(Time { seconds: total, end, form: Form::Units(scale) })
}

/// The unit at `at`, blanks before it allowed: its seconds, its name and the byte after it.
fn unit(text: &str, at: usize) -> Option<(f64, &'static str, usize)> {
    let from = at + blanks(text, at);
    let names = UNITS.iter().flat_map(|(scale, names)| names.iter().map(|name| (*scale, *name)));
    names.into_iter().find_map(|(scale, name)| {
        let end = from + name.len();
        let is_name = text.get(from..end)?.eq_ignore_ascii_case(name);
        let goes_on = text[end..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        (is_name && !goes_on).then_some((scale, name, end))
    })
}

fn blanks(text: &str, at: usize) -> usize {
    text[at..].len() - text[at..].trim_start_matches([' ', '\u{a0}']).len()
}

/// An unsigned decimal number.
fn number(text: &str, at: usize) -> Option<(f64, usize)> {
    let (_, mut end) = digits(text, at, MAX_DIGITS)?;
    if let Some(rest) = text[end..].strip_prefix('.')
        && let Some((_, after)) = digits(rest, 0, MAX_DIGITS)
    {
        end += 1 + after;
    }
    Some((text[at..end].parse().ok()?, end))
}

/// 1 to `most` digits that no further digit follows.
fn digits(text: &str, at: usize, most: usize) -> Option<(f64, usize)> {
    let rest = &text[at..];
    let len = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    (1..=most).contains(&len).then(|| Some((rest[..len].parse().ok()?, at + len)))?
}
