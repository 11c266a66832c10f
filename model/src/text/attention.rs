//! Causal attention with grouped key/value heads over a cache.

use burn::module::Module;
use burn::tensor::Tensor;
use qwen3_vl_backends::ops;

use super::{Past, TextContext};
use crate::config::TextConfig;
use crate::init::Init;
use crate::linear::Linear;
use crate::norm::RmsNorm;

/// HF `Qwen3VLTextAttention`.
#[derive(Module, Debug)]
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    pub q_norm: RmsNorm,
    pub k_norm: RmsNorm,
    head_dim: usize,
}

impl Attention {
    pub(super) fn new(config: &TextConfig, init: &Init) -> Self {
        let (hidden, dim) = (config.hidden_size, config.head_dim);
        let norm = || RmsNorm::new(dim, config.rms_norm_eps, init);
        Self {
            q_proj: Linear::new(hidden, config.heads * dim, init),
            k_proj: Linear::new(hidden, config.kv_heads * dim, init),
            v_proj: Linear::new(hidden, config.kv_heads * dim, init),
            o_proj: Linear::new(config.heads * dim, hidden, init),
            q_norm: norm(),
            k_norm: norm(),
            head_dim: dim,
        }
    }

    /// `x [rows, hidden]`, same shape out; the keys and values of layer `layer` join the past.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        layer: usize,
        context: &TextContext,
        past: &mut Past<'_, '_>,
    ) -> Tensor<2> {
        // 1. Project, and split into heads.
        let projections = [&self.q_proj, &self.k_proj, &self.v_proj];
        let [q, k, v] = Linear::forward_thrice(projections, x).map(|x| self.heads(x));
        let caches = match past {
            Past::Fixed(past) => {
                let norms = [&self.q_norm, &self.k_norm];
                return self.o_proj.forward(past.attend(layer, [q, k, v], norms, &context.rotary));
            }
            Past::Cached(caches) => Some(caches),
            Past::Empty => None,
        };
        // 2. Normalise each head of q and k, then rotate.
        let q = self.q_norm.rotated(q, &context.rotary);
        let k = self.k_norm.rotated(k, &context.rotary);
        // 3. Each sequence attends to its own past and itself, then project.
        let Some(caches) = caches else {
            let lengths = context.lengths.clone();
            return self.o_proj.forward(ops::packed_attention(q, k, v, lengths, true));
        };
        let mut start = 0;
        let mut outputs = Vec::with_capacity(context.lengths.len());
        for (cache, length) in caches.iter_mut().zip(&context.lengths) {
            let rows = |t: &Tensor<3>| by_head(t.clone().narrow(0, start, *length));
            let (keys, values) = cache.append(layer, rows(&k), rows(&v));
            // Steps come before prompts, so that a sequence is all of the one kind or of the other.
            let steps = ops::steps().map(|steps| steps.saturating_sub(start).min(*length));
            let _chosen = ops::choose_steps(steps);
            let out = ops::attention_over_parts(rows(&q), keys, values, true);
            outputs.push(out.squeeze_dim::<3>(0).swap_dims(0, 1).flatten::<2>(1, 2));
            start += length;
        }
        self.o_proj.forward(Tensor::cat(outputs, 0))
    }

    fn heads(&self, x: Tensor<2>) -> Tensor<3> {
        let [rows, width] = x.dims();
        x.reshape([rows, width / self.head_dim, self.head_dim])
    }
}

/// `[rows, heads, dim] -> [1, heads, rows, dim]`.
fn by_head(x: Tensor<3>) -> Tensor<4> {
    x.swap_dims(0, 1).unsqueeze::<4>()
}
