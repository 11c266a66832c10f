//! One row: which dialect it is written in, and what it says beside its turns.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::columns;
use super::draft::{Dialect, Draft, Turn};
use super::error::{Place, RowProblem, describe, type_error};
use super::keys::{self, COMMON, LABELS, TURNS, given};
use super::media::{Pools, Resolver};
use super::sample::{Sample, SourceOptions};
use super::{json, llava, messages};

/// Reads the rows of one file.
#[derive(Debug)]
pub(super) struct RowReader {
    options: SourceOptions,
    channel: Arc<str>,
    resolver: Resolver,
}

impl RowReader {
    pub(super) fn new(options: SourceOptions) -> Self {
        let stem = options.path.file_stem().unwrap_or_default().to_string_lossy();
        let channel = Arc::from(options.channel.as_deref().unwrap_or(&stem));
        let folder = options.path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let resolver = Resolver::new(folder, options.root.clone());
        Self { options, channel, resolver }
    }

    pub(super) fn channel(&self) -> &Arc<str> {
        &self.channel
    }

    /// The conversations of a row.
    pub(super) fn samples(&self, bytes: &[u8], place: &Place) -> Result<Vec<Sample>, RowProblem> {
        match json::parse(bytes).map_err(RowProblem::Json)? {
            Json::Object(map) => Ok(vec![self.sample(&map, place)?]),
            Json::Array(rows) if rows.is_empty() => {
                let must = "hold at least one row".to_owned();
                Err(RowProblem::Value { at: "The packed row".into(), value: "[]".into(), must })
            }
            Json::Array(rows) => rows.iter().map(|row| self.packed(row, place)).collect(),
            other => Err(type_error("The row", "an object, or a list of objects", &other)),
        }
    }

    fn packed(&self, row: &Json, place: &Place) -> Result<Sample, RowProblem> {
        match row {
            Json::Object(map) => self.sample(map, place),
            other => Err(type_error("The packed row", "a list of objects only", other)),
        }
    }

    fn sample(&self, map: &Map<String, Json>, place: &Place) -> Result<Sample, RowProblem> {
        let (mut turns, dialect) = self.turns(map)?;
        if let Some(system) = self.system(map)? {
            prepend(&mut turns, system)?;
        }
        let channel = match keys::optional_text(map, "channel")? {
            Some(name) => Arc::from(name),
            None => self.channel.clone(),
        };
        let draft = Draft {
            turns,
            dialect,
            tools: tools(map)?,
            pools: pools(map, dialect, &self.resolver)?,
            objects: given(map, "objects").cloned(),
        };
        draft.finish(&self.options, &self.resolver, place.clone(), channel)
    }

    fn turns(&self, map: &Map<String, Json>) -> Result<(Vec<Turn>, Dialect), RowProblem> {
        let ignored: Vec<&str> = self.options.ignore.iter().map(String::as_str).collect();
        let both = TURNS.map(|key| given(map, key).is_some());
        let key = match both {
            [true, true] => return Err(mixed("`conversations`", "`messages`")),
            [true, false] => "conversations",
            [false, true] => "messages",
            [false, false] => {
                return columns::turns(map, self.options.columns.as_ref(), &ignored);
            }
        };
        refuse_preferences(map)?;
        keys::check(map, "The row", &[&TURNS, &COMMON, &LABELS, &ignored])?;
        let Json::Array(list) = &map[key] else {
            return Err(type_error(key, "a list of turns", &map[key]));
        };
        let (turns, dialect) = turns_of(key, list)?;
        let sharegpt = ["images", "videos"].iter().any(|key| given(map, key).is_some());
        match dialect {
            Dialect::Llava if sharegpt => Ok((turns, Dialect::Text)),
            dialect => Ok((turns, dialect)),
        }
    }

    fn system(&self, map: &Map<String, Json>) -> Result<Option<String>, RowProblem> {
        let columns = self
            .options
            .columns
            .as_ref()
            .filter(|_| !TURNS.iter().any(|key| map.contains_key(*key)));
        let key = columns.map_or(Some("system"), |columns| columns.system.as_deref());
        key.map_or(Ok(None), |key| keys::optional_text(map, key))
    }
}

