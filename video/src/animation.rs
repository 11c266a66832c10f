//! GIF, APNG and animated WebP, and plain pictures as videos of one frame.

use crate::chunks::{self, Delays};
use crate::error::Loss;
use crate::source::{Media, OpenOptions, Stream};
use crate::timeline::Timeline;
use crate::{
    Colour, Delivered, Frame, FrameSource, Progress, Sink, VideoError, VideoInfo, check_wanted,
};
use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{AnimationDecoder, ImageDecoder, ImageFormat};

struct Animation {
    media: Media,
    format: ImageFormat,
    info: VideoInfo,
    animated: bool,
    skip_damaged: bool,
    decode: crate::ImageDecoder,
}

/// Opens an animation, or a plain picture as one frame.
pub(crate) fn open(
    media: Media,
    format: ImageFormat,
    options: &OpenOptions,
) -> Result<Box<dyn FrameSource>, VideoError> {
    let delays = delays(&media, format)?;
    let animated = match format {
        ImageFormat::Gif => true,
        _ => delays.promised.is_some() || !delays.seconds.is_empty(),
    };
    let (width, height) = if animated { canvas(&media, format)? } else { (1, 1) };
    options.check_size(&media.name(), width, height)?;
    let mut source = Animation {
        info: info(&media, format, &delays, animated)?,
        media,
        format,
        animated,
        skip_damaged: options.skip_damaged,
        decode: options.image_decoder,
    };
    if !animated {
        let frame = source.still(options)?;
        (source.info.width, source.info.height) = (frame.width, frame.height);
        return Ok(Box::new(source));
    }
    (source.info.width, source.info.height) = (width, height);
    Ok(Box::new(source))
}

fn delays(media: &Media, format: ImageFormat) -> Result<Delays, VideoError> {
    let mut stream = media.stream()?;
    let found = match format {
        ImageFormat::Gif => chunks::gif(&mut *stream),
        ImageFormat::Png => chunks::png(&mut *stream, media.len()),
        ImageFormat::WebP => chunks::webp(&mut *stream, media.len()),
        _ => Ok(Delays { complete: true, ..Delays::default() }),
    };
    found.map_err(|source| media.failed(source))
}

/// Names of decoder and codec.
fn names(format: ImageFormat, animated: bool) -> (&'static str, &'static str) {
    match format {
        ImageFormat::Gif => ("gif", "gif"),
        ImageFormat::Png if animated => ("apng", "apng"),
        ImageFormat::WebP if animated => ("webp", "webp"),
        ImageFormat::Png => ("image", "png"),
        ImageFormat::WebP => ("image", "webp"),
        ImageFormat::Jpeg => ("image", "mjpeg"),
        _ => ("image", "bmp"),
    }
}

fn info(
    media: &Media,
    format: ImageFormat,
    delays: &Delays,
    animated: bool,
) -> Result<VideoInfo, VideoError> {
    let (decoder, codec) = names(format, animated);
    if animated && delays.seconds.is_empty() {
        let found = format!("the {codec} file ends or breaks before its first frame is complete");
        return Err(VideoError::NoFrames { name: media.name(), found });
    }
    let line = if animated { timeline(&delays.seconds) } else { Timeline::regular(1, 1.0) };
    let short = delays.promised.is_some_and(|promised| promised > delays.seconds.len());
    let mut warnings = Vec::new();
    if animated && (!delays.complete || short) {
        let of = delays.promised.map_or(String::new(), |n| format!(" of {n}"));
        let count = delays.seconds.len();
        warnings.push(format!("{} ends too early: {count}{of} frames are there.", media.name()));
    }
    Ok(VideoInfo {
        width: 0,
        height: 0,
        rotation: 0,
        fps: line.fps,
        variable: line.variable,
        times: line.times,
        duration: line.duration,
        decoder,
        codec: codec.into(),
        colour: Colour::RGB,
        warnings,
    })
}

