//! The keys of rows and turns: which are known, and how they are read.

use serde_json::{Map, Value as Json};

use super::error::{RowProblem, describe, nearest, type_error};

/// Keys that only label a row.
pub(super) const LABELS: [&str; 13] = [
    "id",
    "idx",
    "index",
    "uid",
    "uuid",
    "source",
    "data_source",
    "dataset",
    "model",
    "meta",
    "metadata",
    "comment",
    "num_tokens",
];
/// Keys that may stand in every row.
pub(super) const COMMON: [&str; 9] =
    ["image", "video", "images", "videos", "system", "tools", "objects", "fps", "channel"];
/// Keys that hold the turns.
pub(super) const TURNS: [&str; 2] = ["conversations", "messages"];
/// Keys of a turn that say whether it is learned.
pub(super) const LOSS: [&str; 3] = ["loss", "loss_scale", "weight"];

/// Refuses keys that are in none of the `known` lists.
pub(super) fn check(
    map: &Map<String, Json>,
    at: &str,
    known: &[&[&str]],
) -> Result<(), RowProblem> {
    let all = known.concat();
    match map.keys().find(|key| !all.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let shown: Vec<_> = all.iter().filter(|name| !LABELS.contains(name)).copied().collect();
            Err(RowProblem::UnknownKey {
                at: at.to_owned(),
                key: key.clone(),
                nearest: nearest(key, &all),
                known: shown.join(", "),
            })
        }
    }
}

/// The value of a key, unless it is absent or null.
pub(super) fn given<'a>(map: &'a Map<String, Json>, key: &str) -> Option<&'a Json> {
    map.get(key).filter(|value| !value.is_null())
}

/// A text that must be there.
pub(super) fn text<'a>(
    map: &'a Map<String, Json>,
    at: &str,
    key: &str,
    wanted: &'static str,
) -> Result<&'a str, RowProblem> {
    match map.get(key) {
        Some(Json::String(text)) => Ok(text),
        Some(other) => Err(type_error(&format!("{at}.{key}"), "a text", other)),
        None => Err(RowProblem::Missing { at: format!("{at}.{key}"), wanted }),
    }
}

/// A text that may be absent, null or empty.
pub(super) fn optional_text(
    map: &Map<String, Json>,
    key: &str,
) -> Result<Option<String>, RowProblem> {
    match given(map, key) {
        None => Ok(None),
        Some(Json::String(text)) if text.is_empty() => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(type_error(key, "a text", other)),
    }
}

/// Whether a turn is learned, where it says so: `loss` or `weight` (true, false, 0 or 1), `loss_scale` (0 or 1).
pub(super) fn loss(map: &Map<String, Json>, at: &str) -> Result<Option<bool>, RowProblem> {
    let mut said: Option<(&str, bool)> = None;
    for key in LOSS {
        let Some(value) = given(map, key) else { continue };
        let at = format!("{at}.{key}");
        let learned = match (value.as_bool(), value.as_f64()) {
            (Some(flag), _) => flag,
            (None, Some(0.0)) => false,
            (None, Some(1.0)) => true,
            _ => {
                let must = "be true, false, 0 or 1; other weights are not supported".to_owned();
                return Err(RowProblem::Value { at, value: describe(value), must });
            }
        };
        match said {
            Some((other, before)) if before != learned => {
                let must = format!("say the same as `{other}`");
                return Err(RowProblem::Value { at, value: describe(value), must });
            }
            _ => said = Some((key, learned)),
        }
    }
    Ok(said.map(|(_, learned)| learned))
}
