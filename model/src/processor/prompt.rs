//! From messages and token counts to ids and spans: where every image and every video frame stands.
//!
//! transformers writes the placeholder as often as a medium has tokens and tokenises the whole string. Added
//! tokens cut the text before anything else happens, so tokenising one placeholder and repeating its id gives the
//! same ids, without building a string of thousands of placeholders.

mod markers;

use std::ops::Range;

use crate::processor::message::{MediaKind, Message};
use crate::processor::template::{ChatTemplate, RenderOptions, TemplateError};
use crate::processor::tokenizer::{Tokenizer, TokenizerError};

use markers::{Markers, Segment};

/// Text of the image placeholder.
pub const IMAGE_PAD: &str = "<|image_pad|>";
/// Text of the video placeholder.
pub const VIDEO_PAD: &str = "<|video_pad|>";
const VISION_START: &str = "<|vision_start|>";
const VISION_END: &str = "<|vision_end|>";

fn pad_of(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Image => IMAGE_PAD,
        MediaKind::Video => VIDEO_PAD,
    }
}

/// A prompt that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The template failed.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// `config.json` and the tokenizer disagree on a placeholder.
    #[error("config.json says that `{token}` has the id {config}, but the tokenizer {}.", tokenizer_says(*.tokenizer))]
    PlaceholderId {
        /// The placeholder.
        token: &'static str,
        /// Id in the configuration.
        config: u32,
        /// Id in the tokenizer, if it knows the token at all.
        tokenizer: Option<u32>,
    },
    /// The rendered chat does not hold one placeholder for each medium, in order.
    #[error(
        "The rendered chat holds the placeholders [{}], but the messages hold the media [{}]; some templates leave out media in system or assistant messages.",
        kinds(.rendered), kinds(.given)
    )]
    Placeholders {
        /// Placeholders in the order of the rendered chat.
        rendered: Vec<MediaKind>,
        /// Media in the order of the messages.
        given: Vec<MediaKind>,
    },
    /// A medium without tokens.
    #[error("Medium {index} ({kind}) has no tokens; an image or a video frame has at least one.")]
    Empty {
        /// Position among all media, from 0.
        index: usize,
        /// Image or video.
        kind: MediaKind,
    },
    /// Plain text became a placeholder token, or a placeholder became something else.
    #[error(
        "Tokenising the chat gave {found} placeholder token(s) where {expected} were written; the tokenizer does not treat `<|image_pad|>` and `<|video_pad|>` as added tokens."
    )]
    Tokenised {
        /// Placeholders written.
        expected: usize,
        /// Placeholder ids found.
        found: usize,
    },
    /// The messages use every private-use character, so none is left to mark typed placeholders with.
    #[error("The messages use all 131068 private-use characters above U+F0000; two must be free.")]
    NoMarkers,
}

fn tokenizer_says(id: Option<u32>) -> String {
    id.map_or("does not know it".to_owned(), |id| format!("gives it the id {id}"))
}

fn kinds(list: &[MediaKind]) -> String {
    list.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
}

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

    fn segments(&self) -> Vec<Segment<'_>> {
        match &self.markers {
            Some(markers) => markers.segments(&self.text),
            None => vec![Segment::Chat(&self.text)],
        }
    }
}

/// The first placeholder in a piece of rendered chat.
fn next_placeholder(text: &str) -> Option<(MediaKind, Range<usize>)> {
    let found = [MediaKind::Image, MediaKind::Video].into_iter().filter_map(|kind| {
        let pad = pad_of(kind);
        text.find(pad).map(|at| (kind, at..at + pad.len()))
    });
    found.min_by_key(|(_, at)| at.start)
}

/// How a video stands in the text (spec section 7.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VideoLayout {
    /// transformers 4.57, as Qwen trained: the groups replace the template's start and end tokens too.
    #[default]
    Hf4,
    /// transformers 5: the groups stand between the template's start and end tokens.
    Hf5,
}

