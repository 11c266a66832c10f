//! Ids drawn from the largest values of rows: the same as the reference body draws.

use super::*;
use crate::ops::fixed;

/// Temperature, `top_k`, one minus `top_p` and `min_p` of rows.
const TERMS: [[f32; 4]; 6] = [
    [0.0, 1.0, -1.0, 0.0],
    [1.0, 5.0, -1.0, 0.0],
    [0.7, 20.0, 0.2, 0.0],
    [1.3, 20.0, 0.05, 0.05],
    [40.0, 63.0, 0.5, 0.0],
    [1e-3, 50.0, -1.0, 0.1],
];

/// What is drawn on the device and by the reference body, of rows whose largest values are `found`.
fn drawn(found: Tensor<2>, device: &Device) -> [Vec<f32>; 2] {
    let [rows, _] = found.dims();
    let on = (&Device::flex(), DType::F32);
    let terms: Vec<f32> = TERMS.iter().cycle().take(rows).flatten().copied().collect();
    let chances: Vec<f32> = (0..rows).map(|i| (i * 7919 % 997) as f32 / 997.0).collect();
    let terms = Tensor::<2>::from_data(TensorData::new(terms, [rows, 4]), on);
    let chances = Tensor::<1>::from_data(TensorData::new(chances, [rows]), on);
    let up = |x: &Tensor<2>| upload(x, device, DType::F32);
    let on_card = fixed::draw_of_rows(up(&found), up(&terms), upload(&chances, device, DType::F32));
    let expected = reference::draw_of_rows::<Flex>(flex(&found), flex(&terms), flex(&chances));
    [numbers(on_card), expected.into_data().to_vec().unwrap()]
}

fn largest(values: Vec<f32>, rows: usize, k: usize) -> Tensor<2> {
    let width = values.len() / rows;
    let data = TensorData::new(values, [rows, width]);
    let x = Tensor::<2>::from_data(data, (&Device::flex(), DType::F32));
    let found = reference::largest_of_rows::<Flex>(flex(&x), k);
    Tensor::from_data(found.into_data(), (&Device::flex(), DType::F32))
}

#[test]
fn the_same_ids_are_drawn() {
    let Some((device, _)) = card() else { return };
    for (rows, k) in [(1, 2), (6, 64), (6, 32), (18, 8), (300, 64)] {
        let fine = |i: usize| (i as f32 * 0.7713).sin() * 6.0;
        // Steps of a half: many are equal.
        for values in [fine as fn(usize) -> f32, |i| ((i * 7919 % 101) as f32 / 10.0).round() / 2.0]
        {
            let found = largest((0..rows * 500).map(values).collect(), rows, k);
            let [on_card, expected] = drawn(found, &device);
            assert_eq!(on_card, expected, "{rows} rows, {k} of each");
        }
    }
}

/// Whatever a row holds, what is drawn is one of its ids.
#[test]
fn what_is_drawn_is_an_id() {
    let Some((device, _)) = card() else { return };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values: Vec<f32> = (0..6 * 90).map(|i| (i as f32 * 0.37).cos()).collect();
        values.iter_mut().step_by(7).for_each(|x| *x = value);
        let [on_card, _] = drawn(largest(values, 6, 64), &device);
        assert!(on_card.iter().all(|id| (0.0..90.0).contains(id)), "{value}: {on_card:?}");
    }
}
