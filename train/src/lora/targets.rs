//! From the names of targets to linear layers.

use qwen3_vl_backends::{Precision, device};
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::config::Qwen3VlConfig;
use qwen3_vl_model::init::Init;
use qwen3_vl_model::linear::Linear;
use qwen3_vl_weights::names::stored_name;

use super::{Layer, LoraError};
use crate::config::{TrainGroups, Training};
use crate::groups::Group;

/// Parts of the model: name, group, and what the path of a layer in it contains.
const PARTS: [(&str, Group, &str); 7] = [
    ("vision", Group::Vision, "."),
    ("vision.attention", Group::Vision, ".attn."),
    ("vision.mlp", Group::Vision, ".mlp."),
    ("merger", Group::Merger, "."),
    ("llm", Group::Llm, "."),
    ("llm.attention", Group::Llm, ".self_attn."),
    ("llm.mlp", Group::Llm, ".mlp."),
];

/// Every layer of the groups with LoRA, as peft calls it.
const EVERY: &str = "all-linear";

/// What has a weight, and yet no side path: endings of names, and why.
const UNSUPPORTED: [(&[&str], &str); 4] = [
    (
        &["experts", "gate_up_proj", "llm.experts"],
        "experts are fused weights, not linear layers, and are not supported; name `llm.attention`",
    ),
    (
        &["gate", "router", "llm.router"],
        "the router of experts is not supported; `gate_proj` is the layer of a dense feed-forward part",
    ),
    (
        &["lm_head", "head", "embed_tokens", "embed"],
        "the embedding table and the head are trained whole or not at all: `train = { embed = true, head = true }`",
    ),
    (
        &["patch_embed", "patch_embed.proj", "pos_embed"],
        "the patch embedding is a convolution and the positions are a table, which are not supported",
    ),
];

const EXPERTS: &str = "feed-forward parts of this model are mixtures of experts, which are not supported; name `llm.attention`";

/// A linear layer with its group, its name in transformers, and whether a target chose it.
struct Candidate {
    layer: Layer,
    group: Group,
    name: String,
    chosen: bool,
}

impl Candidate {
    /// Whether `target` means this layer: a part of the model, or a name or its ending as in peft.
    fn is(&self, target: &str) -> bool {
        match PARTS.iter().find(|(name, ..)| *name == target) {
            Some((_, group, part)) => self.group == *group && self.layer.path.contains(part),
            None => target == EVERY || ends_with(&self.name, target),
        }
    }
}

fn ends_with(name: &str, ending: &str) -> bool {
    name.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The layers of a model while targets choose among them.
pub(super) struct Choice<'c> {
    candidates: Vec<Candidate>,
    groups: &'c TrainGroups,
    /// Whether some layer has experts.
    experts: bool,
}

impl<'c> Choice<'c> {
    /// All layers of a model of this shape.
    pub fn new(groups: &'c TrainGroups, shape: &Qwen3VlConfig) -> Self {
        // Parameters are lazy, and nobody asks for these.
        let cpu = device::open("cpu").or_else(|_| device::select(None));
        let device = cpu.map(|selected| selected.device).unwrap_or_default();
        let mut model = Qwen3VlModel::new(shape, &Init::new(&device, Precision::F32));
        let experts = model.language_model.layers.iter().any(|layer| layer.moe.is_some());
        let layers = model.linears_mut().into_iter().zip(0u64..);
        let candidate = |((path, linear), place): ((String, &mut Linear), u64)| {
            let [outputs, inputs] = linear.weight.shape();
            let parameter = format!("{path}.weight");
            let name = stored_name(&parameter).map(|(name, _)| name).unwrap_or(parameter);
            let name = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
            let group = Group::of(&path);
            Candidate { layer: Layer { path, place, outputs, inputs }, group, name, chosen: false }
        };
        Self { candidates: layers.map(candidate).collect(), groups, experts }
    }

    /// Chooses the layers that `target` means, in the groups with LoRA.
    pub fn add(&mut self, target: &str) -> Result<(), LoraError> {
        let refused = |reason| Err(LoraError::Unsupported { target: target.to_owned(), reason });
        if let Some((_, reason)) =
            UNSUPPORTED.iter().find(|(names, _)| names.iter().any(|name| ends_with(target, name)))
        {
            return refused(*reason);
        }
        let dense =
            ["gate_proj", "up_proj", "down_proj"].iter().any(|name| ends_with(target, name));
        let (mut elsewhere, mut found) = (None, false);
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.is(target)) {
            match self.groups.of(candidate.group) {
                Training::Lora => (candidate.chosen, found) = (true, true),
                _ => elsewhere = Some(candidate.group),
            }
        }
        match elsewhere {
            _ if self.experts && target == "llm.mlp" => refused(EXPERTS),
            _ if found => Ok(()),
            Some(group) => Err(LoraError::Group { target: target.to_owned(), group }),
            None if self.experts && dense => refused(EXPERTS),
            None => Err(self.unknown(target)),
        }
    }

    /// The chosen layers; all of the groups with LoRA where no target was named.
    pub fn finish(mut self) -> Result<Vec<Layer>, LoraError> {
        if !self.candidates.iter().any(|candidate| candidate.chosen) {
            self.add(EVERY)?;
        }
        for group in self.groups.with(Training::Lora) {
            if !self.candidates.iter().any(|c| c.chosen && c.group == group) {
                return Err(LoraError::Untouched { group });
            }
        }
        let chosen = self.candidates.into_iter().filter(|candidate| candidate.chosen);
        Ok(chosen.map(|candidate| candidate.layer).collect())
    }

    fn unknown(&self, target: &str) -> LoraError {
        let parts = PARTS.iter().map(|(name, ..)| *name).chain([EVERY]);
        let layers = self.candidates.iter().flat_map(|candidate| {
            let last = candidate.name.rsplit('.').next().unwrap_or_default();
            [last, candidate.name.as_str()]
        });
        let likeness = |name: &&str| strsim::normalized_levenshtein(target, name);
        let nearest = parts.chain(layers).max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let nearest = nearest.filter(|name| likeness(name) > 0.5).map(str::to_owned);
        LoraError::Unknown { target: target.to_owned(), nearest }
    }
}
