//! What can be wrong with an adapter.

use std::path::PathBuf;

use crate::error::LoadError;
use crate::export::ExportError;

/// Why an adapter cannot be read, written or put on a model. Every message names the file or the module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file cannot be read, or is no JSON or no safetensors file.
    #[error(transparent)]
    Read(Box<LoadError>),
    #[error(transparent)]
    Write(Box<ExportError>),
    #[error("{path}: `{field}` is {found}; {expected}")]
    Field { path: PathBuf, field: String, found: String, expected: &'static str },
    #[error("{path}: tensor `{name}` {reason}")]
    Tensor { path: PathBuf, name: String, reason: String },
    #[error("the adapter has no {missing} for `{module}`; a LoRA pair needs both")]
    Unpaired { module: String, missing: &'static str },
    #[error(
        "the LoRA pair of `{module}` is A {a:?} and B {b:?}; they must be [rank, inputs] and [outputs, rank]"
    )]
    Pair { module: String, a: Vec<usize>, b: Vec<usize> },
    #[error(
        "the LoRA pair of `{module}` has rank {found}, but the configuration gives it {expected}"
    )]
    Rank { module: String, found: usize, expected: usize },
    #[error("the adapter changes `{module}`, which the model does not have{}", hint(.nearest))]
    Unknown { module: String, nearest: Option<String> },
    #[error(
        "the adapter's weight for `{module}` is {found:?}, but the model's is {expected:?}; it belongs to another model"
    )]
    Shape { module: String, found: Vec<usize>, expected: Vec<usize> },
    #[error(
        "`{module}` is {found:?}; an adapter holds it as [outputs, channels, frames, side, side]"
    )]
    Flat { module: String, found: Vec<usize> },
    #[error(
        "the adapter has a LoRA pair for `{module}`; only linear layers of vision blocks, mergers and text layers can have one"
    )]
    NoPath { module: String },
    #[error(
        "the adapter saves `{module}`, which is the head too in this model; peft changes only one of the two, which is not supported"
    )]
    Tied { module: String },
    #[error(
        "the adapter saves `{module}`, whose weight is rounded in this model; load it without --quant, or from the original"
    )]
    Quantised { module: String },
    #[error("`{module}` has no name in a checkpoint, so that an adapter cannot hold it")]
    Nameless { module: String },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |name| format!("; the nearest name is `{name}`"))
}

impl From<LoadError> for AdapterError {
    fn from(error: LoadError) -> Self {
        Self::Read(Box::new(error))
    }
}

impl From<ExportError> for AdapterError {
    fn from(error: ExportError) -> Self {
        Self::Write(Box::new(error))
    }
}
