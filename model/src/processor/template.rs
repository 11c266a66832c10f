//! The checkpoint's own chat template, rendered as transformers renders it.
//!
//! transformers compiles templates with jinja2 (`trim_blocks`, `lstrip_blocks`, no escaping, a JSON filter
//! with Python's separators, `raise_exception`, `strftime_now`); here minijinja does, with Python's string
//! methods. Source: `transformers.utils.chat_template_utils._cached_compile_jinja_template`.

mod clock;
mod json;

pub use clock::utc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value as Json};

use crate::processor::message::Message;

/// A chat template that cannot be found, compiled or rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// None of the three places holds a template.
    #[error(
        "The checkpoint has no chat template: neither `chat_template.jinja`, nor `chat_template.json`, nor a `chat_template` in `tokenizer_config.json`."
    )]
    Missing,
    /// A JSON file that should hold the template cannot be read.
    #[error("{file} is not valid JSON: {source}.")]
    Json {
        /// Name of the file.
        file: String,
        /// Where the reader stopped.
        source: serde_json::Error,
    },
    /// A JSON file holds something else where the template should stand.
    #[error("{file}: `chat_template` must be {expected}.")]
    Shape {
        /// Name of the file.
        file: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The template is not valid Jinja.
    #[error("{file}, line {line}: the chat template has a syntax error: {source}.")]
    Syntax {
        /// Name of the file.
        file: String,
        /// Line within the template, from 1.
        line: usize,
        /// What the compiler says.
        source: Error,
    },
    /// The template refused the messages with `raise_exception`.
    #[error("{file}, line {line}: the chat template refuses these messages: {message}")]
    Raised {
        /// Name of the file.
        file: String,
        /// Line within the template, from 1.
        line: usize,
        /// The template's own words.
        message: String,
    },
    /// The template failed while rendering.
    #[error("{file}, line {line}: the chat template failed: {source}.")]
    Render {
        /// Name of the file.
        file: String,
        /// Line within the template, from 1.
        line: usize,
        /// What the engine says.
        source: Error,
    },
}

/// The contents of the files in which a checkpoint may keep its template; `None` where a file is absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct TemplateFiles<'a> {
    /// `chat_template.jinja`.
    pub jinja: Option<&'a str>,
    /// `chat_template.json`: an object with the key `chat_template`.
    pub json: Option<&'a str>,
    /// `tokenizer_config.json`: `chat_template` is a string, or a list of `{name, template}`.
    pub tokenizer_config: Option<&'a str>,
}

/// What is rendered beside the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// Tool descriptions; an empty list means no tools.
    pub tools: Vec<Json>,
    /// Whether the text ends with the opening of an assistant turn.
    pub add_generation_prompt: bool,
    /// Further template variables, such as `add_vision_id`.
    pub extra: Map<String, Json>,
}

impl RenderOptions {
    /// The prompt of a generation: no tools, opened assistant turn.
    pub fn generation() -> Self {
        Self { add_generation_prompt: true, ..Self::default() }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    file: String,
    env: Environment<'static>,
}

impl ChatTemplate {
    /// Takes the first of `chat_template.jinja`, `chat_template.json` and `tokenizer_config.json` that holds one.
    ///
    /// # Errors
    /// [`TemplateError::Missing`] if there is none; otherwise what is wrong with the file that is used.
    pub fn from_files(files: TemplateFiles<'_>) -> Result<Self, TemplateError> {
        if let Some(source) = files.jinja {
            return Self::named("chat_template.jinja", source);
        }
        let places =
            [("chat_template.json", files.json), ("tokenizer_config.json", files.tokenizer_config)];
        for (file, text) in places {
            if let Some(source) = text.map(|text| template_of(file, text)).transpose()?.flatten() {
                return Self::named(file, &source);
            }
        }
        Err(TemplateError::Missing)
    }

