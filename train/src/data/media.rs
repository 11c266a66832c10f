//! The pictures and videos of a row: where they are, and which placeholder each of them fills.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use super::draft::{Dialect, Turn};
use super::error::{RowProblem, describe, type_error};
use super::keys::given;

/// What stands in a text for a picture or a video.
pub(super) const PLACEHOLDERS: [&str; 2] = ["<image>", "<video>"];

/// Finds files.
#[derive(Debug)]
pub(super) struct Resolver {
    /// Folder of the data file.
    folder: PathBuf,
    root: Option<PathBuf>,
}

impl Resolver {
    pub(super) fn new(folder: PathBuf, root: Option<PathBuf>) -> Self {
        Self { folder, root }
    }

    /// The path of a file, which must exist; URLs are kept.
    pub(super) fn resolve(&self, written: &str) -> Result<String, RowProblem> {
        if is_url(written) {
            return Ok(written.to_owned());
        }
        let path = self.root.as_ref().unwrap_or(&self.folder).join(written);
        if path.exists() {
            return Ok(path.to_string_lossy().into_owned());
        }
        Err(RowProblem::MissingFile { hint: self.hint(written), path, written: written.to_owned() })
    }

    fn hint(&self, written: &str) -> String {
        let Some(root) = &self.root else {
            let relative = Path::new(written).is_relative();
            let hint = " Paths begin at the folder of the data file; another one is set by `root`.";
            return if relative { hint.to_owned() } else { String::new() };
        };
        match (root.is_dir(), self.folder.join(written).exists()) {
            (false, _) => format!(" The folder {} (root) does not exist.", root.display()),
            (true, true) => " It exists beside the data file; leave out `root`.".to_owned(),
            (true, false) => String::new(),
        }
    }
}

fn is_url(text: &str) -> bool {
    ["http://", "https://", "file://", "data:"].iter().any(|scheme| {
        text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })
}

/// The media that a row names beside its turns, as content parts in order.
#[derive(Debug, Default)]
pub(super) struct Pools {
    images: Vec<Json>,
    videos: Vec<Json>,
    keys: [&'static str; 2],
}

impl Pools {
    pub(super) fn read(
        map: &Map<String, Json>,
        plural: bool,
        resolver: &Resolver,
    ) -> Result<Self, RowProblem> {
        let pick = |one, many| if plural && given(map, one).is_none() { many } else { one };
        let keys = [pick("image", "images"), pick("video", "videos")];
        let images = entries(map, keys[0]);
        let image = |(at, value): (String, &Json)| match value {
            Json::String(path) => Ok(json!({"type": "image", "image": resolver.resolve(path)?})),
            other => Err(type_error(&at, "the path of a picture", other)),
        };
        let videos = entries(map, keys[1]);
        let rates = rates(map, videos.len())?;
        let video = |((at, value), fps): ((String, &Json), Option<f64>)| {
            video_part(&at, value, fps, resolver)
        };
        Ok(Self {
            images: images.into_iter().map(image).collect::<Result<_, _>>()?,
            videos: videos.into_iter().zip(rates).map(video).collect::<Result<_, _>>()?,
            keys,
        })
    }

