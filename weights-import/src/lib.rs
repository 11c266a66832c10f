//! Checkpoints for qwen3-vl: Hugging Face safetensors (single or sharded), GGUF files, the names table, hub download, and
//! everything else that comes from outside (media URLs).

#![recursion_limit = "256"]

pub mod adapter;
mod apart;
pub mod checkpoint;
pub mod error;
pub mod export;
pub mod fetch;
pub mod gguf;
pub mod hub;
pub mod load;
pub mod media;
pub mod names;
pub mod partial;
pub mod processor;
pub mod random;
pub mod report;
pub mod rounding;
pub mod source;

pub use checkpoint::Checkpoint;
pub use error::LoadError;
pub use load::{LoadHow, Progress, load_model, load_placed};
pub use media::{MediaError, MediaLimits};
pub use processor::{ProcessorError, load_generation_defaults, load_processor};
pub use random::random_model;
pub use report::LoadReport;
pub use rounding::Rounding;
pub use source::ModelSource;
