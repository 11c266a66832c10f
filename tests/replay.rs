//! Steps on fixed buffers, launched anew or recorded once and replayed, give the tokens of ordinary ones, and leave the session as
//! these do.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use burn::tensor::{DType, Tensor};
use qwen3_vl::backends::graph::Recording;
use qwen3_vl::model::batch::{Batch, BatchEvent, BatchOptions, SequenceId};
use qwen3_vl::model::cache::{KvCache, KvDtype};
use qwen3_vl::model::generate::{GenerateOptions, Generation, SessionSlot};
use qwen3_vl::model::inputs::ModelInputs;
use qwen3_vl::model::replay::Stepping;
use qwen3_vl::model::sample::SamplingParams;
use qwen3_vl::model::session::Session;
use qwen3_vl::weights::Rounding;
use qwen3_vl::{LoadOptions, Qwen3Vl};

fn load(model: &str, device: &str) -> Qwen3Vl {
    common::load(&common::fixtures().join(model), device)
}

/// With weights of eight bits, those of experts too: rows of theirs are whole words, as kernels want them.
fn rounded(model: &str, device: &str) -> Qwen3Vl {
    let options = LoadOptions {
        device: Some(device.to_owned()),
        dtype: "f32".parse().unwrap(),
        quant: Some(Rounding::new("int8-g32".parse().unwrap())),
        ..LoadOptions::default()
    };
    Qwen3Vl::load(common::fixtures().join(model).to_str().unwrap(), options).unwrap()
}

fn text() -> ModelInputs {
    ModelInputs::text((0..37).map(|i| 3 + (i * 13 % 200)).collect())
}

fn of_length(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens, ..GenerateOptions::default() }
}

/// The ids of an answer, and how many of its tokens were replayed.
fn answer(
    loaded: &Qwen3Vl,
    session: SessionSlot<'_>,
    inputs: &ModelInputs,
    options: &GenerateOptions,
    stepping: Stepping,
) -> (Vec<u32>, usize) {
    let begun = Generation::start(loaded.model(), session, inputs, options.clone()).unwrap();
    let mut answer = begun.stepping(stepping);
    let ids = answer.by_ref().map(|token| token.unwrap().id).collect();
    (ids, answer.timings().replayed_tokens)
}

/// As [`answer`], in a session of its own.
fn alone(
    loaded: &Qwen3Vl,
    inputs: &ModelInputs,
    options: &GenerateOptions,
    stepping: Stepping,
) -> (Vec<u32>, usize) {
    let session = SessionSlot::Owned(Box::new(Session::new(loaded.model())));
    answer(loaded, session, inputs, options, stepping)
}

#[test]
fn fixed_steps_give_the_tokens_of_ordinary_ones_on_every_device() {
    for device in common::devices() {
        for name in ["dense_tied", "moe", "dense_yarn"] {
            let loaded = load(name, &device);
            for inputs in [text(), common::two_images(loaded.model(), name)] {
                let told = |stepping| alone(&loaded, &inputs, &of_length(24), stepping);
                let (expected, none) = told(Stepping::Ordinary);
                assert_eq!(told(Stepping::Fixed), (expected, none), "{name} on {device}");
            }
        }
    }
}

#[test]
fn replayed_steps_give_the_tokens_of_ordinary_ones() {
    let sampled = SamplingParams { do_sample: true, seed: Some(5), ..SamplingParams::greedy() };
    let sampled = SamplingParams { temperature: 0.9, top_k: 6, top_p: 0.9, ..sampled };
    for device in common::cards() {
        for name in ["dense_tied", "moe", "dense_yarn"] {
            let loaded = load(name, &device);
            for inputs in [text(), common::two_images(loaded.model(), name)] {
                for sampling in [SamplingParams::greedy(), sampled.clone()] {
                    let options = GenerateOptions { sampling, ..of_length(32) };
                    let told = |stepping| alone(&loaded, &inputs, &options, stepping);
                    let (expected, _) = told(Stepping::Ordinary);
                    let what = format!("{name} on {device}: {:?}", options.sampling);
                    assert_eq!(told(Stepping::Auto), (expected.clone(), 31), "{what}");
                    assert_eq!(told(Stepping::Fixed), (expected, 0), "{what}");
                }
            }
        }
    }
}

