//! From messages and token counts to ids and spans: where every image and every video frame stands.
//!
//! transformers writes the placeholder as often as a medium has tokens and tokenises the whole string. Added
//! tokens cut the text before anything else happens, so tokenising one placeholder and repeating its id gives the
//! same ids, without building a string of thousands of placeholders.

mod chat;
mod error;
mod markers;

use crate::processor::message::MediaKind;
use crate::processor::tokenizer::Tokenizer;

pub use chat::RenderedChat;
pub(crate) use chat::{ChatRenderer, Run};
pub use error::PromptError;

use chat::next_placeholder;
use markers::Segment;

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
    /// For every id whether it is learned, as the chat says; placeholders never are.
    pub targets: Vec<bool>,
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
        for (segment, trained) in chat.segments() {
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
            prompt.targets.resize(prompt.ids.len(), trained);
        }
        for span in &prompt.spans {
            prompt.targets[span.start..span.start + span.len].fill(false);
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
