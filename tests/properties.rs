//! What must hold without any reference: equalities between ways to compute the same thing.

mod common;

use burn::tensor::{DType, Tensor};
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::model::batch::{Batch, BatchEvent, BatchOptions};
use qwen3_vl::model::cache::KvDtype;
use qwen3_vl::model::generate::{GenerateOptions, Generation, Lookup, PromptLogprob, SessionSlot};
use qwen3_vl::model::inputs::{MediaItem, ModelInputs, Pixels, VisionSpan};
use qwen3_vl::model::probe::Probe;
use qwen3_vl::model::processor::image::Grid;
use qwen3_vl::model::processor::message::MediaKind;
use qwen3_vl::model::sample::{SamplingParams, TokenLogprobs, logprobs};
use qwen3_vl::model::session::Session;
use qwen3_vl::weights::Rounding;
use qwen3_vl::{LoadOptions, Qwen3Vl};

fn model() -> Qwen3Vl {
    common::load(&common::fixtures().join("dense_tied"), &common::cpu_devices()[0])
}

/// Pixels of an image of `h x w` patches that no other seed has.
fn picture(model: &Qwen3Vl, seed: usize, h: usize, w: usize) -> Pixels {
    let count = h * w * model.model().config().vision.patch_len();
    let values = (0..count).map(|i| (((i * 31 + seed * 7919) % 255) as f32 - 127.0) / 127.5);
    Pixels { items: vec![MediaItem::from_patches(Grid { t: 1, h, w }, values.collect())] }
}

fn join(first: Pixels, second: Pixels) -> Pixels {
    Pixels { items: [first.items, second.items].concat() }
}

/// Text, an image of 4x6 patches, text.
fn prompt(model: &Qwen3Vl, seed: usize) -> ModelInputs {
    let config = model.model().config();
    let span = VisionSpan { kind: MediaKind::Image, start: 4, rows: 2, columns: 3 };
    let mut ids = vec![1, 20, 33, config.vision_start_token_id];
    ids.extend([config.image_token_id; 6]);
    ids.extend([config.vision_end_token_id, 77, 91, 14, 200 + seed as u32]);
    let images = picture(model, seed, 4, 6);
    ModelInputs { ids, spans: vec![span], images, videos: Pixels::default() }
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().convert_dtype(DType::F32).try_to_vec().unwrap()
}

fn logits(model: &Qwen3Vl, inputs: &ModelInputs, chunk: usize) -> Vec<f32> {
    let mut session = Session::new(model.model());
    values(session.prefill(model.model(), inputs, chunk).unwrap().logits)
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let scale = a.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst / scale < 1e-5, "{what}: {} relative", worst / scale);
}

#[test]
fn a_prompt_may_be_cut_anywhere() {
    let model = model();
    let inputs = prompt(&model, 1);
    let whole = logits(&model, &inputs, usize::MAX);
    for chunk in 1..inputs.ids.len() {
        assert_close(&whole, &logits(&model, &inputs, chunk), &format!("chunks of {chunk}"));
    }
}

#[test]
fn sequences_decoded_together_equal_each_alone() {
    let model = model();
    let inputs = [prompt(&model, 1), prompt(&model, 2), ModelInputs::text(vec![1, 5, 9])];
    let mut alone = Vec::new();
    let mut caches = Vec::new();
    let mut tokens = Vec::new();
    for (index, inputs) in inputs.iter().enumerate() {
        let mut session = Session::new(model.model());
        session.prefill(model.model(), inputs, usize::MAX).unwrap();
        alone.extend(values(session.step(model.model(), &[40 + index as u32])));
        let mut prepared = model.model().prepare(inputs, &mut Probe::off()).unwrap();
        let (rows, mut cache) = (0..prepared.len(), model.model().new_cache());
        model.model().prefill(&mut prepared, rows, &mut cache, &mut Probe::off());
        tokens.push((40 + index as u32, prepared.positions().next));
        caches.push(cache);
    }
    let mut caches: Vec<_> = caches.iter_mut().collect();
    let together = values(model.model().decode(&tokens, &mut caches));
    assert_close(&alone, &together, "a batch of three");
}

