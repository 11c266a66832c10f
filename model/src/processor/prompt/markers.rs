//! Marks around placeholders that a user typed, so that they can be told from the template's own.
//!
//! Source: `mark_control_tokens` and `encode_marked_chat` of transformers 5.23. Unlike there, the two private-use
//! characters are chosen so that the messages do not contain them, and keys are marked too; so nothing is lost.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};

use super::{IMAGE_PAD, PromptError, VIDEO_PAD};
use crate::processor::message::Message;
use crate::processor::template::RenderOptions;

const PADS: [&str; 2] = [IMAGE_PAD, VIDEO_PAD];

/// A piece of a rendered chat.
pub(super) enum Segment<'a> {
    /// Written by the template, or text without placeholders.
    Chat(&'a str),
    /// A placeholder that the user typed.
    Literal(&'a str),
}

/// The characters before and after a typed placeholder.
#[derive(Clone, Debug)]
pub(super) struct Markers {
    open: char,
    close: char,
}

impl Markers {
    /// `None` if nobody typed a placeholder.
    pub(super) fn for_chat(
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Option<Self>, PromptError> {
        let mut scan = Scan::default();
        messages.iter().for_each(|message| scan.object(message.as_json()));
        options.tools.iter().for_each(|tool| scan.json(tool));
        scan.object(&options.extra);
        if !scan.has_pad {
            return Ok(None);
        }
        let mut free = ('\u{f0000}'..='\u{ffffd}')
            .chain('\u{100000}'..='\u{10fffd}')
            .filter(|c| !scan.private.contains(c));
        match (free.next(), free.next()) {
            (Some(open), Some(close)) => Ok(Some(Self { open, close })),
            _ => Err(PromptError::NoMarkers),
        }
    }

    pub(super) fn mark_options(&self, options: &RenderOptions) -> RenderOptions {
        RenderOptions {
            tools: options.tools.iter().map(|tool| self.mark(tool)).collect(),
            add_generation_prompt: options.add_generation_prompt,
            extra: options
                .extra
                .iter()
                .map(|(key, value)| (key.clone(), self.mark(value)))
                .collect(),
        }
    }

    fn mark(&self, json: &Json) -> Json {
        match json {
            Json::String(text) => Json::String(self.mark_text(text)),
            Json::Array(items) => Json::Array(items.iter().map(|item| self.mark(item)).collect()),
            Json::Object(map) => self.mark_object(map),
            other => other.clone(),
        }
    }

    pub(super) fn mark_object(&self, map: &Map<String, Json>) -> Json {
        Json::Object(
            map.iter().map(|(key, value)| (self.mark_text(key), self.mark(value))).collect(),
        )
    }

    fn mark_text(&self, text: &str) -> String {
        let (open, close) = (self.open, self.close);
        PADS.iter()
            .fold(text.to_owned(), |text, pad| text.replace(pad, &format!("{open}{pad}{close}")))
    }

    /// The text without marks.
    pub(super) fn strip(&self, text: &str) -> String {
        text.replace([self.open, self.close], "")
    }

    /// Cuts a rendered chat at the marks. A mark without its partner (a template may cut strings) is dropped, but still
    /// separates.
    pub(super) fn segments<'a>(&self, text: &'a str) -> Vec<Segment<'a>> {
        let mut segments = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find([self.open, self.close]) {
            push_chat(&mut segments, &rest[..at]);
            let typed = PADS.iter().find_map(|pad| self.typed(&rest[at..], pad));
            let Some((literal, after)) = typed else {
                rest = &rest[at + self.open.len_utf8()..];
                continue;
            };
            segments.push(Segment::Literal(literal));
            rest = after;
        }
        push_chat(&mut segments, rest);
        segments
    }

    /// The typed placeholder at the start of `text` and what follows it.
    fn typed<'a>(&self, text: &'a str, pad: &str) -> Option<(&'a str, &'a str)> {
        let inner = text.strip_prefix(self.open)?;
        let after = inner.strip_prefix(pad)?.strip_prefix(self.close)?;
        Some((&inner[..pad.len()], after))
    }
}

fn push_chat<'a>(segments: &mut Vec<Segment<'a>>, text: &'a str) {
    if !text.is_empty() {
        segments.push(Segment::Chat(text));
    }
}

/// Looks for typed placeholders and for private-use characters in all strings.
#[derive(Default)]
struct Scan {
    has_pad: bool,
    private: HashSet<char>,
}

impl Scan {
    fn json(&mut self, json: &Json) {
        match json {
            Json::String(text) => self.text(text),
            Json::Array(items) => items.iter().for_each(|item| self.json(item)),
            Json::Object(map) => self.object(map),
            _ => {}
        }
    }

    fn object(&mut self, map: &Map<String, Json>) {
        for (key, value) in map {
            self.text(key);
            self.json(value);
        }
    }

    fn text(&mut self, text: &str) {
        self.has_pad |= PADS.iter().any(|pad| text.contains(pad));
        self.private.extend(text.chars().filter(|c| *c >= '\u{f0000}'));
    }
}
