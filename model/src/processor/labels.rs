//! Which tokens of a conversation are learned.
//!
//! An answer's tokens are those that the chat template writes behind its own generation prompt: the conversation up to
//! the answer, opened for it, must be the beginning of the whole rendering, and so must the conversation with the
//! answer. What lies between the two is the answer, through `<|im_end|>` and the line break behind it (as in
//! `qwenvl/data/data_processor.py` and TRL's `qwen3_vl_training.jinja`). Nothing is searched for, so no text of a message
//! can move the borders; and the text is cut at them before it is tokenised, so the ids before an answer are those that
//! generation starts from. (Where an answer begins with white space, tokenising the whole text at once, as the official
//! code does, merges the line break of the opening with it.)

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::message::{Conversation, MediaSource, Message, MessageError, Role};
use super::planned::PlannedChat;
use super::prompt::{ChatRenderer, PromptError, RenderedChat, Run};
use super::template::{ChatTemplate, RenderOptions};
use super::thinking::opens_thinking;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// What becomes of the reasoning before an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Think {
    /// It is learned like the answer.
    #[default]
    Keep,
    /// It is taken out of the messages. A Thinking template still writes an empty block, which is learned.
    Strip,
    /// It is read, but not learned.
    Mask,
}

/// The answers that are learned.
#[derive(Clone, Copy, Debug)]
pub struct Turns<'a> {
    /// One entry per message; only answers of the model can be `true`.
    pub trained: &'a [bool],
    pub think: Think,
}

/// A conversation as ids, and which of them are learned.
#[derive(Debug)]
pub struct LabelledChat {
    pub chat: PlannedChat,
    /// One entry per id: whether predicting this id counts towards the loss.
    pub targets: Vec<bool>,
}

impl LabelledChat {
    /// Ids that are learned.
    pub fn target_tokens(&self) -> usize {
        self.targets.iter().filter(|target| **target).count()
    }
}

/// A conversation whose answers cannot be told from the rest. Messages are counted from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    #[error(transparent)]
    Prompt(#[from] PromptError),
    #[error("The conversation has {messages} messages, but {flags} are marked as trained or not.")]
    Count { messages: usize, flags: usize },
    #[error("The conversation ends with {}, but training needs an answer (assistant) at the end.", ending(*.role))]
    Ending { role: Option<Role> },
    #[error("Message {message} is marked as trained, but its role is `{}`; only answers (assistant) can be.", .role.as_str())]
    Role { message: usize, role: Role },
    #[error("Message {message} is an answer with nothing before it; a prompt must stand there.")]
    NoPrompt { message: usize },
    #[error(
        "The chat template does not write answer {message} behind its own generation prompt, because it changes earlier answers (Thinking templates take their reasoning away); train the last answer only, or write one row for each answer."
    )]
    Opening { message: usize },
    #[error(
        "The chat template writes answer {message} in another way when more messages follow; train the last answer only, or write one row for each answer."
    )]
    Closing { message: usize },
    #[error(
        "The chat template leaves out the reasoning of answer {message}; take it away with think = \"strip\", or use a Thinking checkpoint."
    )]
    Reasoning { message: usize },
    #[error("The reasoning of answer {message} cannot be taken away: {why}.")]
    Strip { message: usize, why: &'static str },
    #[error(
        "The chat template leaves out message {message}, a system message that is not the first; put its text into the first one."
    )]
    Dropped { message: usize },
    #[error("Message {message} without its reasoning cannot be read: {source}")]
    Stripped { message: usize, source: MessageError },
}

fn ending(role: Option<Role>) -> String {
    role.map_or("nothing".to_owned(), |role| format!("a message of role `{}`", role.as_str()))
}

/// What a conversation brings beside its messages.
pub(super) fn options(conversation: &Conversation) -> RenderOptions {
    let tools = conversation.tools.clone();
    RenderOptions { tools, add_generation_prompt: false, extra: Map::new() }
}

/// The whole conversation, cut where learned text begins and ends.
pub(super) fn render(
    template: &ChatTemplate,
    conversation: &Conversation,
    turns: Turns<'_>,
) -> Result<RenderedChat, LabelError> {
    let messages = &conversation.messages;
    check_roles(messages, turns.trained)?;
    let stripped;
    let messages = match turns.think {
        Think::Strip => {
            let strip = |(index, message)| strip(index + 1, message);
            stripped = messages.iter().enumerate().map(strip).collect::<Result<Vec<_>, _>>()?;
            &stripped
        }
        Think::Keep | Think::Mask => messages,
    };
    let renderer = ChatRenderer::new(template, messages, &options(conversation))?;
    let text = renderer.beginning(messages.len(), false).map_err(PromptError::from)?;
    check_systems(&renderer, messages, &text)?;
    let scene = Scene { renderer: &renderer, messages, text: &text };
    let mut runs = Vec::new();
    for index in (0..messages.len()).filter(|index| turns.trained[*index]) {
        scene.answer(index, turns.think, &mut runs)?;
    }
    runs.push(Run { end: text.len(), trained: false });
    Ok(renderer.finish(text, runs))
}

