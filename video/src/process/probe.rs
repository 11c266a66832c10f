//! Finding the programs, and what `ffprobe` tells of a file: facts of the stream and the times of its packets.

use crate::VideoError;
use crate::source::Media;
use crate::timeline::{Tick, Timeline};
use serde::Deserialize;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use tempfile::NamedTempFile;

/// Most packets that are listed.
const MAX_PACKETS: usize = 1 << 24;

/// The two programs.
pub(super) struct Programs {
    pub ffmpeg: PathBuf,
    pub ffprobe: PathBuf,
}

/// Looks for the programs in the given folder, else on `PATH`.
pub(super) fn programs(folder: Option<&Path>) -> Option<Programs> {
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

/// The file that the programs read.
pub(super) enum Input {
    File(PathBuf),
    /// Bytes from memory: the programs must be able to seek.
    Copy(NamedTempFile),
}

impl Input {
    pub fn new(media: &Media) -> Result<Self, VideoError> {
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
    pub fn argument(&self) -> OsString {
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
pub(super) struct StreamFacts {
    pub index: usize,
    #[serde(default)]
    pub codec_type: String,
    #[serde(default)]
    pub codec_name: String,
    #[serde(default)]
    pub width: u32,
    #[serde(default)]
    pub height: u32,
    #[serde(default)]
    pub pix_fmt: String,
    pub color_space: Option<String>,
    pub color_range: Option<String>,
    #[serde(default)]
    pub avg_frame_rate: String,
    #[serde(default)]
    pub r_frame_rate: String,
    #[serde(default)]
    pub time_base: String,
    #[serde(default)]
    pub side_data_list: Vec<HashMap<String, serde_json::Value>>,
    #[serde(default)]
    pub disposition: HashMap<String, i64>,
}

impl StreamFacts {
    /// Degrees clockwise, from the display matrix.
    pub fn rotation(&self) -> u16 {
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

/// `-fps_mode passthrough`, or `-vsync 0` before FFmpeg 5.1.
pub(super) fn every_frame(program: &Path) -> [&'static str; 2] {
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
        .args(["-v", "error"])
        .args(super::ONE_FILE)
        .args(arguments)
        .arg("-i")
        .arg(input.argument())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

pub(super) fn failed(name: &str, reason: impl Into<String>) -> VideoError {
    VideoError::Decoder { decoder: "ffmpeg", name: name.into(), reason: reason.into() }
}

/// The facts of the first video stream that is no cover picture.
pub(super) fn facts(program: &Path, input: &Input, name: &str) -> Result<StreamFacts, VideoError> {
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
pub(super) fn packet_times(
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

pub(super) fn timeline(facts: &StreamFacts, pts: &[i64], packets: usize) -> Timeline {
    let average = fraction(&facts.avg_frame_rate).or_else(|| fraction(&facts.r_frame_rate));
    let (num, den) = average.unwrap_or((25, 1));
    let base = fraction(&facts.time_base);
    let Some((base_num, base_den)) = base.filter(|_| !pts.is_empty()) else {
        return Timeline::regular(packets, num as f64 / den as f64);
    };
    Timeline::from_rate(pts, (num, den), Tick { num: base_num, den: base_den })
}

/// Ends a child process when it goes out of scope.
pub(super) struct Guard(pub Child);

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
}
