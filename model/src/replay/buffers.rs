//! What a step of several sequences reads and writes when nothing of it may move, and the step itself.

use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData};
use qwen3_vl_backends::ops::{self, fixed};

use crate::cache::KvCache;
use crate::model::Qwen3VlModel;
use crate::norm::RmsNorm;
use crate::probe::Probe;
use crate::rope::Rotary;
use crate::text::positions::Position;
use crate::text::{Flow, Past, TextContext};

/// Positions that the tables have beyond the last slot: recording runs a few steps ahead.
const BEYOND: usize = 8;

/// A token that is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    pub id: u32,
    /// The slot that its keys and values take: the tokens held before it.
    pub place: usize,
    /// Its position on all axes, which pictures make smaller than the place.
    pub position: u32,
}

impl Next {
    /// What a row runs that has nothing to do: a token that sees no other.
    pub const IDLE: Self = Self { id: 0, place: 0, position: 0 };
}

/// Keys, values and the next tokens of `rows` sequences. A clone is the same memory where steps write in place.
#[derive(Debug, Clone)]
pub(crate) struct Buffers {
    layers: Vec<Held>,
    /// `[rows, 1, 1, 2k + 3]` in f32: what the last step found, as [`ops::largest_of_rows`] gives it, and behind it place,
    /// position and id of the next token. Its id is a guess: who samples has the last word.
    board: Tensor<4>,
    /// How ids are drawn from what is found, and the chance of the next draw, see [`fixed::draw_of_rows`]: `[rows, 1, 1, 4]` and
    /// `[rows, 1, 1, 1]`.
    terms: Tensor<4>,
    chances: Tensor<4>,
    /// The place of a row on the board, `[rows]`.
    top: Tensor<1>,
    /// Of every position, `[slots + BEYOND, 1, half]`, in the compute dtype.
    tables: Rotary,
    k: usize,
}

/// Keys and values of a layer, `[rows, kv_heads, slots, head_dim]` each.
pub(crate) type Held = [Tensor<4>; 2];

/// The past of a step, which goes on in place: one token of every sequence.
#[derive(Debug)]
pub struct FixedPast<'a> {
    layers: &'a mut [Held],
    /// The slot of every row's token, `[rows]` in f32.
    at: Tensor<1>,
}

impl FixedPast<'_> {
    /// Norms and rotates queries `[rows, heads, dim]` and keys `[rows, kv_heads, dim]`, which join the past with their values, and
    /// attends to it; `[rows, heads · dim]`.
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        new: [Tensor<3>; 3],
        norms: [&RmsNorm; 2],
        rotary: &Rotary,
    ) -> Tensor<2> {
        let (held, epsilon) = (self.layers[layer].clone(), norms[0].epsilon());
        let weights = norms.map(|norm| norm.weight.val());
        let (q, held) = fixed::enter(new, weights, rotary.tables(), epsilon, held, self.at.clone());
        let [keys, values] = held.clone();
        self.layers[layer] = held;
        let out = fixed::attention_up_to(q.unsqueeze_dim::<4>(2), keys, values, self.at.clone());
        out.squeeze_dim::<3>(2).flatten::<2>(1, 2)
    }
}

impl Buffers {
    /// Buffers of `slots` tokens that begin with what `caches` hold, and of idle rows up to a power of two, for a model whose `k`
    /// largest logits decide.
    pub fn of(model: &Qwen3VlModel, caches: &[&KvCache], slots: usize, k: usize) -> Self {
        let layer = |layer| {
            let held = caches.iter().map(|cache| cache.held(layer));
            let (keys, values): (Vec<_>, Vec<_>) = held.unzip();
            [keys, values].map(|rows| stacked(rows, slots))
        };
        let layers: Vec<Held> = (0..model.config().text.layers).map(layer).collect();
        Self::with(model, layers, k)
    }

    /// The same with room for `slots` tokens, elsewhere.
    pub fn grown(&self, model: &Qwen3VlModel, slots: usize) -> Self {
        let layer = |held: &Held| held.clone().map(|rows| widened(vec![rows], slots));
        let terms = self.terms.clone();
        Self { terms, ..Self::with(model, self.layers.iter().map(layer).collect(), self.k) }
    }

    fn with(model: &Qwen3VlModel, layers: Vec<Held>, k: usize) -> Self {
        let ([rows, _, slots, _], device) = (layers[0][0].dims(), model.device());
        let positions: Vec<_> = (0..(slots + BEYOND) as u32).map(|at| Position([at; 3])).collect();
        let tables = model.mrope.rotary(&positions, model.precision().compute, &device);
        let on = (&device, DType::F32);
        Self {
            layers,
            board: Tensor::zeros([rows, 1, 1, 2 * k + 3], on),
            terms: Tensor::zeros([rows, 1, 1, 4], on),
            chances: Tensor::zeros([rows, 1, 1, 1], on),
            top: Tensor::zeros([rows], on),
            tables,
            k,
        }
    }

    /// Sequences that there is room for.
    pub fn lanes(&self) -> usize {
        self.layers[0][0].dims()[0]
    }

    /// Tokens that there is room for.
    pub fn slots(&self) -> usize {
        self.layers[0][0].dims()[2]
    }

    /// Puts what `cache` holds into a lane, in place.
    pub fn enter(&mut self, lane: usize, cache: &KvCache) {
        let (slots, on) = (self.slots(), (&self.top.device(), DType::F32));
        let at = Tensor::full([slots], lane as f32, on);
        // One row of every batch is written at a time: slots are batches here, and lanes rows.
        let turned = |rows: Tensor<4>| rows.permute([2, 1, 0, 3]);
        for (layer, held) in self.layers.iter_mut().enumerate() {
            let (keys, values) = cache.held(layer);
            for (into, parts) in held.iter_mut().zip([keys, values]) {
                let rows = turned(widened(parts, slots));
                *into = turned(fixed::write_rows(turned(into.clone()), rows, at.clone()));
            }
        }
    }

