//! A folder or a list of images with a frame rate.

use crate::animation::on_white;
use crate::source::{Media, OpenOptions};
use crate::timeline::Timeline;
use crate::{
    Colour, Delivered, Frame, FrameSource, Progress, Sink, VideoError, VideoInfo, check_wanted,
};
use image::{DynamicImage, ImageDecoder as _, ImageReader, metadata::Orientation};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// Decodes the bytes of one image file to upright RGB.
pub type ImageDecoder = fn(&[u8]) -> Result<Frame, Box<dyn std::error::Error + Send + Sync>>;

/// Largest image file that is read.
const MAX_FILE: u64 = 1 << 30;

/// Decodes PNG, JPEG, WebP, BMP or GIF with the `image` crate; EXIF orientation is applied, transparency is laid
/// on white.
///
/// # Errors
/// What the `image` crate says about the bytes.
pub fn decode_image(bytes: &[u8]) -> Result<Frame, Box<dyn std::error::Error + Send + Sync>> {
    let mut decoder = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    if picture.color().has_alpha() {
        return Ok(on_white(&picture.into_rgba8()));
    }
    let rgb = picture.into_rgb8();
    Ok(Frame { width: rgb.width(), height: rgb.height(), data: rgb.into_raw() })
}

/// The upright size by the file's header, where the `image` crate can read it.
pub(crate) fn size_of(bytes: &[u8]) -> Option<(u32, u32)> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    let mut decoder = reader.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let turned = matches!(
        decoder.orientation().ok()?,
        Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH
    );
    Some(if turned { (height, width) } else { (width, height) })
}

/// The contents of one image file.
pub(crate) fn read_bounded(media: &Media) -> Result<Vec<u8>, VideoError> {
    let mut bytes = Vec::new();
    let mut stream = media.stream()?.take(MAX_FILE);
    stream.read_to_end(&mut bytes).map_err(|source| media.failed(source))?;
    Ok(bytes)
}

struct Images {
    name: String,
    paths: Vec<PathBuf>,
    info: VideoInfo,
    options: OpenOptions,
}

/// Opens a list of images, or the images of one folder.
pub(crate) fn open(
    paths: Vec<PathBuf>,
    fps: f64,
    options: &OpenOptions,
) -> Result<Box<dyn FrameSource>, VideoError> {
    if !(fps > 0.0 && fps <= 1000.0) {
        return Err(VideoError::Rate { fps });
    }
    let name = name_of(&paths);
    let paths = match &paths[..] {
        [folder] if folder.is_dir() => list(folder)?,
        _ => paths,
    };
    let Some(first) = paths.first() else {
        let found = "there is no PNG, JPEG, WebP, BMP or GIF image".into();
        return Err(VideoError::NoFrames { name, found });
    };
    let first = load(first, options)?;
    let line = Timeline::regular(paths.len(), fps);
    let info = VideoInfo {
        width: first.width,
        height: first.height,
        rotation: 0,
        fps,
        variable: false,
        times: line.times,
        duration: line.duration,
        decoder: "images",
        codec: "images".into(),
        colour: Colour::RGB,
        warnings: Vec::new(),
    };
    Ok(Box::new(Images { name, paths, info, options: options.clone() }))
}

fn name_of(paths: &[PathBuf]) -> String {
    match paths {
        [] => "the empty list of images".into(),
        [one] => one.display().to_string(),
        [first, ..] => format!("the list of {} images from {}", paths.len(), first.display()),
    }
}

/// The images of a folder in natural order (`2.png` before `10.png`); hidden files are left out.
fn list(folder: &Path) -> Result<Vec<PathBuf>, VideoError> {
    let failed = |source| VideoError::Read { name: folder.display().to_string(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if !hidden && path.is_file() && is_image(&path) {
            found.push(path);
        }
    }
    found.sort_by_cached_key(|path| natural_key(&path.to_string_lossy()));
    Ok(found)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let known = ["png", "jpg", "jpeg", "webp", "bmp", "gif"];
    extension.is_some_and(|e| known.contains(&e.as_str()))
}

/// Splits a name into text and numbers; numbers compare by value (by length without zeros, then by digits).
fn natural_key(name: &str) -> Vec<(String, usize, String)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let tail = &rest[text..];
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let number = tail[..end].trim_start_matches('0');
        key.push((rest[..text].to_lowercase(), number.len(), number.to_owned()));
        rest = &tail[end..];
    }
    key.push((String::new(), 0, name.to_owned()));
    key
}

fn load(path: &Path, options: &OpenOptions) -> Result<Frame, VideoError> {
    let media = Media::File { path: path.to_owned(), len: 0 };
    let bytes = read_bounded(&media)?;
    if let Some((width, height)) = size_of(&bytes) {
        options.check_size(&media.name(), width, height)?;
    }
    let frame =
        (options.image_decoder)(&bytes).map_err(|error| media.malformed(error.to_string()))?;
    options.check_size(&media.name(), frame.width, frame.height)?;
    Ok(frame)
}

impl Images {
    fn load(&self, index: usize) -> Result<Frame, VideoError> {
        let frame = load(&self.paths[index], &self.options)?;
        let (width, height) = (self.info.width, self.info.height);
        if (frame.width, frame.height) != (width, height) {
            let reason = format!(
                "{} has {}x{} pixels, but the first image has {width}x{height}; all must have one size",
                self.paths[index].display(),
                frame.width,
                frame.height
            );
            return Err(VideoError::Images { name: self.name.clone(), reason });
        }
        Ok(frame)
    }
}

impl FrameSource for Images {
    fn info(&self) -> &VideoInfo {
        &self.info
    }

    fn frames(
        &mut self,
        wanted: &[usize],
        sink: &mut Sink<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Delivered, VideoError> {
        check_wanted(wanted, self.info.frame_count())?;
        let mut done = Delivered::default();
        for (place, &index) in wanted.iter().enumerate() {
            let frame = match self.load(index) {
                Ok(frame) => frame,
                Err(error) if self.options.skip_damaged => {
                    done.missing.push(index);
                    done.warnings.push(error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            };
            done.frames += 1;
            done.decoded += 1;
            let flow = sink(index, frame);
            let share = (place + 1) as f64 / wanted.len() as f64;
            done.stopped = flow.is_break() || progress(share).is_break();
            if done.stopped {
                break;
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_by_value() {
        let mut names = ["f10.png", "f2.png", "f1.png", "f002b.png", "e99.png"];
        names.sort_by_cached_key(|name| natural_key(name));
        assert_eq!(names, ["e99.png", "f1.png", "f2.png", "f002b.png", "f10.png"]);
    }
}
