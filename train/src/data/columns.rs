//! Rows whose prompt and answer stand in columns (TRL, ms-swift, alpaca), read by a column map and never by guessing.

use serde_json::{Map, Value as Json};

use super::draft::{Dialect, Turn};
use super::error::{RowProblem, type_error};
use super::keys::{self, COMMON, LABELS, given};
use super::messages;
use super::row::{refuse_preferences, turns_of};
use super::sample::ColumnMap;

const EXAMPLES: [(&str, &str); 6] = [
    ("prompt", "{ prompt = \"prompt\", answer = \"completion\" }"),
    ("completion", "{ prompt = \"prompt\", answer = \"completion\" }"),
    ("query", "{ prompt = \"query\", answer = \"response\" }"),
    ("response", "{ prompt = \"query\", answer = \"response\" }"),
    ("instruction", "{ prompt = \"instruction\", input = \"input\", answer = \"output\" }"),
    ("question", "{ prompt = \"question\", answer = \"answer\" }"),
];

pub(super) fn turns(
    map: &Map<String, Json>,
    columns: Option<&ColumnMap>,
    ignored: &[&str],
) -> Result<(Vec<Turn>, Dialect), RowProblem> {
    refuse_preferences(map)?;
    let Some(columns) = columns else { return Err(no_turns(map, ignored)) };
    let named = [&columns.input, &columns.system, &columns.history];
    let mut own: Vec<&str> = named.into_iter().flatten().map(String::as_str).collect();
    own.extend([columns.prompt.as_str(), columns.answer.as_str()]);
    keys::check(map, "The row", &[&own, &COMMON, &LABELS, ignored])?;
    let mut turns = history(map, columns)?;
    let mut prompt = column(map, &columns.prompt, "user")?;
    append_input(&mut prompt, map, columns)?;
    turns
        .extend(prompt.into_iter().map(|turn| Turn { loss: turn.loss.or(learned(&turn)), ..turn }));
    turns.extend(column(map, &columns.answer, "assistant")?);
    let dialect = messages::dialect(&turns)?;
    Ok((turns, dialect))
}

/// Answers inside a prompt are not learned, unless they say so.
fn learned(turn: &Turn) -> Option<bool> {
    (turn.role() == "assistant").then_some(false)
}

fn no_turns(map: &Map<String, Json>, ignored: &[&str]) -> RowProblem {
    if let Some((key, example)) = EXAMPLES.into_iter().find(|(key, _)| map.contains_key(*key)) {
        return RowProblem::Columns { key: key.to_owned(), example };
    }
    let unknown = keys::check(map, "The row", &[&super::keys::TURNS, &COMMON, &LABELS, ignored]);
    let missing = RowProblem::Missing {
        at: "conversations".into(),
        wanted: "a list of turns; `messages` may hold it too",
    };
    unknown.err().unwrap_or(missing)
}

/// A column with a text or a list of messages.
fn column(map: &Map<String, Json>, key: &str, role: &'static str) -> Result<Vec<Turn>, RowProblem> {
    match map.get(key) {
        Some(Json::String(text)) => {
            Ok(vec![Turn::new(key.to_owned(), role, Json::String(text.clone()))])
        }
        Some(Json::Array(list)) => turns_of(key, list).map(|(turns, _)| turns),
        Some(other) => Err(type_error(key, "a text, or a list of messages", other)),
        None => Err(RowProblem::Missing {
            at: key.to_owned(),
            wanted: "a text, or a list of messages, as the column map says",
        }),
    }
}

fn append_input(
    prompt: &mut [Turn],
    map: &Map<String, Json>,
    columns: &ColumnMap,
) -> Result<(), RowProblem> {
    let Some(key) = &columns.input else { return Ok(()) };
    let Some(input) = keys::optional_text(map, key)? else { return Ok(()) };
    match prompt {
        [turn] if turn.content_text().is_some() => {
            let text = format!("{}\n{input}", turn.content_text().unwrap_or_default());
            turn.json.insert("content".into(), Json::String(text));
            Ok(())
        }
        _ => Err(type_error(
            &columns.prompt,
            "a text, because an input follows it",
            &map[&columns.prompt],
        )),
    }
}

/// `[[question, answer], ...]`.
fn history(map: &Map<String, Json>, columns: &ColumnMap) -> Result<Vec<Turn>, RowProblem> {
    const WANTED: &str = "a list of pairs of question and answer";
    let Some(key) = &columns.history else { return Ok(Vec::new()) };
    let pairs = match given(map, key) {
        None => return Ok(Vec::new()),
        Some(Json::Array(pairs)) => pairs,
        Some(other) => return Err(type_error(key, WANTED, other)),
    };
    let mut turns = Vec::new();
    for (index, pair) in pairs.iter().enumerate() {
        let at = format!("{key}[{index}]");
        match pair.as_array().map(Vec::as_slice) {
            Some([Json::String(question), Json::String(answer)]) => {
                turns.push(Turn::new(at.clone(), "user", Json::String(question.clone())));
                turns.push(Turn::new(at, "assistant", Json::String(answer.clone())));
            }
            _ => return Err(type_error(&at, WANTED, pair)),
        }
    }
    Ok(turns)
}
