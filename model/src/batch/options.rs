//! How much a batch may hold, and how much it does.

use crate::generate::{GenerateError, GenerateOptions};
use crate::inputs::ModelInputs;
use crate::model::Qwen3VlModel;
use crate::replay::Stepping;

/// How much runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Most sequences that hold a cache (vLLM `max_num_seqs`).
    pub max_num_seqs: usize,
    /// Most tokens of one forward pass (vLLM `max_num_batched_tokens`).
    pub max_num_batched_tokens: usize,
    /// Most bytes of all caches, where what several sequences share counts once; a sequence waits until its share is free.
    /// Without it nothing waits for memory.
    pub kv_bytes: Option<u64>,
    /// Bytes of caches that are kept of ended sequences, so that prompts are computed from where they differ from an
    /// earlier one; within `kv_bytes`. With 0 nothing is shared.
    pub prefix_bytes: u64,
    /// Bytes of features of pictures that are kept for when they are seen again.
    pub feature_bytes: u64,
    /// How steps run to which nobody comes. Recorded ones keep keys and values a second time, within `kv_bytes`.
    pub stepping: Stepping,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            max_num_seqs: 32,
            max_num_batched_tokens: 2048,
            kv_bytes: None,
            prefix_bytes: 0,
            feature_bytes: 0,
            stepping: Stepping::Auto,
        }
    }
}

impl BatchOptions {
    /// Tokens that the cache of a sequence may grow to, where a batch with these options takes it.
    ///
    /// # Errors
    /// When the prompt does not fit the model, or the cache would never fit the memory.
    pub fn check(
        &self,
        model: &Qwen3VlModel,
        inputs: &ModelInputs,
        options: &GenerateOptions,
    ) -> Result<usize, GenerateError> {
        inputs.check(model.config())?;
        let most = inputs.ids.len().saturating_add(options.max_new_tokens);
        let tokens = most.min(options.context);
        let needed = model.cache_bytes(tokens);
        match self.kv_bytes {
            Some(budget) if needed > budget => {
                Err(GenerateError::Memory { tokens, needed, budget })
            }
            _ => Ok(tokens),
        }
    }
}

/// How full a batch is, and what its caches have saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchStats {
    pub waiting: usize,
    pub running: usize,
    /// Bytes that running sequences may grow to; what several of them share counts once.
    pub reserved_bytes: u64,
    /// Of these, bytes that another sequence or a kept cache holds too.
    pub shared_bytes: u64,
    /// Bytes of caches kept for prompts to come, without what running sequences hold of them.
    pub prefix_bytes: u64,
    pub feature_bytes: u64,
    /// Frames whose features were known, and were not.
    pub feature_hits: u64,
    pub feature_misses: u64,
    /// Prompt tokens that came from a cache, and all.
    pub reused_tokens: u64,
    pub prompt_tokens: u64,
}
