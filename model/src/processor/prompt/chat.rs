//! Rendered chats, and where the template's placeholders stand in them.

use std::ops::Range;

use super::markers::{Markers, Segment};
use super::{PromptError, pad_of};
use crate::processor::message::{MediaKind, Message};
use crate::processor::template::{ChatTemplate, RenderOptions};

/// A conversation rendered by the template, in which placeholders that a user typed are told from the template's.
#[derive(Clone, Debug)]
pub struct RenderedChat {
    text: String,
    markers: Option<Markers>,
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
        let Some(markers) = Markers::for_chat(messages, options)? else {
            return Ok(Self { text: template.render(messages, options)?, markers: None });
        };
        let messages: Vec<_> =
            messages.iter().map(|message| markers.mark_object(message.as_json())).collect();
        let options = markers.mark_options(options);
        Ok(Self { text: template.render_json(&messages, &options)?, markers: Some(markers) })
    }

    /// The rendered text as transformers would show it.
    pub fn text(&self) -> String {
        self.markers.as_ref().map_or_else(|| self.text.clone(), |markers| markers.strip(&self.text))
    }

    /// The kinds of the template's own placeholders, in order.
    pub fn placeholders(&self) -> Vec<MediaKind> {
        let mut found = Vec::new();
        for segment in self.segments() {
            if let Segment::Chat(mut text) = segment {
                while let Some((kind, at)) = next_placeholder(text) {
                    found.push(kind);
                    text = &text[at.end..];
                }
            }
        }
        found
    }

    pub(super) fn segments(&self) -> Vec<Segment<'_>> {
        match &self.markers {
            Some(markers) => markers.segments(&self.text),
            None => vec![Segment::Chat(&self.text)],
        }
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
