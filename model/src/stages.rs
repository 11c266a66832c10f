//! A model whose layers run in stages, each on its device.

use std::ops::Range;

use burn::tensor::{Device, Tensor};
use qwen3_vl_backends::Stage;
use qwen3_vl_backends::device::lost;

use crate::cache::KvCache;
use crate::model::{Qwen3VlModel, Work};
use crate::pack::Pack;
use crate::pipeline;
use crate::probe::Probe;
use crate::prompt::Prompt;
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

/// Some tokens of a prompt between two stages.
struct Chunk {
    /// The first of them.
    start: usize,
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
        self.compute(flow.steps, || {
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
            rest.chunk = rest.chunk.min(PIPELINE_CHUNK);
            if rest.chunks().count() > 1 {
                return self.prefill_in_stages(rest, each);
            }
        }
        for rows in rest.chunks() {
            let start = rows.start;
            each(start, self.prefill(rest.prompt, rows, rest.cache, &mut Probe::off()));
        }
    }

    fn prefill_in_stages(&self, rest: Rest<'_>, mut each: impl FnMut(usize, Tensor<2>)) {
        let (stages, mut chunks) = (self.stages(), rest.chunks());
        let runs: Vec<Range<usize>> = stages.iter().map(|stage| stage.layers.clone()).collect();
        let mut parts = rest.cache.split(&runs);
        let work = stages.iter().zip(&mut parts).map(|(stage, cache)| {
            move |Chunk { start, flow }| {
                let mut caches = [&mut *cache];
                let mut past = Past::Cached(&mut caches);
                let flow = self.stage(stage, flow, &mut past, &mut Probe::off());
                past.advance(&flow.context.lengths);
                Chunk { start, flow }
            }
        });
        let feed = || chunks.next().map(|rows| self.begin(rest.prompt, rows));
        pipeline::run(feed, work.collect(), |Chunk { start, flow }| {
            each(start, self.leave(flow, &mut Probe::off()));
        });
        rest.cache.join(parts);
    }

    /// Encodes the pictures that tokens `rows` show, and makes what the first stage reads.
    fn begin(&self, prompt: &mut Prompt, rows: Range<usize>) -> Chunk {
        self.encode_some(prompt, &mut None, &rows, usize::MAX);
        let mut pack = Pack::default();
        pack.add(&Work::Prompt { prompt: &mut *prompt, rows: rows.clone() });
        let flow = self.enter(pack, &mut Probe::off());
        prompt.forget(rows.end);
        Chunk { start: rows.start, flow }
    }
}
