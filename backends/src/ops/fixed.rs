//! What a decoding step does on tensors that stay where they are, so that it can be captured and replayed: where it writes, and
//! how far it reads, is said by tensors. On plain (untracked) tensors.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
use burn::tensor::Tensor;

use super::{ModelOps, reference};

/// What a step has projected, and what it takes to put that where attention finds it.
#[derive(Debug, Clone, ExtensionType)]
pub struct Entering<B: Backend> {
    /// `[b, h, d]`.
    pub queries: FloatTensor<B>,
    /// `[b, g, d]`, as the values.
    pub keys: FloatTensor<B>,
    pub values: FloatTensor<B>,
    /// Of the norms, `[d]`.
    pub query_weight: FloatTensor<B>,
    pub key_weight: FloatTensor<B>,
    /// `[b, 1, d / 2]`, as the sines.
    pub cos: FloatTensor<B>,
    pub sin: FloatTensor<B>,
}

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

    /// Heads normed, rotated and written, see [`enter`]: queries, and keys and values with their rows.
    fn heads_entered(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        at: FloatTensor<Self>,
        #[extension_type] new: Entering<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::enter::<Self>([keys, values], at, new, epsilon)
    }

    /// An id for each row, see [`draw_of_rows`].
    fn rows_drawn(
        found: FloatTensor<Self>,
        terms: FloatTensor<Self>,
        chances: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::draw_of_rows::<Self>(found, terms, chances)
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

/// What comes before attention in a step: `queries [b, h, d]` and `keys [b, g, d]` are normed and rotated
/// ([`super::rms_norm_rotated`]), keys and `values [b, g, d]` are written into `held` (keys and values `[b, g, t, d]`) at the
/// places `at [b]`, as [`write_rows`] writes them. Returns the queries, and what is held.
pub fn enter(
    [queries, keys, values]: [Tensor<3>; 3],
    [query_weight, key_weight]: [Tensor<1>; 2],
    [cos, sin]: [Tensor<3>; 2],
    epsilon: f64,
    held: [Tensor<4>; 2],
    at: Tensor<1>,
) -> (Tensor<3>, [Tensor<4>; 2]) {
    let new = Entering {
        queries: queries.into_dispatch(),
        keys: keys.into_dispatch(),
        values: values.into_dispatch(),
        query_weight: query_weight.into_dispatch(),
        key_weight: key_weight.into_dispatch(),
        cos: cos.into_dispatch(),
        sin: sin.into_dispatch(),
    };
    let [keys, values] = held.map(Tensor::into_dispatch);
    let (queries, keys, values) =
        Dispatch::heads_entered(keys, values, at.into_dispatch(), new, epsilon);
    (Tensor::from_dispatch(queries), [keys, values].map(Tensor::from_dispatch))
}

/// The next token of each row, `[n]`, of `found [n, 2k]`, as [`super::largest_of_rows`] gives it: drawn as samplers do, but in f32,
/// so that now and then another one is drawn where two are as near as rounding. `terms [n, 4]` are temperature (0 takes the
/// largest), `top_k`, one minus `top_p` (negative where all count) and `min_p`; `chances [n]` are random numbers below 1, which
/// draw in the order of ids. All are in f32, and `k` is to be larger than `top_k`.
pub fn draw_of_rows(found: Tensor<2>, terms: Tensor<2>, chances: Tensor<1>) -> Tensor<1> {
    let (found, terms) = (found.into_dispatch(), terms.into_dispatch());
    Tensor::from_dispatch(Dispatch::rows_drawn(found, terms, chances.into_dispatch()))
}

/// [`super::attention`] of one query row `q [b, h, 1, d]` over the keys and values `k, v [b, g, t, d]` up to and with the place
/// `at[i]` of its batch, see [`write_rows`]. What lies behind must be numbers, and counts for nothing.
pub fn attention_up_to(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, at: Tensor<1>) -> Tensor<4> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::attention_up_to_places(q, k, v, at.into_dispatch()))
}
