//! Gradients on Flex.

use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape, bf16, f16};

use super::matmul::{Matrix, product};
use super::{
    Turned, Widen, attention, elementwise, f32_tensor, head_rows, loss, norms, rotary, slices,
    turned, widened,
};
use crate::ops::gradients::{self, HeadInputs, ModelGradients};
use crate::ops::reference;

impl ModelGradients for Flex {
    fn linear_input_grad(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let ([rows, _], [_, k]) = (grad.shape().dims(), weight.shape().dims());
        let (plain, weight) = ([grad.to_contiguous()], weight.to_contiguous());
        let found = slices(&plain).filter(|_| weight.shape().num_elements() > 0).and_then(|[g]| {
            let n = g.len() / rows;
            // Of half width, it is widened some rows at a time.
            widened!(weight, |w| match Widen::as_f32(w) {
                Some(w) => product(Matrix::rows(g, n), Matrix::rows(w, k)),
                None => turned::product(g, w, [k, n]),
            })
        });
        match found {
            Some(values) => f32_tensor(values, Shape::new([rows, k])),
            None => {
                let weight = reference::cast::<Self>(weight, grad.dtype());
                Self::float_matmul(grad, weight)
            }
        }
    }

    fn linear_weight_grad(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        dtype: DType,
    ) -> FloatTensor<Self> {
        let ([_, n], [_, k]) = (grad.shape().dims(), x.shape().dims());
        let found = match slices(&[grad.to_contiguous(), x.to_contiguous()]) {
            Some([g, x]) => {
                let product = product(Matrix::rows(g, n).transposed(), Matrix::rows(x, k));
                f32_tensor(product, Shape::new([n, k]))
            }
            None => Self::float_matmul(Self::float_transpose(grad), x),
        };
        reference::cast::<Self>(found, dtype)
    }

    fn bias_grad(grad: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        let width = grad.shape()[1];
        let sums = match slices(&[grad.to_contiguous()]) {
            Some([g]) => f32_tensor(norms::column_sums(g, width), Shape::new([width])),
            None => {
                let sum = Self::float_sum_dim(reference::cast::<Self>(grad, DType::F32), 0);
                Self::float_reshape(sum, Shape::new([width]))
            }
        };
        reference::cast::<Self>(sums, dtype)
    }

    fn packed_attention_grads(
        qkv: [FloatTensor<Self>; 3],
        lengths: &[usize],
        causal: bool,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        let inputs = qkv.each_ref().map(FlexTensor::to_contiguous);
        let plain = [grad.to_contiguous()];
        let (Some(rows), Some([g])) = (head_rows(&inputs), slices(&plain)) else {
            return gradients::packed_attention::<Self>(qkv, lengths, causal, grad);
        };
        let found = attention::packed_grads(rows, lengths, causal, g);
        let mut which = 0;
        qkv.map(|input| {
            let shape = input.shape();
            let mut out = vec![0.0; shape.num_elements()];
            let mut columns = [None; 3];
            columns[which] = Some(0);
            which += 1;
            found.write(&mut out, shape[1] * shape[2], columns);
            f32_tensor(out, shape)
        })
    }

    fn rotary_attention_grad(
        qkv: FloatTensor<Self>,
        [cos, sin]: [FloatTensor<Self>; 2],
        lengths: &[usize],
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let inputs = [qkv.to_contiguous(), cos.to_contiguous(), sin.to_contiguous()];
        let plain = [grad.to_contiguous()];
        let (Some(turned), Some([g])) = (Turned::new(&inputs), slices(&plain)) else {
            return gradients::rotary_attention::<Self>(qkv, [cos, sin], lengths, grad);
        };
        let width = turned.width;
        let found = attention::packed_grads(turned.rows(), lengths, false, g);
        let mut out = vec![0.0; qkv.shape().num_elements()];
        found.write(&mut out, 3 * width, [Some(0), Some(width), Some(2 * width)]);
        rotary::rotate(&mut out, 3 * width, 2 * width, turned.angles, true);
        f32_tensor(out, qkv.shape())
    }

    fn layer_norm_grads(
        x: FloatTensor<Self>,
        [weight, bias]: [FloatTensor<Self>; 2],
        epsilon: f64,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        let inputs = [x.to_contiguous(), weight.to_contiguous(), grad.to_contiguous()];
        let Some([rows, w, g]) = slices(&inputs) else {
            return gradients::layer_norm::<Self>(x, [weight, bias], epsilon, grad);
        };
        let [for_x, for_weight, for_bias] = norms::layer_grads(rows, w, epsilon as f32, g);
        let bias_grad = f32_tensor(for_bias, bias.shape());
        [
            f32_tensor(for_x, x.shape()),
            f32_tensor(for_weight, weight.shape()),
            reference::cast::<Self>(bias_grad, bias.dtype()),
        ]
    }

    fn swiglu_grads(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        match slices(&[gate.to_contiguous(), up.to_contiguous(), grad.to_contiguous()]) {
            Some([gates, ups, g]) => {
                elementwise::swiglu_grads(gates, ups, g).map(|out| f32_tensor(out, gate.shape()))
            }
            None => gradients::swiglu::<Self>(gate, up, grad),
        }
    }

    fn rms_norm_grads(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        match slices(&[x.to_contiguous(), weight.to_contiguous(), grad.to_contiguous()]) {
            Some([rows, w, g]) => {
                let [for_x, for_weight] = norms::rms_grads(rows, w, epsilon as f32, g);
                [f32_tensor(for_x, x.shape()), f32_tensor(for_weight, weight.shape())]
            }
            None => gradients::rms_norm::<Self>(x, weight, epsilon, grad),
        }
    }

    fn gelu_exact_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        match slices(&[x.to_contiguous(), grad.to_contiguous()]) {
            Some([values, g]) => f32_tensor(elementwise::gelu_grad(values, g), x.shape()),
            None => Self::float_mul(grad, reference::gelu_slope::<Self>(x)),
        }
    }

    fn gelu_by_tanh_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        match slices(&[x.to_contiguous(), grad.to_contiguous()]) {
            Some([values, g]) => f32_tensor(elementwise::gelu_tanh_grad(values, g), x.shape()),
            None => Self::float_mul(grad, reference::gelu_tanh_slope::<Self>(x)),
        }
    }

    fn cross_entropy_grads(
        inputs: HeadInputs<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let HeadInputs { hidden, weight, targets, of_weight } = &inputs;
        let plain = [hidden.to_contiguous(), grad.to_contiguous()];
        let (head, size) = (weight.to_contiguous(), weight.shape());
        // The gradient of a head has its dtype, and sums want more than half width.
        let usable = size.num_elements() > 0 && (head.dtype() == DType::F32 || !of_weight);
        let found = slices(&plain).zip(targets.as_slice::<i64>()).filter(|_| usable);
        let mut for_weight = of_weight.then(|| vec![0.0; size.num_elements()]);
        let for_hidden = found.and_then(|([rows, g], ids)| {
            let for_weight = for_weight.as_deref_mut();
            widened!(head, |w| loss::cross_entropy_grads(rows, (w, size[1]), ids, g, for_weight))
        });
        match for_hidden {
            Some(values) => {
                let for_weight = for_weight.map(|values| f32_tensor(values, size));
                (f32_tensor(values, hidden.shape()), for_weight)
            }
            None => gradients::cross_entropy::<Self>(inputs, grad),
        }
    }
}
