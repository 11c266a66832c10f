//! Chat messages: what a user hands in, what the chat template sees, and the media in between.
//!
//! A message keeps the JSON object it was read from, so that the checkpoint's template renders exactly
//! what it would render in Python, and beside it the media that its parts name, in order.
//! OpenAI content parts (`image_url`, `video_url`, `input_text`, `input_image`) and Qwen content parts
//! (`image`, `video`, with per-item sizes) may be mixed. Three keys differ from the input: `type: "video_url"`
//! becomes `type: "video"` (published templates know no other spelling), `reasoning_content` is filled
//! from `reasoning` or `thinking` (transformers `_alias_reasoning_fields`), nothing else is touched.

mod conversation;
mod error;
mod fields;
mod media;
mod part;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

pub use conversation::{
    Conversation, default_videos, fill_media, media, media_mut, parse_messages,
};
pub use error::MessageError;
pub use media::{Detail, ImageRef, MediaKind, MediaRef, MediaSource, VideoRef};

use error::{child, type_error};

/// Who speaks. Other roles (`developer`, `function`) are refused, because the published templates drop them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions that stand before the conversation.
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The role's name in the JSON and in the template.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Role::System, Role::User, Role::Assistant, Role::Tool]
            .into_iter()
            .find(|role| role.as_str() == name)
    }
}

/// One chat message: its JSON object as the template sees it, and its media in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Json", into = "Json")]
pub struct Message {
    role: Role,
    json: Map<String, Json>,
    media: Vec<MediaRef>,
}

impl Message {
    /// An empty message, to be filled by [`Message::image`], [`Message::video`] and [`Message::text`] in order.
    pub fn new(role: Role) -> Self {
        let mut json = Map::new();
        json.insert("role".into(), role.as_str().into());
        json.insert("content".into(), Json::Array(Vec::new()));
        Self { role, json, media: Vec::new() }
    }

    fn of_text(role: Role, text: impl Into<String>) -> Self {
        let mut message = Self::new(role);
        message.json.insert("content".into(), Json::String(text.into()));
        message
    }

    /// A system message.
    pub fn system(text: impl Into<String>) -> Self {
        Self::of_text(Role::System, text)
    }

    /// A user message that begins with `text`; parts may follow.
    pub fn user(text: impl Into<String>) -> Self {
        Self::of_text(Role::User, text)
    }

    /// An answer of the model, for the history of a conversation.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::of_text(Role::Assistant, text)
    }

    /// The result of a tool call.
    pub fn tool(text: impl Into<String>) -> Self {
        Self::of_text(Role::Tool, text)
    }

    /// Appends a text part.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        let part = part::text(text.into());
        self.parts_mut().push(part);
        self
    }

    /// Appends an image part: a path, an `http(s)`, `file` or `data` URL, or the bytes of an image file.
    #[must_use]
    pub fn image(self, source: impl Into<MediaSource>) -> Self {
        self.media_part(MediaRef::Image(ImageRef::new(source)))
    }

    /// Appends a video part: a path, a URL, the bytes of a video file, or a list of frame files.
    #[must_use]
    pub fn video(self, source: impl Into<MediaSource>) -> Self {
        self.media_part(MediaRef::Video(VideoRef::new(source)))
    }

    /// Appends a media part with per-item sizes or sampling.
    #[must_use]
    pub fn media_part(mut self, media: MediaRef) -> Self {
        let part = media.to_part();
        self.parts_mut().push(part);
        self.media.push(media);
        self
    }

    /// Sets the reasoning that stands before an assistant's answer (Thinking templates).
    #[must_use]
    pub fn reasoning(mut self, text: impl Into<String>) -> Self {
        self.json.insert("reasoning_content".into(), Json::String(text.into()));
        self
    }

    /// The content as a list of parts; a string becomes its first part.
    fn parts_mut(&mut self) -> &mut Vec<Json> {
        let content = self.json.entry("content").or_insert(Json::Null);
        if !content.is_array() {
            let parts = match content.take() {
                Json::String(text) if !text.is_empty() => vec![part::text(text)],
                _ => Vec::new(),
            };
            *content = Json::Array(parts);
        }
        match content {
            Json::Array(parts) => parts,
            _ => unreachable!("the content was made a list just above"),
        }
    }

    /// Who speaks.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The message as the template sees it.
    pub fn as_json(&self) -> &Map<String, Json> {
        &self.json
    }

    /// The media of this message in the order of its parts.
    pub fn media(&self) -> &[MediaRef] {
        &self.media
    }

    /// All text parts in order, joined without separator.
    pub fn all_text(&self) -> String {
        match self.json.get("content") {
            Some(Json::String(text)) => text.clone(),
            Some(Json::Array(parts)) => {
                parts.iter().filter_map(|part| part.get("text")?.as_str()).collect()
            }
            _ => String::new(),
        }
    }

    /// The reasoning of an assistant turn, if the message carries one.
    pub fn reasoning_content(&self) -> Option<&str> {
        self.json.get("reasoning_content")?.as_str()
    }

    /// The tool calls of an assistant turn, raw; empty if there are none.
    pub fn tool_calls(&self) -> &[Json] {
        self.json.get("tool_calls").and_then(Json::as_array).map_or(&[], Vec::as_slice)
    }

    fn parse(json: Json, at: &str) -> Result<Self, MessageError> {
        let Json::Object(mut json) = json else {
            return Err(type_error(at, "a message object", &json));
        };
        let role = parse_role(&json, at)?;
        check_tool_calls(&json, at)?;
        alias_reasoning(&mut json);
        let media = parse_content(&mut json, role, at)?;
        Ok(Self { role, json, media })
    }
}

