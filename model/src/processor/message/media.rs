//! The media that content parts name, with the per-item keys of qwen-vl-utils.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

/// Image or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// A still picture.
    Image,
    /// A clip.
    Video,
}

impl MediaKind {
    /// `image` or `video`, as content parts spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            MediaKind::Image => "image",
            MediaKind::Video => "video",
        }
    }
}

impl std::fmt::Display for MediaKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the data of an image or a video comes from. Nothing is opened here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaSource {
    /// A path, or a `http(s)`, `file` or `data` URL, exactly as written.
    Location(String),
    /// The bytes of an image or video file.
    Bytes(Arc<[u8]>),
    /// A clip given as frame files, in order (videos only).
    Frames(Vec<String>),
}

impl From<&str> for MediaSource {
    fn from(location: &str) -> Self {
        MediaSource::Location(location.to_owned())
    }
}

impl From<String> for MediaSource {
    fn from(location: String) -> Self {
        MediaSource::Location(location)
    }
}

impl From<Vec<u8>> for MediaSource {
    fn from(bytes: Vec<u8>) -> Self {
        MediaSource::Bytes(bytes.into())
    }
}

impl MediaSource {
    /// A short name for messages: the location, cut where it is a long URL.
    pub fn describe(&self) -> String {
        const SHOWN: usize = 80;
        match self {
            MediaSource::Location(location) => match location.char_indices().nth(SHOWN) {
                Some((end, _)) => format!("{}...", &location[..end]),
                None => location.clone(),
            },
            MediaSource::Bytes(bytes) => format!("{} bytes in memory", bytes.len()),
            MediaSource::Frames(frames) => format!("a list of {} frames", frames.len()),
        }
    }

    /// The value of the part's `image` or `video` key; bytes stay outside the JSON.
    fn to_json(&self) -> Option<Json> {
        match self {
            MediaSource::Location(location) => Some(Json::String(location.clone())),
            MediaSource::Frames(frames) => Some(Json::from(frames.clone())),
            MediaSource::Bytes(_) => None,
        }
    }
}

/// OpenAI's `detail` hint of an `image_url`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The service chooses.
    Auto,
    /// Few tokens.
    Low,
    /// Many tokens.
    High,
}

/// An image of a conversation; `None` means "not said here".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageRef {
    /// Where the picture is; `None` for a bare `{"type": "image"}`, see [`super::fill_media`].
    pub source: Option<MediaSource>,
    /// Smallest area after resizing, in pixels.
    pub min_pixels: Option<u64>,
    /// Largest area after resizing, in pixels.
    pub max_pixels: Option<u64>,
    /// Height and width to resize to before rounding, in pixels.
    pub resized: Option<(u64, u64)>,
    /// OpenAI's hint.
    pub detail: Option<Detail>,
}

impl ImageRef {
    /// An image without per-item sizes.
    pub fn new(source: impl Into<MediaSource>) -> Self {
        Self { source: Some(source.into()), ..Self::default() }
    }
}

/// A video of a conversation; `None` means "not said here". Names are those of qwen-vl-utils.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VideoRef {
    /// Where the clip is; `None` for a bare `{"type": "video"}`.
    pub source: Option<MediaSource>,
    /// Smallest area of a frame, in pixels.
    pub min_pixels: Option<u64>,
    /// Largest area of a frame, in pixels.
    pub max_pixels: Option<u64>,
    /// Largest area of all frames together, in pixels.
    pub total_pixels: Option<u64>,
    /// Height and width to resize to before rounding, in pixels.
    pub resized: Option<(u64, u64)>,
    /// Frames per second to sample.
    pub fps: Option<f64>,
    /// Frames to sample in all (`num_frames` or `nframes`); excludes `fps`.
    pub num_frames: Option<u64>,
    /// Fewest frames to sample.
    pub min_frames: Option<u64>,
    /// Most frames to sample.
    pub max_frames: Option<u64>,
    /// First second to use.
    pub start: Option<f64>,
    /// Last second to use.
    pub end: Option<f64>,
    /// Frames per second at which a list of frames was taken.
    pub sample_fps: Option<f64>,
    /// Frames per second of the clip that a list of frames was taken from.
    pub raw_fps: Option<f64>,
}

impl VideoRef {
    /// A video without per-item settings.
    pub fn new(source: impl Into<MediaSource>) -> Self {
        Self { source: Some(source.into()), ..Self::default() }
    }
}

/// One medium of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum MediaRef {
    /// A still picture.
    Image(ImageRef),
    /// A clip.
    Video(VideoRef),
}

impl MediaRef {
    /// Image or video.
    pub fn kind(&self) -> MediaKind {
        match self {
            MediaRef::Image(_) => MediaKind::Image,
            MediaRef::Video(_) => MediaKind::Video,
        }
    }

    /// Where the data is, if the part says so.
    pub fn source(&self) -> Option<&MediaSource> {
        match self {
            MediaRef::Image(image) => image.source.as_ref(),
            MediaRef::Video(video) => video.source.as_ref(),
        }
    }

    /// The content part that stands for this medium in the template. Sizes stay outside: no template reads them.
    pub(super) fn to_part(&self) -> Json {
        let name = self.kind().as_str();
        let mut part = Map::new();
        part.insert("type".into(), name.into());
        if let Some(value) = self.source().and_then(MediaSource::to_json) {
            part.insert(name.into(), value);
        }
        Json::Object(part)
    }
}
