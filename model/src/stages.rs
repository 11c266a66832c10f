//! A model whose layers run in stages, each on its device.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use burn::tensor::{Device, Tensor};
use qwen3_vl_backends::Stage;
use qwen3_vl_backends::device::lost;

use crate::cache::KvCache;
use crate::model::Qwen3VlModel;
use crate::pack::Pack;
use crate::pipeline;
use crate::probe::Probe;
use crate::prompt::Prompt;
use crate::step::{Step, Work};
use crate::text::{Flow, Past};
use crate::vision::VisionFeatures;

/// Most tokens that go through the stages of a map at once, so that there is work for several stages at a time.
const PIPELINE_CHUNK: usize = 512;

/// Neighbouring layers that run together.
#[derive(Debug, Clone)]
pub(crate) struct LayerRun<'m> {
    layers: Range<usize>,
    /// Their device, where a map says it.
    pub(crate) device: Option<&'m Device>,
}

impl<'m> LayerRun<'m> {
    fn of(stage: &'m Stage) -> Self {
        Self { layers: stage.layers.clone(), device: Some(&stage.device.device) }
    }
}

/// What a cache lacks of a prompt, to be run `chunk` tokens at a time.
pub(crate) struct Rest<'a> {
    pub prompt: &'a mut Prompt,
    pub cache: &'a mut KvCache,
    pub chunk: usize,
}

/// Some rows of a pass between two stages.
struct Piece {
    /// Which of the sequences of the pass they are of.
    sequences: Range<usize>,
    flow: Flow,
}

impl Rest<'_> {
    /// The tokens that are lacking, in chunks.
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (length, chunk) = (self.prompt.len(), self.chunk);
        let starts = (self.cache.len()..length).step_by(chunk);
        starts.map(move |start| start..start.saturating_add(chunk).min(length))
    }
}

