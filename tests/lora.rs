//! LoRA in training: it begins as the base model, its gradients are right, and what it learns leaves as a checkpoint
//! or as an adapter.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{DType, Tensor, TensorData};
use common::training::{Folder, all_values, parsed, train, two_images, weights};
use qwen3_vl::backends::{SelectedDevice, device};
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::model::weight::Weight;
use qwen3_vl::train::config::{TrainConfig, Training};
use qwen3_vl::train::export::trained;
use qwen3_vl::train::gradients::ModelGradients;
use qwen3_vl::train::groups::{Group, parameters};
use qwen3_vl::train::lora::{Plan, adapter};
use qwen3_vl::train::optim::ModelOptimizer;
use qwen3_vl::train::pass::{Batch, PassOptions, backward, losses};
use qwen3_vl::train::run::{TrainError, Trainer};
use qwen3_vl::train::trainable::trainable;
use qwen3_vl::verify::Reference;
use qwen3_vl::weights::adapter::{read_adapter, write_adapter};
use qwen3_vl::weights::export::{ExportOptions, export_model};
use qwen3_vl::weights::names::stored_name;
use qwen3_vl::{LoadOptions, Qwen3Vl};

/// Side paths everywhere.
const EVERYWHERE: &str = "train = { vision = \"lora\", merger = \"lora\", llm = \"lora\" }\nmethod = { kind = \"lora\", rank = 4, alpha = 6 }\n";
/// As a user would: the language model by LoRA, the mergers whole.
const COMPOSED: &str = "train = { merger = true, llm = \"lora\" }\nmethod = { kind = \"lora\", rank = 8, scaling = \"rs\" }\n";

fn attached(model: &Qwen3VlModel, config: &TrainConfig) -> Qwen3VlModel {
    Plan::new(config, model.config()).unwrap().unwrap().attach(model.clone())
}

/// Losses depend on every logit of their rows, so that equal bits of losses mean equal models.
fn bits(model: &Qwen3VlModel, name: &str) -> Vec<u32> {
    losses(model, two_images(model, name)).iter().map(|loss| loss.to_bits()).collect()
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert_dtype(DType::F32).try_to_vec().unwrap()
}

/// Gives every `B` loud values, as after long training.
fn fill(model: &mut Qwen3VlModel) {
    let device = model.device();
    for (place, (_, linear)) in model.linears_mut().into_iter().enumerate() {
        if let Some(lora) = &mut linear.lora {
            let [outputs, rank] = lora.b.val().dims();
            let value = |i: usize| ((i * 7919 + place * 104_729) % 1999) as f32 / 999.5 - 1.0;
            let values: Vec<f32> = (0..outputs * rank).map(|i| 0.5 * value(i)).collect();
            let data = TensorData::new(values, [outputs, rank]);
            let b = Tensor::from_data(data, (&device, DType::F32));
            lora.b = Param::initialized(lora.b.id, b);
        }
    }
}

/// The same model with every side path in its weight.
fn merged(mut model: Qwen3VlModel) -> Qwen3VlModel {
    for (_, linear) in model.linears_mut() {
        linear.weight = Weight::Dense(Param::from_tensor(linear.merged_weight()));
        linear.lora = None;
    }
    model
}

fn gradients(model: &Qwen3VlModel, batch: Batch, recompute: bool) -> BTreeMap<String, Vec<f32>> {
    let mut collected = ModelGradients::default();
    let scale = 1.0 / batch.targets() as f64;
    let options = PassOptions { scale, recompute, router_aux: 0.0 };
    backward(model, batch, &options, &mut collected);
    let values = parameters(model).into_iter();
    let values = values.filter_map(|p| Some((p.path, floats(collected.remove(p.id)?))));
    values.collect()
}

/// `a [n, k] · b [k, m]` times `scale`, of which either may be given transposed.
fn product(a: Tensor<2>, b: Tensor<2>, scale: f64) -> Vec<f32> {
    floats(a.matmul(b) * scale)
}

