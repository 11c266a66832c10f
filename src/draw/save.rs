//! Pictures to files: all of it or nothing.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};
use qwen3_vl_model::processor::image::RgbImage;
use qwen3_vl_weights::partial;
use tempfile::NamedTempFile;

/// Quality of JPEG files, of 100.
const JPEG_QUALITY: u8 = 92;

/// A format that pictures can be saved in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Png,
    Jpeg,
    /// Without loss.
    WebP,
}

/// Why a picture cannot be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    #[error(
        "{} does not say which format to write: its name must end in .png, .jpg, .jpeg or .webp.", path.display()
    )]
    Extension { path: PathBuf },
    #[error("{} is a folder; name a file.", path.display())]
    IsFolder { path: PathBuf },
    #[error("The folder of {} does not exist.", path.display())]
    NoFolder { path: PathBuf },
    #[error("{} cannot be written: {source}.", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("A picture of {width}x{height} pixels cannot be written to {}: {source}.", path.display())]
    Encode { path: PathBuf, width: u32, height: u32, source: image::ImageError },
}

impl Format {
    /// The format that a file's name ends in, upper or lower case.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" => Some(Self::Jpeg),
            "webp" => Some(Self::WebP),
            _ => None,
        }
    }
}

/// Checks before any work that a picture can be written to `path`, and tells its format. Nothing is left behind.
///
/// # Errors
/// For a name without a known ending, a folder, and a file in a folder that is missing or cannot be written to.
pub fn check_output(path: &Path) -> Result<Format, SaveError> {
    let named = || path.to_owned();
    let format = Format::of(path).ok_or_else(|| SaveError::Extension { path: named() })?;
    if path.is_dir() {
        return Err(SaveError::IsFolder { path: named() });
    }
    if !partial::folder_of(path).is_dir() {
        return Err(SaveError::NoFolder { path: named() });
    }
    temporary(path)?;
    Ok(format)
}

/// Writes a picture in the format that `path` ends in. The file appears when it is complete; what was there before
/// stays until then.
///
/// # Errors
/// As [`check_output`], and where the format cannot hold the picture (JPEG ends at 65535 pixels, WebP at 16383) or
/// the disk is full.
pub fn save(image: &RgbImage, path: &Path) -> Result<(), SaveError> {
    let format = check_output(path)?;
    let mut file = temporary(path)?;
    let mut writer = BufWriter::new(file.as_file_mut());
    let encode = |source| SaveError::Encode {
        path: path.to_owned(),
        width: image.width,
        height: image.height,
        source,
    };
    write(image, format, &mut writer).map_err(encode)?;
    writer.flush().map_err(|source| SaveError::Write { path: path.to_owned(), source })?;
    drop(writer);
    file.persist(path)
        .map_err(|error| SaveError::Write { path: path.to_owned(), source: error.error })?;
    Ok(())
}

fn write(image: &RgbImage, format: Format, writer: impl Write) -> image::ImageResult<()> {
    let (width, height, colour) = (image.width, image.height, ExtendedColorType::Rgb8);
    let data = &image.data;
    match format {
        Format::Png => PngEncoder::new(writer).write_image(data, width, height, colour),
        Format::Jpeg => JpegEncoder::new_with_quality(writer, JPEG_QUALITY)
            .write_image(data, width, height, colour),
        Format::WebP => WebPEncoder::new_lossless(writer).write_image(data, width, height, colour),
    }
}

/// A file beside `path`, which goes away unless it is given its name.
fn temporary(path: &Path) -> Result<NamedTempFile, SaveError> {
    partial::beside(path).map_err(|source| SaveError::Write { path: path.to_owned(), source })
}
