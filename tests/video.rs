//! Videos from file to answer: frames, times, prompt ids and answers of transformers.

mod common;

use std::process::Command;

use qwen3_vl::model::processor::prompt::VideoLayout;
use qwen3_vl::model::processor::{PlannedMedia, VideoRules};
use qwen3_vl::video::DecoderChoice;
use qwen3_vl::weights::MediaLimits;
use qwen3_vl::{Conversation, LoadOptions, Message, Qwen3Vl, Request};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Expected {
    model: String,
    name: String,
    layout: String,
    messages: Value,
    prompt_token_ids: Vec<u32>,
    video_grid_thw: Vec<[usize; 3]>,
    frame_indices: Vec<Vec<usize>>,
    timestamps: Vec<Vec<String>>,
    token_ids: Vec<u32>,
    /// Distance of the best score from the next, per token.
    margins: Vec<f32>,
}

/// Tokens with at least this margin do not change when samples of the frames differ by 3 of 255.
const ROBUST: f32 = 0.3;

#[derive(Deserialize)]
struct File {
    requests: Vec<Expected>,
}

fn load(model: &str, device: &str, layout: VideoLayout) -> Qwen3Vl {
    load_with(model, device, layout, DecoderChoice::Auto)
}

fn load_with(model: &str, device: &str, layout: VideoLayout, decoder: DecoderChoice) -> Qwen3Vl {
    let options = LoadOptions {
        device: Some(device.to_owned()),
        dtype: "f32".parse().unwrap(),
        video: VideoRules { layout, ..VideoRules::default() },
        media: MediaLimits { decoder, ..MediaLimits::default() },
        ..LoadOptions::default()
    };
    Qwen3Vl::load(common::fixtures().join(model).to_str().unwrap(), options).unwrap()
}

fn fixture(name: &str) -> String {
    common::fixtures().join(name).to_str().unwrap().to_owned()
}

/// Names in the file are relative to the fixtures.
fn conversation(messages: &Value) -> Conversation {
    let mut messages = messages.clone();
    for message in messages.as_array_mut().unwrap() {
        let Some(parts) = message["content"].as_array_mut() else { continue };
        for part in parts {
            for key in ["image", "video"] {
                if let Some(name) = part.get(key).and_then(Value::as_str) {
                    part[key] = fixture(name).into();
                }
            }
        }
    }
    Conversation::from_json(&messages.to_string()).unwrap()
}

fn has_ffmpeg() -> bool {
    let found = ["ffmpeg", "ffprobe"].iter().all(|name| {
        Command::new(name).arg("-version").output().is_ok_and(|output| output.status.success())
    });
    if !found {
        println!("skipped what only FFmpeg decodes: ffmpeg and ffprobe are not on PATH");
    }
    found
}

fn check(model: &str) {
    let text = std::fs::read_to_string(common::fixtures().join("e2e_videos.json")).unwrap();
    let file: File = serde_json::from_str(&text).unwrap();
    let rows: Vec<_> = file.requests.iter().filter(|row| row.model == model).collect();
    assert!(rows.len() >= 6, "{model} has {} requests", rows.len());
    // With FFmpeg's frames, which the reference saw, the whole answer is the same; with the built-in decoder's,
    // whose colours are rounded otherwise, everything but pixels is, and the answer as far as it is robust.
    let mut decoders = vec![DecoderChoice::BuiltIn];
    decoders.extend(has_ffmpeg().then_some(DecoderChoice::Ffmpeg));
    for device in common::devices() {
        for (layout, name) in [(VideoLayout::Hf4, "hf4"), (VideoLayout::Hf5, "hf5")] {
            for decoder in &decoders {
                let loaded = load_with(model, &device, layout, *decoder);
                let exact = *decoder == DecoderChoice::Ffmpeg;
                let rows = rows.iter().filter(|row| row.layout == name);
                for row in rows.filter(|row| exact || row.name != "matroska") {
                    let what = format!("{model}/{} on {device}, {decoder:?}", row.name);
                    answer(&loaded, row, exact, &what);
                }
            }
        }
    }
}

fn answer(model: &Qwen3Vl, expected: &Expected, exact: bool, what: &str) {
    let request = Request { conversation: conversation(&expected.messages), ..Request::default() };
    let request = request.max_tokens(expected.token_ids.len()).greedy();
    let request = Request { ignore_eos: true, ..request };
    let found = model.generate(&request).unwrap();
    let videos: Vec<_> = found
        .media
        .iter()
        .filter_map(|medium| match medium {
            PlannedMedia::Video(video) => Some(video),
            PlannedMedia::Image(_) => None,
        })
        .collect();
    let grids: Vec<_> = videos.iter().map(|v| [v.grid.t, v.grid.h, v.grid.w]).collect();
    assert_eq!(grids, expected.video_grid_thw, "{what}");
    let indices: Vec<_> = videos.iter().map(|video| video.selection.indices.clone()).collect();
    assert_eq!(indices, expected.frame_indices, "{what}");
    let times = |frames: &[qwen3_vl::model::processor::prompt::FrameTokens]| -> Vec<String> {
        frames.iter().map(|frame| format!("{:.1}", frame.seconds)).collect()
    };
    let timestamps: Vec<_> = videos.iter().map(|video| times(&video.frames)).collect();
    assert_eq!(timestamps, expected.timestamps, "{what}");
    assert_eq!(found.prompt_token_ids, expected.prompt_token_ids, "{what}");
    let robust = expected.margins.iter().take_while(|margin| exact || **margin >= ROBUST).count();
    assert_eq!(found.token_ids[..robust], expected.token_ids[..robust], "{what}");
}