fn timeline(seconds: &[f64]) -> Timeline {
    let duration: f64 = seconds.iter().sum();
    if seconds.iter().all(|&s| s == seconds[0]) {
        // 0.04 is no exact number, 25 is: the nearest of the rates that delays can state exactly.
        let fps = 1.0 / seconds[0];
        let near = (fps * 1000.0).round() / 1000.0;
        return Timeline::regular(
            seconds.len(),
            if (near - fps).abs() < 1e-9 { near } else { fps },
        );
    }
    let starts = seconds.iter().scan(0.0, |now, &s| {
        let start = *now;
        *now += s;
        Some(start)
    });
    let fps = seconds.len() as f64 / duration;
    Timeline { fps, variable: true, times: starts.collect(), duration }
}

fn canvas(media: &Media, format: ImageFormat) -> Result<(u32, u32), VideoError> {
    let stream = media.stream()?;
    let size = match format {
        ImageFormat::Gif => GifDecoder::new(stream).map(|d| d.dimensions()),
        ImageFormat::Png => PngDecoder::new(stream).map(|d| d.dimensions()),
        _ => WebPDecoder::new(stream).map(|d| d.dimensions()),
    };
    size.map_err(|error| media.malformed(error.to_string()))
}

fn frames_of(
    stream: Box<dyn Stream>,
    format: ImageFormat,
) -> image::ImageResult<image::Frames<'static>> {
    Ok(match format {
        ImageFormat::Gif => GifDecoder::new(stream)?.into_frames(),
        ImageFormat::Png => PngDecoder::new(stream)?.apng()?.into_frames(),
        _ => WebPDecoder::new(stream)?.into_frames(),
    })
}

/// Lays a picture with transparency on white.
pub(crate) fn on_white(rgba: &image::RgbaImage) -> Frame {
    let mut data = Vec::with_capacity(rgba.as_raw().len() / 4 * 3);
    for pixel in rgba.as_raw().chunks_exact(4) {
        let alpha = u32::from(pixel[3]);
        let mix = |c: u8| ((u32::from(c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        data.extend_from_slice(&[mix(pixel[0]), mix(pixel[1]), mix(pixel[2])]);
    }
    Frame { width: rgba.width(), height: rgba.height(), data }
}

impl Animation {
    fn still(&self, options: &OpenOptions) -> Result<Frame, VideoError> {
        let bytes = crate::images::read_bounded(&self.media)?;
        if let Some((width, height)) = crate::images::size_of(&bytes) {
            options.check_size(&self.media.name(), width, height)?;
        }
        (self.decode)(&bytes).map_err(|error| self.media.malformed(error.to_string()))
    }

    fn play(
        &self,
        wanted: &[usize],
        sink: &mut Sink<'_>,
        progress: &mut Progress<'_>,
        done: &mut Delivered,
    ) -> Result<Option<String>, VideoError> {
        let Some(&last) = wanted.last() else { return Ok(None) };
        let mut frames = match frames_of(self.media.stream()?, self.format) {
            Ok(frames) => frames.enumerate(),
            Err(error) => return Ok(Some(error.to_string())),
        };
        loop {
            let (index, frame) = match frames.next() {
                Some((index, Ok(frame))) => (index, frame),
                Some((_, Err(error))) => return Ok(Some(error.to_string())),
                None => return Ok(Some("the data end early".into())),
            };
            done.decoded += 1;
            let mut flow = progress((index + 1) as f64 / (last + 1) as f64);
            if wanted[done.frames] == index && flow.is_continue() {
                flow = sink(index, on_white(frame.buffer()));
                done.frames += 1;
            }
            done.stopped = flow.is_break();
            if done.stopped || index == last {
                return Ok(None);
            }
        }
    }
}

impl FrameSource for Animation {
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
        if !self.animated {
            if let Some(&index) = wanted.first() {
                done.stopped = sink(index, self.still(&OpenOptions::default())?).is_break();
                (done.frames, done.decoded) = (1, 1);
            }
            return Ok(done);
        }
        let Some(reason) = self.play(wanted, sink, progress, &mut done)? else { return Ok(done) };
        let frames = wanted[done.frames..].to_vec();
        done.lose(Loss { name: self.media.name(), frames, reason }, self.skip_damaged)?;
        Ok(done)
    }
}
