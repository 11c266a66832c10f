//! Answers whose steps the host does not wait for: keys, values and the next tokens stay where they are on the device, so
//! that a step is recorded once ([`qwen3_vl_backends::graph`]) and replayed, and the next step is launched before what the last one
//! found is read. It runs the token that the device takes to be next: the best, or one that it draws with the number that the
//! sampler will draw with. The sampler decides all the same, and where it chooses another token, that step is launched again.
//!
//! There is room for a power of two of sequences, and of tokens of each. When it is used up, all moves to twice as much, and is
//! recorded again. The caches hold the prompts in the meantime, and get the rest when an answer is over.

mod buffers;
mod lane;
mod limits;

use std::iter::repeat;

use burn::tensor::Tensor;
use qwen3_vl_backends::graph::{Reading, Recording};

pub use buffers::FixedPast;
use buffers::{Buffers, Held, Next};
use lane::Lane;
pub(crate) use lane::{Entrant, Terms, Turn, first_slots};
use limits::bytes;
pub use limits::recorded_bytes;

use crate::cache::KvCache;
use crate::generate::Logits;
use crate::model::Qwen3VlModel;

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
    /// How each of them draws.
    draws: Vec<[f32; 4]>,
    /// Most bytes of keys and values.
    most: u64,
    /// Whether the step of the tokens behind those that were run is launched, and which ids it runs.
    ahead: bool,
    guesses: Vec<u32>,
    /// Whether the last step had been launched ahead, of the right tokens.
    foreseen: bool,
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
            Stepping::Auto if !worth_it || !model.records_steps(entrants.len()) => return None,
            Stepping::Auto => true,
            Stepping::Fixed => false,
        };
        if !model.runs_on_fixed_buffers() {
            return None;
        }
        let slots = entrants.iter().map(Entrant::slots).max()?;
        let most = terms.most.min(model.most_held());
        if bytes(model, entrants.len().next_power_of_two(), slots) > most {
            return None;
        }
        let k = deciding.next_power_of_two().min(model.config().text.vocab_size);
        let caches: Vec<&KvCache> = entrants.iter().map(|entrant| entrant.cache).collect();
        let mut buffers = Buffers::of(model, &caches, slots, k);
        let lane = |entrant: &Entrant<'_>| Some(entrant.lane());
        let mut lanes: Vec<Option<Lane>> = entrants.iter().map(lane).collect();
        lanes.resize_with(buffers.lanes(), || None);
        let draws = entrants.iter().map(|entrant| entrant.sampler.params().terms());
        let draws: Vec<_> = draws.chain(repeat([0.0; 4])).take(lanes.len()).collect();
        buffers.set_terms(&draws);
        let first = lanes.iter().map(|lane| lane.as_ref().map_or(Next::IDLE, |lane| lane.first));
        let recording = match recorded {
            true => Some(record(model, &mut buffers, &first.collect::<Vec<_>>())?),
            false => None,
        };
        Some(Self {
            model,
            buffers,
            recording,
            lanes,
            draws,
            most,
            ahead: false,
            guesses: Vec::new(),
            foreseen: false,
            reach: 0,
            logits: None,
        })
    }

    /// Rows of a step.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> u64 {
        bytes(self.model, self.lanes(), self.buffers.slots())
    }

    /// Whether one more sequence could join that needs so many slots at first, and of whose logits the `deciding` largest decide.
    pub fn takes(&self, slots: usize, deciding: usize) -> bool {
        slots <= self.buffers.slots() && deciding <= self.buffers.k()
    }

    /// Takes one more entrant over into an idle lane, which is returned; nothing where all are taken. From now on there may be `most`
    /// bytes of keys and values.
    pub fn join(&mut self, entrant: &Entrant<'_>, most: u64) -> Option<usize> {
        self.most = most.min(self.model.most_held());
        let lane = self.lanes.iter().position(Option::is_none)?;
        self.buffers.enter(lane, entrant.cache);
        self.draws[lane] = entrant.sampler.params().terms();
        self.buffers.set_terms(&self.draws);
        self.lanes[lane] = Some(entrant.lane());
        // The step ahead does not run its token.
        self.ahead = false;
        Some(lane)
    }

    /// Whether steps are replayed.
    pub fn is_recorded(&self) -> bool {
        self.recording.is_some()
    }

    /// Whether the last step had been launched before the host knew its tokens.
    pub fn was_foreseen(&self) -> bool {
        self.foreseen
    }

    /// For every lane the logits after its token, which follows those that were run. `goes_on` says whether there is another step
    /// after this one, as far as is known. Nothing, and all count as not run, where the logits are no numbers, or steps cannot be
    /// replayed any more.
    pub fn after(
        &mut self,
        turns: &[Option<Turn<'_>>],
        goes_on: bool,
    ) -> Option<Vec<Option<Logits>>> {
        self.recording.as_ref().is_none_or(Recording::is_here).then_some(())?;
        self.foreseen = std::mem::take(&mut self.ahead) && self.has_guessed(turns);
        if !self.foreseen {
            self.run(turns)?;
        }
        let (reading, logits) = (Reading::of(self.buffers.board()), self.logits.clone()?);
        if goes_on && self.reach < self.buffers.slots() {
            self.launch(turns, 1)?;
            self.ahead = true;
            // Who reads afterwards is told what went wrong.
            let _ = self.model.device().flush();
        }
        let found = self.found(&reading.wait(), &logits, turns)?;
        if self.is_recorded() && self.ahead && !is_decided(&found, turns) {
            // All logits are wanted, which the step ahead overwrites.
            self.ahead = false;
            self.run(turns)?;
        }
        for (lane, turn) in self.lanes.iter_mut().zip(turns) {
            if let (Some(lane), Some(turn)) = (lane, turn) {
                lane.ids.push(turn.id);
            }
        }
        Some(found)
    }

    /// Whether the step ahead runs these tokens.
    fn has_guessed(&self, turns: &[Option<Turn<'_>>]) -> bool {
        let mut pairs = self.guesses.iter().zip(turns);
        pairs.all(|(guess, turn)| turn.is_none_or(|turn| turn.id == *guess))
    }

    /// What stands on the board of the rows that have a token; nothing where something is no number.
    fn found(
        &mut self,
        board: &[f32],
        logits: &Tensor<2>,
        turns: &[Option<Turn<'_>>],
    ) -> Option<Vec<Option<Logits>>> {
        let (k, width) = (self.buffers.k(), board.len() / self.lanes.len());
        self.guesses = board.chunks(width).map(|row| row[width - 1] as u32).collect();
        let row = |(row, (board, turn)): (usize, (&[f32], &Option<_>))| match turn {
            None => Some(None),
            Some(_) if !board[0].is_finite() => None,
            Some(_) => Some(Some(Logits::found(&board[..2 * k], (logits.clone(), row)))),
        };
        board.chunks(width).zip(turns).enumerate().map(row).collect()
    }

    /// The tokens behind those that were run, in every row.
    fn next(&self, turns: &[Option<Turn<'_>>]) -> Vec<Next> {
        let turns = turns.iter().copied().chain(repeat(None));
        let next = |(lane, turn): (&Option<Lane>, Option<Turn<'_>>)| match (lane, turn) {
            (Some(lane), Some(turn)) => lane.next(turn.id),
            _ => Next::IDLE,
        };
        self.lanes.iter().zip(turns).map(next).collect()
    }

    /// Launches the step of these tokens; nothing where there is no room for it, or it cannot be replayed.
    fn run(&mut self, turns: &[Option<Turn<'_>>]) -> Option<()> {
        let next = self.next(turns);
        self.reach = next.iter().map(|next| next.place).max()?;
        self.make_room(&next)?;
        self.buffers.put(&next);
        self.launch(turns, 0)
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

    /// Launches a step whose logits decide the token after the next `ahead` ones of those who sample; nothing where it is recorded
    /// and cannot be replayed.
    fn launch(&mut self, turns: &[Option<Turn<'_>>], ahead: usize) -> Option<()> {
        let chance = |turn: &Option<Turn<'_>>| turn.map_or(0.0, |turn| turn.sampler.peek()[ahead]);
        self.buffers.set_chances(turns.iter().map(chance).collect());
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

/// Whether what was found decides all next tokens.
fn is_decided(found: &[Option<Logits>], turns: &[Option<Turn<'_>>]) -> bool {
    let mut pairs = found.iter().zip(turns).filter_map(|(found, turn)| found.as_ref().zip(*turn));
    let decides = |(found, turn): (&Logits, Turn<'_>)| {
        found.best().is_some_and(|best| turn.sampler.is_decided_by(best))
    };
    pairs.all(decides)
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
