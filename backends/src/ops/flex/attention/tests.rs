//! Attention at every level of the processor, over keys and values in every dtype, against the generic body and f64.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, TensorData};

use super::held::over_parts_at;
use crate::cpu::Level;
use crate::ops::flex::values;
use crate::ops::tests::kept::{KEPT, Kept, in_bytes};
use crate::ops::{KvRows, ModelOps, Parts, Products, choose_products, reference};

/// Rows in front of and behind those of a part that are not its own.
const AROUND: usize = 2;

/// Queries `[b, h, s, d]` over parts of `[b, g, length, d]`.
struct Case {
    b: usize,
    h: usize,
    g: usize,
    s: usize,
    d: usize,
    lengths: &'static [usize],
    causal: bool,
}

/// A view of rows among others, each of which would make every sum NaN.
fn among_others([b, g, t, d]: [usize; 4], seed: u32, dtype: Kept) -> KvRows<Flex> {
    let all = t + 2 * AROUND;
    let own = |row: usize| (AROUND..AROUND + t).contains(&(row % all));
    let mut rows = values(b * g * all * d, seed);
    for (i, row) in rows.chunks_mut(d).enumerate() {
        if !own(i) {
            row.fill(f32::NAN);
        }
    }
    let view = |data| FlexTensor::from_data(data).narrow(2, AROUND, t);
    if let Some(dtype) = dtype {
        return KvRows::Float(view(TensorData::new(rows, [b, g, all, d]).convert_dtype(dtype)));
    }
    let [words, scales] = in_bytes(&rows, [b, g, all, d]);
    let mut scales = scales.to_vec::<f32>().unwrap();
    for (i, scale) in scales.iter_mut().enumerate() {
        if !own(i) {
            *scale = f32::NAN;
        }
    }
    KvRows::Int8 { words: view(words), scales: view(TensorData::new(scales, [b, g, all, 1])) }
}

impl Case {
    fn parts(&self, dtype: Kept) -> Parts<Flex> {
        let part =
            |(t, seed): (&usize, u32)| among_others([self.b, self.g, *t, self.d], seed, dtype);
        let side = |seed: u32| self.lengths.iter().zip(seed..).map(part).collect();
        Parts { keys: side(20), values: side(50) }
    }

    fn queries(&self) -> (Vec<f32>, FlexTensor) {
        let shape = [self.b, self.h, self.s, self.d];
        let queries: Vec<f32> =
            values(shape.iter().product(), 3).into_iter().map(|x| 2.0 * x).collect();
        (queries.clone(), FlexTensor::from_data(TensorData::new(queries, shape)))
    }

    /// One after the other in f64.
    fn exact(&self, queries: &[f32], parts: &Parts<Flex>) -> Vec<f64> {
        let Self { h, g, s, d, .. } = *self;
        let t: usize = self.lengths.iter().sum();
        let plain = |side: &[KvRows<Flex>]| -> Vec<Vec<f32>> {
            let plain = |rows: &KvRows<Flex>| Flex::expanded_kv(rows.clone(), d, DType::F32);
            side.iter().map(|rows| plain(rows).into_data().to_vec().unwrap()).collect()
        };
        let (keys, held) = (plain(&parts.keys), plain(&parts.values));
        let head = |side: &[Vec<f32>], index: usize| -> Vec<f64> {
            let of = |(rows, t): (&Vec<f32>, &usize)| rows[index * t * d..][..t * d].to_vec();
            side.iter().zip(self.lengths).flat_map(of).map(f64::from).collect()
        };
        let mut out = Vec::with_capacity(queries.len());
        for (i, q) in queries.chunks(d).enumerate() {
            let index = i / (h * s) * g + i / s % h / (h / g);
            let (keys, held) = (head(&keys, index), head(&held, index));
            let seen = if self.causal { t - s + i % s + 1 } else { t };
            let score =
                |k: &[f64]| -> f64 { k.iter().zip(q).map(|(k, q)| k * f64::from(*q)).sum() };
            let scores = keys.chunks(d).take(seen).map(|k| score(k) / (d as f64).sqrt());
            let scores: Vec<f64> = scores.collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..d).map(|c| {
                weights.iter().zip(held.chunks(d)).map(|(w, v)| w * v[c]).sum::<f64>() / sum
            }));
        }
        out
    }

    fn check(&self, bound: f64) {
        let Self { b, h, g, s, d, lengths, causal } = *self;
        for dtype in KEPT {
            let what = format!("{b}x{h}/{g} {s} of {lengths:?}, {d} in {dtype:?}, {causal}");
            let ((queries, q), parts) = (self.queries(), self.parts(dtype));
            let exact = self.exact(&queries, &parts);
            let body = reference::attention_over_parts::<Flex>(q.clone(), parts.clone(), causal);
            let mut all = vec![("the generic body".to_owned(), body.into_data().to_vec().unwrap())];
            for level in Level::present() {
                let found = over_parts_at(&q, &parts, causal, level).expect("a kernel");
                all.push((format!("{level:?}"), found));
            }
            for (who, found) in all {
                assert_eq!(found.len(), exact.len(), "{what}");
                let far = found.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).abs());
                let worse =
                    |most: f64, far: f64| if far.is_nan() { f64::INFINITY } else { most.max(far) };
                let far = far.fold(0.0, worse);
                assert!(far < bound, "{what}: {who} is {far} off");
            }
        }
    }
}

/// Lengths of parts, of which the sum is as odd as some of them.
const LENGTHS: [&[usize]; 8] =
    [&[1], &[15], &[17], &[31], &[257], &[1, 15, 1], &[130, 3, 124], &[200, 313]];

#[test]
fn steps_agree_with_f64_at_every_level() {
    for (i, lengths) in LENGTHS.into_iter().enumerate() {
        for d in [64, 72, 128, 6] {
            for (h, g) in [(2, 2), (4, 2), (4, 1), (8, 1), (3, 1)] {
                Case { b: 1 + i % 2, h, g, s: 1, d, lengths, causal: true }.check(1e-5);
            }
        }
    }
}

#[test]
fn several_rows_agree_with_f64_at_every_level() {
    for lengths in LENGTHS.into_iter().filter(|lengths| lengths.iter().sum::<usize>() >= 15) {
        for (s, causal) in [(2, true), (15, true), (5, false)] {
            Case { b: 1, h: 4, g: 2, s, d: 72, lengths, causal }.check(1e-5);
        }
    }
}

#[test]
fn prompts_agree_with_f64_however_they_are_multiplied() {
    let bounds = Products::ALL.into_iter().zip([1e-5, 1e-4, 3e-2]);
    for (products, bound) in bounds {
        let _chosen = choose_products(Some(products));
        for lengths in LENGTHS.into_iter().filter(|lengths| lengths.iter().sum::<usize>() >= 17) {
            for (d, s) in [(64, 17), (72, 17), (128, 17)] {
                Case { b: 1, h: 4, g: 1, s, d, lengths, causal: true }.check(bound);
            }
        }
        let lengths = &[40, 257];
        Case { b: 2, h: 2, g: 2, s: 150, d: 64, lengths, causal: true }.check(bound);
        Case { b: 1, h: 2, g: 1, s: 31, d: 72, lengths, causal: false }.check(bound);
    }
}
