//! The mixture-of-experts feed-forward part.

use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use qwen3_vl_backends::ops;

use crate::config::MoeConfig;
use crate::init::Init;
use crate::linear::Linear;
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

/// Which experts each row goes to. Routing is decided on the host: it reads the router's logits back once.
struct Routing {
    /// `[rows][experts_per_token]`, best first.
    experts: Vec<Vec<(usize, f32)>>,
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
        let routing = Routing::new(logits, self.experts_per_token);
        routing.record(layer, probe, &x.device());
        let mut out = x.zeros_like();
        for expert in 0..self.experts.gate_up_proj.dims()[0] {
            let (rows, weights) = routing.rows_of(expert);
            if !rows.is_empty() {
                out = self.add_expert(out, &x, expert, Share { rows, weights });
            }
        }
        out
    }

    fn add_expert(&self, out: Tensor<2>, x: &Tensor<2>, expert: usize, share: Share) -> Tensor<2> {
        let device = x.device();
        let count = share.rows.len();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(share.rows, [count]), &device);
        let weights = TensorData::new(share.weights, [count, 1]);
        let weights = Tensor::<2>::from_data(weights, (&device, DType::F32)).cast(x.dtype());
        let y = self.experts.forward(x.clone().select(0, rows.clone()), expert) * weights;
        out.select_assign(0, rows, y, IndexingUpdateOp::Add)
    }
}

/// The rows of one expert and their router weights.
struct Share {
    rows: Vec<i64>,
    weights: Vec<f32>,
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
        let data = logits.into_data_dtype(DType::F32);
        let logits = data.try_to_vec::<f32>().expect("logits read back as f32");
        let best = |row: &[f32]| {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exp: Vec<f32> = row.iter().map(|logit| (logit - top).exp()).collect();
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|a, b| exp[*b].total_cmp(&exp[*a]));
            order.truncate(k);
            let sum: f32 = order.iter().map(|expert| exp[*expert]).sum();
            order.into_iter().map(|expert| (expert, exp[expert] / sum)).collect()
        };
        let experts = logits.chunks(experts).map(best).collect::<Vec<_>>();
        debug_assert_eq!(experts.len(), rows);
        Self { experts }
    }

    fn rows_of(&self, expert: usize) -> (Vec<i64>, Vec<f32>) {
        let chosen = self.experts.iter().enumerate().flat_map(|(row, choices)| {
            let mine = choices.iter().filter(move |(index, _)| *index == expert);
            mine.map(move |(_, weight)| (row as i64, *weight))
        });
        chosen.unzip()
    }

    fn record(&self, layer: usize, probe: &mut Probe, device: &Device) {
        if !probe.is_on() {
            return;
        }
        let shape = [self.experts.len(), self.experts.first().map_or(0, Vec::len)];
        let flat = || self.experts.iter().flatten();
        let index: Vec<f32> = flat().map(|(expert, _)| *expert as f32).collect();
        let weights: Vec<f32> = flat().map(|(_, weight)| *weight).collect();
        for (name, values) in [("index", index), ("weights", weights)] {
            let data = TensorData::new(values, shape);
            let tensor = Tensor::<2>::from_data(data, (device, DType::F32));
            probe.record(format!("router_{name}.{layer}"), &tensor);
        }
    }
}