#[test]
fn rounded_weights_and_experts_are_replayed_too() {
    for device in common::cards() {
        for name in ["dense_tied", "moe"] {
            let loaded = rounded(name, &device);
            let told = |stepping| alone(&loaded, &text(), &of_length(32), stepping);
            let (expected, _) = told(Stepping::Ordinary);
            assert_eq!(told(Stepping::Auto), (expected, 31), "{name} on {device}");
        }
    }
}

/// A sampler that reads as many of the largest logits as a card looks for.
fn sampling(seed: u64, top_k: usize, temperature: f64) -> SamplingParams {
    let sampled = SamplingParams { do_sample: true, seed: Some(seed), ..SamplingParams::greedy() };
    SamplingParams { top_k, temperature, ..sampled }
}

/// The ids of an answer, and how many of its tokens were replayed and foreseen.
fn told(loaded: &Qwen3Vl, sampling: &SamplingParams, stepping: Stepping) -> (Vec<u32>, [usize; 2]) {
    let session = SessionSlot::Owned(Box::new(Session::new(loaded.model())));
    let options = GenerateOptions { sampling: sampling.clone(), ..of_length(40) };
    let begun = Generation::start(loaded.model(), session, &text(), options).unwrap();
    let mut answer = begun.stepping(stepping);
    let ids = answer.by_ref().map(|token| token.unwrap().id).collect();
    let timings = answer.timings();
    (ids, [timings.replayed_tokens, timings.foreseen_tokens])
}

/// The first token of the prompt's step and the second one are known before their step is launched; all others are drawn on the
/// device, and the sampler draws the same, unless two are as near as rounding.
#[test]
fn drawn_tokens_are_foreseen_and_are_those_of_ordinary_steps() {
    for device in common::devices() {
        for name in ["dense_tied", "moe"] {
            let loaded = load(name, &device);
            for sampling in [
                sampling(1, 1, 1.0),
                sampling(2, 6, 0.9),
                SamplingParams { top_p: 0.8, ..sampling(3, 20, 0.7) },
                SamplingParams { top_p: 0.95, min_p: 0.05, ..sampling(4, 20, 1.5) },
                sampling(5, 50, 3.0),
                SamplingParams { min_p: 0.2, ..sampling(6, 63, 2.0) },
            ] {
                let (expected, _) = told(&loaded, &sampling, Stepping::Ordinary);
                let what = format!("{name} on {device}: {sampling:?}");
                let (fixed, [_, foreseen]) = told(&loaded, &sampling, Stepping::Fixed);
                assert_eq!(fixed, expected, "{what}");
                assert!((36..=38).contains(&foreseen), "{foreseen} foreseen, {what}");
                let (replayed, counts) = told(&loaded, &sampling, Stepping::Auto);
                assert_eq!(replayed, expected, "{what}");
                let on_card = common::is_card(&device);
                assert!(!on_card || counts[0] == 39 && counts[1] >= 36, "{counts:?}, {what}");
            }
        }
    }
}

/// So hot that all logits are equal, and not the largest alone decide: what the device has guessed is wrong, and the logits of the
/// step before are wanted after it.
#[test]
fn what_cannot_be_foreseen_is_launched_again() {
    for device in common::devices() {
        let loaded = load("dense_tied", &device);
        let sampling = sampling(7, 20, 1e39);
        let (expected, _) = told(&loaded, &sampling, Stepping::Ordinary);
        for stepping in [Stepping::Fixed, Stepping::Auto] {
            let (ids, [replayed, foreseen]) = told(&loaded, &sampling, stepping);
            assert_eq!(ids, expected, "{stepping:?} on {device}");
            assert!(foreseen < 10, "{foreseen} foreseen, {stepping:?} on {device}");
            let recorded = stepping == Stepping::Auto && common::is_card(&device);
            assert_eq!(replayed, if recorded { 39 } else { 0 }, "{stepping:?} on {device}");
        }
    }
}

