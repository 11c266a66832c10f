//! Qwen3-VL, written once against Burn: `messages -> template -> ids + pixels -> vision tower -> merger +
//! DeepStack -> language model with interleaved M-RoPE -> logits -> sampler -> text`.
//!
//! This crate knows no file format and no network. Weights come from `qwen3-vl-weights`, devices and kernels
//! from `qwen3-vl-backends`.

#![recursion_limit = "256"]

pub mod batch;
pub mod blocks;
pub mod cache;
pub mod config;
mod encode;
pub mod experts;
pub mod generate;
pub mod grounding;
pub mod init;
pub mod inputs;
pub mod linear;
pub mod lora;
pub mod model;
pub mod norm;
mod pack;
pub mod packed;
mod pipeline;
mod prefix;
pub mod probe;
pub mod processor;
pub mod prompt;
pub mod replay;
pub mod rope;
pub mod roundable;
pub mod sample;
pub mod session;
pub mod stack;
mod stages;
pub mod step;
pub mod stop;
pub mod stream;
pub mod text;
mod traffic;
pub mod vision;
pub mod weight;
pub mod work;

pub use config::Qwen3VlConfig;
pub use model::Qwen3VlModel;
