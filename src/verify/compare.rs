//! Stage by stage: maximal error, cosine, verdict.

use super::reference::{Floats, Reference, ReferenceError};
use super::rows::{Computed, Row};
use super::{Tolerance, VerifyError};

/// What kind of comparison a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageKind {
    /// Integers, which must be equal.
    Integers,
    /// Floats within a bound.
    Floats,
}

/// One compared tensor.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Its key in the reference file.
    pub key: String,
    pub kind: StageKind,
    /// Largest difference over the largest reference value; for integers the number of different values.
    pub error: f64,
    /// Cosine of the angle between the two tensors; 1 for integers.
    pub cosine: f64,
    /// The bound on `error`, or on `cosine` in lower precision.
    pub bound: f64,
    pub passed: bool,
}

impl Stage {
    /// How far beyond its bound, as a factor.
    pub fn excess(&self) -> f64 {
        if self.bound > 0.0 { self.error / self.bound } else { self.error }
    }
}

/// Compares everything that both sides have.
pub fn compare(
    reference: &Reference,
    computed: &Computed,
    tolerance: Tolerance,
) -> Result<Vec<Stage>, VerifyError> {
    let mut stages = integer_stages(reference, computed, tolerance)?;
    for key in reference.keys()? {
        let Some((expected, found)) = float_pair(reference, computed, &key)? else { continue };
        stages.push(float_stage(key, &expected, &found, tolerance));
    }
    stages.sort_by_key(|stage| order(&stage.key));
    Ok(stages)
}

/// Order of computation: integers, vision, text, logits, ids.
fn order(key: &str) -> (u8, String, usize) {
    let group = match key {
        "position_ids" | "rope_deltas" => 0,
        _ if key.starts_with("vision.") => 1,
        _ if key.starts_with("text.") => 2,
        "logits" => 3,
        _ => 4,
    };
    let (name, index) = match key.rsplit_once('.') {
        Some((name, index)) => match index.parse() {
            Ok(index) => (name, index),
            Err(_) => (key, 0),
        },
        None => (key, 0),
    };
    (group, name.to_owned(), index)
}

/// Reference and computed values of one tensor.
pub(super) type Pair = (Vec<f32>, Vec<f32>);

/// Reference and computed values of a float tensor, restricted to live rows.
pub(super) fn float_pair(
    reference: &Reference,
    computed: &Computed,
    key: &str,
) -> Result<Option<Pair>, ReferenceError> {
    if let Some(found) = computed.vision.get(key) {
        let expected = reference.floats(key)?.map(|t| t.values).unwrap_or_default();
        return Ok(Some((expected, found.values.clone())));
    }
    if !computed.rows.iter().all(|row| row.text.contains_key(key)) {
        return Ok(None);
    }
    let Some(tensor) = reference.floats(key)? else { return Ok(None) };
    let batch = computed.rows.len();
    let mut expected = Vec::new();
    let mut found = Vec::new();
    for (index, row) in computed.rows.iter().enumerate() {
        expected.extend(live_rows(&tensor, index, batch, row));
        found.extend_from_slice(&row.text[key].values);
    }
    Ok(Some((expected, found)))
}

/// Rows of a `[batch, columns, ..]` or `[batch · columns, ..]` tensor that are not padding.
fn live_rows(tensor: &Floats, index: usize, batch: usize, row: &Row) -> Vec<f32> {
    let flat = tensor.shape[0] != batch || tensor.shape.len() == 2;
    let rows = if flat { tensor.shape[0] } else { batch * tensor.shape[1] };
    let width = tensor.values.len() / rows.max(1);
    let columns = rows / batch;
    let at = |column: &usize| {
        let start = (index * columns + column) * width;
        tensor.values[start..start + width].iter().copied()
    };
    row.live.iter().flat_map(at).collect()
}

