//! Frames of a prompt on their way through the vision tower, a bounded amount of work at a time.

use std::ops::Range;
use std::time::Instant;

use burn::tensor::TensorData;
use qwen3_vl_backends::device::lost;

use crate::model::{Qwen3VlModel, VISION_CHUNK};
use crate::probe::Probe;
use crate::processor::image::Grid;
use crate::prompt::Prompt;
use crate::vision::{VisionFeatures, VisionPass, VisionPlan};

/// Frames whose features are half computed.
#[derive(Debug)]
pub(crate) struct Encoding {
    frames: Vec<usize>,
    pass: VisionPass,
}

impl Qwen3VlModel {
    /// Gives the frames in tokens `rows` their features, in calls of a bounded number of patches, and returns the
    /// frames of each call that is complete. No more than `work` patches times blocks are run (but one block at
    /// least); what is left waits in `encoding`.
    pub(crate) fn encode_some(
        &self,
        prompt: &mut Prompt,
        encoding: &mut Option<Encoding>,
        rows: &Range<usize>,
        work: usize,
    ) -> Vec<Vec<usize>> {
        let (mut left, mut done) = (work, Vec::new());
        if encoding.is_none() && prompt.ready(rows) == rows.len() {
            return done;
        }
        // Waiting on both sides tells the time of the two towers apart; it changes no result.
        lost::settle(&self.visual.device());
        let start = Instant::now();
        while left > 0 {
            let next = encoding.take().or_else(|| self.begin_encoding(prompt, rows));
            let Some(Encoding { frames, pass }) = next else { break };
            let patches = pass.patches();
            let blocks = (left / patches).max(1);
            left = left.saturating_sub(blocks.saturating_mul(patches));
            let pass = self.compute(&self.visual.device(), 0, || {
                self.visual.advance(pass, blocks, &mut Probe::off())
            });
            if pass.is_over(&self.visual) {
                let features = self
                    .compute(&self.visual.device(), 0, || self.visual.end(pass, &mut Probe::off()));
                prompt.fill(&frames, self.at_embedding(features));
                done.push(frames);
            } else {
                *encoding = Some(Encoding { frames, pass });
            }
        }
        lost::settle(&self.visual.device());
        prompt.vision += start.elapsed();
        done
    }

    /// The features of whole pictures.
    pub(crate) fn tower(
        &self,
        grids: &[Grid],
        values: Vec<f32>,
        probe: &mut Probe,
    ) -> VisionFeatures {
        self.compute(&self.visual.device(), 0, || {
            let plan = VisionPlan::new(&self.config().vision, grids);
            let shape = [plan.patches(), self.config().vision.patch_len()];
            self.visual.forward(TensorData::new(values, shape), &plan, probe)
        })
    }

    fn begin_encoding(&self, prompt: &Prompt, rows: &Range<usize>) -> Option<Encoding> {
        let frames = prompt.pending(rows, VISION_CHUNK).into_iter().next()?;
        let batch = prompt.batch(frames);
        let plan = VisionPlan::new(&self.config().vision, &batch.grids);
        let shape = [plan.patches(), self.config().vision.patch_len()];
        let pixels = TensorData::new(batch.values, shape);
        let pass = self.compute(&self.visual.device(), 0, || {
            self.visual.begin(pixels, plan, &mut Probe::off())
        });
        Some(Encoding { frames: batch.frames, pass })
    }
}
