//! A model on several devices computes what it computes on one, and a map that cannot be is told by its entry.

mod common;

use std::path::PathBuf;
use std::process::{Output, Stdio};

use burn::tensor::{DType, Tensor};
use qwen3_vl::model::batch::{Batch, BatchEvent, BatchOptions};
use qwen3_vl::model::cache::KvDtype;
use qwen3_vl::model::generate::{GenerateOptions, Generation, SessionSlot};
use qwen3_vl::model::inputs::ModelInputs;
use qwen3_vl::model::probe::Probe;
use qwen3_vl::model::session::Session;
use qwen3_vl::model::step::{Step, Work};
use qwen3_vl::verify::{Tolerance, verify};
use qwen3_vl::weights::Rounding;
use qwen3_vl::{LoadOptions, Qwen3Vl};
use serde_json::Value;

/// Prompts of the references: text, pictures, videos.
const CASES: [&str; 5] = ["text", "image", "two_images", "video", "mixed"];
/// Every part away from another one; all models have three layers at least.
const MAPS: [&str; 5] = [
    "flex,ndarray",
    "ndarray,flex",
    "vision=ndarray,0-=flex",
    "vision=flex,embed=ndarray,0=flex,1=ndarray,2-=flex,head=ndarray",
    "embed=flex,head=flex,flex,1=ndarray",
];

fn options(map: &str) -> LoadOptions {
    LoadOptions {
        device_map: Some(map.parse().unwrap()),
        dtype: "f32".parse().unwrap(),
        ..LoadOptions::default()
    }
}

fn fixture(model: &str) -> PathBuf {
    common::fixtures().join(model)
}

fn load_with(model: &str, options: LoadOptions) -> Qwen3Vl {
    Qwen3Vl::load(fixture(model).to_str().unwrap(), options).unwrap()
}

fn load(model: &str, map: &str) -> Qwen3Vl {
    load_with(model, options(map))
}

/// Whether both processors' backends are there; says so where one is missing.
fn has_both() -> bool {
    let both = common::cpu_devices().len() == 2;
    if !both {
        println!("skipped: flex and ndarray are not both compiled in");
    }
    both
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().convert_dtype(DType::F32).try_to_vec().unwrap()
}

/// Logits of all rows of a prompt with two pictures, and of a token behind it.
fn logits(loaded: &Qwen3Vl, name: &str) -> Vec<f32> {
    let model = loaded.model();
    let inputs = common::two_images(model, name);
    let mut prompt = model.prepare(&inputs, &mut Probe::off()).unwrap();
    let (rows, mut cache) = (0..inputs.ids.len(), model.new_cache());
    let hidden = model.prefill(&mut prompt, rows, &mut cache, &mut Probe::off());
    let next = model.decode(&[(7, 900)], &mut [&mut cache]);
    [values(model.logits(hidden)), values(next)].concat()
}

/// The largest difference, relative to the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

#[test]
fn every_stage_of_every_map_is_what_transformers_computes() {
    if !has_both() {
        return;
    }
    for model in common::MODELS {
        for map in MAPS {
            let loaded = load(model, map);
            for case in CASES {
                let reference = fixture(model).join(format!("ref_{case}.safetensors"));
                let outcome = verify(loaded.model(), &reference, Tolerance::Exact).unwrap();
                let worst = outcome.worst();
                assert!(outcome.passed(), "{model}/{case} with {map}: {worst:?}");
            }
        }
    }
}

/// As near to one device as the two backends are to one another.
#[test]
fn logits_of_a_split_model_lie_between_those_of_its_backends() {
    if !has_both() {
        return;
    }
    for model in ["dense_tied", "dense_untied", "moe"] {
        let flex = logits(&load(model, "flex"), model);
        let apart = distance(&flex, &logits(&load(model, "ndarray"), model));
        for map in MAPS {
            let split = distance(&flex, &logits(&load(model, map), model));
            assert!(split < 1e-5 && split < 3.0 * apart, "{model}, {map}: {split} and {apart}");
        }
    }
}

