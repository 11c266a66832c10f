//! JPEG files, read by libjpeg-turbo's code (through `mozjpeg`) because PIL, and so transformers, reads them with it: every
//! sample of a sound file comes out the same, which decoders with another cosine transform or colour upsampling miss.
//!
//! libjpeg carries on over damage behind the header, guessing the picture, and so does PIL (whose vector instructions may
//! then overflow into other guesses than the plain C that is compiled here).
//! A file that simply ends too early would so come out half grey; [`Structure::of`] walks it marker by marker first.

use super::{RgbImage, colour};
use image::error::{
    DecodingError, ImageError as Inner, ImageFormatHint, UnsupportedError, UnsupportedErrorKind,
};
use image::metadata::Orientation;
use image::{ImageFormat, ImageResult};
use mozjpeg::{ColorSpace, CompInfoExt, Decompress, Marker};
use std::panic::{catch_unwind, resume_unwind};

const RST0: u8 = 0xD0;
const RST7: u8 = 0xD7;
const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const TEM: u8 = 0x01;
const SOF0: u8 = 0xC0;
const SOF2: u8 = 0xC2;

/// What stands before the text of every fatal error that `mozjpeg` unwinds with.
const FATAL: &str = "libjpeg fatal error: ";

/// Starts of libjpeg's messages about files that are sound but of a kind it does not read.
const UNREADABLE: [&str; 4] = ["Unsupported", "Sorry", "Requested feature", "CCIR601"];

/// What the segments before the picture say.
pub(super) struct Header {
    /// Columns and rows as they are stored.
    pub size: (u32, u32),
    pub orientation: Orientation,
    /// Bytes of the decoded samples.
    pub sample_bytes: u64,
    /// Bytes of all frequency coefficients, which are kept where [`Structure::buffered`].
    pub coefficient_bytes: u64,
}

impl Header {
    /// Reads the header; nothing of the size of the picture is allocated.
    pub fn read(bytes: &[u8]) -> ImageResult<Self> {
        guarded(|| {
            let jpeg = open(bytes)?;
            let samples = output(&jpeg).map_or(3, |(_, samples)| samples);
            let planes = jpeg.components().iter().map(|c| c.row_stride() * c.col_stride());
            Ok(Self {
                size: (jpeg.width() as u32, jpeg.height() as u32),
                orientation: orientation(&jpeg),
                sample_bytes: (jpeg.width() * jpeg.height()) as u64 * samples,
                coefficient_bytes: planes.sum::<usize>() as u64 * size_of::<i16>() as u64,
            })
        })
    }
}

/// The picture as it is stored, in RGB. The caller has checked the size and the [`Structure`].
pub(super) fn decode(bytes: &[u8]) -> ImageResult<RgbImage> {
    guarded(|| {
        let jpeg = open(bytes)?;
        let (width, height) = (jpeg.width() as u32, jpeg.height() as u32);
        let (space, samples) = output(&jpeg)
            .ok_or_else(|| unsupported(format!("{} colour components", jpeg.components().len())))?;
        let mut rows = jpeg.to_colorspace(space).map_err(damaged)?;
        let data: Vec<u8> = rows.read_scanlines().map_err(damaged)?;
        rows.finish().map_err(damaged)?;
        let data = match samples {
            1 => colour::grey_to_rgb(&data),
            4 => colour::inverted_cmyk_to_rgb(&data),
            _ => data,
        };
        Ok(RgbImage { width, height, data })
    })
}

fn open(bytes: &[u8]) -> ImageResult<Decompress<&[u8]>> {
    Decompress::builder().with_markers(&[Marker::APP(1)]).from_mem(bytes).map_err(damaged)
}

/// The colour space to ask libjpeg for, and its samples per pixel: those that PIL asks for.
fn output(jpeg: &Decompress<&[u8]>) -> Option<(ColorSpace, u64)> {
    match jpeg.components().len() {
        1 => Some((ColorSpace::JCS_GRAYSCALE, 1)),
        3 => Some((ColorSpace::JCS_RGB, 3)),
        4 => Some((ColorSpace::JCS_CMYK, 4)),
        _ => None,
    }
}

/// From the first EXIF segment; files without one, or without a valid orientation in it, are upright.
fn orientation(jpeg: &Decompress<&[u8]>) -> Orientation {
    jpeg.markers()
        .find_map(|marker| marker.data.strip_prefix(b"Exif\0\0"))
        .and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms)
}

/// Runs libjpeg, which leaves by unwinding (past the panic hook) where it cannot go on. Only that becomes an error; a real
/// panic goes on. A binary built with `panic = "abort"` would end on damaged files.
fn guarded<T>(run: impl FnOnce() -> ImageResult<T> + std::panic::UnwindSafe) -> ImageResult<T> {
    catch_unwind(run).unwrap_or_else(|payload| {
        match payload.downcast_ref::<String>().and_then(|text| text.strip_prefix(FATAL)) {
            Some(text) => Err(refused(text)),
            None => resume_unwind(payload),
        }
    })
}

