//! The language model (HF `Qwen3VLTextModel` / `Qwen3VLMoeTextModel`).

mod attention;
mod layer;
mod mlp;
mod moe;
pub mod mrope;
pub mod positions;

use std::ops::Range;

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor};
use qwen3_vl_backends::device::lost;

pub use attention::Attention;
pub(crate) use layer::Residual;
pub use layer::TextLayer;
pub use mlp::Mlp;
pub use moe::{Experts, MoeBlock};

use crate::cache::KvCache;
use crate::config::TextConfig;
use crate::init::{Init, PlacedInit};
use crate::norm::RmsNorm;
use crate::probe::Probe;
use crate::replay::FixedPast;
use crate::rope::Rotary;
use crate::weight::Weight;

/// HF `nn.Embedding`: one row per token id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, hidden]`.
    pub weight: Weight,
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
    /// What DeepStack adds after the first layers, `[rows, hidden]` per level; zero on text rows. Absent where it was left
    /// behind on another device, after its layer.
    pub deepstack: Vec<Option<Tensor<2>>>,
}

impl TextContext {
    /// On another device, without the DeepStack levels of the layers before `first`, which are not read again.
    fn move_to(self, device: &Device, first: usize) -> Self {
        let Self { rotary, lengths, deepstack } = self;
        let moved = |(layer, level): (usize, Option<Tensor<2>>)| {
            level.filter(|_| layer >= first).map(|level| lost::moved(level, device))
        };
        let deepstack = deepstack.into_iter().enumerate().map(moved).collect();
        Self { rotary: rotary.move_to(device), lengths, deepstack }
    }
}

/// What goes from layer to layer.
#[derive(Debug)]
pub(crate) struct Flow {
    /// `[rows, hidden]`.
    pub hidden: Tensor<2>,
    pub context: TextContext,
    /// How many of the rows, the first ones, are steps of answers.
    pub steps: usize,
}

impl Flow {
    /// On the device of the layers from `first` on.
    pub(crate) fn move_to(self, device: &Device, first: usize) -> Self {
        let hidden = lost::moved(self.hidden, device);
        Self { hidden, context: self.context.move_to(device, first), ..self }
    }
}

/// The past of every sequence of a pass.
#[derive(Debug)]
pub enum Past<'a, 'c> {
    /// Held in one cache per sequence, which is extended.
    Cached(&'a mut [&'c mut KvCache]),
    /// Held in place, one token of every sequence at a time.
    Fixed(&'a mut FixedPast<'c>),
    /// None: every sequence begins with its first row (training).
    Empty,
}

impl Past<'_, '_> {
    pub(crate) fn advance(&mut self, lengths: &[usize]) {
        if let Self::Cached(caches) = self {
            caches.iter_mut().zip(lengths).for_each(|(cache, length)| cache.advance(*length));
        }
    }
}

impl TextModel {
    /// A model with lazy parameters, each part in its place.
    pub(crate) fn new(config: &TextConfig, init: &PlacedInit<'_>) -> Self {
        let with_std = |init: Init| Init { std: config.initializer_range, ..init };
        let layer = |index| TextLayer::new(config, index, &with_std(init.layer(index)));
        let table = [config.vocab_size, config.hidden_size];
        Self {
            embed_tokens: Embedding { weight: Weight::Dense(with_std(init.embed()).normal(table)) },
            layers: (0..config.layers).map(layer).collect(),
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps, &init.head()),
            compute: init.precision().compute,
        }
    }

    /// Embedding rows of `ids`, `[n, hidden]` in the compute dtype.
    pub fn embed(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        self.embed_tokens.weight.rows(ids).cast(self.compute)
    }

    /// Through the layers `layers`, which write into the caches but do not move them on.
    pub(crate) fn run(
        &self,
        layers: Range<usize>,
        flow: Flow,
        past: &mut Past<'_, '_>,
        probe: &mut Probe,
    ) -> Flow {
        let Flow { hidden, context, steps } = flow;
        let mut hidden = Residual::new(hidden);
        for index in layers {
            hidden = probed(hidden, probe, || format!("layer_in.{index}"));
            hidden = self.layers[index].forward(hidden, index, &context, past, probe);
            hidden = probed(hidden, probe, || format!("layer_out.{index}"));
            if let Some(Some(level)) = context.deepstack.get(index) {
                hidden = Residual::new(hidden.sum() + level.clone());
            }
        }
        Flow { hidden: hidden.sum(), context, steps }
    }

    /// The final norm of `hidden [rows, hidden]`.
    pub(crate) fn finish(&self, hidden: Tensor<2>, probe: &mut Probe) -> Tensor<2> {
        let normed = self.norm.forward(hidden);
        probe.record("final_norm", &normed);
        normed
    }
}

/// What a probe that is on is shown; the sum is made for it alone.
fn probed(hidden: Residual, probe: &mut Probe, name: impl FnOnce() -> String) -> Residual {
    if !probe.is_on() {
        return hidden;
    }
    let sum = hidden.sum();
    probe.record(name(), &sum);
    Residual::new(sum)
}