    /// Compiles a template that errors will call `chat_template.jinja`.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`] with the line.
    pub fn from_source(source: &str) -> Result<Self, TemplateError> {
        Self::named("chat_template.jinja", source)
    }

    /// Compiles a template; `file` is its name in errors.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`] with the line.
    pub fn named(file: &str, source: &str) -> Result<Self, TemplateError> {
        let env = environment(file, source).map_err(|source| TemplateError::Syntax {
            file: file.to_owned(),
            line: source.line().unwrap_or(1),
            source,
        })?;
        Ok(Self { file: file.to_owned(), env })
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] or [`TemplateError::Render`] with the line.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, TemplateError> {
        let messages = messages.iter().map(|message| object(message.as_json())).collect::<Vec<_>>();
        self.render_values(Value::from(messages), options)
    }

    /// Renders messages that are already JSON objects, as [`crate::processor::prompt`] does with marked ones.
    pub(crate) fn render_json(
        &self,
        messages: &[Json],
        options: &RenderOptions,
    ) -> Result<String, TemplateError> {
        self.render_values(messages.iter().map(value).collect(), options)
    }

    fn render_values(
        &self,
        messages: Value,
        options: &RenderOptions,
    ) -> Result<String, TemplateError> {
        let tools = if options.tools.is_empty() {
            Value::from(())
        } else {
            options.tools.iter().map(value).collect()
        };
        let fixed = [
            ("messages".to_owned(), messages),
            ("tools".to_owned(), tools),
            ("documents".to_owned(), Value::from(())),
            ("add_generation_prompt".to_owned(), Value::from(options.add_generation_prompt)),
        ];
        let extra = options.extra.iter().map(|(key, json)| (key.clone(), value(json)));
        let context = Value::from_pairs(fixed.into_iter().chain(extra));
        let template = self.env.get_template(&self.file).map_err(|error| self.failed(error))?;
        template.render(context).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: Error) -> TemplateError {
        let (file, line) = (self.file.clone(), source.line().unwrap_or(1));
        match raised_message(&source) {
            Some(message) => TemplateError::Raised { file, line, message },
            None => TemplateError::Render { file, line, source },
        }
    }
}

/// The template inside a JSON file, if it has one.
fn template_of(file: &str, text: &str) -> Result<Option<String>, TemplateError> {
    const EXPECTED: &str = "a string, or a list of {name, template} with one named \"default\"";
    let json: Json = serde_json::from_str(text)
        .map_err(|source| TemplateError::Json { file: file.to_owned(), source })?;
    let shape = || TemplateError::Shape { file: file.to_owned(), expected: EXPECTED };
    match json.get("chat_template") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(source)) => Ok(Some(source.clone())),
        Some(Json::Array(named)) => {
            let default = named
                .iter()
                .find(|entry| entry.get("name").and_then(Json::as_str) == Some("default"));
            let source = default.and_then(|entry| entry.get("template")).and_then(Json::as_str);
            source.map(|source| Some(source.to_owned())).ok_or_else(shape)
        }
        Some(_) => Err(shape()),
    }
}

/// jinja2 as transformers sets it up, with the one template in it.
fn environment(file: &str, source: &str) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", json::tojson);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", clock::strftime_now);
    env.add_template_owned(file.to_owned(), source.to_owned())?;
    Ok(env)
}

/// The error that `raise_exception` leaves behind, so that it can be told from a fault of the template.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct RaisedByTemplate(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception")
        .with_source(RaisedByTemplate(message)))
}

fn raised_message(error: &Error) -> Option<String> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(RaisedByTemplate(message)) = inner.downcast_ref() {
            return Some(message.clone());
        }
        cause = inner.source();
    }
    None
}

/// JSON to a template value: objects keep the order of their keys, integers stay integers.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Json::Object(map) => object(map),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

fn object(map: &Map<String, Json>) -> Value {
    Value::from_pairs(map.iter().map(|(key, json)| (key.clone(), value(json))))
}

#[cfg(test)]
mod tests;
