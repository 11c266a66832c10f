//! The settings of a request body, besides what is asked.

use std::collections::BTreeMap;

use qwen3_vl_model::sample::SamplingOverrides;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::media::{IoSettings, ProcessorSettings};
use super::{BodyError, kind};
use crate::Request;
use crate::request::Format;

/// Fields that describe the caller and change no answer.
pub const DESCRIPTIVE: [&str; 6] =
    ["model", "user", "metadata", "store", "safety_identifier", "prompt_cache_key"];

/// Sampling and length, alike in chats and completions.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Common {
    max_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    seed: Option<i64>,
    stop: Option<OneOrMany>,
    stop_token_ids: Vec<u32>,
    logit_bias: BTreeMap<String, f64>,
    ignore_eos: bool,
    prompt_logprobs: Option<i64>,
    n: Option<u64>,
    stream: bool,
    stream_options: Option<StreamOptions>,
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamOptions {
    /// Whether a last chunk tells token counts.
    pub include_usage: bool,
}

/// The rest of a chat's settings.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChatSettings {
    pub max_completion_tokens: Option<usize>,
    pub logprobs: Option<bool>,
    pub top_logprobs: Option<usize>,
    pub response_format: Option<ResponseFormat>,
    pub tool_choice: Option<ToolChoice>,
    pub parallel_tool_calls: Option<bool>,
    pub chat_template_kwargs: Map<String, Value>,
    pub thinking_token_budget: Option<usize>,
    pub include_reasoning: Option<bool>,
    pub grounding: bool,
    pub mm_processor_kwargs: Option<ProcessorSettings>,
    pub media_io_kwargs: Option<IoSettings>,
}

