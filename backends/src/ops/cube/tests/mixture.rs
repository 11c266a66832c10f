//! Mixtures of experts whose routes stay on the device.

use super::*;
use crate::ops::cube::cores::plain;

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

    /// Rows all go to the last `k` experts, and to no other.
    fn lopsided(self) -> Self {
        let [rows, experts] = self.logits.dims();
        let steps = Tensor::arange(0..experts as i64, &Device::flex()).float();
        let steps = steps.unsqueeze::<2>().expand([rows, experts]).cast(DType::F32);
        Self { logits: self.logits + steps * 4.0, ..self }
    }

    /// The first of its rows alone.
    fn first(&self, rows: usize) -> Self {
        Self {
            x: self.x.clone().narrow(0, 0, rows),
            logits: self.logits.clone().narrow(0, 0, rows),
            gate_up: self.gate_up.clone(),
            down: self.down.clone(),
            k: self.k,
        }
    }

    fn found(&self, device: &Device, x: DType, weights: DType) -> Tensor<2> {
        self.found_with(device, x, |stack| upload(stack, device, weights))
    }

    fn found_with(
        &self,
        device: &Device,
        x: DType,
        on: impl Fn(&Tensor<3>) -> Tensor<3>,
    ) -> Tensor<2> {
        let routes = ops::largest_of_rows(upload(&self.logits, device, DType::F32), self.k);
        ops::mixture(upload(&self.x, device, x), routes, on(&self.gate_up), on(&self.down))
    }

    fn difference(&self, device: &Device, x: DType, weights: DType) -> f32 {
        far(self.found(device, x, weights), self.expected())
    }

    fn expected(&self) -> FlexTensor {
        let routes = reference::largest_of_rows::<Flex>(flex(&self.logits), self.k);
        let (x, gate_up, down) = (flex(&self.x), flex(&self.gate_up), flex(&self.down));
        reference::mixture::<Flex>(x, routes, gate_up, down)
    }

    fn check(&self, device: &Device, dtype: DType) {
        let difference = self.difference(device, dtype, dtype);
        let shape = (self.x.dims(), self.logits.dims(), self.down.dims());
        assert!(difference < 3.0 * bound(dtype), "{dtype:?} {shape:?}: {difference}");
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
        // No whole vectors.
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

/// Rows that fill no block of pairs, one, and many, more experts than units, and widths that are no whole vectors.
const MANY: [[usize; 5]; 7] = [
    [1, 33, 40, 24, 24],
    [127, 2, 6, 24, 16],
    [129, 2, 6, 24, 16],
    [129, 3, 300, 8, 8],
    [300, 1, 5, 7, 5],
    [2049, 2, 3, 12, 6],
    // More pairs than are computed at one time.
    [2049, 8, 9, 16, 8],
];

#[test]
fn mixtures_of_many_rows_agree() {
    let Some((device, _)) = card() else { return };
    for shape in MANY {
        let mixture = Mixture::new(shape, DType::F32);
        mixture.check(&device, DType::F32);
        // No row goes to most of the experts.
        mixture.lopsided().check(&device, DType::F32);
    }
}

/// The same where tensor cores multiply, or the plain body in their place: one launch for each pass, but for the last row of so
/// many.
#[test]
fn mixtures_of_many_rows_agree_by_cores() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes.into_iter().filter(|dtype| *dtype != DType::F32) {
        for (shape, forms) in [
            // As few rows of an expert as small tiles take, and one pair more.
            ([48, 1, 3, 16, 8], 0),
            ([49, 1, 3, 16, 8], 1),
            ([129, 2, 6, 24, 20], 1),
            ([300, 2, 3, 256, 68], 1),
            ([300, 1, 1, 512, 256], 1),
            ([2049, 2, 3, 12, 4], 1),
            ([2049, 8, 9, 16, 8], 1),
            // No whole vectors of four.
            ([300, 1, 5, 7, 5], 0),
            ([300, 2, 5, 16, 6], 0),
        ] {
            let mixture = Mixture::new(shape, dtype);
            plain::with(forms, || mixture.check(&device, dtype));
            plain::with(forms, || mixture.lopsided().check(&device, dtype));
        }
    }
}

/// Places of pairs are the same in every run, and what a row becomes does not depend on those behind it.
#[test]
fn mixtures_of_many_rows_are_the_same_in_every_run() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        let mixture = Mixture::new([1300, 2, 6, 24, 20], dtype);
        let few = mixture.first(700);
        let of = |mixture: &Mixture| {
            let mut values = Vec::new();
            let launches = usize::from(dtype != DType::F32);
            plain::with(launches, || values = numbers(mixture.found(&device, dtype, dtype)));
            values
        };
        let all = of(&mixture);
        assert!(of(&mixture) == all, "{dtype:?}: another run gives other bits");
        assert!(of(&few) == all[..700 * 24], "{dtype:?}: fewer rows give other bits");
    }
}

/// Fewer pairs than experts, and more.
#[test]
fn stacks_that_lie_the_other_way_round_agree() {
    let Some((device, _)) = card() else { return };
    for rows in [1, 40] {
        let mixture = Mixture::new([rows, 2, 6, 24, 16], DType::F32);
        let turned = |stack: &Tensor<3>| {
            upload(&stack.clone().swap_dims(1, 2), &device, DType::F32).swap_dims(1, 2)
        };
        let difference = far(mixture.found_with(&device, DType::F32, turned), mixture.expected());
        assert!(difference < 2e-5, "{rows} rows: {difference}");
    }
}