/// Lanes of one step may be greedy or draw, each in its own way, and one of them may want all logits.
#[test]
fn lanes_draw_each_in_its_own_way() {
    for device in common::devices() {
        let loaded = load("dense_tied", &device);
        let ways = [SamplingParams::greedy(), sampling(8, 5, 0.8), sampling(9, 40, 1.5)];
        for more in [sampling(3, 20, 1.0), sampling(10, 20, 1e39)] {
            let ways: Vec<_> = ways.iter().cloned().chain([more]).collect();
            let written = |stepping| {
                let options = BatchOptions { stepping, ..BatchOptions::default() };
                let mut batch = Batch::new(loaded.model(), options);
                let submitted = ways.iter().enumerate().map(|(i, sampling)| {
                    let options =
                        GenerateOptions { sampling: sampling.clone(), ..of_length(30 + i) };
                    batch.submit(&ModelInputs::text(vec![5, 9 + i as u32, 7]), options).unwrap()
                });
                let ids: Vec<SequenceId> = submitted.collect();
                let (mut said, mut foreseen) = (vec![Vec::new(); ids.len()], 0);
                while !batch.is_empty() {
                    for (id, event) in batch.step() {
                        let BatchEvent::Token { token, .. } = event else { panic!("{event:?}") };
                        said[ids.iter().position(|known| *known == id).unwrap()].push(token.id);
                        foreseen = foreseen.max(batch.answer(id).unwrap().1.foreseen_tokens);
                    }
                }
                (said, foreseen)
            };
            let (expected, _) = written(Stepping::Ordinary);
            let decided = ways[3].temperature < 2.0;
            for stepping in [Stepping::Fixed, Stepping::Auto] {
                let (said, foreseen) = written(stepping);
                assert_eq!(said, expected, "{stepping:?} on {device}");
                let runs = stepping == Stepping::Fixed || common::is_card(&device);
                assert_eq!(foreseen > 15, runs && decided, "{foreseen} foreseen on {device}");
            }
        }
    }
}

/// There is room for 256 tokens at first, then for 512.
#[test]
fn answers_that_outgrow_their_buffers_go_on() {
    for device in common::devices().into_iter().filter(|name| name != "ndarray") {
        let loaded = load("dense_tied", &device);
        let inputs = common::two_images(loaded.model(), "dense_tied");
        let told = |stepping| alone(&loaded, &inputs, &of_length(300), stepping);
        let (expected, _) = told(Stepping::Ordinary);
        assert_eq!(told(Stepping::Fixed).0, expected, "on {device}");
        let replayed = if common::is_card(&device) { 299 } else { 0 };
        assert_eq!(told(Stepping::Auto), (expected, replayed), "on {device}");
    }
}

/// What has one use for the host at every token is run in ordinary steps, and so are short answers.
#[test]
fn other_answers_are_not_replayed() {
    for device in common::cards() {
        let loaded = load("dense_tied", &device);
        let penalised = SamplingParams { repetition_penalty: 1.3, ..SamplingParams::greedy() };
        let cases = [
            of_length(5),
            GenerateOptions { logprobs: Some(2), ..of_length(12) },
            GenerateOptions { sampling: penalised, ..of_length(12) },
        ];
        for options in cases {
            let told = |stepping| alone(&loaded, &text(), &options, stepping);
            assert_eq!(told(Stepping::Auto), told(Stepping::Ordinary), "{options:?}");
        }
    }
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().convert_dtype(DType::F32).try_to_vec().unwrap()
}

/// The logits of a second question behind the answer, and how many tokens were reused for it.
fn asked_again(
    loaded: &Qwen3Vl,
    session: &mut Session,
    first: &[u32],
    said: &[u32],
) -> (Vec<f32>, usize) {
    let model = loaded.model();
    let next = ModelInputs::text([first, said, &[9, 8]].concat());
    let found = session.prefill(model, &next, usize::MAX).unwrap();
    let logits = [values(found.logits), values(session.step(model, &[40]))].concat();
    (logits, found.reused)
}

