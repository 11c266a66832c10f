//! Pictures of a conversation, from wherever they are.

use std::borrow::Cow;

use qwen3_vl_model::processor::image::{
    DecodeLimits, ImageError, RgbImage, decode_image, image_size,
};
use qwen3_vl_model::processor::message::{Conversation, MediaRef, MediaSource, media};

use crate::fetch::{FetchError, FetchLimits, read_source};

/// Why a picture cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("media {index} of the conversation is a video; videos are not supported yet")]
    Video { index: usize },
    #[error(
        "image {index} of the conversation has no source; give it one, or name it by --image on the command line"
    )]
    NoSource { index: usize },
}

/// Bounds on what is fetched and decoded.
#[derive(Debug, Clone, Default)]
pub struct MediaLimits {
    pub fetch: FetchLimits,
    pub decode: DecodeLimits,
}

/// Decodes all pictures of a conversation, in order.
///
/// # Errors
/// When one cannot be fetched or decoded, or is a video.
pub fn load_pictures(
    conversation: &Conversation,
    limits: &MediaLimits,
) -> Result<Vec<RgbImage>, MediaError> {
    each(conversation, limits, |bytes, name| decode_image(bytes, name, &limits.decode))
}

/// Sizes (width, height) of all pictures after orientation, from their headers alone.
///
/// # Errors
/// As [`load_pictures`].
pub fn picture_sizes(
    conversation: &Conversation,
    limits: &MediaLimits,
) -> Result<Vec<(u32, u32)>, MediaError> {
    each(conversation, limits, |bytes, name| image_size(bytes, name, &limits.decode))
}

fn each<T>(
    conversation: &Conversation,
    limits: &MediaLimits,
    read: impl Fn(&[u8], &str) -> Result<T, ImageError>,
) -> Result<Vec<T>, MediaError> {
    let one = |(index, item): (usize, &MediaRef)| {
        let MediaRef::Image(image) = item else {
            return Err(MediaError::Video { index: index + 1 });
        };
        let source = image.source.as_ref().ok_or(MediaError::NoSource { index: index + 1 })?;
        Ok(read(&bytes_of(source, limits)?, &source.describe())?)
    };
    media(&conversation.messages).into_iter().enumerate().map(one).collect()
}

fn bytes_of<'a>(
    source: &'a MediaSource,
    limits: &MediaLimits,
) -> Result<Cow<'a, [u8]>, FetchError> {
    match source {
        MediaSource::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
        MediaSource::Location(location) => Ok(Cow::Owned(read_source(location, &limits.fetch)?)),
        MediaSource::Frames(_) => unreachable!("only videos have lists of frames"),
    }
}
