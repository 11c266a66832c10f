//! Checkpoints for qwen3-vl: Hugging Face safetensors (single or sharded), the names table, hub download,
//! and everything else that comes from outside (media URLs).

#![recursion_limit = "256"]

pub mod checkpoint;
pub mod error;
pub mod fetch;
pub mod hub;
pub mod load;
pub mod names;
pub mod report;

pub use checkpoint::Checkpoint;
pub use error::LoadError;
pub use load::{Progress, load_model};
pub use report::LoadReport;