/// The answer ends by its length, by an end-of-sequence token, or because nobody reads on; a step was launched ahead each time.
#[test]
fn a_session_goes_on_behind_an_answer() {
    let (stepped, inputs) = ([Stepping::Ordinary, Stepping::Fixed, Stepping::Auto], text());
    for device in common::devices() {
        let loaded = load("dense_tied", &device);
        let (all, _) = alone(&loaded, &inputs, &of_length(20), Stepping::Ordinary);
        let eos = GenerateOptions { eos_token_ids: vec![all[11]], ..of_length(20) };
        for (options, read) in
            [(of_length(20), 20), (eos, 20), (of_length(20), 7), (of_length(20), 1)]
        {
            let mut expected: Option<(Vec<u32>, Vec<f32>, usize)> = None;
            for stepping in stepped {
                let mut session = Session::new(loaded.model());
                let slot = SessionSlot::Borrowed(&mut session);
                let begun = Generation::start(loaded.model(), slot, &inputs, options.clone());
                let begun = begun.unwrap().stepping(stepping).take(read);
                let said: Vec<u32> = begun.map(|token| token.unwrap().id).collect();
                assert_eq!(session.len(), inputs.ids.len() + said.len() - 1);
                let (logits, reused) = asked_again(&loaded, &mut session, &inputs.ids, &said);
                let (ids, right, before) =
                    expected.get_or_insert_with(|| (said.clone(), logits.clone(), reused));
                assert_eq!((&*ids, *before), (&said, reused), "{stepping:?} on {device}");
                let size = right.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let far = right.iter().zip(&logits).map(|(a, b)| (a - b).abs());
                let far = far.fold(0.0, f32::max) / size;
                assert!(far < 1e-4, "{stepping:?} on {device}: {far}");
            }
        }
    }
}

/// A stream of launches belongs to a thread.
#[test]
fn an_answer_may_change_its_thread() {
    for device in common::cards() {
        let loaded = load("dense_tied", &device);
        let (expected, _) = alone(&loaded, &text(), &of_length(24), Stepping::Ordinary);
        let session = SessionSlot::Owned(Box::new(Session::new(loaded.model())));
        let mut begun = Generation::start(loaded.model(), session, &text(), of_length(24)).unwrap();
        let mut said: Vec<u32> = begun.by_ref().take(10).map(|token| token.unwrap().id).collect();
        assert_eq!(begun.timings().replayed_tokens, 9);
        std::thread::scope(|scope| {
            let rest =
                scope.spawn(move || begun.map(|token| token.unwrap().id).collect::<Vec<_>>());
            said.extend(rest.join().unwrap());
        });
        assert_eq!(said, expected, "on {device}");
    }
}

/// What a batch wrote, in order of submission, and how many tokens were replayed in all.
#[derive(Debug, Default, PartialEq)]
struct Written {
    answers: Vec<Vec<u32>>,
    replayed: usize,
}

/// Three sequences, later a fourth, which is forgotten, and one that begins like the first with its answer.
fn batch(loaded: &Qwen3Vl, name: &str, sampling: &SamplingParams, stepping: Stepping) -> Written {
    let model = loaded.model();
    let options = BatchOptions { stepping, prefix_bytes: 1 << 24, ..BatchOptions::default() };
    let (mut batch, mut written) = (Batch::new(model, options), Written::default());
    let mut ids = Vec::new();
    let submit = |batch: &mut Batch<'_>, written: &mut Written, inputs: &ModelInputs, length| {
        let options = GenerateOptions { sampling: sampling.clone(), ..of_length(length) };
        written.answers.push(Vec::new());
        batch.submit(inputs, options).unwrap()
    };
    let late = ModelInputs::text((0..21).map(|i| 9 + (i * 7 % 150)).collect());
    let looked = common::two_images(model, name);
    let first = [(text(), 40), (looked, 25), (ModelInputs::text(vec![5, 6, 7]), 90)];
    for (inputs, length) in &first {
        ids.push(submit(&mut batch, &mut written, inputs, *length));
    }
    let mut step = 0;
    while !batch.is_empty() {
        step += 1;
        if step == 20 {
            ids.push(submit(&mut batch, &mut written, &late, 30));
        }
        if step == 34 {
            assert!(batch.cancel(ids[3]));
        }
        for (id, event) in batch.step() {
            let BatchEvent::Token { token, finish } = event else { panic!("{event:?}") };
            let index = ids.iter().position(|known| *known == id).unwrap();
            written.answers[index].push(token.id);
            if finish.is_some() {
                written.replayed += batch.answer(id).unwrap().1.replayed_tokens;
            }
            if finish.is_some() && index == 0 {
                let more = [&text().ids[..], &written.answers[0], &[8, 9]].concat();
                ids.push(submit(&mut batch, &mut written, &ModelInputs::text(more), 20));
            }
        }
    }
    assert!(batch.stats().reused_tokens > 0, "what lanes ran is in the cache that is kept");
    written
}

