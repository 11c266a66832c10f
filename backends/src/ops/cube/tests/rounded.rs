//! Products of weights that this program or others rounded, and mixtures of experts with such weights.

use super::*;
use crate::ops::cube::cores::plain;
use crate::ops::{RoundedStack, Share};
use crate::quant::{Codes, QuantScheme};

/// Matrices of any codes, `[experts, n, k]`, whose weights are a few tenths at most.
struct Stack {
    codes: TensorData,
    scales: TensorData,
    scheme: QuantScheme,
    shape: [usize; 3],
}

/// Numbers from 0 to 1 without much order.
fn noise(i: usize, seed: usize) -> f32 {
    let mixed = (i as u32 ^ (seed as u32) << 16).wrapping_mul(2_654_435_761);
    ((mixed ^ mixed >> 13).wrapping_mul(3_266_489_917) >> 8) as f32 / (1 << 24) as f32
}

impl Stack {
    fn new(scheme: QuantScheme, shape: [usize; 3], seed: usize, scale: DType) -> Self {
        let [experts, n, k] = shape;
        let (rows, groups) = (experts * n, scheme.groups(k));
        let (bytes, columns) = (scheme.row_bytes(k), scheme.scale_columns(k));
        let codes = (0..rows * bytes).map(|i| match scheme.codes() {
            // None of E4M3 that is NaN.
            Codes::Float8 => (noise(i, seed) * 126.0) as u8 | ((i % 3 == 0) as u8) << 7,
            _ => (noise(i, seed) * 256.0) as u8,
        });
        let largest = match scheme.codes() {
            Codes::Int8 => 127.0,
            Codes::Int4 => 8.0,
            Codes::Float8 => 448.0,
        };
        let scales = (0..rows * columns).map(|i| match i % columns < groups {
            true => (0.1 + 0.2 * noise(i, seed + 1)) / largest,
            // A minimum.
            false => 0.2 * noise(i, seed + 2),
        });
        let codes = TensorData::from_bytes_vec(
            codes.collect(),
            vec![experts, n, bytes],
            scheme.code_dtype(),
        );
        let scales = TensorData::new(scales.collect::<Vec<f32>>(), [experts, n, columns]);
        Self { codes, scales: scales.convert_dtype(scale), scheme, shape }
    }

    fn on(&self, device: &Device) -> (Tensor<3, Int>, Tensor<3>) {
        let codes = Tensor::from_data(self.codes.clone(), (device, self.scheme.code_dtype()));
        (codes, Tensor::from_data(self.scales.clone(), (device, self.scales.dtype())))
    }

    fn on_card(&self, device: &Device) -> RoundedStack<burn::backend::Dispatch> {
        let (codes, scales) = self.on(device);
        RoundedStack::new(codes, scales, self.scheme)
    }

    fn on_flex(&self) -> RoundedStack<Flex> {
        let scales = self.scales.clone().convert_dtype(DType::F32);
        RoundedStack {
            codes: FlexTensor::from_data(self.codes.clone()),
            scales: FlexTensor::from_data(scales),
            scheme: self.scheme,
        }
    }

    /// What the reference body makes of the rows of `x` with one of the matrices.
    fn product(&self, x: &Tensor<2>, expert: usize) -> Tensor<2> {
        let (codes, scales) = self.on(&Device::flex());
        let codes: Tensor<2, Int> = codes.narrow(0, expert, 1).squeeze_dim(0);
        let scales: Tensor<2> = scales.cast(DType::F32).narrow(0, expert, 1).squeeze_dim(0);
        let codes = FlexTensor::from_data(codes.to_data());
        let found = reference::linear_of_codes::<Flex>(flex(x), codes, flex(&scales), self.scheme);
        Tensor::from_data(found.into_data(), &Device::flex())
    }
}

/// What this program rounds, and what others do.
fn schemes() -> [QuantScheme; 10] {
    let own = |name: &str| name.parse().unwrap();
    let minimums = |bits, group| QuantScheme::with_minimums(bits, group).unwrap();
    [
        own("int8-g32"),
        own("int8-g64"),
        own("int4-g32"),
        own("int4-g128"),
        minimums(4, 32),
        minimums(4, 64),
        minimums(4, 128),
        minimums(8, 32),
        QuantScheme::INT8_G16,
        QuantScheme::FLOAT8,
    ]
}

/// The dtypes that scales may have there: what it computes in, and bf16, which kernels read as words.
fn scale_dtypes(dtypes: &[DType]) -> Vec<DType> {
    let others = dtypes.iter().copied().filter(|dtype| *dtype != DType::BF16);
    others.chain([DType::BF16]).collect()
}