fn assert_near(what: &str, found: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-12f32, |a, b| a.max(b.abs()));
    for (at, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!((x - y).abs() <= bound * largest, "{what}[{at}]: {x}, not {y} (largest {largest})");
    }
}

#[test]
fn a_fresh_side_path_changes_no_bit() {
    for name in common::MODELS {
        for device in common::cpu_devices() {
            let base = common::load(&common::fixtures().join(name), &device);
            let mut model = attached(base.model(), &parsed(EVERYWHERE));
            assert_eq!(bits(&model, name), bits(base.model(), name), "{name} on {device}");
            fill(&mut model);
            assert_ne!(bits(&model, name), bits(base.model(), name), "{name} on {device}");
        }
    }
}

/// `dA = scale · Bᵀ·dW` and `dB = scale · dW·Aᵀ`, where `dW` is the gradient of the merged weight.
#[test]
fn gradients_are_those_of_the_merged_weight() {
    for (name, device) in ["dense_tied", "moe"]
        .iter()
        .flat_map(|m| common::cpu_devices().into_iter().map(move |d| (*m, d)))
    {
        let base = common::load(&common::fixtures().join(name), &device);
        let config = parsed(EVERYWHERE);
        let mut model = attached(base.model(), &config);
        fill(&mut model);
        let whole = trainable(merged(model.clone()), |_| true);
        let dense = gradients(&whole, two_images(&whole, name), false);
        let mut model = trainable(model, |parameter| config.train.trains(parameter));
        for recompute in [false, true] {
            let found = gradients(&model, two_images(&model, name), recompute);
            let mut pairs = 0;
            for (path, linear) in model.linears_mut() {
                let Some(lora) = &linear.lora else { continue };
                let (a, b) = (lora.a.val().inner(), lora.b.val().inner());
                let shape = linear.weight.shape();
                let dw = TensorData::new(dense[&format!("{path}.weight")].clone(), shape);
                let dw = Tensor::<2>::from_data(dw, (&a.device(), DType::F32));
                let of_a = product(b.transpose(), dw.clone(), lora.scale());
                let of_b = product(dw, a.transpose(), lora.scale());
                let what = format!("{name} on {device}, recompute {recompute}: {path}");
                assert_near(&format!("{what}.a"), &found[&format!("{path}.lora.a")], &of_a, 1e-4);
                assert_near(&format!("{what}.b"), &found[&format!("{path}.lora.b")], &of_b, 1e-4);
                pairs += 1;
            }
            assert!(pairs > 30, "{pairs}");
            assert_eq!(found.len(), 2 * pairs, "nothing else has a gradient");
        }
    }
}

/// What an adapter of peft is called in our model.
fn our_path(name: &str) -> String {
    let half = [(".lora_A.weight", ".lora.a"), (".lora_B.weight", ".lora.b")];
    for (theirs, ours) in half {
        if let Some(module) = name.strip_suffix(theirs) {
            let path = qwen3_vl::weights::names::module_path(&format!("{module}.weight")).unwrap();
            return format!("{}{ours}", path.strip_suffix(".weight").unwrap());
        }
    }
    qwen3_vl::weights::names::module_path(name).unwrap()
}

