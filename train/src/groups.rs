//! Parts of the model that are trained or frozen together.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use qwen3_vl_model::Qwen3VlModel;
use serde::{Deserialize, Serialize};

use crate::config::{TrainGroups, Training};

/// A part of the model. Every parameter belongs to exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The vision tower without its mergers.
    Vision,
    /// The merger and the DeepStack mergers.
    Merger,
    /// The layers of the language model and its final norm.
    Llm,
    /// The embedding table; it is the head too where the two are tied.
    Embed,
    /// An untied head.
    Head,
}

impl Group {
    /// All groups, in the order of the model.
    pub const ALL: [Self; 5] = [Self::Vision, Self::Merger, Self::Llm, Self::Embed, Self::Head];

    /// Its name in configurations and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Merger => "merger",
            Self::Llm => "llm",
            Self::Embed => "embed",
            Self::Head => "head",
        }
    }

    /// Its key in a configuration.
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Vision => "train.vision",
            Self::Merger => "train.merger",
            Self::Llm => "train.llm",
            Self::Embed => "train.embed",
            Self::Head => "train.head",
        }
    }

    /// The group of the parameter at module path `path`.
    pub fn of(path: &str) -> Self {
        match path {
            _ if path.starts_with("visual.merger.") => Self::Merger,
            _ if path.starts_with("visual.deepstack_merger_list.") => Self::Merger,
            _ if path.starts_with("visual.") => Self::Vision,
            _ if path.starts_with("lm_head.") => Self::Head,
            _ if path.contains("embed_tokens") => Self::Embed,
            _ => Self::Llm,
        }
    }
}

/// One parameter of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Module path, such as `language_model.layers.0.mlp.up_proj.weight`.
    pub path: String,
    pub id: ParamId,
    pub shape: Vec<usize>,
    pub group: Group,
}

impl Parameter {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it belongs to a side path.
    pub fn is_lora(&self) -> bool {
        self.path.ends_with(".lora.a") || self.is_lora_b()
    }

    /// Whether it is the `B` of a side path.
    pub fn is_lora_b(&self) -> bool {
        self.path.ends_with(".lora.b")
    }

    /// Whether weight decay pulls on it: matrices yes, biases and the scales of norms no.
    pub fn decays(&self) -> bool {
        self.shape.len() > 1
    }
}

/// How many parameters a group has, and how they are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupCount {
    pub group: Group,
    pub training: Training,
    /// Without side paths.
    pub all: u64,
    /// Of side paths; with LoRA, these alone are trained.
    pub lora: u64,
}

impl GroupCount {
    /// Counts `group` in a list of all parameters.
    pub fn new(group: Group, list: &[Parameter], train: &TrainGroups) -> Self {
        let count = |lora: bool| {
            let of_group = list.iter().filter(|p| p.group == group && p.is_lora() == lora);
            of_group.map(|parameter| parameter.len() as u64).sum()
        };
        Self { group, training: train.of(group), all: count(false), lora: count(true) }
    }

    /// Parameters that are trained.
    pub fn trained(&self) -> u64 {
        match self.training {
            Training::Frozen => 0,
            Training::Full => self.all,
            Training::Lora => self.lora,
        }
    }
}

/// All parameters of a model, in order of traversal.
pub fn parameters(model: &Qwen3VlModel) -> Vec<Parameter> {
    let mut list = List::default();
    model.visit(&mut list);
    list.found
}

#[derive(Default)]
struct List {
    path: Vec<String>,
    found: Vec<Parameter>,
}

impl ModuleVisitor for List {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let (shape, group) = (param.lazy_shape().to_vec(), Group::of(&path));
        self.found.push(Parameter { path, id: param.id, shape, group });
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}
