//! Qwen3-VL on Burn: load a Hugging Face checkpoint, ask about pictures.
//!
//! ```no_run
//! use qwen3_vl::{LoadOptions, Message, Qwen3Vl, Request};
//!
//! let model = Qwen3Vl::load("Qwen/Qwen3-VL-2B-Instruct", LoadOptions::default())?;
//! let question = Message::user("").image("photo.jpg").text("What is in this picture?");
//! let answer = model.generate(&Request::new(vec![question]))?;
//! println!("{}", answer.text);
//! # Ok::<(), qwen3_vl::Error>(())
//! ```

#![recursion_limit = "256"]

mod batch;
pub mod draw;
mod engine;
mod error;
pub mod openai;
mod request;
mod response;
pub mod verify;

pub use batch::Requests;
pub use engine::{AnswerStream, Chat, ContextOptions, LoadOptions, Prepared, Qwen3Vl};
pub use error::Error;
pub use request::Request;
pub use response::{Film, MediaReport, Response, TokenLogprob, Usage, warnings};

pub use qwen3_vl_backends as backends;
pub use qwen3_vl_model as model;
pub use qwen3_vl_train as train;
pub use qwen3_vl_video as video;
pub use qwen3_vl_weights as weights;

pub use qwen3_vl_model::processor::message::{Conversation, MediaSource, Message};
pub use qwen3_vl_model::sample::SamplingOverrides;
pub use qwen3_vl_model::stream::StreamEvent;
