//! A weight in several buffers, for devices whose largest one is too small for the whole.

use burn::module::Module;
use burn::tensor::{Int, Tensor};

use crate::weight::Weight;

/// The rows of one matrix, those of one part after those of the other. It takes no part in training.
#[derive(Module, Debug)]
pub struct Blocks {
    parts: Vec<Weight>,
}

impl Blocks {
    pub(crate) fn new(parts: Vec<Weight>) -> Self {
        let columns = parts.iter().map(|part| part.shape()[1]);
        let alike = columns.clone().zip(columns.skip(1)).all(|(a, b)| a == b);
        assert!(!parts.is_empty() && alike, "parts of one matrix have its columns");
        Self { parts }
    }

    pub(crate) fn parts(&self) -> &[Weight] {
        &self.parts
    }

    /// `[out, in]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.parts.iter().map(|part| part.shape()[0]).sum(), self.parts[0].shape()[1]]
    }

    /// The rows of `ids`, without a look at these: every part gives a row for each, and of those the last one counts whose first
    /// row is not behind the id. Nothing is added, so that the rows are bit by bit those of the whole.
    pub(crate) fn rows(&self, ids: &Tensor<1, Int>) -> Tensor<2> {
        let mut first = 0;
        let found = self.parts.iter().map(|part| {
            let start = first;
            first += part.shape()[0];
            (start, part.rows(ids.clone().clamp(start as i64, first as i64 - 1) - start as i64))
        });
        let found = found.reduce(|(_, before), (start, rows)| {
            let here = ids.clone().greater_equal_elem(start as i64);
            let here = here.unsqueeze_dim::<2>(1).expand(rows.dims());
            (start, before.mask_where(here, rows))
        });
        found.expect("there is a part").1
    }

    /// `x [n, in] -> [n, out]`: the columns of one part after those of the other.
    pub(crate) fn product(&self, x: &Tensor<2>, bias: Option<&Tensor<1>>) -> Tensor<2> {
        let mut first = 0;
        let products = self.parts.iter().map(|part| {
            let (start, rows) = (first, part.shape()[0]);
            first += rows;
            part.product(x.clone(), bias.map(|bias| bias.clone().narrow(0, start, rows)))
        });
        Tensor::cat(products.collect(), 1)
    }
}

/// The path of the weight of which the parameter at `path` is a part, if it is one.
pub fn path_of_whole(path: &str) -> Option<&str> {
    let (whole, part) = path.rsplit_once(".parts.")?;
    part.parse::<usize>().is_ok().then_some(whole)
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, TensorData};
    use qwen3_vl_backends::device;

    use super::*;

    fn matrix(values: &[f32], columns: usize, device: &Device) -> Tensor<2> {
        let shape = [values.len() / columns, columns];
        Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
    }

    /// Rows of three parts of unequal length, those at their edges, one more than once; a number that is none stays in its row.
    #[test]
    fn rows_and_products_are_those_of_the_whole() {
        for device in device::present() {
            let device = device.device;
            let mut values: Vec<f32> = (0..7 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
            values[4 * 3] = f32::INFINITY;
            values[2 * 3] = -0.0;
            let whole = Weight::Dense(Param::from_tensor(matrix(&values, 3, &device)));
            let part = |rows: std::ops::Range<usize>| {
                let values = &values[rows.start * 3..rows.end * 3];
                Weight::Dense(Param::from_tensor(matrix(values, 3, &device)))
            };
            let split = Weight::of_blocks(vec![part(0..3), part(3..5), part(5..7)]);
            assert_eq!((split.shape(), split.blocks().len()), ([7, 3], 3));
            let ids = TensorData::new(vec![6i64, 0, 2, 3, 4, 5, 2], [7]);
            let ids = Tensor::<1, Int>::from_data(ids, &device);
            let bits = |tensor: Tensor<2>| -> Vec<u32> {
                let values = tensor.into_data().try_to_vec::<f32>().unwrap();
                values.into_iter().map(f32::to_bits).collect()
            };
            assert_eq!(bits(split.rows(ids.clone())), bits(whole.rows(ids)));
            assert_eq!(bits(split.values()), bits(whole.values()));
            let bias = Tensor::<1>::from_data([0.5, 1.5, -2.0, 3.0, 4.0, 5.0, 6.0], &device);
            let x = matrix(&[0.3, -0.2, 0.9, 1.0, 2.0, 3.0], 3, &device);
            for bias in [None, Some(bias)] {
                let [split, whole] = [&split, &whole].map(|weight| {
                    let product = weight.product(x.clone(), bias.clone()).into_data();
                    product.try_to_vec::<f32>().unwrap()
                });
                let near = |(a, b): (&f32, &f32)| a == b || (a - b).abs() < 1e-5;
                assert!(split.iter().zip(&whole).all(near), "{split:?} {whole:?}");
            }
        }
    }

    #[test]
    fn parts_are_known_by_their_path() {
        let path = "language_model.embed_tokens.weight";
        assert_eq!(path_of_whole(&format!("{path}.parts.12")), Some(path));
        for other in [path, "visual.blocks.0.attn.qkv.weight", "a.parts.0.scales"] {
            assert_eq!(path_of_whole(other), None, "{other}");
        }
    }
}