/// One temporal patch of a video.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameTokens {
    /// Its time in seconds, printed with one decimal.
    pub seconds: f64,
    /// Its tokens after merging.
    pub tokens: usize,
}

/// How many tokens a medium has.
#[derive(Clone, Debug, PartialEq)]
pub enum MediaTokens {
    /// Tokens after merging.
    Image(usize),
    /// One entry per temporal patch.
    Video(Vec<FrameTokens>),
}

impl MediaTokens {
    fn kind(&self) -> MediaKind {
        match self {
            MediaTokens::Image(_) => MediaKind::Image,
            MediaTokens::Video(_) => MediaKind::Video,
        }
    }

    fn has_empty(&self) -> bool {
        match self {
            MediaTokens::Image(tokens) => *tokens == 0,
            MediaTokens::Video(frames) => {
                frames.is_empty() || frames.iter().any(|frame| frame.tokens == 0)
            }
        }
    }
}

/// A run of placeholder ids that one image or one temporal patch of a video fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaSpan {
    /// Image or video.
    pub kind: MediaKind,
    /// Position of the medium among all media of the conversation, from 0.
    pub media_index: usize,
    /// Temporal patch within the medium; 0 for images.
    pub frame: usize,
    /// First id of the run.
    pub start: usize,
    /// Length of the run.
    pub len: usize,
}

/// A prompt ready for the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptIds {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Where the media stand, in order.
    pub spans: Vec<MediaSpan>,
}

impl PromptIds {
    /// Ids that stand for media of this kind.
    pub fn media_tokens(&self, kind: MediaKind) -> usize {
        self.spans.iter().filter(|span| span.kind == kind).map(|span| span.len).sum()
    }
}

/// Turns rendered chats into ids.
#[derive(Clone, Copy, Debug)]
pub struct PromptBuilder<'a> {
    tokenizer: &'a Tokenizer,
    image_id: u32,
    video_id: u32,
    layout: VideoLayout,
}

impl<'a> PromptBuilder<'a> {
    /// `image_id` and `video_id` are `image_token_id` and `video_token_id` of `config.json`.
    ///
    /// # Errors
    /// [`PromptError::PlaceholderId`] if the tokenizer says otherwise.
    pub fn new(
        tokenizer: &'a Tokenizer,
        image_id: u32,
        video_id: u32,
    ) -> Result<Self, PromptError> {
        for (token, config) in [(IMAGE_PAD, image_id), (VIDEO_PAD, video_id)] {
            let found = tokenizer.token_to_id(token);
            if found != Some(config) {
                return Err(PromptError::PlaceholderId { token, config, tokenizer: found });
            }
        }
        Ok(Self { tokenizer, image_id, video_id, layout: VideoLayout::default() })
    }

    /// Chooses how videos stand in the text.
    #[must_use]
    pub fn with_layout(self, layout: VideoLayout) -> Self {
        Self { layout, ..self }
    }

    /// Ids and spans of a rendered chat; `media` are the token counts of [`crate::processor::message::media`], in order.
    ///
    /// # Errors
    /// [`PromptError::Placeholders`] if the template left out or reordered media, [`PromptError::Empty`] for a medium
    /// without tokens.
    pub fn build(
        &self,
        chat: &RenderedChat,
        media: &[MediaTokens],
    ) -> Result<PromptIds, PromptError> {
        check_media(&chat.placeholders(), media)?;
        let mut slots = Slots::new(media, self.layout);
        let mut prompt = PromptIds::default();
        for segment in chat.segments() {
            match segment {
                Segment::Literal(text) => {
                    let ids = self.tokenizer.encode_plain(text)?;
                    let found = ids.iter().filter(|id| self.kind_of(**id).is_some()).count();
                    if found > 0 {
                        return Err(PromptError::Tokenised { expected: 0, found });
                    }
                    prompt.ids.extend(ids);
                }
                Segment::Chat(text) => self.append_chat(&mut prompt, text, &mut slots)?,
            }
        }
        Ok(prompt)
    }

