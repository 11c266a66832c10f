//! Operations on keys and values as a cache keeps them.

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor};

use super::{KvRows, ModelOps, Parts};

/// [`super::attention`] over keys and values that lie in several tensors, as if these were joined along the positions; they are
/// not copied, and kernels on Flex read them in any dtype as they lie. Each `k` belongs to the `v` of the same index, and there is
/// at least one.
pub fn attention_over_parts<R: Into<KvRows<Dispatch>>>(
    q: Tensor<4>,
    k: Vec<R>,
    v: Vec<R>,
    causal: bool,
) -> Tensor<4> {
    let list = |all: Vec<R>| all.into_iter().map(Into::into).collect();
    let parts = Parts { keys: list(k), values: list(v) };
    Tensor::from_dispatch(Dispatch::attention_over_parts(q.into_dispatch(), parts, causal))
}

/// `rows [b, g, t, d]` as the words and scales of [`KvRows::Int8`]: the largest value of each row becomes 127 times its scale.
pub fn round_kv(rows: Tensor<4>) -> (Tensor<4, Int>, Tensor<4>) {
    let (words, scales) = Dispatch::rows_in_bytes(rows.into_dispatch());
    (Tensor::from_dispatch(words), Tensor::from_dispatch(scales))
}

/// `rows [b, g, t, d]` in a float dtype in which they are kept; not differentiated.
pub fn keep_kv(rows: Tensor<4>, dtype: DType) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::rows_in_dtype(rows.into_dispatch(), dtype))
}

/// Keys or values `[b, g, t, d]` in `dtype`.
pub fn expand_kv(rows: KvRows<Dispatch>, d: usize, dtype: DType) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::expanded_kv(rows, d, dtype))
}