#[test]
fn a_batch_writes_on_fixed_buffers_what_it_writes_otherwise() {
    let sampled = SamplingParams { do_sample: true, seed: Some(5), ..SamplingParams::greedy() };
    let sampled = SamplingParams { temperature: 0.9, top_k: 6, ..sampled };
    for device in common::devices() {
        for name in ["dense_tied", "moe"] {
            let loaded = load(name, &device);
            for sampling in [SamplingParams::greedy(), sampled.clone()] {
                let written = |stepping| batch(&loaded, name, &sampling, stepping);
                let expected = written(Stepping::Ordinary);
                assert_eq!(expected.answers.iter().map(Vec::len).max(), Some(90));
                assert_eq!(written(Stepping::Fixed), expected, "{name} on {device}");
                let Written { answers, replayed } = written(Stepping::Auto);
                assert_eq!(answers, expected.answers, "{name} on {device}");
                assert_eq!(
                    replayed > 60,
                    common::is_card(&device),
                    "{replayed} replayed on {device}"
                );
            }
        }
    }
}

/// A fourth sequence joins three whose steps are replayed, in the lane that is idle; a fifth has none, and all begin again.
#[test]
fn a_newcomer_joins_where_a_lane_is_idle() {
    for device in common::devices() {
        let loaded = load("dense_tied", &device);
        let written = |stepping| {
            let options = BatchOptions { stepping, ..BatchOptions::default() };
            let mut batch = Batch::new(loaded.model(), options);
            let submit = |batch: &mut Batch<'_>, i: u32, sampling, length| {
                let options = GenerateOptions { sampling, ..of_length(length) };
                batch.submit(&ModelInputs::text((0..9 + i).map(|j| 5 + i * j).collect()), options)
            };
            let ways = [SamplingParams::greedy(), sampling(1, 30, 1.0), sampling(2, 8, 0.7)];
            let first = ways.into_iter().zip(0..).map(|(way, i)| submit(&mut batch, i, way, 70));
            let mut ids: Vec<SequenceId> = first.map(Result::unwrap).collect();
            let (mut said, mut replayed) = (vec![Vec::new(); 5], [0; 5]);
            for step in 0.. {
                match step {
                    20 => ids.push(submit(&mut batch, 7, sampling(3, 20, 1.2), 25).unwrap()),
                    30 => ids.push(submit(&mut batch, 8, SamplingParams::greedy(), 12).unwrap()),
                    _ if batch.is_empty() => break,
                    _ => {}
                }
                for (id, event) in batch.step() {
                    let BatchEvent::Token { token, .. } = event else { panic!("{event:?}") };
                    let index = ids.iter().position(|known| *known == id).unwrap();
                    said[index].push(token.id);
                    replayed[index] = batch.answer(id).unwrap().1.replayed_tokens;
                }
            }
            (said, replayed)
        };
        let (expected, _) = written(Stepping::Ordinary);
        assert_eq!(written(Stepping::Fixed).0, expected, "on {device}");
        let (said, replayed) = written(Stepping::Auto);
        assert_eq!(said, expected, "on {device}");
        if common::is_card(&device) {
            // The fourth joins at once. Steps of two prompts and eight after each are not replayed, nor those before the first.
            assert!(replayed[3] >= 8 && replayed[0] >= 48, "{replayed:?} on {device}");
        }
    }
}

