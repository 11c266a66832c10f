//! Rendered chats, and where the template's placeholders stand in them.

use std::ops::Range;

use serde_json::Value as Json;

use super::markers::{Markers, Segment};
use super::{PromptError, pad_of};
use crate::processor::message::{MediaKind, Message};
use crate::processor::template::{ChatTemplate, RenderOptions, TemplateError};

/// A conversation rendered by the template, in which placeholders that a user typed are told from the template's.
#[derive(Clone, Debug)]
pub struct RenderedChat {
    text: String,
    markers: Option<Markers>,
    runs: Vec<Run>,
}

/// A part of a rendered chat that is tokenised by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The byte behind it.
    pub(crate) end: usize,
    /// Whether its tokens are learned.
    pub(crate) trained: bool,
}

/// The messages of a conversation, marked once, so that renderings of its beginnings can be compared.
pub(crate) struct ChatRenderer<'a> {
    template: &'a ChatTemplate,
    messages: Vec<Json>,
    options: RenderOptions,
    markers: Option<Markers>,
}

impl<'a> ChatRenderer<'a> {
    /// `add_generation_prompt` of `options` is not looked at.
    pub(crate) fn new(
        template: &'a ChatTemplate,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Self, PromptError> {
        let markers = Markers::for_chat(messages, options)?;
        let mark = |message: &Message| match &markers {
            Some(markers) => markers.mark_object(message.as_json()),
            None => Json::Object(message.as_json().clone()),
        };
        let messages = messages.iter().map(mark).collect();
        let options = match &markers {
            Some(markers) => markers.mark_options(options),
            None => options.clone(),
        };
        Ok(Self { template, messages, options, markers })
    }

    /// The first `count` messages, marked; `open` ends them with the opening of an answer.
    pub(crate) fn beginning(&self, count: usize, open: bool) -> Result<String, TemplateError> {
        self.template.render_json(&self.messages[..count], &self.options(open))
    }

    /// All messages but one, marked.
    pub(crate) fn without(&self, index: usize) -> Result<String, TemplateError> {
        let mut rest = self.messages.clone();
        rest.remove(index);
        self.template.render_json(&rest, &self.options(false))
    }

    fn options(&self, open: bool) -> RenderOptions {
        RenderOptions { add_generation_prompt: open, ..self.options.clone() }
    }

    /// The text as transformers would show it.
    pub(crate) fn strip(&self, text: &str) -> String {
        self.markers.as_ref().map_or_else(|| text.to_owned(), |markers| markers.strip(text))
    }

    /// `text`, which is marked, cut into `runs`.
    pub(crate) fn finish(self, text: String, runs: Vec<Run>) -> RenderedChat {
        RenderedChat { text, markers: self.markers, runs }
    }
}

impl RenderedChat {
    /// Renders `messages`. A literal `<|image_pad|>` or `<|video_pad|>` in any string of the messages or tools stays text
    /// (transformers `sanitize_control_tokens`, for these two only).
    ///
    /// # Errors
    /// [`PromptError::Template`].
    pub fn render(
        template: &ChatTemplate,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Self, PromptError> {
        let renderer = ChatRenderer::new(template, messages, options)?;
        let text = renderer.beginning(messages.len(), options.add_generation_prompt)?;
        let run = Run { end: text.len(), trained: false };
        Ok(renderer.finish(text, vec![run]))
    }

    /// The rendered text as transformers would show it.
    pub fn text(&self) -> String {
        self.markers.as_ref().map_or_else(|| self.text.clone(), |markers| markers.strip(&self.text))
    }

    /// The kinds of the template's own placeholders, in order.
    pub fn placeholders(&self) -> Vec<MediaKind> {
        let mut found = Vec::new();
        for (segment, _) in self.segments() {
            if let Segment::Chat(mut text) = segment {
                while let Some((kind, at)) = next_placeholder(text) {
                    found.push(kind);
                    text = &text[at.end..];
                }
            }
        }
        found
    }

    /// The pieces in order, and whether their tokens are learned.
    pub(super) fn segments(&self) -> Vec<(Segment<'_>, bool)> {
        let mut segments = Vec::new();
        let mut start = 0;
        for run in &self.runs {
            let text = &self.text[start..run.end];
            let pieces = match &self.markers {
                Some(markers) => markers.segments(text),
                None => vec![Segment::Chat(text)],
            };
            segments.extend(pieces.into_iter().map(|piece| (piece, run.trained)));
            start = run.end;
        }
        segments
    }
}

/// The first placeholder in a piece of rendered chat.
pub(super) fn next_placeholder(text: &str) -> Option<(MediaKind, Range<usize>)> {
    let found = [MediaKind::Image, MediaKind::Video].into_iter().filter_map(|kind| {
        let pad = pad_of(kind);
        text.find(pad).map(|at| (kind, at..at + pad.len()))
    });
    found.min_by_key(|(_, at)| at.start)
}
