//! Where steps are recorded, and how much memory that takes.

use burn::tensor::DType;
use qwen3_vl_backends::device::lost;
use qwen3_vl_backends::graph::graphs_on;
use qwen3_vl_backends::ops::kernels_on;
use qwen3_vl_backends::threads::is_processor;
use qwen3_vl_backends::{BackendKind, Placement};

use super::lane;
use crate::cache::{KvCache, KvDtype};
use crate::config::TextConfig;
use crate::model::Qwen3VlModel;

/// Bytes of keys and values of so many sequences and tokens of each.
pub(super) fn bytes(model: &Qwen3VlModel, lanes: usize, slots: usize) -> u64 {
    let (config, compute) = (&model.config().text, model.precision().compute);
    let token = KvCache::bytes_per_token(config, compute, KvDtype::Auto);
    token.saturating_mul(lanes.saturating_mul(slots) as u64)
}

/// The most bytes that keys and values of recorded steps take, beside the cache of one session, while an answer of `answer` tokens
/// to a prompt of `prompt` is written; 0 where steps are never recorded: on processors and on devices of other machines, in maps,
/// and where the cache has another dtype than the computation.
pub fn recorded_bytes(
    config: &TextConfig,
    placement: &Placement,
    (compute, storage): (DType, KvDtype),
    [prompt, answer]: [usize; 2],
) -> u64 {
    let kind = placement.embed.kind;
    let on_card = !kind.is_cpu() && kind != BackendKind::Remote && placement.is_whole();
    if !(graphs_on() && kernels_on() && on_card && storage.is_plain(compute)) {
        return 0;
    }
    let slots = lane::most_slots(prompt, answer) as u64;
    slots.saturating_mul(KvCache::bytes_per_token(config, compute, KvDtype::Auto))
}

impl Qwen3VlModel {
    /// Whether all of it is on one device, which holds keys and values as it computes with them.
    pub(super) fn runs_on_fixed_buffers(&self) -> bool {
        let compute = self.precision().compute;
        let plain = self.cache_dtype().is_plain(compute);
        let tracked = self.language_model.embed_tokens.weight.device().is_autodiff();
        plain && !tracked && self.placement().is_none()
    }

    /// Whether steps of so many answers are recorded and replayed where their options allow it: on cards, when a step is launched
    /// without the host having to know what the layers find; of experts not in steps of more than 128 answers.
    /// [`qwen3_vl_backends::graph::GRAPH_VARIABLE`] turns that off.
    pub fn records_steps(&self, answers: usize) -> bool {
        let (device, rows) = (self.device(), answers.next_power_of_two());
        let on_card = !is_processor(&device) && !lost::is_remote(&device);
        let alone = self.language_model.layers.iter().all(|layer| layer.can_be_recorded(rows));
        graphs_on() && kernels_on() && on_card && alone && self.runs_on_fixed_buffers()
    }
}
