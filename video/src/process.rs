//! The `ffmpeg` and `ffprobe` programs as child processes: facts and packet times from the one, raw frames through
//! a pipe from the other.
//!
//! Programs read one local file only (`-protocol_whitelist file,pipe`), so that a playlist cannot reach the network.

use crate::colour::Colour;
use crate::error::frame_list;
use crate::source::{Media, OpenOptions};
use crate::timeline::{Tick, Timeline};
use crate::{Delivered, Frame, FrameSource, Progress, Sink, VideoError, VideoInfo, check_wanted};
use serde::Deserialize;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::NamedTempFile;

/// Most frames that the `select` filter lists (about 60 kB of arguments); with more, all frames are piped.
const MAX_SELECT: usize = 2048;

/// Most packets that are listed.
const MAX_PACKETS: usize = 1 << 24;

/// The two programs.
struct Programs {
    ffmpeg: PathBuf,
    ffprobe: PathBuf,
}

/// Looks for the programs in the given folder, else on `PATH`.
fn programs(folder: Option<&Path>) -> Option<Programs> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = match folder {
        Some(folder) => vec![folder.to_owned()],
        None => std::env::split_paths(&path).collect(),
    };
    let find = |name: &str| {
        let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
        folders.iter().map(|folder| folder.join(&file)).find(|path| path.is_file())
    };
    Some(Programs { ffmpeg: find("ffmpeg")?, ffprobe: find("ffprobe")? })
}

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

/// The file that the programs read.
enum Input {
    File(PathBuf),
    /// Bytes from memory: the programs must be able to seek.
    Copy(NamedTempFile),
}

impl Input {
    fn new(media: &Media) -> Result<Self, VideoError> {
        match media {
            Media::File { path, .. } => Ok(Self::File(path.clone())),
            Media::Bytes { bytes, .. } => {
                let mut copy = NamedTempFile::new().map_err(|source| media.failed(source))?;
                copy.write_all(bytes).map_err(|source| media.failed(source))?;
                Ok(Self::Copy(copy))
            }
        }
    }

    /// The argument of `-i`, safe for names that look like options or other protocols.
    fn argument(&self) -> OsString {
        let path = match self {
            Self::File(path) => path.as_path(),
            Self::Copy(copy) => copy.path(),
        };
        let mut argument = OsString::from("file:");
        argument.push(path);
        argument
    }
}

#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    streams: Vec<StreamFacts>,
}

#[derive(Deserialize)]
struct StreamFacts {
    index: usize,
    #[serde(default)]
    codec_type: String,
    #[serde(default)]
    codec_name: String,
    #[serde(default)]
    width: u32,
    #[serde(default)]
    height: u32,
    #[serde(default)]
    pix_fmt: String,
    color_space: Option<String>,
    color_range: Option<String>,
    #[serde(default)]
    avg_frame_rate: String,
    #[serde(default)]
    r_frame_rate: String,
    #[serde(default)]
    time_base: String,
    #[serde(default)]
    side_data_list: Vec<HashMap<String, serde_json::Value>>,
    #[serde(default)]
    disposition: HashMap<String, i64>,
}

impl StreamFacts {
    /// Degrees clockwise, from the display matrix.
    fn rotation(&self) -> u16 {
        let turns = self.side_data_list.iter().filter_map(|data| data.get("rotation")?.as_f64());
        let degrees = turns.fold(None, |_, turn| Some(turn)).unwrap_or(0.0);
        (-degrees.round() as i64).rem_euclid(360) as u16
    }
}

