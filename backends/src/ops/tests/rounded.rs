//! Products of rounded weights and of experts.

use super::*;

/// A matrix of any codes and scales, as a program may have written it, and the numbers that these stand for.
pub(in crate::ops) fn any_codes(
    scheme: QuantScheme,
    [n, k]: [usize; 2],
    device: &Device,
) -> (Tensor<2, Int>, Tensor<2>, Vec<f32>) {
    let of_range = |range: i32, step: i32| move |i: usize| (i as i32 * step) % range;
    // No code of E4M3 that is NaN.
    let codes: Vec<u8> =
        (0..n * scheme.row_bytes(k)).map(of_range(127, 37)).map(|c| c as u8).collect();
    let scales: Vec<f32> = (0..n * scheme.scale_columns(k))
        .map(of_range(101, 17))
        .map(|s| s as f32 / 64.0 - 0.7)
        .collect();
    let mut expected = vec![0.0; n * k];
    for (row, out) in expected.chunks_mut(k).enumerate() {
        let codes = &codes[row * scheme.row_bytes(k)..];
        scheme.expand_row(codes, &scales[row * scheme.scale_columns(k)..], out);
    }
    let dtype = scheme.code_dtype();
    let codes = TensorData::from_bytes_vec(codes, vec![n, scheme.row_bytes(k)], dtype);
    let codes = Tensor::<2, Int>::from_data(codes, (device, dtype));
    let scales = TensorData::new(scales, [n, scheme.scale_columns(k)]);
    let scales = Tensor::<2>::from_data(scales, (device, DType::F32));
    (codes, scales, expected)
}

/// Codes and scales on `device`, as the loader makes them.
fn rounded(w: &Tensor<2>, scheme: QuantScheme, device: &Device) -> (Tensor<2, Int>, Tensor<2>) {
    let [n, k] = w.dims();
    let values = w.to_data().to_vec::<f32>().unwrap();
    let rounded = scheme.round(&values, k).unwrap();
    let shape = vec![n, scheme.row_bytes(k)];
    let codes = TensorData::from_bytes_vec(rounded.codes, shape, scheme.code_dtype());
    let scales = TensorData::new(rounded.scales, [n, scheme.groups(k)]);
    let dtype = if *device == Device::flex() { DType::BF16 } else { DType::F32 };
    let codes = Tensor::from_data(codes, (device, scheme.code_dtype()));
    (codes, Tensor::from_data(scales, (device, dtype)))
}

#[test]
fn linear_with_rounded_weights_agrees_for_every_scheme_and_row_count() {
    for name in ["int8-g32", "int8-g64", "int8-g128", "int4-g32", "int4-g64", "int4-g128"] {
        let scheme: QuantScheme = name.parse().unwrap();
        for (m, n, k) in
            [(1, 5, 3), (1, 300, 129), (2, 33, 64), (15, 17, 65), (16, 70, 31), (40, 130, 200)]
        {
            let (x, w) = (tensor([m, k], 0.3, DType::F32), tensor([n, k], 9.1, DType::F32));
            let (codes, scales) = rounded(&w, scheme, &Device::flex());
            let [c, s] = [codes.to_data(), scales.to_data()].map(FlexTensor::from_data);
            let expected = reference::<2>(vec![primitive(&x), c, s], |mut t| {
                let (s, c) = (t.pop().unwrap(), t.pop().unwrap());
                reference::linear_of_codes::<Flex>(t.pop().unwrap(), c, s, scheme)
            });
            let size = linear(x.clone().abs(), w.clone().abs()).max().into_scalar::<f32>();
            let found = linear_quantised(x.clone(), codes.clone(), scales.clone(), scheme);
            // Activations are rounded too: those of many rows beside weights of eight bits to sixteen.
            let bound = if m >= 16 && scheme.bits() == 8 { 3e-5 } else { 0.004 };
            let difference = largest_difference(found, expected.clone());
            assert!(difference < bound * size, "{name} {m}x{n}x{k}: {difference} of {size}");
            let rounding = if scheme.bits() == 8 { 0.01 } else { 0.12 };
            let difference = largest_difference(linear(x, w), expected);
            assert!(difference < rounding * size, "{name} {m}x{n}x{k}: {difference} of {size}");
        }
    }
}