/// More rows than steps with experts are recorded for (128): such steps are ordinary ones.
#[test]
fn a_batch_of_many_sequences_with_experts_is_not_recorded() {
    for device in common::cards() {
        let loaded = load("moe", &device);
        let written = |stepping| {
            let more = BatchOptions { max_num_seqs: 256, ..BatchOptions::default() };
            let mut batch = Batch::new(loaded.model(), BatchOptions { stepping, ..more });
            let inputs = |i: u32| ModelInputs::text(vec![3 + i, 5]);
            let ids = (0..129).map(|i| batch.submit(&inputs(i), of_length(18)).unwrap());
            let ids: Vec<SequenceId> = ids.collect();
            let (mut said, mut replayed) = (vec![Vec::new(); ids.len()], 0);
            while !batch.is_empty() {
                for (id, event) in batch.step() {
                    let BatchEvent::Token { token, .. } = event else { panic!("{event:?}") };
                    said[ids.iter().position(|known| *known == id).unwrap()].push(token.id);
                    replayed = replayed.max(batch.answer(id).unwrap().1.replayed_tokens);
                }
            }
            (said, replayed)
        };
        let expected = written(Stepping::Ordinary);
        assert!(expected.0.iter().all(|said| said.len() == 18));
        assert_eq!(written(Stepping::Auto), expected, "on {device}");
    }
}

/// CUDA refuses memory to all threads while one records.
#[test]
fn an_embedding_waits_for_a_recording() {
    let loaded = load("dense_tied", &common::devices()[0]);
    let prepared = loaded.prepare_ids(vec![3, 4, 5], String::new()).unwrap();
    let (expected, done) = (loaded.embed(&prepared).unwrap(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let mut asked = false;
        let work = || {
            if !std::mem::replace(&mut asked, true) {
                scope.spawn(|| {
                    assert_eq!(loaded.embed(&prepared).unwrap(), expected);
                    done.store(true, Ordering::SeqCst);
                });
                std::thread::sleep(Duration::from_millis(200));
            }
            assert!(!done.load(Ordering::SeqCst), "it did not wait");
        };
        Recording::of(&loaded.model().device(), work);
    });
    assert!(done.into_inner());
}

#[test]
fn a_plan_counts_the_keys_and_values_of_recorded_steps() {
    let path = common::fixtures().join("dense_tied");
    let planned = |device: &str, graph: &str, more: &[&str]| -> serde_json::Value {
        let mut command = common::program(device);
        command.env("QWEN3_VL_GRAPH", graph).args(["plan", path.to_str().unwrap(), "-p", "Hello"]);
        let output = command.args(["-n", "600", "--dtype", "f32", "--json"]).args(more).output();
        serde_json::from_slice(&output.unwrap().stdout).unwrap()
    };
    for device in common::devices() {
        let plan = planned(&device, "on", &[]);
        let config = &load("dense_tied", &device).model().config().text.clone();
        let token = KvCache::bytes_per_token(config, DType::F32, KvDtype::Auto);
        // 1,024 slots for some 620 tokens, and 512 before them.
        let expected = if common::is_card(&device) { 1536 * token } else { 0 };
        assert_eq!(plan["recorded_step_bytes"], expected, "{device}");
        let parts = ["weight_bytes", "kv_cache_bytes", "recorded_step_bytes", "activation_bytes"];
        let sum: u64 = parts.iter().map(|part| plan[part].as_u64().unwrap()).sum();
        assert_eq!(plan["total_bytes"], sum, "{device}");
        for (graph, more) in [("off", &[][..]), ("on", &["--kv-cache-dtype", "int8"])] {
            assert_eq!(planned(&device, graph, more)["recorded_step_bytes"], 0, "{device}");
        }
    }
}
