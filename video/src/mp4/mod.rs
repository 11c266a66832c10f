//! mp4 and mov: the index of the video track, and its H.264 pictures through openh264.

pub(crate) mod avc;
mod boxes;
mod fragment;
pub(crate) mod nal;
pub(crate) mod order;
pub(crate) mod table;

use crate::colour::Orientation;
use crate::h264::Film;
use crate::source::{Media, OpenOptions, Refusal, Stream};
use crate::timeline::{Tick, Timeline};
use crate::{FrameSource, VideoError, VideoInfo};
use boxes::{Children, Tops, decode, find, read_index, require};
use mp4_atom::{Mdhd, Mvhd, Tkhd};
use table::Table;

/// A film that openh264 decodes.
pub(crate) struct Opened {
    pub source: Box<dyn FrameSource>,
    /// Whether another decoder would do better: pictures between others (B pictures) are there, and the file is
    /// whole. openh264 smooths the edges of their blocks slightly differently from the standard: a few pixels
    /// differ, by up to about 10 of 255. Streams without them are exact.
    pub second_choice: bool,
}

const INEXACT: &str = "The built-in decoder shows B pictures with small differences (a few pixels by up to about \
                       10 of 255); install ffmpeg, or build with --features libav, for exact ones.";

/// Opens an mp4 or mov whose video track is H.264 that openh264 decodes.
pub(crate) fn open(media: &Media, options: &OpenOptions) -> Result<Opened, Refusal> {
    let mut stream = media.stream()?;
    let moov = read_moov(media, &mut *stream)?;
    let trak = video_track(media, &moov)?;
    let head: Tkhd = require(media, trak)?;
    let clock: Mdhd = require(media, find(trak, &[b"mdia"]).unwrap_or_default())?;
    let timescale = u64::from(clock.timescale);
    if timescale == 0 {
        return Err(media.malformed("the clock of its video track has 0 ticks per second").into());
    }
    let stbl = find(trak, &[b"mdia", b"minf", b"stbl"]).unwrap_or_default();
    let config = match find(stbl, &[b"stsd"]).map(avc::config) {
        Some(Ok(config)) => config,
        Some(Err((codec, reason))) => return Err(Refusal::Codec { codec, reason }),
        None => return Err(media.malformed("the video track has no stsd box").into()),
    };
    options.check_size(&media.name(), config.width, config.height)?;
    let mut table = table::read(media, stbl)?;
    let movie: Option<Mvhd> = decode(find(&moov, &[b"mvhd"]));
    let movie_scale = movie.as_ref().map_or(1000, |m| u64::from(m.timescale));
    let unfit = |reason: &str| Refusal::Codec { codec: "h264".into(), reason: reason.into() };
    if table.samples.is_empty() && table.claimed == 0 {
        fragment::append(media, &mut *stream, &moov, head.track_id, &mut table)?;
    } else if !table::apply_edits(&mut table, trak, (movie_scale, timescale)) {
        return Err(unfit("its edit list plays several parts"));
    }
    let (Some(turn), Some(whole)) = (turn(trak, b"tkhd", 4), turn(&moov, b"mvhd", 0)) else {
        return Err(unfit("its matrix is neither a quarter turn nor a mirror"));
    };
    let turn = turn.then(whole);
    let mut info = describe(media, &table, timescale)?;
    (info.width, info.height) = (config.width, config.height);
    if turn.swaps() {
        (info.width, info.height) = (config.height, config.width);
    }
    info.rotation = turn.degrees();
    info.colour = config.colour;
    let reordered = table.samples.windows(2).any(|pair| pair[1].pts < pair[0].pts);
    let second_choice = reordered && info.warnings.is_empty();
    if reordered {
        info.warnings.push(INEXACT.into());
    }
    let film = Film::new(media.clone(), (table, config, turn), info, options);
    match film.probe() {
        Ok(()) => Ok(Opened { source: Box::new(film), second_choice }),
        Err(reason) => Err(unfit(&format!("openh264 cannot decode its first picture ({reason})"))),
    }
}

