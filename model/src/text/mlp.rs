//! The dense feed-forward part.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::init::Init;
use crate::linear::Linear;

/// HF `Qwen3VLTextMLP`: SwiGLU, `down(silu(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

impl Mlp {
    pub(super) fn new(hidden: usize, inner: usize, init: &Init) -> Self {
        Self {
            gate_proj: Linear::new(hidden, inner, init),
            up_proj: Linear::new(hidden, inner, init),
            down_proj: Linear::new(inner, hidden, init),
        }
    }

    /// `x [rows, hidden]`, same shape out.
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down_proj.forward(Linear::gated(&self.gate_proj, &self.up_proj, x))
    }
}