/// Loss and gradients of adapters that peft wrote, and the losses of five steps of AdamW, LoRA+ among them.
#[test]
fn peft_trains_the_same() {
    for (name, ratio) in [("plain", 1.0), ("rslora", 4.0)] {
        let folder = common::fixtures().join("adapters").join(name);
        let reference = Reference::open(&folder.join("ref_train.safetensors")).unwrap();
        let values = |key: &str| reference.floats(key).unwrap().unwrap().values;
        for device in common::cpu_devices() {
            let base = common::load(&common::fixtures().join("dense_tied"), &device);
            let model = read_adapter(&folder).unwrap().attach(base.model().clone()).unwrap();
            let keys = reference.keys().unwrap();
            let named: BTreeMap<String, &String> = keys
                .iter()
                .filter_map(|key| Some((our_path(key.strip_prefix("grad.")?), key)))
                .collect();
            let mut model = trainable(model, |parameter| named.contains_key(&parameter.path));
            let found = gradients(&model, two_images(&model, "dense_tied"), false);
            assert!(found.keys().eq(named.keys()), "{name}: {:?}", found.keys());
            for (path, key) in &named {
                let samples = values(key);
                let stride = found[path].len().div_ceil(64);
                let ours: Vec<f32> = found[path].iter().step_by(stride).copied().collect();
                assert_near(&format!("{name} on {device}: {path}"), &ours, &samples, 1e-4);
            }
            let mut settings = parsed(EVERYWHERE);
            settings.lr.base = 1e-2;
            settings.lr.b_ratio = Some(ratio);
            settings.optimizer.weight_decay = 0.01;
            settings.optimizer.epsilon = 1e-3;
            let list = parameters(&model).into_iter().filter(|p| named.contains_key(&p.path));
            let list: Vec<_> = list.collect();
            let mut optimizer = ModelOptimizer::new(settings.optimizer, &settings.lr, &list);
            for (step, expected) in values("losses").into_iter().enumerate() {
                let batch = two_images(&model, "dense_tied");
                let scale = 1.0 / batch.targets() as f64;
                let options = PassOptions { scale, recompute: step % 2 == 1, router_aux: 0.0 };
                let mut found = ModelGradients::default();
                let loss = backward(&model, batch, &options, &mut found).losses;
                let loss = loss.iter().sum::<f32>() / loss.len() as f32;
                assert!(
                    (loss - expected).abs() < 1e-4 * expected,
                    "{name} on {device}, step {step}: {loss}, not {expected}"
                );
                let norm = found.norm();
                model = optimizer.step(model, found, norm, 1.0);
            }
        }
    }
}

/// Ten steps with weight decay move side paths and mergers, and not one bit of anything else.
#[test]
fn frozen_parameters_stay_bit_equal() {
    let base = common::load(&common::fixtures().join("dense_untied"), "flex");
    let mut settings = parsed(COMPOSED);
    settings.optimizer.weight_decay = 0.1;
    let model = attached(base.model(), &settings);
    let mut model = trainable(model, |parameter| settings.train.trains(parameter));
    let list: Vec<_> = parameters(&model);
    let trained: Vec<_> = list.iter().filter(|p| settings.train.trains(p)).cloned().collect();
    let mut optimizer = ModelOptimizer::new(settings.optimizer, &settings.lr, &trained);
    let before = all_values(&model);
    for _ in 0..10 {
        let batch = two_images(&model, "dense_untied");
        let options = PassOptions { scale: 0.1, recompute: false, router_aux: 0.0 };
        let mut found = ModelGradients::default();
        backward(&model, batch, &options, &mut found);
        let norm = found.norm();
        model = optimizer.step(model, found, norm, 1.0);
    }
    let after = all_values(&model);
    for parameter in list {
        let path = &parameter.path;
        let moved = before[path] != after[path];
        assert_eq!(moved, settings.train.trains(&parameter), "{path}");
    }
}

const STEPS: &str =
    "batch = { tokens = 300 }\nlr = { base = 1e-2, warmup = 5, schedule = \"constant\" }\n";

