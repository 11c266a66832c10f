//! From messages and pictures to ids, spans and patches.

pub mod detokenize;
pub mod image;
pub mod message;
pub mod pipeline;
pub mod prompt;
pub mod template;
pub mod thinking;
pub mod tokenizer;

pub use pipeline::{PreparedChat, ProcessError, Processor, ProcessorFiles};
