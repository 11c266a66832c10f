//! The linked FFmpeg libraries (cargo feature `libav`): the same decoders and the same conversion to RGB as in the
//! `ffmpeg` program, by a filter graph, without a process.

use crate::colour::Colour;
use crate::error::Loss;
use crate::source::{Media, OpenOptions};
use crate::timeline::{Tick, Timeline};
use crate::{Delivered, Frame, FrameSource, Progress, Sink, VideoError, VideoInfo, check_wanted};
use ffmpeg_next::packet::side_data::Type as PacketData;
use ffmpeg_next::util::frame::side_data::Type as SideData;
use ffmpeg_next::{
    Dictionary, Error, Packet, Rational, codec, decoder, filter, format, frame, media,
};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Most packets that are listed.
const MAX_PACKETS: usize = 1 << 24;

/// A video that the libraries decode.
struct Linked {
    name: String,
    path: PathBuf,
    /// Keeps the copy of bytes that were given in memory.
    _copy: Option<NamedTempFile>,
    info: VideoInfo,
    /// Presentation time of every frame in ticks; empty when the container states none.
    pts: Vec<i64>,
    skip_damaged: bool,
}

fn failed(name: &str, reason: impl ToString) -> VideoError {
    VideoError::Decoder { decoder: "libav", name: name.into(), reason: reason.to_string() }
}

/// Opens a file with the libraries.
pub(crate) fn open(
    media: &Media,
    options: &OpenOptions,
) -> Result<Box<dyn FrameSource>, VideoError> {
    ffmpeg_next::init().map_err(|error| failed(&media.name(), error))?;
    ffmpeg_next::util::log::set_level(ffmpeg_next::util::log::Level::Fatal);
    let (path, copy) = match media {
        Media::File { path, .. } => (path.clone(), None),
        Media::Bytes { bytes, .. } => {
            let mut copy = NamedTempFile::new().map_err(|source| media.failed(source))?;
            copy.write_all(bytes).map_err(|source| media.failed(source))?;
            (copy.path().to_owned(), Some(copy))
        }
    };
    let name = media.name();
    let (info, pts) = survey(&name, &path, options)?;
    let skip_damaged = options.skip_damaged;
    Ok(Box::new(Linked { name, path, _copy: copy, info, pts, skip_damaged }))
}

/// An opened file with the decoder of its video stream.
struct Reading {
    input: format::context::Input,
    stream: usize,
    decoder: decoder::Video,
    base: Rational,
    rate: Rational,
    /// The times that an edit list shows; libav marks other packets, but the safe interface hides the mark.
    shown: Range<i64>,
    /// Degrees clockwise, where the stream has a display matrix.
    rotation: Option<u16>,
}

impl Reading {
    fn new(name: &str, path: &Path) -> Result<Self, VideoError> {
        let not_a_video = |found: String| VideoError::NotAVideo { name: name.into(), found };
        let Some(text) = path.to_str().filter(|text| !text.contains('\0')) else {
            return Err(failed(name, "its path is not valid Unicode"));
        };
        let mut limits = Dictionary::new();
        limits.set("protocol_whitelist", "file");
        let input = format::input_with_dictionary(&format!("file:{text}"), limits)
            .map_err(|error| not_a_video(format!("libav says: {error}")))?;
        let Some(stream) = input.streams().best(media::Type::Video) else {
            let sound = input.streams().best(media::Type::Audio).is_some();
            let found = if sound { "it has sound only" } else { "it has no video track" };
            return Err(VideoError::NoFrames { name: name.into(), found: found.into() });
        };
        let mut context = codec::context::Context::from_parameters(stream.parameters())
            .map_err(|error| failed(name, error))?;
        context.set_threading(codec::threading::Config::kind(codec::threading::Type::Frame));
        let (index, base) = (stream.index(), stream.time_base());
        let rate = match stream.avg_frame_rate() {
            rate if rate.numerator() > 0 => rate,
            _ => stream.rate(),
        };
        let decoder = context.decoder().video().map_err(|error| VideoError::NoDecoder {
            name: name.into(),
            codec: format!("{:?}", stream.parameters().id()),
            tried: format!("libav says: {error}"),
            remedy: "Install FFmpeg's libraries with this codec.",
        })?;
        let matrix = stream.side_data().find(|data| data.kind() == PacketData::DisplayMatrix);
        let rotation = matrix.map(|data| degrees(data.data()));
        let (start, length) = (stream.start_time(), stream.duration());
        let edited = input.format().name().contains("mov") && start >= 0 && length > 0;
        let shown = if edited { start..start.saturating_add(length) } else { i64::MIN..i64::MAX };
        Ok(Self { input, stream: index, decoder, base, rate, shown, rotation })
    }

