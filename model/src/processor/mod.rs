//! From messages, pictures and videos to ids, spans and patches.

pub mod detokenize;
pub mod image;
pub mod labels;
pub mod message;
mod picture;
pub mod pipeline;
mod planned;
pub mod prompt;
pub mod template;
pub mod thinking;
pub mod tokenizer;
pub mod video;

pub use labels::{LabelError, LabelledChat, Think, Turns};
pub use pipeline::{ProcessError, Processor, ProcessorFiles, VideoRules};
pub use planned::{MediaInfo, PlannedChat, PlannedMedia, PreparedChat};