#[test]
fn a_map_of_one_device_changes_no_bit() {
    for device in common::cpu_devices() {
        for model in ["dense_tied", "moe"] {
            let whole = logits(&common::load(&fixture(model), &device), model);
            for map in ["@", "@,@", "0=@,1-=@", "vision=@,0-1=@,2-=@"] {
                let loaded = load(model, &map.replace('@', &device));
                assert_eq!(logits(&loaded, model), whole, "{model} with {map} on {device}");
                assert_eq!(loaded.model().placement().is_some(), map != "@", "{map}");
            }
        }
    }
}

/// Logits after a prompt and two tokens more: stages beside each other where `in_stages`, else one chunk after the other.
fn answer(
    loaded: &Qwen3Vl,
    inputs: &ModelInputs,
    (chunk, in_stages): (usize, bool),
) -> Vec<Vec<f32>> {
    let model = loaded.model();
    if in_stages {
        let mut session = Session::new(model);
        let first = session.prefill(model, inputs, chunk).unwrap().logits;
        let steps = [40, 41].map(|id| values(session.step(model, &[id])));
        return [vec![values(first)], steps.to_vec()].concat();
    }
    let mut prompt = model.prepare(inputs, &mut Probe::off()).unwrap();
    let (mut cache, mut last) = (model.new_cache(), None);
    while cache.len() < inputs.ids.len() {
        let rows = cache.len()..inputs.ids.len().min(cache.len() + chunk);
        let count = rows.len();
        let hidden = model.prefill(&mut prompt, rows, &mut cache, &mut Probe::off());
        last = Some(hidden.narrow(0, count - 1, 1));
    }
    let mut found = vec![values(model.logits(last.unwrap()))];
    for (step, id) in [40, 41].into_iter().enumerate() {
        let position = prompt.positions().next + step as u32;
        found.push(values(model.decode(&[(id, position)], &mut [&mut cache])));
    }
    found
}

#[test]
fn stages_beside_each_other_give_what_they_give_in_turn() {
    let mut maps = vec!["0=@,1=@,2-=@", "@,@"];
    if has_both() {
        maps.extend(["flex,ndarray", "vision=ndarray,0=flex,1=ndarray,2-=flex"]);
    }
    for model in ["dense_tied", "dense_untied", "moe"] {
        for map in &maps {
            for storage in ["auto", "int8"] {
                let storage: KvDtype = storage.parse().unwrap();
                let map = map.replace('@', &common::cpu_devices()[0]);
                let loaded =
                    load_with(model, LoadOptions { kv_cache_dtype: storage, ..options(&map) });
                let inputs = common::two_images(loaded.model(), model);
                for chunk in [1, 7, 20] {
                    let [beside, in_turn] =
                        [true, false].map(|s| answer(&loaded, &inputs, (chunk, s)));
                    assert_eq!(
                        beside, in_turn,
                        "{model} with {map}, {chunk} at a time, {storage:?}"
                    );
                }
            }
        }
    }
}

/// A prompt goes through the stages of a map in even pieces, however large the pieces of the caller are.
#[test]
fn long_prompts_are_cut_for_the_stages() {
    let device = &common::cpu_devices()[0];
    let loaded = load("dense_tied", &format!("{device},{device}"));
    let inputs = ModelInputs::text((0..1100).map(|i| 3 + i * 13 % 200).collect());
    let beside = answer(&loaded, &inputs, (usize::MAX, true));
    assert_eq!(beside, answer(&loaded, &inputs, (367, false)));
}

