//! An adapter on a model: side paths beside weights, and whole parameters in the place of others.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::lora::Lora;
use qwen3_vl_model::roundable::Roundable;
use qwen3_vl_model::weight::Weight;

use super::{Adapter, AdapterError};
use crate::load::split::rows_of;

const EMBEDDING: &str = "language_model.embed_tokens.weight";

impl Adapter {
    /// The model with this adapter: each pair becomes a side path in f32, in place of one that is there already, and
    /// weights stay as they are.
    ///
    /// # Errors
    /// As [`Self::check`], and when a pair belongs to a layer that has no side path (such as the head), or an embedding
    /// table is saved that is the head too.
    pub fn attach(&self, mut model: Qwen3VlModel) -> Result<Qwen3VlModel, AdapterError> {
        self.check(&model)?;
        if model.lm_head.is_none() && self.saved.contains_key(EMBEDDING) {
            return Err(AdapterError::Tied { module: EMBEDDING.to_owned() });
        }
        let mut weights = model.roundable_mut().into_iter();
        if let Some((path, _)) = weights
            .find(|(path, weight)| weight.scheme().is_some() && self.saved.contains_key(path))
        {
            let module = path.strip_suffix(".weight").unwrap_or(&path).to_owned();
            return Err(AdapterError::Quantised { module });
        }
        for (path, weight) in model.roundable_mut() {
            if let (Roundable::Matrix(weight), Some(data)) = (weight, self.saved.get(&path)) {
                replace_blocks(weight, data);
            }
        }
        let mut linears: BTreeMap<_, _> = model.linears_mut().into_iter().collect();
        for (module, pair) in &self.pairs {
            let scale = self.scale(module);
            let (Some(linear), Some(scale)) = (linears.get_mut(module), scale) else {
                return Err(AdapterError::NoPath { module: module.clone() });
            };
            let device = linear.weight.device().without_autodiff();
            let tensor = |data: &TensorData| Tensor::from_data(data.clone(), (&device, DType::F32));
            let [a, b] = [&pair.a, &pair.b].map(tensor);
            linear.lora = Some(Lora::new(a, b, scale));
        }
        Ok(model.map(&mut Replace { saved: &self.saved, path: Vec::new() }))
    }
}

/// Puts a saved matrix, which was checked, in the place of one that lies in several buffers; others have a path of their own.
fn replace_blocks(weight: &mut Weight, data: &TensorData) {
    if weight.blocks().len() == 1 {
        return;
    }
    let (mut first, [rows, _]) = (0, weight.shape());
    let blocks = weight.blocks().iter().map(|block| {
        let start = first;
        first += block.shape()[0];
        let (data, old) = (rows_of(data, rows, start..first), block.values());
        let new = Tensor::from_data(data, (&old.device(), old.dtype()));
        Weight::Dense(Param::from_tensor(new))
    });
    *weight = Weight::of_blocks(blocks.collect());
}

/// Puts saved parameters, which were checked, in their places and dtypes.
struct Replace<'a> {
    saved: &'a BTreeMap<String, TensorData>,
    path: Vec<String>,
}

impl ModuleMapper for Replace<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.saved.get(&self.path.join(".")) else { return param };
        let old = param.val();
        let bytes = data.as_bytes().to_vec();
        let data = TensorData::from_bytes_vec(bytes, old.dims().to_vec(), data.dtype());
        Param::initialized(param.id, Tensor::from_data(data, (&old.device(), old.dtype())))
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}