/// `tool_choice`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "ToolChoiceJson")]
pub enum ToolChoice {
    /// The model is not told of the tools.
    None,
    /// The model decides.
    #[default]
    Auto,
    /// The answer is a call of some tool.
    Required,
    /// The answer is a call of this tool.
    Function(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ToolChoiceJson {
    Mode(ToolMode),
    Named { r#type: FunctionType, function: NamedFunction },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ToolMode {
    None,
    Auto,
    Required,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum FunctionType {
    Function,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedFunction {
    name: String,
}

impl From<ToolChoiceJson> for ToolChoice {
    fn from(json: ToolChoiceJson) -> Self {
        match json {
            ToolChoiceJson::Mode(ToolMode::None) => Self::None,
            ToolChoiceJson::Mode(ToolMode::Auto) => Self::Auto,
            ToolChoiceJson::Mode(ToolMode::Required) => Self::Required,
            ToolChoiceJson::Named { r#type: FunctionType::Function, function } => {
                Self::Function(function.name)
            }
        }
    }
}

/// `response_format`.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ResponseFormat {
    Text {},
    JsonObject {},
    JsonSchema { json_schema: JsonSchema },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JsonSchema {
    schema: Value,
    // What the grammar is called and meant for changes nothing in it, and it is always strict.
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

impl ResponseFormat {
    pub(super) fn format(self) -> Format {
        match self {
            Self::Text {} => Format::Text,
            Self::JsonObject {} => Format::json(),
            Self::JsonSchema { json_schema } => Format::Schema(json_schema.schema),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn strings(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }

    /// Every stop string is looked for at every token.
    fn check(&self) -> Result<(), BodyError> {
        let (count, bytes) = match self {
            Self::One(one) => (1, one.len()),
            Self::Many(many) => (many.len(), many.iter().map(String::len).sum()),
        };
        if count > MAX_STOPS || bytes > MAX_STOP_BYTES {
            let found = format!("{count} strings of {bytes} bytes");
            let must = "at most 256 strings of 8,192 bytes together";
            return Err(BodyError::value("stop", found, must));
        }
        Ok(())
    }
}

impl Common {
    /// Takes its fields out of a body.
    pub(super) fn split(body: &mut Map<String, Value>) -> Result<Self, BodyError> {
        const FIELDS: [&str; 17] = [
            "max_tokens",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "seed",
            "stop",
            "stop_token_ids",
            "logit_bias",
            "ignore_eos",
            "prompt_logprobs",
            "n",
            "stream",
            "stream_options",
        ];
        let mut own = Map::new();
        for field in FIELDS {
            if let Some(value) = body.remove(field) {
                own.insert(field.to_owned(), value);
            }
        }
        let common: Self = read(own)?;
        common.check()?;
        Ok(common)
    }

    fn check(&self) -> Result<(), BodyError> {
        if let Some(n) = self.n.filter(|n| !(1..=MAX_CHOICES).contains(n)) {
            return Err(BodyError::value("n", n, "from 1 to 128"));
        }
        if self.stream_options.is_some() && !self.stream {
            let must = "left out unless `stream` is true";
            return Err(BodyError::value("stream_options", "given", must));
        }
        if self.max_tokens == Some(0) {
            return Err(BodyError::value("max_tokens", 0, "at least 1"));
        }
        if let Some(k) = self.top_k.filter(|k| *k < -1) {
            return Err(BodyError::value("top_k", k, "at least 1, or -1 or 0 for all"));
        }
        if self.stop_token_ids.len() > MAX_STOP_IDS {
            let found = format!("a list of {}", self.stop_token_ids.len());
            return Err(BodyError::value("stop_token_ids", found, "of at most 1,024 ids"));
        }
        self.stop.as_ref().map_or(Ok(()), OneOrMany::check)?;
        let known = 0..=MAX_LOGPROBS as i64;
        if let Some(n) = self.prompt_logprobs.filter(|n| !known.contains(n)) {
            return Err(BodyError::value("prompt_logprobs", n, "from 0 to 20"));
        }
        self.biases().map(|_| ())
    }

    fn biases(&self) -> Result<Vec<(u32, f32)>, BodyError> {
        let bias = |(id, bias): (&String, &f64)| match id.parse::<u32>() {
            // Another spelling, such as `+7` or `07`, would count twice.
            Ok(number) if number.to_string() == *id => match (-100.0..=100.0).contains(bias) {
                true => Ok((number, *bias as f32)),
                false => {
                    let field = format!("logit_bias.{id}");
                    Err(BodyError::value(&field, bias, "from -100 to 100"))
                }
            },
            _ => {
                let value = format!("keyed by `{id}`");
                Err(BodyError::value("logit_bias", value, "keyed by token ids"))
            }
        };
        self.logit_bias.iter().map(bias).collect()
    }

    pub(super) fn choices(&self) -> usize {
        self.n.unwrap_or(1) as usize
    }

    pub(super) fn streaming(&self) -> (bool, StreamOptions) {
        (self.stream, self.stream_options.unwrap_or_default())
    }

    /// A request with these settings and nothing asked.
    pub(super) fn request(self) -> Result<Request, BodyError> {
        let logit_bias = self.biases()?;
        Ok(Request {
            max_tokens: self.max_tokens,
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
                // OpenAI's seeds are signed.
                seed: self.seed.map(i64::cast_unsigned),
                logit_bias,
            },
            stop: self.stop.map(OneOrMany::strings).unwrap_or_default(),
            stop_token_ids: self.stop_token_ids,
            ignore_eos: self.ignore_eos,
            prompt_logprobs: self.prompt_logprobs.and_then(|n| usize::try_from(n).ok()),
            ..Request::default()
        })
    }
}

/// Most choices of one request, as OpenAI has it.
const MAX_CHOICES: u64 = 128;
/// Most stop strings.
const MAX_STOPS: usize = 256;
/// Most bytes of all stop strings.
const MAX_STOP_BYTES: usize = 8192;
/// Most ids that end an answer.
const MAX_STOP_IDS: usize = 1024;

/// The body of `POST /v1/completions`.
#[derive(Debug)]
pub struct CompletionBody {
    /// The name of the model, where it is given.
    pub model: Option<String>,
    pub prompts: Vec<Prompts>,
    pub request: Request,
    /// Answers per prompt.
    pub n: usize,
    pub stream: bool,
    pub stream_options: StreamOptions,
    /// Whether the prompt stands before the answer.
    pub echo: bool,
}

/// One prompt, as text or as ids.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Prompts {
    Text(String),
    Ids(Vec<u32>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CompletionSettings {
    prompt: Option<PromptJson>,
    echo: bool,
    logprobs: Option<usize>,
    response_format: Option<ResponseFormat>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum PromptJson {
    One(Prompts),
    Many(Vec<Prompts>),
}

impl PromptJson {
    pub(super) fn prompts(self) -> Vec<Prompts> {
        match self {
            Self::One(prompt) => vec![prompt],
            Self::Many(prompts) => prompts,
        }
    }
}

/// Reads the body of `POST /v1/completions`.
///
/// # Errors
/// [`BodyError`], naming the field.
pub fn parse_completion(body: Value) -> Result<CompletionBody, BodyError> {
    let mut body = object(body, "prompt")?;
    let model = describe(&mut body)?;
    let common = Common::split(&mut body)?;
    let settings: CompletionSettings = read(body)?;
    let prompts = settings.prompt.map(PromptJson::prompts).unwrap_or_default();
    if prompts.is_empty() {
        return Err(BodyError::Missing { field: "prompt", must: "a text, token ids, or a list" });
    }
    if let Some(n) = settings.logprobs.filter(|n| *n > MAX_LOGPROBS) {
        return Err(BodyError::value("logprobs", n, "at most 20"));
    }
    let (n, (stream, stream_options)) = (common.choices(), common.streaming());
    let request = Request {
        logprobs: settings.logprobs,
        format: settings.response_format.map_or(Format::Text, ResponseFormat::format),
        ..common.request()?
    };
    Ok(CompletionBody { model, prompts, request, n, stream, stream_options, echo: settings.echo })
}

/// Most alternatives that are told per token.
pub(super) const MAX_LOGPROBS: usize = 20;

pub(super) fn object(body: Value, wanted: &'static str) -> Result<Map<String, Value>, BodyError> {
    match body {
        Value::Object(mut body) => {
            body.retain(|_, value| !value.is_null());
            body.values_mut().for_each(whole);
            Ok(body)
        }
        other => Err(BodyError::NoObject { wanted, found: kind(&other) }),
    }
}

/// Writes `4.0` as `4`: some languages know no whole numbers.
fn whole(value: &mut Value) {
    /// Up to here every whole number is exact in f64.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some(number) = value.as_f64().filter(|_| value.is_f64())
        && number.fract() == 0.0
        && number.abs() <= EXACT
    {
        *value = Value::from(number as i64);
    }
}

/// Removes the fields that describe the caller, and returns the model's name.
pub(super) fn describe(body: &mut Map<String, Value>) -> Result<Option<String>, BodyError> {
    let model = match body.get("model") {
        None => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(other) => return Err(BodyError::value("model", kind(other), "a string")),
    };
    DESCRIPTIVE.iter().for_each(|field| drop(body.remove(*field)));
    Ok(model)
}

pub(super) fn read<T: DeserializeOwned>(body: Map<String, Value>) -> Result<T, BodyError> {
    serde_path_to_error::deserialize(Value::Object(body)).map_err(|error| BodyError::of(&error))
}