/// So do the rows of a pass of several sequences, where a piece may end in the middle of one or hold the rows of several.
#[test]
fn passes_of_many_rows_are_cut_for_the_stages() {
    let device = &common::cpu_devices()[0];
    for name in ["dense_tied", "moe"] {
        let hidden = |map: &str| {
            let loaded = load(name, map);
            let model = loaded.model();
            let text = |n: usize| {
                let ids = (0..n).map(|i| 3 + (n + i * 13) as u32 % 200);
                ModelInputs::text(ids.collect())
            };
            let inputs = [text(9), text(700), common::two_images(model, name), text(600)];
            let mut prompts =
                inputs.each_ref().map(|i| model.prepare(i, &mut Probe::off()).unwrap());
            let mut caches = prompts.each_ref().map(|_| model.new_cache());
            let [first, ..] = &mut prompts;
            model.prefill(first, 0..9, &mut caches[0], &mut Probe::off());
            // An answer that goes on, beside three prompts.
            let works = prompts.iter_mut().enumerate().map(|(index, prompt)| match index {
                0 => Work::Tokens { ids: &[40], position: 9 },
                _ => Work::Prompt { rows: 0..inputs[index].ids.len(), prompt },
            });
            let steps = works.zip(&mut caches).map(|(work, cache)| Step { work, cache });
            let rows = model.forward(&mut steps.collect::<Vec<_>>(), &mut Probe::off());
            let next: Vec<_> = caches.iter().map(|cache| (41, cache.len() as u32)).collect();
            let caches = &mut caches.each_mut();
            [values(rows), values(model.decode(&next, caches))].concat()
        };
        let apart = distance(&hidden(device), &hidden(&format!("{device},{device}")));
        assert!(apart < 1e-5, "{name}: {apart}");
    }
}

/// The tokens of a prompt are scored as they come out of the last stage.
#[test]
fn prompts_are_scored_alike_in_stages() {
    let device = &common::cpu_devices()[0];
    let scored = |loaded: &Qwen3Vl| {
        let inputs = common::two_images(loaded.model(), "dense_tied");
        let options = GenerateOptions {
            max_new_tokens: 3,
            prompt_logprobs: Some(2),
            prefill_chunk: 5,
            ..GenerateOptions::default()
        };
        let session = SessionSlot::Owned(Box::new(Session::new(loaded.model())));
        let mut generation = Generation::start(loaded.model(), session, &inputs, options).unwrap();
        let ids: Vec<u32> = generation.by_ref().map(|token| token.unwrap().id).collect();
        (ids, generation.answer().prompt_logprobs().unwrap().to_vec())
    };
    let whole = scored(&load("dense_tied", device));
    assert_eq!(whole.0.len(), 3);
    assert_eq!(scored(&load("dense_tied", &format!("{device},{device}"))), whole);
}

/// Answers of a batch, by order of submission.
fn answers(loaded: &Qwen3Vl, inputs: &[ModelInputs]) -> Vec<Vec<u32>> {
    let options = BatchOptions {
        max_num_batched_tokens: 24,
        prefix_bytes: 1 << 24,
        feature_bytes: 1 << 24,
        ..BatchOptions::default()
    };
    let mut batch = Batch::new(loaded.model(), options);
    let generate = GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() };
    let submit = |inputs: &ModelInputs| batch.submit(inputs, generate.clone()).unwrap();
    let ids: Vec<_> = inputs.iter().map(submit).collect();
    let mut answers = vec![Vec::new(); ids.len()];
    while !batch.is_empty() {
        for (id, event) in batch.step() {
            let BatchEvent::Token { token, .. } = event else { panic!("{event:?}") };
            answers[ids.iter().position(|other| *other == id).unwrap()].push(token.id);
        }
    }
    answers
}

#[test]
fn batches_are_answered_alike() {
    let device = common::cpu_devices()[0].clone();
    let mut maps = vec![format!("{device},{device}")];
    maps.extend(MAPS.map(str::to_owned).into_iter().filter(|_| has_both()));
    for model in ["dense_tied", "moe"] {
        let whole = load(model, &device);
        let text =
            |n: usize| ModelInputs::text((0..n).map(|i| 3 + (i * 13 % 200) as u32).collect());
        let pictures = common::two_images(whole.model(), model);
        let inputs = [text(9), pictures.clone(), text(2), pictures, text(40)];
        let expected = answers(&whole, &inputs);
        for map in &maps {
            assert_eq!(answers(&load(model, map), &inputs), expected, "{model} with {map}");
        }
    }
}

