//! The language model (HF `Qwen3VLTextModel` / `Qwen3VLMoeTextModel`).

mod attention;
mod layer;
mod mlp;
mod moe;
pub mod mrope;
pub mod positions;

use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor};

pub use attention::Attention;
pub use layer::TextLayer;
pub use mlp::Mlp;
pub use moe::{Experts, MoeBlock};

use crate::cache::KvCache;
use crate::config::TextConfig;
use crate::init::Init;
use crate::norm::RmsNorm;
use crate::probe::Probe;
use crate::rope::Rotary;

/// HF `nn.Embedding`: one row per token id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, hidden]`.
    pub weight: Param<Tensor<2>>,
}

/// HF `Qwen3VLTextModel`.
#[derive(Module, Debug)]
pub struct TextModel {
    pub embed_tokens: Embedding,
    pub layers: Vec<TextLayer>,
    pub norm: RmsNorm,
    #[module(skip)]
    compute: DType,
}

/// Rows of the forward pass: tokens of one or more sequences, packed one after the other without padding.
#[derive(Debug)]
pub struct TextContext {
    /// Angles of every row, already in the compute dtype.
    pub rotary: Rotary,
    /// Rows per sequence; they sum to the number of rows.
    pub lengths: Vec<usize>,
    /// What DeepStack adds after the first layers, `[rows, hidden]` per level; zero on text rows.
    pub deepstack: Vec<Tensor<2>>,
}

impl TextModel {
    /// A model with lazy parameters.
    pub fn new(config: &TextConfig, init: &Init) -> Self {
        let init = &Init { std: config.initializer_range, ..init.clone() };
        Self {
            embed_tokens: Embedding {
                weight: init.normal([config.vocab_size, config.hidden_size]),
            },
            layers: (0..config.layers).map(|index| TextLayer::new(config, index, init)).collect(),
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps, init),
            compute: init.precision.compute,
        }
    }

    /// Embedding rows of `ids`, `[n, hidden]` in the compute dtype.
    pub fn embed(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        self.embed_tokens.weight.val().select(0, ids).cast(self.compute)
    }

    /// `hidden [rows, hidden]` through all layers and the final norm; one cache per sequence is extended.
    pub fn forward(
        &self,
        mut hidden: Tensor<2>,
        context: &TextContext,
        caches: &mut [&mut KvCache],
        probe: &mut Probe,
    ) -> Tensor<2> {
        assert_eq!(context.lengths.len(), caches.len(), "one cache per sequence");
        for (index, layer) in self.layers.iter().enumerate() {
            probe.record(format!("layer_in.{index}"), &hidden);
            hidden = layer.forward(hidden, index, context, caches, probe);
            probe.record(format!("layer_out.{index}"), &hidden);
            if let Some(level) = context.deepstack.get(index) {
                hidden = hidden + level.clone();
            }
        }
        for (cache, length) in caches.iter_mut().zip(&context.lengths) {
            cache.advance(*length);
        }
        let normed = self.norm.forward(hidden);
        probe.record("final_norm", &normed);
        normed
    }
}
