//! Every kernel against its reference body, which runs on Flex in f32, on the first card of the machine, CUDA's before others.

mod cores;
mod draw;
mod enter;
mod fixed;
mod largest;
mod mixture;
mod rounded;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::device::{self, BackendKind};
use crate::ops::tests::rounded::any_codes;
use crate::ops::{self, Parts, reference};
use crate::quant::QuantScheme;

/// The device and the dtypes that it computes in; nothing, with the reason, where there is none.
fn card() -> Option<(Device, Vec<DType>)> {
    let mut found = device::present().into_iter();
    let found = found.find(|d| !d.kind.is_cpu() && d.kind != BackendKind::Remote);
    let Some(found) = found else {
        println!("skipped: no graphics adapter on this machine");
        return None;
    };
    let dtypes = [DType::F32, DType::F16, DType::BF16].into_iter();
    let dtypes: Vec<_> = dtypes.filter(|dtype| found.device.supports_dtype(*dtype)).collect();
    println!("on {} in {dtypes:?}", found.name);
    Some((found.device, dtypes))
}

/// Values that a dtype holds exactly, so that device and reference begin alike.
fn values<const D: usize>(shape: [usize; D], seed: f32, dtype: DType) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i as f32 + seed) * 0.7713).sin() * 1.5).collect();
    let data = TensorData::new(values, shape);
    let plain = Tensor::<D>::from_data(data, (&Device::flex(), DType::F32));
    plain.cast(dtype).cast(DType::F32)
}

/// The same on the device.
fn upload<const D: usize>(x: &Tensor<D>, device: &Device, dtype: DType) -> Tensor<D> {
    Tensor::<D>::from_data(x.to_data(), (device, DType::F32)).cast(dtype)
}

fn flex<const D: usize>(x: &Tensor<D>) -> FloatTensor<Flex> {
    FlexTensor::from_data(x.to_data())
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.cast(DType::F32).into_data().to_vec().expect("f32")
}

/// Largest difference as a share of the largest value.
fn far<const D: usize>(found: Tensor<D>, expected: FlexTensor) -> f32 {
    let expected = expected.into_data();
    assert_eq!(expected.shape(), &found.shape(), "shapes");
    let (found, expected) = (numbers(found), expected.convert::<f32>().to_vec::<f32>().unwrap());
    let size = expected.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
    assert!(found.iter().all(|x| x.is_finite()));
    found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
}

/// How far a result that is rounded once or twice to a dtype may lie.
fn bound(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 1.5e-3,
        _ => 1.2e-2,
    }
}

#[test]
fn products_of_few_rows_agree_whatever_the_dtype_of_the_weight() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in &dtypes {
        for weight in &dtypes {
            for (m, n, k) in [(1, 1, 8), (3, 31, 72), (15, 17, 264), (2, 5, 7), (17, 9, 64)] {
                let (x, w) = (values([m, k], 0.3, *dtype), values([n, k], 9.1, *weight));
                let found = ops::linear(upload(&x, &device, *dtype), upload(&w, &device, *weight));
                // Where the product is Burn's, it rounds the weight to the dtype of the rows.
                let w = w.cast(*dtype).cast(DType::F32);
                let difference = far(found, reference::linear::<Flex>(flex(&x), flex(&w)));
                let what = format!("{dtype:?} by {weight:?} {m}x{n}x{k}");
                assert!(difference < bound(*dtype), "{what}: {difference}");
            }
        }
    }
}

#[test]
fn products_with_parts_of_a_matrix_agree() {
    let Some((device, _)) = card() else { return };
    let (x, w) = (values([2, 16], 0.3, DType::F32), values([24, 40], 9.1, DType::F32));
    let on = upload(&w, &device, DType::F32);
    let x_on = upload(&x, &device, DType::F32);
    let check = |found: Tensor<2>, w: Tensor<2>| {
        assert!(far(found, reference::linear::<Flex>(flex(&x), flex(&w))) < 1e-5);
    };
    let rows = |w: Tensor<2>| w.narrow(0, 3, 20).narrow(1, 8, 16);
    check(ops::linear(x_on.clone(), rows(on.clone())), rows(w.clone()));
    let turned = |w: Tensor<2>| w.narrow(0, 0, 16).transpose();
    check(ops::linear(x_on, turned(on)), turned(w));
}

