//! Encoded bytes -> upright RGB, with limits that are checked before anything large is allocated.

use super::jpeg::{self, Header, Structure};
use super::orientation::{swaps_sides, upright};
use super::{ImageError, RgbImage, colour};
use image::error::{ImageError as Inner, LimitErrorKind};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// A few bytes make a scan over the whole picture, so their number bounds the time that a file can take.
const MAX_JPEG_SCANS: usize = 100;

/// Bounds on what [`decode_image`] accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Bytes of the encoded file.
    pub max_encoded_bytes: u64,
    /// Width times height, as the header announces them.
    pub max_pixels: u64,
    /// Bytes of the decoded samples, before they become 8-bit RGB; of a JPEG in several scans also of its coefficients.
    pub max_decoded_bytes: u64,
}

impl Default for DecodeLimits {
    /// 256 MiB encoded, 200 megapixels, 2 GiB decoded.
    fn default() -> Self {
        Self { max_encoded_bytes: 256 << 20, max_pixels: 200_000_000, max_decoded_bytes: 2 << 30 }
    }
}

/// Decodes a png, jpeg, webp, gif, bmp or tiff image to upright 8-bit RGB.
///
/// The format is told by the content. Of an animation (gif, webp, apng) the first frame is taken, of a multi-page tiff the
/// first page; where a gif frame leaves its screen free, it is transparent (PIL: background colour). The EXIF orientation (or the tiff tag) is applied, transparency is composited on white, colour profiles are
/// ignored, as PIL and transformers do. `name` appears in errors only.
///
/// # Errors
/// [`ImageError::Empty`], [`ImageError::TooManyBytes`], [`ImageError::UnknownFormat`], [`ImageError::Unsupported`],
/// [`ImageError::TooManyPixels`], [`ImageError::TooMuchMemory`], [`ImageError::Truncated`], [`ImageError::Decode`].
pub fn decode_image(
    bytes: &[u8],
    name: &str,
    limits: &DecodeLimits,
) -> Result<RgbImage, ImageError> {
    let file = File::sniff(bytes, name, limits)?;
    let (image, orientation) = match file.format {
        ImageFormat::Jpeg => file.decode_jpeg()?,
        _ => file.decode()?,
    };
    Ok(upright(image, orientation))
}

/// Width and height of the upright image, from its header alone.
///
/// # Errors
/// As [`decode_image`], except for damage behind the header, which is not looked at.
pub fn image_size(
    bytes: &[u8],
    name: &str,
    limits: &DecodeLimits,
) -> Result<(u32, u32), ImageError> {
    let file = File::sniff(bytes, name, limits)?;
    let ((width, height), orientation) = file.stored_size()?;
    Ok(match swaps_sides(orientation) {
        true => (height, width),
        false => (width, height),
    })
}

/// An encoded image whose format is known.
struct File<'a> {
    bytes: &'a [u8],
    name: &'a str,
    limits: &'a DecodeLimits,
    format: ImageFormat,
}

impl<'a> File<'a> {
    fn sniff(bytes: &'a [u8], name: &'a str, limits: &'a DecodeLimits) -> Result<Self, ImageError> {
        if bytes.is_empty() {
            return Err(ImageError::Empty { name: name.into() });
        }
        if bytes.len() as u64 > limits.max_encoded_bytes {
            return Err(ImageError::TooManyBytes {
                name: name.into(),
                bytes: bytes.len() as u64,
                limit: limits.max_encoded_bytes,
            });
        }
        let format = image::guess_format(bytes).map_err(|_| ImageError::UnknownFormat {
            name: name.into(),
            start: hex(&bytes[..bytes.len().min(8)]),
        })?;
        Ok(Self { bytes, name, limits, format })
    }

    /// Any format but JPEG.
    fn decode(&self) -> Result<(RgbImage, Orientation), ImageError> {
        let mut decoder = self.decoder()?;
        self.check_memory(decoder.dimensions(), decoder.total_bytes())?;
        let orientation = decoder.orientation().map_err(|e| self.refused(e))?;
        let decoded = DynamicImage::from_decoder(decoder).map_err(|e| self.refused(e))?;
        let samples = format!("{:?} samples", decoded.color());
        let image = colour::to_rgb(decoded).ok_or_else(|| self.unsupported(samples))?;
        Ok((image, orientation))
    }