impl TryFrom<Json> for Message {
    type Error = MessageError;

    fn try_from(json: Json) -> Result<Self, MessageError> {
        Self::parse(json, "")
    }
}

impl From<Message> for Json {
    fn from(message: Message) -> Json {
        Json::Object(message.json)
    }
}

fn parse_role(json: &Map<String, Json>, at: &str) -> Result<Role, MessageError> {
    const ROLES: &str = "\"system\", \"user\", \"assistant\" or \"tool\"";
    let at = child(at, "role");
    match json.get("role") {
        Some(Json::String(name)) => Role::parse(name).ok_or_else(|| MessageError::Unknown {
            at,
            value: name.clone(),
            allowed: ROLES.into(),
        }),
        Some(other) => Err(type_error(&at, "a role name", other)),
        None => Err(MessageError::Missing { at, wanted: ROLES }),
    }
}

/// Tool calls must be objects with a name, bare or under `function`: the templates print that name.
fn check_tool_calls(json: &Map<String, Json>, at: &str) -> Result<(), MessageError> {
    let at = child(at, "tool_calls");
    let calls = match json.get("tool_calls") {
        None | Some(Json::Null) => return Ok(()),
        Some(Json::Array(calls)) => calls,
        Some(other) => return Err(type_error(&at, "a list of tool calls", other)),
    };
    for (index, call) in calls.iter().enumerate() {
        let function = call.get("function").unwrap_or(call);
        if !function.get("name").is_some_and(Json::is_string) {
            let at = format!("{at}[{index}].name");
            return Err(MessageError::Missing {
                at,
                wanted: "the name of the function that is called",
            });
        }
    }
    Ok(())
}

/// transformers `_alias_reasoning_fields`: the templates read `reasoning_content` only.
fn alias_reasoning(json: &mut Map<String, Json>) {
    let given = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|key| {
        match json.get(*key) {
            None | Some(Json::Null) => None,
            Some(value) => Some(value.clone()),
        }
    });
    if let Some(value) = given {
        json.insert("reasoning_content".into(), value);
    }
}

fn parse_content(
    json: &mut Map<String, Json>,
    role: Role,
    at: &str,
) -> Result<Vec<MediaRef>, MessageError> {
    let at = child(at, "content");
    match json.get_mut("content") {
        Some(Json::String(_)) => Ok(Vec::new()),
        Some(Json::Array(parts)) => {
            let parsed = parts
                .iter_mut()
                .enumerate()
                .map(|(i, part)| part::parse(part, &format!("{at}[{i}]")));
            Ok(parsed.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        }
        // An assistant turn that only calls tools: OpenAI writes `content: null`, and it renders as nothing.
        None | Some(Json::Null) if role == Role::Assistant => Ok(Vec::new()),
        None => Err(MessageError::Missing { at, wanted: "a string or a list of content parts" }),
        Some(other) => Err(type_error(&at, "a string or a list of content parts", other)),
    }
}

#[cfg(test)]
mod tests;
