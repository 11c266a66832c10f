//! Products of one row with several rounded weights, which it is rounded for once, and on which all cores begin once.
//!
//! A step of an answer has a hundred products of some microseconds, before each of which one core rounds the row and the others
//! wait. Every value is that of the products apart.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape};

use super::super::elementwise::swiglu_chunk;
use super::super::products::Kind;
use super::super::{bytes_of, f32_tensor, rows_of};
use super::inputs::Inputs;
use super::{ROWS_PER_TASK, Ready, Scales, Weights, task_rows};
use crate::cpu::Level;
use crate::ops::{RoundedStack, kernels_on};
use crate::quant::Codes;
use crate::threads::ranges::fill_parts;

/// Body of `linear_of_three_codes`; `None` where there is no kernel for it.
pub fn products<const N: usize>(
    x: &FlexTensor,
    weights: [&RoundedStack<Flex>; N],
) -> Option<[FlexTensor; N]> {
    let (x, weights) = operands(x, weights)?;
    let rows = row_by_all(rows_of(&x), weights, Level::chosen())?;
    Some(rows.map(in_one_row))
}

/// Body of `gated_of_codes`; `None` where there is no kernel for it.
pub fn gated(x: &FlexTensor, weights: [&RoundedStack<Flex>; 2]) -> Option<FlexTensor> {
    let (x, [gate, up]) = operands(x, weights)?;
    let alike = gate.rows() == up.rows();
    alike.then(|| in_one_row(gated_row(rows_of(&x), [gate, up], Level::chosen())))
}

fn in_one_row(values: Vec<f32>) -> FlexTensor {
    let shape = Shape::new([1, values.len()]);
    f32_tensor(values, shape)
}

/// The row and the weights, where it is one that is rounded as a step of an answer, and these are integers of one scheme.
fn operands<'w, const N: usize>(
    x: &FlexTensor,
    weights: [&'w RoundedStack<Flex>; N],
) -> Option<(FlexTensor, [Weights<'w>; N])> {
    let ([m, k], scheme) = (x.shape().dims(), weights[0].scheme);
    let step = m == 1 && Kind::said() != Some(Kind::Prompts);
    let integers = scheme.codes() != Codes::Float8;
    let alike = weights.iter().all(|weight| weight.scheme == scheme);
    if !(kernels_on() && x.dtype() == DType::F32 && step && integers && alike) {
        return None;
    }
    let found = weights.map(|weight| {
        let (codes, scales) = (bytes_of(&weight.codes)?, Scales::of(&weight.scales)?);
        Some(Weights { codes, scales, k, scheme })
    });
    let whole = found.iter().all(Option::is_some);
    whole.then(|| (x.to_contiguous(), found.map(|weight| weight.expect("all are there"))))
}

/// `x [k] · wᵀ` with each of several weights of one scheme, whose codes are integers; `None` where a task would lie in two.
fn row_by_all<const N: usize>(
    x: &[f32],
    weights: [Weights<'_>; N],
    level: Level,
) -> Option<[Vec<f32>; N]> {
    let counts = weights.map(Weights::rows);
    if counts.iter().any(|count| count % ROWS_PER_TASK != 0) {
        return None;
    }
    let inputs = Inputs::round(x, weights[0].k, weights[0].scheme);
    let ready = Ready::new(&inputs, 1, weights[0].scheme, level);
    let mut all = vec![0.0; counts.iter().sum()];
    fill_parts(&mut all, ROWS_PER_TASK, |room, task, out| {
        let (mut row, mut which) = (task * ROWS_PER_TASK, 0);
        while row >= counts[which] {
            row -= counts[which];
            which += 1;
        }
        task_rows(out, (1, room), (weights[which], row), &ready);
    });
    let mut rest = &all[..];
    Some(counts.map(|count| {
        let (mine, others) = rest.split_at(count);
        rest = others;
        mine.to_vec()
    }))
}

/// `gate · σ(gate) · up` of the products of `x [k]` with two weights of one scheme and size, whose codes are integers.
fn gated_row(x: &[f32], [gate, up]: [Weights<'_>; 2], level: Level) -> Vec<f32> {
    let inputs = Inputs::round(x, gate.k, gate.scheme);
    let ready = Ready::new(&inputs, 1, gate.scheme, level);
    let mut out = vec![0.0; up.rows()];
    fill_parts(&mut out, ROWS_PER_TASK, |(room, gates): &mut (Vec<f32>, Vec<f32>), task, ups| {
        gates.resize(ups.len(), 0.0);
        task_rows(gates, (1, room), (gate, task * ROWS_PER_TASK), &ready);
        task_rows(ups, (1, room), (up, task * ROWS_PER_TASK), &ready);
        swiglu_chunk(ups, gates);
    });
    out
}
