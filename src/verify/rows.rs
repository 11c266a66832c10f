//! The model's side of a comparison: each row of the reference batch is run alone, without padding.

use std::collections::{BTreeMap, VecDeque};

use burn::tensor::{DType, TensorData};
use qwen3_vl_backends::device::lost;
use qwen3_vl_model::Qwen3VlModel;
use qwen3_vl_model::inputs::{InputError, MediaItem, ModelInputs, Pixels, PlaceholderIds};
use qwen3_vl_model::probe::Probe;
use qwen3_vl_model::session::Session;

use super::VerifyError;
use super::reference::{Floats, Reference};

/// What the model computed for one row.
pub struct Row {
    /// Columns of the batch that are not padding.
    pub live: Vec<usize>,
    /// Three axes, one entry per live column.
    pub positions: [Vec<i64>; 3],
    pub delta: i64,
    /// Greedy ids with the cache.
    pub greedy: Vec<i64>,
    /// Greedy ids by full recomputation, as many as `greedy`.
    pub greedy_uncached: Vec<i64>,
    /// Intermediate tensors by key, without `vision.*`.
    pub text: BTreeMap<String, Floats>,
}

/// All rows, and the vision tensors of all rows one after the other.
pub struct Computed {
    pub rows: Vec<Row>,
    pub vision: BTreeMap<String, Floats>,
}

/// Runs the model on every row.
pub fn compute(model: &Qwen3VlModel, reference: &Reference) -> Result<Computed, VerifyError> {
    let ids = reference.rows("in.input_ids")?;
    let masks = reference.rows("in.attention_mask")?;
    let steps =
        reference.integers("greedy_ids")?.map_or(0, |t| t.shape.get(1).copied().unwrap_or(0));
    let patch_len = model.config().vision.patch_len();
    let pixels = |values, grids| reference.pixels(values, grids, patch_len);
    let mut images = VecDeque::from(pixels("in.pixel_values", "in.image_grid_thw")?.items);
    let mut videos = VecDeque::from(pixels("in.pixel_values_videos", "in.video_grid_thw")?.items);
    let tokens = PlaceholderIds::of(model.config());
    let mut computed = Computed { rows: Vec::new(), vision: BTreeMap::new() };
    for (ids, mask) in ids.iter().zip(&masks) {
        let live: Vec<usize> = (0..ids.len()).filter(|at| mask.get(*at) == Some(&1)).collect();
        let ids: Vec<u32> = live.iter().map(|at| ids[*at] as u32).collect();
        let images = take(&mut images, &ids, tokens.image, tokens.merge_size);
        let videos = take(&mut videos, &ids, tokens.video, tokens.merge_size);
        let inputs = ModelInputs::from_ids(ids, images, videos, tokens)?;
        computed.add(model, &inputs, live, steps)?;
    }
    Ok(computed)
}

impl Computed {
    fn add(
        &mut self,
        model: &Qwen3VlModel,
        inputs: &ModelInputs,
        live: Vec<usize>,
        steps: usize,
    ) -> Result<(), InputError> {
        let mut probe = Probe::on();
        let mut prompt = model.prepare(inputs, &mut probe)?;
        let (rows, mut cache) = (0..prompt.len(), model.new_cache());
        let hidden = model.prefill(&mut prompt, rows, &mut cache, &mut probe);
        probe.enter("");
        probe.record("logits", &model.logits(hidden));
        let mut text = BTreeMap::new();
        for (key, data) in probe.into_records() {
            let floats = floats(data);
            match key.starts_with("vision.") {
                true => append(self.vision.entry(key).or_insert_with(|| floats.empty()), floats),
                false => drop(text.insert(key, floats)),
            }
        }
        let axis = |a: usize| prompt.positions().prompt.iter().map(|p| p.0[a] as i64).collect();
        let greedy = greedy(model, inputs, steps)?;
        self.rows.push(Row {
            live,
            positions: [axis(0), axis(1), axis(2)],
            delta: prompt.positions().delta(),
            greedy_uncached: greedy_uncached(model, inputs, &greedy)?,
            greedy,
            text,
        });
        Ok(())
    }
}

/// As many of the items as the placeholders of `ids` need; what does not fit is found by `ModelInputs::from_ids`.
fn take(items: &mut VecDeque<MediaItem>, ids: &[u32], token: u32, merge: usize) -> Pixels {
    let mut open = ids.iter().filter(|id| **id == token).count();
    let mut taken = Vec::new();
    while let Some(item) = items.pop_front_if(|_| open > 0) {
        open = open.saturating_sub(item.grid.tokens(merge));
        taken.push(item);
    }
    Pixels { items: taken }
}

fn greedy(
    model: &Qwen3VlModel,
    inputs: &ModelInputs,
    steps: usize,
) -> Result<Vec<i64>, InputError> {
    if steps == 0 {
        return Ok(Vec::new());
    }
    let mut session = Session::new(model);
    let mut logits = session.prefill(model, inputs, inputs.ids.len())?.logits;
    let mut ids = vec![best(logits)];
    while ids.len() < steps {
        logits = session.step(model, &[ids[ids.len() - 1] as u32]);
        ids.push(best(logits));
    }
    Ok(ids)
}

/// Repeats the choice of every token of `greedy` from a full forward pass over prompt and answer: no cache,
/// the oracle of the cached path.
fn greedy_uncached(
    model: &Qwen3VlModel,
    inputs: &ModelInputs,
    greedy: &[i64],
) -> Result<Vec<i64>, InputError> {
    if greedy.is_empty() {
        return Ok(Vec::new());
    }
    let mut whole = inputs.clone();
    whole.ids.extend(greedy[..greedy.len() - 1].iter().map(|id| *id as u32));
    let mut prompt = model.prepare(&whole, &mut Probe::off())?;
    let (rows, mut cache) = (0..prompt.len(), model.new_cache());
    let hidden = model.prefill(&mut prompt, rows, &mut cache, &mut Probe::off());
    let first = inputs.ids.len() - 1;
    let logits = model.logits(hidden.narrow(0, first, greedy.len()));
    let width = logits.dims()[1];
    let values = floats(lost::read(logits)).values;
    Ok(values.chunks(width).map(argmax).collect())
}

fn best(logits: burn::tensor::Tensor<2>) -> i64 {
    argmax(&floats(lost::read(logits)).values)
}

/// The first largest value, as torch's argmax on the CPU.
fn argmax(values: &[f32]) -> i64 {
    let mut best = 0;
    for (at, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = at;
        }
    }
    best as i64
}

fn floats(data: TensorData) -> Floats {
    let shape = data.shape().to_vec();
    let values = data.convert_dtype(DType::F32).try_to_vec().expect("converted to f32");
    Floats { shape, values }
}

impl Floats {
    fn empty(&self) -> Self {
        let mut shape = self.shape.clone();
        shape[0] = 0;
        Self { shape, values: Vec::new() }
    }
}

fn append(all: &mut Floats, more: Floats) {
    all.shape[0] += more.shape[0];
    all.values.extend(more.values);
}