/// Sizes that tasks divide and that they do not, one row and several, of answers and of prompts.
#[test]
fn weights_that_are_multiplied_together_give_what_they_give_apart() {
    for scheme in [
        QuantScheme::new(8, 64).unwrap(),
        QuantScheme::new(4, 32).unwrap(),
        QuantScheme::with_minimums(4, 64).unwrap(),
        QuantScheme::INT8_G16,
        QuantScheme::FLOAT8,
    ] {
        for (m, sizes, k, steps) in [
            (1, [32, 48, 16], 200, None),
            (1, [32, 48, 16], 200, Some(0)),
            (1, [33, 7, 300], 129, Some(1)),
            (3, [32, 48, 16], 64, Some(2)),
        ] {
            let _chosen = choose_steps(steps);
            let x = tensor([m, k], 0.3, DType::F32);
            let weights = sizes.map(|n| any_codes(scheme, [n, k], &Device::flex()));
            let held = |index: usize| {
                let (codes, scales, _) = &weights[index];
                RoundedStack::new(codes.clone(), scales.clone(), scheme)
            };
            let apart = |index: usize| {
                let (codes, scales, _) = &weights[index];
                linear_quantised(x.clone(), codes.clone(), scales.clone(), scheme)
            };
            let together = linear_quantised_thrice(x.clone(), [0, 1, 2].map(held));
            for (index, found) in together.into_iter().enumerate() {
                assert_eq!(found.dims(), [m, sizes[index]]);
                assert!(largest_difference(found, apart(index)) == 0.0, "{scheme} {m} {index}");
            }
            let (codes, scales, _) = any_codes(scheme, [sizes[0], k], &Device::flex());
            let up = RoundedStack::new(codes.clone(), scales.clone().neg(), scheme);
            let found = gated_quantised(x.clone(), held(0), up);
            let up = linear_quantised(x.clone(), codes, scales.neg(), scheme);
            let expected = swiglu(apart(0), up);
            assert!(largest_difference(found, expected) == 0.0, "{scheme} {m}: SwiGLU");
        }
    }
    // One that is rounded otherwise is multiplied by itself.
    let (four, eight) = (QuantScheme::new(4, 32).unwrap(), QuantScheme::new(8, 64).unwrap());
    let x = tensor([1, 128], 0.3, DType::F32);
    let weights = [four, eight, four].map(|scheme| {
        let (codes, scales, _) = any_codes(scheme, [16, 128], &Device::flex());
        (RoundedStack::new(codes.clone(), scales.clone(), scheme), codes, scales, scheme)
    });
    let together = linear_quantised_thrice(x.clone(), weights.each_ref().map(|w| w.0.clone()));
    for (found, (_, codes, scales, scheme)) in together.into_iter().zip(weights) {
        let expected = linear_quantised(x.clone(), codes, scales, scheme);
        assert!(largest_difference(found, expected) == 0.0, "{scheme} among others");
    }
}

/// Steps of answers are rounded as one alone, and rows of prompts as many, whatever else is in the product.
#[test]
fn a_row_is_rounded_by_where_it_comes_from() {
    for scheme in [
        QuantScheme::new(8, 64).unwrap(),
        QuantScheme::new(4, 32).unwrap(),
        QuantScheme::with_minimums(4, 32).unwrap(),
        QuantScheme::INT8_G16,
    ] {
        let (m, steps, n, k) = (45, 20, 70, 200);
        let (codes, scales, _) = any_codes(scheme, [n, k], &Device::flex());
        let x = tensor([m, k], 0.3, DType::F32);
        let product = |first: usize, rows: usize, steps: usize| {
            let _chosen = choose_steps(Some(steps));
            let x = x.clone().narrow(0, first, rows);
            let y = linear_quantised(x, codes.clone(), scales.clone(), scheme);
            y.into_data().try_to_vec::<f32>().unwrap()
        };
        let together = product(0, m, steps);
        for (row, found) in together.chunks(n).enumerate() {
            let alone = product(row, 1, usize::from(row < steps));
            assert!(found == alone, "{scheme}, row {row}");
        }
        let as_prompts = product(0, m, 0);
        assert!(together[steps * n..] == as_prompts[steps * n..], "{scheme}");
        assert!(together[..steps * n] != as_prompts[..steps * n], "{scheme}: one kernel?");
    }
}

