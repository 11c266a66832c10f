//! The answer as one JSON object.

use qwen3_vl::model::processor::PlannedMedia;
use qwen3_vl::model::processor::image::PlannedImage;
use qwen3_vl::model::processor::video::PlannedVideo;
use qwen3_vl::{Film, Qwen3Vl, Response, grounding_json, openai};
use serde_json::{Value, json};

/// What `run --json` prints.
pub fn response(model: &Qwen3Vl, response: &Response) -> Value {
    let precision = model.model().precision();
    let mut object = json!({
        "text": response.text,
        "token_ids": response.token_ids,
        "prompt_token_ids": response.prompt_token_ids,
        "finish_reason": response.finish_reason.as_str(),
        "usage": response.usage,
        "timings": timings(model, response),
        "images": images(&response.media),
        "videos": videos(&response.media, &response.films),
        "warnings": response.warnings,
        "grounding": grounding_json(response),
        "device": model.placement().label(),
        "dtype": qwen3_vl::backends::dtype::name(precision.weights),
        "seed": response.seed,
    });
    if let Some(reasoning) = &response.reasoning {
        object["reasoning"] = json!(reasoning);
    }
    if let Some(logprobs) = logprobs(model, response) {
        object["logprobs"] = logprobs;
    }
    object
}

/// Log probabilities as OpenAI words them, where they were asked for.
fn logprobs(model: &Qwen3Vl, response: &Response) -> Option<Value> {
    let tokenizer = model.processor().tokenizer();
    let content = openai::logprob_entries(tokenizer, response.logprobs.as_ref()?);
    Some(json!({ "content": content }))
}

/// Tokens per second after the first one.
pub fn decode_rate(response: &Response) -> Option<f64> {
    let steps = response.token_ids.len().checked_sub(1).filter(|steps| *steps > 0)?;
    let seconds = response.timings.decode.as_secs_f64();
    (seconds > 0.0).then(|| steps as f64 / seconds)
}

fn timings(model: &Qwen3Vl, response: &Response) -> Value {
    let timings = &response.timings;
    let prefilled = response.usage.prompt_tokens - response.usage.cached_tokens;
    let prefill = timings.prefill.as_secs_f64();
    json!({
        "load_s": model.load_time().as_secs_f64(),
        "preprocess_s": response.preprocess.as_secs_f64(),
        "vision_s": timings.vision.as_secs_f64(),
        "prefill_s": prefill,
        "prefill_tok_s": (prefill > 0.0).then(|| prefilled as f64 / prefill),
        "decode_s": timings.decode.as_secs_f64(),
        "decode_tok_s": decode_rate(response),
        "drafted_tokens": timings.drafted_tokens,
        "accepted_tokens": timings.accepted_tokens,
        "replayed_tokens": timings.replayed_tokens,
        "foreseen_tokens": timings.foreseen_tokens,
    })
}

/// All images.
pub fn images(media: &[PlannedMedia]) -> Vec<Value> {
    let image = |medium: &_| match medium {
        PlannedMedia::Image(planned) => Some(image(planned)),
        PlannedMedia::Video(_) => None,
    };
    media.iter().filter_map(image).collect()
}

/// All videos, with the frames and seconds that are really used.
pub fn videos(media: &[PlannedMedia], films: &[Option<Film>]) -> Vec<Value> {
    let video = |(medium, film): (&_, &Option<Film>)| match medium {
        PlannedMedia::Image(_) => None,
        PlannedMedia::Video(planned) => Some(video(planned, film.as_ref())),
    };
    media.iter().zip(films).filter_map(video).collect()
}

fn video(video: &PlannedVideo, film: Option<&Film>) -> Value {
    let seconds: Vec<f64> = video.frames.iter().map(|frame| frame.seconds).collect();
    json!({
        "resized_width": video.resized_width,
        "resized_height": video.resized_height,
        "grid_thw": [video.grid.t, video.grid.h, video.grid.w],
        "tokens": video.tokens(),
        "tokens_per_frame": video.tokens_per_frame,
        "frame_indices": video.selection.indices,
        "frame_seconds": video.selection.seconds,
        "timestamps": seconds,
        "source": film,
    })
}

/// Sizes and tokens of a picture.
pub fn image(image: &PlannedImage) -> Value {
    json!({
        "resized_width": image.resized_width,
        "resized_height": image.resized_height,
        "grid_thw": [image.grid.t, image.grid.h, image.grid.w],
        "tokens": image.tokens,
    })
}
