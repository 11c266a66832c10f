//! The picture that is measured.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use qwen3_vl::model::processor::image::{DecodeLimits, RgbImage, decode_image};

use super::super::size;

/// One that is drawn at this size, or a file.
#[derive(Debug, Clone)]
pub enum Picture {
    Drawn(u32, u32),
    File(PathBuf),
}

/// A decoded picture.
#[derive(Debug)]
pub struct Opened {
    pub rgb: RgbImage,
    /// Seconds of decoding; a drawn picture has none.
    pub decode: Option<f64>,
}

impl Picture {
    /// Reads `1280x960` or a path.
    ///
    /// # Errors
    /// A sentence for a size that is out of range and no file.
    pub fn parse(text: &str) -> Result<Self, String> {
        match size::dimensions(text) {
            Ok((width, height)) => Ok(Self::Drawn(width, height)),
            Err(_) if std::path::Path::new(text).is_file() => Ok(Self::File(text.into())),
            Err(error) => Err(format!("there is no such file, and as a size {error}")),
        }
    }

    /// The pixels.
    ///
    /// # Errors
    /// When the file cannot be read or decoded.
    pub fn open(&self) -> anyhow::Result<Opened> {
        let path = match self {
            Self::Drawn(width, height) => {
                return Ok(Opened { rgb: drawn(*width, *height)?, decode: None });
            }
            Self::File(path) => path,
        };
        let name = path.display().to_string();
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
        let start = Instant::now();
        let rgb = decode_image(&bytes, &name, &DecodeLimits::default())?;
        Ok(Opened { rgb, decode: Some(start.elapsed().as_secs_f64()) })
    }
}

/// Slopes with noise on them.
fn drawn(width: u32, height: u32) -> anyhow::Result<RgbImage> {
    let pixel = |x: u32, y: u32| {
        let noise = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(2_246_822_519)) >> 27;
        [x * 223 / width + noise, y * 223 / height + noise, (x + y) % 224 + noise].map(|v| v as u8)
    };
    let rows = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y)));
    Ok(RgbImage::new(width, height, rows.collect())?)
}
