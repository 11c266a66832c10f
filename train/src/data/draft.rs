//! The turns of a row on their way to a sample: media are put in, paths resolved, boxes written, messages built.

use std::sync::Arc;

use qwen3_vl_model::processor::message::{Conversation, Message, MessageError, Role};
use serde_json::{Map, Value as Json, json};

use super::error::{Place, RowProblem};
use super::grounding;
use super::media::{PLACEHOLDERS, Pools, Resolver, resolve_part};
use super::sample::{Sample, SourceOptions, TrainOn};

/// How media stand in the turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Placeholders in texts; white space around them is dropped (`_build_messages` of qwen-vl-finetune).
    Llava,
    /// Placeholders in texts, which are kept as they are.
    Text,
    /// Content parts.
    Parts,
}

/// One turn, as the message object that it becomes.
#[derive(Debug)]
pub(super) struct Turn {
    /// Its path in the row.
    pub(super) at: String,
    pub(super) json: Map<String, Json>,
    /// Whether it is learned, where it says so.
    pub(super) loss: Option<bool>,
}

impl Turn {
    pub(super) fn new(at: String, role: &'static str, content: Json) -> Self {
        let mut json = Map::new();
        json.insert("role".into(), role.into());
        json.insert("content".into(), content);
        Self { at, json, loss: None }
    }

    pub(super) fn role(&self) -> &str {
        self.json.get("role").and_then(Json::as_str).unwrap_or_default()
    }

    /// Whether placeholders in its texts stand for media.
    pub(super) fn takes_media(&self) -> bool {
        matches!(self.role(), "user" | "tool")
    }

    pub(super) fn content_text(&self) -> Option<&str> {
        self.json.get("content")?.as_str()
    }

    fn parts(&self) -> &[Json] {
        self.json.get("content").and_then(Json::as_array).map_or(&[], Vec::as_slice)
    }

    /// All its texts in order.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let parts = self.parts().iter().filter_map(|part| part.get("text")?.as_str());
        self.content_text().into_iter().chain(parts)
    }

    pub(super) fn has_media_parts(&self) -> bool {
        self.parts().iter().any(|part| media_name(part).is_some())
    }

    /// Parts that wait for a file of the kind that `placeholder` stands for.
    pub(super) fn open_parts(&self, placeholder: &str) -> usize {
        self.parts().iter().filter(|part| open_slot(part) == slot(placeholder)).count()
    }

    /// Gives files to the parts that wait for one; what a part says itself is kept.
    pub(super) fn fill_parts(&mut self, pools: &mut [std::vec::IntoIter<Json>; 2]) {
        let Some(Json::Array(parts)) = self.json.get_mut("content") else { return };
        for part in parts {
            let file = open_slot(part).and_then(|slot| pools[slot].next());
            if let (Json::Object(part), Some(Json::Object(file))) = (part, file) {
                file.into_iter().for_each(|(key, value)| drop(part.insert(key, value)));
            }
        }
    }

    /// Cuts its texts at placeholders and puts the files there.
    pub(super) fn split(&mut self, pools: &mut [std::vec::IntoIter<Json>; 2], strip: bool) {
        if !strip && !self.texts().any(|text| PLACEHOLDERS.iter().any(|p| text.contains(p))) {
            return;
        }
        let texts: Vec<String> = self.texts().map(str::to_owned).collect();
        let mut parts = Vec::new();
        for text in &texts {
            split_text(text, pools, strip, &mut parts);
        }
        self.json.insert("content".into(), Json::Array(parts));
    }
}

/// The pieces of `text` between placeholders as text parts, and a file for each placeholder.
fn split_text(
    text: &str,
    pools: &mut [std::vec::IntoIter<Json>; 2],
    strip: bool,
    parts: &mut Vec<Json>,
) {
    let push = |text: &str, parts: &mut Vec<Json>| {
        let text = if strip { text.trim_matches(is_python_space) } else { text };
        if !text.is_empty() {
            parts.push(json!({"type": "text", "text": text}));
        }
    };
    let mut rest = text;
    let find = |text: &str| {
        let found = PLACEHOLDERS.iter().enumerate().filter_map(|(k, p)| Some((text.find(p)?, k)));
        found.min()
    };
    while let Some((at, kind)) = find(rest) {
        push(&rest[..at], parts);
        parts.extend(pools[kind].next());
        rest = &rest[at + PLACEHOLDERS[kind].len()..];
    }
    push(rest, parts);
}

/// What Python's `str.strip` takes away.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn slot(placeholder: &str) -> Option<usize> {
    PLACEHOLDERS.iter().position(|name| *name == placeholder)
}