    fn decode_jpeg(&self) -> Result<(RgbImage, Orientation), ImageError> {
        let header = self.jpeg_header()?;
        self.check_memory(header.size, header.sample_bytes)?;
        let structure = Structure::of(self.bytes).ok_or_else(|| self.truncated())?;
        if structure.buffered {
            self.check_memory(header.size, header.sample_bytes + header.coefficient_bytes)?;
        }
        if structure.scans > MAX_JPEG_SCANS {
            let scans = structure.scans;
            return Err(self.unsupported(format!("{scans} scans (at most {MAX_JPEG_SCANS})")));
        }
        let image = jpeg::decode(self.bytes).map_err(|e| self.refused(e))?;
        Ok((image, header.orientation))
    }

    /// Size before it is turned upright, and how to turn it.
    fn stored_size(&self) -> Result<((u32, u32), Orientation), ImageError> {
        if self.format == ImageFormat::Jpeg {
            let header = self.jpeg_header()?;
            return Ok((header.size, header.orientation));
        }
        let mut decoder = self.decoder()?;
        let orientation = decoder.orientation().map_err(|e| self.refused(e))?;
        Ok((decoder.dimensions(), orientation))
    }

    fn jpeg_header(&self) -> Result<Header, ImageError> {
        let header = Header::read(self.bytes).map_err(|e| self.refused(e))?;
        self.check_pixels(header.size)?;
        Ok(header)
    }

    /// Reads the header and checks the announced size.
    fn decoder(&self) -> Result<impl ImageDecoder + 'a, ImageError> {
        let mut reader = ImageReader::with_format(Cursor::new(self.bytes), self.format);
        reader.limits(self.inner_limits());
        let decoder = reader.into_decoder().map_err(|e| self.refused(e))?;
        self.check_pixels(decoder.dimensions())?;
        Ok(decoder)
    }

    fn inner_limits(&self) -> Limits {
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(self.limits.max_decoded_bytes);
        limits
    }

    fn check_pixels(&self, (width, height): (u32, u32)) -> Result<(), ImageError> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 {
            return Err(ImageError::ZeroSize { width, height });
        }
        if pixels > self.limits.max_pixels {
            return Err(ImageError::TooManyPixels {
                name: self.name.into(),
                width,
                height,
                pixels,
                limit: self.limits.max_pixels,
            });
        }
        Ok(())
    }

    fn check_memory(&self, (width, height): (u32, u32), bytes: u64) -> Result<(), ImageError> {
        let limit = self.limits.max_decoded_bytes;
        match bytes <= limit {
            true => Ok(()),
            false => {
                let name = self.name.into();
                Err(ImageError::TooMuchMemory { name, width, height, bytes, limit })
            }
        }
    }

    fn truncated(&self) -> ImageError {
        ImageError::Truncated { name: self.name.into(), format: "JPEG", bytes: self.bytes.len() }
    }

    /// Translates an error of the `image` crate.
    fn refused(&self, error: Inner) -> ImageError {
        match error {
            Inner::Unsupported(e) => self.unsupported(e.to_string()),
            Inner::Limits(e) if matches!(e.kind(), LimitErrorKind::InsufficientMemory) => self
                .unsupported(format!(
                    "its header asks for more than {} bytes of memory",
                    self.limits.max_decoded_bytes
                )),
            source => {
                ImageError::Decode { name: self.name.into(), format: self.format_name(), source }
            }
        }
    }

    fn unsupported(&self, detail: String) -> ImageError {
        ImageError::Unsupported { name: self.name.into(), format: self.format_name(), detail }
    }

    fn format_name(&self) -> String {
        format!("{:?}", self.format).to_uppercase()
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    digits.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(bytes: &[u8]) -> String {
        decode_image(bytes, "a.bin", &DecodeLimits::default()).unwrap_err().to_string()
    }

    #[test]
    fn says_what_is_wrong_with_the_input() {
        assert_eq!(refuse(b""), "a.bin is empty (0 bytes): it is not an image.");
        let text = refuse(b"hello world");
        assert!(text.contains("starts with the bytes 68 65 6c 6c 6f 20 77 6f"), "{text}");
        assert!(text.contains("png, jpeg, webp, gif, bmp or tiff"), "{text}");
        let header_only = refuse(b"\x89PNG\r\n\x1a\n");
        assert!(header_only.contains("a.bin is a damaged or truncated PNG file"), "{header_only}");
    }

    #[test]
    fn formats_that_are_not_compiled_in_are_named() {
        let text = refuse(b"qoif\0\0\0\x01\0\0\0\x01\x03\0");
        assert!(text.contains("a.bin is a QOI image"), "{text}");
    }

    #[test]
    fn long_files_are_refused_unread() {
        let limits = DecodeLimits { max_encoded_bytes: 10, ..DecodeLimits::default() };
        let error = decode_image(&[0; 11], "a.bin", &limits).unwrap_err();
        assert!(matches!(error, ImageError::TooManyBytes { bytes: 11, limit: 10, .. }));
    }
}
