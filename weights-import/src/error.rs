//! What can be wrong with a checkpoint.

use std::path::PathBuf;

use qwen3_vl_backends::DeviceFailure;
use qwen3_vl_backends::quant::{QuantError, QuantScheme};
use qwen3_vl_model::config::ConfigError;

/// Why a checkpoint cannot be loaded. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    #[error(transparent)]
    Device(#[from] DeviceFailure),
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Config { path: PathBuf, source: ConfigError },
    #[error("{path} is not valid JSON: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error(
        "{folder} holds neither model.safetensors nor model.safetensors.index.json; a checkpoint needs one of them"
    )]
    NoWeights { folder: PathBuf },
    #[error("{path} is not a complete safetensors file: {source}")]
    Header { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("{index}: tensor `{tensor}` is said to lie in `{shard}`, {reason}")]
    Shard { index: PathBuf, tensor: String, shard: String, reason: &'static str },
    #[error("{path}: {source}")]
    Gguf { path: PathBuf, source: crate::gguf::GgufError },
    #[error("{path} is a file; a checkpoint folder is needed here")]
    NoFolder { path: PathBuf },
    #[error("{folder} holds several GGUF files ({files}); name one of them {option}")]
    SeveralGguf { folder: PathBuf, files: String, option: &'static str },
    #[error("--mmproj goes with a GGUF file, but {path} is none")]
    NeedlessMmproj { path: PathBuf },
    #[error("{path}: tensor `{tensor}` is {found}, but {expected}")]
    Layout { path: PathBuf, tensor: String, found: String, expected: String },
    #[error("{path}: tensor `{tensor}` has no `{side}` beside it, which its numbers need")]
    Side { path: PathBuf, tensor: String, side: String },
    #[error("{path}: tensor `{tensor}` has dtype {dtype}; weights must be F32, F16 or BF16")]
    Dtype { path: PathBuf, tensor: String, dtype: String },
    #[error(
        "tensor `{tensor}` takes {bytes} bytes, but the largest buffer of device `{device}` is {limit} bytes; use another device or a smaller --dtype, or leave experts on the host by --expert-memory"
    )]
    Buffer { tensor: String, bytes: u64, device: String, limit: u64 },
    #[error(
        "the weights on device `{device}` take {needed} MiB, but only {free} MiB of its {total} MiB are free; take --quant int8 or int4 or a smaller --dtype, end other programs on the device, divide the layers by --device-map, or leave experts on the host by --expert-memory"
    )]
    Room { device: String, needed: u64, free: u64, total: u64 },
    #[error(
        "the checkpoint in {folder} is rounded to {scheme} already; leave --quant out, or take the original"
    )]
    Rounded { folder: PathBuf, scheme: QuantScheme },
    #[error(
        "rounded experts are computed on the devices of this machine, and not on `{device}` yet, which is to hold {part}; use --device cpu, keep them as they are by --quant-exclude '*.experts.*', or leave --quant out and take the original checkpoint"
    )]
    QuantDevice { device: String, part: String },
    #[error(
        "the weights in {folder} are rounded to {scheme}, which cannot be trained; begin with the original"
    )]
    QuantTraining { folder: PathBuf, scheme: QuantScheme },
    #[error(
        "{path}: tensor `{tensor}` has dtype {dtype}, but config.json says {scheme}, whose {expected}"
    )]
    Codes {
        path: PathBuf,
        tensor: String,
        dtype: String,
        scheme: QuantScheme,
        /// Such as `codes are U8`.
        expected: String,
    },
    #[error(
        "{path}: tensor `{tensor}` has {found} scales per row, but config.json says {scheme}, which makes {expected} of {inputs} weights"
    )]
    Groups {
        path: PathBuf,
        tensor: String,
        found: usize,
        scheme: QuantScheme,
        expected: usize,
        inputs: usize,
    },
    #[error("tensor `{tensor}` cannot be rounded: {source}")]
    Round { tensor: String, source: QuantError },
    #[error("`{pattern}` names no linear layer; their names are such as {example}")]
    Pattern { pattern: String, example: String },
    #[error("the model has no experts that could stay on the host; leave --expert-memory out")]
    NoExperts,
    #[error(
        "experts are used where they lie in the memory of the host on `{device}`, so that there is nothing to be kept elsewhere; leave --expert-memory out"
    )]
    ExpertsInPlace { device: String },
    #[error(
        "the matrix of one expert of `{tensor}` takes {needed} bytes, and --expert-memory has room for {budget}; give more"
    )]
    ExpertMemory { budget: u64, needed: u64, tensor: String },
    #[error("nothing is left to be rounded; --exclude covers every linear layer")]
    NothingToRound,
    #[error("the checkpoint in {folder} does not fit its config.json\n{report}")]
    Mismatch { folder: PathBuf, report: Box<crate::report::LoadReport> },
}

impl LoadError {
    /// Attaches a path to what is wrong with a GGUF file.
    pub(crate) fn gguf(path: impl Into<PathBuf>) -> impl FnOnce(crate::gguf::GgufError) -> Self {
        let path = path.into();
        move |source| Self::Gguf { path, source }
    }

    /// Attaches a path to an I/O error.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