/// Answers of a batch, by order of submission.
fn answers(
    model: &Qwen3Vl,
    inputs: &[ModelInputs],
    options: BatchOptions,
) -> (Vec<Vec<u32>>, usize) {
    let mut batch = Batch::new(model.model(), options);
    let generate = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
    let ids: Vec<_> =
        inputs.iter().map(|inputs| batch.submit(inputs, generate.clone()).unwrap()).collect();
    let mut answers = vec![Vec::new(); ids.len()];
    let mut steps = 0;
    while !batch.is_empty() {
        steps += 1;
        for (id, event) in batch.step() {
            let BatchEvent::Token { token, .. } = event else { panic!("{event:?}") };
            answers[ids.iter().position(|other| *other == id).unwrap()].push(token.id);
        }
    }
    (answers, steps)
}

/// Answers one after the other, without a batch.
fn alone(model: &Qwen3Vl, inputs: &[ModelInputs], options: &GenerateOptions) -> Vec<Vec<u32>> {
    let answer = |inputs: &ModelInputs| {
        let session = SessionSlot::Owned(Box::new(Session::new(model.model())));
        let answer = Generation::start(model.model(), session, inputs, options.clone());
        answer.unwrap().map(|token| token.unwrap().id).collect()
    };
    inputs.iter().map(answer).collect()
}

#[test]
fn guessing_ahead_changes_no_answer() {
    let model = model();
    let text = ModelInputs::text((0..60).map(|i| 3 + i % 7).collect());
    let sampled = SamplingParams { do_sample: true, seed: Some(5), ..SamplingParams::greedy() };
    let sampled = SamplingParams { temperature: 0.2, top_k: 3, ..sampled };
    let penalised = SamplingParams { repetition_penalty: 1.3, ..SamplingParams::greedy() };
    let (mut drafted, mut accepted) = (0, 0);
    for sampling in [SamplingParams::greedy(), sampled, penalised] {
        for inputs in [prompt(&model, 1), prompt(&model, 2), text.clone()] {
            let options = GenerateOptions {
                max_new_tokens: 48,
                sampling: sampling.clone(),
                ..Default::default()
            };
            let expected = alone(&model, std::slice::from_ref(&inputs), &options).remove(0);
            for tokens in [1, 3, 8] {
                let lookup = Some(Lookup { tokens, matched: (1, 3) });
                let options = GenerateOptions { lookup, ..options.clone() };
                let session = SessionSlot::Owned(Box::new(Session::new(model.model())));
                let mut answer =
                    Generation::start(model.model(), session, &inputs, options).unwrap();
                let found: Vec<u32> = answer.by_ref().map(|token| token.unwrap().id).collect();
                assert_eq!(found, expected, "{tokens} tokens, {sampling:?}");
                drafted += answer.timings().drafted_tokens;
                accepted += answer.timings().accepted_tokens;
            }
        }
    }
    assert!(accepted > 100 && drafted > accepted, "{accepted} of {drafted}");
}

#[test]
fn a_session_goes_on_behind_guesses() {
    let model = model();
    let lookup = Some(Lookup { tokens: 8, matched: (1, 3) });
    let options = GenerateOptions { max_new_tokens: 48, lookup, ..GenerateOptions::default() };
    let text = ModelInputs::text((0..60).map(|i| 3 + i % 7).collect());
    for end in 1..20 {
        let mut session = Session::new(model.model());
        let slot = SessionSlot::Borrowed(&mut session);
        let answer = Generation::start(model.model(), slot, &text, options.clone()).unwrap();
        let said: Vec<u32> = answer.take(end).map(|token| token.unwrap().id).collect();
        let next = ModelInputs::text([&text.ids[..], &said[..], &[9, 8][..]].concat());
        let found = session.prefill(model.model(), &next, usize::MAX).unwrap();
        assert!(found.reused >= text.ids.len() + end - 1);
        let found = [values(found.logits), values(session.step(model.model(), &[40]))].concat();
        let mut fresh = Session::new(model.model());
        let expected = fresh.prefill(model.model(), &next, usize::MAX).unwrap();
        let expected = [values(expected.logits), values(fresh.step(model.model(), &[40]))].concat();
        assert_close(&expected, &found, &format!("after {end} tokens"));
    }
}

