//! What can be wrong with a GGUF file.

/// Why a GGUF file cannot be read. The path stands in [`crate::LoadError::Gguf`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    #[error("it does not begin with `GGUF`, so it is no GGUF file")]
    Magic,
    #[error(
        "it has version {version} of the format; versions 2 and 3 in little-endian order are known"
    )]
    Version { version: u32 },
    #[error("it ends at byte {end} inside {what}; the file is truncated or damaged")]
    Truncated { what: String, end: usize },
    #[error("its header claims {count} {what}, more than any model has; the file is damaged")]
    Absurd { what: &'static str, count: u64 },
    #[error("the value of `{key}` has the unknown type {found}")]
    ValueType { key: String, found: u32 },
    #[error(
        "tensor `{tensor}` has type {found}, which is not supported; F32, F16, BF16, {} are",
        super::blocks::BlockType::names()
    )]
    TensorType { tensor: String, found: String },
    #[error("tensor `{tensor}` has rows of {row} values, which are no multiple of {block}")]
    Row { tensor: String, row: usize, block: usize },
    #[error("tensor `{tensor}` begins at {offset}, which is no multiple of {alignment}")]
    Alignment { tensor: String, offset: u64, alignment: u64 },
    #[error("general.alignment is {found}, but it must be a power of two from 8 on")]
    BadAlignment { found: f64 },
    #[error("it holds a model of architecture `{found}`, but {expected} is needed here")]
    Architecture { found: String, expected: &'static str },
    #[error("it has no `{key}`, which is needed")]
    Missing { key: String },
    #[error("`{key}` is {found}, but {rule}")]
    Value { key: String, found: String, rule: &'static str },
    #[error(
        "it is part {part} of {parts}; join the parts with `llama-gguf-split --merge` and take the whole file"
    )]
    Split { part: u64, parts: u64 },
    #[error("tensors {first} and {second} make one weight, but differ in type or shape")]
    Join { first: String, second: String },
    #[error("tensor `{tensor}` occurs twice")]
    Twice { tensor: String },
}