#[test]
fn rounded_weights_and_adapters_go_with_their_layers() {
    if !has_both() {
        return;
    }
    let adapter = Some(common::fixtures().join("adapters/plain"));
    let quant = Some(Rounding::new("int8".parse().unwrap()));
    let of = |map: &str, rounded: bool| {
        let options = match rounded {
            true => LoadOptions { quant: quant.clone(), ..options(map) },
            false => LoadOptions { adapter: adapter.clone(), ..options(map) },
        };
        logits(&load_with("dense_tied", options), "dense_tied")
    };
    for (rounded, bound) in [(true, 0.1), (false, 1e-5)] {
        let flex = of("flex", rounded);
        assert_ne!(flex, logits(&load("dense_tied", "flex"), "dense_tied"));
        assert_eq!(of("flex,flex", rounded), flex);
        for map in ["flex,ndarray", "ndarray,flex"] {
            let apart = distance(&flex, &of(map, rounded));
            assert!(apart < bound, "rounded {rounded}, {map}: {apart}");
        }
    }
}

/// A card is another sort of device: what crosses to it goes through the host.
#[test]
fn a_card_takes_part() {
    let Some(card) = common::cards().into_iter().next() else { return };
    for model in ["dense_tied", "moe"] {
        for map in ["@,#", "vision=#,0=@,1-=#,embed=@,head=@"] {
            let map = map.replace('@', &common::cpu_devices()[0]).replace('#', &card);
            let loaded = load(model, &map);
            let reference = fixture(model).join("ref_mixed.safetensors");
            let bound = Tolerance::Relative(1e-4);
            let outcome = verify(loaded.model(), &reference, bound).unwrap();
            assert!(outcome.passed(), "{model} with {map}: {:?}", outcome.worst());
            let inputs = common::two_images(loaded.model(), model);
            let [beside, in_turn] = [true, false].map(|s| answer(&loaded, &inputs, (7, s)));
            assert_eq!(beside, in_turn, "{model} with {map}");
        }
    }
}