/// Experts that nobody goes to, and one that many go to.
fn shares(rows: [usize; 4]) -> Vec<Share> {
    let experts = [0, 1, 3, 4].into_iter().zip(rows).filter(|(_, rows)| *rows > 0);
    experts.map(|(expert, rows)| Share { expert, rows, steps: None }).collect()
}

/// What `product` makes of each share by itself.
fn by_itself(
    x: &Tensor<2>,
    shares: &[Share],
    product: impl Fn(Tensor<2>, usize) -> Tensor<2>,
) -> Tensor<2> {
    let mut first = 0;
    let parts = shares.iter().map(|share| {
        first += share.rows;
        product(x.clone().narrow(0, first - share.rows, share.rows), share.expert)
    });
    Tensor::cat(parts.collect(), 0)
}

#[test]
fn experts_are_multiplied_as_each_by_itself_whichever_way_they_lie() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (rows, n, k) in
            [([1, 0, 0, 1], 5, 3), ([0, 2, 1, 0], 33, 300), ([3, 80, 1, 9], 70, 131)]
        {
            let shares = shares(rows);
            let m = rows.iter().sum();
            let x = tensor([m, k], 0.3, DType::F32);
            let stack = tensor([5, n, k], 9.1, dtype);
            let of = |expert| stack.clone().narrow(0, expert, 1).squeeze_dim::<2>(0);
            let expected = by_itself(&x, &shares, |x, expert| linear(x, of(expert)));
            // The same numbers with the other axis last in memory.
            let data = stack.clone().swap_dims(1, 2).into_data();
            let turned = Tensor::<3>::from_data(data, (&Device::flex(), dtype)).swap_dims(1, 2);
            let others = Tensor::cat(vec![stack.clone(), stack.clone()], 0).narrow(0, 5, 5);
            for (what, stack) in [("rows", stack.clone()), ("columns", turned), ("a part", others)]
            {
                let found = linear_of_experts(x.clone(), stack, shares.clone());
                let far = largest_difference(found, expected.clone());
                assert!(far < 1e-4, "{dtype:?} {what} {rows:?} {n}x{k}: {far}");
            }
        }
    }
}

#[test]
fn rounded_experts_are_multiplied_as_each_by_itself() {
    for name in ["int8-g64", "int4-g32"] {
        let scheme: QuantScheme = name.parse().unwrap();
        for (rows, n, k) in
            [([1, 0, 0, 1], 5, 3), ([0, 2, 1, 0], 33, 300), ([3, 80, 1, 17], 70, 131)]
        {
            let shares = shares(rows);
            let x = tensor([rows.iter().sum(), k], 0.3, DType::F32);
            let (codes, scales) =
                rounded(&tensor([5 * n, k], 9.1, DType::F32), scheme, &Device::flex());
            let expected = by_itself(&x, &shares, |x, expert| {
                let codes = codes.clone().narrow(0, expert * n, n);
                linear_quantised(x, codes, scales.clone().narrow(0, expert * n, n), scheme)
            });
            let (bytes, columns) = (codes.dims()[1], scales.dims()[1]);
            let stack = (codes.reshape([5, n, bytes]), scales.reshape([5, n, columns]));
            let found = linear_of_rounded_experts(x, stack, scheme, shares);
            let same = found.to_data().to_vec::<f32>() == expected.to_data().to_vec::<f32>();
            assert!(same, "{name} {rows:?} {n}x{k}");
        }
    }
}

/// What codes stand for is what the host expands, on every CPU backend.
#[test]
fn rounded_weights_mean_the_same_on_every_backend() {
    let devices = [
        Device::flex(),
        #[cfg(feature = "ndarray")]
        Device::ndarray(),
    ];
    for device in devices {
        for scheme in [
            QuantScheme::new(8, 32).unwrap(),
            QuantScheme::new(4, 32).unwrap(),
            QuantScheme::new(4, 128).unwrap(),
            QuantScheme::with_minimums(4, 32).unwrap(),
            QuantScheme::with_minimums(8, 64).unwrap(),
            QuantScheme::INT8_G16,
            QuantScheme::FLOAT8,
        ] {
            let (n, k) = (9, 77);
            let (codes, scales, expected) = any_codes(scheme, [n, k], &device);
            let found = expand_quantised(codes, scales, scheme, k);
            let found = found.to_data().to_vec::<f32>().unwrap();
            let far = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-6, "{device:?} {scheme}: {far}");
        }
    }
}