    /// Writes the tokens that the next step runs onto the board.
    pub fn put(&mut self, next: &[Next]) {
        let row = |next: &Next| {
            let mut row = vec![0.0; 2 * self.k];
            row.extend([next.place as f32, next.position as f32, next.id as f32]);
            row
        };
        let board = uploaded(next.iter().flat_map(row).collect(), &self.board);
        self.board = self.written(&self.board, board);
    }

    /// Writes down how the next ids are drawn, of every row.
    pub fn set_terms(&mut self, terms: &[[f32; 4]]) {
        let terms = uploaded(terms.concat(), &self.terms);
        self.terms = self.written(&self.terms, terms);
    }

    /// Writes down the chances of the next draws, of every row; where nothing is drawn, there is nothing to do.
    pub fn set_chances(&mut self, chances: Vec<f32>) {
        if self.draws() {
            let chances = uploaded(chances, &self.chances);
            self.chances = self.written(&self.chances, chances);
        }
    }

    /// Whether any row may take another token than the best.
    fn draws(&self) -> bool {
        self.k > 1
    }

    /// The next ids for what was found, `[rows, 1]`.
    fn next_ids(&self, found: &Tensor<2>) -> Tensor<2> {
        let [rows, _] = found.dims();
        if !self.draws() {
            return found.clone().narrow(1, self.k, 1);
        }
        let (terms, chances) = (self.terms.clone(), self.chances.clone());
        let (terms, chances) = (terms.reshape([rows, 4]), chances.reshape([rows]));
        fixed::draw_of_rows(found.clone(), terms, chances).unsqueeze_dim(1)
    }

    /// `rows` in the memory of `into`.
    fn written(&self, into: &Tensor<4>, rows: Tensor<4>) -> Tensor<4> {
        fixed::write_rows(into.clone(), rows, self.top.clone())
    }

    /// What the host reads: of every row the largest logits, their ids, and place, position and id of the next token.
    pub fn board(&self) -> Tensor<4> {
        self.board.clone()
    }

    /// How many of the largest logits are on the board.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The slots `range` of keys and values of a layer and a sequence, `[1, kv_heads, n, head_dim]` each.
    pub fn rows(&self, layer: usize, lane: usize, range: Range<usize>) -> Held {
        let part = |rows: Tensor<4>| rows.narrow(0, lane, 1).narrow(2, range.start, range.len());
        self.layers[layer].clone().map(part)
    }
}

/// Values of the shape of `like`, beside it.
fn uploaded(values: Vec<f32>, like: &Tensor<4>) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values, like.dims()), (&like.device(), DType::F32))
}

/// The parts of every sequence as [`widened`], and zeros for idle ones, up to a power of two of them.
fn stacked(rows: Vec<Vec<Tensor<4>>>, slots: usize) -> Tensor<4> {
    let idle = rows.len().next_power_of_two() - rows.len();
    let mut all: Vec<Tensor<4>> = rows.into_iter().map(|parts| widened(parts, slots)).collect();
    if idle > 0 {
        let [_, heads, slots, dim] = all[0].dims();
        all.push(Tensor::zeros([idle, heads, slots, dim], (&all[0].device(), all[0].dtype())));
    }
    if all.len() == 1 { all.remove(0) } else { Tensor::cat(all, 0) }
}

/// `parts [rows, heads, n, dim]`, one after the other, with zeros behind them up to `slots`.
fn widened(mut parts: Vec<Tensor<4>>, slots: usize) -> Tensor<4> {
    let [rows, heads, _, dim] = parts[0].dims();
    let held: usize = parts.iter().map(|part| part.dims()[2]).sum();
    let like = (&parts[0].device(), parts[0].dtype());
    parts.push(Tensor::zeros([rows, heads, slots - held, dim], like));
    Tensor::cat(parts, 2)
}

impl Qwen3VlModel {
    /// Runs the tokens on the board, and writes there what comes after them; logits are `[rows, vocabulary]`. Nothing is read
    /// back or uploaded on the way, and the same is launched every time.
    pub(crate) fn step_in_place(&self, buffers: &mut Buffers) -> Tensor<2> {
        let (k, rows) = (buffers.k, buffers.top.dims()[0]);
        let column = |i: usize| buffers.board.clone().narrow(3, i, 1).reshape([rows]);
        let (at, position, id) = (column(2 * k), column(2 * k + 1), column(2 * k + 2));
        let places = position.clone().int();
        let row = |table: &Tensor<3>| table.clone().select(0, places.clone());
        let rotary = Rotary { cos: row(&buffers.tables.cos), sin: row(&buffers.tables.sin) };
        let context = TextContext { rotary, lengths: vec![1; rows], deepstack: Vec::new() };
        let flow = Flow { hidden: self.language_model.embed(id.int()), context, steps: rows };
        let mut past = FixedPast { layers: &mut buffers.layers, at: at.clone() };
        let hidden = self.through(flow, &mut Past::Fixed(&mut past), &mut Probe::off());
        let logits = self.logits(hidden);
        let found = ops::largest_of_rows(logits.clone(), k);
        let further = |x: Tensor<1>| (x + 1.0).unsqueeze_dim::<2>(1);
        let next = buffers.next_ids(&found);
        let board = Tensor::cat(vec![found, further(at), further(position), next], 1);
        buffers.board = buffers.written(&buffers.board, board.reshape([rows as i32, 1, 1, -1]));
        logits
    }
}
