//! A loaded checkpoint that answers: [`Qwen3Vl`] takes a [`Request`] and gives a [`Response`], whole, piece by piece
//! or many together. The facade crate, the command line and the server stand on it.

#![recursion_limit = "256"]

mod batch;
mod engine;
mod error;
mod grammar;
mod grounding;
pub mod nano;
pub mod openai;
mod options;
mod ready;
mod request;
mod response;
pub mod tools;

pub use batch::Requests;
pub use engine::{AnswerStream, Chat, Prepared, Qwen3Vl};
pub use error::Error;
pub use grammar::GrammarError;
pub use grounding::grounding_json;
pub use options::{ContextOptions, LoadOptions};
pub use qwen3_vl_model::generate::PromptLogprob;
pub use ready::Ready;
pub use request::{Format, Request};
pub use response::{Film, MediaReport, Response, TokenLogprob, Usage, warnings};