#[test]
fn products_agree_for_every_scheme_dtype_of_scales_and_number_of_rows() {
    let Some((device, dtypes)) = card() else { return };
    for scale in scale_dtypes(&dtypes) {
        for scheme in schemes() {
            for (m, n, k) in [(1, 17, 256), (3, 9, 40), (16, 5, 72), (5, 8, 33), (40, 20, 136)] {
                let x = values([m, k], 0.3, DType::F32);
                let stack = Stack::new(scheme, [1, n, k], 5, scale);
                let (codes, scales) = stack.on(&device);
                let (codes, scales) = (codes.squeeze_dim(0), scales.squeeze_dim(0));
                let x_on = upload(&x, &device, DType::F32);
                let found = ops::linear_quantised(x_on, codes, scales, scheme);
                let difference = far(found, flex(&stack.product(&x, 0)));
                assert!(difference < 1e-5, "{scheme} by {scale:?} {m}x{n}x{k}: {difference}");
            }
        }
    }
}

/// One row more than few, as many as a cube takes and one more, and outputs and inputs that fill no tile.
const MANY: [[usize; 3]; 7] = [
    [17, 20, 72],
    [33, 64, 128],
    [64, 65, 96],
    [65, 7, 160],
    [128, 64, 64],
    [130, 129, 264],
    // No whole words: expanded as elsewhere.
    [20, 9, 33],
];

#[test]
fn products_of_many_rows_agree_by_tiles() {
    let Some((device, dtypes)) = card() else { return };
    let scales = scale_dtypes(&dtypes);
    for dtype in dtypes.into_iter().filter(|dtype| *dtype != DType::F32) {
        for (at, scheme) in schemes().into_iter().enumerate() {
            let scale = scales[at % scales.len()];
            for shape in MANY {
                let [m, n, k] = shape;
                let x = values([m, k], 0.3, dtype);
                let stack = Stack::new(scheme, [1, n, k], 5, scale);
                let (codes, scales) = stack.on(&device);
                let (codes, scales) = (codes.squeeze_dim(0), scales.squeeze_dim(0));
                let x_on = upload(&x, &device, dtype);
                plain::with(1, || {
                    let found = ops::linear_quantised(x_on, codes, scales, scheme);
                    let difference = far(found, flex(&stack.product(&x, 0)));
                    let what = format!("{scheme} by {scale:?} {dtype:?} {shape:?}");
                    assert!(difference < bound(dtype), "{what}: {difference}");
                });
            }
        }
    }
}

/// Shares that fill no tile, one tile, and more.
#[test]
fn rounded_experts_agree_in_shares_by_tiles() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes.into_iter().filter(|dtype| *dtype != DType::F32) {
        for scheme in schemes() {
            for (rows, n, k) in [([1, 40, 64, 3], 17, 64), ([129, 150, 65, 2], 68, 136)] {
                let experts = [4, 0, 1, 5].into_iter().zip(rows);
                let shares: Vec<_> =
                    experts.map(|(expert, rows)| Share { expert, rows, steps: None }).collect();
                let x = values([rows.iter().sum(), k], 0.3, dtype);
                let stack = Stack::new(scheme, [6, n, k], 5, DType::F32);
                let mut first = 0;
                let parts = shares.iter().map(|share| {
                    first += share.rows;
                    let x = x.clone().narrow(0, first - share.rows, share.rows);
                    stack.product(&x, share.expert)
                });
                let expected = Tensor::cat(parts.collect(), 0);
                let (x_on, stack) = (upload(&x, &device, dtype), stack.on(&device));
                plain::with(1, || {
                    let found = ops::linear_of_rounded_experts(x_on, stack, scheme, shares.clone());
                    let difference = far(found, flex(&expected));
                    assert!(difference < bound(dtype), "{scheme} {dtype:?} {rows:?}: {difference}");
                });
            }
        }
    }
}

/// Rows, experts per row, experts, and widths outside and inside of these.
const MIXTURES: [[usize; 5]; 8] = [
    [1, 1, 1, 64, 32],
    [1, 8, 12, 256, 128],
    [3, 2, 5, 96, 40],
    [2, 3, 4, 264, 136],
    // More pairs than are left unsorted.
    [16, 8, 9, 72, 24],
    // Many rows of some experts, and none of others.
    [33, 3, 40, 160, 64],
    [128, 2, 6, 32, 16],
    // No whole words: the reference body, on the card.
    [5, 2, 3, 7, 5],
];

fn mixtures_agree(dtype: DType, scale: DType, schemes: [QuantScheme; 2], device: &Device) {
    mixtures_of_shapes_agree(&MIXTURES, dtype, scale, schemes, device);
}