#[test]
fn norms_agree() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for (rows, width) in [(1, 1), (3, 17), (15, 128), (31, 72), (2, 1152), (5, 1500)] {
            let x = values([rows, width], 0.4, dtype);
            let [w, b] = [3.0, 7.7].map(|seed| values([width], seed, dtype));
            let on = |t: &Tensor<1>| upload(t, &device, dtype);
            let found = ops::rms_norm(upload(&x, &device, dtype), on(&w), 1e-6);
            let expected = reference::rms_norm::<Flex>(flex(&x), flex(&w), 1e-6);
            let difference = far(found, expected);
            assert!(difference < bound(dtype), "rms {dtype:?} {rows}x{width}: {difference}");
            let found = ops::layer_norm(upload(&x, &device, dtype), on(&w), on(&b), 1e-6);
            let expected = reference::layer_norm::<Flex>(flex(&x), [flex(&w), flex(&b)], 1e-6);
            let difference = far(found, expected);
            assert!(difference < bound(dtype), "layer {dtype:?} {rows}x{width}: {difference}");
        }
    }
}

/// The rounding before the weight is that of the reference: equal bits, whatever the weight.
#[test]
fn rms_norm_rounds_before_the_weight() {
    let Some((device, dtypes)) = card() else { return };
    if !dtypes.contains(&DType::F16) {
        return println!("skipped: the adapter has no f16");
    }
    let (x, w) = (values([40, 96], 0.4, DType::F16), values([96], 3.0, DType::F16));
    let on = |x: FlexTensor| {
        <Flex as burn::backend::ops::FloatTensorOps<Flex>>::float_cast(
            x,
            burn::tensor::FloatDType::F16,
        )
    };
    let expected = reference::rms_norm::<Flex>(on(flex(&x)), on(flex(&w)), 1e-6);
    let found =
        ops::rms_norm(upload(&x, &device, DType::F16), upload(&w, &device, DType::F16), 1e-6);
    let expected = expected.into_data().convert::<f32>().to_vec::<f32>().unwrap();
    let found = numbers(found);
    let unlike = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
    // A quotient that lies between two numbers may fall to either side.
    assert!(unlike <= found.len() / 200, "{unlike} of {} differ", found.len());
}

#[test]
fn a_norm_of_a_view_is_that_of_its_rows() {
    let Some((device, _)) = card() else { return };
    let (x, w) = (values([9, 33], 0.4, DType::F32), values([9], 3.0, DType::F32));
    let on = upload(&x, &device, DType::F32);
    let found = ops::rms_norm(on.transpose(), upload(&w, &device, DType::F32), 1e-6);
    let expected = reference::rms_norm::<Flex>(flex(&x.transpose()), flex(&w), 1e-6);
    assert!(far(found, expected) < 1e-5);
}

#[test]
fn activations_agree_also_where_they_are_steep() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for (rows, width, factor) in [(1, 1, 1.0), (3, 17, 1.0), (31, 64, 4.0), (2, 300, 60.0)] {
            let [gate, up] = [0.3, 5.0].map(|seed| values([rows, width], seed, dtype));
            let gate = (gate * factor).cast(dtype).cast(DType::F32);
            let on = |t: &Tensor<2>| upload(t, &device, dtype);
            let found = ops::swiglu(on(&gate), on(&up));
            let difference = far(found, reference::swiglu::<Flex>(flex(&gate), flex(&up)));
            assert!(difference < bound(dtype), "swiglu {dtype:?} {rows}x{width}: {difference}");
            let difference =
                far(ops::gelu_tanh(on(&gate)), reference::gelu_tanh::<Flex>(flex(&gate)));
            assert!(difference < bound(dtype), "gelu {dtype:?} {rows}x{width}: {difference}");
        }
    }
}

