//! Every kind of stream that is generated here must give the frames and times that `ffmpeg` gives.

mod common;

use common::*;
use qwen3_vl_video::DecoderChoice;
use std::path::{Path, PathBuf};

/// Encodes `frames` frames of a zoom in which no frame is like another.
fn make(folder: &Path, name: &str, size: &str, frames: usize, options: &str) -> PathBuf {
    let path = folder.join(name);
    let source = format!("mandelbrot=s={size}:r=25:start_scale=3:end_scale=0.1:end_pts=50");
    let count = frames.to_string();
    let mut arguments = vec!["-f", "lavfi", "-i", &source, "-frames:v", &count];
    arguments.extend(options.split_whitespace());
    arguments.push(path.to_str().expect("a plain path"));
    ffmpeg(&arguments);
    path
}

/// How far openh264 may be off in a few pixels of B pictures; without them it is within 3.
const B_PICTURES: u8 = 16;

/// The frames, times and rate of a file against FFmpeg's; returns the decoder that was used.
fn check(path: &Path, decoder: DecoderChoice, tolerance: u8) -> &'static str {
    let name = path.display();
    let mut source = open_path(path, decoder).unwrap_or_else(|e| panic!("{name}: {e}"));
    let info = source.info().clone();
    let expected = reference(path);
    let (times, rate) = probed(path);
    let bytes = info.width as usize * info.height as usize * 3;
    assert_eq!(expected.len(), bytes * info.frame_count(), "{name}: frame count or size");
    assert_eq!(info.fps, rate, "{name}: rate");
    // AVI states no presentation times, and ffprobe does not make all of them up.
    let stated = path.extension().is_none_or(|e| e != "avi");
    assert!(!stated || times.len() == info.frame_count(), "{name}: {} times", times.len());
    for (i, (found, time)) in info.times.iter().zip(&times).enumerate().filter(|_| stated) {
        let off = (found - (time - times[0])).abs();
        assert!(off < 0.0011, "{name}: frame {i} at {found} instead of {}", time - times[0]);
    }
    let frames = all(&mut *source).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (i, (frame, expected)) in frames.iter().zip(expected.chunks_exact(bytes)).enumerate() {
        let difference = largest_difference(&frame.data, expected);
        assert!(difference <= tolerance, "{name}: frame {i} differs by {difference}");
        let pairs = frame.data.iter().zip(expected);
        let far = pairs.filter(|(a, b)| a.abs_diff(**b) > 3).count();
        assert!(far * 100 < bytes, "{name}: {far} of {bytes} values of frame {i} differ");
    }
    // A few frames alone must be the same as in the full run.
    let count = info.frame_count();
    let mut wanted = vec![0, count / 3, count / 2 + 1, count - 1];
    wanted.retain(|&i| i < count);
    wanted.sort_unstable();
    wanted.dedup();
    let (some, _) = collect(&mut *source, &wanted).unwrap();
    assert_eq!(some.len(), wanted.len(), "{name}");
    for (index, frame) in some {
        assert!(frame == frames[index], "{name}: frame {index} alone is another picture");
    }
    info.decoder
}