#[test]
fn a_batch_answers_as_each_alone() {
    let model = model();
    let text = |n: usize| ModelInputs::text((0..n).map(|i| 3 + (i * 13 % 200) as u32).collect());
    let inputs = [prompt(&model, 1), text(2), prompt(&model, 2), text(40), text(9), text(1)];
    let options = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
    let alone = alone(&model, &inputs, &options);
    let (together, steps) = answers(&model, &inputs, BatchOptions::default());
    assert_eq!(together, alone);
    assert_eq!(steps, 6, "all prompts fit the first pass");
    // Sequences come and go, and chunks of prompts run beside tokens of answers.
    for (max_num_seqs, max_num_batched_tokens) in [(1, 5), (2, 3), (3, 7), (6, 1)] {
        let options =
            BatchOptions { max_num_seqs, max_num_batched_tokens, ..BatchOptions::default() };
        assert_eq!(answers(&model, &inputs, options).0, alone, "{options:?}");
    }
}

/// Ids and the best log probabilities of answers.
type Told = Vec<(u32, Option<TokenLogprobs>)>;

/// What flex tells of answers with rounded weights, each alone and all together: kernels for few rows and for many round
/// differently, which must not show, however many answers and prompts share a pass. Bits are equal, so that margins do not matter.
#[test]
fn rounded_weights_answer_alike_alone_and_among_many() {
    let text = |n: usize| ModelInputs::text((0..n).map(|i| 3 + (i * 13 % 200) as u32).collect());
    for (folder, head) in [("dense_tied", "embed_tokens"), ("moe", "lm_head")] {
        for (scheme, dtype) in
            [("int8-g64", "f32"), ("int4-g32", "f32"), ("int8-g32", "auto"), ("int4-g64", "bf16")]
        {
            let mut rounding = Rounding::new(scheme.parse().unwrap());
            rounding.include = vec![head.to_owned()];
            let options = LoadOptions {
                device: Some("flex".to_owned()),
                dtype: dtype.parse().unwrap(),
                quant: Some(rounding),
                ..LoadOptions::default()
            };
            let path = common::fixtures().join(folder);
            let loaded = Qwen3Vl::load(path.to_str().unwrap(), options).unwrap();
            let model = &loaded;
            let mut inputs: Vec<ModelInputs> = (1..30).map(text).collect();
            inputs.extend((1..4).map(|seed| prompt(model, seed)));
            let options = GenerateOptions {
                max_new_tokens: 8,
                logprobs: Some(5),
                ..GenerateOptions::default()
            };
            let alone = |inputs: &ModelInputs| -> Told {
                let session = SessionSlot::Owned(Box::new(Session::new(model.model())));
                let answer =
                    Generation::start(model.model(), session, inputs, options.clone()).unwrap();
                answer.map(Result::unwrap).map(|token| (token.id, token.logprobs)).collect()
            };
            let alone: Vec<Told> = inputs.iter().map(alone).collect();
            // All prompts in the first pass, prompts that begin beside answers of others, and such as are cut and share what
            // they have in common.
            for (max_num_seqs, max_num_batched_tokens, prefix_bytes) in
                [(32, 2048, 0), (19, 2048, 0), (3, 2048, 0), (20, 40, 0), (7, 23, 1 << 30)]
            {
                let sizes = BatchOptions {
                    max_num_seqs,
                    max_num_batched_tokens,
                    prefix_bytes,
                    ..BatchOptions::default()
                };
                let mut batch = Batch::new(model.model(), sizes);
                let submit = |inputs| batch.submit(inputs, options.clone()).unwrap();
                let ids: Vec<_> = inputs.iter().map(submit).collect();
                let mut together = vec![Told::new(); ids.len()];
                while !batch.is_empty() {
                    for (id, event) in batch.step() {
                        let BatchEvent::Token { token, .. } = event else { panic!("{event:?}") };
                        let at = ids.iter().position(|other| *other == id).unwrap();
                        together[at].push((token.id, token.logprobs));
                    }
                }
                for (index, (together, alone)) in together.iter().zip(&alone).enumerate() {
                    assert_eq!(together, alone, "{folder} {scheme} {dtype}, {sizes:?}: {index}");
                }
            }
        }
    }
}

