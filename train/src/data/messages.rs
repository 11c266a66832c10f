//! Turns with `role` and `content`: texts with placeholders (ms-swift, LLaMA-Factory), or lists of parts (Hugging Face,
//! OpenAI).

use serde_json::{Map, Value as Json};

use super::draft::{Dialect, Turn};
use super::error::{RowProblem, nearest};
use super::keys::{self, LOSS};
use super::media::PLACEHOLDERS;
use super::row::mixed;

const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];
const KEYS: [&str; 8] = [
    "role",
    "content",
    "tool_calls",
    "tool_call_id",
    "name",
    "reasoning_content",
    "reasoning",
    "thinking",
];

/// One turn. What its parts hold is checked when the messages are built.
pub(super) fn turn(map: &Map<String, Json>, at: String) -> Result<Turn, RowProblem> {
    keys::check(map, &at, &[&KEYS, &LOSS])?;
    let role = keys::text(map, &at, "role", "system, user, assistant or tool")?;
    if !ROLES.contains(&role) {
        let nearest = match role {
            "human" => Some("user".to_owned()),
            "gpt" | "model" => Some("assistant".to_owned()),
            "tool_response" | "observation" | "function" => Some("tool".to_owned()),
            _ => nearest(role, &ROLES),
        };
        let (role, known) = (role.to_owned(), "system, user, assistant and tool");
        return Err(RowProblem::UnknownRole { at: format!("{at}.role"), role, nearest, known });
    }
    let loss = keys::loss(map, &at)?;
    let mut json = map.clone();
    LOSS.iter().for_each(|key| drop(json.shift_remove(*key)));
    Ok(Turn { at, json, loss })
}

/// A row with media among its parts has no placeholders.
pub(super) fn dialect(turns: &[Turn]) -> Result<Dialect, RowProblem> {
    let Some(parts) = turns.iter().find(|turn| turn.has_media_parts()) else {
        return Ok(Dialect::Text);
    };
    let holds = |text: &str| PLACEHOLDERS.iter().find(|name| text.contains(**name));
    for turn in turns.iter().filter(|turn| turn.takes_media()) {
        if let Some(name) = turn.content_text().and_then(holds) {
            let first = format!("`{name}` in {}.content", turn.at);
            return Err(mixed(&first, &format!("a list of parts with media in {}", parts.at)));
        }
    }
    Ok(Dialect::Parts)
}
