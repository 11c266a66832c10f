//! The video processor against transformers and qwen-vl-utils: numbers made by `tests/generate/videos.py` and, for the tables of
//! `golden.json`, by `tests/generate/golden.py`.

use qwen3_vl_model::inputs::VisionSpan;
use qwen3_vl_model::processor::image::RgbImage;
use qwen3_vl_model::processor::message::{MediaKind, Message, VideoRef};
use qwen3_vl_model::processor::prompt::{
    MediaTokens, PromptBuilder, PromptIds, RenderedChat, VideoLayout,
};
use qwen3_vl_model::processor::template::{ChatTemplate, RenderOptions};
use qwen3_vl_model::processor::tokenizer::Tokenizer;
use qwen3_vl_model::processor::video::*;
use qwen3_vl_model::text::positions::Positions;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

const PUBLISHED: &str = r#"{"size": {"shortest_edge": 4096, "longest_edge": 25165824}}"#;

fn tests_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(tests_dir().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a count")) as usize
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256_of_ids(ids: impl IntoIterator<Item = u32>) -> String {
    sha256(&ids.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
}

/// All of a short list, the ends of a long one.
fn shown<T: Clone>(values: &[T]) -> Vec<T> {
    match values.len() <= 16 {
        true => values.to_vec(),
        false => [&values[..8], &values[values.len() - 8..]].concat(),
    }
}

fn stamps(video: &PlannedVideo) -> Vec<String> {
    video.frames.iter().map(|frame| format!("<{:.1} seconds>", frame.seconds)).collect()
}

fn request(settings: &Value) -> VideoRef {
    let count = |key: &str| settings[key].as_u64();
    let sides = count("resized_height").zip(count("resized_width"));
    let either = |a: &str, b: &str| settings[a].as_f64().or(settings[b].as_f64());
    VideoRef {
        fps: settings["fps"].as_f64(),
        num_frames: count("num_frames").or(count("nframes")),
        min_frames: count("min_frames"),
        max_frames: count("max_frames"),
        start: either("start", "video_start"),
        end: either("end", "video_end"),
        sample_fps: settings["sample_fps"].as_f64(),
        raw_fps: settings["raw_fps"].as_f64(),
        min_pixels: count("min_pixels"),
        max_pixels: count("max_pixels"),
        total_pixels: count("total_pixels"),
        resized: sides,
        ..VideoRef::default()
    }
}

fn processor(config: &str) -> VideoProcessor {
    VideoProcessor::new(VideoProcessorConfig::from_json(config).unwrap())
}

fn utils() -> VideoProcessor {
    processor(PUBLISHED).with_rules(SamplingRule::QwenVlUtils, BudgetRule::QwenVlUtils)
}

fn source(row: &Value) -> SourceClip<'static> {
    let side = |key: &str| number(&row[key]) as u32;
    SourceClip::counted(side("width"), side("height"), number(&row["total"]), row["fps"].as_f64())
}

/// Renders and tokenises the prompt of `videos.json`.
struct Prompts {
    tokenizer: Tokenizer,
    chat: RenderedChat,
}

impl Prompts {
    fn new(question: &str) -> Self {
        let template = String::from_utf8(read("fixtures/dense_tied/chat_template.jinja")).unwrap();
        let template = ChatTemplate::from_source(&template).unwrap();
        let messages = [Message::user("").video("clip").text(question)];
        let options = RenderOptions::generation();
        let config = read("fixtures/dense_tied/tokenizer_config.json");
        let tokenizer = read("fixtures/dense_tied/tokenizer.json");
        Self {
            tokenizer: Tokenizer::from_bytes(&tokenizer, Some(&config)).unwrap(),
            chat: RenderedChat::render(&template, &messages, &options).unwrap(),
        }
    }

    fn build(&self, video: &PlannedVideo, layout: VideoLayout) -> PromptIds {
        let builder = PromptBuilder::new(&self.tokenizer, 505, 506).unwrap().with_layout(layout);
        builder.build(&self.chat, &[MediaTokens::Video(video.frames.clone())]).unwrap()
    }

    /// Ids and positions in both layouts.
    fn check(&self, row: &Value, video: &PlannedVideo) {
        for (name, layout) in [("hf4", VideoLayout::Hf4), ("hf5", VideoLayout::Hf5)] {
            let prompt = self.build(video, layout);
            let expected = &row[name];
            assert_eq!(prompt.ids.len(), number(&expected["length"]), "{name}: {row}");
            let merge = video.layout.merge;
            let span = |span: &qwen3_vl_model::processor::prompt::MediaSpan| VisionSpan {
                kind: MediaKind::Video,
                start: span.start,
                rows: video.grid.h / merge,
                columns: video.grid.w / merge,
            };
            let spans: Vec<VisionSpan> = prompt.spans.iter().map(span).collect();
            assert_eq!(spans.len(), video.grid.t);
            let positions = Positions::new(prompt.ids.len(), &spans);
            assert_eq!(Some(positions.delta()), expected["delta"].as_i64(), "{name}: {row}");
            let axes = (0..3).flat_map(|axis| positions.prompt.iter().map(move |p| p.0[axis]));
            assert_eq!(sha256_of_ids(axes), expected["positions"], "{name}: {row}");
            assert_eq!(sha256_of_ids(prompt.ids), expected["ids"], "{name}: {row}");
        }
    }
}

fn check_plan(row: &Value, video: &PlannedVideo) {
    let indices: Vec<u32> = video.selection.indices.iter().map(|&index| index as u32).collect();
    assert_eq!(indices.len(), number(&row["count"]), "{row}");
    assert_eq!(Value::from(shown(&indices)), row["indices"], "{row}");
    assert_eq!(sha256_of_ids(indices), row["indices_sha256"], "{row}");
    let stamps = stamps(video);
    if row["timestamps"].is_array() {
        assert_eq!(Value::from(shown(&stamps)), row["timestamps"], "{row}");
    }
    assert_eq!(sha256(stamps.concat().as_bytes()), row["timestamps_sha256"], "{row}");
    assert_eq!(video.frames.len(), video.grid.t);
    assert_eq!(video.tokens(), video.grid.tokens(video.layout.merge));
}

fn grid(video: &PlannedVideo) -> Value {
    Value::from(vec![video.grid.t, video.grid.h, video.grid.w])
}

#[test]
fn clips_are_planned_as_in_transformers() {
    let golden = json("fixtures/videos.json");
    let prompts = Prompts::new(golden["question"].as_str().unwrap());
    let clips = rows(&golden["clips"]);
    assert_eq!(clips.len(), 79);
    for row in clips {
        let processor = processor(&row["config"].to_string());
        let video = processor.plan(&source(row), &request(&row["request"])).unwrap();
        check_plan(row, &video);
        assert_eq!(grid(&video), row["grid"], "{row}");
        assert_eq!(video.resized_height, video.grid.h * 16, "{row}");
        prompts.check(row, &video);
    }
}

/// Frames at the rate of the source, as containers state their times, make the same clip as their number and the rate.
#[test]
fn constant_times_are_a_constant_rate() {
    let golden = json("fixtures/videos.json");
    for row in rows(&golden["clips"]) {
        let Some(fps) = row["fps"].as_f64() else { continue };
        let processor = processor(&row["config"].to_string());
        let (source, request) = (source(row), request(&row["request"]));
        let milliseconds = |i: usize| (i as f64 / fps * 1000.0).round() / 1000.0;
        let times: Vec<f64> = (0..number(&row["total"])).map(milliseconds).collect();
        let timed = SourceClip::timed(source.width, source.height, &times, Some(fps));
        assert_eq!(
            processor.plan(&timed, &request).unwrap(),
            processor.plan(&source, &request).unwrap(),
            "{row}"
        );
    }
}

#[test]
fn uneven_times_stand_in_the_prompt() {
    let golden = json("fixtures/videos.json");
    let prompts = Prompts::new(golden["question"].as_str().unwrap());
    let uneven = rows(&golden["uneven"]);
    assert_eq!(uneven.len(), 12);
    for row in uneven {
        let times: Vec<f64> = serde_json::from_value(row["times"].clone()).unwrap();
        let timed = SourceClip::timed(640, 480, &times, row["fps"].as_f64());
        let video = processor(PUBLISHED).plan(&timed, &request(&row["request"])).unwrap();
        check_plan(row, &video);
        let seconds: Vec<f64> = video.selection.indices.iter().map(|&i| times[i]).collect();
        assert_eq!(video.selection.seconds, seconds);
        prompts.check(row, &video);
    }
}

/// The pixels of `frames` in `tests/generate/videos.py`.
fn frames(row: &Value) -> Vec<RgbImage> {
    let [total, height, width] = ["total", "height", "width"].map(|key| number(&row[key]) as u32);
    let hash = |i: u32| {
        let mut h = i.wrapping_mul(0x9E37_79B1);
        h ^= h >> 15;
        h = h.wrapping_mul(0x85EB_CA77);
        (h ^ (h >> 13)) as u8
    };
    let samples = height * width * 3;
    let frame = |i: u32| (i * samples..(i + 1) * samples).map(hash).collect();
    (0..total).map(|i| RgbImage::new(width, height, frame(i)).unwrap()).collect()
}

#[test]
fn pixels_are_those_of_transformers() {
    let golden = json("fixtures/videos.json");
    let cases = rows(&golden["pixels"]);
    assert_eq!(cases.len(), 12);
    for row in cases {
        let processor = processor(&row["config"].to_string());
        let video = processor.plan(&source(row), &request(&row["request"])).unwrap();
        assert_eq!(Value::from(video.selection.indices.clone()), row["indices"], "{row}");
        assert_eq!(grid(&video), row["grid"], "{row}");
        let frames = frames(row);
        let mut clip = ClipBuilder::new(&video);
        while let Some(index) = clip.next_index() {
            clip.push(&frames[index]).unwrap();
        }
        let clip = clip.finish().unwrap();
        if row["resized"].is_array() {
            let bytes: Vec<String> = clip.frames().iter().map(|f| sha256(&f.data)).collect();
            assert_eq!(Value::from(bytes), row["resized"], "{row}");
        }
        // Temporal patches one by one are the whole clip in order.
        let values: Vec<f32> = (0..video.grid.t).flat_map(|t| clip.patches(t..t + 1)).collect();
        check_values(row, &values);
    }
}

fn check_values(row: &Value, values: &[f32]) {
    let shape: Vec<usize> = serde_json::from_value(row["shape"].clone()).unwrap();
    assert_eq!(values.len(), shape[0] * shape[1], "{row}");
    let first: Vec<f32> = serde_json::from_value(row["first"].clone()).unwrap();
    for (found, expected) in values.iter().zip(&first) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{row}");
    }
    let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
    let expected = row["sum"].as_f64().unwrap();
    assert!((sum - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{sum}: {row}");
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(sha256(&bytes), row["sha256"], "{row}");
}

#[test]
fn frames_are_those_of_qwen_vl_utils() {
    let golden = json("fixtures/videos.json");
    let cases = rows(&golden["utils_frames"]);
    assert_eq!(cases.len(), 106);
    let mut refused = 0;
    for row in cases {
        let source = SourceClip::counted(640, 360, number(&row["total"]), row["fps"].as_f64());
        let planned = utils().plan(&source, &request(&row["request"]));
        if row["error"].is_string() {
            assert!(planned.is_err(), "{row}");
            refused += 1;
        } else {
            check_plan(row, &planned.unwrap_or_else(|error| panic!("{error}: {row}")));
        }
    }
    assert!(refused > 10);
}

#[test]
fn frame_counts_of_qwen_vl_utils_in_golden() {
    let golden = json("fixtures/golden.json");
    for row in rows(&golden["smart_nframes"]) {
        let source = SourceClip::counted(640, 360, number(&row[0]), row[1].as_f64());
        let planned = utils().plan(&source, &request(&row[2]));
        match row[3].as_u64().or(row[3][0].as_u64()) {
            Some(count) => {
                assert_eq!(planned.unwrap().selection.indices.len(), count as usize, "{row}");
            }
            None => assert!(planned.is_err(), "{row}"),
        }
    }
}

#[test]
fn sizes_are_those_of_qwen_vl_utils() {
    let golden = json("fixtures/videos.json");
    let cases = rows(&golden["utils_sizes"]);
    assert_eq!(cases.len(), 125);
    let check = |row: &Value, size: &Value| {
        // A source of as many frames as are wanted, all of which are taken.
        let mut wanted = request(&row[3]);
        wanted.num_frames = row[0].as_u64();
        let [height, width] = [1, 2].map(|i| number(&row[i]) as u32);
        let source = SourceClip::counted(width, height, number(&row[0]), Some(30.0));
        let video = utils().plan(&source, &wanted).unwrap();
        let found = vec![video.resized_height, video.resized_width];
        assert_eq!(Value::from(found), *size, "{row}");
    };
    cases.iter().for_each(|row| check(row, &row[4]));
    rows(&json("fixtures/golden.json")["fetch_video_budget"])
        .iter()
        .for_each(|row| check(row, &row[5]));
}

#[test]
fn lists_have_the_times_of_qwen_vl_utils() {
    let golden = json("fixtures/videos.json");
    let lists = rows(&golden["utils_lists"]);
    assert_eq!(lists.len(), 5);
    for row in lists {
        let count = number(&row[0]);
        let video = utils().plan(&SourceClip::list(64, 64, count), &request(&row[1])).unwrap();
        assert_eq!(video.selection.indices.len(), number(&row[2]), "{row}");
        assert_eq!(video.decoded_indices(), (0..count).collect::<Vec<_>>(), "{row}");
        assert_eq!(Value::from(stamps(&video)), row[3], "{row}");
    }
}

#[test]
fn smart_resize_of_clips_in_golden() {
    let golden = json("fixtures/golden.json");
    let cases = rows(&golden["smart_resize_video"]);
    assert!(cases.len() >= 100);
    for row in cases {
        let value = |i: usize| number(&row[i]);
        let clip = ClipSize { frames: value(0), height: value(1), width: value(2) };
        let found = smart_resize_clip(clip, 2, 32, (value(3), value(4))).ok();
        let expected: Option<(usize, usize)> = serde_json::from_value(row[5].clone()).ok();
        assert_eq!(expected.is_none(), row[5].is_string(), "{row}");
        assert_eq!(found, expected, "{row}");
    }
}

#[test]
fn sampled_frames_in_golden() {
    let golden = json("fixtures/golden.json");
    let check = |total: &Value, fps: f64, wanted: VideoRef, expected: &Value, ends: usize| {
        let source = SourceClip::counted(640, 360, number(total), Some(fps));
        match processor(PUBLISHED).plan(&source, &wanted) {
            Ok(video) => {
                let indices = video.selection.indices;
                let shown = match indices.len() <= 16 {
                    true => indices.clone(),
                    false => [&indices[..ends], &indices[indices.len() - ends..]].concat(),
                };
                assert_eq!(Value::from(shown), *expected, "{total} frames at {fps}");
            }
            // transformers samples a single frame and fails when it resizes it.
            Err(error) => {
                assert!(matches!(error, VideoProcessError::TooFewFrames { frames: 1, .. }));
                assert_eq!(rows(expected).len(), 1);
            }
        }
    };
    for row in rows(&golden["sample_frames_fps"]) {
        let wanted = VideoRef { fps: row[2].as_f64(), ..VideoRef::default() };
        check(&row[0], row[1].as_f64().unwrap(), wanted, &row[4], 6);
    }
    for row in rows(&golden["sample_frames_num"]) {
        let wanted = VideoRef { num_frames: row[1].as_u64(), ..VideoRef::default() };
        check(&row[0], 30.0, wanted, &row[2], 6);
    }
}

#[test]
fn patches_of_clips_in_golden() {
    let golden = json("fixtures/golden.json");
    for row in rows(&golden["num_video_patches"]) {
        let cap = row[3].as_bool().unwrap();
        let mut config = VideoProcessorConfig::qwen3_vl();
        config.cap_pixels_per_frame = cap;
        let [count, height, width] = [0, 1, 2].map(|i| number(&row[i]));
        let source = SourceClip::counted(width as u32, height as u32, count, Some(30.0));
        let wanted = VideoRef { num_frames: row[0].as_u64(), ..VideoRef::default() };
        let video = VideoProcessor::new(config).plan(&source, &wanted).unwrap();
        assert_eq!(video.grid.patches(), number(&row[4]), "{row}");
    }
}

#[test]
fn times_of_patches_in_golden() {
    let golden = json("fixtures/golden.json");
    for row in rows(&golden["timestamps"]) {
        let fps = row[1].as_f64().unwrap();
        let seconds: Vec<f64> = rows(&row[0]).iter().map(|i| i.as_f64().unwrap() / fps).collect();
        let times = group_times(&seconds, 2);
        assert_eq!(times.len(), rows(&row[2]).len(), "{row}");
        // Reading decimals may be one unit in the last place off.
        let close =
            |(time, expected): (&f64, &Value)| (time - expected.as_f64().unwrap()).abs() < 1e-12;
        assert!(times.iter().zip(rows(&row[2])).all(close), "{row}");
        let texts: Vec<String> = times.iter().map(|time| format!("<{time:.1} seconds>")).collect();
        assert_eq!(Value::from(texts), row[3], "{row}");
    }
}
