//! Answers whose steps the host does not wait for: keys, values and the next tokens stay where they are on the device, so
//! that a step is recorded once ([`qwen3_vl_backends::graph`]) and replayed, and where the largest logit decides, the next step is
//! launched before what the last one found is read.
//!
//! There is room for a power of two of sequences, and of tokens of each. When it is used up, all moves to twice as much, and is
//! recorded again. The caches hold the prompts in the meantime, and get the rest when an answer is over.

mod buffers;
mod lane;

use burn::tensor::{DType, Tensor};
use qwen3_vl_backends::device::lost;
use qwen3_vl_backends::graph::{Reading, Recording, graphs_on};
use qwen3_vl_backends::ops::kernels_on;
use qwen3_vl_backends::threads::is_processor;
use qwen3_vl_backends::{BackendKind, Placement};

pub use buffers::FixedPast;
use buffers::{Buffers, Held, Next};
use lane::Lane;
pub(crate) use lane::{Asked, Entrant, Terms};

use crate::cache::{KvCache, KvDtype};
use crate::config::TextConfig;
use crate::generate::Logits;
use crate::model::Qwen3VlModel;
use crate::text::TextLayer;

/// How the steps of an answer run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stepping {
    /// Recorded and replayed, where device, model and options allow it.
    #[default]
    Auto,
    /// Launched one by one over the cache of the session.
    Ordinary,
    /// What would be recorded, launched anew for every token, on any device: what replays are compared with.
    Fixed,
}

/// Answers that are being written on fixed buffers.
pub(crate) struct Replay<'m> {
    model: &'m Qwen3VlModel,
    buffers: Buffers,
    /// Absent where every step is launched anew.
    recording: Option<Recording<'m, Tensor<2>>>,
    /// One for each row of the buffers; absent where a row is idle.
    lanes: Vec<Option<Lane>>,
    /// Most bytes of keys and values.
    most: u64,
    /// Whether the step of the tokens behind those that were run is launched.
    ahead: bool,
    /// The last slot that the next launch writes, also for lanes that were left.
    reach: usize,
    /// What the step that was launched last gives; overwritten by the next one where steps are replayed.
    logits: Option<Tensor<2>>,
}

impl<'m> Replay<'m> {
    /// Takes the entrants over from their caches, each into the lane of its index; nothing where steps are ordinary ones.
    /// `deciding` of the largest logits decide.
    pub fn begin(
        model: &'m Qwen3VlModel,
        entrants: &[Entrant<'_>],
        deciding: usize,
        terms: Terms,
    ) -> Option<Self> {
        let worth_it = entrants.iter().any(Entrant::is_worth_it);
        let recorded = match terms.stepping {
            Stepping::Ordinary => return None,
            Stepping::Auto if !worth_it || !model.records_steps() => return None,
            Stepping::Auto => true,
            Stepping::Fixed => false,
        };
        if !model.runs_on_fixed_buffers() {
            return None;
        }
        let slots = entrants.iter().map(Entrant::slots).max()?;
        if bytes(model, entrants.len().next_power_of_two(), slots) > terms.most {
            return None;
        }
        let k = deciding.next_power_of_two().min(model.config().text.vocab_size);
        let caches: Vec<&KvCache> = entrants.iter().map(|entrant| entrant.cache).collect();
        let mut buffers = Buffers::of(model, &caches, slots, k);
        let lane = |entrant: &Entrant<'_>| {
            let &Entrant { cache, id, position, .. } = entrant;
            Some(Lane { first: Next { id, place: cache.len(), position }, ids: Vec::new() })
        };
        let mut lanes: Vec<Option<Lane>> = entrants.iter().map(lane).collect();
        lanes.resize_with(buffers.lanes(), || None);
        let first = lanes.iter().map(|lane| lane.as_ref().map_or(Next::IDLE, |lane| lane.first));
        let recording = match recorded {
            true => Some(record(model, &mut buffers, &first.collect::<Vec<_>>())?),
            false => None,
        };
        let (most, ahead, reach, logits) = (terms.most, false, 0, None);
        Some(Self { model, buffers, recording, lanes, most, ahead, reach, logits })
    }

    /// Rows of a step.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Whether steps are replayed.
    pub fn is_recorded(&self) -> bool {
        self.recording.is_some()
    }

    /// Logits after the token of every lane, which follows those that were run; a lane without one is left out. Nothing, and
    /// all count as not run, where the logits are no numbers, or steps cannot be replayed any more.
    pub fn after(&mut self, ids: &[Option<u32>], asked: Asked) -> Option<Vec<Logits>> {
        self.recording.as_ref().is_none_or(Recording::is_here).then_some(())?;
        let next = self.next(ids);
        if !std::mem::take(&mut self.ahead) {
            self.reach = next.iter().map(|next| next.place).max()?;
            self.make_room(&next)?;
            self.buffers.put(&next);
            self.launch()?;
        }
        let (reading, logits) = (Reading::of(self.buffers.board()), self.logits.clone()?);
        if asked.deciding == 1 && asked.goes_on && self.reach < self.buffers.slots() {
            self.launch()?;
            self.ahead = true;
            // Who reads afterwards is told what went wrong.
            let _ = self.model.device().flush();
        }
        let found = self.found(&reading.wait(), &logits, ids)?;
        for (lane, id) in self.lanes.iter_mut().zip(ids) {
            if let (Some(lane), Some(id)) = (lane, id) {
                lane.ids.push(*id);
            }
        }
        Some(found)
    }

