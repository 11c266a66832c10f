//! Every kernel against its reference body, on Flex.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::*;

fn tensor<const D: usize>(shape: [usize; D], seed: f32, dtype: DType) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i as f32 + seed) * 0.7713).sin()).collect();
    let device = Device::flex();
    Tensor::<D>::from_data(TensorData::new(values, shape), (&device, DType::F32)).cast(dtype)
}

fn largest_difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).abs().max().into_scalar::<f32>()
}

type Primitive = FloatTensor<burn::backend::Flex>;

/// The reference body, called on Flex directly, so that no global switch is needed.
fn reference<const D: usize>(
    inputs: Vec<Primitive>,
    body: impl Fn(Vec<Primitive>) -> Primitive,
) -> Tensor<D> {
    let data = body(inputs).into_data();
    Tensor::from_data(data, (&Device::flex(), DType::F32))
}

fn primitive<const D: usize>(tensor: &Tensor<D>) -> Primitive {
    burn::backend::flex::FlexTensor::from_data(tensor.to_data())
}

#[test]
fn linear_agrees_for_every_dtype_and_row_count() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (m, n, k) in
            [(1, 5, 3), (1, 300, 129), (2, 33, 64), (7, 17, 65), (8, 70, 31), (40, 130, 200)]
        {
            let (x, w) = (tensor([m, k], 0.3, DType::F32), tensor([n, k], 9.1, dtype));
            let expected = reference::<2>(vec![primitive(&x), primitive(&w)], |mut t| {
                let w = t.pop().unwrap();
                reference::linear::<burn::backend::Flex>(t.pop().unwrap(), w)
            });
            let difference = largest_difference(linear(x, w), expected);
            assert!(difference < 1e-4, "{dtype:?} {m}x{n}x{k}: {difference}");
        }
    }
}

#[test]
fn attention_agrees_with_blocks_groups_and_cache() {
    for (h, g, s, t, causal) in [
        (4, 2, 6, 6, true),
        (4, 1, 1, 9, true),
        (3, 3, 5, 5, false),
        (8, 2, 70, 90, true),
        (2, 2, 600, 600, true),
    ] {
        let q = tensor([1, h, s, 16], 0.1, DType::F32);
        let k = tensor([1, g, t, 16], 5.0, DType::F32);
        let v = tensor([1, g, t, 16], 8.0, DType::F32);
        let inputs = vec![primitive(&q), primitive(&k), primitive(&v)];
        let expected = reference::<4>(inputs, |mut t| {
            let (v, k) = (t.pop().unwrap(), t.pop().unwrap());
            reference::attention::<burn::backend::Flex>(t.pop().unwrap(), k, v, causal)
        });
        let difference = largest_difference(attention(q, k, v, causal), expected);
        assert!(difference < 1e-5, "{h}/{g} {s}x{t} causal {causal}: {difference}");
    }
}

#[test]
fn attention_agrees_over_batches_and_views_of_a_cache() {
    for (b, s, t, room, causal) in
        [(3, 70, 70, 70, false), (1, 1, 33, 256, true), (2, 5, 40, 64, true), (1, 9, 4, 8, false)]
    {
        let q = tensor([b, 4, s, 24], 0.1, DType::F32);
        let view = |seed| tensor([b, 2, room, 24], seed, DType::F32).narrow(2, 0, t);
        let (k, v) = (view(5.0), view(8.0));
        let inputs = vec![primitive(&q), primitive(&k), primitive(&v)];
        let expected = reference::<4>(inputs, |mut tensors| {
            let (v, k) = (tensors.pop().unwrap(), tensors.pop().unwrap());
            reference::attention::<burn::backend::Flex>(tensors.pop().unwrap(), k, v, causal)
        });
        let difference = largest_difference(attention(q, k, v, causal), expected);
        assert!(difference < 1e-5, "{b}x{s}x{t} of {room}, causal {causal}: {difference}");
    }
}

#[test]
fn a_causal_query_sees_only_its_past() {
    let q = tensor([1, 2, 4, 8], 0.1, DType::F32);
    let (k, v) = (tensor([1, 2, 4, 8], 2.0, DType::F32), tensor([1, 2, 4, 8], 3.0, DType::F32));
    let whole = attention(q.clone(), k.clone(), v.clone(), true);
    for seen in 1..=4 {
        let part = |t: &Tensor<4>| t.clone().narrow(2, 0, seen);
        let last = attention(q.clone().narrow(2, seen - 1, 1), part(&k), part(&v), false);
        let difference = largest_difference(whole.clone().narrow(2, seen - 1, 1), last);
        assert!(difference < 1e-6, "query {seen}: {difference}");
    }
}

#[test]
fn rms_norm_agrees_on_tiny_and_large_rows() {
    for (scale, epsilon) in [(1.0, 1e-6), (1e-4, 1e-6), (100.0, 1e-5)] {
        let x = tensor([5, 48], 0.4, DType::F32) * scale;
        let weight = tensor([48], 3.0, DType::F32);
        let expected = reference::<2>(vec![primitive(&x), primitive(&weight)], |mut t| {
            let w = t.pop().unwrap();
            reference::rms_norm::<burn::backend::Flex>(t.pop().unwrap(), w, epsilon)
        });
        let difference = largest_difference(rms_norm(x, weight, epsilon), expected);
        assert!(difference < 1e-5, "{scale}: {difference}");
    }
}

/// The gradients with hand-written backward passes against those of the same mathematics in Burn's own operations.
#[cfg(feature = "autodiff")]
mod gradients {
    use super::*;

    fn pair<const D: usize>(shape: [usize; D], seed: f32) -> [Tensor<D>; 2] {
        let plain = tensor(shape, seed, DType::F32);
        [plain.clone().autodiff().require_grad(), plain.autodiff().require_grad()]
    }

    /// Weights each value of a result differently, so that no gradient cancels.
    fn loss<const D: usize>(y: Tensor<D>) -> Tensor<1> {
        let weights = tensor(y.dims(), 3.3, DType::F32);
        (y * weights).sum()
    }

    #[test]
    fn of_attention_with_groups() {
        for (s, t, causal) in [(5, 5, true), (3, 7, true), (9, 4, false)] {
            let [q, q2] = pair([2, 4, s, 8], 0.3);
            let [k, k2] = pair([2, 2, t, 8], 1.1);
            let [v, v2] = pair([2, 2, t, 8], 2.2);
            let ours = loss(attention(q.clone(), k.clone(), v.clone(), causal));
            let wide =
                |x: Tensor<4>| x.reshape([2, 2, 1, t, 8]).repeat_dim(2, 2).reshape([2, 4, t, 8]);
            let mut scores = q2.clone().matmul(wide(k2.clone()).swap_dims(2, 3)) / 8f32.sqrt();
            if causal {
                let device = scores.device().without_autodiff();
                let mask =
                    Tensor::<2, burn::tensor::Bool>::tril_mask([s, t], (t - s) as i64, &device);
                scores = scores.mask_fill(mask.unsqueeze::<4>(), f32::NEG_INFINITY);
            }
            let weights = burn::tensor::activation::softmax(scores, 3);
            let theirs = loss(weights.matmul(wide(v2.clone())));
            let (ours, theirs) = (ours.backward(), theirs.backward());
            for (a, b) in [(&q, &q2), (&k, &k2), (&v, &v2)] {
                let (a, b) = (a.grad(&ours).unwrap(), b.grad(&theirs).unwrap());
                let difference = (a - b).abs().max().into_scalar::<f32>();
                assert!(difference < 2e-4, "{s}x{t}: {difference}");
            }
        }
    }
}