    /// The next packet of the video stream.
    fn packet(&mut self) -> Option<Packet> {
        let stream = self.stream;
        self.input.packets().find(|(s, _)| s.index() == stream).map(|p| p.1)
    }

    /// The next decoded picture; damaged packets are passed over as in the `ffmpeg` program.
    fn picture(&mut self, ended: &mut bool) -> Option<frame::Video> {
        let mut picture = frame::Video::empty();
        loop {
            match self.decoder.receive_frame(&mut picture) {
                Ok(()) => return Some(picture),
                Err(Error::Other { .. }) if !*ended => match self.packet() {
                    Some(packet) => {
                        let _ = self.decoder.send_packet(&packet);
                    }
                    None => {
                        *ended = true;
                        let _ = self.decoder.send_eof();
                    }
                },
                Err(Error::Eof) => return None,
                Err(_) if *ended => return None,
                Err(_) => {}
            }
        }
    }
}

/// What is known without decoding more than the first picture.
fn survey(
    name: &str,
    path: &Path,
    options: &OpenOptions,
) -> Result<(VideoInfo, Vec<i64>), VideoError> {
    let mut reading = Reading::new(name, path)?;
    options.check_size(name, reading.decoder.width(), reading.decoder.height())?;
    let codec = reading.decoder.id().name().to_owned();
    let (mut pts, mut packets) = (Vec::new(), 0);
    while let Some(packet) = reading.packet().filter(|_| packets < MAX_PACKETS) {
        if packet.pts().is_none_or(|pts| reading.shown.contains(&pts)) {
            packets += 1;
            pts.extend(packet.pts());
        }
    }
    pts.sort_unstable();
    if pts.len() != packets || pts.windows(2).any(|pair| pair[0] == pair[1]) {
        pts.clear();
    }
    let mut first = Reading::new(name, path)?;
    let Some(picture) = first.picture(&mut false) else {
        let found = "no picture of its video track can be decoded".into();
        return Err(VideoError::NoFrames { name: name.into(), found });
    };
    options.check_size(name, picture.width(), picture.height())?;
    let rotation = reading.rotation.or_else(|| rotation_of(&picture)).unwrap_or(0);
    let shown = Graph::new(&picture, first.base, rotation)
        .and_then(|mut graph| graph.convert(&picture))
        .map_err(|error| failed(name, error))?;
    let line = timeline(&reading, &pts, packets);
    let info = VideoInfo {
        width: shown.width,
        height: shown.height,
        rotation,
        fps: line.fps,
        variable: line.variable,
        times: line.times,
        duration: line.duration,
        decoder: "libav",
        codec,
        colour: colour(&picture),
        warnings: Vec::new(),
    };
    Ok((info, pts))
}

fn colour(picture: &frame::Video) -> Colour {
    let range = (picture.color_range() == ffmpeg_next::color::Range::JPEG).then_some("pc");
    let format = picture.format().descriptor().map_or("", |d| d.name());
    Colour::from_names(picture.color_space().name(), range, format)
}

fn timeline(reading: &Reading, pts: &[i64], packets: usize) -> Timeline {
    let parts = |r: Rational| (r.numerator().max(1) as u64, r.denominator().max(1) as u64);
    let (num, den) = parts(reading.rate);
    if pts.is_empty() {
        return Timeline::regular(packets, num as f64 / den as f64);
    }
    let (base_num, base_den) = parts(reading.base);
    let tick = Tick { num: base_num, den: base_den };
    Timeline::from_rate(pts, (num, den), tick)
}

/// The turn that a picture itself states, where the stream does not.
fn rotation_of(picture: &frame::Video) -> Option<u16> {
    picture.side_data(SideData::DisplayMatrix).map(|data| degrees(data.data()))
}

/// Degrees clockwise of a display matrix (nine numbers in the machine's byte order).
fn degrees(matrix: &[u8]) -> u16 {
    let number = |i: usize| {
        let bytes = matrix.get(4 * i..4 * i + 4)?;
        Some(i32::from_ne_bytes(bytes.try_into().ok()?))
    };
    match (number(0), number(1)) {
        (Some(0), Some(b)) if b > 0 => 90,
        (Some(0), Some(_)) => 270,
        (Some(a), _) if a < 0 => 180,
        _ => 0,
    }
}