    /// Appends a piece of chat: placeholders are written out per frame, then every placeholder id is repeated.
    fn append_chat(
        &self,
        prompt: &mut PromptIds,
        text: &str,
        slots: &mut Slots<'_>,
    ) -> Result<(), PromptError> {
        let (expanded, spans) = slots.expand(text);
        let ids = self.tokenizer.encode(&expanded)?;
        let found = ids.iter().filter(|id| self.kind_of(**id).is_some()).count();
        if found != spans.len() {
            return Err(PromptError::Tokenised { expected: spans.len(), found });
        }
        let mut spans = spans.into_iter();
        for id in ids {
            match self.kind_of(id).and_then(|_| spans.next()) {
                None => prompt.ids.push(id),
                Some(span) => {
                    let start = prompt.ids.len();
                    prompt.ids.resize(start + span.len, id);
                    prompt.spans.push(MediaSpan { start, ..span });
                }
            }
        }
        Ok(())
    }

    fn kind_of(&self, id: u32) -> Option<MediaKind> {
        match id {
            id if id == self.image_id => Some(MediaKind::Image),
            id if id == self.video_id => Some(MediaKind::Video),
            _ => None,
        }
    }
}

fn check_media(rendered: &[MediaKind], media: &[MediaTokens]) -> Result<(), PromptError> {
    let given: Vec<MediaKind> = media.iter().map(MediaTokens::kind).collect();
    if rendered != given {
        return Err(PromptError::Placeholders { rendered: rendered.to_vec(), given });
    }
    match media.iter().position(MediaTokens::has_empty) {
        Some(index) => Err(PromptError::Empty { index, kind: media[index].kind() }),
        None => Ok(()),
    }
}

/// The media still to be placed.
struct Slots<'a> {
    media: std::iter::Enumerate<std::slice::Iter<'a, MediaTokens>>,
    layout: VideoLayout,
}

impl<'a> Slots<'a> {
    fn new(media: &'a [MediaTokens], layout: VideoLayout) -> Self {
        Self { media: media.iter().enumerate(), layout }
    }

    /// Replaces each video placeholder by one per temporal patch with its time, and lists all runs in order
    /// (`start` is still 0).
    fn expand(&mut self, mut text: &str) -> (String, Vec<MediaSpan>) {
        let (mut out, mut spans) = (String::with_capacity(text.len()), Vec::new());
        while let Some((kind, at)) = next_placeholder(text) {
            out.push_str(&text[..at.start]);
            text = &text[at.end..];
            match self.media.next() {
                Some((media_index, MediaTokens::Image(len))) => {
                    out.push_str(IMAGE_PAD);
                    spans.push(MediaSpan { kind, media_index, frame: 0, start: 0, len: *len });
                }
                Some((media_index, MediaTokens::Video(frames))) => {
                    text = self.write_video(&mut out, text, frames);
                    let lens = frames.iter().map(|frame| frame.tokens).enumerate();
                    spans.extend(lens.map(|(frame, len)| MediaSpan {
                        kind,
                        media_index,
                        frame,
                        start: 0,
                        len,
                    }));
                }
                // `check_media` counted the placeholders, so there is a medium for each.
                None => out.push_str(pad_of(kind)),
            }
        }
        out.push_str(text);
        (out, spans)
    }

    /// Writes the groups of a video; the 4.57 layout takes away the template's tokens on both sides.
    fn write_video<'t>(
        &self,
        out: &mut String,
        mut after: &'t str,
        frames: &[FrameTokens],
    ) -> &'t str {
        if self.layout == VideoLayout::Hf4
            && out.ends_with(VISION_START)
            && after.starts_with(VISION_END)
        {
            out.truncate(out.len() - VISION_START.len());
            after = &after[VISION_END.len()..];
        }
        for frame in frames {
            out.push_str(&format!(
                "<{:.1} seconds>{VISION_START}{VIDEO_PAD}{VISION_END}",
                frame.seconds
            ));
        }
        after
    }
}

#[cfg(test)]
mod tests;
