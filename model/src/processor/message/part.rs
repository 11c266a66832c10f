//! One content part: what it is, where its medium comes from, and its per-item keys.

use serde_json::{Map, Value as Json, json};

use super::error::{MessageError, child, describe, type_error};
use super::fields::Fields;
use super::media::{Detail, ImageRef, MediaKind, MediaRef, MediaSource, VideoRef};

const TYPES: &str = "\"text\", \"image\", \"image_url\", \"video\", \"video_url\", \"input_text\" and \"input_image\"";
const IMAGE_SOURCES: [&str; 4] = ["image", "image_url", "url", "path"];
const VIDEO_SOURCES: [&str; 4] = ["video", "video_url", "url", "path"];
/// Keys that cache or label a part and change nothing about it.
const NEUTRAL: [&str; 3] = ["type", "uuid", "cache_control"];
const SIZES: [&str; 4] = ["min_pixels", "max_pixels", "resized_height", "resized_width"];
const VIDEO_KEYS: [&str; 10] = [
    "fps",
    "num_frames",
    "nframes",
    "min_frames",
    "max_frames",
    "total_pixels",
    "video_start",
    "video_end",
    "sample_fps",
    "raw_fps",
];
/// Keys by which the published templates decide what a part is, whatever its `type` says.
const DECIDING: [&str; 5] = ["text", "image", "image_url", "video", "video_url"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Media(MediaKind),
}

impl Kind {
    fn article(self) -> &'static str {
        match self {
            Kind::Text => "a text",
            Kind::Media(MediaKind::Image) => "an image",
            Kind::Media(MediaKind::Video) => "a video",
        }
    }

    fn owns(self, key: &str) -> bool {
        match self {
            Kind::Text => key == "text",
            Kind::Media(MediaKind::Image) => IMAGE_SOURCES.contains(&key),
            Kind::Media(MediaKind::Video) => VIDEO_SOURCES.contains(&key),
        }
    }
}

/// A text part.
pub(super) fn text(text: String) -> Json {
    json!({"type": "text", "text": text})
}

/// Checks a part, returns its medium, and rewrites `type: "video_url"` to the `video` that templates know.
pub(super) fn parse(part: &mut Json, at: &str) -> Result<Option<MediaRef>, MessageError> {
    let Json::Object(map) = part else {
        return Err(type_error(at, "a content part object", part));
    };
    let kind = kind_of(map, at)?;
    if let Some(key) = DECIDING.iter().find(|key| map.contains_key(**key) && !kind.owns(key)) {
        return Err(MessageError::Contradiction {
            at: at.into(),
            kind: kind.article(),
            key: (*key).into(),
        });
    }
    let fields = Fields { map, at };
    match kind {
        Kind::Text => fields.check_text().map(|()| None),
        Kind::Media(MediaKind::Image) => Ok(Some(MediaRef::Image(fields.image()?))),
        Kind::Media(MediaKind::Video) => {
            let video = fields.video()?;
            map.insert("type".into(), "video".into());
            Ok(Some(MediaRef::Video(video)))
        }
    }
}

fn kind_of(map: &Map<String, Json>, at: &str) -> Result<Kind, MessageError> {
    let image = Kind::Media(MediaKind::Image);
    let video = Kind::Media(MediaKind::Video);
    match map.get("type") {
        Some(Json::String(name)) => match name.as_str() {
            "text" | "input_text" => Ok(Kind::Text),
            "image" | "image_url" | "input_image" => Ok(image),
            "video" | "video_url" => Ok(video),
            _ => {
                let at = child(at, "type");
                Err(MessageError::Unknown { at, value: name.clone(), allowed: TYPES.into() })
            }
        },
        Some(other) => Err(type_error(&child(at, "type"), "the name of a part type", other)),
        None if map.contains_key("image") || map.contains_key("image_url") => Ok(image),
        None if map.contains_key("video") || map.contains_key("video_url") => Ok(video),
        None if map.contains_key("text") => Ok(Kind::Text),
        None => Err(MessageError::Missing { at: child(at, "type"), wanted: TYPES }),
    }
}

impl<'a> Fields<'a> {
    fn check_text(&self) -> Result<(), MessageError> {
        match self.map.get("text") {
            Some(Json::String(_)) => Ok(()),
            Some(other) => Err(type_error(&self.path("text"), "a string", other)),
            None => Err(MessageError::Missing {
                at: self.path("text"),
                wanted: "the text of this part",
            }),
        }
    }

    fn image(&self) -> Result<ImageRef, MessageError> {
        self.check_keys(&[&IMAGE_SOURCES, &NEUTRAL, &SIZES, &["detail"]])?;
        let (source, nested_detail) = self.source(&IMAGE_SOURCES)?;
        if let Some(MediaSource::Frames(_)) = source {
            return Err(type_error(
                &self.path("image"),
                "one image, not a list",
                &self.map["image"],
            ));
        }
        let (min_pixels, max_pixels) = self.pixel_bounds()?;
        let detail = self.map.get("detail").or(nested_detail).filter(|detail| !detail.is_null());
        let detail = detail.map(|detail| self.detail(detail)).transpose()?;
        Ok(ImageRef { source, min_pixels, max_pixels, resized: self.resized()?, detail })
    }

