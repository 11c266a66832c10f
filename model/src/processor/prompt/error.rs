//! What can go wrong between a rendered chat and its ids.

use crate::processor::message::MediaKind;
use crate::processor::template::TemplateError;
use crate::processor::tokenizer::TokenizerError;

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