fn check_roles(messages: &[Message], trained: &[bool]) -> Result<(), LabelError> {
    if messages.len() != trained.len() {
        return Err(LabelError::Count { messages: messages.len(), flags: trained.len() });
    }
    let last = messages.last().map(Message::role);
    if last != Some(Role::Assistant) {
        return Err(LabelError::Ending { role: last });
    }
    for (index, (message, trained)) in messages.iter().zip(trained).enumerate() {
        let (message, role) = (index + 1, message.role());
        match (*trained, role) {
            (true, Role::Assistant) if index == 0 => return Err(LabelError::NoPrompt { message }),
            (false, _) | (true, Role::Assistant) => {}
            (true, role) => return Err(LabelError::Role { message, role }),
        }
    }
    Ok(())
}

/// Published Instruct templates pass over system messages that are not the first.
fn check_systems(
    renderer: &ChatRenderer<'_>,
    messages: &[Message],
    text: &str,
) -> Result<(), LabelError> {
    let later = messages.iter().enumerate().skip(1).filter(|(_, m)| m.role() == Role::System);
    for (index, _) in later {
        if renderer.without(index).map_err(PromptError::from)? == text {
            return Err(LabelError::Dropped { message: index + 1 });
        }
    }
    Ok(())
}

/// A rendered conversation while its answers are looked up.
struct Scene<'a> {
    renderer: &'a ChatRenderer<'a>,
    messages: &'a [Message],
    /// The whole of it, marked.
    text: &'a str,
}

impl Scene<'_> {
    /// Appends the runs up to the end of answer `index`.
    fn answer(&self, index: usize, think: Think, runs: &mut Vec<Run>) -> Result<(), LabelError> {
        let message = index + 1;
        let opened = self.renderer.beginning(index, true).map_err(PromptError::from)?;
        if !self.text.starts_with(&opened) {
            return Err(LabelError::Opening { message });
        }
        let closed = self.renderer.beginning(index + 1, false).map_err(PromptError::from)?;
        if !closed.starts_with(&opened) {
            return Err(LabelError::Opening { message });
        }
        if !self.text.starts_with(&closed) {
            return Err(LabelError::Closing { message });
        }
        let answer = &closed[opened.len()..];
        let block = think_block(&opened, answer);
        self.check_reasoning(index, think, &answer[..block], answer)?;
        runs.push(Run { end: opened.len(), trained: false });
        let learned = if think == Think::Mask { block } else { 0 };
        runs.push(Run { end: opened.len() + learned, trained: false });
        runs.push(Run { end: closed.len(), trained: true });
        Ok(())
    }

    fn check_reasoning(
        &self,
        index: usize,
        think: Think,
        block: &str,
        answer: &str,
    ) -> Result<(), LabelError> {
        let message = index + 1;
        if think == Think::Strip {
            let inner = block.trim().trim_start_matches(OPEN).trim_end_matches(CLOSE);
            let why = "its content holds `</think>` without `<think>` at the beginning";
            return match inner.trim().is_empty() {
                true => Ok(()),
                false => Err(LabelError::Strip { message, why }),
            };
        }
        let reasoning = self.messages[index].reasoning_content().unwrap_or_default().trim();
        match self.renderer.strip(answer).contains(reasoning) {
            true => Ok(()),
            false => Err(LabelError::Reasoning { message }),
        }
    }
}

/// Bytes of the reasoning at the start of an answer, with the line breaks behind it. Reasoning without end is all of it.
fn think_block(opened: &str, answer: &str) -> usize {
    if !opens_thinking(opened) && !answer.trim_start().starts_with(OPEN) {
        return 0;
    }
    let Some(at) = answer.find(CLOSE) else { return answer.len() };
    let behind = &answer[at + CLOSE.len()..];
    answer.len() - behind.trim_start_matches('\n').len()
}

/// An answer without reasoning; `message` is its number.
fn strip(message: usize, given: &Message) -> Result<Message, LabelError> {
    if given.role() != Role::Assistant {
        return Ok(given.clone());
    }
    let mut json = given.as_json().clone();
    for key in ["reasoning_content", "reasoning", "thinking"] {
        json.shift_remove(key);
    }
    match json.get_mut("content") {
        Some(Json::String(text)) => strip_block(text),
        Some(Json::Array(parts)) => {
            if let Some(Json::String(text)) = parts.first_mut().and_then(|p| p.get_mut("text")) {
                strip_block(text);
            }
        }
        _ => {}
    }
    if json == *given.as_json() {
        return Ok(given.clone());
    }
    if given.media().iter().any(|medium| matches!(medium.source(), Some(MediaSource::Bytes(_)))) {
        let why = "the answer holds a picture or video in memory";
        return Err(LabelError::Strip { message, why });
    }
    Message::try_from(Json::Object(json)).map_err(|source| LabelError::Stripped { message, source })
}

/// Cuts `<think>..</think>` and the line breaks behind it from the start of `text`.
fn strip_block(text: &mut String) {
    let begins = text.trim_start().starts_with(OPEN);
    if let Some(at) = text.find(CLOSE).filter(|_| begins) {
        *text = text[at + CLOSE.len()..].trim_start_matches('\n').to_owned();
    }
}

#[cfg(test)]
mod tests;
