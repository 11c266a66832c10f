//! Models with random weights, made where they are used: what a step costs follows from shapes and dtypes, not from values.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};
use qwen3_vl_backends::Placement;
use qwen3_vl_backends::dtype::maps_in_place;
use qwen3_vl_backends::memmap::HostBytes;
use qwen3_vl_backends::quant::QuantScheme;
use qwen3_vl_model::experts::{ExpertCache, Streamed};
use qwen3_vl_model::roundable::Roundable;
use qwen3_vl_model::stack::Stack;
use qwen3_vl_model::weight::{Quantised, Weight};
use qwen3_vl_model::{Qwen3VlConfig, Qwen3VlModel};
use rayon::prelude::*;

use crate::error::LoadError;
use crate::load::rounded::{placed, round, scales_dtype};
use crate::load::split::{block_rows, ranges};
use crate::load::streamed::{MadeUp, check_budget};
use crate::load::{
    LoadHow, Progress, check_expert_memory, check_parts, computes_rounded, home, part_sizes,
};

/// Numbers that are drawn; matrices hold them again and again. It is prime, so that no two rows of a matrix are alike.
const DRAWN: usize = 1_048_583;
/// Standard deviation of the weights (HF `initializer_range`).
const DEVIATION: f32 = 0.02;

/// A model of `config`, each part on its device, with normally distributed matrices of deviation 0.02 that are the same in every run, norms of 1 and
/// biases of 0. What `how` chooses is rounded one matrix after the other as it is made, so that none but the last is ever there
/// in full; matrices that are larger than a buffer are split as [`load_placed`](crate::load_placed) does. Experts that it leaves
/// on the host are those of one layer, in bf16 or rounded, which all layers use: what is copied to the device when, and how large
/// the copies are, does not depend on their numbers.
///
/// # Errors
/// When a card has no room for its parts, the device cannot compute with rounded weights, a pattern names no layer, or there are no experts to be left on the host
/// or no room for one of them on the device.
pub fn random_model(
    config: &Qwen3VlConfig,
    placement: &Placement,
    how: LoadHow<'_>,
    progress: &mut dyn Progress,
) -> Result<Qwen3VlModel, LoadError> {
    check_expert_memory(config, placement, how)?;
    let precision = how.precision;
    let mut model = Qwen3VlModel::placed(config, placement, precision)
        .with_max_buffer(how.buffer_of_layers(placement));
    let sizes = part_sizes(config, how);
    check_parts(placement, &sizes)?;
    let mut maker = Maker {
        placement,
        how,
        values: Values::new(precision.weights),
        path: Vec::new(),
        progress,
        done: 0,
        total: sizes.total(),
    };
    let chosen = match how.rounding {
        Some(rounding) => rounding.choose(&mut model)?,
        None => BTreeSet::new(),
    };
    let scheme = |path: &str| {
        let rounding = how.rounding.filter(|_| chosen.contains(path));
        rounding.map(|rounding| rounding.scheme_of(path))
    };
    if let Some(budget) = how.expert_memory {
        maker.stream(&mut model, budget, &scheme)?;
    }
    maker.place(&mut model, &scheme)?;
    Ok(model.map(&mut maker))
}

/// Puts values into parameters.
struct Maker<'a> {
    placement: &'a Placement,
    how: LoadHow<'a>,
    values: Values,
    /// Where the traversal is.
    path: Vec<String>,
    progress: &'a mut dyn Progress,
    done: u64,
    total: u64,
}