#[test]
fn rotation_agrees_also_of_a_part_of_a_wider_matrix() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for (rows, heads, d) in [(1, 1, 2), (17, 3, 6), (15, 4, 32), (31, 2, 72)] {
            let wide = values([rows, heads + 2, d], 0.2, dtype);
            // Tables in f32 beside values of any dtype, as the language model has them.
            let [cos, sin] = [1.0, 9.0].map(|seed| values([rows, 1, d / 2], seed, DType::F32));
            let part = wide.clone().narrow(1, 1, heads);
            let on = |t: &Tensor<3>| upload(t, &device, DType::F32);
            let x = upload(&wide, &device, dtype).narrow(1, 1, heads);
            let found = ops::rotate(x, on(&cos), on(&sin));
            let expected = reference::rotate::<Flex>(flex(&part), flex(&cos), flex(&sin));
            let difference = far(found, expected);
            assert!(difference < bound(dtype), "{dtype:?} {rows}x{heads}x{d}: {difference}");
        }
    }
}

/// Keys, values and their parts.
struct Attended {
    q: Tensor<4>,
    k: Vec<Tensor<4>>,
    v: Vec<Tensor<4>>,
}

impl Attended {
    /// `lengths` of parts with room behind each, as a cache has.
    fn new([b, h, g, s, d]: [usize; 5], lengths: &[usize], dtype: DType) -> Self {
        let parts = |seed: f32| {
            let part = |(i, length): (usize, &usize)| {
                values([b, g, length + 3, d], seed + i as f32, dtype)
            };
            lengths.iter().enumerate().map(part).collect()
        };
        // Small scores, so that no key outweighs all others.
        Self { q: values([b, h, s, d], 0.1, dtype) / 4, k: parts(5.0), v: parts(8.0) }
    }

    fn check(&self, lengths: &[usize], causal: bool, device: &Device, dtype: DType) {
        let view = |(x, length): (Tensor<4>, &usize)| x.narrow(2, 0, *length);
        let on = |all: &[Tensor<4>]| -> Vec<Tensor<4>> {
            let uploaded = all.iter().map(|x| upload(x, device, dtype));
            uploaded.zip(lengths).map(view).collect()
        };
        let found = ops::attention_over_parts(
            upload(&self.q, device, dtype),
            on(&self.k),
            on(&self.v),
            causal,
        );
        let plain = |all: &[Tensor<4>]| -> Vec<FlexTensor> {
            all.iter().cloned().zip(lengths).map(|pair| flex(&view(pair))).collect()
        };
        let parts = Parts::floats(plain(&self.k), plain(&self.v));
        let expected = reference::attention_over_parts::<Flex>(flex(&self.q), parts, causal);
        let difference = far(found, expected);
        let shape = self.q.dims();
        let what = format!("{dtype:?} {shape:?} over {lengths:?}, causal {causal}");
        assert!(difference < bound(dtype), "{what}: {difference}");
    }
}

#[test]
fn attention_of_few_rows_agrees_over_splits_and_parts() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for (shape, lengths, causal) in [
            ([1, 2, 2, 1, 64], vec![1], true),
            ([1, 4, 2, 1, 64], vec![31, 17], true),
            ([2, 4, 1, 3, 64], vec![300], true),
            ([1, 6, 2, 5, 64], vec![15, 129, 2], true),
            ([1, 4, 1, 4, 72], vec![40, 3], false),
        ] {
            Attended::new(shape, &lengths, dtype).check(&lengths, causal, &device, dtype);
        }
    }
}

#[test]
fn attention_of_many_rows_agrees_over_tiles_and_parts() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for (shape, lengths, causal) in [
            ([1, 2, 2, 17, 64], vec![17], true),
            ([2, 4, 2, 70, 64], vec![99], true),
            ([1, 4, 1, 65, 72], vec![31, 15, 60], true),
            ([1, 2, 1, 31, 72], vec![33], false),
            ([1, 1, 1, 130, 128], vec![257], true),
            // One tile over a long past, which cubes share.
            ([1, 1, 1, 17, 64], vec![1200], true),
            // A tile that sees nothing of the second part.
            ([1, 2, 1, 150, 64], vec![70, 80], true),
        ] {
            Attended::new(shape, &lengths, dtype).check(&lengths, causal, &device, dtype);
        }
    }
}

