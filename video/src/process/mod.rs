//! The `ffmpeg` and `ffprobe` programs as child processes: facts and packet times from the one, raw frames through
//! a pipe from the other.
//!
//! Programs read one local file only: no protocol of the network, and no format whose files name others (playlists).

mod probe;

use crate::colour::Colour;
use crate::error::Loss;
use crate::source::{Media, OpenOptions};
use crate::{Delivered, Frame, FrameSource, Progress, Sink, VideoError, VideoInfo, check_wanted};
use probe::{Guard, Input, Programs, every_frame, facts, failed, packet_times, programs, timeline};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Keeps a program to its input file: a playlist could name any file of the disk.
const ONE_FILE: [&str; 4] = [
    "-protocol_whitelist",
    "file,pipe",
    "-format_whitelist",
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,h264,hevc,av1,ivf,obu,m4v,flv,asf,ogg,gif,apng,mjpeg,nut,mxf,rm,wtv,dv,\
     swf,yuv4mpegpipe,webp_pipe",
];

/// Most frames that the `select` filter lists (about 60 kB of arguments); with more, all frames are piped.
const MAX_SELECT: usize = 2048;

/// A video that `ffmpeg` decodes.
struct Piped {
    name: String,
    input: Input,
    ffmpeg: PathBuf,
    /// The option that neither repeats nor drops frames, which FFmpeg 5.1 renamed.
    every_frame: [&'static str; 2],
    stream: usize,
    info: VideoInfo,
    /// Presentation time of every frame in ticks; empty when the container states none.
    pts: Vec<i64>,
    skip_damaged: bool,
}

/// Opens a file with the programs; `None` when they are not there.
pub(crate) fn open(
    media: &Media,
    options: &OpenOptions,
) -> Option<Result<Box<dyn FrameSource>, VideoError>> {
    let programs = programs(options.ffmpeg_dir.as_deref())?;
    Some(open_with(media, options, programs))
}

fn open_with(
    media: &Media,
    options: &OpenOptions,
    programs: Programs,
) -> Result<Box<dyn FrameSource>, VideoError> {
    let input = Input::new(media)?;
    let name = media.name();
    let facts = facts(&programs.ffprobe, &input, &name)?;
    options.check_size(&name, facts.width, facts.height)?;
    let (pts, packets) = packet_times(&programs.ffprobe, &input, facts.index, &name)?;
    if packets == 0 {
        let found = "its video track is empty".into();
        return Err(VideoError::NoFrames { name, found });
    }
    let line = timeline(&facts, &pts, packets);
    let rotation = facts.rotation();
    let (mut width, mut height) = (facts.width, facts.height);
    if rotation % 180 == 90 {
        (width, height) = (height, width);
    }
    let space = facts.color_space.as_deref();
    let colour = Colour::from_names(space, facts.color_range.as_deref(), &facts.pix_fmt);
    let info = VideoInfo {
        width,
        height,
        rotation,
        fps: line.fps,
        variable: line.variable,
        times: line.times,
        duration: line.duration,
        decoder: "ffmpeg",
        codec: facts.codec_name,
        colour,
        warnings: Vec::new(),
    };
    let skip_damaged = options.skip_damaged;
    let (ffmpeg, stream) = (programs.ffmpeg, facts.index);
    let every_frame = every_frame(&ffmpeg);
    Ok(Box::new(Piped { name, input, ffmpeg, every_frame, stream, info, pts, skip_damaged }))
}

/// What `ffmpeg` says while it runs: the times of the frames it hands over, and its last complaints.
#[derive(Clone, Default)]
struct Said {
    shown: Arc<Mutex<VecDeque<i64>>>,
    complaints: Arc<Mutex<VecDeque<String>>>,
    time: Arc<Mutex<f64>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Said {
    /// Takes one line; lines of the `showinfo` filter name a frame's `pts`.
    fn take(&self, line: &str) {
        if line.contains("showinfo") {
            let after = line.split(" pts:").nth(1).map(str::trim_start);
            let number: Option<i64> = after.and_then(|text| text.split(' ').next()?.parse().ok());
            locked(&self.shown).extend(number);
            return;
        }
        if let Some(time) = line.strip_prefix("out_time_us=").and_then(|t| t.parse::<f64>().ok()) {
            *locked(&self.time) = time / 1e6;
            return;
        }
        let troubled = ["[error]", "[fatal]", "[panic]"].iter().any(|level| line.contains(level));
        if troubled {
            let mut complaints = locked(&self.complaints);
            complaints.push_back(line.trim().to_owned());
            if complaints.len() > 4 {
                complaints.pop_front();
            }
        }
    }

    fn last(&self) -> String {
        let complaints = locked(&self.complaints);
        Vec::from_iter(complaints.iter().cloned()).join("; ")
    }
}

fn listen(pipe: ChildStderr) -> (Said, JoinHandle<()>) {
    let said = Said::default();
    let ear = said.clone();
    let thread = std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            ear.take(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    (said, thread)
}

/// Reads raw frames from the pipe in a thread; at most two wait.
fn read_frames(mut pipe: ChildStdout, bytes: usize) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(2);
    std::thread::spawn(move || {
        loop {
            let mut data = vec![0; bytes];
            if pipe.read_exact(&mut data).is_err() || sender.send(data).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Whether a variable has one of some sorted values, as a search tree: FFmpeg limits the depth of expressions.
fn expression(variable: &str, values: &[i64]) -> String {
    let middle = values.len() / 2;
    match values {
        [] => "0".into(),
        [one] => format!("eq({variable},{one})"),
        _ => {
            let (low, high) = values.split_at(middle);
            let (less, more) = (expression(variable, low), expression(variable, high));
            format!("if(lt({variable},{}),{less},{more})", high[0])
        }
    }
}

impl Piped {
    /// The filter that lets only wanted frames through, by time where frames have one, else by number.
    fn select(&self, wanted: &[usize]) -> Option<String> {
        let (variable, values): (_, Vec<i64>) = match self.pts.is_empty() {
            true => ("n", wanted.iter().map(|&index| index as i64).collect()),
            false => ("pts", wanted.iter().map(|&index| self.pts[index]).collect()),
        };
        if values.len() > MAX_SELECT {
            return None;
        }
        Some(format!("select='{}',", expression(variable, &values)))
    }

    fn start(&self, wanted: &[usize]) -> Result<Guard, VideoError> {
        let (width, height) = (self.info.width, self.info.height);
        let select = self.select(wanted).unwrap_or_default();
        let filter = format!("{select}showinfo=checksum=0,scale={width}:{height},format=rgb24");
        let map = format!("0:{}", self.stream);
        let child = Command::new(&self.ffmpeg)
            .args(["-hide_banner", "-nostdin", "-v", "level+info", "-nostats"])
            .args(ONE_FILE)
            .args(["-copyts", "-i"])
            .arg(self.input.argument())
            .args(["-map", &map, "-an", "-sn", "-dn"])
            .args(self.every_frame)
            .args(["-vf", &filter])
            .args(["-progress", "pipe:2", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&self.name, format!("it cannot be started ({error})")))?;
        Ok(Guard(child))
    }

    /// Which frame the next one from the pipe is.
    fn index_of(&self, said: &Said, count: usize, wanted: &[usize]) -> Option<usize> {
        if self.pts.is_empty() {
            let all = self.select(wanted).is_none();
            return if all { Some(count) } else { wanted.get(count).copied() };
        }
        // The line about a frame is written before the frame, but by another pipe.
        for _ in 0..2000 {
            if let Some(pts) = locked(&said.shown).pop_front() {
                return self.pts.binary_search(&pts).ok();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    fn receive(
        &self,
        wanted: &[usize],
        (frames, said): (&Receiver<Vec<u8>>, &Said),
        (sink, progress): (&mut Sink<'_>, &mut Progress<'_>),
        done: &mut Delivered,
    ) -> Result<(), VideoError> {
        let (width, height) = (self.info.width, self.info.height);
        let mut rest = wanted.iter().copied().peekable();
        let mut count = 0;
        while rest.peek().is_some() {
            let mut flow = ControlFlow::Continue(());
            match frames.recv_timeout(Duration::from_millis(100)) {
                Ok(data) => {
                    let index = self.index_of(said, count, wanted);
                    count += 1;
                    let Some(index) = index else {
                        return Err(failed(&self.name, "it gives frames with times of no packet"));
                    };
                    while let Some(missing) = rest.next_if(|&next| next < index) {
                        done.missing.push(missing);
                    }
                    if rest.next_if_eq(&index).is_some() {
                        done.frames += 1;
                        flow = sink(index, Frame { width, height, data });
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let share = *locked(&said.time) / self.info.duration.max(1e-9);
            let share = share.max(done.frames as f64 / wanted.len() as f64);
            if flow.is_break() || progress(share.clamp(0.0, 1.0)).is_break() {
                done.stopped = true;
                return Ok(());
            }
        }
        done.missing.extend(rest);
        Ok(())
    }

    fn finish(&self, said: &Said, mut done: Delivered) -> Result<Delivered, VideoError> {
        let reason = said.last();
        if done.missing.is_empty() || done.stopped {
            if !reason.is_empty() {
                done.warnings.push(format!("ffmpeg complained about {}: {reason}.", self.name));
            }
            return Ok(done);
        }
        let frames = std::mem::take(&mut done.missing);
        let reason = if reason.is_empty() { "ffmpeg hands over none".into() } else { reason };
        done.lose(Loss { name: self.name.clone(), frames, reason }, self.skip_damaged)?;
        Ok(done)
    }
}

impl FrameSource for Piped {
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
        if wanted.is_empty() {
            return Ok(done);
        }
        let mut child = self.start(wanted)?;
        let (Some(stdout), Some(stderr)) = (child.0.stdout.take(), child.0.stderr.take()) else {
            return Err(failed(&self.name, "it has no output"));
        };
        let (said, ear) = listen(stderr);
        let bytes = self.info.width as usize * self.info.height as usize * 3;
        let frames = read_frames(stdout, bytes);
        self.receive(wanted, (&frames, &said), (sink, progress), &mut done)?;
        drop(child);
        // The listener ends with the process, whose pipe is closed now.
        let _ = ear.join();
        self.finish(&said, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_tree_asks_for_exactly_the_values() {
        assert_eq!(expression("n", &[7]), "eq(n,7)");
        assert_eq!(expression("n", &[3, 7]), "if(lt(n,7),eq(n,3),eq(n,7))");
        let depth = |text: &str| {
            let steps = text.chars().map(|c| i32::from(c == '(') - i32::from(c == ')'));
            steps
                .scan(0, |now, step| {
                    *now += step;
                    Some(*now)
                })
                .max()
        };
        let many: Vec<i64> = (0..2048).collect();
        assert_eq!(depth(&expression("pts", &many)), Some(12));
    }

    #[test]
    fn lines_of_ffmpeg_are_understood() {
        let said = Said::default();
        said.take("[Parsed_showinfo_1 @ 0x5] [info] n:   0 pts:   1536 pts_time:0.12 pos: 48");
        said.take("[h264 @ 0x5] [error] error while decoding MB 3 4");
        said.take("out_time_us=1500000");
        assert_eq!(*locked(&said.shown), [1536]);
        assert_eq!(said.last(), "[h264 @ 0x5] [error] error while decoding MB 3 4");
        assert_eq!(*locked(&said.time), 1.5);
    }
}
