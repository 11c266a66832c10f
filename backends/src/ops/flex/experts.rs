//! Products of many experts at once: each share of rows with a matrix of its own, all on the cores together.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape, bf16, f16};
use rayon::prelude::*;

use super::quantised::{Scales, Weights};
use super::{Widen, bytes_of, f32_tensor, matrix_product, product_of_codes, rows_of, turned};
use crate::ops::{Share, choose_products, choose_steps, kernels_on, products};
use crate::quant::QuantScheme;

/// How the matrices of a stack `[experts, n, k]` lie in memory.
#[derive(Clone, Copy)]
enum Order {
    /// `[n, k]`.
    Rows,
    /// `[k, n]`.
    Columns,
}

impl Order {
    /// `None` where it is neither.
    fn of(stack: &FlexTensor) -> Option<Self> {
        if stack.is_contiguous() {
            return Some(Self::Rows);
        }
        let [experts, n, k] = stack.shape().dims();
        let strides = stack.layout().strides();
        let apart = experts == 1 || strides[0] == (n * k) as isize;
        (apart && strides[1..] == [1, n as isize]).then_some(Self::Columns)
    }
}

/// Body of `linear_in_shares`; `None` where there is no kernel for it.
pub fn linear(x: &FlexTensor, stack: &FlexTensor, shares: &[Share]) -> Option<FlexTensor> {
    if !kernels_on() || x.dtype() != DType::F32 {
        return None;
    }
    let ([_, n, k], order) = (stack.shape().dims(), Order::of(stack)?);
    let (x, start) = (x.to_contiguous(), stack.layout().start_offset());
    let (values, size) = (rows_of(&x), ([n, k], order));
    let out = match stack.dtype() {
        DType::F32 => all_products(values, &stack.storage::<f32>()[start..], size, shares),
        DType::BF16 => all_products(values, &stack.storage::<bf16>()[start..], size, shares),
        DType::F16 => all_products(values, &stack.storage::<f16>()[start..], size, shares),
        _ => return None,
    };
    Some(f32_tensor(out, Shape::new([x.shape()[0], n])))
}

/// Body of `linear_of_codes_in_shares`; `None` where there is no kernel for it.
pub fn linear_of_codes(
    x: &FlexTensor,
    (codes, scales): (&FlexTensor, &FlexTensor),
    scheme: QuantScheme,
    shares: &[Share],
) -> Option<FlexTensor> {
    if !kernels_on() || x.dtype() != DType::F32 {
        return None;
    }
    let ([_, n, _], k, x) = (codes.shape().dims(), x.shape()[1], x.to_contiguous());
    let (codes, scales) = (bytes_of(codes)?, Scales::of(scales)?);
    let (bytes, columns) = (n * scheme.row_bytes(k), n * scheme.scale_columns(k));
    let out = spread(rows_of(&x), [n, k], shares, |x, expert| {
        let codes = &codes[expert * bytes..][..bytes];
        let scales = scales.part(expert * columns..(expert + 1) * columns);
        product_of_codes(x, Weights { codes, scales, k, scheme }, n)
    });
    Some(f32_tensor(out, Shape::new([x.shape()[0], n])))
}

fn all_products<W: Widen>(
    x: &[f32],
    stack: &[W],
    ([n, k], order): ([usize; 2], Order),
    shares: &[Share],
) -> Vec<f32> {
    spread(x, [n, k], shares, |x, expert| {
        let weight = &stack[expert * n * k..][..n * k];
        match order {
            Order::Rows => matrix_product(x, weight, [n, k]),
            Order::Columns => turned::product(x, weight, [n, k]),
        }
    })
}

/// What `product` makes of the rows of `x` of each share and its expert, one after the other.
fn spread(
    x: &[f32],
    [n, k]: [usize; 2],
    shares: &[Share],
    product: impl Fn(&[f32], usize) -> Vec<f32> + Sync,
) -> Vec<f32> {
    let rows: usize = shares.iter().map(|share| share.rows).sum();
    assert_eq!(x.len(), rows * k, "the rows of all shares");
    let mut out = vec![0.0; rows * n];
    let (mut left, mut room) = (x, &mut out[..]);
    let mut tasks = Vec::with_capacity(shares.len());
    for share in shares {
        let (mine, others) = left.split_at(share.rows * k);
        let (to, rest) = room.split_at_mut(share.rows * n);
        tasks.push((mine, to, share));
        (left, room) = (others, rest);
    }
    let chosen = products();
    tasks.into_par_iter().for_each(|(x, to, share)| {
        let _products = choose_products(Some(chosen));
        let _steps = choose_steps(share.steps);
        to.copy_from_slice(&product(x, share.expert));
    });
    out
}
