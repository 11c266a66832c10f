//! The stored videos against what FFmpeg found in them when they were made; needs no FFmpeg.

mod common;

use common::*;
use qwen3_vl_video::{
    Colour, DecoderChoice, Frame, Matrix, OpenOptions, VideoError, VideoInput, open,
};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::ops::ControlFlow;

fn known() -> serde_json::Value {
    let text = std::fs::read_to_string(fixture("videos.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The frames of one video that are stored whole: `(index, rgb)`.
fn stored(facts: &serde_json::Value) -> Vec<(usize, Vec<u8>)> {
    let at = |key: &str| facts["stored"][key].as_u64().unwrap() as usize;
    let packed = std::fs::read(fixture("frames.bin")).unwrap();
    let packed = &packed[at("offset")..at("offset") + at("bytes")];
    let mut raw = Vec::new();
    flate2::read::ZlibDecoder::new(packed).read_to_end(&mut raw).unwrap();
    let indices = numbers(&facts["stored"]["frames"]);
    let size = raw.len() / indices.len();
    indices.iter().map(|&i| i as usize).zip(raw.chunks(size).map(<[u8]>::to_vec)).collect()
}

const H264: [&str; 13] = [
    "constant25.mp4",
    "ntsc.mp4",
    "variable.mp4",
    "bt709.mp4",
    "full_range.mp4",
    "single.mp4",
    "cropped.mp4",
    "fragmented.mp4",
    "faststart.mp4",
    "reordered.mp4",
    "main_profile.mp4",
    "rotated90.mp4",
    "edited.mp4",
];

#[test]
fn times_rates_and_sizes_are_those_of_ffprobe() {
    let known = known();
    for name in H264.into_iter().chain(["animation.webp", "animation.apng", "animation.gif"]) {
        let facts = &known[name];
        let source = open_path(&fixture(name), DecoderChoice::BuiltIn).unwrap();
        let info = source.info();
        let times = numbers(&facts["times"]);
        assert_eq!(info.frame_count(), times.len(), "{name}");
        for (found, time) in info.times.iter().zip(&times) {
            assert!((found - time).abs() < 2e-6, "{name}: {found} instead of {time}");
        }
        let size = (u64::from(info.width), u64::from(info.height));
        assert_eq!(
            (size.0.into(), size.1.into()),
            (facts["width"].clone(), facts["height"].clone())
        );
        assert_eq!(info.codec, facts["codec"], "{name}");
        if H264.contains(&name) {
            let rate = numbers(&facts["rate"]);
            assert_eq!(info.fps, rate[0] / rate[1], "{name}");
        }
        assert_eq!(info.variable, name == "variable.mp4" || name == "animation.gif", "{name}");
        if !info.variable {
            let even = (0..times.len()).map(|i| i as f64 / info.fps);
            assert!(even.eq(info.times.iter().copied()), "{name}: times are not index / fps");
        }
    }
}

#[test]
fn frames_are_within_three_of_ffmpeg() {
    let known = known();
    for name in H264 {
        let mut source = open_path(&fixture(name), DecoderChoice::BuiltIn).unwrap();
        let frames = all(&mut *source).unwrap();
        for (index, expected) in stored(&known[name]) {
            let difference = largest_difference(&frames[index].data, &expected);
            assert!(difference <= 3, "{name}: frame {index} differs by {difference}");
        }
        for pair in frames.windows(2) {
            assert!(pair[0] != pair[1], "{name}: a frame is there twice");
        }
    }
}

#[test]
fn animations_are_exact() {
    let known = known();
    let mut source = open_path(&fixture("animation.webp"), DecoderChoice::BuiltIn).unwrap();
    let frames = all(&mut *source).unwrap();
    for (index, expected) in stored(&known["animation.webp"]) {
        // The decoder rounds where it blends opaque pixels.
        assert!(largest_difference(&frames[index].data, &expected) <= 1);
    }
    for name in ["animation.gif", "animation.apng"] {
        let mut source = open_path(&fixture(name), DecoderChoice::BuiltIn).unwrap();
        let hash = |frame: Frame| format!("{:x}", Sha256::digest(&frame.data));
        let found: Vec<String> = all(&mut *source).unwrap().into_iter().map(hash).collect();
        let expected = known[name]["sha256"].as_array().unwrap();
        assert_eq!(&found.into_iter().map(serde_json::Value::from).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn some_frames_are_those_of_the_whole() {
    for name in ["reordered.mp4", "constant25.mp4", "fragmented.mp4", "animation.gif"] {
        let mut source = open_path(&fixture(name), DecoderChoice::BuiltIn).unwrap();
        let frames = all(&mut *source).unwrap();
        for index in 0..frames.len() {
            let (found, done) = collect(&mut *source, &[index]).unwrap();
            assert!(found == [(index, frames[index].clone())], "{name}: frame {index}");
            assert!(done.decoded <= frames.len() && done.missing.is_empty());
        }
    }
}

#[test]
fn pictures_that_nobody_needs_are_not_decoded() {
    let mut source = open_path(&fixture("constant25.mp4"), DecoderChoice::BuiltIn).unwrap();
    // Key pictures are at 0 and 6.
    let (_, done) = collect(&mut *source, &[7]).unwrap();
    assert_eq!(done.decoded, 2);
    let (_, done) = collect(&mut *source, &[0, 6]).unwrap();
    assert_eq!(done.decoded, 2);
    // B pictures that no picture refers to are passed over: the last of nine in one run does not need all.
    let mut source = open_path(&fixture("main_profile.mp4"), DecoderChoice::BuiltIn).unwrap();
    let (_, done) = collect(&mut *source, &[8]).unwrap();
    assert!(done.decoded < 9, "{} pictures were decoded", done.decoded);
}

#[test]
fn what_is_known_is_told() {
    let info =
        |name: &str| open_path(&fixture(name), DecoderChoice::BuiltIn).unwrap().info().clone();
    let colour = |matrix, full_range, tagged| Colour { matrix, full_range, tagged };
    assert_eq!(info("bt709.mp4").colour, colour(Matrix::Bt709, false, true));
    assert_eq!(info("constant25.mp4").colour, colour(Matrix::Bt601, false, false));
    assert!(info("full_range.mp4").colour.full_range);
    assert_eq!((info("rotated90.mp4").rotation, info("rotated90.mp4").width), (90, 32));
    assert!(info("constant25.mp4").warnings.is_empty());
    assert!(info("reordered.mp4").warnings[0].contains("B pictures"));
    let duration = info("constant25.mp4").duration;
    assert!((duration - 12.0 / 25.0).abs() < 1e-9, "{duration}");
}

#[test]
fn bytes_give_the_same_as_the_file() {
    for name in ["constant25.mp4", "animation.apng"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        let mut from_bytes = open_bytes(&bytes, &with(DecoderChoice::BuiltIn)).unwrap();
        let mut from_file = open_path(&fixture(name), DecoderChoice::BuiltIn).unwrap();
        assert!(all(&mut *from_bytes).unwrap() == all(&mut *from_file).unwrap());
    }
}

#[test]
fn both_callbacks_can_stop() {
    for name in ["constant25.mp4", "animation.gif", "animation.webp"] {
        let mut source = open_path(&fixture(name), DecoderChoice::BuiltIn).unwrap();
        let wanted: Vec<usize> = (0..source.info().frame_count()).collect();
        let mut seen = 0;
        let mut sink = |_, _| {
            seen += 1;
            if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let done = source.frames(&wanted, &mut sink, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((done.frames, done.stopped, seen), (2, true, 2), "{name}");
        let done = source
            .frames(&wanted, &mut |_, _| ControlFlow::Continue(()), &mut |_| ControlFlow::Break(()))
            .unwrap();
        assert!(done.stopped && done.frames <= 1, "{name}");
    }
}

#[test]
fn indices_out_of_order_are_refused() {
    let mut source = open_path(&fixture("constant25.mp4"), DecoderChoice::BuiltIn).unwrap();
    for (wanted, place) in [(vec![3, 2], 1), (vec![4, 4], 1), (vec![0, 12], 1), (vec![99], 0)] {
        match collect(&mut *source, &wanted) {
            Err(VideoError::Wanted { place: found, count: 12, .. }) => assert_eq!(found, place),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(collect(&mut *source, &[]).unwrap().1.frames, 0);
}

#[test]
fn a_folder_and_a_list_of_images_are_videos() {
    let folder = tempfile::tempdir().unwrap();
    let paint = |name: &str, (width, height), grey: u8| {
        let path = folder.path().join(name);
        image::RgbImage::from_pixel(width, height, image::Rgb([grey; 3])).save(&path).unwrap();
        path
    };
    let ten = paint("f10.png", (6, 4), 100);
    let two = paint("f2.bmp", (6, 4), 20);
    std::fs::write(folder.path().join("notes.txt"), "no image").unwrap();
    let input = VideoInput::Path(folder.path().to_owned());
    let options = OpenOptions { image_fps: Some(4.0), ..OpenOptions::default() };
    let mut source = open(input.clone(), &options).unwrap();
    let frames = all(&mut *source).unwrap();
    assert_eq!((frames[0].data[0], frames[1].data[0]), (20, 100));
    assert_eq!(&source.info().times[..], &[0.0, 0.25]);
    let no_rate = open(input, &OpenOptions::default()).err().unwrap().to_string();
    assert!(no_rate.contains("needs a frame rate"), "{no_rate}");
    let list = VideoInput::Images { paths: vec![ten, two.clone()], fps: 2.0 };
    let mut source = open(list, &options).unwrap();
    assert_eq!(all(&mut *source).unwrap()[0].data[0], 100);
    let odd = paint("f3.png", (5, 4), 1);
    let mut mixed = open(VideoInput::Images { paths: vec![two, odd], fps: 2.0 }, &options).unwrap();
    let error = all(&mut *mixed).unwrap_err().to_string();
    assert!(error.contains("5x4") && error.contains("6x4"), "{error}");
    for fps in [0.0, -1.0, f64::NAN, 1e9] {
        let input = VideoInput::Images { paths: vec![folder.path().to_owned()], fps };
        assert!(matches!(open(input, &options), Err(VideoError::Rate { .. })));
    }
}

#[test]
fn a_plain_picture_is_a_video_of_one_frame() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "a.bmp", "a.jpg", "a.webp"] {
        let path = folder.path().join(name);
        image::RgbImage::from_pixel(8, 6, image::Rgb([50; 3])).save(&path).unwrap();
        let mut source = open_path(&path, DecoderChoice::BuiltIn).unwrap();
        assert_eq!((source.info().width, source.info().height), (8, 6), "{name}");
        assert_eq!(&source.info().times[..], &[0.0]);
        assert_eq!(all(&mut *source).unwrap().len(), 1);
    }
}

#[test]
fn the_programs_are_used_for_the_rest() {
    if !ffmpeg_is_here() {
        return;
    }
    let known = known();
    for name in ["film.mkv", "hevc.mp4", "rotated90.mp4", "variable.mp4"] {
        let mut source = open_path(&fixture(name), DecoderChoice::Ffmpeg).unwrap();
        let info = source.info().clone();
        assert_eq!(
            (info.decoder, info.frame_count()),
            ("ffmpeg", numbers(&known[name]["times"]).len())
        );
        let frames = all(&mut *source).unwrap();
        if let Some(expected) = known[name].get("stored").map(|_| stored(&known[name])) {
            for (index, expected) in expected {
                assert!(largest_difference(&frames[index].data, &expected) <= 1, "{name}");
            }
        }
        let (some, _) = collect(&mut *source, &[1, 3]).unwrap();
        assert!(some == [(1, frames[1].clone()), (3, frames[3].clone())]);
        let mut stop = |_, _| ControlFlow::Break(());
        let done = source.frames(&[0, 1, 2], &mut stop, &mut |_| ControlFlow::Continue(()));
        let done = done.unwrap();
        assert_eq!((done.frames, done.stopped), (1, true));
    }
}