fn refused(text: &str) -> Inner {
    let text = text.trim_end_matches('.');
    match UNREADABLE.iter().any(|start| text.starts_with(start)) {
        true => unsupported(text.into()),
        false => damaged(text),
    }
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Inner {
    Inner::Decoding(DecodingError::new(ImageFormatHint::Exact(ImageFormat::Jpeg), error))
}

fn unsupported(feature: String) -> Inner {
    Inner::Unsupported(UnsupportedError::from_format_and_kind(
        ImageFormat::Jpeg.into(),
        UnsupportedErrorKind::GenericFeature(feature),
    ))
}

/// What the markers of a whole file say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Structure {
    /// Number of scans; a progressive file has several.
    pub scans: usize,
    /// Whether the file cannot be decoded row by row, so that the coefficients of the whole picture are kept.
    pub buffered: bool,
    /// Colour components that the frame header announces.
    components: u8,
}

impl Structure {
    /// Walks to the end-of-image marker of the first picture; `None` if it is missing, where PIL, too, refuses the file.
    ///
    /// Bytes after it (padding, a second picture of a multi-picture file, a video of a "motion photo") are not looked at;
    /// thumbnails lie inside segments, which are skipped by their length.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut structure = Self::default();
        let mut at = 0;
        while let Some((marker, next)) = next_marker(bytes, at) {
            match marker {
                EOI => return Some(structure),
                SOI | TEM | RST0..=RST7 => at = next,
                SOS => {
                    structure.see_scan(bytes.get(next + 2).copied().unwrap_or(0));
                    at = after_scan(bytes, after_segment(bytes, next));
                }
                _ => {
                    structure.see_segment(marker, bytes.get(next + 7).copied().unwrap_or(0));
                    at = after_segment(bytes, next);
                }
            }
        }
        None
    }

    /// `components`: what stands where a frame header announces its number of components.
    fn see_segment(&mut self, marker: u8, components: u8) {
        if (SOF0..=SOF2).contains(&marker) {
            self.components = components;
            self.buffered |= marker == SOF2;
        }
    }

    fn see_scan(&mut self, components: u8) {
        self.scans += 1;
        self.buffered |= components != self.components;
    }
}

/// The next `FF xx` at or after `at` that is neither stuffing nor fill, and the offset behind it.
fn next_marker(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let pairs = bytes.get(at..)?.windows(2);
    pairs
        .zip(at..)
        .find(|(pair, _)| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xFF))
        .map(|(pair, offset)| (pair[1], offset + 2))
}

/// The offset behind a segment whose two length bytes (which count themselves) stand at `at`.
fn after_segment(bytes: &[u8], at: usize) -> usize {
    let length = bytes.get(at..at + 2).map_or(2, |b| u16::from_be_bytes([b[0], b[1]]));
    at + usize::from(length.max(2))
}

/// The offset of the first marker behind entropy-coded data that is no restart marker.
fn after_scan(bytes: &[u8], mut at: usize) -> usize {
    while let Some((marker, next)) = next_marker(bytes, at) {
        if !(RST0..=RST7).contains(&marker) {
            return next - 2;
        }
        at = next;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SOI, an APP1 segment that contains a whole thumbnail, SOS with stuffing and a restart, a second SOS, EOI.
    const FILE: &[u8] = &[
        0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 0xFF, 0xD8, 0xFF, 0xD9, 0xFF, 0xDA, 0, 3, 9, 1, 2, 0xFF, 0,
        3, 0xFF, 0xD0, 4, 0xFF, 0xC4, 0, 4, 0xFF, 0xD9, 0xFF, 0xDA, 0, 2, 7, 7, 0xFF, 0xFF, 0xD9,
    ];

    /// A frame header of `kind` with three components, then one scan of `components`, EOI.
    fn one_scan(kind: u8, components: u8) -> Vec<u8> {
        let frame = [0xFF, 0xD8, 0xFF, kind, 0, 8, 8, 0, 1, 0, 1, 3];
        let scan = [0xFF, SOS, 0, 3, components, 7, 0xFF, EOI];
        [&frame[..], &scan[..]].concat()
    }

    #[test]
    fn every_proper_prefix_is_truncated() {
        assert_eq!(Structure::of(FILE).unwrap().scans, 2);
        for cut in 0..FILE.len() {
            assert_eq!(Structure::of(&FILE[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn trailing_bytes_do_not_matter() {
        let padded: Vec<u8> = FILE.iter().copied().chain([0, 0xFF, 0xDA, 0xFF, 3]).collect();
        assert_eq!(Structure::of(&padded), Structure::of(FILE));
    }

    #[test]
    fn progressive_and_non_interleaved_files_are_buffered() {
        for (kind, components, buffered) in
            [(SOF0, 3, false), (SOF0, 1, true), (0xC1, 3, false), (SOF2, 3, true)]
        {
            let structure = Structure::of(&one_scan(kind, components)).unwrap();
            assert_eq!(
                (structure.scans, structure.buffered),
                (1, buffered),
                "{kind:x} {components}"
            );
        }
    }

    #[test]
    fn only_what_libjpeg_says_becomes_an_error() {
        let fail = |text: &str| -> ImageResult<()> {
            let text = text.to_string();
            guarded(move || resume_unwind(Box::new(text)))
        };
        assert!(matches!(
            fail("libjpeg fatal error: Bogus marker length"),
            Err(Inner::Decoding(_))
        ));
        let arithmetic = "libjpeg fatal error: Unsupported JPEG process: SOF type 0xc9";
        assert!(matches!(fail(arithmetic), Err(Inner::Unsupported(_))));
        assert!(catch_unwind(|| fail("another panic")).is_err());
    }
}
