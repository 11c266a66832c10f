//! The mixture-of-experts feed-forward part.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, IndexingUpdateOp, Tensor, TensorData};
use qwen3_vl_backends::device::lost;
use qwen3_vl_backends::ops::{self, RoundedStack, Share};
use qwen3_vl_backends::threads::is_processor;

use crate::config::MoeConfig;
use crate::experts;
use crate::init::Init;
use crate::linear::Linear;
use crate::pack::index_tensor;
use crate::probe::Probe;
use crate::stack::Stack;
use crate::weight::Quantised;

/// Most rows that go to experts without the host on another machine, which copies the matrices of the experts of each row; but
/// reading the routes is a journey.
const ROWS_FAR_AWAY: usize = 4;

/// Most rows of a step that is recorded. Longer ones ask nothing of the host either, but no recording of them was tried.
const ROWS_RECORDED: usize = 128;

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
    pub gate_up_proj: Stack,
    /// `[experts, hidden, inner]`.
    pub down_proj: Stack,
}

/// Which experts each row goes to, and with which weight, on processors, in training, and where a probe asks. The choice is made
/// on the host, which reads the router's logits back once; the weights stay on the device, where gradients flow through them.
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
                gate_up_proj: Stack::Dense(init.normal([experts, 2 * inner, hidden])),
                down_proj: Stack::Dense(init.normal([experts, hidden, inner])),
            },
            experts_per_token: config.experts_per_token,
        }
    }

    /// `x [rows, hidden]`, same shape out.
    pub(super) fn forward(&self, x: Tensor<2>, layer: usize, probe: &mut Probe) -> Tensor<2> {
        let logits = self.gate.forward(x.clone());
        probe.record(format!("router_logits.{layer}"), &logits);
        probe.keep_router(&logits);
        if !probe.is_on()
            && let Some(y) = self.on_card(&x, &logits)
        {
            return y;
        }
        let routing = Routing::new(logits, self.experts_per_token);
        routing.record(layer, probe);
        match ops::kernels_on() {
            true => self.sorted(x, &routing),
            false => self.one_by_one(x, &routing),
        }
    }

    /// Whether a step of so many rows can be recorded: few of them, and all experts there, as they were trained or rounded, so that
    /// cards can choose among them.
    pub(super) fn can_be_recorded(&self, rows: usize) -> bool {
        use Stack::{Dense, Quantised};
        let stacks = (&self.experts.gate_up_proj, &self.experts.down_proj);
        rows <= ROWS_RECORDED
            && matches!(stacks, (Dense(_), Dense(_)) | (Quantised(_), Quantised(_)))
    }

    /// On a card: nobody waits for what the router says. Nothing where the host must know it.
    fn on_card(&self, x: &Tensor<2>, logits: &Tensor<2>) -> Option<Tensor<2>> {
        let device = x.device();
        let on_card = ops::kernels_on() && !device.is_autodiff() && !is_processor(&device);
        if !on_card || lost::is_remote(&device) && x.dims()[0] > ROWS_FAR_AWAY {
            return None;
        }
        let routes = || ops::largest_of_rows(logits.clone(), self.experts_per_token);
        let stack = |weight: &Quantised| {
            let (codes, scales) = weight.matrices();
            RoundedStack::new(codes, scales, weight.scheme())
        };
        match (&self.experts.gate_up_proj, &self.experts.down_proj) {
            (Stack::Dense(gate_up), Stack::Dense(down)) => {
                Some(ops::mixture(x.clone(), routes(), gate_up.val(), down.val()))
            }
            (Stack::Quantised(gate_up), Stack::Quantised(down)) => {
                Some(ops::rounded_mixture(x.clone(), routes(), stack(gate_up), stack(down)))
            }
            _ => None,
        }
    }

    /// All experts together, their rows sorted by expert once. What a row gets does not depend on the others.
    fn sorted(&self, x: Tensor<2>, routing: &Routing) -> Tensor<2> {
        let [rows, hidden] = x.dims();
        let index = |values| index_tensor(values, &x.device().without_autodiff());
        let Sorted { shares, from, to } = routing.sorted(self.experts.count());
        let y = self.experts.forward(x.clone().select(0, index(from)), shares);
        let each = [rows, self.experts_per_token, hidden];
        let y = y.select(0, index(to)).reshape(each);
        let weights = routing.weights.clone().cast(x.dtype());
        let weighted = y * weights.reshape([rows, self.experts_per_token, 1]);
        weighted.sum_dim(1).reshape([rows, hidden])
    }

    /// One expert after the other: what [`Self::sorted`] is tested against.
    fn one_by_one(&self, x: Tensor<2>, routing: &Routing) -> Tensor<2> {
        let index = |values| index_tensor(values, &x.device().without_autodiff());
        let mut out = x.zeros_like();
        for expert in 0..self.experts.count() {
            let (rows, places) = routing.rows_of(expert);
            if !rows.is_empty() {
                let steps = steps_among(&rows);
                let shares = vec![Share { expert, rows: rows.len(), steps }];
                let rows = index(rows);
                let weights = routing.weights.clone().select(0, index(places)).cast(x.dtype());
                let y = self.experts.forward(x.clone().select(0, rows.clone()), shares) * weights;
                out = out.select_assign(0, rows, y, IndexingUpdateOp::Add);
            }
        }
        out
    }
}