    /// Puts the media into the turns, in order.
    pub(super) fn place(self, turns: &mut [Turn], dialect: Dialect) -> Result<(), RowProblem> {
        let count = |name: &str| match dialect {
            Dialect::Parts => turns.iter().map(|turn| turn.open_parts(name)).sum(),
            _ => {
                let taking = turns.iter().filter(|turn| turn.takes_media());
                taking.flat_map(Turn::texts).map(|text| text.matches(name).count()).sum()
            }
        };
        for (kind, held) in [self.images.len(), self.videos.len()].into_iter().enumerate() {
            let (placeholder, found) = (PLACEHOLDERS[kind], count(PLACEHOLDERS[kind]));
            if found != held {
                let (sought, hint) = match dialect {
                    Dialect::Parts => (waiting(kind), parts_hint(turns, placeholder)),
                    _ => (format!("`{placeholder}` stand in the text"), hint(turns, placeholder)),
                };
                let (key, what) = (self.keys[kind], "file(s)");
                return Err(RowProblem::Placeholders { found, sought, key, held, what, hint });
            }
        }
        let mut pools = [self.images.into_iter(), self.videos.into_iter()];
        for turn in turns.iter_mut() {
            match dialect {
                Dialect::Parts => turn.fill_parts(&mut pools),
                _ if turn.takes_media() => {
                    let strip = dialect == Dialect::Llava && turn.role() == "user";
                    turn.split(&mut pools, strip);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What takes a file in a row of content parts.
fn waiting(kind: usize) -> String {
    let kind = ["image", "video"][kind];
    format!("content part(s) {{\"type\": \"{kind}\"}} wait for a file")
}

fn parts_hint(turns: &[Turn], placeholder: &str) -> &'static str {
    match turns.iter().any(|turn| turn.texts().any(|text| text.contains(placeholder))) {
        true => {
            " In a row with media among its content parts, a placeholder in a text is text; write a part {\"type\": \"image\"} or {\"type\": \"video\"} in its place, or placeholders alone."
        }
        false => "",
    }
}

fn hint(turns: &[Turn], placeholder: &str) -> &'static str {
    let mut answers = turns.iter().filter(|turn| !turn.takes_media());
    match answers.any(|turn| turn.texts().any(|text| text.contains(placeholder))) {
        true => {
            " Placeholders count in turns of the user and of tools; in other turns they are text."
        }
        false => "",
    }
}

/// The values of a key that holds one or a list; nothing, an empty list and an empty text mean none.
fn entries<'a>(map: &'a Map<String, Json>, key: &str) -> Vec<(String, &'a Json)> {
    match given(map, key) {
        None => Vec::new(),
        Some(Json::String(text)) if text.is_empty() => Vec::new(),
        Some(Json::Array(list)) => list
            .iter()
            .enumerate()
            .map(|(index, value)| (format!("{key}[{index}]"), value))
            .collect(),
        Some(value) => vec![(key.to_owned(), value)],
    }
}

/// `fps` of the row: one number for all videos, or one for each.
fn rates(map: &Map<String, Json>, videos: usize) -> Result<Vec<Option<f64>>, RowProblem> {
    let bad = |value: &Json, must: &str| RowProblem::Value {
        at: "fps".into(),
        value: describe(value),
        must: must.to_owned(),
    };
    let number = |value: &Json| match value.as_f64() {
        Some(fps) if fps > 0.0 => Ok(Some(fps)),
        _ => Err(bad(value, "be a number of frames per second above 0")),
    };
    match given(map, "fps") {
        None => Ok(vec![None; videos]),
        Some(value) if videos == 0 => Err(bad(value, "be left out in a row without `videos`")),
        Some(value @ Json::Array(list)) if list.len() != videos => {
            Err(bad(value, &format!("have one number for each of {videos} video(s)")))
        }
        Some(Json::Array(list)) => list.iter().map(number).collect(),
        Some(value) => Ok(vec![number(value)?; videos]),
    }
}

/// A file or folder, or a list of frames. `fps` is how many frames to take of a file in a second, and how many there are
/// of a folder or list.
fn video_part(
    at: &str,
    value: &Json,
    fps: Option<f64>,
    resolver: &Resolver,
) -> Result<Json, RowProblem> {
    let (video, key) = match value {
        Json::String(path) => {
            let path = resolver.resolve(path)?;
            let key = if Path::new(&path).is_dir() { "raw_fps" } else { "fps" };
            (Json::String(path), key)
        }
        Json::Array(_) => (frames(at, value, resolver)?, "sample_fps"),
        other => return Err(type_error(at, "the path of a video, or a list of frames", other)),
    };
    let mut part = json!({"type": "video", "video": video});
    match fps {
        Some(fps) => part[key] = fps.into(),
        None if key != "fps" => {
            let wanted = "how many of these frames there are per second";
            return Err(RowProblem::Missing { at: "fps".into(), wanted });
        }
        None => {}
    }
    Ok(part)
}

fn frames(at: &str, value: &Json, resolver: &Resolver) -> Result<Json, RowProblem> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let frame = |(index, frame): (usize, &Json)| match frame {
        Json::String(path) => Ok(Json::String(resolver.resolve(path)?)),
        other => Err(type_error(&format!("{at}[{index}]"), "the path of a frame", other)),
    };
    let frames: Vec<Json> = list.iter().enumerate().map(frame).collect::<Result<_, _>>()?;
    match frames.is_empty() {
        true => {
            let must = "have at least one frame".to_owned();
            Err(RowProblem::Value { at: at.to_owned(), value: "[]".into(), must })
        }
        false => Ok(Json::Array(frames)),
    }
}

/// Resolves the paths that a content part names itself.
pub(super) fn resolve_part(
    part: &mut Map<String, Json>,
    at: &str,
    resolver: &Resolver,
) -> Result<(), RowProblem> {
    for key in ["image", "video", "image_url", "video_url", "url", "path"] {
        match part.get_mut(key) {
            Some(Json::String(path)) if !path.is_empty() => *path = resolver.resolve(path)?,
            Some(value @ Json::Array(_)) => {
                *value = frames(&format!("{at}.{key}"), value, resolver)?
            }
            Some(Json::Object(inner)) => {
                if let Some(Json::String(path)) = inner.get_mut("url") {
                    *path = resolver.resolve(path)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