fn float_stage(key: String, expected: &[f32], found: &[f32], tolerance: Tolerance) -> Stage {
    if key.contains("router_index") {
        return count_stage(key, differing(expected, found));
    }
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs() as f64));
    let pairs = || expected.iter().zip(found).map(|(a, b)| (*a as f64, *b as f64));
    let difference = match expected.len() == found.len() {
        true => pairs().fold(0.0f64, |m, (a, b)| m.max(distance(a, b))),
        false => f64::INFINITY,
    };
    let cosine = cosine(pairs());
    let scale = if key.contains("rope_") || largest == 0.0 { 1.0 } else { largest };
    let error = difference / scale;
    let (bound, passed) = match tolerance {
        Tolerance::Exact => (exact_bound(&key), error <= exact_bound(&key)),
        Tolerance::Relative(bound) => (bound, error <= bound),
        Tolerance::Cosine(bound) => (bound, cosine >= bound && difference.is_finite()),
    };
    Stage { key, kind: StageKind::Floats, error, cosine, bound, passed }
}

/// NaN is infinitely far from everything.
fn distance(a: f64, b: f64) -> f64 {
    let distance = (a - b).abs();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

fn cosine(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut dot, mut a2, mut b2) = (0.0, 0.0, 0.0);
    for (a, b) in pairs {
        dot += a * b;
        a2 += a * a;
        b2 += b * b;
    }
    if a2 == 0.0 && b2 == 0.0 { 1.0 } else { dot / (a2 * b2).sqrt() }
}

/// The bounds of f32 on the CPU.
fn exact_bound(key: &str) -> f64 {
    match key {
        _ if key.contains("rope_") => 1e-6,
        _ if key.ends_with("patch_embed") || key.ends_with("block_in") => 2e-6,
        _ => 1e-5,
    }
}

fn integer_stages(
    reference: &Reference,
    computed: &Computed,
    tolerance: Tolerance,
) -> Result<Vec<Stage>, ReferenceError> {
    let mut stages = Vec::new();
    if let Some(tensor) = reference.integers("position_ids")? {
        let columns = *tensor.shape.last().unwrap_or(&0);
        let complete = tensor.values.len() == 3 * computed.rows.len() * columns;
        let last = computed.rows.iter().flat_map(|row| row.live.last()).max();
        if !complete || last.is_some_and(|last| *last >= columns) {
            stages.push(count_stage("position_ids".into(), tensor.values.len().max(1)));
            return Ok(stages);
        }
        let at = |axis: usize, row: usize, column: usize| {
            tensor.values[(axis * computed.rows.len() + row) * columns + column]
        };
        let mut different = 0;
        for (index, row) in computed.rows.iter().enumerate() {
            for (axis, found) in row.positions.iter().enumerate() {
                let expected = row.live.iter().map(|column| at(axis, index, *column));
                different += expected.zip(found).filter(|(a, b)| a != *b).count();
            }
        }
        stages.push(count_stage("position_ids".into(), different));
    }
    if let Some(tensor) = reference.integers("rope_deltas")? {
        let found: Vec<i64> = computed.rows.iter().map(|row| row.delta).collect();
        stages.push(count_stage("rope_deltas".into(), differing(&tensor.values, &found)));
    }
    if let Some(tensor) = reference.integers("greedy_ids")? {
        let ids = |pick: fn(&Row) -> &Vec<i64>| -> Vec<i64> {
            computed.rows.iter().flat_map(|row| pick(row).clone()).collect()
        };
        let cached = differing(&tensor.values, &ids(|row| &row.greedy));
        let uncached = differing(&ids(|row| &row.greedy), &ids(|row| &row.greedy_uncached));
        // In lower precision a narrow margin may decide otherwise: reported, not judged.
        let judge = !matches!(tolerance, Tolerance::Cosine(_));
        for (key, different) in
            [("greedy_ids", cached), ("greedy_ids (cache = no cache)", uncached)]
        {
            let stage = count_stage(key.into(), different);
            stages.push(Stage { passed: stage.passed || !judge, ..stage });
        }
    }
    Ok(stages)
}

fn differing<T: PartialEq>(expected: &[T], found: &[T]) -> usize {
    let missing = expected.len().abs_diff(found.len());
    missing + expected.iter().zip(found).filter(|(a, b)| a != b).count()
}

fn count_stage(key: String, different: usize) -> Stage {
    Stage {
        key,
        kind: StageKind::Integers,
        error: different as f64,
        cosine: 1.0,
        bound: 0.0,
        passed: different == 0,
    }
}
