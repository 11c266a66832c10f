//! LoRA adapters that peft wrote are read, and adapters that we write are loaded by peft.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use qwen3_vl::Qwen3Vl;
use qwen3_vl::verify::{Tolerance, verify};
use qwen3_vl::weights::adapter::{
    Adapter, AdapterConfig, LoraPair, Targets, read_adapter, write_adapter,
};
use qwen3_vl::weights::export::save_tensors;
use qwen3_vl::weights::names::stored_name;
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn stored(name: &str) -> PathBuf {
    common::fixtures().join("adapters").join(name)
}

fn base() -> Qwen3Vl {
    common::load(&common::fixtures().join("dense_tied"), &common::cpu_devices()[0])
}

fn tensors(path: &Path) -> BTreeMap<String, TensorData> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let dtype = |dtype| match dtype {
        safetensors::Dtype::F32 => DType::F32,
        safetensors::Dtype::I64 => DType::I64,
        safetensors::Dtype::U8 => DType::U8,
        other => panic!("{other:?}"),
    };
    let data = |view: safetensors::tensor::TensorView<'_>| {
        let (shape, dtype) = (view.shape().to_vec(), dtype(view.dtype()));
        TensorData::from_bytes_vec(view.data().to_vec(), shape, dtype)
    };
    file.tensors().into_iter().map(|(name, view)| (name, data(view))).collect()
}

/// `scale · B·A`, row by row.
fn update(pair: &LoraPair, scale: f64) -> Vec<f32> {
    let (a, b) = (pair.a.as_slice::<f32>().unwrap(), pair.b.as_slice::<f32>().unwrap());
    let (inputs, rank) = (pair.a.shape()[1], pair.rank());
    let row = |b: &[f32]| -> Vec<f32> {
        let sum =
            |i: usize| (0..rank).map(|k| f64::from(b[k]) * f64::from(a[k * inputs + i])).sum();
        (0..inputs).map(sum).map(|sum: f64| (scale * sum) as f32).collect()
    };
    b.chunks(rank).flat_map(row).collect()
}

/// The base model with an adapter merged into its weights.
fn merged(adapter: &Adapter) -> (tempfile::TempDir, Qwen3Vl) {
    let folder = common::copy_of("dense_tied");
    let path = folder.path().join("model.safetensors");
    let mut weights = tensors(&path);
    for (module, pair) in &adapter.pairs {
        let (name, _) = stored_name(&format!("{module}.weight")).unwrap();
        let weight = &weights[&name];
        let sums = update(pair, adapter.scale(module).unwrap());
        let sums = weight.as_slice::<f32>().unwrap().iter().zip(sums).map(|(w, u)| w + u);
        let changed = TensorData::new(sums.collect::<Vec<f32>>(), weight.shape().clone());
        weights.insert(name, changed);
    }
    for (path, data) in &adapter.saved {
        let (name, _) = stored_name(path).unwrap();
        assert!(weights.insert(name, data.clone()).is_some(), "{path}");
    }
    save_tensors(&path, weights).unwrap();
    let model = common::load(folder.path(), &common::cpu_devices()[0]);
    (folder, model)
}

/// The inputs of a case of the base model, with what it computes with an adapter.
fn reference(adapter: &str, case: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reference.safetensors");
    let file = format!("ref_{case}.safetensors");
    let mut all = tensors(&common::fixtures().join("dense_tied").join(&file));
    all.retain(|key, _| key.starts_with("in.") || key == "position_ids" || key == "rope_deltas");
    all.extend(tensors(&stored(adapter).join(&file)));
    save_tensors(&path, all).unwrap();
    (folder, path)
}

#[test]
fn adapters_of_peft_compute_what_peft_computes() {
    for name in ["plain", "rslora"] {
        let adapter = read_adapter(&stored(name)).unwrap();
        adapter.check(base().model()).unwrap();
        let (_folder, model) = merged(&adapter);
        let attached = adapter.attach(base().model().clone()).unwrap();
        for case in ["text", "image"] {
            let (_folder, path) = reference(name, case);
            for model in [model.model(), &attached] {
                let outcome = verify(model, &path, Tolerance::Relative(2e-5)).unwrap();
                assert!(outcome.stages.len() > usize::from(case == "image"), "{name} {case}");
                assert!(outcome.passed(), "{name} {case}: {:?}", outcome.worst());
            }
            let plain = verify(base().model(), &path, Tolerance::Relative(1e-2)).unwrap();
            assert!(!plain.passed(), "{name} {case}: the adapter changes nothing");
        }
    }
}

