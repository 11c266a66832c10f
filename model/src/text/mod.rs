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

/// The past of every sequence of a pass.
#[derive(Debug)]
pub enum Past<'a, 'c> {
    /// Held in one cache per sequence, which is extended.
    Cached(&'a mut [&'c mut KvCache]),
    /// None: every sequence begins with its first row (training).
    Empty,
}

impl Past<'_, '_> {
    fn advance(&mut self, lengths: &[usize]) {
        if let Self::Cached(caches) = self {
            caches.iter_mut().zip(lengths).for_each(|(cache, length)| cache.advance(*length));
        }
    }
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

    /// `hidden [rows, hidden]` through all layers and the final norm; caches are extended.
    pub fn forward(
        &self,
        mut hidden: Tensor<2>,
        context: &TextContext,
        past: &mut Past<'_, '_>,
        probe: &mut Probe,
    ) -> Tensor<2> {
        for (index, layer) in self.layers.iter().enumerate() {
            probe.record(format!("layer_in.{index}"), &hidden);
            hidden = layer.forward(hidden, index, context, past, probe);
            probe.record(format!("layer_out.{index}"), &hidden);
            if let Some(level) = context.deepstack.get(index) {
                hidden = hidden + level.clone();
            }
        }
        past.advance(&context.lengths);
        let normed = self.norm.forward(hidden);
        probe.record("final_norm", &normed);
        normed
    }
}