impl Maker<'_> {
    /// Leaves experts on the host that are not on a device which uses them there, with `budget` bytes of them on devices.
    fn stream(
        &mut self,
        model: &mut Qwen3VlModel,
        budget: u64,
        scheme: &dyn Fn(&str) -> Option<QuantScheme>,
    ) -> Result<(), LoadError> {
        let (cache, mut made) = (Arc::new(ExpertCache::new(budget)), HashMap::new());
        let mut bytes = 0;
        for (index, (path, mut weight)) in model.roundable_mut().into_iter().enumerate() {
            let (device, part) = home(self.placement, &path);
            let Roundable::Experts(stack) = &weight else { continue };
            if maps_in_place(device.kind) {
                continue;
            }
            let (shape, scheme) = (stack.shape(), scheme(&path));
            if scheme.is_some() {
                computes_rounded(device, &path, part)?;
            }
            let numbers = match made.entry((shape, scheme)) {
                Entry::Occupied(made) => made.into_mut(),
                Entry::Vacant(place) => place.insert(self.experts(&path, shape, scheme)?),
            };
            let host = numbers.stack(shape, device, self.values.dtype);
            check_budget(host.as_ref(), budget, &path)?;
            let streamed = Streamed::new(host, cache.clone(), index);
            bytes += streamed.bytes();
            weight.stream(streamed);
        }
        self.tell("experts", bytes.min(budget));
        Ok(())
    }

    /// All experts of a layer, `shape [experts, out, in]`.
    fn experts(
        &mut self,
        path: &str,
        shape: [usize; 3],
        scheme: Option<QuantScheme>,
    ) -> Result<MadeUp, LoadError> {
        let [experts, rows, inputs] = shape;
        let Some(scheme) = scheme else {
            // One after the other, so that there is one alone beside those that stay.
            let mut all = Vec::with_capacity(experts * rows * inputs * DType::BF16.size());
            for _ in 0..experts {
                let matrix = self.values.tensor(&[rows, inputs], self.values.dtype);
                all.extend_from_slice(matrix.convert_dtype(DType::BF16).as_bytes());
            }
            return Ok(MadeUp::Plain(HostBytes::from(all)));
        };
        let bytes = |data: TensorData| HostBytes::from(data.as_bytes().to_vec());
        let values = (0..experts).map(|_| self.values.tensor(&[rows, inputs], DType::F32));
        let (codes, scales) = round(path, inputs, values, scheme)?;
        let scales = bytes(scales.convert_dtype(DType::BF16));
        Ok(MadeUp::Codes { codes: bytes(codes), scales, scheme })
    }

    /// Makes the weights that are rounded or split.
    fn place(
        &mut self,
        model: &mut Qwen3VlModel,
        scheme: &dyn Fn(&str) -> Option<QuantScheme>,
    ) -> Result<(), LoadError> {
        for (path, mut weight) in model.roundable_mut() {
            if matches!(&weight, Roundable::Experts(Stack::Streamed(_))) {
                continue;
            }
            let scheme = scheme(&path);
            let (shape, matrices) = (weight.shape(), weight.matrices());
            match (scheme, self.block(&path, &weight, scheme)) {
                (None, None) => continue,
                (Some(scheme), None) => {
                    weight.round(self.rounded(&path, (matrices, shape), scheme)?);
                }
                (scheme, Some(block)) => {
                    weight.split(self.blocks(&path, shape, (scheme, block))?);
                }
            }
            let stored = (shape[0] * shape[1] * self.values.dtype.size()) as u64;
            self.tell(&path, scheme.map_or(stored, |scheme| scheme.matrix_bytes(shape)));
        }
        Ok(())
    }

    /// Rows of each block of a weight that is larger than a buffer.
    fn block(
        &self,
        path: &str,
        weight: &Roundable<'_>,
        scheme: Option<QuantScheme>,
    ) -> Option<usize> {
        let [rows, inputs] = weight.shape();
        let row = scheme.map_or(inputs * self.values.dtype.size(), |s| s.row_bytes(inputs));
        let limit = self.how.buffer_of(home(self.placement, path).0).filter(|_| weight.is_matrix());
        block_rows(rows, (rows * row) as u64, limit?)
    }

    /// Blocks of `block` rows.
    fn blocks(
        &mut self,
        path: &str,
        [rows, inputs]: [usize; 2],
        (scheme, block): (Option<QuantScheme>, usize),
    ) -> Result<Vec<Weight>, LoadError> {
        let made = |range: Range<usize>| {
            let shape = [range.len(), inputs];
            Ok(match scheme {
                Some(scheme) => Weight::Quantised(self.rounded(path, (1, shape), scheme)?),
                None => Weight::Dense(Param::from_tensor(self.dense(path, shape))),
            })
        };
        ranges(rows, block).map(made).collect()
    }

    fn dense(&mut self, path: &str, shape: [usize; 2]) -> Tensor<2> {
        let dtype = self.values.dtype;
        let data = self.values.tensor(&shape, dtype);
        Tensor::from_data(data, (&home(self.placement, path).0.device, dtype))
    }

    /// A weight of `matrices` matrices with `rows` rows in all.
    fn rounded(
        &mut self,
        path: &str,
        (matrices, [rows, inputs]): (usize, [usize; 2]),
        scheme: QuantScheme,
    ) -> Result<Quantised, LoadError> {
        let (device, part) = home(self.placement, path);
        computes_rounded(device, path, part)?;
        let matrix = [rows / matrices.max(1), inputs];
        let values = (0..matrices).map(|_| self.values.tensor(&matrix, DType::F32));
        let rounded = round(path, inputs, values, scheme)?;
        let place = (&device.device, scales_dtype(device));
        Ok(placed(rounded, (scheme, inputs), place))
    }

    fn tell(&mut self, path: &str, bytes: u64) {
        self.done += bytes;
        self.progress.tensor(path, self.done.min(self.total), self.total);
    }
}

