//! Why a request body is refused.

use qwen3_vl_model::processor::message::MessageError;

/// Why a request body is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    #[error("the body must be an object with `{wanted}`, but it is {found}")]
    NoObject { wanted: &'static str, found: &'static str },
    #[error("`{field}` is missing; it must be {must}")]
    Missing { field: &'static str, must: &'static str },
    #[error("`{field}` is {value}, but it must be {must}")]
    Field { field: String, value: String, must: String },
    #[error("`{field}` is not supported")]
    Unknown { field: String },
    #[error("`{field}`: {reason}")]
    Shape { field: String, reason: String },
    #[error(transparent)]
    Message(#[from] MessageError),
}

impl BodyError {
    /// The field that is wrong, as OpenAI's `param`.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::NoObject { .. } => None,
            Self::Missing { field, .. } => Some(field),
            Self::Field { field, .. } | Self::Unknown { field } | Self::Shape { field, .. } => {
                Some(field)
            }
            Self::Message(error) => match error {
                MessageError::Type { at, .. }
                | MessageError::Missing { at, .. }
                | MessageError::Unknown { at, .. }
                | MessageError::Contradiction { at, .. }
                | MessageError::Value { at, .. } => Some(at),
                _ => Some("messages"),
            },
        }
    }

    /// A field with a value outside of what is allowed.
    pub(crate) fn value(field: &str, value: impl ToString, must: &str) -> Self {
        Self::Field { field: field.to_owned(), value: value.to_string(), must: must.to_owned() }
    }

    /// What serde says of a field; an unknown one is told by its own name.
    pub(super) fn of(error: &serde_path_to_error::Error<serde_json::Error>) -> Self {
        let (path, reason) = (error.path().to_string(), error.inner().to_string());
        let unknown =
            reason.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        match unknown {
            Some(name) if path.ends_with(name) => Self::Unknown { field: path },
            Some(name) if path == "." || path.is_empty() => {
                Self::Unknown { field: name.to_owned() }
            }
            Some(name) => Self::Unknown { field: format!("{path}.{name}") },
            None => Self::Shape { field: path, reason },
        }
    }
}