/// Turns pictures upright and into RGB with the filters that the `ffmpeg` program inserts.
struct Graph {
    graph: filter::Graph,
    kind: (u32, u32, format::Pixel),
}

impl Graph {
    fn new(picture: &frame::Video, base: Rational, rotation: u16) -> Result<Self, Error> {
        let (width, height) = (picture.width(), picture.height());
        let pixel = picture.format().descriptor().map_or("", |d| d.name());
        let mut graph = filter::Graph::new();
        let (source, sink) = (filter::find("buffer"), filter::find("buffersink"));
        let (Some(source), Some(sink)) = (source, sink) else { return Err(Error::FilterNotFound) };
        let arguments = format!(
            "video_size={width}x{height}:pix_fmt={pixel}:time_base={}/{}:pixel_aspect=1/1",
            base.numerator(),
            base.denominator()
        );
        graph.add(&source, "in", &arguments)?;
        graph.add(&sink, "out", "")?;
        let turn = match rotation {
            90 => "transpose=clock,",
            180 => "hflip,vflip,",
            270 => "transpose=cclock,",
            _ => "",
        };
        let chain = format!("{turn}scale=flags=bicubic,format=rgb24");
        graph.output("in", 0)?.input("out", 0)?.parse(&chain)?;
        graph.validate()?;
        Ok(Self { graph, kind: (width, height, picture.format()) })
    }

    fn convert(&mut self, picture: &frame::Video) -> Result<Frame, Error> {
        let mut rgb = frame::Video::empty();
        self.graph.get("in").ok_or(Error::FilterNotFound)?.source().add(picture)?;
        self.graph.get("out").ok_or(Error::FilterNotFound)?.sink().frame(&mut rgb)?;
        let (width, height) = (rgb.width(), rgb.height());
        let row = width as usize * 3;
        let rows = rgb.data(0).chunks(rgb.stride(0)).take(height as usize);
        let data = rows.flat_map(|bytes| bytes.iter().take(row)).copied().collect();
        Ok(Frame { width, height, data })
    }
}

impl Linked {
    /// Which frame a picture is: by its time, else by its number.
    fn index_of(&self, picture: &frame::Video, count: usize) -> Option<usize> {
        if self.pts.is_empty() {
            return Some(count);
        }
        self.pts.binary_search(&picture.timestamp()?).ok()
    }

    fn decode(
        &self,
        wanted: &[usize],
        (sink, progress): (&mut Sink<'_>, &mut Progress<'_>),
        done: &mut Delivered,
    ) -> Result<(), VideoError> {
        let mut reading = Reading::new(&self.name, &self.path)?;
        let (mut ended, mut graph): (bool, Option<Graph>) = (false, None);
        let mut rest = wanted.iter().copied().peekable();
        while rest.peek().is_some() {
            let Some(picture) = reading.picture(&mut ended) else { break };
            let index = self.index_of(&picture, done.decoded);
            done.decoded += 1;
            let Some(index) = index else { continue };
            done.missing.extend(std::iter::from_fn(|| rest.next_if(|&next| next < index)));
            let share = (index + 1) as f64 / self.info.frame_count() as f64;
            let mut flow = progress(share.min(1.0));
            if flow.is_continue() && rest.next_if_eq(&index).is_some() {
                let kind = (picture.width(), picture.height(), picture.format());
                let mut fit = match graph.take().filter(|g| g.kind == kind) {
                    Some(graph) => graph,
                    None => Graph::new(&picture, reading.base, self.info.rotation)
                        .map_err(|error| failed(&self.name, error))?,
                };
                let frame = fit.convert(&picture).map_err(|error| failed(&self.name, error))?;
                graph = Some(fit);
                if (frame.width, frame.height) != (self.info.width, self.info.height) {
                    return Err(failed(&self.name, "its pictures change their size"));
                }
                done.frames += 1;
                flow = sink(index, frame);
            }
            done.stopped = flow.is_break();
            if done.stopped {
                return Ok(());
            }
        }
        done.missing.extend(rest);
        Ok(())
    }
}

impl FrameSource for Linked {
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
        self.decode(wanted, (sink, progress), &mut done)?;
        if done.missing.is_empty() || done.stopped {
            return Ok(done);
        }
        let frames = std::mem::take(&mut done.missing);
        let reason = "libav hands over none".to_owned();
        done.lose(Loss { name: self.name.clone(), frames, reason }, self.skip_damaged)?;
        Ok(done)
    }
}
