//! Quoted strings as models write them: with quotes inside that nobody escaped.

/// Where a string stands, which decides what may follow its closing quote.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Place {
    Key,
    Member,
    Element,
}

/// The byte of the closing quote of the string that starts at `start`: the first quote after which the text goes on
/// as JSON does, else the last one of its line. `None` where the text ends first.
pub(super) fn end(text: &str, start: usize, quote: u8, place: Place) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut last = None;
    let mut at = start;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'\n' if last.is_some() => return last,
            byte if byte == quote && closes(text, at + 1, place) => return Some(at),
            byte if byte == quote => last = Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Whether what follows at `after` lets a quote before it be the closing one.
fn closes(text: &str, after: usize, place: Place) -> bool {
    let next = blank_end(text, after);
    let Some(byte) = text.as_bytes().get(next) else {
        return true;
    };
    match (place, byte) {
        (Place::Key, _) | (_, b'}' | b']') => true,
        (Place::Element, b',') => true,
        (Place::Member, b',') => goes_on_as_member(text, next + 1),
        (_, b'"' | b'\'' | b'{' | b'[') => text[after..next].contains('\n'),
        _ => false,
    }
}

/// Whether a key with its colon, a closing brace or the end stands at `at`.
fn goes_on_as_member(text: &str, at: usize) -> bool {
    let rest = &text[blank_end(text, at)..];
    let Some(first) = rest.chars().next() else {
        return true;
    };
    let key_end = match first {
        '}' | ']' | ',' | '{' | '/' => return true,
        '"' | '\'' => rest[1..].find(first).map(|end| end + 2),
        _ => rest.find(|c: char| !c.is_alphanumeric() && c != '_'),
    };
    // A key that the end of the text cuts is one as well.
    key_end.is_none_or(|end| {
        let after = rest[end..].trim_start();
        after.is_empty() || after.starts_with(':')
    })
}

/// The first byte at or after `from` that is no blank.
pub(super) fn blank_end(text: &str, from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    text.len() - rest.trim_start().len()
}

/// Resolves JSON's escapes and `\'`; others stay as written (labels with LaTeX in them).
pub(super) fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(escape) = rest.chars().next() else {
            out.push('\\');
            break;
        };
        rest = &rest[escape.len_utf8()..];
        match escape {
            '"' | '\'' | '\\' | '/' => out.push(escape),
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'u' => rest = unescape_code(rest, &mut out),
            other => out.extend(['\\', other]),
        }
    }
    out.push_str(rest);
    out
}

/// Resolves the digits after `\u`, a pair of surrogates as one character; returns what follows.
fn unescape_code<'a>(rest: &'a str, out: &mut String) -> &'a str {
    let Some(first) = code(rest) else {
        out.push_str("\\u");
        return rest;
    };
    let second = rest[4..].strip_prefix("\\u").and_then(code);
    let pair = second.and_then(|low| char::decode_utf16([first, low]).next()?.ok());
    match (char::from_u32(u32::from(first)), pair) {
        (Some(plain), _) => out.push(plain),
        (None, Some(pair)) => {
            out.push(pair);
            return &rest[10..];
        }
        (None, None) => out.push(char::REPLACEMENT_CHARACTER),
    }
    &rest[4..]
}

fn code(digits: &str) -> Option<u16> {
    let digits = digits.get(..4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}
