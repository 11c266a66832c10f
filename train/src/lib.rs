//! Fine-tuning of Qwen3-VL: data, labels, packing, LoRA, optimiser, checkpoints, evaluation.

#![recursion_limit = "256"]

pub mod gradients;
pub mod groups;
pub mod pass;
pub mod recompute;
pub mod trainable;
