//! The ways to multiply on Flex against each other, in a process of its own: the choice is one for the whole process, so that
//! one test makes all of them. Without tiles split products are the exact ones.

#![cfg(feature = "flex")]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use qwen3_vl_backends::ops::{self, Products, choose_steps, set_products};
use qwen3_vl_backends::quant::QuantScheme;

fn tensor<const D: usize>(shape: [usize; D], seed: f32, dtype: DType) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i as f32 + seed) * 0.7713).sin()).collect();
    let data = TensorData::new(values, shape).convert_dtype(dtype);
    Tensor::from_data(data, (&Device::flex(), dtype))
}

/// Codes and scales of a matrix that was rounded.
fn rounded(w: &Tensor<2>, scheme: QuantScheme) -> (Tensor<2, Int>, Tensor<2>) {
    let ([n, k], device) = (w.dims(), Device::flex());
    let rounded = scheme.round(&w.to_data().try_to_vec::<f32>().unwrap(), k).unwrap();
    let (shape, dtype) = (vec![n, scheme.row_bytes(k)], scheme.code_dtype());
    let codes = TensorData::from_bytes_vec(rounded.codes, shape, dtype);
    let scales = TensorData::new(rounded.scales, [n, scheme.groups(k)]);
    (Tensor::from_data(codes, (&device, dtype)), Tensor::from_data(scales, (&device, DType::BF16)))
}

/// A product, or attention, and how far from the exact one it may be split and rounded, of the largest value.
struct Case {
    name: String,
    run: Box<dyn Fn() -> Vec<f32>>,
    split: f32,
    rounded: f32,
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec().unwrap()
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for [m, n, k] in [[16, 33, 65], [40, 300, 129], [70, 17, 600]] {
            let (x, w) = (tensor([m, k], 0.3, DType::F32), tensor([n, k], 9.1, dtype));
            cases.push(Case {
                name: format!("linear {dtype:?} {m}x{n}x{k}"),
                run: Box::new(move || values(ops::linear(x.clone(), w.clone()))),
                split: 2e-5,
                rounded: 1e-2,
            });
        }
    }
    for name in ["int8-g64", "int8-g32", "int4-g32", "int4-g128"] {
        let scheme: QuantScheme = name.parse().unwrap();
        let (x, w) = (tensor([40, 300], 0.3, DType::F32), tensor([130, 300], 9.1, DType::F32));
        let (codes, scales) = rounded(&w, scheme);
        let run =
            move || values(ops::linear_quantised(x.clone(), codes.clone(), scales.clone(), scheme));
        // The exact product, so called, rounds activations to eight bits beside four-bit weights; AMX rounds weights to bf16.
        let split = if scheme.bits() == 8 { 1e-3 } else { 2e-2 };
        cases.push(Case {
            name: format!("linear {name}"),
            run: Box::new(run),
            split,
            rounded: 2e-2,
        });
    }
    for [heads, groups, s, t, d] in [[4, 2, 40, 70, 16], [2, 2, 33, 300, 72], [3, 1, 16, 16, 128]] {
        let q = tensor([2, heads, s, d], 0.1, DType::F32);
        let [k, v] = [2.0, 3.0].map(|seed| tensor([2, groups, t, d], seed, DType::F32));
        // Positions in two tensors too, as a cache has them.
        let cut = t / 3;
        let parts = |x: &Tensor<4>| [0..cut, cut..t].map(|r| x.clone().slice_dim(2, r)).to_vec();
        let (keys, held) = (parts(&k), parts(&v));
        let queries = q.clone();
        cases.push(Case {
            name: format!("attention {heads}:{groups} {s} of {t}, {d}"),
            run: Box::new(move || {
                values(ops::attention(queries.clone(), k.clone(), v.clone(), true))
            }),
            split: 3e-5,
            rounded: 2e-2,
        });
        cases.push(Case {
            name: format!("attention over parts {heads}:{groups} {s} of {t}, {d}"),
            run: Box::new(move || {
                let (keys, held) = (keys.clone(), held.clone());
                values(ops::attention_over_parts(q.clone(), keys, held, true))
            }),
            split: 3e-5,
            rounded: 2e-2,
        });
    }
    // A step of an answer, or a few of them: never but in f32.
    let q = tensor([2, 4, 8, 16], 0.1, DType::F32);
    let [k, v] = [2.0, 3.0].map(|seed| tensor([2, 2, 300, 16], seed, DType::F32));
    cases.push(Case {
        name: "attention of eight rows".to_owned(),
        run: Box::new(move || values(ops::attention(q.clone(), k.clone(), v.clone(), true))),
        split: 0.0,
        rounded: 0.0,
    });
    let lengths = vec![20, 64, 7, 33];
    let [q, k, v] =
        [(4, 0.1), (2, 2.0), (2, 3.0)].map(|(h, seed)| tensor([124, h, 24], seed, DType::F32));
    for causal in [false, true] {
        let ([q, k, v], lengths) = ([q.clone(), k.clone(), v.clone()], lengths.clone());
        cases.push(Case {
            name: format!("packed attention, causal: {causal}"),
            run: Box::new(move || {
                let lengths = lengths.clone();
                values(ops::packed_attention(q.clone(), k.clone(), v.clone(), lengths, causal))
            }),
            split: 3e-5,
            rounded: 2e-2,
        });
    }
    cases
}

/// Steps of answers are as exact as one alone where rows of prompts are rounded.
fn steps_are_not_rounded() {
    let (m, steps, n, k) = (45, 20, 233, 300);
    let (x, w) = (tensor([m, k], 0.3, DType::F32), tensor([n, k], 9.1, DType::BF16));
    let product = |first: usize, rows: usize, steps: Option<usize>| {
        let _chosen = choose_steps(steps);
        values(ops::linear(x.clone().narrow(0, first, rows), w.clone()))
    };
    let exact = product(0, m, None);
    set_products(Products::Rounded);
    let (all, mixed) = (product(0, m, None), product(0, m, Some(steps)));
    let alone = [product(0, 1, Some(1)), product(m - 1, 1, Some(0))];
    set_products(Products::Exact);
    let size = exact.iter().fold(0.0f32, |size, value| size.max(value.abs()));
    let far = |from: &[f32], to: &[f32]| {
        from.iter().zip(to).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
    };
    let (first, others) = mixed.split_at(steps * n);
    assert!(far(first, &exact) < 2e-5, "{}", far(first, &exact));
    assert!(others == &all[steps * n..], "prompts are rounded as without steps");
    assert!(far(&alone[0], first) < 2e-5 && alone[1] == others[others.len() - n..]);
}

#[test]
fn split_and_rounded_products_are_near_the_exact_ones() {
    steps_are_not_rounded();
    let mut differ = 0;
    for Case { name, run, split, rounded } in cases() {
        let [exact, halves, short] =
            [Products::Exact, Products::Split, Products::Rounded].map(|products| {
                set_products(products);
                run()
            });
        set_products(Products::Exact);
        let size = exact.iter().fold(0.0f32, |size, value| size.max(value.abs()));
        let far = |other: &[f32]| {
            assert_eq!(other.len(), exact.len(), "{name}");
            let apart = exact.iter().zip(other).map(|(a, b)| (a - b).abs());
            apart.fold(0.0, f32::max) / size
        };
        assert!(far(&halves) <= split, "{name}, split: {}", far(&halves));
        assert!(far(&short) <= rounded, "{name}, rounded: {}", far(&short));
        differ += usize::from(short != exact);
    }
    assert!(differ > 0, "rounding changed nothing");
}
