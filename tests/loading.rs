//! Checkpoints in every form, and what is said about broken ones.

mod common;

use std::collections::HashMap;
use std::path::Path;

use qwen3_vl::verify::{Tolerance, verify};
use qwen3_vl::weights::Checkpoint;
use qwen3_vl::{LoadOptions, Qwen3Vl};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A tensor that is about to be written again.
#[derive(Clone)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn read(path: &Path) -> HashMap<String, Stored> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |view: TensorView<'_>| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

fn write(path: &Path, tensors: &HashMap<String, Stored>) {
    let views = tensors.iter().map(|(name, t)| {
        (name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Copies `model`, lets `change` edit its tensors, and loads it.
fn changed(
    model: &str,
    change: impl FnOnce(&mut HashMap<String, Stored>),
) -> (tempfile::TempDir, Result<Qwen3Vl, qwen3_vl::Error>) {
    let folder = common::copy_of(model);
    let path = folder.path().join("model.safetensors");
    let mut tensors = read(&path);
    change(&mut tensors);
    write(&path, &tensors);
    let loaded = load(folder.path(), "f32");
    (folder, loaded)
}

fn load(folder: &Path, dtype: &str) -> Result<Qwen3Vl, qwen3_vl::Error> {
    let options = LoadOptions {
        device: Some(common::cpu_devices()[0].clone()),
        dtype: dtype.parse().unwrap(),
        ..LoadOptions::default()
    };
    Qwen3Vl::load(folder.to_str().unwrap(), options)
}

fn error(loaded: Result<Qwen3Vl, qwen3_vl::Error>) -> String {
    match loaded {
        Ok(_) => panic!("the checkpoint should not load"),
        Err(error) => error.to_string(),
    }
}

fn conforms(loaded: &Qwen3Vl, model: &str, case: &str) {
    let reference = common::fixtures().join(model).join(format!("ref_{case}.safetensors"));
    let outcome = verify(loaded.model(), &reference, Tolerance::Exact).unwrap();
    assert!(outcome.passed(), "{model}/{case}: {:?}", outcome.worst());
}

#[test]
fn published_files_hold_experts_the_other_way_round() {
    let (folder, loaded) = changed("moe", |tensors| {
        for (name, tensor) in tensors.iter_mut().filter(|(name, _)| name.contains(".experts.")) {
            let [e, a, b] = tensor.shape[..] else { panic!("{name}") };
            let old = tensor.bytes.clone();
            let at = |e: usize, row: usize, column: usize| {
                let start = ((e * a + row) * b + column) * 4;
                old[start..start + 4].to_vec()
            };
            tensor.bytes = (0..e * b * a).flat_map(|i| at(i / (a * b), i % a, i / a % b)).collect();
            tensor.shape = vec![e, b, a];
        }
    });
    conforms(&loaded.unwrap(), "moe", "mixed");
    std::fs::copy(folder.path().join("config_v4.json"), folder.path().join("config.json")).unwrap();
    conforms(&load(folder.path(), "f32").unwrap(), "moe", "mixed");
}

#[test]
fn configurations_of_both_transformers_versions_mean_the_same() {
    for model in common::MODELS {
        let folder = common::copy_of(model);
        let config = |name| Qwen3VlJson::read(&folder.path().join(name));
        let (v5, v4) = (config("config.json"), config("config_v4.json"));
        assert_eq!(v5.text, v4.text, "{model}");
        assert_eq!(v5.vision, v4.vision, "{model}");
        assert_eq!(v5.tie_word_embeddings, v4.tie_word_embeddings, "{model}");
    }
}

struct Qwen3VlJson;

impl Qwen3VlJson {
    fn read(path: &Path) -> qwen3_vl::model::Qwen3VlConfig {
        qwen3_vl::model::Qwen3VlConfig::from_json(&std::fs::read_to_string(path).unwrap()).unwrap()
    }
}

#[test]
fn shards_are_the_same_as_one_file() {
    let folder = common::copy_of("dense_untied");
    shard(folder.path());
    conforms(&load(folder.path(), "f32").unwrap(), "dense_untied", "image");
}

/// Splits `model.safetensors` into two shards with an index.
fn shard(folder: &Path) {
    let single = folder.join("model.safetensors");
    let tensors = read(&single);
    let mut names: Vec<_> = tensors.keys().cloned().collect();
    names.sort();
    let mut map = serde_json::Map::new();
    for (index, half) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", index + 1);
        let part = half.iter().map(|name| (name.clone(), tensors[name].clone())).collect();
        write(&folder.join(&file), &part);
        map.extend(half.iter().map(|name| (name.clone(), file.clone().into())));
    }
    let index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": map});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::remove_file(single).unwrap();
}

#[test]
fn half_width_weights_load_in_any_precision() {
    let narrow = |tensors: &mut HashMap<String, Stored>| {
        for tensor in tensors.values_mut() {
            tensor.dtype = Dtype::BF16;
            tensor.bytes = tensor.bytes.chunks(4).flat_map(|f32| [f32[2], f32[3]]).collect();
        }
    };
    let (folder, loaded) = changed("dense_tied", narrow);
    let reference = common::fixtures().join("dense_tied/ref_image.safetensors");
    let auto = load(folder.path(), "auto").unwrap();
    for model in [loaded.unwrap(), auto] {
        let outcome = verify(model.model(), &reference, Tolerance::Cosine(0.999)).unwrap();
        assert!(outcome.passed(), "{:?}", outcome.worst());
    }
}

#[test]
fn a_head_that_a_tied_model_does_not_need_is_ignored() {
    let (_folder, loaded) = changed("dense_tied", |tensors| {
        let mut head = tensors["model.language_model.embed_tokens.weight"].clone();
        head.bytes.fill(0);
        tensors.insert("lm_head.weight".into(), head);
    });
    let loaded = loaded.unwrap();
    assert!(loaded.report().ignored_head);
    conforms(&loaded, "dense_tied", "text");
}

#[test]
fn missing_and_misnamed_tensors_are_listed_with_hints() {
    let (_folder, loaded) = changed("dense_tied", |tensors| {
        let norm = tensors.remove("model.visual.merger.norm.weight").unwrap();
        tensors.insert("visual.merger.norm.weight".into(), norm);
    });
    let message = error(loaded);
    assert!(message.contains("model.visual.merger.norm.weight"), "{message}");
    assert!(message.contains("the file has `visual.merger.norm.weight`"), "{message}");
}

#[test]
fn another_shape_is_told_with_both_shapes() {
    let (_folder, loaded) = changed("dense_tied", |tensors| {
        let tensor = tensors.get_mut("model.language_model.norm.weight").unwrap();
        tensor.shape = vec![24];
        tensor.bytes.truncate(24 * 4);
    });
    let message = error(loaded);
    assert!(message.contains("[24]") && message.contains("[48]"), "{message}");
}

#[test]
fn another_dtype_is_refused_by_name() {
    let (_folder, loaded) = changed("dense_tied", |tensors| {
        tensors.get_mut("model.language_model.norm.weight").unwrap().dtype = Dtype::I32;
    });
    let message = error(loaded);
    assert!(message.contains("norm.weight") && message.contains("I32"), "{message}");
}

#[test]
fn broken_files_are_refused_by_name() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage, &[&str]); 9] = [
        (
            "no weights",
            |f| std::fs::remove_file(f.join("model.safetensors")).unwrap(),
            &["neither"],
        ),
        (
            "truncated",
            |f| cut(&f.join("model.safetensors"), 100_000),
            &["model.safetensors", "complete"],
        ),
        ("cut in the header", |f| cut(&f.join("model.safetensors"), 40), &["model.safetensors"]),
        ("empty", |f| cut(&f.join("model.safetensors"), 0), &["model.safetensors"]),
        (
            "terabytes",
            |f| overwrite(&f.join("model.safetensors"), &(1u64 << 42).to_le_bytes()),
            &["model.safetensors"],
        ),
        ("no config", |f| std::fs::remove_file(f.join("config.json")).unwrap(), &["config.json"]),
        (
            "config is not JSON",
            |f| std::fs::write(f.join("config.json"), "{").unwrap(),
            &["config.json"],
        ),
        (
            "no tokenizer",
            |f| std::fs::remove_file(f.join("tokenizer.json")).unwrap(),
            &["tokenizer.json"],
        ),
        (
            "template",
            |f| std::fs::write(f.join("chat_template.jinja"), "{% if %}").unwrap(),
            &["chat_template.jinja"],
        ),
    ];
    for (name, damage, expected) in damages {
        let folder = common::copy_of("dense_tied");
        damage(folder.path());
        let message = error(load(folder.path(), "f32"));
        for part in expected {
            assert!(message.contains(part), "{name}: {message}");
        }
    }
}