/// Log probabilities of a prompt's tokens, from the logits after every one of its beginnings.
fn scores(model: &Qwen3Vl, inputs: &ModelInputs) -> Vec<TokenLogprobs> {
    let states = |end: usize| {
        let mut prompt = model.model().prepare(inputs, &mut Probe::off()).unwrap();
        let mut cache = model.model().new_cache();
        let hidden = model.model().prefill(&mut prompt, 0..end, &mut cache, &mut Probe::off());
        values(model.model().logits(hidden.narrow(0, end - 1, 1)))
    };
    let after = |end: usize| logprobs(&states(end), inputs.ids[end], 3).unwrap();
    (1..inputs.ids.len()).map(after).collect()
}

fn assert_scores(found: Option<&[PromptLogprob]>, right: &[TokenLogprobs], ids: &[u32]) {
    let found = found.unwrap();
    assert_eq!(found.len(), right.len());
    for ((found, right), id) in found.iter().zip(right).zip(&ids[1..]) {
        assert_eq!(found.id, *id);
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-4, "{found:?} for {right:?}");
        near(found.logprobs.chosen, right.chosen);
        found.logprobs.top.iter().zip(&right.top).for_each(|(a, b)| near(a.1, b.1));
        let rank = found.logprobs.top.iter().position(|(other, _)| other == id);
        assert_eq!(rank.map(|rank| rank + 1), (found.rank <= 3).then_some(found.rank));
    }
}

#[test]
fn prompts_are_scored_in_chunks_together_and_behind_what_is_shared() {
    let model = model();
    let long = ModelInputs::text((0..150).map(|i| 3 + (i * 13 % 200) as u32).collect());
    let inputs = [prompt(&model, 1), long, prompt(&model, 2), prompt(&model, 1)];
    let right: Vec<_> = inputs.iter().map(|inputs| scores(&model, inputs)).collect();
    let options = GenerateOptions {
        max_new_tokens: 2,
        prompt_logprobs: Some(3),
        ..GenerateOptions::default()
    };
    for (inputs, right) in inputs.iter().zip(&right) {
        for prefill_chunk in [5, 2048] {
            let options = GenerateOptions { prefill_chunk, ..options.clone() };
            let mut session = Session::new(model.model());
            session.prefill(model.model(), inputs, usize::MAX).unwrap();
            let session = SessionSlot::Borrowed(&mut session);
            let answer = Generation::start(model.model(), session, inputs, options).unwrap();
            assert_scores(answer.answer().prompt_logprobs(), right, &inputs.ids);
        }
    }
    for max_num_batched_tokens in [7, 2048] {
        let shared = BatchOptions {
            prefix_bytes: 1 << 30,
            feature_bytes: 1 << 30,
            ..BatchOptions::default()
        };
        let mut batch =
            Batch::new(model.model(), BatchOptions { max_num_batched_tokens, ..shared });
        for _ in 0..2 {
            let ids =
                inputs.each_ref().map(|inputs| batch.submit(inputs, options.clone()).unwrap());
            let mut ended = 0;
            while ended < ids.len() {
                for (id, event) in batch.step() {
                    let BatchEvent::Token { finish, .. } = event else { panic!("{event:?}") };
                    if finish.is_some() {
                        ended += 1;
                        let at = ids.iter().position(|other| *other == id).unwrap();
                        let (answer, _) = batch.answer(id).unwrap();
                        assert_scores(answer.prompt_logprobs(), &right[at], &inputs[at].ids);
                    }
                }
            }
        }
        assert_eq!(batch.stats().reused_tokens, 0);
    }
}

