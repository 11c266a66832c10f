//! Kernels for every CubeCL device (wgpu, Vulkan, Metal, WebGPU, CUDA), from one source.
//!
//! Sums, softmax and products run in f32 whatever the dtype of the tensors, which may be f32, f16 or, where the device has
//! it, bf16. Matrix products of many rows are Burn's, but not in f32 where that would take TF32, see
//! [`exact`], nor with rounded weights on tensor cores, see [`cores`]. No kernel has been
//! measured on a card: they were proven on a software adapter, and what bounds each of them is counted beside it.

mod attention;
mod codes;
mod cores;
mod draw;
mod elementwise;
mod enter;
mod exact;
mod fixed;
mod heads;
mod largest;
mod launch;
mod mixture;
mod norms;
mod rows;
mod split;
#[cfg(all(test, feature = "flex"))]
mod tests;
mod tile_kernel;
mod tiles;

use burn::backend::TensorMetadata;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;

use super::fixed::Entering;
use super::{KvRows, ModelOps, Parts, RoundedStack, Share, reference};
use crate::quant::QuantScheme;
use codes::Rounded;
use launch::usable;

impl ModelOps for CubeBackend {
    fn product(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        exact::product(x, y)
    }

    fn linear_nk(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let few = usable([&x, &weight]).then(|| rows::linear(&x, &weight)).flatten();
        few.unwrap_or_else(|| reference::linear::<Self>(x, weight))
    }

    fn linear_in_shares(
        x: FloatTensor<Self>,
        stack: FloatTensor<Self>,
        shares: Vec<Share>,
    ) -> FloatTensor<Self> {
        let found =
            usable([&x, &stack]).then(|| cores::many::in_shares(&x, &stack, &shares)).flatten();
        found.unwrap_or_else(|| reference::linear_in_shares::<Self>(x, stack, &shares))
    }

    fn linear_of_codes(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
    ) -> FloatTensor<Self> {
        let inputs = x.shape()[1];
        let rounded = Rounded::new(&codes, &scales, scheme, inputs).filter(|_| usable([&x]));
        let Some(weight) = rounded else {
            return reference::linear_of_codes::<Self>(x, codes, scales, scheme);
        };
        product_of_codes(x, &weight)
    }

    fn linear_of_codes_in_shares(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
        shares: Vec<Share>,
    ) -> FloatTensor<Self> {
        let (inputs, n) = (x.shape()[1], codes.shape()[1]);
        let rounded = Rounded::stack(&codes, &scales, scheme, inputs).filter(|_| usable([&x]));
        let Some(stack) = rounded else {
            return reference::linear_of_codes_in_shares::<Self>(
                x,
                (codes, scales),
                scheme,
                &shares,
            );
        };
        // Experts that nobody goes to are not read.
        stack.many_rows_in_shares(&x, n, &shares).unwrap_or_else(|| {
            reference::by_shares::<Self>(x, n, &shares, |x, expert| {
                product_of_codes(x, &stack.part(expert * n..(expert + 1) * n))
            })
        })
    }

    fn matrix_of_codes(
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scheme: QuantScheme,
        inputs: usize,
    ) -> FloatTensor<Self> {
        match Rounded::new(&codes, &scales, scheme, inputs) {
            Some(weight) => weight.expanded(0..weight.outputs(), DType::F32),
            None => reference::expanded::<Self>(codes, scales, scheme, inputs),
        }
    }

    fn rows_of_codes(
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        ids: IntTensor<Self>,
        scheme: QuantScheme,
        inputs: usize,
    ) -> FloatTensor<Self> {
        let rounded = Rounded::new(&codes, &scales, scheme, inputs);
        match rounded.filter(|_| ids.shape().num_elements() > 0) {
            Some(weight) => weight.rows(ids),
            None => {
                let codes = Self::int_select(codes, 0, ids.clone());
                let scales = Self::float_select(scales, 0, ids);
                reference::expanded::<Self>(codes, scales, scheme, inputs)
            }
        }
    }