fn mixtures_of_shapes_agree(
    shapes: &[[usize; 5]],
    dtype: DType,
    scale: DType,
    schemes: [QuantScheme; 2],
    device: &Device,
) {
    for shape in shapes {
        let [rows, k, experts, hidden, inner] = *shape;
        let x = values([rows, hidden], 0.3, dtype);
        let logits = values([rows, experts], 2.7, DType::F32);
        let up = Stack::new(schemes[0], [experts, 2 * inner, hidden], 5, scale);
        let down = Stack::new(schemes[1], [experts, hidden, inner], 9, scale);
        let routes = ops::largest_of_rows(upload(&logits, device, DType::F32), k);
        let x_on = upload(&x, device, dtype);
        let found = ops::rounded_mixture(x_on, routes, up.on_card(device), down.on_card(device));
        let routes = reference::largest_of_rows::<Flex>(flex(&logits), k);
        let (up, down) = (up.on_flex(), down.on_flex());
        let expected = reference::mixture_of_codes::<Flex>(flex(&x), routes, up, down);
        let difference = far(found, expected);
        let [up, down] = schemes;
        let what = format!("{up}, {down} by {scale:?}, {dtype:?} {shape:?}");
        assert!(difference < 2.0 * bound(dtype), "{what}: {difference}");
    }
}

#[test]
fn mixtures_with_weights_rounded_here_agree() {
    let Some((device, dtypes)) = card() else { return };
    for dtype in dtypes {
        for name in ["int8-g64", "int4-g32", "int4-g128"] {
            mixtures_agree(dtype, DType::F32, [name.parse().unwrap(); 2], &device);
        }
    }
}

#[test]
fn mixtures_with_weights_that_others_rounded_agree() {
    let Some((device, dtypes)) = card() else { return };
    let scales = scale_dtypes(&dtypes);
    // The first two are rounded here.
    for (at, schemes) in pairs_of_schemes().into_iter().skip(2).enumerate() {
        mixtures_agree(DType::F32, scales[at % scales.len()], schemes, &device);
    }
}

/// Schemes of both stacks of a mixture: those that are rounded here, Q4_K beside Q6_K, Q5_K beside Q8_0, AWQ, and FP8.
fn pairs_of_schemes() -> [[QuantScheme; 2]; 6] {
    let own = |name: &str| name.parse().unwrap();
    let minimums = |bits, group| QuantScheme::with_minimums(bits, group).unwrap();
    [
        [own("int8-g64"); 2],
        [own("int4-g32"); 2],
        [minimums(4, 32), QuantScheme::INT8_G16],
        [minimums(8, 32), own("int8-g32")],
        [minimums(4, 128); 2],
        [QuantScheme::FLOAT8; 2],
    ]
}

/// Rows of every expert but some, one row more than fills tiles, and more rows than are computed at one time.
#[test]
fn mixtures_of_many_rows_with_rounded_weights_agree() {
    let Some((device, dtypes)) = card() else { return };
    let scales = scale_dtypes(&dtypes);
    for dtype in dtypes {
        for (at, schemes) in pairs_of_schemes().into_iter().enumerate() {
            let scale = scales[at % scales.len()];
            let check = |shape| mixtures_of_shapes_agree(&[shape], dtype, scale, schemes, &device);
            let launches = usize::from(dtype != DType::F32);
            plain::with(0, || check([129, 2, 40, 40, 24]));
            plain::with(launches, || check([129, 2, 5, 72, 40]));
            plain::with(launches, || check([300, 1, 1, 136, 64]));
            plain::with(launches, || check([2049, 8, 9, 32, 16]));
        }
    }
}

/// The reference body expands a few pairs at a time, and sums them as all at once.
#[test]
fn the_reference_body_is_that_of_the_numbers_themselves() {
    let scheme: QuantScheme = "int4-g32".parse().unwrap();
    let [rows, k, experts, hidden, inner] = [3, 2, 4, 40, 24];
    let [up, down] = [([experts, 2 * inner, hidden], 5), ([experts, hidden, inner], 9)]
        .map(|(shape, seed)| Stack::new(scheme, shape, seed, DType::F32));
    let numbers = |stack: &Stack| {
        let [experts, n, k] = stack.shape;
        let (codes, scales) = stack.on(&Device::flex());
        let (codes, scales) = (codes.flatten::<2>(0, 1), scales.flatten::<2>(0, 1));
        let all = ops::expand_quantised(codes, scales, scheme, k);
        flex(&all.reshape([experts, n, k]))
    };
    let x = flex(&values([rows, hidden], 0.3, DType::F32));
    let logits = flex(&values([rows, experts], 2.7, DType::F32));
    let routes = reference::largest_of_rows::<Flex>(logits, k);
    let expected =
        reference::mixture::<Flex>(x.clone(), routes.clone(), numbers(&up), numbers(&down));
    let found = reference::mixture_of_codes::<Flex>(x, routes, up.on_flex(), down.on_flex());
    let found = Tensor::<2>::from_data(found.into_data(), &Device::flex());
    assert!(far(found, expected) < 1e-6);
}