impl ModuleMapper for Maker<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // Vectors stay what they are when a model is new; scales of rounded weights and blocks of split ones are there already.
        if D < 2 || param.is_initialized() {
            return param;
        }
        let dtype = self.values.dtype;
        let data = self.values.tensor(&param.lazy_shape().to_vec(), dtype);
        let path = self.path.join(".");
        self.tell(&path, data.bytes().len() as u64);
        let device = &home(self.placement, &path).0.device;
        let id = param.id;
        param.transform_for_load(Tensor::from_data(data, (device, dtype)), id)
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

/// Numbers that were drawn once, as bytes.
struct Values {
    dtype: DType,
    /// In `dtype`.
    stored: Vec<u8>,
    /// In f32.
    exact: Vec<u8>,
    /// Where the next tensor begins.
    next: usize,
}

impl Values {
    fn new(dtype: DType) -> Self {
        let drawn = TensorData::new(normal(DRAWN), [DRAWN]);
        let bytes = |dtype| drawn.clone().convert_dtype(dtype).bytes().to_vec();
        Self { dtype, stored: bytes(dtype), exact: bytes(DType::F32), next: 0 }
    }

    /// A tensor of `shape` in f32 or in the dtype of these values.
    fn tensor(&mut self, shape: &[usize], dtype: DType) -> TensorData {
        let drawn = if dtype == self.dtype { &self.stored } else { &self.exact };
        let count: usize = shape.iter().product();
        let (before, after) = drawn.split_at(self.next * dtype.size());
        // Zeros are pages that nobody has touched yet, so that each thread makes its own.
        let mut bytes = vec![0; count * dtype.size()];
        bytes.par_chunks_mut(drawn.len()).for_each(|chunk| {
            let (first, second) = chunk.split_at_mut(chunk.len().min(after.len()));
            first.copy_from_slice(&after[..first.len()]);
            second.copy_from_slice(&before[..second.len()]);
        });
        self.next = (self.next + count) % DRAWN;
        TensorData::from_bytes_vec(bytes, shape.to_vec(), dtype)
    }
}

