//! Whole conversations: messages files, their media in order, and images that are handed in beside them.

use serde_json::{Map, Value as Json};

use super::Message;
use super::error::{MessageError, describe, type_error};
use super::media::{MediaKind, MediaRef, VideoRef};
use crate::processor::video::with_defaults;

/// What a messages file holds: the messages and, if the file is an object, its tools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages in order; never empty after parsing.
    pub messages: Vec<Message>,
    /// Tool descriptions as JSON objects, handed to the template unchanged.
    pub tools: Vec<Json>,
}

impl Conversation {
    /// Reads a JSON list of messages, or an object with `messages` and optionally `tools`.
    ///
    /// # Errors
    /// [`MessageError`] names the index and field, such as `messages[2].content[1].image`.
    pub fn from_json(json: &str) -> Result<Self, MessageError> {
        let (messages, tools) = match serde_json::from_str(json)? {
            Json::Object(file) => split_file(file)?,
            list => (list, Json::Null),
        };
        let Json::Array(messages) = messages else {
            return Err(type_error("messages", "a list of messages", &messages));
        };
        if messages.is_empty() {
            let must = "hold at least one message".into();
            return Err(MessageError::Value { at: "messages".into(), value: "[]".into(), must });
        }
        let parsed = messages
            .into_iter()
            .enumerate()
            .map(|(i, json)| Message::parse(json, &format!("messages[{i}]")));
        Ok(Self { messages: parsed.collect::<Result<_, _>>()?, tools: parse_tools(tools)? })
    }
}

fn split_file(mut file: Map<String, Json>) -> Result<(Json, Json), MessageError> {
    let messages = file.remove("messages");
    let tools = file.remove("tools").unwrap_or(Json::Null);
    if let Some(key) = file.keys().next() {
        let allowed =
            "only `messages` and `tools`; everything else is an option of the command".into();
        return Err(MessageError::Unknown {
            at: "the messages file".into(),
            value: key.clone(),
            allowed,
        });
    }
    let missing = MessageError::Missing { at: "messages".into(), wanted: "a list of messages" };
    Ok((messages.ok_or(missing)?, tools))
}

fn parse_tools(tools: Json) -> Result<Vec<Json>, MessageError> {
    let tools = match tools {
        Json::Null => return Ok(Vec::new()),
        Json::Array(tools) => tools,
        other => return Err(type_error("tools", "a list of tool objects", &other)),
    };
    match tools.iter().position(|tool| !tool.is_object()) {
        Some(i) => Err(type_error(&format!("tools[{i}]"), "a tool object", &tools[i])),
        None => Ok(tools),
    }
}

/// Reads the messages of a file; see [`Conversation::from_json`], which also returns its tools.
///
/// # Errors
/// [`MessageError`], also if the file brings tools, which the caller would lose.
pub fn parse_messages(json: &str) -> Result<Vec<Message>, MessageError> {
    let conversation = Conversation::from_json(json)?;
    match conversation.tools.first() {
        None => Ok(conversation.messages),
        Some(tool) => Err(MessageError::Value {
            at: "tools".into(),
            value: describe(tool),
            must: "be absent where only messages are read".into(),
        }),
    }
}

/// All media of a conversation in order of appearance, which is the order of the template's placeholders.
pub fn media(messages: &[Message]) -> Vec<&MediaRef> {
    messages.iter().flat_map(|message| &message.media).collect()
}

/// All media of a conversation in order of appearance, to change their sizes and sampling. A source that is changed
/// here differs from the one in the message's JSON, which no published template reads.
pub fn media_mut(messages: &mut [Message]) -> impl Iterator<Item = &mut MediaRef> {
    messages.iter_mut().flat_map(|message| &mut message.media)
}

/// Gives the image and video parts that name no source (`{"type": "image"}`) the given media, in order. A video keeps
/// what its part says and takes the rest from the given one.
///
/// # Errors
/// [`MessageError::MediaCount`] unless there are as many media of each kind as such parts; nothing is changed then.
pub fn fill_media(messages: &mut [Message], given: Vec<MediaRef>) -> Result<(), MessageError> {
    let (images, videos): (Vec<_>, Vec<_>) =
        given.into_iter().partition(|medium| medium.kind() == MediaKind::Image);
    for (kind, given) in [(MediaKind::Image, &images), (MediaKind::Video, &videos)] {
        let placeholders = open(messages, kind).count();
        if placeholders != given.len() {
            return Err(MessageError::MediaCount { kind, given: given.len(), placeholders });
        }
    }
    for (kind, given) in [(MediaKind::Image, images), (MediaKind::Video, videos)] {
        for (slot, given) in open(messages, kind).zip(given) {
            match (slot, given) {
                (MediaRef::Image(slot), MediaRef::Image(given)) => slot.source = given.source,
                (MediaRef::Video(slot), MediaRef::Video(given)) => {
                    *slot = with_defaults(slot, &given);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The media of one kind that name no source.
fn open(messages: &mut [Message], kind: MediaKind) -> impl Iterator<Item = &mut MediaRef> {
    let all = messages.iter_mut().flat_map(|message| &mut message.media);
    all.filter(move |medium| medium.kind() == kind && medium.source().is_none())
}

/// Gives all videos the settings of `defaults` that they do not have themselves.
pub fn default_videos(messages: &mut [Message], defaults: &VideoRef) {
    for medium in messages.iter_mut().flat_map(|message| &mut message.media) {
        if let MediaRef::Video(video) = medium {
            *video = with_defaults(video, &VideoRef { source: None, ..defaults.clone() });
        }
    }
}
