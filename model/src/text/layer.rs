//! One transformer layer of the language model.

use burn::module::Module;
use burn::tensor::Tensor;

use super::{Attention, Mlp, MoeBlock, Past, TextContext};
use crate::config::TextConfig;
use crate::init::Init;
use crate::norm::RmsNorm;
use crate::probe::Probe;

/// What goes from layer to layer, `[rows, hidden]`: a sum that the next norm makes with what it reads.
#[derive(Debug)]
pub(crate) struct Residual {
    x: Tensor<2>,
    added: Option<Tensor<2>>,
}

impl Residual {
    pub fn new(x: Tensor<2>) -> Self {
        Self { x, added: None }
    }

    /// The sum.
    pub fn sum(self) -> Tensor<2> {
        match self.added {
            Some(added) => self.x + added,
            None => self.x,
        }
    }

    /// The sum, and its norm.
    pub fn normed(self, norm: &RmsNorm) -> (Tensor<2>, Tensor<2>) {
        match self.added {
            Some(added) => norm.of_sum(self.x, added),
            None => (self.x.clone(), norm.forward(self.x)),
        }
    }
}

/// HF `Qwen3VLTextDecoderLayer` / `Qwen3VLMoeTextDecoderLayer`. Exactly one of `mlp` and `moe` is there
/// (HF calls both `mlp`).
#[derive(Module, Debug)]
pub struct TextLayer {
    pub input_layernorm: RmsNorm,
    pub self_attn: Attention,
    pub post_attention_layernorm: RmsNorm,
    pub mlp: Option<Mlp>,
    pub moe: Option<MoeBlock>,
}

impl TextLayer {
    pub(super) fn new(config: &TextConfig, index: usize, init: &Init) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, init);
        let experts = config.moe.as_ref().filter(|_| config.is_moe_layer(index));
        Self {
            input_layernorm: norm(),
            self_attn: Attention::new(config, init),
            post_attention_layernorm: norm(),
            mlp: experts
                .is_none()
                .then(|| Mlp::new(config.hidden_size, config.intermediate_size, init)),
            moe: experts.map(|moe| MoeBlock::new(config.hidden_size, moe, init)),
        }
    }

    /// `x [rows, hidden]`, same shape out.
    pub(crate) fn forward(
        &self,
        x: Residual,
        index: usize,
        context: &TextContext,
        past: &mut Past<'_, '_>,
        probe: &mut Probe,
    ) -> Residual {
        let (x, normed) = x.normed(&self.input_layernorm);
        let attended = self.self_attn.forward(normed, index, context, past);
        probe.record(format!("attn.{index}"), &attended);
        let (x, normed) = self.post_attention_layernorm.of_sum(x, attended);
        Residual { x, added: Some(self.feed_forward(normed, index, probe)) }
    }

    /// Whether a step of so many rows can be recorded on a card.
    pub(crate) fn can_be_recorded(&self, rows: usize) -> bool {
        self.moe.as_ref().is_none_or(|moe| moe.can_be_recorded(rows))
    }

    fn feed_forward(&self, x: Tensor<2>, index: usize, probe: &mut Probe) -> Tensor<2> {
        match (&self.mlp, &self.moe) {
            (Some(mlp), _) => mlp.forward(x),
            (None, Some(moe)) => moe.forward(x, index, probe),
            (None, None) => unreachable!("a layer has a dense or an expert feed-forward part"),
        }
    }
}
