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

pub mod draw;
pub mod verify;

pub use qwen3_vl_engine::{
    AnswerStream, Chat, ContextOptions, Error, Film, LoadOptions, MediaReport, Prepared,
    PromptLogprob, Qwen3Vl, Ready, Request, Requests, Response, TokenLogprob, Usage,
    grounding_json, nano, openai, warnings,
};

pub use qwen3_vl_backends as backends;
pub use qwen3_vl_model as model;
#[cfg(feature = "server")]
pub use qwen3_vl_server as server;
pub use qwen3_vl_train as train;
pub use qwen3_vl_video as video;
pub use qwen3_vl_weights as weights;

pub use qwen3_vl_model::processor::message::{Conversation, MediaSource, Message};
pub use qwen3_vl_model::sample::SamplingOverrides;
pub use qwen3_vl_model::stream::StreamEvent;
