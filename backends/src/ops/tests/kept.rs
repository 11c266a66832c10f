//! Attention over keys and values in every dtype of a cache.

use super::*;

/// How rows are kept: in a float dtype, or as bytes.
pub(in crate::ops) type Kept = Option<DType>;

pub(in crate::ops) const KEPT: [Kept; 4] =
    [Some(DType::F32), Some(DType::BF16), Some(DType::F16), None];

/// Rows `[b, g, t, d]` as a cache keeps them.
pub(in crate::ops) fn kept(rows: Tensor<4>, dtype: Kept) -> KvRows<Dispatch> {
    let Some(dtype) = dtype else {
        let [words, scales] = in_bytes(&rows.to_data().to_vec::<f32>().unwrap(), rows.dims());
        let device = rows.device();
        let words = Tensor::from_data(words, (&device, DType::I32));
        return KvRows::int8(words, Tensor::from_data(scales, (&device, DType::F32)));
    };
    rows.cast(dtype).into()
}

/// Words and scales of rows.
pub(in crate::ops) fn in_bytes(rows: &[f32], [b, g, t, d]: [usize; 4]) -> [TensorData; 2] {
    let (mut words, mut scales) = (Vec::new(), Vec::new());
    for row in rows.chunks(d) {
        let scale = row.iter().fold(0f32, |top, x| top.max(x.abs())) / 127.0;
        scales.push(scale);
        for four in row.chunks(4) {
            let mut bytes = [0; 4];
            for (byte, x) in bytes.iter_mut().zip(four) {
                *byte = (x / scale.max(f32::MIN_POSITIVE)).round_ties_even() as i8 as u8;
            }
            words.push(i32::from_le_bytes(bytes));
        }
    }
    [TensorData::new(words, [b, g, t, d.div_ceil(4)]), TensorData::new(scales, [b, g, t, 1])]
}

/// What words and scales are made and say is what the host packs, on every CPU backend; rows of zeros are among them.
#[test]
fn rows_in_bytes_mean_the_same_on_every_backend() {
    let devices = [
        Device::flex(),
        #[cfg(feature = "ndarray")]
        Device::ndarray(),
    ];
    for device in devices {
        for d in [1, 3, 4, 6, 72] {
            let own = Tensor::cat(
                vec![
                    tensor([2, 3, 5, d], 0.4, DType::F32),
                    Tensor::zeros([2, 3, 1, d], &Device::flex()),
                ],
                2,
            );
            let rows = Tensor::<4>::from_data(own.clone().into_data(), (&device, DType::F32));
            let (words, scales) = round_kv(rows.clone());
            let expected = in_bytes(&own.to_data().to_vec::<f32>().unwrap(), own.dims());
            let found = [words.to_data().convert_dtype(DType::I32), scales.to_data()];
            assert_eq!(found[0].to_vec::<i32>(), expected[0].to_vec::<i32>(), "{device:?} {d}");
            assert_eq!(found[1].to_vec::<f32>(), expected[1].to_vec::<f32>(), "{device:?} {d}");
            let size = rows.clone().abs().max().into_scalar::<f32>();
            let found = expand_kv(KvRows::int8(words, scales), d, DType::F32);
            let far = largest_difference(found, rows);
            assert!(far <= 0.501 * size / 127.0, "{device:?} {d}: {far}");
        }
    }
}

/// Rows that are kept as floats are those of a cast, also where heads and rows are exchanged.
#[test]
fn rows_in_a_dtype_are_those_of_a_cast() {
    for [rows, heads, d] in [[5, 2, 8], [300, 4, 64], [1, 1, 1]] {
        let x = tensor([1, rows, heads, d], 0.7, DType::F32).swap_dims(1, 2);
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let expected = x.clone().cast(dtype).into_data();
            assert_eq!(keep_kv(x.clone(), dtype).into_data(), expected, "{dtype:?} {rows}");
        }
    }
}

/// What a row gets depends neither on the rows that are computed with it nor on the parts that keys lie in.
#[test]
fn a_row_attends_alike_however_a_sequence_is_cut() {
    KEPT.into_iter().for_each(attends_alike);
}

fn attends_alike(dtype: Kept) {
    let (h, g, t, d) = (4, 2, 600, 24);
    let q = tensor([1, h, t, d], 0.1, DType::F32);
    let [k, v] = [2.0, 3.0].map(|seed| tensor([1, g, t, d], seed, DType::F32));
    let attend = |steps: usize, rows: std::ops::Range<usize>, cuts: &[usize]| {
        let _steps = choose_steps(Some(steps));
        let mut ends = cuts.to_vec();
        ends.retain(|end| *end < rows.end);
        ends.push(rows.end);
        let parts = |x: &Tensor<4>| {
            let starts = [0].into_iter().chain(ends.clone());
            let part = |(a, b)| kept(x.clone().narrow(2, a, b - a), dtype);
            starts.zip(ends.clone()).map(part).collect()
        };
        let q = q.clone().narrow(2, rows.start, rows.len());
        let y = attention_over_parts(q, parts(&k), parts(&v), true);
        y.swap_dims(1, 2).into_data().try_to_vec::<f32>().unwrap()
    };
    for how in Products::ALL {
        let _how = choose_products(Some(how));
        let whole = attend(0, 0..t, &[]);
        for cuts in [&[][..], &[3], &[100], &[256], &[255, 258], &[17, 300, 301, 590]] {
            for rows in [0..1, 0..2, 0..7, 5..40, 100..101, 250..259, 290..600, 513..514, 599..600]
            {
                let expected = &whole[rows.start * h * d..rows.end * h * d];
                let found = attend(0, rows.clone(), cuts);
                assert!(found == expected, "{dtype:?}, {how:?}: {rows:?} behind {cuts:?}");
            }
            let steps = attend(20, 580..600, cuts);
            for row in 580..600 {
                let alone = attend(1, row..row + 1, &[]);
                assert!(
                    alone == steps[(row - 580) * h * d..][..h * d],
                    "{dtype:?}: step {row} behind {cuts:?}"
                );
            }
        }
    }
}