    fn video(&self) -> Result<VideoRef, MessageError> {
        self.check_keys(&[&VIDEO_SOURCES, &NEUTRAL, &SIZES, &VIDEO_KEYS])?;
        let (source, _) = self.source(&VIDEO_SOURCES)?;
        let (min_pixels, max_pixels) = self.pixel_bounds()?;
        let video = VideoRef {
            source,
            min_pixels,
            max_pixels,
            total_pixels: self.count("total_pixels")?,
            resized: self.resized()?,
            fps: self.rate("fps")?,
            num_frames: self.count("num_frames")?.or(self.count("nframes")?),
            min_frames: self.count("min_frames")?,
            max_frames: self.count("max_frames")?,
            start: self.seconds("video_start")?,
            end: self.seconds("video_end")?,
            sample_fps: self.rate("sample_fps")?,
            raw_fps: self.rate("raw_fps")?,
        };
        self.check_exclusive("fps", "num_frames")?;
        self.check_exclusive("fps", "nframes")?;
        self.check_exclusive("num_frames", "nframes")?;
        Ok(video)
    }

    fn check_keys(&self, allowed: &[&[&str]]) -> Result<(), MessageError> {
        let unknown =
            self.map.keys().find(|key| !allowed.iter().any(|list| list.contains(&key.as_str())));
        match unknown {
            None => Ok(()),
            Some(key) => Err(MessageError::Unknown {
                at: self.at.into(),
                value: key.clone(),
                allowed: allowed.concat().join(", "),
            }),
        }
    }

    fn check_exclusive(&self, first: &'static str, second: &str) -> Result<(), MessageError> {
        if self.map.contains_key(first) && self.map.contains_key(second) {
            let must = format!("not stand beside `{second}`");
            return Err(MessageError::Value {
                at: self.path(first),
                value: describe(&self.map[first]),
                must,
            });
        }
        Ok(())
    }

    /// The one source of a medium, and the `detail` inside an `image_url` object.
    fn source(
        &self,
        keys: &[&'static str],
    ) -> Result<(Option<MediaSource>, Option<&'a Json>), MessageError> {
        let mut given = keys.iter().filter(|key| self.map.contains_key(**key));
        let Some(key) = given.next() else {
            return self.require_url_key();
        };
        if let Some(other) = given.next() {
            self.check_exclusive(key, other)?;
        }
        let at = self.path(key);
        match &self.map[*key] {
            Json::Null if ["image", "video"].contains(key) => Ok((None, None)),
            Json::String(location) => Ok((Some(non_empty(location, &at)?), None)),
            Json::Object(url) if key.ends_with("_url") => url_object(url, &at),
            Json::Array(frames) if *key == "video" || *key == "image" => {
                Ok((Some(frame_list(frames, &at)?), None))
            }
            other => Err(type_error(&at, "a path or a URL", other)),
        }
    }

    /// `{"type": "image"}` waits for a source; `{"type": "image_url"}` without one is a slip, and no template renders it.
    fn require_url_key(&self) -> Result<(Option<MediaSource>, Option<&'a Json>), MessageError> {
        let name = self.map.get("type").and_then(Json::as_str).unwrap_or_default();
        match name {
            "image" | "video" => Ok((None, None)),
            "video_url" => Err(MessageError::Missing {
                at: self.path("video_url"),
                wanted: "{\"url\": \"...\"}",
            }),
            _ => Err(MessageError::Missing {
                at: self.path("image_url"),
                wanted: "{\"url\": \"...\"}",
            }),
        }
    }

    fn detail(&self, value: &Json) -> Result<Detail, MessageError> {
        match value.as_str() {
            Some("auto") => Ok(Detail::Auto),
            Some("low") => Ok(Detail::Low),
            Some("high") => Ok(Detail::High),
            _ => {
                let must = "be \"auto\", \"low\" or \"high\"".into();
                Err(MessageError::Value { at: self.path("detail"), value: describe(value), must })
            }
        }
    }
}

fn non_empty(location: &str, at: &str) -> Result<MediaSource, MessageError> {
    if location.is_empty() {
        let must = "be a path or a URL, not empty".into();
        return Err(MessageError::Value { at: at.into(), value: "\"\"".into(), must });
    }
    Ok(MediaSource::Location(location.into()))
}

/// `{"url": "...", "detail": "..."}`.
fn url_object<'a>(
    url: &'a Map<String, Json>,
    at: &str,
) -> Result<(Option<MediaSource>, Option<&'a Json>), MessageError> {
    let fields = Fields { map: url, at };
    fields.check_keys(&[&["url", "detail"]])?;
    match url.get("url") {
        Some(Json::String(location)) => {
            Ok((Some(non_empty(location, &fields.path("url"))?), url.get("detail")))
        }
        Some(other) => Err(type_error(&fields.path("url"), "a URL", other)),
        None => Err(MessageError::Missing { at: fields.path("url"), wanted: "a URL" }),
    }
}

fn frame_list(frames: &[Json], at: &str) -> Result<MediaSource, MessageError> {
    let names = frames.iter().enumerate().map(|(i, frame)| match frame {
        Json::String(name) => Ok(name.clone()),
        other => Err(type_error(&format!("{at}[{i}]"), "the path or URL of a frame", other)),
    });
    Ok(MediaSource::Frames(names.collect::<Result<_, _>>()?))
}