/// Dimensions that no kernel takes go to the reference body.
#[test]
fn attention_of_odd_dimensions_agrees() {
    let Some((device, _)) = card() else { return };
    Attended::new([1, 2, 1, 3, 6], &[7], DType::F32).check(&[7], true, &device, DType::F32);
}

#[test]
fn attention_inside_sequences_agrees_in_one_launch() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for (h, g, d, lengths, causal) in [
            (2, 2, 64, vec![1, 15, 17, 70], false),
            (4, 2, 64, vec![31, 1, 64], true),
            (2, 1, 72, vec![5, 129], true),
        ] {
            let n = lengths.iter().sum();
            let q = values([n, h, d], 0.1, dtype);
            let [k, v] = [5.0, 8.0].map(|seed| values([n, g, d], seed, dtype));
            let on = |t: &Tensor<3>| upload(t, &device, dtype);
            let found = ops::packed_attention(on(&q), on(&k), on(&v), lengths.clone(), causal);
            let inputs = [flex(&q), flex(&k), flex(&v)];
            let difference =
                far(found, reference::packed_attention::<Flex>(inputs, &lengths, causal));
            assert!(difference < bound(dtype), "{dtype:?} {h}/{g} {lengths:?}: {difference}");
        }
    }
}

#[test]
fn rotary_attention_agrees_in_frames_of_any_length() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for (heads, d, lengths) in [(2, 64, vec![20, 20, 7]), (3, 72, vec![1, 66])] {
            let n = lengths.iter().sum();
            let qkv = values([n, 3 * heads * d], 0.1, dtype);
            let [cos, sin] = [1.0, 9.0].map(|seed| values([n, 1, d / 2], seed, dtype) * 0.6);
            let [cos, sin] = [cos, sin].map(|table| table.cast(dtype).cast(DType::F32));
            let on = |t: &Tensor<3>| upload(t, &device, dtype);
            let x = upload(&qkv, &device, dtype);
            let found = ops::rotary_attention(x, on(&cos), on(&sin), lengths.clone());
            let angles = [flex(&cos), flex(&sin)];
            let expected = reference::rotary_attention::<Flex>(flex(&qkv), angles, &lengths);
            let difference = far(found, expected);
            // Rotated queries and keys are rounded once more.
            assert!(
                difference < 2.0 * bound(dtype),
                "{dtype:?} {heads}x{d} {lengths:?}: {difference}"
            );
        }
    }
}

/// Codes and scales on a device.
fn rounded(
    w: &Tensor<2>,
    scheme: QuantScheme,
    device: &Device,
    scale: DType,
) -> (Tensor<2, Int>, Tensor<2>) {
    let [n, k] = w.dims();
    let rounded = scheme.round(&numbers(w.clone()), k).unwrap();
    let shape = vec![n, scheme.row_bytes(k)];
    let codes = TensorData::from_bytes_vec(rounded.codes, shape, scheme.code_dtype());
    let scales = TensorData::new(rounded.scales, [n, scheme.groups(k)]);
    let codes = Tensor::from_data(codes, (device, scheme.code_dtype()));
    (codes, Tensor::from_data(scales.convert_dtype(scale), (device, scale)))
}

#[test]
fn products_with_rounded_weights_agree_for_few_rows_and_many() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for name in ["int8-g32", "int8-g128", "int4-g32", "int4-g64"] {
            let scheme: QuantScheme = name.parse().unwrap();
            for (m, n, k) in [(1, 17, 64), (3, 31, 136), (15, 5, 1056), (2, 8, 33), (17, 20, 72)] {
                let (x, w) = (values([m, k], 0.3, dtype), values([n, k], 9.1, DType::F32));
                let (codes, scales) = rounded(&w, scheme, &device, DType::F32);
                let found =
                    ops::linear_quantised(upload(&x, &device, dtype), codes, scales, scheme);
                let (codes, scales) = rounded(&w, scheme, &Device::flex(), DType::F32);
                let codes = FlexTensor::from_data(codes.to_data());
                let expected =
                    reference::linear_of_codes::<Flex>(flex(&x), codes, flex(&scales), scheme);
                let difference = far(found, expected);
                assert!(difference < bound(dtype), "{name} {dtype:?} {m}x{n}x{k}: {difference}");
            }
        }
    }
}

