//! One medium: fetched, and looked at without decoding.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use qwen3_vl_model::processor::image::image_size;
use qwen3_vl_model::processor::message::{MediaRef, MediaSource, VideoRef};
use qwen3_vl_video::{OpenOptions, VideoInput};
use tempfile::TempPath;

use super::{Content, MediaError, MediaLimits, MediaProgress, MediaStep, Opened};
use crate::fetch::{
    FetchError, FetchLimits, fetch_parts, file_url_path, read_source, scheme, shown, unsupported,
};

/// Opens medium number `index`, counted from 1.
pub(super) fn open<'c>(
    index: usize,
    item: &'c MediaRef,
    limits: &MediaLimits,
    progress: &mut dyn MediaProgress,
) -> Result<Opened<'c>, MediaError> {
    let kind = item.kind().as_str();
    let source = item.source().ok_or(MediaError::NoSource { kind, index })?;
    let name = source.describe();
    let content = match item {
        MediaRef::Image(image) => {
            let bytes = picture_bytes(source, limits)?;
            let size = image_size(&bytes, &name, &limits.decode)?;
            Content::Picture { item: image, bytes, size }
        }
        MediaRef::Video(video) => match source {
            MediaSource::Frames(frames) => open_list(&name, frames, limits)?,
            MediaSource::Location(location) => open_film(location, video, limits, progress)?,
            MediaSource::Bytes(bytes) => {
                let input = VideoInput::Bytes { name: name.clone(), bytes: bytes.clone() };
                film(&name, input, video, limits, None)?
            }
        },
    };
    Ok(Opened { name, content })
}

fn picture_bytes<'c>(
    source: &'c MediaSource,
    limits: &MediaLimits,
) -> Result<Cow<'c, [u8]>, MediaError> {
    match source {
        MediaSource::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
        MediaSource::Location(location) => Ok(Cow::Owned(read_source(location, &limits.fetch)?)),
        MediaSource::Frames(_) => Err(MediaError::NoSource { kind: "image", index: 0 }),
    }
}

fn open_list(
    name: &str,
    frames: &[String],
    limits: &MediaLimits,
) -> Result<Content<'static>, MediaError> {
    let read = |frame: &String| Ok(read_source(frame, &limits.fetch)?);
    let pictures: Vec<Vec<u8>> = frames.iter().map(read).collect::<Result<_, MediaError>>()?;
    let size = match pictures.first() {
        Some(first) => image_size(first, &format!("{name}, frame 1"), &limits.decode)?,
        None => (0, 0),
    };
    Ok(Content::Frames { pictures, size })
}

fn open_film(
    location: &str,
    video: &VideoRef,
    limits: &MediaLimits,
    progress: &mut dyn MediaProgress,
) -> Result<Content<'static>, MediaError> {
    let (path, file) = match scheme(location).as_deref() {
        Some("http" | "https") => {
            let file = download(location, &limits.video, progress)?;
            (file.to_path_buf(), Some(file))
        }
        Some("file") => (limits.video.policy.file(file_url_path(location)?)?, None),
        Some("data") => {
            let bytes = read_source(location, &limits.fetch)?.into();
            let name = shown(location).chars().take(40).collect();
            return film(location, VideoInput::Bytes { name, bytes }, video, limits, None);
        }
        Some(other) => return Err(unsupported(location, other).into()),
        None => (limits.video.policy.path(Path::new(location))?, None),
    };
    if !path.exists() {
        return Err(FetchError::NoFile { path }.into());
    }
    film(location, VideoInput::Path(path), video, limits, file)
}

fn film(
    name: &str,
    input: VideoInput,
    video: &VideoRef,
    limits: &MediaLimits,
    file: Option<TempPath>,
) -> Result<Content<'static>, MediaError> {
    let is_folder = matches!(&input, VideoInput::Path(path) if path.is_dir());
    match (is_folder, video.raw_fps) {
        (true, None) => return Err(MediaError::FolderRate { name: name.to_owned() }),
        (false, Some(_)) => return Err(MediaError::FilmRate { name: name.to_owned() }),
        _ => {}
    }
    let options =
        OpenOptions { decoder: limits.decoder, image_fps: video.raw_fps, ..OpenOptions::default() };
    Ok(Content::Film { source: qwen3_vl_video::open(input, &options)?, _file: file })
}

/// Downloads a video to a temporary file, which goes when the path is dropped.
fn download(
    url: &str,
    limits: &FetchLimits,
    progress: &mut dyn MediaProgress,
) -> Result<TempPath, MediaError> {
    let temporary = tempfile::NamedTempFile::with_prefix("qwen3-vl-");
    let failed = |path: &Path, source| FetchError::File { path: path.to_owned(), source };
    let mut file = temporary.map_err(|error| failed(&std::env::temp_dir(), error))?;
    let path = file.path().to_owned();
    let (mut received, name) = (0u64, shown(url));
    fetch_parts(url, limits, &mut |part, announced| {
        file.write_all(part).map_err(|error| failed(&path, error))?;
        received += part.len() as u64;
        let share = announced.map(|whole| received as f64 / whole.max(1) as f64);
        let step = MediaStep { action: "downloading", name: &name, share };
        match progress.step(step).is_break() {
            true => Err(FetchError::Stopped { url: name.clone() }),
            false => Ok(()),
        }
    })?;
    file.flush().map_err(|error| failed(&path, error))?;
    Ok(file.into_temp_path())
}
