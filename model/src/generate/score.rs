//! How probable the model finds the tokens of a prompt.

use burn::tensor::{DType, Tensor};
use qwen3_vl_backends::device::lost;

use super::Answer;
use crate::model::Qwen3VlModel;
use crate::sample::{SampleError, TokenLogprobs, logprobs};

/// Rows that run through the head at once; logits of a whole chunk would take a gigabyte.
const HEAD_ROWS: usize = 64;

/// A token of a prompt, given all before it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptLogprob {
    pub id: u32,
    /// 1 for the most probable token.
    pub rank: usize,
    /// Of the raw distribution.
    pub logprobs: TokenLogprobs,
}

/// What is known of the tokens of a prompt, in order; there is nothing before the first.
#[derive(Debug, Default)]
pub(super) struct Scores {
    pub(super) tokens: Vec<PromptLogprob>,
    /// What went wrong, until somebody is told.
    pub(super) failed: Option<SampleError>,
}

impl Answer {
    /// Whether the tokens of the prompt are to be scored, so that all of it must be computed.
    pub fn wants_scores(&self) -> bool {
        self.options.prompt_logprobs.is_some()
    }

    /// Log probabilities of the prompt's tokens but the first, when asked for.
    pub fn prompt_logprobs(&self) -> Option<&[PromptLogprob]> {
        self.wants_scores().then_some(&self.scores.tokens)
    }

    /// Scores the tokens of the prompt that follow those whose final states are `hidden`, the first of them at `start`.
    /// A failure is told by the next [`Answer::sample`].
    pub(crate) fn score(&mut self, model: &Qwen3VlModel, hidden: &Tensor<2>, start: usize) {
        let Some(n) = self.options.prompt_logprobs else { return };
        let end = (start + 1 + hidden.dims()[0]).min(self.prompt.len());
        let next = &self.prompt[start + 1..end];
        for (slice, ids) in next.chunks(HEAD_ROWS).enumerate() {
            let rows = hidden.clone().narrow(0, slice * HEAD_ROWS, ids.len());
            for (id, logits) in ids.iter().zip(read_rows(model.logits(rows))) {
                match score(&logits, *id, n) {
                    Ok(scored) => self.scores.tokens.push(scored),
                    Err(error) => {
                        self.scores.failed = Some(error);
                        return;
                    }
                }
            }
        }
    }
}

fn score(logits: &[f32], id: u32, n: usize) -> Result<PromptLogprob, SampleError> {
    let logprobs = logprobs(logits, id, n)?;
    let better = logits.iter().filter(|logit| **logit > logits[id as usize]).count();
    Ok(PromptLogprob { id, rank: better + 1, logprobs })
}

/// Logits `[n, vocabulary]` on the host, row by row.
pub(crate) fn read_rows(logits: Tensor<2>) -> Vec<Vec<f32>> {
    let width = logits.dims()[1];
    let values = lost::read(logits).convert_dtype(DType::F32);
    let values: Vec<f32> = values.try_to_vec().expect("logits are read back as f32");
    match values.len() == width {
        true => vec![values],
        false => values.chunks(width).map(<[f32]>::to_vec).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_begin_at_one() {
        let logits = [1.0, 3.0, f32::NEG_INFINITY, 2.0];
        let rank = |id| score(&logits, id, 1).unwrap().rank;
        assert_eq!([0, 1, 2, 3].map(rank), [3, 1, 4, 2]);
        assert!(score(&[f32::NAN, 1.0], 1, 0).is_err());
    }
}
