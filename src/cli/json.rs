//! The answer as one JSON object.

use qwen3_vl::model::processor::detokenize::token_bytes;
use qwen3_vl::model::processor::image::PlannedImage;
use qwen3_vl::model::processor::tokenizer::Tokenizer;
use qwen3_vl::{Qwen3Vl, Response, TokenLogprob};
use serde_json::{Value, json};

/// What `run --json` prints.
pub fn response(model: &Qwen3Vl, response: &Response) -> Value {
    let tokenizer = model.processor().tokenizer();
    let precision = model.model().precision();
    let mut object = json!({
        "text": response.text,
        "token_ids": response.token_ids,
        "prompt_token_ids": response.prompt_token_ids,
        "finish_reason": response.finish_reason.as_str(),
        "usage": response.usage,
        "timings": timings(model, response),
        "images": response.images.iter().map(image).collect::<Vec<_>>(),
        "device": model.device().name,
        "dtype": qwen3_vl::backends::dtype::name(precision.weights),
        "seed": response.seed,
    });
    if let Some(reasoning) = &response.reasoning {
        object["reasoning"] = json!(reasoning);
    }
    if let Some(tokens) = &response.logprobs {
        let content: Vec<Value> = tokens.iter().map(|token| logprob(tokenizer, token)).collect();
        object["logprobs"] = json!({ "content": content });
    }
    object
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

/// As in OpenAI's chat completions.
fn logprob(tokenizer: &Tokenizer, token: &TokenLogprob) -> Value {
    let top: Vec<Value> =
        token.logprobs.top.iter().map(|(id, value)| entry(tokenizer, *id, *value)).collect();
    let mut chosen = entry(tokenizer, token.id, token.logprobs.chosen);
    chosen["top_logprobs"] = json!(top);
    chosen
}

fn entry(tokenizer: &Tokenizer, id: u32, value: f32) -> Value {
    let bytes = token_bytes(tokenizer, id);
    json!({ "token": String::from_utf8_lossy(&bytes), "id": id, "logprob": value, "bytes": bytes })
}
