//! The rows of one forward pass: collected over its sequences, with vision features in their places.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::prompt::FeatureRows;
use crate::step::Work;
use crate::text::positions::Position;

/// The rows of a forward pass, collected over its sequences.
#[derive(Default)]
pub(crate) struct Pack {
    pub ids: Vec<i64>,
    pub positions: Vec<Position>,
    pub lengths: Vec<usize>,
    /// Rows of generated tokens, which come first.
    pub steps: usize,
    /// Which rows are placeholders, and their features in order.
    pub visual: Vec<bool>,
    pub features: Vec<FeatureRows>,
}

impl Pack {
    pub fn add(&mut self, work: &Work<'_>) {
        match work {
            Work::Tokens { ids, position } => {
                assert_eq!(self.steps, self.ids.len(), "generated tokens come before prompts");
                self.steps += ids.len();
                self.ids.extend(ids.iter().map(|id| i64::from(*id)));
                self.positions.extend((*position..).zip(*ids).map(|(at, _)| Position([at; 3])));
                self.visual.extend(ids.iter().map(|_| false));
                self.lengths.push(ids.len());
            }
            Work::Prompt { prompt, rows } => {
                self.ids.extend(prompt.ids[rows.clone()].iter().map(|id| i64::from(*id)));
                self.positions.extend_from_slice(&prompt.positions().prompt[rows.clone()]);
                self.visual.extend(prompt.visual(rows));
                self.features.extend(prompt.features(rows));
                self.lengths.push(rows.len());
            }
        }
    }
}

/// Puts vision features in the place of placeholder embeddings, and spreads the DeepStack levels over the rows
/// (HF `masked_scatter` and `_deepstack_process`).
pub(crate) fn inject(
    embeds: Tensor<2>,
    features: &[FeatureRows],
    visual: &[bool],
    device: &Device,
) -> (Tensor<2>, Vec<Tensor<2>>) {
    if features.is_empty() {
        return (embeds, Vec::new());
    }
    let (dtype, [rows, width]) = (embeds.dtype(), embeds.dims());
    let (main, levels): (Vec<_>, Vec<_>) = features.iter().map(FeatureRows::tensors).unzip();
    let mut rank = 0;
    let mut feature = |is_visual: &bool| {
        rank += i64::from(*is_visual);
        is_visual.then_some(rank)
    };
    let ranks: Vec<Option<i64>> = visual.iter().map(&mut feature).collect();
    let pick = ranks.iter().enumerate().map(|(i, rank)| match rank {
        Some(rank) => rows as i64 + rank - 1,
        None => i as i64,
    });
    let table = Tensor::cat(vec![embeds, Tensor::cat(main, 0).cast(dtype)], 0);
    let hidden = table.select(0, index_tensor(pick.collect(), device));
    // Row 0 of each level's table is zero: that is what text rows receive.
    let spread = index_tensor(ranks.iter().map(|rank| rank.unwrap_or(0)).collect(), device);
    let level = |level: usize| {
        let parts = levels.iter().map(|parts| parts[level].clone());
        let zero = Tensor::<2>::zeros([1, width], (device, dtype));
        let table = Tensor::cat(vec![zero, Tensor::cat(parts.collect(), 0).cast(dtype)], 0);
        table.select(0, spread.clone())
    };
    (hidden, (0..levels[0].len()).map(level).collect())
}

pub(crate) fn index_tensor(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}
