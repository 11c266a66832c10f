//! The body of `POST /v1/chat/completions`.

use qwen3_vl_model::processor::message::Conversation;
use serde_json::{Map, Value};

use super::BodyError;
use super::settings::{
    ChatSettings, Common, MAX_LOGPROBS, ResponseFormat, StreamOptions, describe, object, read,
};
use crate::Request;
use crate::request::Format;
use crate::tools;

/// Variables of the chat template that follow from other fields.
const TEMPLATE_OWN: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// A chat request.
#[derive(Debug)]
pub struct ChatBody {
    /// The name of the model, where it is given.
    pub model: Option<String>,
    pub request: Request,
    /// Answers to give.
    pub n: usize,
    pub stream: bool,
    pub stream_options: StreamOptions,
    /// Whether calls of tools are looked for in the answer.
    pub tools: bool,
    /// Whether reasoning is told.
    pub reasoning: bool,
    /// Whether the boxes, points and times of the answer are told beside it.
    pub grounding: bool,
}

/// Reads the body of `POST /v1/chat/completions`.
///
/// # Errors
/// [`BodyError`], naming the field.
pub fn parse_chat(body: Value) -> Result<ChatBody, BodyError> {
    let mut body = object(body, "messages")?;
    let model = describe(&mut body)?;
    if body.get("modalities").is_some_and(|value| *value == serde_json::json!(["text"])) {
        body.remove("modalities");
    }
    let mut conversation = conversation(&mut body)?;
    let common = Common::split(&mut body)?;
    let mut settings: ChatSettings = read(body)?;
    settings.check()?;
    if let Some(media) = &settings.mm_processor_kwargs {
        media.apply(&mut conversation)?;
    }
    if let Some(media) = &settings.media_io_kwargs {
        media.apply(&mut conversation)?;
    }
    let (n, (stream, stream_options)) = (common.choices(), common.streaming());
    let (reasoning, grounding) = (settings.include_reasoning != Some(false), settings.grounding);
    let mut request = settings.request(common.request()?);
    let tools = tools::choose(&mut conversation, &mut request, settings.tool_choice.as_ref())?;
    if tools && settings.parallel_tool_calls == Some(false) {
        request.stop.push(tools::CLOSE.to_owned());
    }
    request.conversation = conversation;
    Ok(ChatBody { model, request, n, stream, stream_options, tools, reasoning, grounding })
}

/// Reads a chat request that is answered whole and once, as in a batch.
///
/// # Errors
/// [`BodyError`], naming the field.
pub fn parse_request(body: Value) -> Result<Request, BodyError> {
    let chat = parse_chat(body)?;
    if chat.n != 1 {
        return Err(BodyError::value("n", chat.n, "1 in a batch; repeat the row instead"));
    }
    if chat.stream {
        return Err(BodyError::value("stream", true, "false in a batch"));
    }
    if chat.grounding {
        return Err(BodyError::value("grounding", true, "false in a batch"));
    }
    if !chat.reasoning {
        return Err(BodyError::value("include_reasoning", false, "true in a batch"));
    }
    Ok(chat.request)
}

/// OpenAI's `developer` is the system of these templates.
fn conversation(body: &mut Map<String, Value>) -> Result<Conversation, BodyError> {
    let mut parts = Map::new();
    for field in ["messages", "tools"] {
        if let Some(value) = body.remove(field) {
            parts.insert(field.to_owned(), value);
        }
    }
    for message in parts.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten() {
        if message.get("role").and_then(Value::as_str) == Some("developer") {
            message["role"] = Value::from("system");
        }
    }
    Ok(Conversation::from_json(&Value::Object(parts).to_string())?)
}

impl ChatSettings {
    fn check(&self) -> Result<(), BodyError> {
        if self.max_completion_tokens == Some(0) {
            return Err(BodyError::value("max_completion_tokens", 0, "at least 1"));
        }
        if let Some(key) = TEMPLATE_OWN.iter().find(|k| self.chat_template_kwargs.contains_key(**k))
        {
            return Err(BodyError::Unknown { field: format!("chat_template_kwargs.{key}") });
        }
        match self.top_logprobs {
            Some(n) if n > MAX_LOGPROBS => Err(BodyError::value("top_logprobs", n, "at most 20")),
            Some(n) if self.logprobs != Some(true) => {
                Err(BodyError::value("top_logprobs", n, "left out unless `logprobs` is true"))
            }
            _ => Ok(()),
        }
    }

    fn request(&mut self, request: Request) -> Request {
        let format = self.response_format.take().map_or(Format::Text, ResponseFormat::format);
        Request {
            max_tokens: self.max_completion_tokens.or(request.max_tokens),
            logprobs: (self.logprobs == Some(true)).then(|| self.top_logprobs.unwrap_or(0)),
            format,
            template: std::mem::take(&mut self.chat_template_kwargs),
            reasoning_budget: self.thinking_token_budget,
            ..request
        }
    }
}
