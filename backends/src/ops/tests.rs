//! Every kernel against its reference body, on Flex.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::*;

pub(super) mod kept;
pub(super) mod rounded;

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
fn attention_over_parts_is_attention_over_all_of_them() {
    for (h, g, s, lengths, causal) in [
        (4, 2, 1, vec![7, 33, 2], true),
        (4, 1, 70, vec![64, 40], true),
        (2, 2, 90, vec![5, 30, 60], true),
        (3, 3, 3, vec![9, 1], false),
        (8, 2, 4, vec![12], true),
    ] {
        let t = lengths.iter().sum();
        let q = tensor([1, h, s, 16], 0.1, DType::F32);
        let all = [5.0, 8.0].map(|seed| tensor([1, g, t, 16], seed, DType::F32));
        let parts = |all: &Tensor<4>| -> Vec<Tensor<4>> {
            // Views with room behind them, as a cache has, and one without.
            let mut start = 0;
            let part = |length: &usize| {
                start += length;
                let rows = all.clone().narrow(2, start - length, *length);
                Tensor::cat(vec![rows.clone(), rows], 2).narrow(2, 0, *length)
            };
            lengths.iter().map(part).collect()
        };
        let whole = attention(q.clone(), all[0].clone(), all[1].clone(), causal);
        let [k, v] = all.each_ref().map(parts);
        let found = attention_over_parts(q.clone(), k.clone(), v.clone(), causal);
        let difference = largest_difference(found, whole.clone());
        assert!(difference < 1e-5, "{h}/{g} {s} over {lengths:?}: {difference}");
        let primitives = |all: Vec<Tensor<4>>| all.iter().map(primitive).collect::<Vec<_>>();
        let parts = Parts::floats(primitives(k), primitives(v));
        let generic = reference::<4>(vec![primitive(&q)], |mut inputs| {
            let (q, parts) = (inputs.pop().unwrap(), parts.clone());
            reference::attention_over_parts::<burn::backend::Flex>(q, parts, causal)
        });
        let difference = largest_difference(generic, whole);
        assert!(difference < 1e-5, "{h}/{g} {s} over {lengths:?}, reference: {difference}");
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

/// The kernels of whole steps of a block, and their gradients, each against its generic body.
mod fused {
    use burn::backend::Flex;
    use burn::backend::flex::FlexTensor;
    use burn::backend::ops::FloatTensorOps;

    use super::*;
    use crate::ops::gradients::{self, HeadInputs, ModelGradients};
    use crate::ops::update::{self, AdamWStep, UpdateOps};

    fn values<const D: usize>(shape: [usize; D], seed: f32) -> Primitive {
        primitive(&tensor(shape, seed, DType::F32))
    }

    /// Each pair agrees to 2e-5 of the largest value.
    fn same<const N: usize>(what: &str, found: [Primitive; N], expected: [Primitive; N]) {
        for (i, (a, b)) in found.into_iter().zip(expected).enumerate() {
            assert_eq!(a.layout().shape(), b.layout().shape(), "{what}, output {i}");
            let [a, b] = [a, b].map(|t| t.into_data().to_vec::<f32>().expect("f32"));
            let size = b.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
            let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far <= 2e-5 * size, "{what}, output {i}: {far} of {size}");
        }
    }

    #[test]
    fn affine_and_its_gradients() {
        for (m, n, k) in [(1, 1, 1), (3, 17, 5), (70, 33, 129), (131, 64, 40)] {
            let (x, w, b) = (values([m, k], 0.2), values([n, k], 1.3), values([n], 7.0));
            let g = values([m, n], 4.4);
            let found = Flex::affine_nk(x.clone(), w.clone(), b.clone());
            same("affine", [found], [reference::affine::<Flex>(x.clone(), w.clone(), b)]);
            let expected = Flex::float_matmul(g.clone(), w.clone());
            same("input", [Flex::linear_input_grad(g.clone(), w.clone())], [expected]);
            for dtype in [DType::BF16, DType::F16] {
                let half = reference::cast::<Flex>(w.clone(), dtype);
                let wide = reference::cast::<Flex>(half.clone(), DType::F32);
                let expected = Flex::float_matmul(g.clone(), wide);
                same("input, half", [Flex::linear_input_grad(g.clone(), half)], [expected]);
            }
            let expected = Flex::float_matmul(Flex::float_transpose(g.clone()), x.clone());
            same("weight", [Flex::linear_weight_grad(g.clone(), x, DType::F32)], [expected]);
            let sums = Flex::float_reshape(Flex::float_sum_dim(g.clone(), 0), [n].into());
            same("bias", [Flex::bias_grad(g, DType::F32)], [sums]);
        }
    }

    #[test]
    fn norms_and_their_gradients() {
        for (rows, width) in [(1, 3), (5, 48), (67, 129)] {
            let (x, g) = (values([rows, width], 0.5), values([rows, width], 2.5));
            let [w, b] = [values([width], 1.0), values([width], 6.0)];
            let affine = [w.clone(), b.clone()];
            let found = Flex::layer_norm_rows(x.clone(), w.clone(), b.clone(), 1e-6);
            let expected = reference::layer_norm::<Flex>(x.clone(), affine.clone(), 1e-6);
            same("layer norm", [found], [expected]);
            same(
                "layer norm backwards",
                Flex::layer_norm_grads(x.clone(), affine.clone(), 1e-6, g.clone()),
                gradients::layer_norm::<Flex>(x.clone(), affine, 1e-6, g.clone()),
            );
            let sums = Flex::sum_and_norm(x.clone(), g.clone(), w.clone(), 1e-6);
            let expected = reference::add_rms_norm::<Flex>([x.clone(), g.clone()], w.clone(), 1e-6);
            same("sum and norm", [sums.0, sums.1], [expected.0, expected.1]);
            same(
                "rms norm backwards",
                Flex::rms_norm_grads(x.clone(), w.clone(), 1e-6, g.clone()),
                gradients::rms_norm::<Flex>(x, w, 1e-6, g),
            );
        }
    }

    #[test]
    fn activations_and_their_gradients() {
        let [gate, up, g] = [0.1, 1.7, 3.1].map(|seed| values([23, 19], seed));
        let gate = Flex::float_mul_scalar(gate, 6.0.into());
        let found = Flex::gated_silu(gate.clone(), up.clone());
        same("swiglu", [found], [reference::swiglu::<Flex>(gate.clone(), up.clone())]);
        let found = Flex::swiglu_grads(gate.clone(), up.clone(), g.clone());
        same("backwards", found, gradients::swiglu::<Flex>(gate.clone(), up, g.clone()));
        let slope = |slope| Flex::float_mul(g.clone(), slope);
        let expected = slope(reference::gelu_slope::<Flex>(gate.clone()));
        same("gelu", [Flex::gelu_exact_grad(gate.clone(), g.clone())], [expected]);
        let expected = slope(reference::gelu_tanh_slope::<Flex>(gate.clone()));
        same("gelu by tanh", [Flex::gelu_by_tanh_grad(gate, g.clone())], [expected]);
    }

    #[test]
    fn attention_in_packed_sequences_and_its_gradients() {
        for (heads, groups, d) in [(4, 2, 8), (3, 3, 24), (6, 1, 16)] {
            for lengths in [vec![5], vec![3, 3, 9, 1], vec![70, 2, 33]] {
                let rows = lengths.iter().sum();
                let q = values([rows, heads, d], 0.3);
                let [k, v] = [1.9, 5.2].map(|seed| values([rows, groups, d], seed));
                let qkv = [q.clone(), k.clone(), v.clone()];
                let g = values([rows, heads * d], 8.8);
                for causal in [false, true] {
                    let lens = lengths.clone();
                    same(
                        "packed attention",
                        [Flex::attention_in_sequences(
                            q.clone(),
                            k.clone(),
                            v.clone(),
                            lens,
                            causal,
                        )],
                        [reference::packed_attention::<Flex>(qkv.clone(), &lengths, causal)],
                    );
                    same(
                        "packed attention backwards",
                        Flex::packed_attention_grads(qkv.clone(), &lengths, causal, g.clone()),
                        gradients::packed_attention::<Flex>(
                            qkv.clone(),
                            &lengths,
                            causal,
                            g.clone(),
                        ),
                    );
                }
            }
        }
    }

    #[test]
    fn rotation_and_the_attention_of_rotated_heads() {
        let (rows, heads, d) = (13, 3, 12);
        let [cos, sin] = [0.4, 2.0].map(|seed| values([rows, 1, d / 2], seed));
        let x = values([rows, heads, d], 1.5);
        let weight = values([d], 1.1);
        let angles = [cos.clone(), sin.clone()];
        let found =
            Flex::norm_of_heads_rotated(x.clone(), weight.clone(), cos.clone(), sin.clone(), 1e-6);
        let expected = reference::rms_norm_rotated::<Flex>(x.clone(), weight, angles, 1e-6);
        same("norm of heads, rotated", [found], [expected]);
        let found = Flex::rotate_halves(x.clone(), cos.clone(), sin.clone());
        same("rotation", [found], [reference::rotate::<Flex>(x, cos.clone(), sin.clone())]);
        let qkv = values([rows, 3 * heads * d], 6.1);
        let g = values([rows, heads * d], 9.3);
        let angles = [cos.clone(), sin.clone()];
        let lengths = vec![4, 4, 5];
        same(
            "rotary attention",
            [Flex::attention_of_rotated(qkv.clone(), cos, sin, lengths.clone())],
            [reference::rotary_attention::<Flex>(qkv.clone(), angles.clone(), &lengths)],
        );
        same(
            "rotary attention backwards",
            [Flex::rotary_attention_grad(qkv.clone(), angles.clone(), &lengths, g.clone())],
            [gradients::rotary_attention::<Flex>(qkv, angles, &lengths, g)],
        );
    }

    #[test]
    fn cross_entropy_and_its_gradients() {
        for (rows, vocabulary, k) in [(1, 7, 5), (90, 301, 33)] {
            let (hidden, head) = (values([rows, k], 0.6), values([vocabulary, k], 2.1));
            let ids: Vec<i64> = (0..rows).map(|i| (i * 31 % vocabulary) as i64).collect();
            let ids = FlexTensor::from_data(TensorData::new(ids, [rows]));
            let found = Flex::linear_cross_entropy(hidden.clone(), head.clone(), ids.clone());
            let expected =
                reference::cross_entropy::<Flex>(hidden.clone(), head.clone(), ids.clone());
            same("cross-entropy", [found], [expected]);
            let g = values([rows], 3.7);
            let (targets, weight) = (ids.clone(), head);
            let inputs = HeadInputs { hidden: hidden.clone(), weight, targets, of_weight: true };
            let (for_hidden, for_weight) = Flex::cross_entropy_grads(inputs.clone(), g.clone());
            let (expected, of_weight) = gradients::cross_entropy::<Flex>(inputs.clone(), g.clone());
            same(
                "cross-entropy backwards",
                [for_hidden.clone(), for_weight.unwrap()],
                [expected, of_weight.unwrap()],
            );
            // A frozen head changes nothing but the work.
            let frozen = HeadInputs { of_weight: false, ..inputs };
            for (alone, none) in [
                Flex::cross_entropy_grads(frozen.clone(), g.clone()),
                gradients::cross_entropy::<Flex>(frozen.clone(), g.clone()),
            ] {
                same("cross-entropy backwards, frozen head", [alone], [for_hidden.clone()]);
                assert!(none.is_none());
            }
            for (dtype, of_weight) in
                [(DType::BF16, false), (DType::F16, false), (DType::BF16, true)]
            {
                let weight = reference::cast::<Flex>(values([vocabulary, k], 2.1), dtype);
                let inputs = HeadInputs { weight: weight.clone(), of_weight, ..frozen.clone() };
                let found = Flex::linear_cross_entropy(hidden.clone(), weight.clone(), ids.clone());
                let expected =
                    reference::cross_entropy::<Flex>(hidden.clone(), weight, ids.clone());
                same("cross-entropy, half", [found], [expected]);
                let found = Flex::cross_entropy_grads(inputs.clone(), g.clone());
                let expected = gradients::cross_entropy::<Flex>(inputs, g.clone());
                same("cross-entropy backwards, half", [found.0], [expected.0]);
                assert_eq!((found.1.is_some(), expected.1.is_some()), (of_weight, of_weight));
            }
        }
    }

    #[test]
    fn orthogonal_factors_are_those_of_the_generic_body() {
        for shape in [[1, 7], [6, 40], [16, 16], [33, 70]] {
            // Folded many times, the values are as good as random, so that no singular value is 0.
            let x = Flex::float_sin(Flex::float_mul_scalar(values(shape, 5.0), 977.0.into()));
            let found = Flex::newton_schulz(x.clone());
            let expected = update::orthogonal_reference::<Flex>(x);
            same("orthogonal", [found.clone()], [expected]);
            // Singular values lie between about 0.7 and 1.2, so their squares have a mean between 0.49 and 1.44.
            let found = found.into_data().to_vec::<f32>().expect("f32");
            let mean = found.iter().map(|x| x * x).sum::<f32>() / shape[0] as f32;
            assert!((0.45..1.45).contains(&mean), "{shape:?}: {mean}");
        }
    }

    #[test]
    fn the_step_of_adamw() {
        let [value, first, grad] = [0.2, 1.4, 4.0].map(|seed| values([1003], seed));
        let second = Flex::float_mul(first.clone(), first.clone());
        let step = AdamWStep {
            beta1: 0.9,
            beta2: 0.98,
            epsilon: 1e-8,
            rate: 1e-2,
            root: 3.0,
            decay: 1e-3,
            grad_scale: 0.7,
        };
        let moved = (value, first, second);
        let found =
            Flex::adamw_step(moved.0.clone(), moved.1.clone(), moved.2.clone(), grad.clone(), step);
        let expected = update::reference::<Flex>(moved, grad.clone(), step);
        same("adamw", [found.0, found.1, found.2], [expected.0, expected.1, expected.2]);
        let sum = Flex::float_sum(Flex::float_mul(grad.clone(), grad.clone()));
        same("sum of squares", [Flex::sum_of_squares(grad)], [sum]);
    }
}
