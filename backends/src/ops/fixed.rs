//! What a decoding step does on tensors that stay where they are, so that it can be captured and replayed: where it writes, and
//! how far it reads, is said by tensors. On plain (untracked) tensors.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Dispatch, backend_extension};
use burn::tensor::Tensor;

use super::{ModelOps, reference};

/// What steps on fixed tensors need.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(any(feature = "wgpu", feature = "cuda")),
    Remote: cfg(feature = "remote")
)]
pub trait FixedOps: ModelOps {
    /// A row of each batch replaced, see [`write_rows`].
    fn rows_written(
        into: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        at: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::write_rows::<Self>(into, rows, at)
    }

    /// Attention over keys up to a place, see [`attention_up_to`].
    fn attention_up_to_places(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        at: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::attention_up_to::<Self>([q, k, v], at)
    }
}

/// `into [b, g, t, d]`, in whose batch `i` the row `at[i]` of every head is that of `rows [b, g, 1, d]`. `at [b]` are places in
/// f32, which holds those below 2²⁴ exactly; what is to go behind the last row goes nowhere. All have one dtype but `at`.
///
/// Kernels write into the memory of `into`, whoever else holds it, so that a captured step finds it where it was. Reference
/// bodies leave `into` as it is; go on with what is returned.
pub fn write_rows(into: Tensor<4>, rows: Tensor<4>, at: Tensor<1>) -> Tensor<4> {
    let (into, rows) = (into.into_dispatch(), rows.into_dispatch());
    Tensor::from_dispatch(Dispatch::rows_written(into, rows, at.into_dispatch()))
}

/// [`super::attention`] of one query row `q [b, h, 1, d]` over the keys and values `k, v [b, g, t, d]` up to and with the place
/// `at[i]` of its batch, see [`write_rows`]. What lies behind must be numbers, and counts for nothing.
pub fn attention_up_to(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, at: Tensor<1>) -> Tensor<4> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::attention_up_to_places(q, k, v, at.into_dispatch()))
}
