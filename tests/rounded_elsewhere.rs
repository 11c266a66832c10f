//! Weights that llama.cpp, AutoAWQ, compressed-tensors and FP8 checkpoints hold: the same numbers bit by bit, a model that
//! computes what transformers computes with them, and messages for what cannot be read.

#[path = "rounded_elsewhere/apart.rs"]
mod apart;
mod common;
#[path = "rounded_elsewhere/experts.rs"]
mod experts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use burn::tensor::{DType, Tensor};
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::verify::{Tolerance, verify};
use qwen3_vl::weights::export::{QuantizeOptions, quantize_checkpoint};
use qwen3_vl::weights::gguf::Header;
use qwen3_vl::weights::names::stored_name;
use qwen3_vl::weights::{LoadError, ModelSource, Rounding};
use qwen3_vl::{LoadOptions, Message, Qwen3Vl, Request};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// The checkpoint whose weights AWQ, compressed-tensors and FP8 round.
const BASE: &str = "dense_untied";
const METHODS: [&str; 4] = ["awq", "compressed", "symmetric", "fp8"];

fn gguf(name: &str) -> PathBuf {
    common::fixtures().join("gguf").join(name)
}

fn load(path: &Path, device: &str) -> Result<Qwen3Vl, String> {
    let options = LoadOptions {
        device: Some(device.to_owned()),
        dtype: "f32".parse().unwrap(),
        ..LoadOptions::default()
    };
    Qwen3Vl::load(path.to_str().unwrap(), options).map_err(|error| error.to_string())
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The sum of all bits, each number times an odd one of its own (see `tests/generate/rounded.py`).
fn fingerprint(values: &[f32]) -> u64 {
    values.iter().enumerate().fold(0, |sum, (i, value)| {
        let bits = u64::from((value + 0.0).to_bits());
        sum.wrapping_add(bits.wrapping_mul(2 * i as u64 + 1))
    })
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert_dtype(DType::F32).try_to_vec().unwrap()
}

/// Every linear weight and the embedding, by the names of checkpoints.
fn weights(model: &Qwen3VlModel) -> BTreeMap<String, Vec<f32>> {
    let mut model = model.clone();
    let all = model.roundable_mut().into_iter().map(|(path, weight)| {
        let (name, _) = stored_name(&path).unwrap();
        (name, numbers(weight.values()))
    });
    all.collect()
}

/// Compares the numbers of all weights with those that Python made of the same file.
fn check_numbers(model: &Qwen3VlModel, prints: &Value, case: &str) {
    let found = weights(model);
    let prints = prints.as_object().unwrap();
    assert!(prints.len() > 4, "{case}: {prints:?}");
    for (name, expected) in prints {
        let values = &found[name];
        assert_eq!(Some(fingerprint(values)), expected.as_u64(), "{case}: {name}");
    }
}

/// The model with every rounded weight as the numbers that it stands for.
fn dense(model: &Qwen3VlModel) -> (Qwen3VlModel, usize) {
    let (mut model, mut changed) = (model.clone(), 0);
    for (_, mut weight) in model.roundable_mut() {
        if weight.scheme().is_some() {
            weight.expand();
            changed += 1;
        }
    }
    (model, changed)
}

fn logits(model: &Qwen3VlModel) -> Vec<f32> {
    common::logits_of_two_images(model, BASE)
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.map(f32::abs).fold(0.0, f32::max)
}

/// A checkpoint folder of `BASE` whose first layer has the weights that a method stores.
fn rounded(method: &str) -> tempfile::TempDir {
    let folder = common::copy_of(BASE);
    let stored = common::fixtures().join("rounded");
    let description = read_json(&stored.join(format!("{method}.json")));
    std::fs::copy(
        stored.join(format!("{method}.safetensors")),
        folder.path().join("b.safetensors"),
    )
    .unwrap();
    let config = folder.path().join("config.json");
    let mut json = read_json(&config);
    json["quantization_config"] = description["quantization_config"].clone();
    std::fs::write(&config, json.to_string()).unwrap();
    let whole = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::remove_file(&whole).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let replaced = description["prints"].as_object().unwrap();
    let kept: Vec<_> =
        file.tensors().into_iter().filter(|(name, _)| !replaced.contains_key(name)).collect();
    let mut map: BTreeMap<&str, &str> =
        kept.iter().map(|(name, _)| (&name[..], "a.safetensors")).collect();
    let views = kept.iter().map(|(name, view)| (&name[..], view));
    std::fs::write(
        folder.path().join("a.safetensors"),
        safetensors::serialize(views, None).unwrap(),
    )
    .unwrap();
    let added = std::fs::read(folder.path().join("b.safetensors")).unwrap();
    let added = SafeTensors::deserialize(&added).unwrap();
    map.extend(added.names().into_iter().map(|name| (name, "b.safetensors")));
    let index = json!({ "weight_map": map }).to_string();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    folder
}

#[test]
fn gguf_numbers_are_those_of_ggml() {
    for device in common::cpu_devices() {
        let loaded = load(&gguf("model.gguf"), &device).unwrap();
        assert!(loaded.report().unexpected.is_empty(), "{:?}", loaded.report());
        check_numbers(loaded.model(), &read_json(&gguf("prints.json")), &device);
        let (_, changed) = dense(loaded.model());
        assert!(changed > 20, "only {changed} linear weights stay rounded on {device}");
    }
}

#[test]
fn a_gguf_model_computes_what_transformers_does() {
    for device in common::cpu_devices() {
        let loaded = load(&gguf("model.gguf"), &device).unwrap();
        let (expanded, _) = dense(loaded.model());
        for case in ["text", "image"] {
            let reference = gguf(&format!("ref_{case}.safetensors"));
            let exact = verify(&expanded, &reference, Tolerance::Relative(3e-5)).unwrap();
            assert!(exact.passed(), "{case} on {device}: {:?}", exact.worst());
            let near = match device.as_str() {
                "ndarray" => Tolerance::Relative(3e-5),
                _ => Tolerance::Cosine(0.99),
            };
            let outcome = verify(loaded.model(), &reference, near).unwrap();
            let floats = |key: &str| !key.starts_with("greedy_ids");
            let worst = outcome.stages.iter().find(|stage| floats(&stage.key) && !stage.passed);
            assert!(worst.is_none(), "{case} on {device}: {worst:?}");
        }
    }
}

#[test]
fn gguf_tokens_and_template_are_those_of_the_checkpoint() {
    let ours = load(&gguf("model.gguf"), "flex").unwrap();
    let theirs = common::load(&common::fixtures().join("dense_tied"), "flex");
    let text = "The cat's 12 naïve houses <|im_end|> <think>\n\n\tde\u{301}ja vu</think> 日本";
    let ids = ours.tokenize(text).unwrap();
    assert_eq!(ids, theirs.tokenize(text).unwrap());
    assert_eq!(ours.detokenize(&ids).unwrap(), theirs.detokenize(&ids).unwrap());
    assert_eq!(ours.defaults().eos_token_ids, [2, 0]);
    let request = Request::new(vec![Message::user("Where is the dog?")]);
    let mut quiet = ();
    assert_eq!(
        ours.count(&request, &mut quiet).unwrap(),
        theirs.count(&request, &mut quiet).unwrap()
    );
    let ids = |loaded: &Qwen3Vl, skip| loaded.processor().tokenizer().decode(&[7, 2, 510], skip);
    assert_eq!(ids(&ours, true).unwrap(), ids(&theirs, true).unwrap());
}

#[test]
fn rounded_checkpoints_hold_the_numbers_of_their_programs() {
    for method in METHODS {
        let folder = rounded(method);
        let prints = read_json(&common::fixtures().join(format!("rounded/{method}.json")));
        for device in common::cpu_devices() {
            let case = format!("{method} on {device}");
            let loaded = load(folder.path(), &device).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert!(loaded.report().unexpected.is_empty(), "{case}: {:?}", loaded.report());
            check_numbers(loaded.model(), &prints["prints"], &case);
            let (expanded, changed) = dense(loaded.model());
            assert_eq!(changed, prints["prints"].as_object().unwrap().len(), "{case}");
            let (found, expected) = (logits(loaded.model()), logits(&expanded));
            let size = largest(expected.iter().copied());
            let far = largest(found.iter().zip(&expected).map(|(a, b)| a - b));
            // Flex rounds the activations of few rows where codes are integers.
            let bound = if device == "ndarray" || method == "fp8" { 1e-5 } else { 0.1 };
            assert!(far <= bound * size, "{case}: {far} of {size}");
        }
    }
}

/// GPUs keep the codes too, and take activations as they are, as ndarray does.
#[test]
fn gpus_compute_with_the_codes_of_other_programs() {
    let Some(card) = common::cards().into_iter().next() else { return };
    let folders = METHODS.map(|method| (method, rounded(method)));
    let folders = folders.iter().map(|(method, folder)| (*method, folder.path().to_owned()));
    for (case, path) in folders.chain([("gguf", gguf("model.gguf"))]) {
        let [expected, found] = ["ndarray", &card].map(|device| load(&path, device).unwrap());
        let schemes = |loaded: &Qwen3Vl| -> Vec<_> {
            let mut model = loaded.model().clone();
            let all = model.roundable_mut().into_iter();
            all.map(|(path, weight)| (path, weight.scheme())).collect()
        };
        assert_eq!(schemes(&found), schemes(&expected), "{case}");
        let (values, numbers) = (weights(expected.model()), weights(found.model()));
        for (name, values) in values {
            let size = largest(values.iter().copied());
            let far = largest(values.iter().zip(&numbers[&name]).map(|(a, b)| a - b));
            assert!(far <= 1e-6 * size, "{case}, {name}: {far} of {size}");
        }
        let (expected, found) = (logits(expected.model()), logits(found.model()));
        let size = largest(expected.iter().copied());
        let far = largest(found.iter().zip(&expected).map(|(a, b)| a - b));
        assert!(far <= 1e-3 * size, "{case}: {far} of {size}");
    }
}

/// compressed-tensors stores E4M3 under the same names, and says it otherwise.
#[test]
fn float_quantized_weights_are_read_as_fp8() {
    let folder = rounded("fp8");
    let config = folder.path().join("config.json");
    let mut json = read_json(&config);
    json["quantization_config"] = json!({
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
    });
    std::fs::write(&config, json.to_string()).unwrap();
    let prints = read_json(&common::fixtures().join("rounded/fp8.json"));
    let loaded = load(folder.path(), "flex").unwrap();
    check_numbers(loaded.model(), &prints["prints"], "float-quantized");
}

/// What lies beside a weight tells how it is rounded, whichever group comes first, and groups of activations alone are none.
#[test]
fn groups_of_one_checkpoint_may_differ() {
    for method in ["compressed", "symmetric"] {
        let folder = rounded(method);
        let config = folder.path().join("config.json");
        let mut json = read_json(&config);
        let groups = &mut json["quantization_config"]["config_groups"];
        let mut other = groups["group_0"].clone();
        let symmetric = other["weights"]["symmetric"].as_bool().unwrap();
        other["weights"]["symmetric"] = json!(!symmetric);
        other["weights"]["group_size"] = json!(128);
        groups["group_1"] = groups["group_0"].take();
        groups["group_0"] = other;
        groups["activations"] = json!({"weights": null, "input_activations": {"num_bits": 8}});
        std::fs::write(&config, json.to_string()).unwrap();
        let prints = read_json(&common::fixtures().join(format!("rounded/{method}.json")));
        let loaded = load(folder.path(), "flex").unwrap_or_else(|e| panic!("{method}: {e}"));
        check_numbers(loaded.model(), &prints["prints"], method);
    }
}

/// Rounded weights are told by themselves where the configuration says nothing.
#[test]
fn what_is_rounded_is_not_rounded_again() {
    let folder = rounded("fp8");
    let config = folder.path().join("config.json");
    let mut json = read_json(&config);
    json.as_object_mut().unwrap().remove("quantization_config");
    std::fs::write(&config, json.to_string()).unwrap();
    let quant = Some(Rounding::new("int8".parse().unwrap()));
    let options = LoadOptions { quant, ..LoadOptions::default() };
    let error = Qwen3Vl::load(folder.path().to_str().unwrap(), options).unwrap_err().to_string();
    assert!(error.contains("rounded") && error.contains("--quant"), "{error}");
}

/// Dtype, shape and bytes by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// What loading says after the stored tensors of a method were changed.
fn spoiled(method: &str, change: impl FnOnce(&mut Tensors)) -> String {
    let folder = rounded(method);
    let path = folder.path().join("b.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |(name, view): (String, TensorView<'_>)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    let mut tensors: Tensors = file.tensors().into_iter().map(owned).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    let mut json = read_json(&index);
    let map = json["weight_map"].as_object_mut().unwrap();
    map.retain(|name, file| file != "b.safetensors" || tensors.contains_key(name));
    std::fs::write(&index, json.to_string()).unwrap();
    load(folder.path(), "flex").map(|_| ()).unwrap_err()
}

#[test]
fn what_is_wrong_with_a_rounded_weight_is_named() {
    let module = "model.language_model.layers.0.self_attn.q_proj";
    let name = |end: &str| format!("{module}.{end}");
    let without = |method, end: &str| spoiled(method, |t| drop(t.remove(&name(end)).unwrap()));
    for (message, words) in [
        (without("awq", "qzeros"), vec![name("qzeros"), name("qweight")]),
        (without("awq", "qweight"), vec![format!("{module}.weight"), "missing".into()]),
        (without("compressed", "weight_zero_point"), vec![name("weight_zero_point")]),
        (without("fp8", "weight_scale_inv"), vec![name("weight_scale_inv")]),
        (
            // Groups of 64 where config.json says 32.
            spoiled("awq", |t| {
                let (_, shape, bytes) = t.get_mut(&name("scales")).unwrap();
                shape[0] /= 2;
                bytes.truncate(bytes.len() / 2);
            }),
            vec![name("scales"), "int4-g32".into(), "[2, 128]".into()],
        ),
        (
            spoiled("awq", |t| t.get_mut(&name("qweight")).unwrap().0 = Dtype::U32),
            vec![name("qweight"), "U32".into(), "I32".into()],
        ),
        (
            spoiled("symmetric", |t| {
                let (dtype, _, bytes) = t.get_mut(&name("weight_scale")).unwrap();
                (*dtype, *bytes) = (Dtype::I16, bytes.clone());
            }),
            vec![name("weight_scale"), "I16".into(), "BF16".into()],
        ),
        (
            spoiled("fp8", |t| t.get_mut(&format!("{module}.weight")).unwrap().2[70] = 0x7f),
            vec![format!("{module}.weight"), "row 1".into(), "not finite".into()],
        ),
        (
            spoiled("awq", |t| t.get_mut(&name("scales")).unwrap().2[1] = 0x7c),
            vec![module.into(), "not finite".into()],
        ),
    ] {
        let missing = words.iter().find(|word| !message.contains(&word[..]));
        assert_eq!(missing, None, "{message}");
    }
}

/// Runs the program; its exit code, standard output and standard error.
fn program(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = common::program("flex").args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn done(arguments: &[&str]) -> String {
    let (code, said, errors) = program(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {errors}");
    said
}

#[test]
fn the_program_takes_gguf_files_and_folders_with_them() {
    let (model, folder) = (gguf("model.gguf"), common::fixtures().join("gguf"));
    let (model, folder) = (model.to_str().unwrap(), folder.to_str().unwrap());
    let picture = common::fixtures().join("e2e/blocks.png");
    let picture = picture.to_str().unwrap();
    let ask = [
        "--image",
        picture,
        "--min-pixels",
        "1024",
        "--max-pixels",
        "9000",
        "-p",
        "What?",
        "-n",
        "4",
        "--greedy",
        "--json",
    ];
    let ids = |json: String| serde_json::from_str::<Value>(&json).unwrap()["token_ids"].clone();
    let beside = ids(done(&[&["run", model][..], &ask].concat()));
    assert_eq!(beside, ids(done(&[&["run", folder][..], &ask].concat())));
    let mmproj = gguf("mmproj-model.gguf");
    let named = ["run", model, "--mmproj", mmproj.to_str().unwrap()];
    assert_eq!(beside, ids(done(&[&named[..], &ask].concat())));

    let said = done(&["inspect", model]);
    for word in ["GGUF", "Q4_K", "Q6_K", "Q8_0", "mmproj-model.gguf", "nothing odd"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let plan = |arguments: &[&str]| -> Value {
        serde_json::from_str(&done(&[&["plan", model, "--json"], arguments].concat())).unwrap()
    };
    let rounded =
        plan(&["--image", picture, "--min-pixels", "1024", "--max-pixels", "9000"])["weight_bytes"]
            .as_u64();
    assert!(rounded < Some(1_400_000), "{rounded:?}");
    let reference = gguf("ref_text.safetensors");
    let reference = reference.to_str().unwrap();
    let (_, said, errors) = program(&["verify", model, "--reference", reference, "--dtype", "f32"]);
    assert!(said.contains("KL divergence"), "{said}{errors}");
}

/// A folder with a copy of the language model alone.
fn blind() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    std::fs::copy(gguf("model.gguf"), &model).unwrap();
    (folder, model)
}

#[test]
fn without_its_mmproj_a_model_answers_text_and_refuses_pictures() {
    let (folder, model) = blind();
    let loaded = load(&model, "flex").unwrap();
    let mut request = Request::new(vec![Message::user("Hello")]);
    request.max_tokens = Some(3);
    assert!(loaded.generate(&request).unwrap().usage.completion_tokens > 0);
    let picture = common::fixtures().join("e2e/blocks.png");
    let question = Message::user("").image(picture.to_str().unwrap()).text("What is this?");
    let error = loaded.generate(&Request::new(vec![question])).unwrap_err().to_string();
    assert!(error.contains("--mmproj FILE") && error.contains("model.gguf"), "{error}");
    let text = load(&model, "ndarray").unwrap();
    let reference = gguf("ref_text.safetensors");
    let outcome = verify(text.model(), &reference, Tolerance::Relative(3e-5)).unwrap();
    assert!(outcome.passed(), "{:?}", outcome.worst());
    let (code, said, _) = program(&["inspect", folder.path().to_str().unwrap()]);
    assert!(code == Some(0) && said.contains("--mmproj"), "{said}");
    assert!(!said.contains("vision layers") && !said.contains("mergers"), "{said}");
}

#[test]
fn files_that_are_no_model_are_refused_with_their_reason() {
    let (folder, model) = blind();
    let path = |name: &str| folder.path().join(name);
    let bytes = std::fs::read(&model).unwrap();
    let replaced = |from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|part| part == from).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let refused = |bytes: &[u8], words: &[&str]| {
        std::fs::write(path("other.gguf"), bytes).unwrap();
        let (code, _, errors) = program(&["run", path("other.gguf").to_str().unwrap(), "-p", "Hi"]);
        assert!(code == Some(1) && !errors.contains("panicked"), "{errors}");
        let missing = words.iter().chain(&["other.gguf"]).find(|word| !errors.contains(**word));
        assert_eq!(missing, None, "{errors}");
    };
    refused(&replaced(b"qwen3vl", b"llama2x"), &["`llama2x`", "qwen3vl or qwen3vlmoe"]);
    refused(&replaced(&[3, 0, 0, 0], &[9, 0, 0, 0]), &["version 9"]);
    refused(&replaced(b"GGUF", b"GGML"), &["no GGUF file"]);
    refused(&bytes[..bytes.len() / 2], &["truncated", "tensor `"]);
    refused(&bytes[..100], &["truncated"]);
    refused(
        &replaced(b"attention.key_length", b"attention.key_lengtX"),
        &["qwen3vl.attention.key_length"],
    );
    refused(&replaced(b"<|image_pad|>", b"<|imago_pad|>"), &["<|image_pad|>"]);
    refused(
        &replaced(b"blk.1.attn_q.weight", b"blk.1.attn_z.weight"),
        &["layers.1.self_attn.q_proj.weight", "missing"],
    );
    std::fs::remove_file(path("other.gguf")).unwrap();

    let error = |source: Result<ModelSource, LoadError>| match source.and_then(|s| s.open()) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    };
    let vision = gguf("mmproj-model.gguf");
    let said = error(ModelSource::find(&model, Some(&model)));
    assert!(said.contains("clip"), "{said}");
    let said = error(ModelSource::find(&vision, None));
    assert!(said.contains("`clip`") && said.contains("qwen3vl"), "{said}");
    let said = error(ModelSource::find(&common::fixtures().join(BASE), Some(&vision)));
    assert!(said.contains("--mmproj goes with a GGUF file"), "{said}");
    std::fs::copy(&model, path("again.gguf")).unwrap();
    let said = error(ModelSource::find(folder.path(), None));
    assert!(said.contains("again.gguf, model.gguf"), "{said}");
    std::fs::remove_file(path("again.gguf")).unwrap();
    std::fs::copy(&vision, path("mmproj-a.gguf")).unwrap();
    std::fs::copy(&vision, path("mmproj-b.gguf")).unwrap();
    let said = error(ModelSource::find(&model, None));
    assert!(said.contains("mmproj-a.gguf") && said.contains("--mmproj"), "{said}");
    let (code, _, errors) = program(&[
        "quantize",
        model.to_str().unwrap(),
        "-o",
        path("o").to_str().unwrap(),
        "--quant",
        "int8",
    ]);
    assert!(code == Some(1) && errors.contains("checkpoint folder"), "{errors}");
}

/// Random numbers, the same in every run.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// Whatever is cut off or flipped, the answer is a header or an error, and nothing is allocated that the file has no bytes
/// for. `QWEN3_VL_FUZZ=N` makes it long.
#[test]
fn damaged_headers_never_panic() {
    let rounds = std::env::var("QWEN3_VL_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    for name in ["model.gguf", "mmproj-model.gguf"] {
        let whole = std::fs::read(gguf(name)).unwrap();
        let header = Header::read(&whole).unwrap();
        let end = header.tensors.iter().map(|tensor| tensor.range.start).min().unwrap();
        let mut state = 7;
        for _ in 0..rounds {
            let cut = random(&mut state) % end;
            assert!(Header::read(&whole[..cut]).is_err(), "{name} cut at {cut}");
            let mut bytes = whole.clone();
            for _ in 0..=random(&mut state) % 4 {
                let at = random(&mut state) % end;
                bytes[at] ^= 1 << (random(&mut state) % 8);
            }
            let _ = Header::read(&bytes);
        }
        let folder = tempfile::tempdir().unwrap();
        for round in 0..rounds / 10 {
            let mut bytes = whole.clone();
            let at = random(&mut state) % end;
            bytes[at] ^= 1 << (random(&mut state) % 8);
            let path = folder.path().join(format!("{round}.gguf"));
            std::fs::write(&path, bytes).unwrap();
            let (model, vision) = match name {
                "model.gguf" => (path.clone(), gguf("mmproj-model.gguf")),
                _ => (gguf("model.gguf"), path.clone()),
            };
            let source = ModelSource::find(&model, Some(&vision)).unwrap();
            if let Ok(checkpoint) = source.open() {
                let _ = qwen3_vl::weights::load::check_checkpoint(&checkpoint);
                let _ = source.processor(checkpoint.config());
            }
            std::fs::remove_file(&path).unwrap();
        }
    }
}