    fn grouped_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        Self::attention_over_parts(q, Parts::floats(vec![k], vec![v]), causal)
    }

    fn attention_over_parts(
        q: FloatTensor<Self>,
        parts: Parts<Self>,
        causal: bool,
    ) -> FloatTensor<Self> {
        let ([_, _, _, d], dtype) = (q.shape().dims(), q.dtype);
        let floats = |all: Vec<KvRows<Self>>| {
            let all = all.into_iter().map(|rows| reference::expanded_kv::<Self>(rows, d, dtype));
            all.collect::<Vec<_>>()
        };
        let (keys, values) = (floats(parts.keys), floats(parts.values));
        let all: Vec<_> = keys.iter().cloned().zip(values.iter().cloned()).collect();
        let whole = all.iter().all(|(k, _)| usable([k]));
        let fits = usable([&q]) && whole && attention::alike(&q, &all);
        let found = fits.then(|| attention::over_parts(&q, &all, causal)).flatten();
        found.unwrap_or_else(|| {
            reference::attention_over_parts::<Self>(q, Parts::floats(keys, values), causal)
        })
    }

    fn attention_in_sequences(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        lengths: Vec<usize>,
        causal: bool,
    ) -> FloatTensor<Self> {
        let found = usable([&q, &k, &v])
            .then(|| attention::packed([&q, &k, &v].map(Clone::clone), &lengths, causal));
        found
            .flatten()
            .unwrap_or_else(|| reference::packed_attention::<Self>([q, k, v], &lengths, causal))
    }

    fn attention_of_rotated(
        qkv: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        lengths: Vec<usize>,
    ) -> FloatTensor<Self> {
        let found =
            usable([&qkv, &cos, &sin]).then(|| attention::rotary(&qkv, [&cos, &sin], &lengths));
        found
            .flatten()
            .unwrap_or_else(|| reference::rotary_attention::<Self>(qkv, [cos, sin], &lengths))
    }

    fn rotate_halves(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ([rows, _, d], tables) = (x.shape().dims(), [cos.shape(), sin.shape()]);
        let fits = tables.iter().all(|table| table.dims() == [rows, 1, d / 2]);
        if !usable([&x, &cos, &sin]) || !fits || cos.dtype != sin.dtype || d % 2 > 0 {
            return reference::rotate::<Self>(x, cos, sin);
        }
        elementwise::rotate(x, [cos, sin])
    }

    fn layer_norm_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let width = x.shape()[1];
        let whole = [&weight, &bias].iter().all(|t| t.shape().num_elements() == width);
        if !usable([&x, &weight, &bias]) || !whole || weight.dtype != bias.dtype {
            return reference::layer_norm::<Self>(x, [weight, bias], epsilon);
        }
        norms::layer(x, [weight, bias], epsilon)
    }

    fn gated_silu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let alike = gate.dtype == up.dtype && gate.shape() == up.shape();
        if !usable([&gate, &up]) || !alike {
            return reference::swiglu::<Self>(gate, up);
        }
        elementwise::swiglu(gate, up)
    }

    fn rms_norm_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let shape = x.shape();
        let whole = weight.shape().num_elements() == shape[shape.num_dims() - 1];
        if !usable([&x, &weight]) || !whole {
            return reference::rms_norm::<Self>(x, weight, epsilon);
        }
        let weight = reference::cast::<Self>(weight, x.dtype);
        norms::rms(x, weight, epsilon)
    }

    fn sum_and_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let alike = x.dtype == y.dtype && x.shape() == y.shape();
        let whole = weight.shape().num_elements() == x.shape()[1];
        if !usable([&x, &y, &weight]) || !alike || !whole {
            return reference::add_rms_norm::<Self>([x, y], weight, epsilon);
        }
        let weight = reference::cast::<Self>(weight, x.dtype);
        norms::add_rms(x, y, weight, epsilon)
    }

    fn norm_of_heads_rotated(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let ([rows, _, d], tables) = (x.shape().dims(), [cos.shape(), sin.shape()]);
        let fits = tables.iter().all(|table| table.dims() == [rows, 1, d / 2])
            && weight.shape().num_elements() == d;
        if !usable([&x, &weight, &cos, &sin]) || !fits || cos.dtype != sin.dtype || d % 2 > 0 {
            return reference::rms_norm_rotated::<Self>(x, weight, [cos, sin], epsilon);
        }
        let weight = reference::cast::<Self>(weight, x.dtype);
        enter::norm_rotate(x, weight, [cos, sin], epsilon)
    }

    fn largest_of_rows(x: FloatTensor<Self>, k: usize) -> FloatTensor<Self> {
        let x = reference::cast::<Self>(x, DType::F32);
        let found = usable([&x]).then(|| largest::of_rows(&x, k)).flatten();
        found.unwrap_or_else(|| reference::largest_of_rows::<Self>(x, k))
    }

    fn mixture_of_routes(
        x: FloatTensor<Self>,
        routes: FloatTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let fits = usable([&x, &routes, &gate_up, &down]) && routes.dtype == DType::F32;
        let found = fits.then(|| mixture::mixture(&x, &routes, &gate_up, &down)).flatten();
        found.unwrap_or_else(|| reference::mixture::<Self>(x, routes, gate_up, down))
    }

    fn mixture_of_codes(
        x: FloatTensor<Self>,
        routes: FloatTensor<Self>,
        gate_up: RoundedStack<Self>,
        down: RoundedStack<Self>,
    ) -> FloatTensor<Self> {
        let fits = usable([&x, &routes]) && routes.dtype == DType::F32;
        let found = fits.then(|| mixture::of_codes(&x, &routes, &gate_up, &down)).flatten();
        found.unwrap_or_else(|| reference::mixture_of_codes::<Self>(x, routes, gate_up, down))
    }

    fn gelu_by_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !usable([&x]) {
            return reference::gelu_tanh::<Self>(x);
        }
        // tanh(u) = 2·σ(2u) − 1.
        elementwise::gelu_tanh(
            x,
            [2.0, 2.0 * reference::GELU_CUBE].map(|f| f * reference::GELU_SLOPE),
        )
    }
}