/// `count` numbers of deviation [`DEVIATION`], the same in every run.
fn normal(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    // The sum of twelve has a variance of 1.
    (0..count).map(|_| DEVIATION * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::ModuleVisitor;
    use qwen3_vl_backends::{Precision, device};

    use crate::rounding::Rounding;

    fn config() -> Qwen3VlConfig {
        Qwen3VlConfig::from_json(
            r#"{"model_type":"qwen3_vl","tie_word_embeddings":true,"image_token_id":1,"video_token_id":2,
              "vision_start_token_id":3,"vision_end_token_id":4,
              "text_config":{"vocab_size":300,"hidden_size":64,"num_attention_heads":2,"num_key_value_heads":1,
                "head_dim":32,"num_hidden_layers":2,"intermediate_size":96,
                "rope_scaling":{"rope_type":"default","mrope_section":[6,5,5]}},
              "vision_config":{"depth":2,"hidden_size":32,"intermediate_size":64,"num_heads":2,"out_hidden_size":64,
                "num_position_embeddings":16,"deepstack_visual_indexes":[0]}}"#,
        )
        .unwrap()
    }

    fn made(rounding: Option<&Rounding>) -> (Qwen3VlModel, u64) {
        made_as(LoadHow::new(Precision::F32, rounding))
    }

    fn made_as(how: LoadHow<'_>) -> (Qwen3VlModel, u64) {
        struct Last(u64, u64);
        impl Progress for Last {
            fn tensor(&mut self, _: &str, done: u64, total: u64) {
                (self.0, self.1) = (done, total);
            }
        }
        let device = device::open("cpu").unwrap();
        let (config, mut last) = (config(), Last(0, 0));
        let placement = Placement::whole(&device, config.text.layers);
        let model = random_model(&config, &placement, how, &mut last);
        assert!(last.0 > last.1 * 9 / 10, "{} of {} bytes", last.0, last.1);
        (model.unwrap(), last.1)
    }

    /// Mean and deviation of all matrices.
    #[derive(Default)]
    struct Moments {
        count: f64,
        sum: f64,
        squares: f64,
    }

    impl ModuleVisitor for Moments {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D < 2 {
                return;
            }
            assert!(param.is_initialized());
            for value in param.val().into_data().iter::<f64>() {
                self.count += 1.0;
                self.sum += value;
                self.squares += value * value;
            }
        }
    }

    #[test]
    fn matrices_are_normal_and_no_two_rows_are_alike() {
        let (model, _) = made(None);
        let mut moments = Moments::default();
        model.visit(&mut moments);
        let deviation = (moments.squares / moments.count).sqrt();
        assert!((moments.sum / moments.count).abs() < 1e-3, "{}", moments.sum / moments.count);
        assert!((deviation - 0.02).abs() < 1e-3, "{deviation}");
        let table = model.language_model.embed_tokens.weight.values().into_data();
        let table = table.try_to_vec::<f32>().unwrap();
        let rows: BTreeSet<Vec<u32>> =
            table.chunks(64).map(|row| row.iter().map(|v| v.to_bits()).collect()).collect();
        assert_eq!(rows.len(), 300);
        let again = made(None).0.language_model.embed_tokens.weight.values().into_data();
        assert_eq!(again.try_to_vec::<f32>().unwrap(), table);
    }

    #[test]
    fn linear_weights_are_rounded_as_they_are_made() {
        let rounding = Rounding::new("int4".parse().unwrap());
        let (mut model, rounded) = made(Some(&rounding));
        let schemes = model
            .roundable_mut()
            .into_iter()
            .map(|(path, weight)| (path.starts_with("language_model.layers."), weight.scheme()));
        for (text, scheme) in schemes {
            assert_eq!(scheme, text.then_some(rounding.scheme));
        }
        assert!(rounded < made(None).1);
    }

    #[test]
    fn what_is_larger_than_a_buffer_is_split() {
        let mut rounding = Rounding::new("int8".parse().unwrap());
        rounding.include = vec!["embed_tokens".into()];
        for (rounding, limit) in [(None, 35_000), (Some(&rounding), 9_000)] {
            let how = LoadHow { max_buffer: Some(limit), ..LoadHow::new(Precision::F32, rounding) };
            let table = made_as(how).0.language_model.embed_tokens.weight;
            assert_eq!((table.shape()[0], table.scheme().is_some()), (300, rounding.is_some()));
            let rows = |weight: &Weight| weight.shape()[0];
            assert_eq!(table.blocks().iter().map(rows).collect::<Vec<_>>(), [128, 128, 44]);
        }
    }
}
