//! The largest values of rows: equal bits, whatever is equal among them.

use super::*;

/// Few different values, so that places decide, with both zeros and infinities among them.
fn steps(rows: usize, width: usize) -> Vec<f32> {
    let special = [0.0, -0.0, f32::NEG_INFINITY, 1.5];
    let value = |i: usize| match (i as u32).wrapping_mul(2_654_435_761) >> 20 {
        hash if hash % 5 == 0 => special[hash as usize / 5 % 4],
        hash => (hash % 9) as f32 / 4.0 - 1.0,
    };
    (0..rows * width).map(value).collect()
}

fn check(values: Vec<f32>, shape: [usize; 2], k: usize, device: &Device) {
    let data = TensorData::new(values, shape);
    let plain = Tensor::<2>::from_data(data, (&Device::flex(), DType::F32));
    let found = numbers(ops::largest_of_rows(upload(&plain, device, DType::F32), k));
    let expected = reference::largest_of_rows::<Flex>(flex(&plain), k);
    let expected = expected.into_data().to_vec::<f32>().unwrap();
    assert_eq!(found, expected, "{k} of {shape:?}");
}

#[test]
fn the_largest_agree_and_equal_ones_come_in_order() {
    let Some((device, _)) = card() else { return };
    for shape in [[1, 1], [3, 7], [2, 128], [1, 2048], [5, 2049], [2, 6001]] {
        let [rows, width] = shape;
        for k in [1, 3, 32] {
            let k = k.min(width);
            check(steps(rows, width), shape, k, &device);
            let fine = (0..rows * width).map(|i| (i as f32 * 0.7713).sin()).collect();
            check(fine, shape, k, &device);
        }
    }
    check(vec![f32::NEG_INFINITY; 2 * 4099], [2, 4099], 4, &device);
}

#[test]
fn what_is_no_number_comes_first() {
    let Some((device, _)) = card() else { return };
    let mut values = steps(2, 4100);
    values[2500] = f32::NAN;
    values[4100 + 17] = f32::INFINITY;
    values[4100 + 3000] = -f32::NAN;
    check(values, [2, 4100], 4, &device);
}

/// Of a view the rows count, not what lies in memory.
#[test]
fn the_largest_of_a_view_are_those_of_its_rows() {
    let Some((device, _)) = card() else { return };
    let x = values([70, 9], 0.4, DType::F32);
    let found = numbers(ops::largest_of_rows(upload(&x, &device, DType::F32).transpose(), 3));
    let expected = reference::largest_of_rows::<Flex>(flex(&x.transpose()), 3);
    assert_eq!(found, expected.into_data().to_vec::<f32>().unwrap());
}

/// More rows than cubes have room for along one axis.
#[test]
fn the_largest_of_very_many_rows_agree() {
    let Some((device, _)) = card() else { return };
    let shape = [70_001, 5];
    let values = (0..shape[0] * shape[1]).map(|i| (i as f32 * 0.7713).sin()).collect();
    check(values, shape, 2, &device);
}
