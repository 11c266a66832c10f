//! The operations under automatic differentiation: each keeps its inputs, and nothing that can be computed again.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, TensorMetadata};
use burn::tensor::DType;

use super::ModelOps;
use super::gradients::{HeadInputs, ModelGradients};
use crate::quant::QuantScheme;

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

#[derive(Debug)]
struct Linear;

impl<B: ModelGradients> Backward<B, 2> for Linear {
    /// The input with the weight's dtype, and the weight, each where the other's gradient is wanted.
    type State = (Option<(FloatTensor<B>, DType)>, Option<FloatTensor<B>>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [x_node, weight_node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight) = ops.state;
        if let (Some(node), Some(weight)) = (x_node, weight) {
            grads.register::<B>(node.id, B::linear_input_grad(grad.clone(), weight));
        }
        if let (Some(node), Some((x, dtype))) = (weight_node, x) {
            grads.register::<B>(node.id, B::linear_weight_grad(grad, x, dtype));
        }
    }
}

/// Hands each gradient to its parent, where that is tracked.
macro_rules! register {
    ($ops:expr, $grads:expr, $values:expr) => {
        for (parent, value) in $ops.into_iter().zip($values) {
            if let Some(node) = parent {
                $grads.register::<B>(node.id, value);
            }
        }
    };
}

#[derive(Debug)]
struct Affine;

impl<B: ModelGradients> Backward<B, 3> for Affine {
    /// As for [`Linear`], then the dtypes of weight and bias.
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>, (DType, DType));

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, (weight_dtype, bias_dtype)) = ops.state;
        if let Some(node) = bias_node {
            grads.register::<B>(node.id, B::bias_grad(grad.clone(), bias_dtype));
        }
        if let (Some(node), Some(weight)) = (x_node, weight) {
            grads.register::<B>(node.id, B::linear_input_grad(grad.clone(), weight));
        }
        if let (Some(node), Some(x)) = (weight_node, x) {
            grads.register::<B>(node.id, B::linear_weight_grad(grad, x, weight_dtype));
        }
    }
}

#[derive(Debug)]
struct PackedAttention;

impl<B: ModelGradients> Backward<B, 3> for PackedAttention {
    type State = ([FloatTensor<B>; 3], Vec<usize>, bool);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (qkv, lengths, causal) = ops.state;
        let values = B::packed_attention_grads(qkv, &lengths, causal, grad);
        register!(ops.parents, grads, values);
    }
}

#[derive(Debug)]
struct RotaryAttention;

impl<B: ModelGradients> Backward<B, 1> for RotaryAttention {
    type State = (FloatTensor<B>, [FloatTensor<B>; 2], Vec<usize>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (qkv, angles, lengths) = ops.state;
        let value = B::rotary_attention_grad(qkv, angles, &lengths, grad);
        register!(ops.parents, grads, [value]);
    }
}

#[derive(Debug)]
struct Rotate;

impl<B: ModelGradients> Backward<B, 1> for Rotate {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (cos, sin) = ops.state;
        // A rotation by the opposite angle.
        let value = B::rotate_halves(grad, cos, B::float_neg(sin));
        register!(ops.parents, grads, [value]);
    }
}

#[derive(Debug)]
struct LayerNorm;

impl<B: ModelGradients> Backward<B, 3> for LayerNorm {
    type State = (FloatTensor<B>, [FloatTensor<B>; 2], f64);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, affine, epsilon) = ops.state;
        register!(ops.parents, grads, B::layer_norm_grads(x, affine, epsilon, grad));
    }
}

#[derive(Debug)]
struct GatedSilu;

impl<B: ModelGradients> Backward<B, 2> for GatedSilu {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (gate, up) = ops.state;
        register!(ops.parents, grads, B::swiglu_grads(gate, up, grad));
    }
}

#[derive(Debug)]
struct Attention;

impl<B: ModelGradients> Backward<B, 3> for Attention {
    type State = ([FloatTensor<B>; 3], bool);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (qkv, causal) = ops.state;
        register!(ops.parents, grads, B::attention_grads(qkv, causal, grad));
    }
}

#[derive(Debug)]
struct RmsNorm;

impl<B: ModelGradients> Backward<B, 2> for RmsNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, epsilon) = ops.state;
        register!(ops.parents, grads, B::rms_norm_grads(x, weight, epsilon, grad));
    }
}

#[derive(Debug)]
struct CrossEntropy;

impl<B: ModelGradients> Backward<B, 2> for CrossEntropy {
    type State = HeadInputs<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let [hidden, weight] = ops.parents;
        let (for_hidden, for_weight) = B::cross_entropy_grads(ops.state, grad);
        register!([hidden], grads, [for_hidden]);
        register!([weight], grads, for_weight);
    }
}

#[derive(Debug)]
struct GeluExact;

impl<B: ModelGradients> Backward<B, 1> for GeluExact {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        register!(ops.parents, grads, [B::gelu_exact_grad(ops.state, grad)]);
    }
}

#[derive(Debug)]
struct GeluByTanh;

impl<B: ModelGradients> Backward<B, 1> for GeluByTanh {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        register!(ops.parents, grads, [B::gelu_by_tanh_grad(ops.state, grad)]);
    }
}