#[test]
fn eight_mixed_samples_are_learned_by_heart() {
    let folder = Folder::new();
    let falling = STEPS.replace("constant", "linear");
    let more = format!("{falling}steps = 80\n{COMPOSED}");
    let reports = train(folder.config("dense_tied", "run", &more), None);
    assert!(reports[0].loss > 3.0, "{:?}", reports[0]);
    assert!(reports.last().unwrap().loss < 0.05, "{:?}", reports.last());
    let names = weights(&folder.output("run"));
    let kind = |name: &String| name.contains(".lora.") || name.contains("merger");
    assert!(names.keys().all(kind), "{:?}", names.keys());
    assert_eq!(names.keys().filter(|name| name.ends_with(".lora.b")).count(), 4 * 7);
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_bit_by_bit() {
    let folder = Folder::new();
    let more = format!("{STEPS}steps = 10\nsave = {{ every = 4 }}\nseed = 3\n{COMPOSED}");
    let whole = train(folder.config("dense_tied", "whole", &more), None);
    let mut parts = train(folder.config("dense_tied", "parts", &more), Some(6));
    parts.extend(train(folder.config("dense_tied", "parts", &more), None));
    let losses = |reports: &[qwen3_vl::train::run::StepReport]| {
        reports.iter().map(|r| (r.step, r.loss.to_bits())).collect::<Vec<_>>()
    };
    assert_eq!(losses(&whole), losses(&parts));
    assert_eq!(weights(&folder.output("whole")), weights(&folder.output("parts")));
}

#[test]
fn a_changed_method_is_not_resumed() {
    let folder = Folder::new();
    let more = |method: &str| format!("{STEPS}steps = 1\ntrain = {{ llm = \"lora\" }}\n{method}\n");
    let begun = more("method = { kind = \"lora\", rank = 4 }");
    train(folder.config("dense_tied", "run", &begun), None);
    let flex = device::select(Some("flex")).unwrap();
    let cases = [
        (more("method = { kind = \"lora\", rank = 2 }"), "`method.rank` was 4 and is 2"),
        (
            more("method = { kind = \"lora\", rank = 4, scaling = \"rs\" }"),
            "`method.scaling` was \"plain\" and is \"rs\"",
        ),
        (format!("{STEPS}steps = 1\n"), "`train.llm` was \"lora\" and is true"),
    ];
    for (changed, expected) in cases {
        let config = folder.config("dense_tied", "run", &changed);
        let message = Trainer::new(config, &flex).err().expect("another run").to_string();
        assert!(message.contains(expected), "{message}");
    }
}

/// A target that is wrong is told before weights are read, and by its name.
#[test]
fn wrong_targets_stop_a_run_at_once() {
    let folder = Folder::new();
    let more = format!(
        "{STEPS}steps = 1\ntrain = {{ llm = \"lora\" }}\nmethod = {{ kind = \"lora\", targets = [\"q_poj\"] }}\n"
    );
    let config = folder.config("dense_tied", "run", &more);
    let flex = device::select(Some("flex")).unwrap();
    match Trainer::new(config, &flex) {
        Err(TrainError::Lora(error)) => {
            assert!(error.to_string().contains("nearest name is `q_proj`"), "{error}")
        }
        other => panic!("{:?}", other.err()),
    }
}

/// A step whose rows reach nothing that is trained is no error.
#[test]
fn rows_without_pictures_leave_mergers_as_they_are() {
    let folder = Folder::new();
    let text = common::training::ROWS.lines().filter(|row| row.contains("1+1?"));
    std::fs::write(folder.folder.path().join("data.jsonl"), text.collect::<String>()).unwrap();
    for recompute in ["none", "block"] {
        let more = format!(
            "{STEPS}steps = 2\ntrain = {{ merger = \"lora\" }}\nmethod = {{ kind = \"lora\", rank = 2 }}\nmemory = {{ recompute = \"{recompute}\" }}\n"
        );
        let reports = train(folder.config("dense_tied", recompute, &more), None);
        assert_eq!((reports.len(), reports[1].norm), (2, 0.0));
    }
}

#[test]
fn parameters_are_counted_by_group() {
    let folder = Folder::new();
    let config = folder.config("dense_tied", "run", &format!("{STEPS}steps = 1\n{COMPOSED}"));
    let flex = device::select(Some("flex")).unwrap();
    let trainer = Trainer::new(config, &flex).unwrap();
    let counts = trainer.counts();
    let of = |group| *counts.iter().find(|count| count.group == group).unwrap();
    let llm = of(Group::Llm);
    // Per layer: rank 8 on q [64, 48], k and v [32, 48], o [48, 64], gate and up [96, 48], down [48, 96].
    let layer = 8 * ((64 + 48) * 2 + (32 + 48) * 2 + (96 + 48) * 3);
    assert_eq!((llm.training, llm.trained(), llm.lora), (Training::Lora, 4 * layer, 4 * layer));
    let merger = of(Group::Merger);
    assert_eq!((merger.trained(), merger.lora), (merger.all, 0));
    assert_eq!((of(Group::Vision).trained(), of(Group::Embed).trained()), (0, 0));
    let base = common::load(&common::fixtures().join("dense_tied"), "flex");
    let all: usize = parameters(base.model()).iter().map(|p| p.len()).sum();
    assert_eq!(counts.iter().map(|count| count.all).sum::<u64>(), all as u64);
}

fn flex() -> SelectedDevice {
    device::select(Some("flex")).unwrap()
}

/// A copy of `model` with its weights in bf16.
fn in_bf16(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = common::fixtures().join(model);
    let base = common::load(&source, "flex");
    let options = ExportOptions { dtype: Some(DType::BF16), ..ExportOptions::default() };
    export_model(base.model(), &source, &folder.path().join("bf16"), &options, &mut ()).unwrap();
    folder
}

/// Frozen weights keep the dtype of their file, pairs and whole parameters are f32, and it learns.
#[test]
fn weights_in_bf16_stay_so() {
    let folder = Folder::new();
    let short = in_bf16("dense_tied");
    let source = short.path().join("bf16");
    let more = format!("{STEPS}steps = 30\n{COMPOSED}");
    let config = folder.config(source.to_str().unwrap(), "run", &more);
    let reports = train(config.clone(), None);
    assert!(reports.last().unwrap().loss < 0.6 * reports[0].loss, "{:?}", reports.last());
    let mut model = Trainer::new(config, &flex()).unwrap().model().clone();
    assert_eq!(model.visual.merger.linear_fc1.weight.values().dtype(), DType::F32);
    assert_eq!(model.language_model.embed_tokens.weight.values().dtype(), DType::BF16);
    for (path, linear) in
        model.linears_mut().into_iter().filter(|(path, _)| path.starts_with("language_model"))
    {
        let lora = linear.lora.as_ref().expect("a side path");
        let tensors = [linear.weight.values(), lora.a.val(), lora.b.val()];
        let dtypes = tensors.map(|tensor| tensor.dtype());
        assert_eq!(dtypes, [DType::BF16, DType::F32, DType::F32], "{path}");
    }
}

/// A run of a few loud steps.
fn run(folder: &Folder, model: &str, name: &str) -> PathBuf {
    let more = format!("{STEPS}steps = 4\noptimizer = {{ clip = 0.0 }}\n{COMPOSED}");
    train(folder.config(model, name, &more), None);
    folder.output(name)
}

fn values(model: &Qwen3VlModel, name: &str) -> Vec<f32> {
    losses(model, two_images(model, name))
}

fn with_adapter(model: &str, adapter: &Path, device: &str) -> Result<Qwen3Vl, qwen3_vl::Error> {
    let options = LoadOptions {
        device: Some(device.to_owned()),
        dtype: "f32".parse().unwrap(),
        adapter: Some(adapter.to_owned()),
        ..LoadOptions::default()
    };
    Qwen3Vl::load(common::fixtures().join(model).to_str().unwrap(), options)
}

#[test]
fn merged_checkpoints_and_adapters_are_the_model_that_was_trained() {
    let folder = Folder::new();
    for name in ["dense_tied", "moe"] {
        let model = trained(&run(&folder, name, name), &flex()).unwrap();
        let source = common::fixtures().join(name);
        let expected = values(&model.model, name);
        let base = values(common::load(&source, "flex").model(), name);
        assert!(
            expected.iter().zip(&base).any(|(a, b)| (a - b).abs() > 0.1),
            "nothing was learned"
        );

        let out = folder.folder.path().join(format!("{name}-merged"));
        let options = ExportOptions::default();
        export_model(&model.model, &source, &out, &options, &mut ()).unwrap();
        let found = values(common::load(&out, "flex").model(), name);
        assert_near(name, &found, &expected, 1e-5);

        let out = folder.folder.path().join(format!("{name}-adapter"));
        let pairs = adapter(&model.model, &model.config).unwrap();
        assert!(pairs.saved.keys().all(|path| path.contains("merger")), "{:?}", pairs.saved.keys());
        write_adapter(&out, &pairs, name).unwrap();
        assert_eq!(read_adapter(&out).unwrap().pairs, pairs.pairs);
        let loaded = with_adapter(name, &out, "flex").unwrap();
        assert_eq!(values(loaded.model(), name), expected, "{name}: not one bit is lost");
    }
}

/// peft puts our adapter on the base model and gets what our merged checkpoint computes.
#[test]
fn peft_loads_what_was_trained() {
    if !common::python_has("peft") {
        println!("skipped: there is no python3 with peft and transformers");
        return;
    }
    let folder = Folder::new();
    let model = trained(&run(&folder, "dense_tied", "run"), &flex()).unwrap();
    let [merged, pairs] = ["merged", "adapter"].map(|name| folder.folder.path().join(name));
    let source = common::fixtures().join("dense_tied");
    export_model(&model.model, &source, &merged, &ExportOptions::default(), &mut ()).unwrap();
    write_adapter(&pairs, &adapter(&model.model, &model.config).unwrap(), "dense_tied").unwrap();
    common::python("adapters.py", &["--same".as_ref(), pairs.as_os_str(), merged.as_os_str()]);
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let adapters = common::fixtures().join("adapters");
    let error =
        with_adapter("dense_untied", &adapters.join("plain"), "flex").unwrap_err().to_string();
    assert!(
        error.contains("which the model does not have") || error.contains("another model"),
        "{error}"
    );
    let error = with_adapter("dense_tied", &adapters.join("none"), "flex").unwrap_err().to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
}

/// An embedding table that is the head too cannot be in an adapter.
#[test]
fn tied_embeddings_leave_by_the_merged_checkpoint_only() {
    let tied = COMPOSED.replace("merger = true", "embed = true");
    let base = common::load(&common::fixtures().join("dense_tied"), "flex");
    let error = adapter(base.model(), &parsed(&tied)).unwrap_err().to_string();
    assert!(error.contains("embed_tokens") && error.contains("the head too"), "{error}");
    let own = common::load(&common::fixtures().join("dense_untied"), "flex");
    assert_eq!(adapter(own.model(), &parsed(&tied)).unwrap().saved.len(), 1);
}

/// A vision tower that was trained whole is in the adapter, its patch embedding as a convolution.
#[test]
fn whole_towers_are_modules_to_save() {
    let whole = COMPOSED.replace("merger = true", "vision = true");
    let base = common::load(&common::fixtures().join("dense_tied"), "flex");
    let model = attached(base.model(), &parsed(&whole));
    let pairs = adapter(&model, &parsed(&whole)).unwrap();
    assert_eq!(pairs.saved["visual.patch_embed.proj.weight"].shape().to_vec(), [32, 3, 2, 16, 16]);
    assert!(pairs.saved.contains_key("visual.pos_embed.weight"));
    let out = tempfile::tempdir().unwrap();
    write_adapter(&out.path().join("a"), &pairs, "dense_tied").unwrap();
    let loaded = with_adapter("dense_tied", &out.path().join("a"), "flex").unwrap();
    assert_eq!(bits(loaded.model(), "dense_tied"), bits(base.model(), "dense_tied"));
    assert_eq!(stored_name("visual.pos_embed.weight").unwrap().0, "model.visual.pos_embed.weight");
}