const H264: [(&str, &str); 27] = [
    ("plain", "-c:v libx264 -pix_fmt yuv420p"),
    ("baseline", "-c:v libx264 -pix_fmt yuv420p -profile:v baseline"),
    ("main", "-c:v libx264 -pix_fmt yuv420p -profile:v main"),
    ("cavlc", "-c:v libx264 -pix_fmt yuv420p -x264-params cabac=0"),
    ("no8x8", "-c:v libx264 -pix_fmt yuv420p -x264-params 8x8dct=0"),
    (
        "pyramid",
        "-c:v libx264 -pix_fmt yuv420p -x264-params bframes=8:b-pyramid=normal:b-adapt=0:keyint=30",
    ),
    ("strict", "-c:v libx264 -pix_fmt yuv420p -x264-params bframes=3:b-pyramid=strict:b-adapt=0"),
    ("nopyramid", "-c:v libx264 -pix_fmt yuv420p -x264-params bframes=3:b-pyramid=none:b-adapt=0"),
    (
        "opengop",
        "-c:v libx264 -pix_fmt yuv420p -x264-params open-gop=1:keyint=10:bframes=3:b-adapt=0",
    ),
    ("refs", "-c:v libx264 -pix_fmt yuv420p -x264-params ref=8:bframes=4:keyint=20"),
    ("slices", "-c:v libx264 -pix_fmt yuv420p -x264-params slices=4:keyint=10"),
    (
        "weightp",
        "-vf fade=in:0:20 -c:v libx264 -pix_fmt yuv420p -x264-params weightp=2:weightb=1:bframes=3",
    ),
    ("temporal", "-c:v libx264 -pix_fmt yuv420p -x264-params direct=temporal:bframes=3:b-adapt=0"),
    ("flat", "-c:v libx264 -pix_fmt yuv420p -x264-params bframes=0"),
    ("flatslices", "-c:v libx264 -pix_fmt yuv420p -x264-params bframes=0:slices=3:ref=6:keyint=20"),
    (
        "flatweightp",
        "-vf fade=in:0:20 -c:v libx264 -pix_fmt yuv420p -x264-params bframes=0:weightp=2",
    ),
    ("flatmain", "-c:v libx264 -pix_fmt yuv420p -profile:v main -x264-params bframes=0"),
    ("flatcqm", "-c:v libx264 -pix_fmt yuv420p -x264-params bframes=0:cqm=jvt"),
    ("intra", "-c:v libx264 -pix_fmt yuv420p -x264-params keyint=1"),
    ("refresh", "-c:v libx264 -pix_fmt yuv420p -x264-params intra-refresh=1:keyint=15"),
    (
        "aud",
        "-c:v libx264 -pix_fmt yuv420p -x264-params aud=1:nal-hrd=cbr:vbv-maxrate=500:vbv-bufsize=500:bitrate=500",
    ),
    ("cqm", "-c:v libx264 -pix_fmt yuv420p -x264-params cqm=jvt"),
    ("tune", "-c:v libx264 -pix_fmt yuv420p -tune zerolatency"),
    (
        "fragmented",
        "-c:v libx264 -pix_fmt yuv420p -g 12 -movflags frag_keyframe+empty_moov+default_base_moof",
    ),
    (
        "fragmented2",
        "-c:v libx264 -pix_fmt yuv420p -g 12 -movflags frag_keyframe+delay_moov -frag_duration 200000",
    ),
    ("negative", "-c:v libx264 -pix_fmt yuv420p -movflags +negative_cts_offsets"),
    ("faststart", "-c:v libx264 -pix_fmt yuv420p -movflags +faststart"),
];

