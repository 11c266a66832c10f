//! The main job: messages in, the ids and the text of transformers out.

mod common;

use qwen3_vl::model::processor::PlannedMedia;
use qwen3_vl::{Conversation, LoadOptions, Qwen3Vl, Request};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Expected {
    model: String,
    name: String,
    messages: Value,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    prompt_token_ids: Vec<u32>,
    image_grid_thw: Option<Vec<[usize; 3]>>,
    resized: Option<Vec<[usize; 2]>>,
    settings: Settings,
    token_ids: Vec<u32>,
    text: String,
    finish_reason: String,
    logprobs: Option<Vec<Vec<(u32, f32)>>>,
    /// Distance of the best score from the next, per token.
    margins: Vec<f32>,
}

#[derive(Deserialize)]
struct Settings {
    max_new_tokens: usize,
    repetition_penalty: Option<f64>,
    eos_token_id: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct File {
    requests: Vec<Expected>,
}

fn requests(model: &str) -> Vec<Expected> {
    let path = common::fixtures().join("e2e.json");
    let file: File = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let requests: Vec<_> = file.requests.into_iter().filter(|r| r.model == model).collect();
    assert!(requests.len() >= 4, "{model} has {} requests", requests.len());
    requests
}

/// Picture names in the file are relative to the fixtures.
fn conversation(messages: &Value) -> Conversation {
    let mut messages = messages.clone();
    for message in messages.as_array_mut().unwrap() {
        let Some(parts) = message["content"].as_array_mut() else { continue };
        for part in parts {
            if let Some(name) = part.get("image").and_then(Value::as_str) {
                part["image"] = common::fixtures().join(name).to_str().unwrap().into();
            }
        }
    }
    Conversation::from_json(&messages.to_string()).unwrap()
}

fn load(expected: &Expected, device: &str) -> (Qwen3Vl, tempfile::TempDir) {
    load_in("f32", expected, device)
}

fn load_in(dtype: &str, expected: &Expected, device: &str) -> (Qwen3Vl, tempfile::TempDir) {
    let folder = common::copy_of(&expected.model);
    if let Some(eos) = &expected.settings.eos_token_id {
        let path = folder.path().join("generation_config.json");
        let mut file: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        file["eos_token_id"] = eos.clone().into();
        std::fs::write(path, file.to_string()).unwrap();
    }
    let options = LoadOptions {
        device: Some(device.to_owned()),
        dtype: dtype.parse().unwrap(),
        min_pixels: expected.min_pixels,
        max_pixels: expected.max_pixels,
        ..LoadOptions::default()
    };
    (Qwen3Vl::load(folder.path().to_str().unwrap(), options).unwrap(), folder)
}

fn request(expected: &Expected) -> Request {
    let conversation = conversation(&expected.messages);
    let request = Request { conversation, ..Request::default() };
    let mut request = request.max_tokens(expected.settings.max_new_tokens).greedy();
    request.sampling.repetition_penalty = expected.settings.repetition_penalty;
    request
}

fn check(expected: &Expected, device: &str) {
    let (model, _folder) = load(expected, device);
    let request = Request { logprobs: Some(5), ..request(expected) };
    let found = model.generate(&request).unwrap();
    let name = format!("{}/{} on {device}", expected.model, expected.name);
    assert_eq!(found.prompt_token_ids, expected.prompt_token_ids, "{name}: prompt");
    let grids: Vec<_> =
        found.media.iter().map(PlannedMedia::grid).map(|g| [g.t, g.h, g.w]).collect();
    assert_eq!(grids, expected.image_grid_thw.clone().unwrap_or_default(), "{name}: grids");
    let size = |medium: &PlannedMedia| match medium {
        PlannedMedia::Image(image) => [image.resized_height, image.resized_width],
        PlannedMedia::Video(video) => [video.resized_height, video.resized_width],
    };
    let sizes: Vec<_> = found.media.iter().map(size).collect();
    assert_eq!(sizes, expected.resized.clone().unwrap_or_default(), "{name}: sizes");
    assert_eq!(found.token_ids, expected.token_ids, "{name}: answer");
    // Without log probabilities cards read the largest logits alone.
    let short = model.generate(&Request { logprobs: None, ..request }).unwrap();
    assert_eq!(short.token_ids, found.token_ids, "{name}: answer without log probabilities");
    assert_eq!(found.finish_reason.as_str(), expected.finish_reason, "{name}");
    if found.reasoning.is_none() {
        assert_eq!(found.text, expected.text, "{name}: text");
    }
    for (step, top) in expected.logprobs.iter().flatten().enumerate() {
        let ours = &found.logprobs.as_ref().unwrap()[step].logprobs.top;
        for ((id, value), (found_id, found_value)) in top.iter().zip(ours) {
            assert_eq!(id, found_id, "{name}: step {step}");
            assert!((value - found_value).abs() < 1e-3, "{name}: {value} against {found_value}");
        }
    }
}

fn check_model(model: &str) {
    for device in common::cpu_devices() {
        requests(model).iter().for_each(|expected| check(expected, &device));
    }
    // One request per model shows the whole path on a card; its stages are compared elsewhere.
    for device in common::cards() {
        let requests = requests(model);
        check(requests.iter().find(|r| r.name == "two_images").unwrap_or(&requests[0]), &device);
    }
}

#[test]
fn dense_tied_answers_as_transformers() {
    check_model("dense_tied");
}

#[test]
fn dense_untied_answers_as_transformers() {
    check_model("dense_untied");
}

#[test]
fn experts_answer_as_transformers() {
    check_model("moe");
}

#[test]
fn yarn_answers_as_transformers() {
    check_model("dense_yarn");
}

/// Where transformers, in f32, is as sure of a token as this, weights in half the width and products of rounded operands choose it
/// too. Not experts: which of them random weights in half the width choose is another matter, whatever multiplies them.
const SURE: f32 = 0.25;

#[test]
fn answers_in_bf16_agree_where_margins_allow() {
    if !common::cpu_devices().contains(&"flex".to_owned()) {
        println!("skipped: this build has no flex");
        return;
    }
    let (mut judged, mut others) = (0, 0);
    for model in ["dense_tied", "dense_untied"] {
        for expected in requests(model) {
            let (loaded, _folder) = load_in("bf16", &expected, "flex");
            let found = loaded.generate(&request(&expected)).unwrap().token_ids;
            let agreed = found.iter().zip(&expected.token_ids).take_while(|(a, b)| a == b).count();
            judged += expected.margins[..agreed].iter().filter(|margin| **margin >= SURE).count();
            // Behind the first other token all is another answer.
            if let Some(margin) = expected.margins.get(agreed) {
                others += 1;
                let name = format!("{model}/{}", expected.name);
                assert!(*margin < SURE, "{name}: another token {agreed} at a margin of {margin}");
            }
        }
    }
    println!(
        "{judged} tokens at margins of {SURE} and more; {others} answers differ at lower ones"
    );
    assert!(judged > 200, "only {judged} tokens were judged");
}
