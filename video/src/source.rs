//! Where a video comes from, and which decoder takes it.

use crate::images::{ImageDecoder, decode_image};
use crate::{FrameSource, VideoError, animation, images, mp4, process};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A video to open.
#[derive(Debug, Clone)]
pub enum VideoInput {
    /// A file, or a folder of images (needs [`OpenOptions::image_fps`]).
    Path(PathBuf),
    /// A file's contents and a name for messages.
    Bytes {
        /// How messages call it.
        name: String,
        /// The whole file.
        bytes: Arc<[u8]>,
    },
    /// Images in the order of the list; a single folder stands for its images in natural order.
    Images {
        /// The image files, or one folder.
        paths: Vec<PathBuf>,
        /// Images per second.
        fps: f64,
    },
}

/// Which decoders may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DecoderChoice {
    /// The first that can do it, in the order that the crate's documentation states.
    #[default]
    Auto,
    /// Only the built-in ones.
    BuiltIn,
    /// Only the linked FFmpeg libraries (cargo feature `libav`).
    Libav,
    /// Only the `ffmpeg` and `ffprobe` programs.
    Ffmpeg,
}

/// How to open a video.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Which decoders may be used.
    pub decoder: DecoderChoice,
    /// Largest number of pixels per frame that is accepted.
    pub max_pixels: u64,
    /// Images per second of a folder given as [`VideoInput::Path`].
    pub image_fps: Option<f64>,
    /// Decodes one image of a list, so that a program can use the decoder of its other pictures.
    pub image_decoder: ImageDecoder,
    /// Deliver what decodes and list the rest in [`crate::Delivered::missing`], instead of an error.
    pub skip_damaged: bool,
    /// Threads that decode; 0 means all cores.
    pub threads: usize,
    /// The folder that holds the `ffmpeg` and `ffprobe` programs; `None` means `PATH`.
    pub ffmpeg_dir: Option<PathBuf>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            decoder: DecoderChoice::Auto,
            max_pixels: 1 << 26,
            image_fps: None,
            image_decoder: decode_image,
            skip_damaged: false,
            threads: 0,
            ffmpeg_dir: None,
        }
    }
}

impl OpenOptions {
    /// Refuses pictures of no or too many pixels before any memory is taken for them.
    pub(crate) fn check_size(&self, name: &str, width: u32, height: u32) -> Result<(), VideoError> {
        let name = name.to_owned();
        if width == 0 || height == 0 {
            let found = format!("its pictures are {width}x{height} pixels");
            return Err(VideoError::NoFrames { name, found });
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(VideoError::TooLarge { name, width, height, limit: self.max_pixels });
        }
        Ok(())
    }
}

/// A readable and seekable stream of bytes.
pub(crate) trait Stream: BufRead + Seek + Send {}
impl<T: BufRead + Seek + Send> Stream for T {}

/// A file or bytes, which can be opened any number of times.
#[derive(Debug, Clone)]
pub(crate) enum Media {
    File { path: PathBuf, len: u64 },
    Bytes { name: String, bytes: Arc<[u8]> },
}

impl Media {
    fn file(path: &Path) -> Result<Self, VideoError> {
        let name = path.display().to_string();
        let len =
            std::fs::metadata(path).map_err(|source| VideoError::Read { name, source })?.len();
        Ok(Self::File { path: path.to_owned(), len })
    }

    pub fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Bytes { name, .. } => name.clone(),
        }
    }

    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Bytes { bytes, .. } => bytes.len() as u64,
        }
    }

    pub fn stream(&self) -> Result<Box<dyn Stream>, VideoError> {
        match self {
            Self::File { path, .. } => {
                let file = File::open(path).map_err(|source| self.failed(source))?;
                Ok(Box::new(BufReader::new(file)))
            }
            Self::Bytes { bytes, .. } => Ok(Box::new(Cursor::new(bytes.clone()))),
        }
    }

    pub fn failed(&self, source: std::io::Error) -> VideoError {
        VideoError::Read { name: self.name(), source }
    }

    pub fn malformed(&self, found: impl Into<String>) -> VideoError {
        VideoError::Malformed { name: self.name(), found: found.into() }
    }

    fn head(&self) -> Result<Vec<u8>, VideoError> {
        let mut head = Vec::new();
        let mut stream = self.stream()?.take(4096);
        stream.read_to_end(&mut head).map_err(|source| self.failed(source))?;
        Ok(head)
    }
}

