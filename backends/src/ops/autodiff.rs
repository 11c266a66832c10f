//! The operations under automatic differentiation: each keeps its inputs, and nothing that can be computed again.

mod steps;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::ops::{Backward, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, TensorMetadata};

use super::ModelOps;
use super::gradients::{HeadInputs, ModelGradients};
use crate::quant::QuantScheme;
use steps::{
    Affine, Attention, CrossEntropy, GatedSilu, GeluByTanh, GeluExact, LayerNorm, Linear,
    PackedAttention, RmsNorm, RotaryAttention, Rotate,
};

impl<B: ModelGradients, C: CheckpointStrategy> ModelOps for Autodiff<B, C> {
    fn linear_nk(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (of_x, of_weight) = (x.is_tracked(), weight.is_tracked());
        let prepared = Linear.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                // The input serves the weight's gradient only, and the other way round.
                let dtype = weight.dtype();
                let state = (of_weight.then(|| (x.clone(), dtype)), of_x.then(|| weight.clone()));
                step.finish(state, B::linear_nk(x, weight))
            }
            OpsKind::UnTracked(step) => step.finish(B::linear_nk(x, weight)),
        }
    }

    /// Rounded weights are not trained: the gradient reaches `x` alone, through the weight that they stand for.
    fn linear_of_codes(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
    ) -> FloatTensor<Self> {
        let inputs = x.shape()[1];
        Self::linear_nk(x, Self::matrix_of_codes(codes, scales, scheme, inputs))
    }

    fn matrix_of_codes(
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
        inputs: usize,
    ) -> FloatTensor<Self> {
        Self::from_inner(B::matrix_of_codes(codes, scales.into_primitive(), scheme, inputs))
    }

    fn rows_of_codes(
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        ids: IntTensor<Self>,
        scheme: QuantScheme,
        inputs: usize,
    ) -> FloatTensor<Self> {
        Self::from_inner(B::rows_of_codes(codes, scales.into_primitive(), ids, scheme, inputs))
    }

    fn affine_nk(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (of_x, of_weight) = (x.is_tracked(), weight.is_tracked());
        let nodes = [x.node(), weight.node(), bias.node()];
        let prepared = Affine.prepare::<C>(nodes).compute_bound().stateful();
        let (x, weight, bias) =
            (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                let dtypes = (weight.dtype(), bias.dtype());
                let state = (of_weight.then(|| x.clone()), of_x.then(|| weight.clone()), dtypes);
                step.finish(state, B::affine_nk(x, weight, bias))
            }
            OpsKind::UnTracked(step) => step.finish(B::affine_nk(x, weight, bias)),
        }
    }

    fn attention_in_sequences(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        lengths: Vec<usize>,
        causal: bool,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let prepared = PackedAttention.prepare::<C>(nodes).compute_bound().stateful();
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                let state = ([q.clone(), k.clone(), v.clone()], lengths.clone(), causal);
                step.finish(state, B::attention_in_sequences(q, k, v, lengths, causal))
            }
            OpsKind::UnTracked(step) => {
                step.finish(B::attention_in_sequences(q, k, v, lengths, causal))
            }
        }
    }

    fn attention_of_rotated(
        qkv: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        lengths: Vec<usize>,
    ) -> FloatTensor<Self> {
        let prepared = RotaryAttention.prepare::<C>([qkv.node()]).compute_bound().stateful();
        let qkv = qkv.into_primitive();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                let state = (qkv.clone(), [cos.clone(), sin.clone()], lengths.clone());
                step.finish(state, B::attention_of_rotated(qkv, cos, sin, lengths))
            }
            OpsKind::UnTracked(step) => {
                step.finish(B::attention_of_rotated(qkv, cos, sin, lengths))
            }
        }
    }

    fn rotate_halves(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let prepared = Rotate.prepare::<C>([x.node()]).compute_bound().stateful();
        let (x, cos, sin) = (x.into_primitive(), cos.into_primitive(), sin.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                step.finish((cos.clone(), sin.clone()), B::rotate_halves(x, cos, sin))
            }
            OpsKind::UnTracked(step) => step.finish(B::rotate_halves(x, cos, sin)),
        }
    }

    fn layer_norm_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let prepared = LayerNorm.prepare::<C>(nodes).compute_bound().stateful();
        let (x, weight, bias) =
            (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                let state = (x.clone(), [weight.clone(), bias.clone()], epsilon);
                step.finish(state, B::layer_norm_rows(x, weight, bias, epsilon))
            }
            OpsKind::UnTracked(step) => step.finish(B::layer_norm_rows(x, weight, bias, epsilon)),
        }
    }

    fn gated_silu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = GatedSilu.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful();
        let (gate, up) = (gate.into_primitive(), up.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                step.finish((gate.clone(), up.clone()), B::gated_silu(gate, up))
            }
            OpsKind::UnTracked(step) => step.finish(B::gated_silu(gate, up)),
        }
    }

    fn grouped_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        let prepared =
            Attention.prepare::<C>([q.node(), k.node(), v.node()]).compute_bound().stateful();
        let (q, k, v) = (q.into_primitive(), k.into_primitive(), v.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                let state = ([q.clone(), k.clone(), v.clone()], causal);
                step.finish(state, B::grouped_attention(q, k, v, causal))
            }
            OpsKind::UnTracked(step) => step.finish(B::grouped_attention(q, k, v, causal)),
        }
    }

    fn rms_norm_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let prepared = RmsNorm.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                let state = (x.clone(), weight.clone(), epsilon);
                step.finish(state, B::rms_norm_rows(x, weight, epsilon))
            }
            OpsKind::UnTracked(step) => step.finish(B::rms_norm_rows(x, weight, epsilon)),
        }
    }

    fn gelu_exact(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = GeluExact.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        match prepared {
            OpsKind::Tracked(step) => step.finish(x.clone(), B::gelu_exact(x)),
            OpsKind::UnTracked(step) => step.finish(B::gelu_exact(x)),
        }
    }

    fn gelu_by_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = GeluByTanh.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        match prepared {
            OpsKind::Tracked(step) => step.finish(x.clone(), B::gelu_by_tanh(x)),
            OpsKind::UnTracked(step) => step.finish(B::gelu_by_tanh(x)),
        }
    }

    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let of_weight = weight.is_tracked();
        let prepared =
            CrossEntropy.prepare::<C>([hidden.node(), weight.node()]).compute_bound().stateful();
        let (hidden, weight) = (hidden.into_primitive(), weight.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                let losses =
                    B::linear_cross_entropy(hidden.clone(), weight.clone(), targets.clone());
                step.finish(HeadInputs { hidden, weight, targets, of_weight }, losses)
            }
            OpsKind::UnTracked(step) => {
                step.finish(B::linear_cross_entropy(hidden, weight, targets))
            }
        }
    }
}