#[test]
fn codes_of_every_scheme_mean_what_the_host_expands() {
    let Some((device, _)) = card() else { return };
    for scheme in [
        QuantScheme::new(8, 32).unwrap(),
        QuantScheme::new(4, 128).unwrap(),
        QuantScheme::with_minimums(4, 32).unwrap(),
        QuantScheme::with_minimums(8, 64).unwrap(),
        QuantScheme::INT8_G16,
        QuantScheme::FLOAT8,
    ] {
        for (n, k) in [(9, 77), (8, 160)] {
            let (codes, scales, expected) = any_codes(scheme, [n, k], &device);
            let all = numbers(ops::expand_quantised(codes.clone(), scales.clone(), scheme, k));
            let far = all.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Products and minimums may be subtracted in one step, which rounds once.
            let size = expected.iter().fold(1.0f32, |m, x| m.max(x.abs()));
            assert!(far < 1e-6 * size, "{scheme} {n}x{k}: {far} of {size}");
            let ids = Tensor::<1, Int>::from_data([7, 0, 3, 7], &device);
            let found = numbers(ops::expand_rows(codes.clone(), scales.clone(), ids, scheme, k));
            for (found, row) in found.chunks(k).zip([7, 0, 3, 7]) {
                assert_eq!(found, &all[row * k..][..k], "{scheme} {n}x{k}, row {row}");
            }
            let x = values([2, k], 0.3, DType::F32);
            let w = Tensor::<2>::from_data(TensorData::new(expected, [n, k]), &Device::flex());
            let found =
                ops::linear_quantised(upload(&x, &device, DType::F32), codes, scales, scheme);
            let difference = self::far(found, reference::linear::<Flex>(flex(&x), flex(&w)));
            assert!(difference < 1e-5, "{scheme} {n}x{k}, product: {difference}");
        }
    }
}

/// One gradient through all operations, on the device and on Flex.
#[cfg(feature = "autodiff")]
#[test]
fn gradients_flow_through_the_kernels() {
    let Some((device, _)) = card() else { return };
    let (heads, d, lengths) = (2, 64, vec![5, 7]);
    let width = heads * d;
    let qkv = values([12, 3 * width], 0.1, DType::F32);
    let tables = [1.0, 9.0].map(|seed| values([12, 1, d / 2], seed, DType::F32));
    let vectors = [3.0, 4.0, 5.0].map(|seed| values([width], seed, DType::F32));
    let w = values([width, width], 9.1, DType::F32);
    let scheme: QuantScheme = "int8-g64".parse().unwrap();
    let gradient = |device: &Device| {
        let [cos, sin] = tables.each_ref().map(|t| upload(t, device, DType::F32).autodiff());
        let [a, b, c] = vectors.each_ref().map(|t| upload(t, device, DType::F32).autodiff());
        let (codes, scales) = rounded(&w, scheme, device, DType::F32);
        let x = upload(&qkv, device, DType::F32).autodiff().require_grad();
        let y = ops::rotary_attention(x.clone(), cos, sin, lengths.clone());
        let y = ops::layer_norm(ops::rms_norm(y, a, 1e-6), b, c, 1e-6);
        let y = ops::swiglu(y.clone(), ops::gelu_tanh(y));
        let y = ops::linear_quantised(y, codes.autodiff(), scales.autodiff(), scheme);
        let loss = (y.clone() * y).sum();
        numbers(x.grad(&loss.backward()).expect("a gradient"))
    };
    let (found, expected) = (gradient(&device), gradient(&Device::flex()));
    let size = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(size > 0.0 && difference < 1e-3 * size, "{difference} of {size}");
}