#[test]
fn h264_of_every_kind_is_what_ffmpeg_shows() {
    if !ffmpeg_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut failed = Vec::new();
    for (name, options) in H264 {
        let path = make(folder.path(), &format!("{name}.mp4"), "128x96", 45, options);
        let warned = !open_path(&path, DecoderChoice::BuiltIn).unwrap().info().warnings.is_empty();
        let flat = ["baseline", "intra", "tune"].contains(&name) || options.contains("bframes=0");
        assert_eq!(warned, !flat, "{name}");
        let tolerance = if flat { 3 } else { B_PICTURES };
        let run = std::panic::catch_unwind(|| {
            assert_eq!(check(&path, DecoderChoice::BuiltIn, tolerance), "openh264");
            let best = if flat { ("openh264", 3) } else { (others(), 0) };
            assert_eq!(check(&path, DecoderChoice::Auto, best.1), best.0);
        });
        if run.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn sizes_and_colours_are_what_ffmpeg_shows() {
    if !ffmpeg_is_here() {
        return;
    }
    let colours = [
        ("709", "-colorspace bt709 -color_primaries bt709 -color_trc bt709"),
        ("601", "-colorspace smpte170m -color_primaries smpte170m -color_trc smpte170m"),
        ("2020", "-colorspace bt2020nc -color_primaries bt2020 -color_trc bt709"),
        ("none", ""),
        ("full", "-vf scale=out_range=full -color_range pc"),
        ("full709", "-vf scale=out_range=full -color_range pc -colorspace bt709"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for size in ["64x48", "322x242", "34x38", "1920x1080"] {
        for (name, colour) in colours {
            let frames = if size == "1920x1080" { 3 } else { 8 };
            let options = format!("{colour} -c:v libx264 -pix_fmt yuv420p -bf 0");
            let path = make(folder.path(), &format!("{size}{name}.mp4"), size, frames, &options);
            assert_eq!(check(&path, DecoderChoice::BuiltIn, 3), "openh264");
        }
    }
}

#[test]
fn rates_and_containers_are_what_ffmpeg_shows() {
    if !ffmpeg_is_here() {
        return;
    }
    let variable = "-vf select='not(mod(n,3))+not(mod(n,5))' -vsync vfr";
    let cases = [
        ("ntsc.mp4", "-vf settb=1001/30000,setpts=N -r 30000/1001"),
        ("film.mov", "-r 24000/1001"),
        ("variable.mp4", variable),
        ("milliseconds.mp4", "-r 30 -video_track_timescale 1000"),
        ("cut.mp4", "-ss 0.5"),
        ("one.mp4", "-frames:v 1"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in cases {
        let options = format!("{options} -c:v libx264 -pix_fmt yuv420p -bf 2");
        let path = make(folder.path(), name, "64x48", 31, &options);
        assert_eq!(check(&path, DecoderChoice::BuiltIn, B_PICTURES), "openh264");
        let is_variable = open_path(&path, DecoderChoice::BuiltIn).unwrap().info().variable;
        assert_eq!(is_variable, name.starts_with("variable"), "{name}");
        assert_eq!(check(&path, DecoderChoice::Ffmpeg, 0), "ffmpeg");
    }
}

#[test]
fn an_edit_list_hides_the_same_frames_as_in_ffmpeg() {
    if !ffmpeg_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let whole =
        make(folder.path(), "whole.mp4", "64x48", 50, "-c:v libx264 -pix_fmt yuv420p -g 20 -bf 0");
    let cut = folder.path().join("cut.mp4");
    let (from, to) = (whole.to_str().unwrap(), cut.to_str().unwrap());
    ffmpeg(&["-ss", "1.0", "-i", from, "-t", "0.6", "-c", "copy", to]);
    assert_eq!(check(&cut, DecoderChoice::BuiltIn, 3), "openh264");
    assert_eq!(check(&cut, DecoderChoice::Ffmpeg, 0), "ffmpeg");
    if cfg!(feature = "libav") {
        assert_eq!(check(&cut, DecoderChoice::Libav, 0), "libav");
    }
}

#[test]
fn other_codecs_go_to_ffmpeg() {
    if !ffmpeg_is_here() {
        return;
    }
    let cases = [
        ("a.mkv", "64x48", "-c:v libx264 -pix_fmt yuv420p -bf 3"),
        ("a.webm", "64x48", "-c:v libvpx -auto-alt-ref 1 -lag-in-frames 16 -b:v 200k"),
        ("b.webm", "64x48", "-c:v libvpx-vp9 -b:v 200k"),
        ("a.avi", "64x48", "-c:v mpeg4"),
        ("b.avi", "64x48", "-c:v mpeg4 -bf 2"),
        ("a.ts", "64x48", "-c:v mpeg2video -bf 2"),
        ("hevc.mp4", "64x48", "-c:v libx265 -x265-params log-level=error -pix_fmt yuv420p"),
        ("ten.mp4", "64x48", "-c:v libx264 -pix_fmt yuv420p10le"),
        ("444.mp4", "35x37", "-c:v libx264 -pix_fmt yuv444p"),
        ("422.mp4", "64x48", "-c:v libx264 -pix_fmt yuv422p"),
        (
            "fields.mp4",
            "64x48",
            "-c:v libx264 -pix_fmt yuv420p -flags +ildct+ilme -x264-params tff=1",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, size, options) in cases {
        let path = make(folder.path(), name, size, 21, options);
        assert_eq!(check(&path, DecoderChoice::Auto, 0), others());
    }
}

fn others() -> &'static str {
    if cfg!(feature = "libav") { "libav" } else { "ffmpeg" }
}

#[test]
fn turned_pictures_are_upright() {
    if !ffmpeg_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let flat = make(folder.path(), "flat.mp4", "64x48", 5, "-c:v libx264 -pix_fmt yuv420p -bf 0");
    for degrees in ["90", "180", "270"] {
        let turned = folder.path().join(format!("turned{degrees}.mp4"));
        let rotate = format!("rotate={degrees}");
        let (from, to) = (flat.to_str().unwrap(), turned.to_str().unwrap());
        ffmpeg(&["-i", from, "-c", "copy", "-metadata:s:v:0", &rotate, to]);
        assert_eq!(check(&turned, DecoderChoice::BuiltIn, 3), "openh264");
        assert_eq!(check(&turned, DecoderChoice::Ffmpeg, 0), "ffmpeg");
        if cfg!(feature = "libav") {
            assert_eq!(check(&turned, DecoderChoice::Libav, 0), "libav");
        }
        let rotation = |decoder| open_path(&turned, decoder).unwrap().info().rotation;
        assert_eq!(rotation(DecoderChoice::BuiltIn), rotation(DecoderChoice::Ffmpeg));
    }
}
