//! The mixture-of-experts feed-forward part.

use burn::module::{Module, Param};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{DType, IndexingUpdateOp, Tensor, TensorData};
use qwen3_vl_backends::ops;

use crate::config::MoeConfig;
use crate::init::Init;
use crate::linear::Linear;
use crate::pack::index_tensor;
use crate::probe::Probe;

/// HF `Qwen3VLMoeTextSparseMoeBlock`.
#[derive(Module, Debug)]
pub struct MoeBlock {
    /// The router, `[experts, hidden]`.
    pub gate: Linear,
    pub experts: Experts,
    experts_per_token: usize,
}

/// HF `Qwen3VLMoeTextExperts`, in the orientation of transformers 5.
#[derive(Module, Debug)]
pub struct Experts {
    /// `[experts, 2 · inner, hidden]`: gate rows first, then up rows.
    pub gate_up_proj: Param<Tensor<3>>,
    /// `[experts, hidden, inner]`.
    pub down_proj: Param<Tensor<3>>,
}

/// Which experts each row goes to, and with which weight. The choice is made on the host, which reads the router's
/// logits back once; the weights stay on the device, where gradients flow through them.
struct Routing {
    /// `[rows][experts_per_token]`, best first.
    experts: Vec<Vec<usize>>,
    /// `[rows · experts_per_token, 1]` in f32.
    weights: Tensor<2>,
}

impl MoeBlock {
    pub(super) fn new(hidden: usize, config: &MoeConfig, init: &Init) -> Self {
        let (experts, inner) = (config.experts, config.intermediate_size);
        Self {
            gate: Linear::new(hidden, experts, init),
            experts: Experts {
                gate_up_proj: init.normal([experts, 2 * inner, hidden]),
                down_proj: init.normal([experts, hidden, inner]),
            },
            experts_per_token: config.experts_per_token,
        }
    }

    /// `x [rows, hidden]`, same shape out.
    pub(super) fn forward(&self, x: Tensor<2>, layer: usize, probe: &mut Probe) -> Tensor<2> {
        let logits = self.gate.forward(x.clone());
        probe.record(format!("router_logits.{layer}"), &logits);
        probe.keep_router(&logits);
        let routing = Routing::new(logits, self.experts_per_token);
        routing.record(layer, probe);
        let mut out = x.zeros_like();
        for expert in 0..self.experts.gate_up_proj.dims()[0] {
            let (rows, places) = routing.rows_of(expert);
            if !rows.is_empty() {
                let index = |values| index_tensor(values, &x.device().without_autodiff());
                let rows = index(rows);
                let weights = routing.weights.clone().select(0, index(places)).cast(x.dtype());
                let y = self.experts.forward(x.clone().select(0, rows.clone()), expert) * weights;
                out = out.select_assign(0, rows, y, IndexingUpdateOp::Add);
            }
        }
        out
    }
}

impl Experts {
    /// One expert's SwiGLU on the rows routed to it.
    fn forward(&self, x: Tensor<2>, expert: usize) -> Tensor<2> {
        let weight =
            |param: &Param<Tensor<3>>| param.val().narrow(0, expert, 1).squeeze_dim::<2>(0);
        let gate_up = ops::linear(x, weight(&self.gate_up_proj));
        let inner = gate_up.dims()[1] / 2;
        let gate = silu(gate_up.clone().narrow(1, 0, inner));
        ops::linear(gate * gate_up.narrow(1, inner, inner), weight(&self.down_proj))
    }
}

impl Routing {
    /// Softmax over all experts in f32, the best `k`, divided by their sum (whatever `norm_topk_prob` says).
    fn new(logits: Tensor<2>, k: usize) -> Self {
        let [rows, experts] = logits.dims();
        let logits = logits.cast(DType::F32);
        let data = logits.to_data();
        let values = data.try_to_vec::<f32>().expect("logits read back as f32");
        let best = |row: &[f32]| {
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            order.truncate(k);
            order
        };
        let chosen: Vec<Vec<usize>> = values.chunks(experts).map(best).collect();
        let columns = chosen.iter().flatten().map(|expert| *expert as i64).collect();
        let columns = index_tensor(columns, &logits.device().without_autodiff());
        // Softmax over the chosen logits alone is softmax over all of them, divided by the chosen share.
        let weights = softmax(logits.gather(1, columns.reshape([rows, k])), 1);
        Self { experts: chosen, weights: weights.reshape([rows * k, 1]) }
    }

    /// The rows that go to `expert`, and where their weights are.
    fn rows_of(&self, expert: usize) -> (Vec<i64>, Vec<i64>) {
        let k = self.experts.first().map_or(0, Vec::len);
        let chosen = self.experts.iter().enumerate().flat_map(|(row, choices)| {
            let rank = choices.iter().position(|index| *index == expert);
            rank.map(|rank| (row as i64, (row * k + rank) as i64))
        });
        chosen.unzip()
    }

    fn record(&self, layer: usize, probe: &mut Probe) {
        if !probe.is_on() {
            return;
        }
        let shape = [self.experts.len(), self.experts.first().map_or(0, Vec::len)];
        let index: Vec<f32> = self.experts.iter().flatten().map(|expert| *expert as f32).collect();
        let index = Tensor::<2>::from_data(
            TensorData::new(index, shape),
            (&self.weights.device(), DType::F32),
        );
        probe.record(format!("router_index.{layer}"), &index);
        probe.record(format!("router_weights.{layer}"), &self.weights.clone().reshape(shape));
    }
}