/// Runs the program without a device in its environment.
fn output(arguments: &[&str]) -> Output {
    let mut program = common::program("");
    program.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = output(arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {message}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_program_answers_alike() {
    if !has_both() {
        return;
    }
    let model = fixture("dense_tied").to_str().unwrap().to_owned();
    let picture = common::fixtures().join("e2e/blocks.png").to_str().unwrap().to_owned();
    let film = common::fixtures().join("videos/animation.gif").to_str().unwrap().to_owned();
    let question = ["run", &model, "--image", &picture, "--video", &film, "-p", "What?"];
    let question = [&question[..], &["--greedy", "-n", "12", "--ignore-eos", "--json"]].concat();
    let whole = json(&[&question[..], &["--device", "flex"]].concat());
    for (map, devices) in [("auto", "flex"), ("flex,ndarray", "flex + ndarray")] {
        let split = json(&[&question[..], &["--device-map", map]].concat());
        assert_eq!(split["token_ids"], whole["token_ids"], "{map}");
        assert_eq!(split["device"], devices);
    }
    let reference = fixture("moe").join("ref_mixed.safetensors");
    let arguments = ["--reference", reference.to_str().unwrap(), "--device-map", "ndarray,flex"];
    let verified =
        output(&[&["verify", fixture("moe").to_str().unwrap()], &arguments[..]].concat());
    let text = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success() && text.contains("pass on ndarray + flex"), "{text}");
}

#[test]
fn plan_tells_who_holds_what() {
    if !has_both() {
        return;
    }
    let model = fixture("dense_untied").to_str().unwrap().to_owned();
    let plan = |more: &[&str]| output(&[&["plan", &model, "-p", "Hello"], more].concat());
    let json = |more: &[&str]| -> Value { serde_json::from_slice(&plan(more).stdout).unwrap() };
    let whole = json(&["--device", "flex", "--json"]);
    let map = "vision=ndarray,embed=flex,0-1=flex,2=ndarray,head=flex";
    let split = json(&["--device-map", map, "--json"]);
    assert_eq!(whole["devices"].as_array().unwrap().len(), 1);
    assert_eq!(whole["devices"][0]["total_bytes"], whole["total_bytes"]);
    let [ndarray, flex] = &split["devices"].as_array().unwrap()[..] else { panic!("{split}") };
    assert_eq!(ndarray["device"], "ndarray");
    assert_eq!(ndarray["parts"], serde_json::json!(["vision", "2"]));
    assert_eq!(flex["parts"], serde_json::json!(["embed", "0-1", "head"]));
    for field in ["weight_bytes", "kv_cache_bytes"] {
        let [a, b, all] = [ndarray, flex, &whole].map(|of| of[field].as_u64().unwrap());
        assert_eq!(a + b, all, "{field}");
        assert_eq!(split[field], whole[field]);
    }
    assert_eq!(2 * ndarray["kv_cache_bytes"].as_u64().unwrap(), flex["kv_cache_bytes"]);
    assert_eq!(flex["fits"], true);
    let text = String::from_utf8_lossy(&plan(&["--device-map", map]).stdout).into_owned();
    for word in
        ["HOLDS", "embed, layers 0-1, head", "vision, layer 2", "which ndarray and flex share"]
    {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn maps_that_cannot_be_are_told() {
    let device = common::cpu_devices()[0].clone();
    let [tied, untied] =
        ["dense_tied", "dense_untied"].map(|m| fixture(m).to_str().unwrap().to_owned());
    let missing = ["cuda", "metal", "wgpu", "ndarray"].into_iter().find(|kind| {
        let parsed = qwen3_vl::backends::device::open(kind);
        matches!(parsed, Err(qwen3_vl::backends::DeviceError::NotCompiled { .. }))
    });
    let missing_map = format!("0-=@,head={}", missing.unwrap_or("tpu"));
    let cases: Vec<(&str, i32, &str, Vec<&str>)> = vec![
        (&untied, 2, "tower=@", vec!["--device-map", "`tower`", "vision, embed, head"]),
        (&untied, 2, "0-=", vec!["`0-=DEVICE`"]),
        (&untied, 2, "2-0=@", vec!["`2-0`", "`0-2`"]),
        (&untied, 2, "head=@,head=@", vec!["`head` twice"]),
        (&untied, 2, "@,", vec!["empty entry"]),
        (&untied, 1, "0=@", vec!["layers 1-2", "`1-2=DEVICE`", "hint"]),
        (&untied, 1, "0-1=@,1-2=@", vec!["layer 1 twice", "`0-1=@`", "`1-2=@`"]),
        (&untied, 1, "0-3=@", vec!["`0-3`", "3 layers, from 0 to 2"]),
        (&untied, 1, "@,@,@,@", vec!["lists 4 devices", "3 layers"]),
        (&untied, 1, "0-=@:7", vec!["`0-=@:7`", "numbered from 0"]),
        (&untied, 1, "0-=tpu", vec!["`0-=tpu`", "unknown device"]),
        (&untied, 1, &missing_map, vec!["head=", missing.unwrap_or("tpu")]),
        (&tied, 1, "@,head=ndarray", vec!["`head=ndarray`", "head=@"]),
    ];
    for (model, code, map, words) in cases {
        if map.contains("ndarray") && !has_both() {
            continue;
        }
        let map = map.replace('@', &device);
        for verb in ["run", "plan"] {
            let output = output(&[verb, model, "-p", "x", "--device-map", &map]);
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{verb} {map}: {message}");
            assert!(!message.contains("panicked"), "{map}: {message}");
            for word in words.iter().map(|word| word.replace('@', &device)) {
                assert!(message.contains(&word), "{verb} {map} should say {word}: {message}");
            }
        }
    }
}

#[test]
fn a_map_is_no_second_device_and_has_one_dtype() {
    let model = fixture("dense_tied").to_str().unwrap().to_owned();
    let fails = |arguments: &[&str], code: i32, words: &[&str]| {
        let output = output(&[&["run", &model, "-p", "x"], arguments].concat());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    fails(&["--device", "cpu", "--device-map", "cpu"], 2, &["--device-map", "cannot be used"]);
    if has_both() {
        let bf16 = ["--device-map", "flex,ndarray", "--dtype", "bf16"];
        fails(&bf16, 1, &["device `ndarray` has no bf16", "hint"]);
    }
    let both = LoadOptions { device: Some("cpu".into()), ..options("cpu") };
    let error = Qwen3Vl::load(&model, both).unwrap_err().to_string();
    assert!(error.contains("both given"), "{error}");
}