fn cut(path: &Path, length: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes.truncate(length);
    std::fs::write(path, bytes).unwrap();
}

fn overwrite(path: &Path, start: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[..start.len()].copy_from_slice(start);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn shards_that_do_not_hold_what_the_index_says_are_refused() {
    let absent = common::copy_of("dense_untied");
    shard(absent.path());
    std::fs::remove_file(absent.path().join("model-00002-of-00002.safetensors")).unwrap();
    let message = error(load(absent.path(), "f32"));
    assert!(message.contains("model-00002-of-00002.safetensors"), "{message}");

    let outside = common::copy_of("dense_untied");
    shard(outside.path());
    let index = outside.path().join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, text.replace("model-00002", "../model-00002")).unwrap();
    let message = error(load(outside.path(), "f32"));
    assert!(message.contains("plain file name"), "{message}");
}

#[test]
fn a_device_says_which_dtypes_it_has() {
    if !common::cpu_devices().iter().any(|name| name == "ndarray") {
        println!("skipped: built without ndarray");
        return;
    }
    let options = LoadOptions {
        device: Some("ndarray".into()),
        dtype: "bf16".parse().unwrap(),
        ..LoadOptions::default()
    };
    let folder = common::fixtures().join("dense_tied");
    let message = error(Qwen3Vl::load(folder.to_str().unwrap(), options));
    assert!(message.contains("ndarray") && message.contains("f32"), "{message}");
}

