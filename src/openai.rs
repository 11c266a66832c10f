//! OpenAI's chat completion objects: a request body to a [`Request`], a [`Response`] to an answer body.
//!
//! A field is honoured or refused by name; none is ignored, except those that only describe the caller.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use qwen3_vl_model::processor::message::{Conversation, MessageError, VideoRef, default_videos};
use qwen3_vl_model::sample::SamplingOverrides;

use crate::{Request, Response};

/// Fields that describe the caller and change no answer.
const DESCRIPTIVE: [&str; 5] = ["model", "user", "metadata", "store", "safety_identifier"];

/// Why a request body is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    #[error("the body must be an object with `messages`, but it is {found}")]
    NoObject { found: &'static str },
    #[error("`{field}` is {value}, but it must be {must}")]
    Field { field: String, value: String, must: String },
    #[error("`{field}` is not supported")]
    Unknown { field: String },
    #[error("{0}")]
    Shape(#[from] serde_json::Error),
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// The settings of a body, besides `messages` and `tools`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    seed: Option<u64>,
    stop: Option<Stop>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    ignore_eos: bool,
    n: Option<u64>,
    stream: Option<bool>,
    response_format: Option<Value>,
    mm_processor_kwargs: Option<VideoSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// vLLM's `mm_processor_kwargs`, for all videos of the request that do not say it themselves.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct VideoSettings {
    fps: Option<f64>,
    num_frames: Option<u64>,
    min_frames: Option<u64>,
    max_frames: Option<u64>,
    total_pixels: Option<u64>,
}

/// Reads the body of `POST /v1/chat/completions`.
///
/// # Errors
/// [`BodyError`], naming the field.
pub fn parse_request(body: Value) -> Result<Request, BodyError> {
    let Value::Object(mut body) = body else {
        return Err(BodyError::NoObject { found: kind(&body) });
    };
    for field in DESCRIPTIVE {
        body.remove(field);
    }
    let mut conversation = Map::new();
    for field in ["messages", "tools"] {
        if let Some(value) = body.remove(field) {
            conversation.insert(field.to_owned(), value);
        }
    }
    let mut conversation = Conversation::from_json(&Value::Object(conversation).to_string())?;
    body.retain(|_, value| !value.is_null());
    let settings: Settings = serde_json::from_value(Value::Object(body))?;
    settings.check()?;
    if let Some(video) = &settings.mm_processor_kwargs {
        default_videos(&mut conversation.messages, &video.defaults());
    }
    Ok(settings.request(conversation))
}

impl Settings {
    fn check(&self) -> Result<(), BodyError> {
        let field = |field: &str, value: String, must: &str| {
            Err(BodyError::Field { field: field.to_owned(), value, must: must.to_owned() })
        };
        match self.n {
            None | Some(1) => {}
            Some(n) => return field("n", n.to_string(), "1 in a batch; repeat the row instead"),
        }
        if self.stream == Some(true) {
            return field("stream", "true".into(), "false in a batch");
        }
        let text = |format: &Value| format.get("type").and_then(Value::as_str) == Some("text");
        if let Some(format) = self.response_format.as_ref().filter(|format| !text(format)) {
            return field("response_format", format.to_string(), r#"{"type": "text"}"#);
        }
        match self.top_logprobs {
            Some(n) if n > 20 => field("top_logprobs", n.to_string(), "at most 20"),
            Some(n) if self.logprobs != Some(true) => {
                field("top_logprobs", n.to_string(), "left out unless `logprobs` is true")
            }
            _ => Ok(()),
        }
    }

    fn request(self, conversation: Conversation) -> Request {
        Request {
            conversation,
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            sampling: SamplingOverrides {
                do_sample: None,
                temperature: self.temperature,
                // vLLM writes -1 for all tokens.
                top_k: self.top_k.map(|k| usize::try_from(k).unwrap_or(0)),
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                seed: self.seed,
            },
            stop: match self.stop {
                None => Vec::new(),
                Some(Stop::One(stop)) => vec![stop],
                Some(Stop::Many(stops)) => stops,
            },
            logprobs: (self.logprobs == Some(true)).then(|| self.top_logprobs.unwrap_or(0)),
            ignore_eos: self.ignore_eos,
        }
    }
}

impl VideoSettings {
    fn defaults(&self) -> VideoRef {
        VideoRef {
            fps: self.fps,
            num_frames: self.num_frames,
            min_frames: self.min_frames,
            max_frames: self.max_frames,
            total_pixels: self.total_pixels,
            ..VideoRef::default()
        }
    }
}

/// The body of an answer, a `chat.completion` object; `logprobs` as the caller words them.
pub fn completion(
    response: &Response,
    id: &str,
    model: &str,
    created: u64,
    logprobs: Option<Value>,
) -> Value {
    let mut message = json!({ "role": "assistant", "content": response.text });
    if let Some(reasoning) = &response.reasoning {
        message["reasoning_content"] = json!(reasoning);
    }
    let usage = &response.usage;
    json!({
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": response.finish_reason.as_str(),
        }],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {
                "cached_tokens": usage.cached_tokens,
                "image_tokens": usage.image_tokens,
                "video_tokens": usage.video_tokens,
            },
        },
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(extra: &str) -> Value {
        let text =
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{extra}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn settings_reach_the_request() {
        let extra = r#","max_tokens":9,"temperature":0.5,"top_k":-1,"seed":7,"stop":"end","user":"me",
            "logprobs":true,"top_logprobs":3,"tools":null,"frequency_penalty":null"#;
        let request = parse_request(body(extra)).unwrap();
        assert_eq!((request.max_tokens, request.logprobs), (Some(9), Some(3)));
        assert_eq!((request.sampling.temperature, request.sampling.top_k), (Some(0.5), Some(0)));
        assert_eq!((request.sampling.seed, request.stop), (Some(7), vec!["end".to_owned()]));
        let both = parse_request(body(r#","max_tokens":9,"max_completion_tokens":5"#)).unwrap();
        assert_eq!(both.max_tokens, Some(5));
    }

    #[test]
    fn what_is_not_honoured_is_refused_by_name() {
        for (extra, name) in [
            (r#","n":2"#, "`n`"),
            (r#","stream":true"#, "`stream`"),
            (r#","logit_bias":{}"#, "logit_bias"),
            (r#","top_logprobs":3"#, "`top_logprobs`"),
            (r#","response_format":{"type":"json_object"}"#, "response_format"),
            (r#","mm_processor_kwargs":{"max_pixel":1}"#, "max_pixel"),
        ] {
            let error = parse_request(body(extra)).unwrap_err().to_string();
            assert!(error.contains(name), "{extra}: {error}");
        }
        let error = parse_request(json!([1])).unwrap_err().to_string();
        assert!(error.contains("a list"), "{error}");
        assert!(parse_request(json!({})).unwrap_err().to_string().contains("messages"));
    }
}