fn product_of_codes(x: FloatTensor<CubeBackend>, weight: &Rounded) -> FloatTensor<CubeBackend> {
    let found = match x.shape()[0] {
        count if count <= rows::FEW_ROWS => weight.few_rows(x.clone()),
        _ => weight.many_rows(&x),
    };
    found.unwrap_or_else(|| product_by_blocks(&x, weight))
}

/// The product with many rows without tensor cores: blocks of the weight are expanded one after the other.
fn product_by_blocks(x: &FloatTensor<CubeBackend>, weight: &Rounded) -> FloatTensor<CubeBackend> {
    let (n, inputs) = (weight.outputs(), x.shape()[1]);
    let block = (codes::EXPANDED / inputs.max(1)).clamp(1, n);
    let products = (0..n).step_by(block).map(|first| {
        let rows = first..(first + block).min(n);
        reference::linear::<CubeBackend>(x.clone(), weight.expanded(rows, x.dtype))
    });
    let mut products: Vec<_> = products.collect();
    if products.len() == 1 { products.remove(0) } else { CubeBackend::float_cat(products, 1) }
}

impl super::gradients::ModelGradients for CubeBackend {}
impl super::update::UpdateOps for CubeBackend {}

impl super::fixed::FixedOps for CubeBackend {
    fn rows_written(
        into: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        at: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let rows = reference::cast::<Self>(rows, into.dtype);
        let at = into_contiguous(at);
        let fits = usable([&into, &rows, &at]) && at.dtype == DType::F32;
        match fits.then(|| fixed::write_rows(&into, &rows, &at)).flatten() {
            Some(()) => into,
            None => reference::write_rows::<Self>(into, rows, at),
        }
    }

    fn heads_entered(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        at: FloatTensor<Self>,
        new: Entering<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let at = into_contiguous(at);
        let fits = usable([&keys, &values, &at, &new.queries, &new.keys, &new.values])
            && usable([&new.query_weight, &new.key_weight, &new.cos, &new.sin]);
        let turned = fits.then(|| enter::enter([&keys, &values], &at, &new, epsilon)).flatten();
        match turned {
            Some(queries) => (queries, keys, values),
            None => reference::enter::<Self>([keys, values], at, new, epsilon),
        }
    }

    fn rows_drawn(
        found: FloatTensor<Self>,
        terms: FloatTensor<Self>,
        chances: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let all = [found, terms, chances].map(into_contiguous);
        let fits = usable([&all[0], &all[1], &all[2]]) && all.iter().all(|x| x.dtype == DType::F32);
        let drawn = fits.then(|| draw::of_rows(&all[0], &all[1], &all[2])).flatten();
        let [found, terms, chances] = all;
        drawn.unwrap_or_else(|| reference::draw_of_rows::<Self>(found, terms, chances))
    }

    fn attention_up_to_places(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        at: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (at, both) = (into_contiguous(at), [(k, v)]);
        let [(k, v)] = &both;
        let fits = usable([&q, k, v, &at]) && at.dtype == DType::F32 && attention::alike(&q, &both);
        let found = fits.then(|| attention::up_to(&q, &both[0], &at)).flatten();
        let [(k, v)] = both;
        found.unwrap_or_else(|| reference::attention_up_to::<Self>([q, k, v], at))
    }
}
