//! Long prompts: the same logits as transformers at 60,000 tokens, however the prompt is cut.

mod common;

use burn::tensor::{DType, Tensor};
use qwen3_vl::Qwen3Vl;
use qwen3_vl::model::cache::KvDtype;
use qwen3_vl::model::inputs::ModelInputs;
use qwen3_vl::model::session::Session;
use safetensors::SafeTensors;

const LENGTH: usize = 60_000;
const ROWS: usize = 4;

/// The same formula stands in `tests/generate/long.py`.
fn ids() -> Vec<u32> {
    (0..LENGTH).map(|i| 3 + ((i * 7919 + i / 97 * 31) % 450) as u32).collect()
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().convert_dtype(DType::F32).try_to_vec().unwrap()
}

fn expected(model: &str) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(common::fixtures().join("long.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(model).unwrap().data().to_vec();
    let (floats, _) = data.as_chunks::<4>();
    let floats: Vec<f32> = floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    floats.chunks(floats.len() / ROWS).map(<[f32]>::to_vec).collect()
}

fn error(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

/// Prefill in chunks up to the row, then tokens one by one: both are compared with the one pass of transformers.
fn check(model: &Qwen3Vl, name: &str, chunk: usize, tolerance: f32) {
    let (ids, expected) = (ids(), expected(name));
    let mut session = Session::new(model.model());
    let prompt = ModelInputs::text(ids[..LENGTH - ROWS + 1].to_vec());
    let first = session.prefill(model.model(), &prompt, chunk).unwrap().logits;
    let mut found = vec![values(first)];
    for id in &ids[LENGTH - ROWS + 1..] {
        found.push(values(session.step(model.model(), &[*id])));
    }
    for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = error(found, expected);
        assert!(error < tolerance, "{name}, row {row}: {error:.1e} relative");
    }
}

fn flex(name: &str) -> Option<Qwen3Vl> {
    if !common::cpu_devices().iter().any(|device| device == "flex") {
        println!("skipped: 60,000 tokens take too long on any device but flex");
        return None;
    }
    Some(common::load(&common::fixtures().join(name), "flex"))
}

#[test]
fn sixty_thousand_tokens_as_transformers() {
    let Some(model) = flex("dense_untied") else { return };
    check(&model, "dense_untied", 4096, 1e-4);
}

#[test]
fn yarn_holds_at_sixty_thousand_tokens() {
    let Some(model) = flex("dense_yarn") else { return };
    check(&model, "dense_yarn", 1000, 1e-4);
}

/// A cache of bytes loses little even over a long text.
#[test]
fn bytes_hold_a_long_text() {
    let Some(model) = flex("dense_tied") else { return };
    let prompt = ModelInputs::text(ids()[..8192].to_vec());
    let last = |storage| {
        let model = model.model().clone().with_cache_dtype(storage);
        values(Session::new(&model).prefill(&model, &prompt, 2048).unwrap().logits)
    };
    let (exact, small) = (last(KvDtype::Auto), last(KvDtype::Int8));
    assert!(error(&small, &exact) < 0.02, "{}", error(&small, &exact));
}
