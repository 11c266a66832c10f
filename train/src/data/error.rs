//! What can be wrong with a row, and with the file that holds it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qwen3_vl_model::processor::ProcessError;
use qwen3_vl_model::processor::message::MessageError;
use qwen3_vl_weights::media::MediaError;
use serde::Serialize;
use serde_json::Value as Json;

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub file: Arc<Path>,
    /// Line of a JSONL row, or the line in which an entry of a JSON list begins; from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file.display(), self.line)
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A row that cannot be used, and where it stands.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct SampleError {
    pub place: Place,
    pub problem: Box<RowProblem>,
}

/// What is wrong with a row. `at` is a path such as `conversations[1].value`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowProblem {
    #[error("The row is not valid JSON: {0}.")]
    Json(serde_json::Error),
    #[error("The row cannot be read: {0}.")]
    Io(std::io::Error),
    #[error("The row cannot be drawn: {reason}.")]
    Drawing { reason: String },
    #[error("The file was changed after it had been opened.")]
    Changed,
    #[error("{at}: expected {expected}, but found {found}.")]
    Type { at: String, expected: &'static str, found: String },
    #[error("{at} is missing; it should be {wanted}.")]
    Missing { at: String, wanted: &'static str },
    #[error("{at}: the value is {value}, but it must {must}.")]
    Value { at: String, value: String, must: String },
    #[error("{at}: the key `{key}` is not known here{}; known are {known}.", guess(.nearest))]
    UnknownKey { at: String, key: String, nearest: Option<String>, known: String },
    #[error("{at}: the role `{role}` is not known here{}; known are {known}.", guess(.nearest))]
    UnknownRole { at: String, role: String, nearest: Option<String>, known: &'static str },
    #[error("The row mixes two ways of writing: {first} and {second}; use one of them.")]
    Mixed { first: String, second: String },
    #[error("{found} {sought}, but `{key}` holds {held} {what}; the numbers must be equal.{hint}")]
    Placeholders {
        found: usize,
        /// What was counted, such as "`<image>` stand in the text".
        sought: String,
        key: &'static str,
        held: usize,
        /// What `key` holds, such as "file(s)".
        what: &'static str,
        hint: &'static str,
    },
    #[error(
        "The row has the key `{key}`, but no conversation; say which columns hold prompt and answer, such as columns = {example}."
    )]
    Columns { key: String, example: &'static str },
    #[error("The row holds preferences (`{key}`), which are not trained on.")]
    Preference { key: String },
    #[error("No token of the row would be learned; {why}.")]
    NoTarget { why: &'static str },
    #[error("{at}: {found}; {hint}.")]
    Box { at: String, found: String, hint: String },
    #[error("The file {} is missing (written as `{written}`).{hint}", .path.display())]
    MissingFile { path: PathBuf, written: String, hint: String },
    #[error("The messages cannot be used: {0}")]
    Message(#[from] MessageError),
    #[error("{0}")]
    Media(#[from] MediaError),
    #[error("{0}")]
    Process(#[from] ProcessError),
    #[error(
        "The row has {tokens} tokens, {vision} of them of pictures and videos, but the limit is {limit}{hint}."
    )]
    TooLong { tokens: usize, vision: usize, limit: usize, hint: &'static str },
    #[error(
        "{name} has {tokens} tokens at the least, but the limit is {limit}; allow more tokens or fewer frames."
    )]
    Budget { name: String, tokens: usize, limit: usize },
}

impl RowProblem {
    /// A short name of the kind of problem, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Json(_) => "json",
            Self::Io(_) | Self::Changed | Self::Drawing { .. } => "file",
            Self::Type { .. } | Self::Missing { .. } | Self::Value { .. } => "value",
            Self::UnknownKey { .. } => "unknown_key",
            Self::UnknownRole { .. } => "unknown_role",
            Self::Mixed { .. } => "mixed_dialects",
            Self::Placeholders { .. } => "placeholders",
            Self::Columns { .. } => "columns",
            Self::Preference { .. } => "preference",
            Self::NoTarget { .. } => "no_target",
            Self::Box { .. } => "boxes",
            Self::MissingFile { .. } => "missing_file",
            Self::Message(_) => "messages",
            Self::Media(_) => "media",
            Self::Process(_) => "prompt",
            Self::TooLong { .. } | Self::Budget { .. } => "too_long",
        }
    }

    pub(super) fn at(self, place: &Place) -> SampleError {
        SampleError { place: place.clone(), problem: Box::new(self) }
    }
}

/// A data file that cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    #[error("The data file {} cannot be read: {source}.", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("The data file {} has no rows.", .path.display())]
    Empty { path: PathBuf },
    #[error(
        "The data file {} begins with {found}; it must be a JSON list, or JSONL with one object in each line, in UTF-8.", .path.display()
    )]
    Start { path: PathBuf, found: String },
    #[error("{}, line {line}: {what}.", .path.display())]
    List { path: PathBuf, line: usize, what: String },
    #[error("{}, line {line}: the row has more than {limit} bytes.", .path.display())]
    TooLarge { path: PathBuf, line: usize, limit: u64 },
    #[error(transparent)]
    Typefaces(#[from] crate::synth::TypefaceError),
}

fn guess(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |name| format!(" (did you mean `{name}`?)"))
}

pub(super) fn type_error(at: &str, expected: &'static str, found: &Json) -> RowProblem {
    RowProblem::Type { at: at.to_owned(), expected, found: describe(found) }
}

/// A JSON value in a few words, short enough for one line.
pub(super) fn describe(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Array(items) => format!("a list of {} item(s)", items.len()),
        Json::Object(map) => format!("an object with {} key(s)", map.len()),
        Json::String(text) if text.chars().count() > 60 => {
            format!("the string \"{}...\"", text.chars().take(57).collect::<String>())
        }
        Json::String(text) => format!("the string {text:?}"),
        other => other.to_string(),
    }
}

/// The known name that `name` was probably meant to be.
pub(super) fn nearest(name: &str, known: &[&str]) -> Option<String> {
    let distance = |candidate: &&&str| edits(&name.to_lowercase(), candidate);
    let best = known.iter().min_by_key(distance)?;
    let close = edits(&name.to_lowercase(), best) <= 1 + name.chars().count() / 4;
    close.then(|| (*best).to_owned())
}

/// Levenshtein distance in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