/// Sequences that begin alike hold that beginning once, be it of one that has ended or of one that is being answered.
#[test]
fn a_shared_beginning_is_held_once() {
    let model = model();
    let beginning: Vec<u32> = (0..600).map(|i| 3 + (i * 13 % 200)).collect();
    let behind = |end: &[u32]| ModelInputs::text([&beginning[..], end].concat());
    let first = behind(&[9]);
    let others: Vec<_> = (0..4).map(|n| behind(&[5 + n, 9, 40 + n])).collect();
    let generate = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
    let right = alone(&model, &others, &generate);
    let bytes = |tokens| model.model().cache_bytes(tokens);
    // One whole cache, and what four may add to it: far from four whole ones.
    let budget = bytes(607) + 4 * bytes(9);
    assert!(budget < 3 * bytes(609));
    for lends_while_it_runs in [false, true] {
        let room = budget + if lends_while_it_runs { bytes(6) } else { 0 };
        let (kv_bytes, prefix_bytes) = (Some(room), 1 << 40);
        let options = BatchOptions { kv_bytes, prefix_bytes, ..BatchOptions::default() };
        let mut batch = Batch::new(model.model(), options);
        batch.submit(&first, generate.clone()).unwrap();
        let steps = if lends_while_it_runs { 1 } else { 6 };
        (0..steps).for_each(|_| assert_eq!(batch.step().len(), 1));
        let ids: Vec<_> =
            others.iter().map(|inputs| batch.submit(inputs, generate.clone()).unwrap()).collect();
        let mut found = vec![Vec::new(); ids.len()];
        let mut most = 0;
        while !batch.is_empty() {
            for (id, event) in batch.step() {
                let BatchEvent::Token { token, .. } = event else { panic!("{event:?}") };
                let other = ids.iter().position(|other| *other == id);
                other.into_iter().for_each(|other| found[other].push(token.id));
            }
            let stats = batch.stats();
            assert!(stats.reserved_bytes + stats.prefix_bytes <= room, "{stats:?}");
            if most < stats.running {
                most = stats.running;
                assert_eq!(stats.shared_bytes, bytes(607), "one block, whoever holds it");
            }
        }
        assert_eq!(most, 4 + usize::from(lends_while_it_runs), "all run at once");
        assert_eq!(found, right);
        assert_eq!(batch.stats().reused_tokens, 4 * 600);
    }
}

/// Twenty tokens in a block of hundreds are not worth that block where there is memory for one sequence alone.
#[test]
fn a_small_share_of_a_large_block_holds_nobody_up() {
    let model = model();
    let long = |from: u32| (0..580).map(move |i| 3 + (from + i * 13) % 200);
    let beginning = [7, 9, 11, 13, 15].repeat(4);
    let inputs =
        [0, 1].map(|n| ModelInputs::text(beginning.iter().copied().chain(long(n)).collect()));
    let generate = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
    let right = alone(&model, &inputs, &generate);
    let kv_bytes = Some(model.model().cache_bytes(606));
    let options = BatchOptions { kv_bytes, prefix_bytes: 1 << 40, ..BatchOptions::default() };
    let (found, steps) = answers(&model, &inputs, options);
    assert_eq!((found, steps), (right, 12), "one after the other");
}

#[test]
fn a_sequence_may_leave_a_batch() {
    let model = model();
    let mut batch = Batch::new(model.model(), BatchOptions::default());
    let generate = GenerateOptions { max_new_tokens: 3, ..GenerateOptions::default() };
    let first = batch.submit(&prompt(&model, 1), generate.clone()).unwrap();
    let second = batch.submit(&prompt(&model, 2), generate).unwrap();
    assert_eq!(batch.step().len(), 2);
    assert!(batch.cancel(first) && !batch.cancel(first));
    assert!(batch.step().iter().all(|(id, _)| *id == second));
    assert_eq!(batch.step().len(), 1);
    assert!(batch.is_empty() && batch.step().is_empty());
}

#[test]
fn a_cache_of_bytes_stays_close() {
    let exact = model();
    for storage in [KvDtype::Int8, KvDtype::Float(DType::F16), KvDtype::Float(DType::BF16)] {
        let inputs = prompt(&exact, 1);
        let run = |model: &Qwen3VlModel| {
            let mut session = Session::new(model);
            session.prefill(model, &inputs, 3).unwrap();
            values(session.step(model, &[40]))
        };
        let small = exact.model().clone().with_cache_dtype(storage);
        let (exact, small) = (run(exact.model()), run(&small));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let cosine = dot(&exact, &small) / (dot(&exact, &exact) * dot(&small, &small)).sqrt();
        assert!(cosine > 0.999, "{storage:?}: cosine {cosine}");
        assert_ne!(exact, small, "{storage:?} is not exact");
    }
}