/// `a/b` with both parts above 0.
fn fraction(text: &str) -> Option<(u64, u64)> {
    let (num, den) = text.split_once('/')?;
    let (num, den): (u32, u32) = (num.parse().ok()?, den.parse().ok()?);
    (num > 0 && den > 0).then_some((num.into(), den.into()))
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

/// `-fps_mode passthrough`, or `-vsync 0` before FFmpeg 5.1.
fn every_frame(program: &Path) -> [&'static str; 2] {
    let said = Command::new(program).arg("-version").stdin(Stdio::null()).output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match said.ok().as_deref().and_then(version) {
        Some(found) if found < (5, 1) => ["-vsync", "0"],
        _ => ["-fps_mode", "passthrough"],
    }
}

/// Major and minor version of `ffmpeg version 5.1.9-0+deb12u1 ...` or `ffmpeg version n7.1 ...`.
fn version(said: &str) -> Option<(u32, u32)> {
    let word = said.strip_prefix("ffmpeg version ")?.trim_start_matches('n');
    let mut numbers = word.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Starts `ffprobe` with what all calls have in common.
fn ffprobe(program: &Path, input: &Input, arguments: &[&str]) -> std::io::Result<Child> {
    Command::new(program)
        .args(["-v", "error", "-protocol_whitelist", "file,pipe"])
        .args(arguments)
        .arg("-i")
        .arg(input.argument())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

fn failed(name: &str, reason: impl Into<String>) -> VideoError {
    VideoError::Decoder { decoder: "ffmpeg", name: name.into(), reason: reason.into() }
}

/// The facts of the first video stream that is no cover picture.
fn facts(program: &Path, input: &Input, name: &str) -> Result<StreamFacts, VideoError> {
    let child = ffprobe(program, input, &["-show_streams", "-of", "json"])
        .map_err(|error| failed(name, format!("ffprobe cannot be started ({error})")))?;
    let output = child
        .wait_with_output()
        .map_err(|error| failed(name, format!("ffprobe broke off ({error})")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or("it gives no reason");
        let found = format!("ffprobe says: {}", said.trim());
        return Err(VideoError::NotAVideo { name: name.into(), found });
    }
    let probe: Probe = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(name, format!("ffprobe's answer is not understood ({error})")))?;
    let sound = probe.streams.iter().any(|s| s.codec_type == "audio");
    let cover = |s: &StreamFacts| s.disposition.get("attached_pic") == Some(&1);
    let video = probe.streams.into_iter().find(|s| s.codec_type == "video" && !cover(s));
    video.ok_or_else(|| {
        let found = if sound { "it has sound only" } else { "it has no video track" };
        VideoError::NoFrames { name: name.into(), found: found.into() }
    })
}

/// The sorted presentation times of all shown packets and their number; no times when any packet lacks one or
/// two packets share one.
fn packet_times(
    program: &Path,
    input: &Input,
    stream: usize,
    name: &str,
) -> Result<(Vec<i64>, usize), VideoError> {
    let stream = stream.to_string();
    let arguments =
        ["-select_streams", &stream, "-show_entries", "packet=pts,flags", "-of", "csv=p=0"];
    let mut child = Guard(
        ffprobe(program, input, &arguments)
            .map_err(|error| failed(name, format!("ffprobe cannot be started ({error})")))?,
    );
    let (Some(stdout), Some(stderr)) = (child.0.stdout.take(), child.0.stderr.take()) else {
        return Err(failed(name, "ffprobe has no output"));
    };
    drain(stderr);
    let (mut pts, mut packets) = (Vec::new(), 0);
    for line in BufReader::new(stdout).lines().map_while(Result::ok).take(MAX_PACKETS) {
        let mut fields = line.split(',');
        let time = fields.next().and_then(|field| field.parse::<i64>().ok());
        if line.trim().is_empty() || fields.next().is_some_and(|flags| flags.contains('D')) {
            continue;
        }
        packets += 1;
        pts.extend(time);
    }
    pts.sort_unstable();
    let unique = pts.windows(2).all(|pair| pair[0] < pair[1]);
    if !unique || pts.len() != packets {
        pts.clear();
    }
    Ok((pts, packets))
}

fn timeline(facts: &StreamFacts, pts: &[i64], packets: usize) -> Timeline {
    let average = fraction(&facts.avg_frame_rate).or_else(|| fraction(&facts.r_frame_rate));
    let (num, den) = average.unwrap_or((25, 1));
    let base = fraction(&facts.time_base);
    let Some((base_num, base_den)) = base.filter(|_| !pts.is_empty()) else {
        return Timeline::regular(packets, num as f64 / den as f64);
    };
    Timeline::from_rate(pts, (num, den), Tick { num: base_num, den: base_den })
}

/// Ends a child process when it goes out of scope.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // The process may have ended by itself; then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a pipe to its end so that the process behind it never waits.
fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    })
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
            .args(["-protocol_whitelist", "file,pipe", "-copyts", "-i"])
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
        let frames = frame_list(&done.missing);
        let reason = if reason.is_empty() { "ffmpeg hands over none".into() } else { reason };
        if !self.skip_damaged {
            return Err(VideoError::Damaged { name: self.name.clone(), frames, reason });
        }
        done.warnings.push(format!("{frames} cannot be decoded ({reason})."));
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
    fn versions_and_rates_are_read() {
        assert_eq!(version("ffmpeg version 5.1.9-0+deb12u1 Copyright"), Some((5, 1)));
        assert_eq!(version("ffmpeg version n7.1 Copyright"), Some((7, 1)));
        assert_eq!(version("ffmpeg version N-113-gabc Copyright"), None);
        assert_eq!(fraction("30000/1001"), Some((30000, 1001)));
        assert_eq!((fraction("0/0"), fraction("25")), (None, None));
    }

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