#[test]
fn every_setting_of_peft_is_read() {
    let plain = read_adapter(&stored("plain")).unwrap();
    assert_eq!((plain.pairs.len(), plain.saved.len()), (4 * 7 + 5, 0));
    let Targets::Names(names) = &plain.config.targets else { panic!("{:?}", plain.config) };
    assert!(names.contains(&"qkv".to_owned()) && names.len() == 8, "{names:?}");
    assert_eq!(plain.scale("visual.blocks.4.attn.qkv"), Some(2.0));
    assert_eq!(plain.scale("visual.blocks.4.attn.proj"), None);

    let rslora = read_adapter(&stored("rslora")).unwrap();
    assert!(rslora.config.rslora);
    assert!(matches!(&rslora.config.targets, Targets::Pattern(p) if p.contains("q_proj|v_proj")));
    let scale = |layer, proj| {
        rslora.scale(&format!("language_model.layers.{layer}.self_attn.{proj}")).unwrap()
    };
    assert_eq!((scale(0, "q_proj"), scale(0, "v_proj")), (4.0, 3.0));
    assert_eq!(scale(1, "q_proj"), 8.0 / 2f64.sqrt());
    assert_eq!(rslora.pairs["language_model.layers.1.self_attn.q_proj"].rank(), 2);
    let saved: Vec<&String> = rslora.saved.keys().collect();
    assert_eq!(saved, ["visual.merger.norm.bias", "visual.merger.norm.weight"]);
}

#[test]
fn what_is_written_is_what_was_read() {
    let out = tempfile::tempdir().unwrap();
    for name in ["plain", "rslora"] {
        let mut adapter = read_adapter(&stored(name)).unwrap();
        let target = out.path().join(name);
        write_adapter(&target, &adapter, "dense_tied").unwrap();
        let weights = "adapter_model.safetensors";
        assert_eq!(tensors(&target.join(weights)), tensors(&stored(name).join(weights)));
        assert_eq!(read_adapter(&target).unwrap(), adapter);
        let refused = write_adapter(&target, &adapter, "dense_tied").unwrap_err().to_string();
        assert!(refused.contains("not an empty folder"), "{refused}");
        // Without a word about modules, exactly those of the pairs are named.
        adapter.config.targets = Targets::default();
        adapter.config.modules_to_save.clear();
        let exact = out.path().join(format!("{name}-exact"));
        write_adapter(&exact, &adapter, "dense_tied").unwrap();
        let config = std::fs::read_to_string(exact.join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["target_modules"].as_array().unwrap().len(), adapter.pairs.len());
        if name == "rslora" {
            assert_eq!(config["modules_to_save"], json!(["model.visual.merger.norm"]));
            assert_eq!(config["rank_pattern"], json!({"layers.1.self_attn.q_proj": 2}));
        }
        if common::python_has("peft") {
            common::python("adapters.py", &["--check".as_ref(), target.as_os_str(), name.as_ref()]);
            common::python("adapters.py", &["--check".as_ref(), exact.as_os_str(), name.as_ref()]);
        } else {
            println!("not loaded with peft: there is no python3 with peft and transformers");
        }
    }
}

/// A copy of the plain adapter.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(stored("plain").join(name), folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn settings_that_change_the_arithmetic_are_refused() {
    let cases = [
        ("use_dora", json!(true), "`use_dora` is true"),
        ("bias", json!("all"), "`bias` is \"all\""),
        ("lora_bias", json!(true), "`lora_bias` is true"),
        ("fan_in_fan_out", json!(true), "`fan_in_fan_out`"),
        ("init_lora_weights", json!("pissa"), "`init_lora_weights` is \"pissa\""),
        ("trainable_token_indices", json!([3]), "`trainable_token_indices` is [3]"),
        ("something_of_tomorrow", json!({"a": 1}), "`something_of_tomorrow`"),
        ("peft_type", json!("LOHA"), "`peft_type` is `LOHA`"),
        ("r", json!(0), "`r` is 0"),
        ("r", json!(8), "has rank 4, but the configuration gives it 8"),
        ("r", json!("four"), "adapter_config.json"),
        ("rank_pattern", json!({"q_(a|b)": 4}), "`rank_pattern` is given for `q_(a|b)`"),
        ("rank_pattern", json!({"q_proj": 2.5}), "2.5 for `q_proj`"),
        ("alpha_pattern", json!({"q_proj": "x"}), "\"x\" for `q_proj`"),
    ];
    for (key, value, expected) in cases {
        let folder = copy();
        let path = folder.path().join("adapter_config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        let message = read_adapter(folder.path()).unwrap_err().to_string();
        assert!(message.contains(expected), "{key}: {message}");
    }
    let folder = copy();
    let path = folder.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace("\"init_lora_weights\": true", "\"init_lora_weights\": \"gaussian\""),
    )
    .unwrap();
    read_adapter(folder.path()).unwrap();
}