impl Qwen3VlModel {
    /// The layers as they run together.
    pub(crate) fn stages(&self) -> Vec<LayerRun<'_>> {
        match self.placement() {
            None => vec![LayerRun { layers: 0..self.language_model.layers.len(), device: None }],
            Some(placement) => placement.stages.iter().map(LayerRun::of).collect(),
        }
    }

    /// Through all layers and the final norm; the caches move on.
    pub(crate) fn through(
        &self,
        mut flow: Flow,
        past: &mut Past<'_, '_>,
        probe: &mut Probe,
    ) -> Tensor<2> {
        for stage in self.stages() {
            flow = self.stage(&stage, flow, past, probe);
        }
        past.advance(&flow.context.lengths);
        self.leave(flow, probe)
    }

    fn stage(
        &self,
        stage: &LayerRun<'_>,
        flow: Flow,
        past: &mut Past<'_, '_>,
        probe: &mut Probe,
    ) -> Flow {
        let flow = match stage.device {
            Some(device) => flow.move_to(device, stage.layers.start),
            None => flow,
        };
        let device = flow.hidden.device();
        self.compute(&device, flow.steps, || {
            self.language_model.run(stage.layers.clone(), flow, past, probe)
        })
    }

    /// The final norm of what the last layer gives, on the device of the head.
    fn leave(&self, flow: Flow, probe: &mut Probe) -> Tensor<2> {
        let hidden = match self.placement() {
            Some(placement) => lost::moved(flow.hidden, &placement.head.device),
            None => flow.hidden,
        };
        self.language_model.finish(hidden, probe)
    }

    /// Vision features where they join the embeddings.
    pub(crate) fn at_embedding(&self, features: VisionFeatures) -> VisionFeatures {
        match self.placement() {
            Some(placement) => features.move_to(&placement.embed.device),
            None => features,
        }
    }

    /// Runs what the cache lacks of a prompt, and hands `each` the first token and the final hidden states of every chunk.
    /// With several stages, each works on a thread of its own, so that one is at a chunk while the one before is at the next.
    pub(crate) fn prefill_rest(&self, mut rest: Rest<'_>, mut each: impl FnMut(usize, Tensor<2>)) {
        if self.stages().len() > 1 {
            if rest.chunk > PIPELINE_CHUNK {
                rest.chunk = even(rest.prompt.len() - rest.cache.len(), PIPELINE_CHUNK);
            }
            if rest.chunks().count() > 1 {
                return self.prefill_in_stages(rest, each);
            }
        }
        for rows in rest.chunks() {
            let start = rows.start;
            each(start, self.prefill(rest.prompt, rows, rest.cache, &mut Probe::off()));
        }
    }

    fn prefill_in_stages(&self, mut rest: Rest<'_>, mut each: impl FnMut(usize, Tensor<2>)) {
        while rest.cache.len() < rest.prompt.len() {
            rest.cache.make_room(rest.chunk);
            rest.chunk = rest.chunk.min(rest.cache.room().max(1));
            let end = rest.cache.len().saturating_add(rest.cache.room());
            let mut chunks = rest.chunks().take_while(|rows| rows.end <= end);
            let Rest { prompt, cache, .. } = &mut rest;
            let mut start = cache.len();
            let feed = || chunks.next().map(|rows| self.begin(prompt, rows));
            self.in_stages(&mut [cache], feed, |hidden| {
                let first = start;
                start += hidden.dims()[0];
                each(first, hidden);
            });
        }
    }

    /// Encodes the pictures that tokens `rows` show, and makes what the first stage reads.
    fn begin(&self, prompt: &mut Prompt, rows: Range<usize>) -> Piece {
        self.encode_some(prompt, &mut None, &rows, usize::MAX);
        let mut pack = Pack::default();
        pack.add(&Work::Prompt { prompt: &mut *prompt, rows: rows.clone() });
        let flow = self.enter(pack, &mut Probe::off());
        prompt.forget(rows.end);
        Piece { sequences: 0..1, flow }
    }

    /// What [`Self::forward`] gives for a pass of many rows, whose pictures are encoded: nothing where one stage runs all, or
    /// rows are too few for more than one to be at work.
    pub(crate) fn forward_in_stages(&self, steps: &mut [Step<'_>]) -> Option<Tensor<2>> {
        let lengths: Vec<usize> = steps.iter().map(|step| step.work.rows()).collect();
        let rows = lengths.iter().sum();
        if self.stages().len() < 2 || rows <= PIPELINE_CHUNK {
            return None;
        }
        let (mut works, mut caches): (Vec<_>, Vec<_>) =
            steps.iter_mut().map(|step| (&mut step.work, &mut *step.cache)).unzip();
        let mut pieces = pieces(&lengths, even(rows, PIPELINE_CHUNK)).into_iter();
        let feed = || {
            let parts = pieces.next()?;
            let sequences = parts[0].0..parts[parts.len() - 1].0 + 1;
            let mut pack = Pack::default();
            for (sequence, rows) in parts {
                pack.add(&works[sequence].part(rows));
            }
            Some(Piece { sequences, flow: self.enter(pack, &mut Probe::off()) })
        };
        let mut hidden = Vec::new();
        self.in_stages(&mut caches, feed, |rows| hidden.push(rows));
        Some(Tensor::cat(hidden, 0))
    }

    /// Lets pieces go through the stages, each stage on a thread of its own, and hands `each` the final hidden states of each of
    /// them, in order. The caches move on.
    fn in_stages(
        &self,
        caches: &mut [&mut KvCache],
        feed: impl FnMut() -> Option<Piece> + Send,
        mut each: impl FnMut(Tensor<2>),
    ) {
        let stages = self.stages();
        let runs: Vec<Range<usize>> = stages.iter().map(|stage| stage.layers.clone()).collect();
        let mut of_stages: Vec<Vec<KvCache>> = runs.iter().map(|_| Vec::new()).collect();
        for cache in caches.iter_mut() {
            of_stages.iter_mut().zip(cache.split(&runs)).for_each(|(all, part)| all.push(part));
        }
        let work = stages.iter().zip(&mut of_stages).map(|(stage, caches)| {
            move |Piece { sequences, flow }| {
                let mut caches: Vec<_> = caches[sequences.clone()].iter_mut().collect();
                let mut past = Past::Cached(&mut caches);
                let flow = self.stage(stage, flow, &mut past, &mut Probe::off());
                past.advance(&flow.context.lengths);
                Piece { sequences, flow }
            }
        });
        let collect = |piece: Piece| each(self.leave(piece.flow, &mut Probe::off()));
        // A device that is lost ends the pass, but not the caches, which others may share.
        let ended = catch_unwind(AssertUnwindSafe(|| pipeline::run(feed, work.collect(), collect)));
        let mut of_stages: Vec<_> = of_stages.into_iter().map(Vec::into_iter).collect();
        for cache in caches {
            cache.join(of_stages.iter_mut().filter_map(Iterator::next).collect());
        }
        ended.unwrap_or_else(|cause| resume_unwind(cause));
    }
}

/// The rows of each piece of `rows`, when no more than `most` go together: few more than a full piece would make one that is hardly
/// worth reading all weights for.
fn even(rows: usize, most: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

/// The rows of a pass, `lengths` of each sequence, in pieces of `size`: which of them are of which sequence.
fn pieces(lengths: &[usize], size: usize) -> Vec<Vec<(usize, Range<usize>)>> {
    let (mut pieces, mut room) = (vec![Vec::new()], size);
    for (sequence, length) in lengths.iter().enumerate() {
        let mut start = 0;
        // One without rows is in some piece too: the sequences of a piece are neighbours.
        loop {
            if room == 0 && *length > 0 {
                pieces.push(Vec::new());
                room = size;
            }
            let rows = start..(start + room).min(*length);
            (start, room) = (rows.end, room - rows.len());
            pieces.last_mut().expect("one at least").push((sequence, rows));
            if start == *length {
                break;
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_alike() {
        let found =
            [(0, 512), (512, 512), (513, 512), (1100, 512), (7, 1)].map(|(n, m)| even(n, m));
        assert_eq!(found, [1, 512, 257, 367, 1]);
    }

    #[test]
    fn pieces_are_full_and_hold_every_row_once() {
        let found = pieces(&[1, 1, 6, 0, 9], 4);
        let expected = [
            vec![(0, 0..1), (1, 0..1), (2, 0..2)],
            vec![(2, 2..6), (3, 0..0)],
            vec![(4, 0..4)],
            vec![(4, 4..8)],
            vec![(4, 8..9)],
        ];
        assert_eq!(found, expected);
    }
}
