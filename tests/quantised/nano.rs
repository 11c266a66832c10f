//! What rounding costs a checkpoint that was trained: nano, asked about drawn rows of a seed that its training does not use.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use qwen3_vl::model::inputs::ModelInputs;
use qwen3_vl::model::session::Session;
use qwen3_vl::train::data::drawn;
use qwen3_vl::train::metrics::Score;
use qwen3_vl::train::synth::{Channel, Mixture, Questions, SynthOptions};
use qwen3_vl::verify::Divergence;
use qwen3_vl::{Prepared, Qwen3Vl, Request, Response};

use super::{SCHEMES, load};

/// The seed of the held-out questions in `assets/nano/README.md`.
const SEED: u64 = 1_000_003;
/// Tokens of an answer that run in one step: few, as they do where answers are written.
const STEP: usize = 8;

fn nano(quant: Option<&str>) -> Qwen3Vl {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/nano");
    load(&folder, "flex", quant).unwrap()
}

/// How many rows and which schemes: few, unless `QWEN3_VL_QUALITY_ROWS` asks for the whole table.
fn extent() -> (u64, &'static [&'static str]) {
    match std::env::var("QWEN3_VL_QUALITY_ROWS") {
        Ok(rows) => (rows.parse().unwrap(), &SCHEMES),
        Err(_) => (24, &["int8-g64", "int4-g32"]),
    }
}

/// Rows of all channels in turn.
fn questions(rows: u64) -> Vec<(Request, String)> {
    let questions = Questions::one_of(&Channel::ALL);
    let set = drawn(SynthOptions { rows, seed: SEED, mixture: Mixture::default(), questions });
    let samples = (0..set.len()).flat_map(|row| set.samples(row).unwrap());
    let asked = samples.flat_map(|sample| sample.questions().collect::<Vec<_>>());
    let request =
        |conversation| Request { conversation, ..Request::default() }.max_tokens(128).greedy();
    asked.map(|(conversation, answer)| (request(conversation), answer)).collect()
}

fn values(logits: Tensor<2>) -> Vec<f32> {
    logits.into_data().convert_dtype(DType::F32).try_to_vec().unwrap()
}

/// The logits that choose each token of `answer`, which is given.
fn logits(loaded: &Qwen3Vl, inputs: &ModelInputs, answer: &[u32]) -> Vec<f32> {
    let model = loaded.model();
    let mut session = Session::new(model);
    let mut all = values(session.prefill(model, inputs, inputs.ids.len()).unwrap().logits);
    for ids in answer[..answer.len() - 1].chunks(STEP) {
        all.extend(values(session.step(model, ids)));
    }
    all
}

/// One question as the model in f32 answers it.
struct Asked {
    request: Request,
    right: String,
    prepared: Prepared,
    answer: Vec<u32>,
    logits: Vec<f32>,
}

impl Asked {
    /// It, and whether the answer is right.
    fn of(plain: &Qwen3Vl, (request, right): (Request, String)) -> (Self, bool) {
        let prepared = plain.prepare(&request, &mut ()).unwrap();
        let mut asked = Self { request, right, prepared, answer: Vec::new(), logits: Vec::new() };
        let response = asked.answered(plain);
        let exact = asked.is_right(&response);
        asked.logits = logits(plain, &asked.prepared.chat.inputs, &response.token_ids);
        asked.answer = response.token_ids;
        (asked, exact)
    }

    fn answered(&self, by: &Qwen3Vl) -> Response {
        by.stream_prepared(self.prepared.clone(), &self.request).unwrap().finish().unwrap()
    }

    fn is_right(&self, response: &Response) -> bool {
        Score::new(&response.text, &self.right).exact
    }

    /// The logits that choose the same tokens.
    fn repeated(&self, by: &Qwen3Vl) -> Vec<f32> {
        logits(by, &self.prepared.chat.inputs, &self.answer)
    }
}

/// `cargo test --features ndarray --test quantised -- --nocapture trained` prints the table of the README.
#[test]
fn a_trained_checkpoint_keeps_its_answers() {
    let (rows, schemes) = extent();
    let plain = nano(None);
    let vocabulary = plain.model().config().text.vocab_size;
    let (asked, exact): (Vec<Asked>, Vec<bool>) =
        questions(rows).into_iter().map(|question| Asked::of(&plain, question)).unzip();
    let share = |exact: &[bool]| {
        exact.iter().filter(|exact| **exact).count() as f64 / exact.len().max(1) as f64
    };
    let expected: Vec<f32> = asked.iter().flat_map(|asked| asked.logits.clone()).collect();
    let whole = share(&exact);
    println!(
        "| weights of nano | mean KL | largest | same token | {} answers exact |",
        asked.len()
    );
    println!("|---|---|---|---|---|\n| f32 | | | | {:.1} % |", 100.0 * whole);
    for scheme in schemes {
        let rounded = nano(Some(scheme));
        let found: Vec<f32> = asked.iter().flat_map(|asked| asked.repeated(&rounded)).collect();
        let Divergence { mean_kl, max_kl, top1, .. } =
            Divergence::new(&expected, &found, vocabulary).unwrap();
        let exact: Vec<bool> =
            asked.iter().map(|asked| asked.is_right(&asked.answered(&rounded))).collect();
        println!(
            "| {scheme} | {mean_kl:.1e} | {max_kl:.1e} | {:.1} % | {:.1} % |",
            100.0 * top1,
            100.0 * share(&exact)
        );
        let (mean, same, lost) =
            if scheme.starts_with("int8") { (0.001, 0.98, 0.1) } else { (0.05, 0.9, 0.2) };
        assert!(mean_kl > 0.0 && mean_kl < mean && top1 > same, "{scheme}: {mean_kl}, {top1}");
        assert!(share(&exact) > whole - lost, "{scheme}: {} of {whole}", share(&exact));
    }
    assert!(whole > 0.4, "{whole}");
}
