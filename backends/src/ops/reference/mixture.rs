//! A mixture of experts whose routes stay on the device.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{DType, Shape, Slice};

use super::super::{ModelOps, RoundedStack};
use super::{cast, columns, joined, slice_first, swiglu};

/// Most values of copied or expanded weights that exist at one time, but for those of one expert.
const EXPANDED: usize = 1 << 25;

/// Body of [`super::super::ModelOps::mixture_of_routes`]: copies the matrices of a few pairs of a row and an expert at a time.
pub fn mixture<B: ModelOps>(
    x: FloatTensor<B>,
    routes: FloatTensor<B>,
    gate_up: FloatTensor<B>,
    down: FloatTensor<B>,
) -> FloatTensor<B> {
    let double = gate_up.shape()[1];
    by_few_pairs::<B>(x, routes, double, |x, experts| {
        let both = product_of_each::<B>(x, gate_up.clone(), experts.clone());
        product_of_each::<B>(gated::<B>(both), down.clone(), experts)
    })
}

/// Body of [`super::super::ModelOps::mixture_of_codes`]: expands them instead.
pub fn mixture_of_codes<B: ModelOps>(
    x: FloatTensor<B>,
    routes: FloatTensor<B>,
    gate_up: RoundedStack<B>,
    down: RoundedStack<B>,
) -> FloatTensor<B> {
    let double = gate_up.codes.shape()[1];
    by_few_pairs::<B>(x, routes, double, |x, experts| {
        let both = product_of_each_rounded::<B>(x, &gate_up, experts.clone());
        product_of_each_rounded::<B>(gated::<B>(both), &down, experts)
    })
}

/// The sums of what `products` makes of pairs, as many at a time as there may be matrices of `double` rows.
fn by_few_pairs<B: ModelOps>(
    x: FloatTensor<B>,
    routes: FloatTensor<B>,
    double: usize,
    products: impl Fn(FloatTensor<B>, IntTensor<B>) -> FloatTensor<B>,
) -> FloatTensor<B> {
    let (x, experts) = pairs::<B>(x, &routes);
    let [count, hidden] = x.shape().dims();
    let step = (EXPANDED / (double * hidden).max(1)).clamp(1, count.max(1));
    let parts = (0..count).step_by(step).map(|first| {
        let last = (first + step).min(count);
        let few = Slice::from(first as isize..last as isize);
        let x = slice_first::<B>(x.clone(), first, last);
        products(x, B::int_slice(experts.clone(), &[few]))
    });
    summed::<B>(joined::<B>(parts.collect()), routes)
}

/// Each row once for each of its experts, and these.
fn pairs<B: Backend>(x: FloatTensor<B>, routes: &FloatTensor<B>) -> (FloatTensor<B>, IntTensor<B>) {
    let ([rows, hidden], k) = (x.shape().dims(), routes.shape()[1] / 2);
    let int = get_or_init_device_settings::<B>(&x.device()).int_dtype;
    let experts = B::float_into_int(columns::<B>(routes.clone(), k..2 * k), int);
    let x = B::float_reshape(x, Shape::new([rows, 1, hidden]));
    let x = B::float_expand(x, Shape::new([rows, k, hidden]));
    let x = B::float_reshape(x, Shape::new([rows * k, hidden]));
    (x, B::int_reshape(experts, Shape::new([rows * k])))
}

/// SwiGLU of gates, and behind them their partners.
fn gated<B: Backend>(both: FloatTensor<B>) -> FloatTensor<B> {
    let inner = both.shape()[1] / 2;
    let gate = columns::<B>(both.clone(), 0..inner);
    swiglu::<B>(gate, columns::<B>(both, inner..2 * inner))
}

/// The sum of what a row's experts made of it, by the softmax of their logits.
fn summed<B: Backend>(y: FloatTensor<B>, routes: FloatTensor<B>) -> FloatTensor<B> {
    let ([rows, both], hidden, dtype) = (routes.shape().dims(), y.shape()[1], y.dtype());
    let shares = B::softmax(columns::<B>(routes, 0..both / 2), 1);
    let shares = B::float_reshape(shares, Shape::new([rows * both / 2, 1]));
    let weighted = B::float_mul(cast::<B>(y, DType::F32), shares);
    let weighted = B::float_reshape(weighted, Shape::new([rows, both / 2, hidden]));
    let sums = B::float_sum_dim(weighted, 1);
    cast::<B>(B::float_reshape(sums, Shape::new([rows, hidden])), dtype)
}

/// Each row of `x` times the matrix of its own expert.
fn product_of_each<B: ModelOps>(
    x: FloatTensor<B>,
    stack: FloatTensor<B>,
    experts: IntTensor<B>,
) -> FloatTensor<B> {
    by_own_matrix::<B>(x, B::float_select(stack, 0, experts))
}

/// [`product_of_each`] with matrices that are expanded.
fn product_of_each_rounded<B: ModelOps>(
    x: FloatTensor<B>,
    stack: &RoundedStack<B>,
    experts: IntTensor<B>,
) -> FloatTensor<B> {
    let ([slots, inputs], [count, outputs, bytes]) = (x.shape().dims(), stack.codes.shape().dims());
    let int = get_or_init_device_settings::<B>(&x.device()).int_dtype;
    let (rows, all) = (Shape::new([count * outputs, bytes]), stack.scales.shape()[2]);
    let codes = B::int_reshape(stack.codes.clone(), rows);
    let scales = B::float_reshape(stack.scales.clone(), Shape::new([count * outputs, all]));
    let firsts = B::int_mul_scalar(experts, (outputs as i64).into());
    let firsts = B::int_reshape(firsts, Shape::new([slots, 1]));
    let each = B::int_arange(0..outputs as i64, &x.device(), int);
    let ids = B::int_add(firsts, B::int_reshape(each, Shape::new([1, outputs])));
    let ids = B::int_reshape(ids, Shape::new([slots * outputs]));
    let chosen = B::rows_of_codes(codes, scales, ids, stack.scheme, inputs);
    by_own_matrix::<B>(x, B::float_reshape(chosen, Shape::new([slots, outputs, inputs])))
}

/// Each row of `x` times its matrix of `chosen [slots, n, k]`.
fn by_own_matrix<B: ModelOps>(x: FloatTensor<B>, chosen: FloatTensor<B>) -> FloatTensor<B> {
    let ([slots, outputs, inputs], dtype) = (chosen.shape().dims(), x.dtype());
    let x = B::float_reshape(x, Shape::new([slots, inputs, 1]));
    let y = B::product(cast::<B>(chosen, dtype), x);
    B::float_reshape(y, Shape::new([slots, outputs]))
}