#[test]
fn a_session_reuses_only_what_is_the_same() {
    let model = model();
    let first = prompt(&model, 1);
    let mut longer = first.clone();
    longer.ids.extend([7, 8, 9]);
    let mut other_picture = longer.clone();
    other_picture.images = picture(&model, 2, 4, 6);
    let mut session = Session::new(model.model());
    session.prefill(model.model(), &first, usize::MAX).unwrap();
    let again = session.prefill(model.model(), &longer, usize::MAX).unwrap();
    assert_eq!(again.reused, first.ids.len());
    assert_close(&values(again.logits), &logits(&model, &longer, usize::MAX), "a longer prompt");
    let changed = session.prefill(model.model(), &other_picture, usize::MAX).unwrap();
    assert_eq!(changed.reused, 4, "everything from the other picture on is new");
    let fresh = logits(&model, &other_picture, usize::MAX);
    assert_close(&values(changed.logits), &fresh, "another picture under the same ids");
}

#[test]
fn pictures_may_be_encoded_in_any_order() {
    let model = model();
    let (a, b) = (picture(&model, 1, 4, 6), picture(&model, 2, 2, 10));
    let features = |pixels: &Pixels| {
        let encoded = model.model().encode(pixels, &mut Probe::off()).unwrap();
        encoded.deepstack.into_iter().fold(vec![values(encoded.embeds)], |mut all, level| {
            all.push(values(level));
            all
        })
    };
    let forth = features(&join(a.clone(), b.clone()));
    let back = features(&join(b, a));
    let width = model.model().config().vision.out_hidden_size;
    for (forth, back) in forth.iter().zip(&back) {
        assert_close(&forth[..6 * width], &back[5 * width..], "the first picture");
        assert_close(&forth[6 * width..], &back[..5 * width], "the second picture");
    }
}

#[test]
fn a_still_clip_has_the_features_of_its_picture() {
    let model = model();
    let image = picture(&model, 3, 4, 6);
    let encode =
        |pixels: &Pixels| values(model.model().encode(pixels, &mut Probe::off()).unwrap().embeds);
    let patches = image.items[0].patches(0..1);
    let twice = [&*patches, &*patches].concat();
    let clip = Pixels { items: vec![MediaItem::from_patches(Grid { t: 2, h: 4, w: 6 }, twice)] };
    let (once, twice) = (encode(&image), encode(&clip));
    assert_close(&once, &twice[..once.len()], "first frame");
    assert_close(&once, &twice[once.len()..], "second frame");
}

/// A generated placeholder id is an ordinary token.
#[test]
fn a_generated_placeholder_is_text() {
    let model = model();
    let mut session = Session::new(model.model());
    session.prefill(model.model(), &prompt(&model, 1), usize::MAX).unwrap();
    let placeholder = model.model().config().image_token_id;
    let found = values(session.step(model.model(), &[placeholder]));
    assert!(found.iter().all(|value| value.is_finite()));
}

#[test]
fn inputs_that_do_not_belong_together_are_refused() {
    let model = model();
    let mut inputs = prompt(&model, 1);
    inputs.images = Pixels::default();
    let error = model.model().prepare(&inputs, &mut Probe::off()).unwrap_err().to_string();
    assert!(error.contains("6 placeholder"), "{error}");
    let beyond = ModelInputs::text(vec![1, 100_000]);
    let error = model.model().prepare(&beyond, &mut Probe::off()).unwrap_err().to_string();
    assert!(error.contains("100000") && error.contains("512"), "{error}");
    assert!(model.model().prepare(&ModelInputs::default(), &mut Probe::off()).is_err());
}

/// With random weights in place of a table of the same side, positions of a 48x48 grid are the table in block order.
#[test]
fn a_full_grid_reads_the_position_table_as_it_is() {
    use qwen3_vl::model::Qwen3VlConfig;
    use qwen3_vl::model::vision::VisionPlan;
    let json =
        r#"{"model_type":"qwen3_vl","text_config":{},"vision_config":{"out_hidden_size":4096}}"#;
    let config = Qwen3VlConfig::from_json(json).unwrap();
    let plan = VisionPlan::new(&config.vision, &[Grid { t: 1, h: 48, w: 48 }]);
    let (rows, weights) = plan.taps();
    let n = plan.patches();
    for patch in 0..n {
        assert_eq!((weights[patch], weights[n + patch], weights[2 * n + patch]), (1.0, 0.0, 0.0));
    }
    let first: Vec<i64> = rows[..6].to_vec();
    assert_eq!(first, [0, 1, 48, 49, 2, 3], "block order");
    let mut all = rows[..n].to_vec();
    all.sort_unstable();
    assert_eq!(all, (0..48 * 48).collect::<Vec<i64>>());
}