fn read_moov(media: &Media, stream: &mut dyn Stream) -> Result<Vec<u8>, VideoError> {
    let tops: Vec<_> = Tops { stream, at: 0, len: media.len() }.take(1 << 20).collect();
    let Some(&moov) = tops.iter().find(|top| &top.kind == b"moov") else {
        let cut = tops.last().is_some_and(|top| top.end > media.len());
        let why =
            if cut { "; the file ends too early, and its index stood at the end" } else { "" };
        return Err(media.malformed(format!("it has no index (no moov box){why}")));
    };
    read_index(media, stream, moov)
}

/// The first enabled video track, else the first video track.
fn video_track<'a>(media: &Media, moov: &'a [u8]) -> Result<&'a [u8], VideoError> {
    let kind_of = |trak| Some(find(trak, &[b"mdia", b"hdlr"])?.get(8..12)?.to_owned());
    let tracks: Vec<_> = Children(moov).filter(|c| &c.0 == b"trak").map(|c| c.1).collect();
    let video = tracks.iter().filter(|t| kind_of(t).as_deref() == Some(b"vide"));
    let enabled = |t: &&&[u8]| decode::<Tkhd>(find(t, &[b"tkhd"])).is_some_and(|h| h.enabled);
    if let Some(trak) = video.clone().find(enabled).or(video.clone().next()) {
        return Ok(trak);
    }
    let sound = tracks.iter().any(|t| kind_of(t).as_deref() == Some(b"soun"));
    let found = if sound { "it has sound only" } else { "it has no video track" };
    Err(VideoError::NoFrames { name: media.name(), found: found.into() })
}

/// The 2x2 part of the matrix in a `tkhd` or `mvhd` box; `None` when it is not one of the eight turns.
///
/// The numbers are read here because their place is all that is needed: 40 (36 + `extra`) or 52 bytes in.
fn turn(parent: &[u8], kind: &[u8; 4], extra: usize) -> Option<Orientation> {
    let Some(body) = find(parent, &[kind]) else { return Some(Orientation::UPRIGHT) };
    let long = body.first() == Some(&1);
    let start = 36 + extra + if long { 12 } else { 0 };
    let at = |i: usize| {
        let bytes = body.get(start + 4 * i..start + 4 * i + 4)?;
        Some(i32::from_be_bytes(bytes.try_into().ok()?))
    };
    let numbers = (at(0)?, at(1)?, at(3)?, at(4)?);
    if numbers == (0, 0, 0, 0) {
        return Some(Orientation::UPRIGHT);
    }
    Orientation::from_matrix(numbers.0, numbers.1, numbers.2, numbers.3)
}

fn describe(media: &Media, table: &Table, timescale: u64) -> Result<VideoInfo, VideoError> {
    let order = table.order();
    let name = media.name();
    if order.is_empty() {
        let found = match table.claimed {
            0 => "its video track is empty".to_owned(),
            n => format!("the index lists {n} frames, but the file holds or shows none of them"),
        };
        return Err(VideoError::NoFrames { name, found });
    }
    let pts: Vec<i64> = order.iter().map(|&i| table.samples[i].pts).collect();
    let tick = Tick { num: 1, den: timescale };
    let line = Timeline::from_ticks(&pts, table.last, table.mean, tick);
    let mut warnings = Vec::new();
    if (table.samples.len() as u64) < table.claimed {
        warnings.push(format!(
            "{name} ends too early: {} of {} frames are there.",
            table.samples.len(),
            table.claimed
        ));
    }
    Ok(VideoInfo {
        width: 0,
        height: 0,
        rotation: 0,
        fps: line.fps,
        variable: line.variable,
        times: line.times,
        duration: line.duration,
        decoder: "openh264",
        codec: "h264".into(),
        colour: crate::Colour::from_code(None, false),
        warnings,
    })
}
