//! Mixtures of experts whose routes stay on the device.

use super::*;

/// Rows, experts per row, experts, and widths outside and inside of these.
struct Mixture {
    x: Tensor<2>,
    logits: Tensor<2>,
    gate_up: Tensor<3>,
    down: Tensor<3>,
    k: usize,
}

impl Mixture {
    fn new([rows, k, experts, hidden, inner]: [usize; 5], dtype: DType) -> Self {
        // Small, so that no expert's products leave the range of f16.
        let small = |x: Tensor<3>| (x / 8.0).cast(dtype).cast(DType::F32);
        Self {
            x: values([rows, hidden], 0.3, dtype),
            logits: values([rows, experts], 2.7, DType::F32),
            gate_up: small(values([experts, 2 * inner, hidden], 9.1, dtype)),
            down: small(values([experts, hidden, inner], 4.4, dtype)),
            k,
        }
    }

    fn difference(&self, device: &Device, x: DType, weights: DType) -> f32 {
        let logits = upload(&self.logits, device, DType::F32);
        let on = |stack: &Tensor<3>| upload(stack, device, weights);
        let found = ops::mixture(
            upload(&self.x, device, x),
            ops::largest_of_rows(logits, self.k),
            on(&self.gate_up),
            on(&self.down),
        );
        let routes = reference::largest_of_rows::<Flex>(flex(&self.logits), self.k);
        let (x, gate_up, down) = (flex(&self.x), flex(&self.gate_up), flex(&self.down));
        far(found, reference::mixture::<Flex>(x, routes, gate_up, down))
    }
}

#[test]
fn mixtures_agree_whatever_the_dtype_of_the_weights() {
    let Some((device, dtypes)) = card() else { return };
    let shapes = [
        [1, 1, 1, 8, 8],
        [3, 2, 5, 24, 40],
        [16, 8, 9, 72, 16],
        [2, 3, 4, 264, 136],
        // Many rows of some experts, and none of others.
        [33, 3, 40, 24, 24],
        // No whole vectors: the reference body.
        [2, 2, 3, 7, 5],
    ];
    for dtype in &dtypes {
        for weights in &dtypes {
            for shape in shapes {
                // Values that both hold: of small numbers f16 has all that bf16 has.
                let mut narrow = [DType::BF16, DType::F16].into_iter();
                let narrow = narrow.find(|narrow| [dtype, weights].contains(&narrow));
                let narrow = narrow.unwrap_or(DType::F32);
                let difference = Mixture::new(shape, narrow).difference(&device, *dtype, *weights);
                let what = format!("{dtype:?} by {weights:?} {shape:?}");
                // Rounded behind each of two products, and behind what lies between them, which bf16 shows.
                let times = if *dtype == DType::BF16 { 3.0 } else { 2.0 };
                assert!(difference < times * bound(*dtype), "{what}: {difference}");
            }
        }
    }
}

/// The order of equal experts is that of their numbers, and their shares are equal.
#[test]
fn equal_logits_go_to_the_first_experts() {
    let Some((device, _)) = card() else { return };
    let mixture = Mixture::new([2, 2, 4, 16, 8], DType::F32);
    let logits = Tensor::<2>::zeros([2, 4], (&Device::flex(), DType::F32));
    let mixture = Mixture { logits, ..mixture };
    assert!(mixture.difference(&device, DType::F32, DType::F32) < 1e-5);
}
