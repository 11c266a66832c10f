//! Norms with what comes before or behind them in the same launch.

use super::*;
use crate::ops::fixed;

/// Cosines and sines of `n` rows, which the reference gets alike.
fn angles(n: usize, half: usize, dtype: DType) -> [Tensor<3>; 2] {
    [0.4, 2.9].map(|seed| values([n, 1, half], seed, dtype) / 2.0)
}

#[test]
fn the_norm_of_a_sum_is_that_of_what_was_rounded() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for [n, width] in [[1, 64], [3, 72], [2, 7], [5, 2048], [300, 96]] {
            let [x, y] = [0.1, 5.3].map(|seed| values([n, width], seed, dtype));
            let weight = values([width], 3.0, dtype);
            let on = |x: &Tensor<2>| upload(x, &device, dtype);
            let (sum, normed) =
                ops::add_rms_norm(on(&x), on(&y), upload(&weight, &device, dtype), 1e-6);
            let expected = (x + y).cast(dtype).cast(DType::F32);
            let what = format!("{dtype:?} {n}x{width}");
            assert_eq!(numbers(sum), numbers(expected.clone()), "{what}");
            let body = reference::rms_norm::<Flex>(flex(&expected), flex(&weight), 1e-6);
            let difference = far(normed, body);
            assert!(difference < bound(dtype), "{what}: {difference}");
        }
    }
}

#[test]
fn heads_are_normed_and_rotated() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for [n, heads, d] in [[1, 1, 64], [5, 3, 128], [2, 2, 6], [33, 4, 72], [3, 2, 2]] {
            let (x, weight) = (values([n, heads, d], 0.7, dtype), values([d], 3.0, dtype));
            for tables in [dtype, DType::F32] {
                let [cos, sin] = angles(n, d / 2, tables);
                let on = |x: &Tensor<3>, dtype| upload(x, &device, dtype);
                let weight_on = upload(&weight, &device, dtype);
                // Heads that lie apart, as views of a wider tensor.
                let wide = Tensor::cat(vec![x.clone(), x.clone()], 1);
                let given = on(&wide, dtype).narrow(1, 0, heads);
                let tables_on = [on(&cos, tables), on(&sin, tables)];
                let found = ops::rms_norm_rotated(given, weight_on, tables_on, 1e-6);
                let normed = reference::rms_norm::<Flex>(flex(&x), flex(&weight), 1e-6);
                let body = reference::rotate::<Flex>(normed, flex(&cos), flex(&sin));
                let difference = far(found, body);
                assert!(difference < bound(dtype), "{dtype:?} {n}x{heads}x{d}: {difference}");
            }
        }
    }
}

#[test]
fn heads_enter_what_is_held_in_place() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for ([b, h, g, t, d], at) in [
            ([1, 1, 1, 1, 2], vec![0.0]),
            ([1, 4, 2, 9, 64], vec![8.0]),
            ([3, 8, 2, 64, 128], vec![17.0, 63.0, 0.0]),
            ([2, 6, 3, 5, 72], vec![4.0, 2.0]),
            // What is to go behind the last row goes nowhere.
            ([2, 2, 1, 8, 6], vec![8.0, 3.0]),
        ] {
            let held = [0.3, 7.7].map(|seed| values([b, g, t, d], seed, dtype));
            let [q, k, v] = [(h, 1.1), (g, 2.2), (g, 3.3)]
                .map(|(heads, seed)| values([b, heads, d], seed, dtype));
            let weights = [4.0, 9.0].map(|seed| values([d], seed, dtype));
            let [cos, sin] = angles(b, d / 2, dtype);
            let places = |device: &Device| {
                Tensor::<1>::from_data(TensorData::new(at.clone(), [b]), (device, DType::F32))
            };
            let on = |x: &Tensor<3>| upload(x, &device, dtype);
            let held_on = held.clone().map(|x| upload(&x, &device, dtype));
            let (queries, found) = fixed::enter(
                [&q, &k, &v].map(on),
                weights.clone().map(|x| upload(&x, &device, dtype)),
                [&cos, &sin].map(on),
                1e-6,
                held_on.clone(),
                places(&device),
            );
            let new = fixed::Entering::<Flex> {
                queries: flex(&q),
                keys: flex(&k),
                values: flex(&v),
                query_weight: flex(&weights[0]),
                key_weight: flex(&weights[1]),
                cos: flex(&cos),
                sin: flex(&sin),
            };
            let at = flex(&places(&Device::flex()));
            let (turned, keys, values) =
                reference::enter::<Flex>(held.each_ref().map(flex), at, new, 1e-6);
            let what = format!("{dtype:?} {b}x{h}x{g}x{t}x{d}");
            let difference = far(queries, turned);
            assert!(difference < bound(dtype), "{what}, queries: {difference}");
            for ((found, held), expected) in found.into_iter().zip(held_on).zip([keys, values]) {
                assert_eq!(
                    numbers(found.clone()),
                    numbers(held),
                    "{what}: whoever holds it sees it"
                );
                let difference = far(found, expected);
                assert!(difference < bound(dtype), "{what}, held: {difference}");
            }
        }
    }
}
