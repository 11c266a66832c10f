//! The steps backwards of [`super`].

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;

use crate::ops::gradients::{HeadInputs, ModelGradients};

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
pub(super) struct Linear;

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

#[derive(Debug)]
pub(super) struct Affine;

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
pub(super) struct PackedAttention;

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
pub(super) struct RotaryAttention;

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
pub(super) struct Rotate;

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
pub(super) struct LayerNorm;

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
pub(super) struct GatedSilu;

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
pub(super) struct Attention;

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
pub(super) struct RmsNorm;

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
pub(super) struct CrossEntropy;

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
pub(super) struct GeluExact;

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
pub(super) struct GeluByTanh;

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
