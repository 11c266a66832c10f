//! Loss and gradients of one micro-batch.

use burn::tensor::{DType, Tensor, TensorData};
use qwen3_vl_backends::device::lost;
use qwen3_vl_backends::ops;
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::packed::{PackedInputs, PackedPass};
use qwen3_vl_model::probe::Probe;

use crate::gradients::ModelGradients;
use crate::recompute;

/// Packed samples, and which of their tokens are learnt.
#[derive(Debug)]
pub struct Batch {
    pub packed: PackedInputs,
    /// Rows whose successor is a target, and that successor.
    pub rows: Vec<i64>,
    pub labels: Vec<i64>,
}

impl Batch {
    /// Targets of `packed`; `trained` says of every token whether it is predicted with loss.
    ///
    /// # Panics
    /// When `trained` has another length than the samples.
    pub fn new(packed: PackedInputs, trained: &[bool]) -> Self {
        assert_eq!(trained.len(), packed.ids.len(), "one flag per token");
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        let mut start = 0;
        for length in packed.lengths() {
            // The first token of a sample has no predecessor, so nothing predicts it.
            for at in (start + 1..start + length).filter(|at| trained[*at]) {
                rows.push(at as i64 - 1);
                labels.push(i64::from(packed.ids[at]));
            }
            start += length;
        }
        Self { packed, rows, labels }
    }

    /// Tokens that are predicted with loss.
    pub fn targets(&self) -> usize {
        self.labels.len()
    }
}

/// How gradients are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassOptions {
    /// Multiplies the summed loss: one over the targets of the whole optimiser step.
    pub scale: f64,
    /// Keeps only the input of every block, and runs blocks a second time backwards.
    pub recompute: bool,
    /// Weight of the load-balancing loss of expert models (HF `router_aux_loss_coef`), already scaled to the step.
    pub router_aux: f64,
}

/// What a micro-batch cost.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchLoss {
    /// Cross-entropy of every target, in order.
    pub losses: Vec<f32>,
    /// The load-balancing loss (HF `load_balancing_loss_func`), where it was asked for.
    pub router_aux: Option<f32>,
}

/// Adds the gradients of a micro-batch to `gradients`.
pub fn backward(
    model: &Qwen3VlModel,
    batch: Batch,
    options: &PassOptions,
    gradients: &mut ModelGradients,
) -> BatchLoss {
    let Batch { packed, rows, labels } = batch;
    let pass = PackedPass::new(model, packed);
    let head = Head { rows, labels, scale: options.scale };
    match options.recompute {
        true => recompute::backward(model, &pass, &head, options.router_aux, gradients),
        false => plain(model, &pass, &head, options.router_aux, gradients),
    }
}

/// The losses of a micro-batch without gradients.
pub fn losses(model: &Qwen3VlModel, batch: Batch) -> Vec<f32> {
    let Batch { packed, rows, labels } = batch;
    let hidden = PackedPass::new(model, packed).forward(model, &mut Probe::off());
    let head = Head { rows, labels, scale: 1.0 };
    values(head.losses(model, hidden))
}

fn plain(
    model: &Qwen3VlModel,
    pass: &PackedPass,
    head: &Head,
    router_aux: f64,
    gradients: &mut ModelGradients,
) -> BatchLoss {
    let mut probe = if router_aux > 0.0 { Probe::router() } else { Probe::off() };
    let hidden = pass.forward(model, &mut probe);
    let losses = head.losses(model, hidden);
    let mut total = losses.clone().sum() * head.scale;
    let balance = Balance::new(model, &probe.take_router());
    let mut aux = None;
    if let Some((balance, logits)) = balance {
        let loss = balance.loss(&logits);
        aux = Some(values(loss.clone())[0]);
        total = total + loss * router_aux;
    }
    // Without pictures, nothing of a trained vision tower was reached.
    if total.is_autodiff() {
        gradients.collect(model, &mut total.backward());
    }
    BatchLoss { losses: values(losses), router_aux: aux }
}

/// The head on the rows that are trained, and nowhere else.
pub(crate) struct Head {
    pub rows: Vec<i64>,
    pub labels: Vec<i64>,
    pub scale: f64,
}

impl Head {
    /// Cross-entropy of every target, `[targets]`.
    pub fn losses(&self, model: &Qwen3VlModel, hidden: Tensor<2>) -> Tensor<1> {
        let device = model.device();
        let index = |values: &[i64]| {
            Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
        };
        ops::cross_entropy(hidden.select(0, index(&self.rows)), model.head(), index(&self.labels))
    }
}

/// The load-balancing loss: `E · Σ_e (assignments_e / rows) · (mean probability_e)`, rows of all layers together.
pub(crate) struct Balance {
    /// `E · assignments_e / rows²`, `[1, experts]`: what multiplies the summed probabilities.
    shares: Tensor<2>,
}

impl Balance {
    /// Counts assignments over the router logits of all layers, which it hands back; `None` where there are none.
    pub fn new(model: &Qwen3VlModel, logits: &[Tensor<2>]) -> Option<(Self, Vec<Tensor<2>>)> {
        let moe = model.config().text.moe.as_ref().filter(|_| !logits.is_empty())?;
        let (experts, k) = (moe.experts, moe.experts_per_token);
        let mut counts = vec![0.0f32; experts];
        let mut rows = 0;
        for layer in logits {
            let data = lost::read(layer.clone().inner().cast(DType::F32));
            let data = data.try_to_vec::<f32>().expect("logits read back as f32");
            for row in data.chunks(experts) {
                let mut order: Vec<usize> = (0..experts).collect();
                order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
                order[..k].iter().for_each(|expert| counts[*expert] += 1.0);
                rows += 1;
            }
        }
        let factor = experts as f32 / (rows as f32 * rows as f32);
        counts.iter_mut().for_each(|count| *count *= factor);
        let shares = TensorData::new(counts, [1, experts]);
        let shares = Tensor::from_data(shares, (&model.device(), DType::F32));
        Some((Self { shares }, logits.to_vec()))
    }

    /// The loss of some of the layers, `[1]`; those of all layers sum to the whole.
    pub fn loss(&self, logits: &[Tensor<2>]) -> Tensor<1> {
        let layer = |logits: &Tensor<2>| {
            let p = burn::tensor::activation::softmax(logits.clone().cast(DType::F32), 1);
            (p * self.shares.clone()).sum()
        };
        let mut layers = logits.iter().map(layer);
        let first = layers.next().expect("at least one layer");
        layers.fold(first, |sum, layer| sum + layer)
    }
}

pub(crate) fn values(tensor: Tensor<1>) -> Vec<f32> {
    lost::read(tensor.inner()).try_to_vec().expect("losses read back as f32")
}

/// The one value of a tensor that is not tracked.
pub(crate) fn value(tensor: Tensor<1>) -> f32 {
    lost::read(tensor).try_to_vec().expect("sums read back as f32")[0]
}