    /// What stands on the board of the rows that have a token; nothing where something is no number.
    fn found(&self, board: &[f32], logits: &Tensor<2>, ids: &[Option<u32>]) -> Option<Vec<Logits>> {
        let k = self.buffers.k();
        let rows = board.chunks(board.len() / self.lanes.len()).zip(ids).enumerate();
        let rows = rows.filter(|(_, (_, id))| id.is_some());
        let row = |(row, (board, _)): (usize, (&[f32], _))| {
            board[0].is_finite().then(|| Logits::found(&board[..2 * k], (logits.clone(), row)))
        };
        rows.map(row).collect()
    }

    /// The tokens `ids` behind those that were run, in every row.
    fn next(&self, ids: &[Option<u32>]) -> Vec<Next> {
        let ids = ids.iter().copied().chain(std::iter::repeat(None));
        let next = |(lane, id): (&Option<Lane>, Option<u32>)| match (lane, id) {
            (Some(lane), Some(id)) => lane.next(id),
            _ => Next::IDLE,
        };
        self.lanes.iter().zip(ids).map(next).collect()
    }

    /// Sees to slots for `next`; nothing where the step cannot be recorded again.
    fn make_room(&mut self, next: &[Next]) -> Option<()> {
        let slots = self.buffers.slots();
        if self.reach >= slots {
            // Both are there for a while.
            if bytes(self.model, self.lanes(), 3 * slots) > self.most {
                return None;
            }
            let mut grown = self.buffers.grown(self.model, 2 * slots);
            if self.recording.is_some() {
                self.recording = Some(record(self.model, &mut grown, next)?);
            }
            self.buffers = grown;
        }
        Some(())
    }

    /// Launches a step; nothing where it is recorded and cannot be replayed.
    fn launch(&mut self) -> Option<()> {
        self.logits = Some(match &mut self.recording {
            Some(recording) => recording.replay()?.clone(),
            None => self.model.step_in_place(&mut self.buffers),
        });
        self.reach += 1;
        Some(())
    }

    /// Ends a lane: `cache`, from which it was taken over, gets keys and values of the tokens that were run, which are returned.
    pub fn settle(&mut self, lane: usize, cache: &mut KvCache) -> Vec<u32> {
        let Some(held) = self.lanes[lane].take() else { return Vec::new() };
        let rows = |layer| -> Held { self.buffers.rows(layer, lane, held.slots()) };
        cache.adopt(held.ids.len(), rows);
        held.ids
    }
}

impl std::fmt::Debug for Replay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

/// Bytes of keys and values of so many sequences and tokens of each.
fn bytes(model: &Qwen3VlModel, lanes: usize, slots: usize) -> u64 {
    let (config, compute) = (&model.config().text, model.precision().compute);
    let token = KvCache::bytes_per_token(config, compute, KvDtype::Auto);
    token.saturating_mul(lanes.saturating_mul(slots) as u64)
}

/// The most bytes that keys and values of recorded steps take, beside the cache of one session, while an answer of `answer` tokens
/// to a prompt of `prompt` is written; 0 where steps are never recorded: on processors and on devices of other machines, in maps,
/// and where the cache has another dtype than the computation.
pub fn recorded_bytes(
    config: &TextConfig,
    placement: &Placement,
    (compute, storage): (DType, KvDtype),
    [prompt, answer]: [usize; 2],
) -> u64 {
    let kind = placement.embed.kind;
    let on_card = !kind.is_cpu() && kind != BackendKind::Remote && placement.is_whole();
    if !(graphs_on() && kernels_on() && on_card && storage.is_plain(compute)) {
        return 0;
    }
    let slots = lane::most_slots(prompt, answer) as u64;
    slots.saturating_mul(KvCache::bytes_per_token(config, compute, KvDtype::Auto))
}

/// Records a step over the memory of `buffers`, which it may leave with other tokens on the board.
fn record<'m>(
    model: &'m Qwen3VlModel,
    buffers: &mut Buffers,
    next: &[Next],
) -> Option<Recording<'m, Tensor<2>>> {
    buffers.put(next);
    let mut same = buffers.clone();
    Recording::of(&model.device(), move || model.step_in_place(&mut same))
}

impl Qwen3VlModel {
    /// Whether all of it is on one device, which holds keys and values as it computes with them.
    fn runs_on_fixed_buffers(&self) -> bool {
        let compute = self.precision().compute;
        let plain = self.cache_dtype().is_plain(compute);
        let tracked = self.language_model.embed_tokens.weight.device().is_autodiff();
        plain && !tracked && self.placement().is_none()
    }

    /// Whether steps of an answer are recorded and replayed where its options allow it: on cards, when a step is launched
    /// without the host having to know what the layers find. [`qwen3_vl_backends::graph::GRAPH_VARIABLE`] turns that off.
    pub fn records_steps(&self) -> bool {
        let device = self.device();
        let on_card = !is_processor(&device) && !lost::is_remote(&device);
        let alone = self.language_model.layers.iter().all(TextLayer::runs_without_host);
        graphs_on() && kernels_on() && on_card && alone && self.runs_on_fixed_buffers()
    }
}
