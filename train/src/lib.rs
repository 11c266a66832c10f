//! Fine-tuning of Qwen3-VL: data, labels, packing, optimiser, checkpoints.

#![recursion_limit = "256"]

mod ahead;
mod changes;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod evaluate;
pub mod export;
pub mod gradients;
pub mod groups;
pub mod loader;
pub mod lora;
pub mod losses;
pub mod memory;
pub mod metrics;
pub mod muon;
pub mod optim;
pub mod pass;
pub mod recompute;
pub mod report;
pub mod run;
pub mod start;
pub mod synth;
pub mod trainable;
