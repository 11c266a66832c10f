//! LoRA: a low-rank path beside a linear layer whose weight stays as it is.

use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use qwen3_vl_backends::ops;

use crate::linear::Linear;
use crate::model::Qwen3VlModel;
use crate::stack::Stack;
use crate::text::TextLayer;
use crate::vision::VisionTower;

/// The side path `scale · (x·Aᵀ)·Bᵀ` (Hu et al. 2021). No matrix of the weight's size is made.
#[derive(Module, Debug)]
pub struct Lora {
    /// `[rank, in]`.
    pub a: Param<Tensor<2>>,
    /// `[out, rank]`.
    pub b: Param<Tensor<2>>,
    scale: f64,
}

impl Lora {
    /// A side path with `a [rank, in]` and `b [out, rank]`, both in the dtype that it computes in.
    pub fn new(a: Tensor<2>, b: Tensor<2>, scale: f64) -> Self {
        let param = |value| Param::initialized(ParamId::new(), value);
        Self { a: param(a), b: param(b), scale }
    }

    /// What `B·A` is multiplied by: `alpha / rank`, or with rsLoRA `alpha / √rank` (Kalajdzievski 2023).
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// `x [n, in] -> [n, out]` in the dtype of `A`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let a = self.a.val();
        let inner = ops::linear(x.cast(a.dtype()), a) * self.scale;
        ops::linear(inner, self.b.val())
    }

    /// What the path adds to the weight, `scale · B·A`, `[out, in]`.
    pub fn update(&self) -> Tensor<2> {
        self.b.val().matmul(self.a.val()) * self.scale
    }

    /// `count` rows of [`Self::update`] from row `first` on.
    pub(crate) fn update_of(&self, first: usize, count: usize) -> Tensor<2> {
        self.b.val().narrow(0, first, count).matmul(self.a.val()) * self.scale
    }
}

impl Qwen3VlModel {
    /// The linear layers that may have a side path, by module path: those of vision blocks, mergers and text layers,
    /// in the order of the model. Head, router, experts and patch embedding are none.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        layers(&mut self.visual, &mut self.language_model.layers).linears
    }
}

/// What many weights are in, by module path, in the order of the model.
pub(crate) struct Layers<'m> {
    pub linears: Vec<(String, &'m mut Linear)>,
    /// The weights of experts, by path of the parameter.
    pub experts: Vec<(String, &'m mut Stack)>,
}

/// Those of vision blocks, mergers and text layers.
pub(crate) fn layers<'m>(visual: &'m mut VisionTower, text: &'m mut [TextLayer]) -> Layers<'m> {
    let (mut linears, mut experts) = (of_vision(visual), Vec::new());
    for (index, layer) in text.iter_mut().enumerate() {
        let path = |name: &str| format!("language_model.layers.{index}.{name}");
        linears.push((path("self_attn.q_proj"), &mut layer.self_attn.q_proj));
        linears.push((path("self_attn.k_proj"), &mut layer.self_attn.k_proj));
        linears.push((path("self_attn.v_proj"), &mut layer.self_attn.v_proj));
        linears.push((path("self_attn.o_proj"), &mut layer.self_attn.o_proj));
        if let Some(mlp) = &mut layer.mlp {
            linears.push((path("mlp.gate_proj"), &mut mlp.gate_proj));
            linears.push((path("mlp.up_proj"), &mut mlp.up_proj));
            linears.push((path("mlp.down_proj"), &mut mlp.down_proj));
        }
        if let Some(moe) = &mut layer.moe {
            experts.push((path("moe.experts.gate_up_proj"), &mut moe.experts.gate_up_proj));
            experts.push((path("moe.experts.down_proj"), &mut moe.experts.down_proj));
        }
    }
    Layers { linears, experts }
}

fn of_vision(visual: &mut VisionTower) -> Vec<(String, &mut Linear)> {
    let mut found = Vec::new();
    for (index, block) in visual.blocks.iter_mut().enumerate() {
        let path = |name: &str| format!("visual.blocks.{index}.{name}");
        found.push((path("attn.qkv"), &mut block.attn.qkv));
        found.push((path("attn.proj"), &mut block.attn.proj));
        found.push((path("mlp.linear_fc1"), &mut block.mlp.linear_fc1));
        found.push((path("mlp.linear_fc2"), &mut block.mlp.linear_fc2));
    }
    let main = [("visual.merger".to_owned(), &mut visual.merger)];
    let levels = visual.deepstack_merger_list.iter_mut().enumerate();
    let levels = levels.map(|(i, m)| (format!("visual.deepstack_merger_list.{i}"), m));
    for (path, merger) in main.into_iter().chain(levels) {
        found.push((format!("{path}.linear_fc1"), &mut merger.linear_fc1));
        found.push((format!("{path}.linear_fc2"), &mut merger.linear_fc2));
    }
    found
}
