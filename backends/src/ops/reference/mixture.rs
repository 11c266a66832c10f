//! A mixture of experts whose routes stay on the device.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{DType, Shape};

use super::{cast, columns, swiglu};

/// Body of [`super::super::ModelOps::mixture_of_routes`]: copies the matrices of every pair of a row and an expert.
pub fn mixture<B: Backend>(
    x: FloatTensor<B>,
    routes: FloatTensor<B>,
    gate_up: FloatTensor<B>,
    down: FloatTensor<B>,
) -> FloatTensor<B> {
    let ([rows, hidden], k, dtype) = (x.shape().dims(), routes.shape()[1] / 2, x.dtype());
    let int = get_or_init_device_settings::<B>(&x.device()).int_dtype;
    let experts = B::float_into_int(columns::<B>(routes.clone(), k..2 * k), int);
    let experts = B::int_reshape(experts, Shape::new([rows * k]));
    let x = B::float_reshape(x, Shape::new([rows, 1, hidden]));
    let x = B::float_expand(x, Shape::new([rows, k, hidden]));
    let x = B::float_reshape(x, Shape::new([rows * k, hidden]));
    let both = product_of_each::<B>(x, gate_up, experts.clone());
    let inner = both.shape()[1] / 2;
    let gate = columns::<B>(both.clone(), 0..inner);
    let between = swiglu::<B>(gate, columns::<B>(both, inner..2 * inner));
    let y = cast::<B>(product_of_each::<B>(between, down, experts), DType::F32);
    let shares = B::softmax(columns::<B>(routes, 0..k), 1);
    let weighted = B::float_mul(y, B::float_reshape(shares, Shape::new([rows * k, 1])));
    let sums = B::float_sum_dim(B::float_reshape(weighted, Shape::new([rows, k, hidden])), 1);
    cast::<B>(B::float_reshape(sums, Shape::new([rows, hidden])), dtype)
}

/// Each row of `x` times the matrix of its own expert.
fn product_of_each<B: Backend>(
    x: FloatTensor<B>,
    stack: FloatTensor<B>,
    experts: IntTensor<B>,
) -> FloatTensor<B> {
    let ([slots, inputs], outputs) = (x.shape().dims(), stack.shape()[1]);
    let chosen = cast::<B>(B::float_select(stack, 0, experts), x.dtype());
    let y = B::float_matmul(chosen, B::float_reshape(x, Shape::new([slots, inputs, 1])));
    B::float_reshape(y, Shape::new([slots, outputs]))
}