fn media_name(part: &Json) -> Option<&str> {
    const KEYS: [&str; 4] = ["image", "image_url", "video", "video_url"];
    match part.get("type").and_then(Json::as_str) {
        Some(name @ ("image" | "image_url" | "input_image" | "video" | "video_url")) => Some(name),
        Some(_) => None,
        None => KEYS.into_iter().find(|key| part.get(*key).is_some()),
    }
}

/// Whether a part waits for a picture (0) or a video (1): `{"type": "image"}`.
fn open_slot(part: &Json) -> Option<usize> {
    let named =
        |keys: [&str; 3]| keys.iter().any(|key| part.get(*key).is_some_and(|v| !v.is_null()));
    match part.get("type").and_then(Json::as_str) {
        Some("image") if !named(["image", "url", "path"]) => Some(0),
        Some("video") if !named(["video", "url", "path"]) => Some(1),
        _ => None,
    }
}

/// A row without its sample.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) turns: Vec<Turn>,
    pub(super) dialect: Dialect,
    pub(super) tools: Vec<Json>,
    pub(super) pools: Pools,
    pub(super) objects: Option<Json>,
}

impl Draft {
    pub(super) fn finish(
        mut self,
        options: &SourceOptions,
        resolver: &Resolver,
        place: Place,
        channel: Arc<str>,
    ) -> Result<Sample, RowProblem> {
        self.resolve(resolver)?;
        self.pools.place(&mut self.turns, self.dialect)?;
        let mut messages = build(&self.turns)?;
        let mut found = grounding::Found::default();
        if let Some(objects) = &self.objects {
            found = grounding::write(objects, &mut self.turns, &messages)?;
            messages = build(&self.turns)?;
        }
        let trained = trained(&self.turns, options.train_on)?;
        grounding::answers(&messages, &trained, options.check_boxes, &mut found)?;
        let conversation = Conversation { messages, tools: self.tools };
        let think = options.think;
        let (boxes, notes) = (found.boxes, found.notes);
        Ok(Sample { place, channel, conversation, trained, think, boxes, notes })
    }

    fn resolve(&mut self, resolver: &Resolver) -> Result<(), RowProblem> {
        for turn in &mut self.turns {
            let Some(Json::Array(parts)) = turn.json.get_mut("content") else { continue };
            for (index, part) in parts.iter_mut().enumerate() {
                if let Json::Object(part) = part {
                    resolve_part(part, &format!("{}.content[{index}]", turn.at), resolver)?;
                }
            }
        }
        Ok(())
    }
}

fn build(turns: &[Turn]) -> Result<Vec<Message>, RowProblem> {
    let message = |turn: &Turn| {
        let read = Message::try_from(Json::Object(turn.json.clone()));
        read.map_err(|error| RowProblem::Message(placed(error, &turn.at)))
    };
    turns.iter().map(message).collect()
}

/// The same error with the path of its turn before its own.
fn placed(error: MessageError, turn: &str) -> MessageError {
    let join = |at: String| format!("{turn}.{at}");
    match error {
        MessageError::Type { at, expected, found } => {
            MessageError::Type { at: join(at), expected, found }
        }
        MessageError::Missing { at, wanted } => MessageError::Missing { at: join(at), wanted },
        MessageError::Unknown { at, value, allowed } => {
            MessageError::Unknown { at: join(at), value, allowed }
        }
        MessageError::Contradiction { at, kind, key } => {
            MessageError::Contradiction { at: join(at), kind, key }
        }
        MessageError::Value { at, value, must } => {
            MessageError::Value { at: join(at), value, must }
        }
        other => other,
    }
}

/// Which turns are learned: those that say so, else by the rule.
fn trained(turns: &[Turn], rule: TrainOn) -> Result<Vec<bool>, RowProblem> {
    let answer = |turn: &Turn| turn.role() == Role::Assistant.as_str();
    let last = turns.iter().rposition(answer);
    let flag = |(index, turn): (usize, &Turn)| match (answer(turn), turn.loss) {
        (true, Some(said)) => Ok(said),
        (true, None) => Ok(rule == TrainOn::All || Some(index) == last),
        (false, Some(true)) => Err(RowProblem::Value {
            at: turn.at.clone(),
            value: format!("a turn of role `{}` that is to be learned", turn.role()),
            must: "be an answer (assistant, gpt); nothing else is learned".into(),
        }),
        (false, _) => Ok(false),
    };
    let flags: Vec<bool> = turns.iter().enumerate().map(flag).collect::<Result<_, _>>()?;
    match (last, flags.contains(&true)) {
        (_, true) => Ok(flags),
        (None, false) => Err(RowProblem::NoTarget { why: "it has no answer (assistant, gpt)" }),
        (Some(_), false) => Err(RowProblem::NoTarget { why: "every answer says that it is not" }),
    }
}
