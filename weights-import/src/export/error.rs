//! What can go wrong when weights are written.

use std::path::PathBuf;

use crate::error::LoadError;
use crate::load::Part;

/// Why weights cannot be written. Nothing half-written stays behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    #[error("cannot write {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The source checkpoint cannot be read.
    #[error(transparent)]
    Source(#[from] LoadError),
    #[error("{path} exists and is not an empty folder; name a new folder")]
    Occupied { path: PathBuf },
    #[error("{path} has no name of its own; name a new folder")]
    Nameless { path: PathBuf },
    #[error("tensor `{name}` was given twice for {path}")]
    Duplicate { path: PathBuf, name: String },
    #[error("tensor `{name}` has dtype {dtype}, which a safetensors file cannot hold")]
    Dtype { name: String, dtype: String },
    #[error("the header of {path} cannot be made: {source}")]
    Header { path: PathBuf, source: safetensors::SafeTensorError },
    #[error(
        "tensor `{name}` holds a value that is not finite in {dtype}; such a checkpoint would answer nonsense"
    )]
    NotFinite { name: String, dtype: &'static str },
    #[error("weights are stored in f32, bf16 or f16, but {dtype} was asked for")]
    WeightDtype { dtype: String },
    #[error("parameter `{path}` has no name in a checkpoint")]
    Parameter { path: String },
    #[error(
        "parameter `{path}` of the {} is {shape:?}, but {source_file} holds `{name}` as {stored:?}; export needs the checkpoint that the model was loaded from", part.name()
    )]
    Shape {
        path: String,
        part: Part,
        shape: Vec<usize>,
        source_file: PathBuf,
        name: String,
        stored: Vec<usize>,
    },
    #[error(
        "{folder} has no tensor `{name}`, which the model has; export needs the checkpoint that the model was loaded from"
    )]
    Missing { folder: PathBuf, name: String },
    #[error("{path} is not a JSON object")]
    Config { path: PathBuf },
}

impl ExportError {
    /// Attaches a path to an I/O error.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