#[test]
fn dense_tied_answers_about_videos_as_transformers() {
    check("dense_tied");
}

#[test]
fn dense_untied_answers_about_videos_as_transformers() {
    check("dense_untied");
}

#[test]
fn experts_answer_about_videos_as_transformers() {
    check("moe");
}

/// Frames of a variable rate are told by their own times, not by index over rate.
#[test]
fn a_variable_rate_keeps_its_own_times() {
    let facts: Value = serde_json::from_str(
        &std::fs::read_to_string(common::fixtures().join("videos/videos.json")).unwrap(),
    )
    .unwrap();
    let times: Vec<f64> = serde_json::from_value(facts["variable.mp4"]["times"].clone()).unwrap();
    let model = load("dense_tied", &common::cpu_devices()[0], VideoLayout::Hf4);
    let question = Message::user("").video(fixture("videos/variable.mp4").as_str()).text("When?");
    let prepared = model.prepare(&Request::new(vec![question]), &mut ()).unwrap();
    let PlannedMedia::Video(video) = &prepared.chat.media[0] else { panic!("no video") };
    let expected: Vec<f64> = video.selection.indices.iter().map(|i| times[*i]).collect();
    for (found, expected) in video.selection.seconds.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-3, "{found} {expected}");
    }
    let film = prepared.report.films[0].as_ref().unwrap();
    assert!(film.variable && film.frames == times.len(), "{film:?}");
}

/// Every kind of animation is a video, and a list of frames is one too.
#[test]
fn animations_and_lists_are_videos() {
    let model = load("dense_tied", &common::cpu_devices()[0], VideoLayout::Hf4);
    for name in ["animation.gif", "animation.apng", "animation.webp", "fragmented.mp4"] {
        let question =
            Message::user("").video(fixture(&format!("videos/{name}")).as_str()).text("What?");
        let answer = model.generate(&Request::new(vec![question]).max_tokens(2).greedy()).unwrap();
        assert_eq!(answer.token_ids.len(), 2, "{name}");
        assert!(answer.usage.video_tokens > 0 && answer.films[0].is_some(), "{name}");
    }
    let frames = [fixture("e2e/blocks.png"), fixture("e2e/blocks.png"), fixture("e2e/blocks.png")];
    let messages = serde_json::json!([{"role": "user", "content": [
        {"type": "video", "video": frames, "sample_fps": 2.0}, {"type": "text", "text": "?"}]}]);
    let conversation = Conversation::from_json(&messages.to_string()).unwrap();
    let request = Request { conversation, ..Request::default() };
    let answer = model.generate(&request.max_tokens(2).greedy()).unwrap();
    let PlannedMedia::Video(video) = &answer.media[0] else { panic!("no video") };
    assert_eq!(video.selection.indices, [0, 1, 2]);
    assert_eq!(video.frames.iter().map(|f| f.seconds).collect::<Vec<_>>(), [0.25, 1.0]);
}

/// What cannot be a video is told by name, in one sentence, before the model runs.
#[test]
fn bad_videos_are_refused_by_name() {
    let model = load("dense_tied", &common::cpu_devices()[0], VideoLayout::Hf4);
    let refuse = |name: &str, more: &str| {
        let messages = format!(
            r#"[{{"role":"user","content":[{{"type":"video","video":"{}"{more}}}]}}]"#,
            fixture(name)
        );
        let conversation = Conversation::from_json(&messages).unwrap();
        let request = Request { conversation, ..Request::default() };
        model.prepare(&request, &mut ()).unwrap_err().to_string()
    };
    let film = "videos/constant25.mp4";
    for (name, more, expected) in [
        ("e2e.json", "", "e2e.json"),
        ("videos/sound_only.m4a", "", "sound_only.m4a"),
        ("videos/single.mp4", "", "1"),
        ("videos/none.mp4", "", "no file"),
        (film, r#","video_start":3,"video_end":2"#, "video_start"),
        (film, r#","video_start":100"#, "100"),
        (film, r#","fps":1e12"#, "fps"),
        (film, r#","raw_fps":4"#, "raw_fps"),
    ] {
        let error = refuse(name, more);
        assert!(error.contains(expected), "{name}{more}: {error}");
    }
}
