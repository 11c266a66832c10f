//! What can be wrong with a message, and the small words the errors are built from.

use serde_json::Value as Json;

/// A message, content part or messages file that cannot be used. `at` is a path such as
/// `messages[2].content[1].image_url`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The text is not JSON at all.
    #[error("The messages are not valid JSON: {source}.")]
    Json {
        /// Where the reader stopped, with line and column.
        #[from]
        source: serde_json::Error,
    },
    /// A value has the wrong JSON type.
    #[error("{at}: expected {expected}, but found {found}.")]
    Type {
        /// Path of the value.
        at: String,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A field is not there.
    #[error("{at} is missing; it should be {wanted}.")]
    Missing {
        /// Path of the absent field.
        at: String,
        /// What should stand there.
        wanted: &'static str,
    },
    /// A name that is not known here: a role, a part type, a key.
    #[error("{at}: `{value}` is not known here; allowed are {allowed}.")]
    Unknown {
        /// Path of the value.
        at: String,
        /// The name as written.
        value: String,
        /// The names that would be right.
        allowed: String,
    },
    /// Two keys of one part say different things, and the template would silently follow one.
    #[error(
        "{at}: the key `{key}` does not belong into a part that is {kind}; write one part for each."
    )]
    Contradiction {
        /// Path of the part.
        at: String,
        /// What the part is.
        kind: &'static str,
        /// The key that says otherwise.
        key: String,
    },
    /// A value outside its range.
    #[error("{at}: the value is {value}, but it must {must}.")]
    Value {
        /// Path of the value.
        at: String,
        /// The value as written.
        value: String,
        /// What would be right.
        must: String,
    },
    /// Media handed in beside the messages do not match the parts that wait for one.
    #[error(
        "{given} {kind}(s) were given, but the messages hold {placeholders} {kind} part(s) without a source (`{{\"type\": \"{kind}\"}}`); the numbers must be equal."
    )]
    MediaCount {
        /// Images or videos.
        kind: super::MediaKind,
        /// How many were handed in.
        given: usize,
        /// How many parts wait for one.
        placeholders: usize,
    },
}

/// The path of a field below `at`, which is empty for a message that stands alone.
pub(super) fn child(at: &str, field: &str) -> String {
    if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") }
}

pub(super) fn type_error(at: &str, expected: &'static str, found: &Json) -> MessageError {
    let at = if at.is_empty() { "the message" } else { at };
    MessageError::Type { at: at.to_owned(), expected, found: describe(found) }
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