impl Experts {
    /// How many there are.
    fn count(&self) -> usize {
        self.gate_up_proj.shape()[0]
    }

    /// SwiGLU on the rows of `x`, each share with the weights of its expert.
    fn forward(&self, x: Tensor<2>, shares: Vec<Share>) -> Tensor<2> {
        let _wanted = experts::prepare(&[&self.gate_up_proj, &self.down_proj], &shares);
        let gate_up = self.gate_up_proj.product(x, shares.clone());
        let inner = gate_up.dims()[1] / 2;
        let gate = gate_up.clone().narrow(1, 0, inner);
        self.down_proj.product(ops::swiglu(gate, gate_up.narrow(1, inner, inner)), shares)
    }
}

/// How many of `rows`, which are in order, are steps of answers, see [`ops::choose_steps`].
fn steps_among(rows: &[i64]) -> Option<usize> {
    ops::steps().map(|steps| rows.partition_point(|row| (*row as usize) < steps))
}

/// The pairs of a row and an expert of [`Routing`], sorted by expert.
struct Sorted {
    shares: Vec<Share>,
    /// The row of each pair.
    from: Vec<i64>,
    /// Where each pair of [`Routing::experts`] is among them.
    to: Vec<i64>,
}

impl Routing {
    /// Softmax over all experts in f32, the best `k`, divided by their sum (whatever `norm_topk_prob` says).
    fn new(logits: Tensor<2>, k: usize) -> Self {
        let [rows, experts] = logits.dims();
        let logits = logits.cast(DType::F32);
        let data = lost::read(logits.clone());
        let values = data.try_to_vec::<f32>().expect("logits read back as f32");
        let best = |row: &[f32]| {
            let mut order: Vec<usize> = (0..experts).collect();
            // Of equal ones the first, as in a stable sort.
            let before = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
            if k < experts {
                order.select_nth_unstable_by(k, before);
                order.truncate(k);
            }
            order.sort_unstable_by(before);
            order
        };
        let chosen: Vec<Vec<usize>> = values.chunks(experts).map(best).collect();
        let columns = chosen.iter().flatten().map(|expert| *expert as i64).collect();
        let columns = index_tensor(columns, &logits.device().without_autodiff());
        // Softmax over the chosen logits alone is softmax over all of them, divided by the chosen share.
        let weights = softmax(logits.gather(1, columns.reshape([rows, k])), 1);
        Self { experts: chosen, weights: weights.reshape([rows * k, 1]) }
    }

    /// All pairs of a row and an expert, sorted by expert, those of an expert by row.
    fn sorted(&self, experts: usize) -> Sorted {
        let pairs = self.experts.iter().enumerate();
        let pairs = pairs.flat_map(|(row, chosen)| chosen.iter().map(move |expert| (*expert, row)));
        let pairs: Vec<(usize, usize)> = pairs.collect();
        let mut counts = vec![0; experts];
        pairs.iter().for_each(|(expert, _)| counts[*expert] += 1);
        let mut next: Vec<usize> = Vec::with_capacity(experts);
        let total = counts.iter().fold(0, |first, count| {
            next.push(first);
            first + count
        });
        let (mut from, mut to) = (vec![0; total], Vec::with_capacity(total));
        for (expert, row) in pairs {
            from[next[expert]] = row as i64;
            to.push(next[expert] as i64);
            next[expert] += 1;
        }
        let mut first = 0;
        let shares = counts.into_iter().enumerate().map(|(expert, rows)| {
            first += rows;
            Share { expert, rows, steps: steps_among(&from[first - rows..first]) }
        });
        Sorted { shares: shares.filter(|share| share.rows > 0).collect(), from, to }
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

#[cfg(test)]
mod tests;
