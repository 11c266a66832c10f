//! The mixture-of-experts feed-forward part.

use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, IndexingUpdateOp, Tensor, TensorData};
use qwen3_vl_backends::device::lost;
use qwen3_vl_backends::ops::{self, RoundedStack, Share};
use qwen3_vl_backends::threads::is_processor;

use crate::config::MoeConfig;
use crate::init::Init;
use crate::linear::Linear;
use crate::pack::index_tensor;
use crate::probe::Probe;
use crate::stack::Stack;
use crate::weight::Quantised;

/// Most rows of a mixture that is computed without the host.
const ROWS_ON_CARD: usize = 128;
/// The same on another machine, which copies the matrices of the experts of each row; but reading the routes is a journey.
const ROWS_FAR_AWAY: usize = 4;

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

    /// Whether all experts are there, as they were trained or rounded, so that cards can choose among them.
    pub(super) fn is_whole(&self) -> bool {
        use Stack::{Dense, Quantised};
        let stacks = (&self.experts.gate_up_proj, &self.experts.down_proj);
        matches!(stacks, (Dense(_), Dense(_)) | (Quantised(_), Quantised(_)))
    }

    /// Few rows on a card: nobody waits for what the router says. Nothing where the host must know it.
    fn on_card(&self, x: &Tensor<2>, logits: &Tensor<2>) -> Option<Tensor<2>> {
        let device = x.device();
        let on_card = ops::kernels_on() && !device.is_autodiff() && !is_processor(&device);
        let most = if lost::is_remote(&device) { ROWS_FAR_AWAY } else { ROWS_ON_CARD };
        if !on_card || x.dims()[0] > most {
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
        self.gate_up_proj.announce(&shares);
        self.down_proj.announce(&shares);
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
mod tests {
    use super::*;
    use qwen3_vl_backends::quant::QuantScheme;
    use qwen3_vl_backends::{Precision, device};

    const HIDDEN: usize = 24;

    /// A block of six experts, of which three are used.
    fn block(device: &burn::tensor::Device) -> MoeBlock {
        let config = MoeConfig {
            experts: 6,
            experts_per_token: 3,
            intermediate_size: 12,
            sparse_step: 1,
            dense_layers: Vec::new(),
        };
        let init = Init { std: 0.5, ..Init::new(device, Precision::F32) };
        MoeBlock::new(HIDDEN, &config, &init)
    }

    /// One on every device of this build that is a processor.
    fn blocks() -> Vec<(MoeBlock, burn::tensor::Device)> {
        let processors = device::present().into_iter().filter(|found| found.kind.is_cpu());
        processors.map(|found| (block(&found.device), found.device)).collect()
    }

    fn rows(count: usize, device: &burn::tensor::Device) -> Tensor<2> {
        let values: Vec<f32> = (0..count * HIDDEN).map(|i| (i as f32 * 0.7713).sin()).collect();
        Tensor::from_data(TensorData::new(values, [count, HIDDEN]), device)
    }

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn experts_together_compute_what_one_after_the_other_does() {
        let blocks = blocks();
        assert!(!blocks.is_empty());
        for (block, device) in blocks {
            for count in [1, 2, 37] {
                let x = rows(count, &device);
                let routing = || Routing::new(block.gate.forward(x.clone()), 3);
                let together = values(block.sorted(x.clone(), &routing()));
                let apart = values(block.one_by_one(x.clone(), &routing()));
                let size = apart.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let far = together.iter().zip(&apart).map(|(a, b)| (a - b).abs());
                let far = far.fold(0.0, f32::max);
                assert!(size > 0.1 && far < 1e-5 * size, "{count} rows: {far} of {size}");
            }
        }
    }

    #[test]
    fn a_card_computes_few_rows_without_the_host_and_many_with_it() {
        let cards = device::present().into_iter().filter(|found| !found.kind.is_cpu());
        for found in cards {
            let block = block(&found.device);
            for count in [1, 5, ROWS_ON_CARD, ROWS_ON_CARD + 1] {
                let x = rows(count, &found.device);
                let logits = block.gate.forward(x.clone());
                let alone = block.on_card(&x, &logits).map(values);
                assert_eq!(alone.is_some(), count <= ROWS_ON_CARD, "{count} rows");
                let expected = values(block.one_by_one(x.clone(), &Routing::new(logits, 3)));
                let size = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for y in alone.into_iter().chain([values(block.forward(x, 0, &mut Probe::off()))]) {
                    let far = y.iter().zip(&expected).map(|(a, b)| (a - b).abs());
                    assert!(far.fold(0.0, f32::max) < 1e-5 * size, "{count} rows");
                }
            }
        }
    }

    /// The same experts, rounded.
    fn rounded(stack: &Stack, scheme: QuantScheme) -> Stack {
        let ([experts, rows, inputs], device) = (stack.shape(), stack.values().device());
        let values = stack.values().into_data().try_to_vec::<f32>().unwrap();
        let found = scheme.round(&values, inputs).unwrap();
        let shape = vec![experts * rows, scheme.row_bytes(inputs)];
        let codes = TensorData::from_bytes_vec(found.codes, shape, scheme.code_dtype());
        let scales = TensorData::new(found.scales, [experts * rows, scheme.groups(inputs)]);
        let scales = scales.convert_dtype(DType::F32);
        let codes = Tensor::from_data(codes, (&device, scheme.code_dtype()));
        let scales = Tensor::from_data(scales, (&device, DType::F32));
        Stack::Quantised(Quantised::new(codes, scales, scheme, inputs).stacked(experts))
    }

    #[test]
    fn a_card_computes_with_rounded_experts_without_the_host_too() {
        let cards = device::present().into_iter().filter(|found| !found.kind.is_cpu());
        for (found, scheme) in cards.flat_map(|found| {
            ["int8-g64", "int4-g32"].map(|name| (found.clone(), name.parse().unwrap()))
        }) {
            let mut block = block(&found.device);
            block.experts.gate_up_proj = rounded(&block.experts.gate_up_proj, scheme);
            block.experts.down_proj = rounded(&block.experts.down_proj, scheme);
            for count in [1, 37, ROWS_ON_CARD + 1] {
                let x = rows(count, &found.device);
                let logits = block.gate.forward(x.clone());
                let alone = block.on_card(&x, &logits).map(values);
                assert_eq!(alone.is_some(), count <= ROWS_ON_CARD, "{scheme}, {count} rows");
                let expected = values(block.one_by_one(x.clone(), &Routing::new(logits, 3)));
                let size = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for y in alone.into_iter().chain([values(block.forward(x, 0, &mut Probe::off()))]) {
                    let far = y.iter().zip(&expected).map(|(a, b)| (a - b).abs());
                    assert!(far.fold(0.0, f32::max) < 1e-5 * size, "{scheme}, {count} rows");
                }
            }
        }
    }

    /// Batches change nothing, though rows of other prompts go to the same experts. (The products of ndarray differ in
    /// their last bits with the number of rows.)
    #[test]
    fn a_row_gets_the_same_bits_among_others_as_alone() {
        let on_flex = |(_, device): &(MoeBlock, burn::tensor::Device)| {
            device::open("flex").is_ok_and(|flex| flex.device == *device)
        };
        for (block, device) in blocks().into_iter().filter(on_flex) {
            let x = rows(5, &device);
            let of = |x: Tensor<2>| values(block.forward(x, 0, &mut Probe::off()));
            let together = of(x.clone());
            for row in 0..5 {
                let alone = of(x.clone().narrow(0, row, 1));
                assert_eq!(alone, together[row * HIDDEN..][..HIDDEN], "row {row}");
            }
        }
    }

    #[test]
    fn pairs_are_sorted_by_expert_and_found_again() {
        let experts = vec![vec![3, 1], vec![1, 0], vec![3, 4]];
        let weights = Tensor::zeros([6, 1], &blocks()[0].1);
        let Sorted { shares, from, to } = Routing { experts, weights }.sorted(6);
        let found: Vec<_> = shares.iter().map(|share| (share.expert, share.rows)).collect();
        assert_eq!(found, [(0, 1), (1, 2), (3, 2), (4, 1)]);
        assert_eq!(from, [1, 0, 1, 0, 2, 2]);
        assert_eq!(to, [3, 1, 2, 0, 4, 5]);
    }

    #[test]
    fn the_best_experts_are_chosen_and_of_equal_ones_the_first() {
        let (_, device) = blocks().remove(0);
        let logits = TensorData::new(vec![0.5f32, 2.0, 2.0, -1.0, 2.0, 3.0], [1, 6]);
        for (k, expected) in [(1, vec![5]), (3, vec![5, 1, 2]), (6, vec![5, 1, 2, 4, 0, 3])] {
            let routing = Routing::new(Tensor::from_data(logits.clone(), &device), k);
            assert_eq!(routing.experts, [expected]);
            let sum: f32 = routing.weights.sum().into_scalar::<f32>();
            assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        }
    }
}
