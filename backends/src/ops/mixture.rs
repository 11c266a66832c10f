//! Mixtures of experts whose routes stay on the device.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::{ModelOps, RoundedStack};

/// A mixture of experts: each row of `x [rows, hidden]` goes to `k` of them, which are never read back. `routes [rows, 2k]` are
/// their logits and behind these their numbers, as [`largest_of_rows`] gives them. SwiGLU with `gate_up [experts, 2 · inner,
/// hidden]` (gate rows first), `down [experts, hidden, inner]`, and the sum by the softmax of the logits; in the dtype of `x`.
///
/// Kernels read the matrices of an expert once for a tile of its rows; the reference body copies them for each.
pub fn mixture(x: Tensor<2>, routes: Tensor<2>, gate_up: Tensor<3>, down: Tensor<3>) -> Tensor<2> {
    let (x, routes) = (x.into_dispatch(), routes.into_dispatch());
    let (gate_up, down) = (gate_up.into_dispatch(), down.into_dispatch());
    Tensor::from_dispatch(Dispatch::mixture_of_routes(x, routes, gate_up, down))
}

/// [`mixture`] with weights that were rounded, each stack in its own way; activations are taken as they are. The reference body
/// expands the matrices of a few pairs of a row and an expert at a time.
pub fn rounded_mixture(
    x: Tensor<2>,
    routes: Tensor<2>,
    gate_up: RoundedStack<Dispatch>,
    down: RoundedStack<Dispatch>,
) -> Tensor<2> {
    let (x, routes) = (x.into_dispatch(), routes.into_dispatch());
    Tensor::from_dispatch(Dispatch::mixture_of_codes(x, routes, gate_up, down))
}
