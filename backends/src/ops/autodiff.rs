//! The operations under automatic differentiation: each keeps its inputs, and nothing that can be computed again.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, TensorMetadata};
use burn::tensor::DType;

use super::ModelOps;
use super::gradients::ModelGradients;

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
        let prepared =
            CrossEntropy.prepare::<C>([hidden.node(), weight.node()]).compute_bound().stateful();
        let (hidden, weight) = (hidden.into_primitive(), weight.into_primitive());
        match prepared {
            OpsKind::Tracked(step) => {
                let state = (hidden.clone(), weight.clone(), targets.clone());
                step.finish(state, B::linear_cross_entropy(hidden, weight, targets))
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
    type State = (FloatTensor<B>, FloatTensor<B>, IntTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let (hidden, weight, targets) = ops.state;
        let values = B::cross_entropy_grads(hidden, weight, targets, grad);
        register!(ops.parents, grads, values);
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
