//! Rows written, and keys read, as far as tensors say.

use super::*;
use crate::ops::fixed;

/// Places on the device and on Flex.
fn places(at: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(at.to_vec(), [at.len()]), (device, DType::F32))
}

#[test]
fn rows_are_written_in_place_where_the_tensor_says() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for ([b, g, t, d], at) in [
            ([1, 1, 1, 1], vec![0.0]),
            ([2, 3, 9, 6], vec![8.0, 0.0]),
            ([3, 2, 64, 64], vec![17.0, 63.0, 5.0]),
            // What is to go behind the last row goes nowhere.
            ([2, 2, 8, 72], vec![8.0, 3.0]),
        ] {
            let into = values([b, g, t, d], 0.3, dtype);
            // Rows of a wider tensor.
            let wide = values([b, g + 1, 1, d], 7.0, dtype);
            let rows = |x: Tensor<4>| x.narrow(1, 1, g);
            let on = upload(&into, &device, dtype);
            let held = on.clone();
            let given = rows(upload(&wide, &device, dtype));
            let found = fixed::write_rows(on, given, places(&at, &device));
            let plain = flex(&places(&at, &Device::flex()));
            let expected = reference::write_rows::<Flex>(flex(&into), flex(&rows(wide)), plain);
            let expected = expected.into_data().to_vec::<f32>().unwrap();
            assert_eq!(numbers(found), expected, "{dtype:?} {b}x{g}x{t}x{d}");
            assert_eq!(numbers(held), expected, "whoever holds the tensor sees it");
        }
    }
}

#[test]
fn attention_up_to_a_place_is_that_over_the_keys_before() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for ([b, h, g, t, d], at) in [
            ([1, 2, 2, 1, 64], vec![0.0]),
            ([1, 4, 2, 64, 64], vec![40.0]),
            ([3, 4, 1, 300, 64], vec![0.0, 299.0, 129.0]),
            ([2, 16, 2, 1024, 128], vec![31.0, 800.0]),
            ([2, 6, 2, 77, 72], vec![70.0, 32.0]),
            // No kernel takes these heads.
            ([2, 2, 1, 9, 6], vec![8.0, 4.0]),
        ] {
            let q = values([b, h, 1, d], 0.1, dtype) / 4;
            let [k, v] = [5.0, 8.0].map(|seed| values([b, g, t, d], seed, dtype));
            let on = |x: &Tensor<4>| upload(x, &device, dtype);
            let found = fixed::attention_up_to(on(&q), on(&k), on(&v), places(&at, &device));
            let one = |x: &Tensor<4>, i: usize| x.clone().narrow(0, i, 1);
            let alone = at.iter().enumerate().map(|(i, at)| {
                let seen = |x: &Tensor<4>| one(x, i).narrow(2, 0, *at as usize + 1);
                ops::attention(one(&q, i), seen(&k), seen(&v), true)
            });
            let difference = far(found, flex(&Tensor::cat(alone.collect(), 0)));
            let what = format!("{dtype:?} {b}x{h}x{g}x{t}x{d} at {at:?}");
            assert!(difference < bound(dtype), "{what}: {difference}");
            let plain = flex(&places(&at, &Device::flex()));
            let body = reference::attention_up_to::<Flex>([&q, &k, &v].map(flex), plain);
            let body = Tensor::<4>::from_data(body.into_data(), &Device::flex());
            let found = fixed::attention_up_to(on(&q), on(&k), on(&v), places(&at, &device));
            let difference = far(found, flex(&body));
            assert!(difference < bound(dtype), "{what}, reference body: {difference}");
        }
    }
}
