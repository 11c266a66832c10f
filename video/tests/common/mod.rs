//! What the tests of this crate share.
#![allow(dead_code)]

use qwen3_vl_video::{
    DecoderChoice, Delivered, Frame, FrameSource, OpenOptions, VideoError, VideoInput, open,
};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A stored fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/videos").join(name)
}

pub fn with(decoder: DecoderChoice) -> OpenOptions {
    OpenOptions { decoder, ..OpenOptions::default() }
}

pub fn open_path(path: &Path, decoder: DecoderChoice) -> Result<Box<dyn FrameSource>, VideoError> {
    open(VideoInput::Path(path.to_owned()), &with(decoder))
}

pub fn open_bytes(bytes: &[u8], options: &OpenOptions) -> Result<Box<dyn FrameSource>, VideoError> {
    open(VideoInput::Bytes { name: "the test".into(), bytes: bytes.into() }, options)
}

/// The wanted frames in the order in which they came.
pub fn collect(
    source: &mut dyn FrameSource,
    wanted: &[usize],
) -> Result<(Vec<(usize, Frame)>, Delivered), VideoError> {
    let mut frames = Vec::new();
    let mut sink = |index, frame| {
        frames.push((index, frame));
        ControlFlow::Continue(())
    };
    let done = source.frames(wanted, &mut sink, &mut |_| ControlFlow::Continue(()))?;
    Ok((frames, done))
}

/// All frames, checked to be in order.
pub fn all(source: &mut dyn FrameSource) -> Result<Vec<Frame>, VideoError> {
    let wanted: Vec<usize> = (0..source.info().frame_count()).collect();
    let (frames, _) = collect(source, &wanted)?;
    assert_eq!(frames.iter().map(|f| f.0).collect::<Vec<_>>(), wanted);
    Ok(frames.into_iter().map(|f| f.1).collect())
}

pub fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len(), "two pictures differ in size");
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

/// Whether the `ffmpeg` and `ffprobe` programs are here; says so when not.
pub fn ffmpeg_is_here() -> bool {
    let runs = |name| Command::new(name).arg("-version").output().is_ok_and(|o| o.status.success());
    let here = runs("ffmpeg") && runs("ffprobe");
    if !here {
        eprintln!("skipped: the programs ffmpeg and ffprobe are not on PATH");
    }
    here
}

/// Runs `ffmpeg` with arguments separated by spaces and returns what it writes to its output.
pub fn ffmpeg(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(arguments)
        .output()
        .expect("ffmpeg starts");
    assert!(
        output.status.success(),
        "ffmpeg {arguments:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// All frames of a file as `ffmpeg` itself shows them.
pub fn reference(path: &Path) -> Vec<u8> {
    let path = path.to_str().expect("a plain path");
    ffmpeg(&["-i", path, "-vsync", "0", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"])
}

/// `(pts_time of every frame, avg_frame_rate)` as `ffprobe` finds them by decoding.
pub fn probed(path: &Path) -> (Vec<f64>, f64) {
    let run = |entries: &str| {
        let output = Command::new("ffprobe")
            .args(["-v", "error", "-select_streams", "v:0", "-show_entries", entries])
            .args(["-of", "csv=p=0"])
            .arg(path)
            .output()
            .expect("ffprobe starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let times = run("frame=best_effort_timestamp_time");
    let times: Vec<f64> =
        times.lines().filter_map(|l| l.split(',').next()?.trim().parse().ok()).collect();
    let rate = run("stream=avg_frame_rate");
    let (num, den) = rate
        .lines()
        .next()
        .unwrap_or("")
        .trim_end_matches(',')
        .split_once('/')
        .expect("a fraction");
    let (num, den): (f64, f64) = (num.parse().unwrap(), den.parse().unwrap());
    (times, num / den)
}