/// Fills `buffer` with `len` bytes from `offset` on; memory grows only with bytes that are there.
pub(crate) fn read_at(
    stream: &mut dyn Stream,
    offset: u64,
    len: u64,
    buffer: &mut Vec<u8>,
) -> std::io::Result<()> {
    buffer.clear();
    stream.seek(SeekFrom::Start(offset))?;
    let found = stream.take(len).read_to_end(buffer)? as u64;
    if found == len { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Picture(image::ImageFormat),
    IsoMedia,
    /// A container for FFmpeg, by name.
    Foreign(&'static str),
    Text,
    Empty,
    Unknown,
}

fn sniff(head: &[u8]) -> Kind {
    let boxes: [&[u8]; 8] =
        [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"pnot"];
    if head.is_empty() {
        return Kind::Empty;
    }
    if head.len() >= 12 && boxes.contains(&&head[4..8]) {
        return Kind::IsoMedia;
    }
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    match image::guess_format(head) {
        Ok(format @ (Gif | Png | WebP | Bmp | Jpeg)) => Kind::Picture(format),
        _ => sniff_foreign(head),
    }
}

fn sniff_foreign(head: &[u8]) -> Kind {
    let starts: [(&[u8], &str); 6] = [
        (&[0x1a, 0x45, 0xdf, 0xa3], "a Matroska or WebM film"),
        (b"FLV", "a Flash video"),
        (b"OggS", "an Ogg film"),
        (&[0x30, 0x26, 0xb2, 0x75], "a Windows Media film"),
        (&[0, 0, 1, 0xba], "an MPEG program stream"),
        (&[0, 0, 1, 0xb3], "an MPEG video stream"),
    ];
    if let Some((_, name)) = starts.iter().find(|(start, _)| head.starts_with(start)) {
        return Kind::Foreign(name);
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI ") {
        return Kind::Foreign("an AVI film");
    }
    if head.len() > 188 && head[0] == 0x47 && head[188] == 0x47 {
        return Kind::Foreign("an MPEG transport stream");
    }
    let text = head.iter().all(|&b| b >= 0x20 || (9..=13).contains(&b));
    if text && String::from_utf8_lossy(head).chars().filter(|&c| c == '\u{fffd}').count() <= 1 {
        return Kind::Text;
    }
    Kind::Unknown
}

/// Opens a video; the contents decide which decoder is tried, in the order that the crate's documentation states.
///
/// # Errors
/// Every [`VideoError`] except `Wanted` and `Damaged`.
pub fn open(source: VideoInput, options: &OpenOptions) -> Result<Box<dyn FrameSource>, VideoError> {
    let media = match source {
        VideoInput::Images { paths, fps } => return images::open(paths, fps, options),
        VideoInput::Path(path) if path.is_dir() => {
            let Some(fps) = options.image_fps else {
                let reason = "a folder of images needs a frame rate".into();
                return Err(VideoError::Images { name: path.display().to_string(), reason });
            };
            return images::open(vec![path], fps, options);
        }
        VideoInput::Path(path) => Media::file(&path)?,
        VideoInput::Bytes { name, bytes } => Media::Bytes { name, bytes },
    };
    open_media(media, options)
}

fn open_media(media: Media, options: &OpenOptions) -> Result<Box<dyn FrameSource>, VideoError> {
    let kind = sniff(&media.head()?);
    let not_a_video =
        |found: &str| VideoError::NotAVideo { name: media.name(), found: found.into() };
    let built_in = matches!(options.decoder, DecoderChoice::Auto | DecoderChoice::BuiltIn);
    match kind {
        Kind::Empty => Err(not_a_video("the file is empty")),
        Kind::Text => Err(not_a_video("it is a text")),
        Kind::Picture(format) if built_in => animation::open(media, format, options),
        Kind::IsoMedia if built_in => match mp4::open(&media, options) {
            Ok(film) if film.second_choice => {
                Ok(foreign(&media, options).source.unwrap_or(film.source))
            }
            Ok(film) => Ok(film.source),
            Err(refusal) => open_foreign(&media, refusal, options),
        },
        Kind::Foreign(name) => open_foreign(&media, Refusal::codec(name), options),
        Kind::Picture(_) | Kind::IsoMedia => {
            open_foreign(&media, Refusal::codec("a film"), options)
        }
        Kind::Unknown => {
            let error = not_a_video("its first bytes belong to no known kind of video");
            open_foreign(&media, Refusal::Error(error), options)
        }
    }
}

/// Why the built-in decoders do not take a file.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is in order, but not for them.
    Codec { codec: String, reason: String },
    /// It is damaged as far as they see.
    Error(VideoError),
}

impl Refusal {
    fn codec(name: &str) -> Self {
        let reason = "the built-in decoders know H.264 in mp4 and mov, and animated pictures only";
        Self::Codec { codec: name.into(), reason: reason.into() }
    }
}

impl From<VideoError> for Refusal {
    fn from(error: VideoError) -> Self {
        Self::Error(error)
    }
}

/// A decoder outside of this crate: its name and how it opens a file (`None` when it is not present).
type Opener = fn(&Media, &OpenOptions) -> Option<Result<Box<dyn FrameSource>, VideoError>>;

fn foreign_decoders(choice: DecoderChoice) -> Vec<(&'static str, Opener)> {
    #[cfg(feature = "libav")]
    let libav: Opener = |media, options| Some(crate::libav::open(media, options));
    #[cfg(not(feature = "libav"))]
    let libav: Opener = |_, _| None;
    let all: [(DecoderChoice, &'static str, Opener); 2] =
        [(DecoderChoice::Libav, "libav", libav), (DecoderChoice::Ffmpeg, "ffmpeg", process::open)];
    let fits = |wanted| choice == DecoderChoice::Auto || choice == wanted;
    all.into_iter().filter(|d| fits(d.0)).map(|d| (d.1, d.2)).collect()
}

/// What came of trying the decoders outside of this crate.
#[derive(Default)]
struct Foreign {
    source: Option<Box<dyn FrameSource>>,
    failure: Option<VideoError>,
    absent: Vec<String>,
}

fn foreign(media: &Media, options: &OpenOptions) -> Foreign {
    let mut found = Foreign::default();
    for (name, opener) in foreign_decoders(options.decoder) {
        match opener(media, options) {
            Some(Ok(source)) => return Foreign { source: Some(source), ..Foreign::default() },
            Some(Err(error)) => found.failure = found.failure.or(Some(error)),
            None if name == "libav" => found.absent.push("libav is not compiled in".into()),
            None => found.absent.push("no ffmpeg and ffprobe programs are on PATH".into()),
        }
    }
    found
}

fn open_foreign(
    media: &Media,
    refusal: Refusal,
    options: &OpenOptions,
) -> Result<Box<dyn FrameSource>, VideoError> {
    let found = foreign(media, options);
    if let Some(source) = found.source {
        return Ok(source);
    }
    match (refusal, found.failure) {
        (Refusal::Error(error), _) => Err(error),
        (_, Some(error)) => Err(error),
        (Refusal::Codec { codec, reason }, None) => {
            let tried = [vec![reason], found.absent].concat().join("; ");
            let remedy = "Install ffmpeg, or build with --features libav.";
            Err(VideoError::NoDecoder { name: media.name(), codec, tried, remedy })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_decide() {
        assert_eq!(sniff(b"GIF89a______"), Kind::Picture(image::ImageFormat::Gif));
        assert_eq!(sniff(b"\0\0\0\x20ftypisom____"), Kind::IsoMedia);
        assert_eq!(sniff(b"\x1a\x45\xdf\xa3____"), Kind::Foreign("a Matroska or WebM film"));
        assert_eq!(sniff("Gruß\n#EXTM3U".as_bytes()), Kind::Text);
        assert_eq!(sniff(&[1, 2, 3, 0]), Kind::Unknown);
        assert_eq!(sniff(&[]), Kind::Empty);
    }
}
