//! Which parameters are trained.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor};
use qwen3_vl_model::Qwen3VlModel;

use crate::groups::{Parameter, parameters};

/// The model with gradients on the parameters that `trained` chooses, which are held in f32, and none on the others,
/// which keep their dtype.
pub fn trainable(model: Qwen3VlModel, trained: impl Fn(&Parameter) -> bool) -> Qwen3VlModel {
    let chosen: Vec<bool> = parameters(&model).iter().map(trained).collect();
    model.map(&mut Mark { chosen: chosen.into_iter() })
}

struct Mark {
    chosen: std::vec::IntoIter<bool>,
}

impl ModuleMapper for Mark {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value) = (param.id, param.val().inner());
        match self.chosen.next().expect("one flag per parameter, in the same order") {
            true => Param::initialized(id, value.cast(DType::F32).autodiff().require_grad()),
            false => Param::initialized(id, value),
        }
    }
}