/// Turns of either way of writing; all of a row must be written in the same.
pub(super) fn turns_of(key: &str, list: &[Json]) -> Result<(Vec<Turn>, Dialect), RowProblem> {
    let mut turns = Vec::with_capacity(list.len());
    let mut styles: [Option<usize>; 2] = [None, None];
    for (index, turn) in list.iter().enumerate() {
        let at = format!("{key}[{index}]");
        let Json::Object(turn) = turn else { return Err(type_error(&at, "a turn object", turn)) };
        let is_llava = turn.contains_key("from") || turn.contains_key("value");
        let is_messages = turn.contains_key("role") || turn.contains_key("content");
        if is_llava && is_messages {
            return Err(mixed("`from` and `value`", "`role` and `content`"));
        }
        styles[usize::from(is_llava)].get_or_insert(index);
        turns.push(if is_llava { llava::turn(turn, at)? } else { messages::turn(turn, at)? });
    }
    match styles {
        [Some(message), Some(llava)] => Err(mixed(
            &format!("`from` and `value` in {key}[{llava}]"),
            &format!("`role` and `content` in {key}[{message}]"),
        )),
        [None, None] => {
            let must = "hold at least one turn".to_owned();
            Err(RowProblem::Value { at: key.to_owned(), value: "[]".into(), must })
        }
        [None, Some(_)] if key == "conversations" => Ok((turns, Dialect::Llava)),
        [None, Some(_)] => Ok((turns, Dialect::Text)),
        [Some(_), _] => {
            let dialect = messages::dialect(&turns)?;
            Ok((turns, dialect))
        }
    }
}

pub(super) fn mixed(first: &str, second: &str) -> RowProblem {
    RowProblem::Mixed { first: first.to_owned(), second: second.to_owned() }
}

pub(super) fn refuse_preferences(map: &Map<String, Json>) -> Result<(), RowProblem> {
    let keys = ["chosen", "rejected", "rejected_response", "rejected_messages"];
    match keys.iter().find(|key| map.contains_key(**key)) {
        Some(key) => Err(RowProblem::Preference { key: (*key).to_owned() }),
        None => Ok(()),
    }
}

fn prepend(turns: &mut Vec<Turn>, system: String) -> Result<(), RowProblem> {
    if turns.first().is_some_and(|turn| turn.role() == "system") {
        return Err(mixed("the key `system`", "a first turn of role `system`"));
    }
    turns.insert(0, Turn::new("system".into(), "system", Json::String(system)));
    Ok(())
}

/// A list of tool objects, or the same written as a text (LLaMA-Factory).
fn tools(map: &Map<String, Json>) -> Result<Vec<Json>, RowProblem> {
    const WANTED: &str = "a list of tool objects";
    let parsed = match given(map, "tools") {
        None => return Ok(Vec::new()),
        Some(Json::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(Json::String(text)) => serde_json::from_str(text).map_err(|error| {
            let (at, value) = ("tools".to_owned(), describe(&map["tools"]));
            RowProblem::Value {
                at,
                value,
                must: format!("be {WANTED}; as JSON it is broken: {error}"),
            }
        })?,
        Some(other) => other.clone(),
    };
    match parsed {
        Json::Array(tools) => match tools.iter().find(|tool| !tool.is_object()) {
            Some(tool) => Err(type_error("tools", WANTED, tool)),
            None => Ok(tools),
        },
        other => Err(type_error("tools", WANTED, &other)),
    }
}

/// The files of the row. LLaVA names them by `image` and `video`, all others by `images` and `videos`.
fn pools(
    map: &Map<String, Json>,
    dialect: Dialect,
    resolver: &Resolver,
) -> Result<Pools, RowProblem> {
    for (one, many) in
        [("image", "images"), ("video", "videos"), ("image", "videos"), ("video", "images")]
    {
        if given(map, one).is_some() && given(map, many).is_some() {
            return Err(mixed(&format!("`{one}`"), &format!("`{many}`")));
        }
    }
    let plural = ["images", "videos"].iter().any(|key| given(map, key).is_some());
    Pools::read(map, plural || dialect != Dialect::Llava, resolver)
}