#[test]
fn headers_alone_tell_what_a_checkpoint_is() {
    let checkpoint = Checkpoint::open(&common::fixtures().join("moe")).unwrap();
    let counts = qwen3_vl::weights::load::parameter_counts(checkpoint.config());
    let total: u64 = counts.values().sum();
    assert_eq!(total * 4, checkpoint.bytes());
    assert!(qwen3_vl::weights::load::check_checkpoint(&checkpoint).unwrap().is_complete());
}

/// Parameter counts of the published sizes, from configurations alone.
#[test]
fn published_sizes_have_the_published_parameter_counts() {
    let config = |text: &str, vision: &str, top: &str| {
        let json = format!(
            r#"{{{top},"text_config":{{{text},"vocab_size":151936,"head_dim":128,"num_key_value_heads":8}},
                "vision_config":{{{vision}}}}}"#
        );
        qwen3_vl::model::Qwen3VlConfig::from_json(&json).unwrap()
    };
    let two = config(
        r#""hidden_size":2048,"intermediate_size":6144,"num_hidden_layers":28,"num_attention_heads":16"#,
        r#""depth":24,"hidden_size":1024,"intermediate_size":4096,"out_hidden_size":2048,"deepstack_visual_indexes":[5,11,17]"#,
        r#""model_type":"qwen3_vl","tie_word_embeddings":true"#,
    );
    let eight = config(
        r#""hidden_size":4096,"intermediate_size":12288,"num_hidden_layers":36,"num_attention_heads":32"#,
        r#""out_hidden_size":4096"#,
        r#""model_type":"qwen3_vl","tie_word_embeddings":false"#,
    );
    let total = |config| qwen3_vl::weights::load::parameter_counts(config).values().sum::<u64>();
    assert_eq!(total(&two), 2_127_532_032);
    assert_eq!(total(&eight), 8_767_123_696);
}