#[test]
fn tensors_that_do_not_belong_are_refused_by_name() {
    let layer = "base_model.model.model.language_model.layers.0.self_attn.q_proj";
    let table = "base_model.model.model.language_model.embed_tokens";
    let number =
        |shape: &[usize]| TensorData::new(vec![0.5f32; shape.iter().product()], shape.to_vec());
    let cases: [(String, Option<TensorData>, &str); 8] = [
        (format!("{table}.lora_embedding_A"), Some(number(&[4, 512])), "LoRA on the embedding"),
        (format!("{layer}.lora_magnitude_vector"), Some(number(&[64])), "DoRA"),
        (format!("{layer}.lora_B.bias"), Some(number(&[64])), "bias of LoRA"),
        (
            format!("{layer}.lora_A.weight"),
            None,
            "no lora_A for `language_model.layers.0.self_attn.q_proj`",
        ),
        (format!("{layer}.lora_A.weight"), Some(number(&[3, 48])), "A [3, 48] and B [64, 4]"),
        (format!("{layer}.lora_A.weight"), Some(number(&[4, 6, 8])), "A [4, 6, 8]"),
        ("base_model.model.audio.weight".into(), Some(number(&[1])), "belongs to no module"),
        ("model.norm.weight".into(), Some(number(&[1])), "does not begin with"),
    ];
    for (name, data, expected) in cases {
        let folder = copy();
        let path = folder.path().join("adapter_model.safetensors");
        let mut all = tensors(&path);
        match data {
            Some(data) => drop(all.insert(name.clone(), data)),
            None => drop(all.remove(&name).unwrap()),
        }
        save_tensors(&path, all).unwrap();
        let message = read_adapter(folder.path()).unwrap_err().to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
    let folder = copy();
    let path = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
    let message = read_adapter(folder.path()).unwrap_err().to_string();
    assert!(message.contains("adapter_model.safetensors is not a complete"), "{message}");
    std::fs::remove_file(&path).unwrap();
    let message = read_adapter(folder.path()).unwrap_err().to_string();
    assert!(message.contains("cannot read") && message.contains("adapter_model"), "{message}");
}

#[test]
fn an_adapter_must_fit_the_model() {
    let model = base();
    let pair = |outputs, rank, inputs| LoraPair {
        a: TensorData::zeros::<f32, _>([rank, inputs]),
        b: TensorData::zeros::<f32, _>([outputs, rank]),
    };
    let with = |module: &str, pair: LoraPair| Adapter {
        config: AdapterConfig::new(4, 8.0),
        pairs: [(module.to_owned(), pair)].into(),
        saved: BTreeMap::new(),
    };
    let check = |adapter: &Adapter| adapter.check(model.model()).unwrap_err().to_string();
    let wrong = with("language_model.layers.0.self_attn.q_proj", pair(64, 4, 47));
    let message = check(&wrong);
    assert!(message.contains("[64, 47]") && message.contains("[64, 48]"), "{message}");
    let message = check(&with("language_model.layers.9.self_attn.q_proj", pair(64, 4, 48)));
    assert!(message.contains("layers.9") && message.contains("the nearest name is"), "{message}");
    with("visual.blocks.4.attn.qkv", pair(96, 4, 32)).check(model.model()).unwrap();

    let untied = common::load(&common::fixtures().join("dense_untied"), &common::cpu_devices()[0]);
    let head = with("lm_head", pair(512, 4, 64));
    let message = head.attach(untied.model().clone()).unwrap_err().to_string();
    assert!(message.contains("`lm_head`; only linear layers"), "{message}");
    let mut table = with("visual.blocks.4.attn.qkv", pair(96, 4, 32));
    let values = TensorData::zeros::<f32, _>([512, 48]);
    table.saved.insert("language_model.embed_tokens.weight".into(), values);
    let message = table.attach(model.model().clone()).unwrap_err().to_string();
    assert!(message.contains("which is the head too"), "{message}");

    let mut saved = with("visual.blocks.4.attn.qkv", pair(96, 4, 32));
    let kernel = TensorData::zeros::<f32, _>([32, 3, 2, 16, 16]);
    saved.saved.insert("visual.patch_embed.proj.weight".into(), kernel);
    saved.check(model.model()).unwrap();
    let out = tempfile::tempdir().unwrap();
    write_adapter(&out.path().join("whole"), &saved, "base").unwrap();
    assert_eq!(read_adapter(&out.path().join("whole")).unwrap().saved, saved.saved);
    let flat = TensorData::zeros::<f32, _>([32, 1536]);
    saved.saved.insert("visual.patch_embed.proj.weight".into(), flat);
    let message = write_adapter(&out.path().join("flat"), &saved, "base").unwrap_err().to_string();
    assert!(message.contains("[outputs, channels, frames, side, side]"), "{message}");
    assert!(!out.path().join("flat").exists());
}
