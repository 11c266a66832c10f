//! Models written as checkpoint folders: what is in them, and that they are the same model in ours and in transformers.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use qwen3_vl::backends::{Precision, device};
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::model::init::Init;
use qwen3_vl::verify::{Tolerance, verify};
use qwen3_vl::weights::checkpoint::read_config;
use qwen3_vl::weights::export::{ExportError, ExportOptions, ExportReport, export_model};
use qwen3_vl::{LoadOptions, Qwen3Vl};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use burn::tensor::DType;

#[derive(Debug, Clone, PartialEq)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn read(path: &Path) -> BTreeMap<String, Stored> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |view: TensorView<'_>| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

fn write(path: &Path, tensors: &BTreeMap<String, Stored>) {
    let views = tensors.iter().map(|(name, t)| {
        (name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A copy of a fixture whose tensors `change` has edited.
fn changed(
    model: &str,
    change: impl FnOnce(&mut BTreeMap<String, Stored>),
) -> (tempfile::TempDir, BTreeMap<String, Stored>) {
    let folder = common::copy_of(model);
    let path = folder.path().join("model.safetensors");
    let mut tensors = read(&path);
    change(&mut tensors);
    std::fs::remove_file(&path).unwrap();
    write(&path, &tensors);
    (folder, tensors)
}

fn load(folder: &Path) -> Qwen3Vl {
    common::load(folder, &common::cpu_devices()[0])
}

fn export(source: &Path, out: &Path, options: &ExportOptions) -> ExportReport {
    export_model(load(source).model(), source, out, options, &mut ()).unwrap()
}

fn error(model: &Qwen3VlModel, source: &Path, out: &Path) -> ExportError {
    export_model(model, source, out, &ExportOptions::default(), &mut ()).unwrap_err()
}

/// The file names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_export_has_the_bytes_of_its_source() {
    let out = tempfile::tempdir().unwrap();
    for model in common::MODELS {
        let (source, target) = (common::copy_of(model), out.path().join(model));
        let report = export(source.path(), &target, &ExportOptions::default());
        let expected = read(&source.path().join("model.safetensors"));
        assert_eq!(read(&target.join("model.safetensors")), expected, "{model}");
        assert_eq!(report.tensors, expected.len());
        assert_eq!(report.weight_files, ["model.safetensors"]);
        let mut kept = names(source.path());
        kept.retain(|name| name != "config_v4.json");
        assert_eq!(names(&target), kept, "{model}");
        for name in kept {
            let [a, b] = [source.path(), &target].map(|f| std::fs::read(f.join(&name)).unwrap());
            assert!(name == "model.safetensors" || a == b, "{model}/{name}");
        }
        let reference = common::fixtures().join(model).join("ref_image.safetensors");
        let outcome = verify(load(&target).model(), &reference, Tolerance::Exact).unwrap();
        assert!(outcome.passed(), "{model}: {:?}", outcome.worst());
    }
    assert_eq!(names(out.path()).len(), common::MODELS.len(), "no other folder is left");
}

#[test]
fn experts_keep_the_orientation_of_published_files() {
    let (source, tensors) = changed("moe", |tensors| {
        for (name, tensor) in tensors.iter_mut().filter(|(name, _)| name.contains(".experts.")) {
            let [e, a, b] = tensor.shape[..] else { panic!("{name}") };
            let words: Vec<&[u8]> = tensor.bytes.chunks_exact(4).collect();
            let at = |i: usize| words[i / (a * b) * a * b + i % a * b + i / a % b];
            tensor.bytes = (0..e * b * a).flat_map(at).copied().collect();
            tensor.shape = vec![e, b, a];
        }
    });
    let out = source.path().join("out");
    export(source.path(), &out, &ExportOptions::default());
    assert_eq!(read(&out.join("model.safetensors")), tensors);
}

#[test]
fn a_head_and_tensors_that_the_model_does_not_use_stay() {
    let (source, tensors) = changed("dense_tied", |tensors| {
        let embedding = tensors["model.language_model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), embedding);
        let extra = Stored { dtype: Dtype::I64, shape: vec![1, 2], bytes: (0..16).collect() };
        tensors.insert("model.visual.inv_freq".into(), extra);
    });
    let out = source.path().join("out");
    export(source.path(), &out, &ExportOptions::default());
    assert_eq!(read(&out.join("model.safetensors")), tensors);
}

#[test]
fn shards_are_named_and_listed_as_transformers_does() {
    let out = tempfile::tempdir().unwrap();
    let (source, target) = (common::fixtures().join("dense_untied"), out.path().join("new/deep"));
    let options = ExportOptions { max_shard_bytes: 300_000, ..ExportOptions::default() };
    let report = export(&source, &target, &options);
    let count = report.weight_files.len();
    assert!(count > 3, "{count}");
    let mut found = BTreeMap::new();
    let index = std::fs::read(target.join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    for (number, file) in report.weight_files.iter().enumerate() {
        assert_eq!(*file, format!("model-{:05}-of-{count:05}.safetensors", number + 1));
        let tensors = read(&target.join(file));
        assert!(tensors.values().map(|t| t.bytes.len()).sum::<usize>() <= 300_000, "{file}");
        assert!(tensors.keys().all(|name| index["weight_map"][name] == **file), "{file}");
        found.extend(tensors);
    }
    assert_eq!(found, read(&source.join("model.safetensors")));
    assert_eq!(index["metadata"]["total_size"], report.bytes);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), found.len());
    let reference = source.join("ref_text.safetensors");
    assert!(verify(load(&target).model(), &reference, Tolerance::Exact).unwrap().passed());
}

#[test]
fn another_dtype_is_stated_in_the_configuration() {
    let out = tempfile::tempdir().unwrap();
    for (form, key) in [("config.json", "dtype"), ("config_v4.json", "torch_dtype")] {
        let source = common::copy_of("moe");
        let path = source.path().join(form);
        let text =
            std::fs::read_to_string(&path).unwrap().replace("\"dtype\"", &format!("\"{key}\""));
        std::fs::write(source.path().join("config.json"), text).unwrap();
        let target = out.path().join(form);
        let options = ExportOptions { dtype: Some(DType::BF16), ..ExportOptions::default() };
        export(source.path(), &target, &options);
        let config = std::fs::read_to_string(target.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["text_config"][key], "bfloat16", "{form}");
        assert!(!config.to_string().contains("float32"), "{form}: {config}");
        let stored = read(&target.join("model.safetensors"));
        for (name, exact) in read(&source.path().join("model.safetensors")) {
            let tensor = &stored[&name];
            assert_eq!((tensor.dtype, &tensor.shape), (Dtype::BF16, &exact.shape), "{name}");
            let pairs = exact.bytes.chunks_exact(4).zip(tensor.bytes.chunks_exact(2));
            for (wide, short) in pairs {
                let wide = f32::from_le_bytes([wide[0], wide[1], wide[2], wide[3]]);
                let short = f32::from_le_bytes([0, 0, short[0], short[1]]);
                assert!((wide - short).abs() <= wide.abs() / 256.0, "{name}: {wide} {short}");
            }
        }
    }
}

#[test]
fn a_configuration_alone_gives_the_names_of_the_model() {
    for model in common::MODELS {
        let source = common::copy_of(model);
        let path = source.path().join("model.safetensors");
        let expected = read(&path);
        std::fs::remove_file(path).unwrap();
        let config = read_config(source.path()).unwrap();
        let device = device::open(&common::cpu_devices()[0]).unwrap();
        let fresh = Qwen3VlModel::new(&config, &Init::new(&device.device, Precision::F32));
        let out = source.path().join("out");
        let options = ExportOptions::default();
        let report = export_model(&fresh, source.path(), &out, &options, &mut ()).unwrap();
        let found = read(&out.join("model.safetensors"));
        assert!(found.keys().eq(expected.keys()), "{model}");
        for (name, tensor) in found {
            let expected = &expected[&name];
            assert_eq!((tensor.dtype, &tensor.shape), (expected.dtype, &expected.shape), "{name}");
        }
        load(&report.folder);
    }
}

#[test]
fn refusals_leave_nothing_behind() {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("new");
    let source = common::fixtures().join("dense_tied");
    let loaded = load(&source);

    let message = error(loaded.model(), &source, &source).to_string();
    assert!(message.contains("dense_tied exists and is not an empty folder"), "{message}");
    let other = common::fixtures().join("dense_untied");
    let message = error(loaded.model(), &other, &target).to_string();
    assert!(message.contains("`visual.patch_embed.proj.weight` of the vision tower"), "{message}");
    assert!(message.contains("the checkpoint that the model was loaded from"), "{message}");
    let (partial, _) = changed("dense_tied", |tensors| {
        tensors.remove("model.language_model.norm.weight").unwrap();
    });
    let message = error(loaded.model(), partial.path(), &target).to_string();
    assert!(message.contains("no tensor `model.language_model.norm.weight`"), "{message}");
    let options = ExportOptions { dtype: Some(DType::I8), ..ExportOptions::default() };
    let refused = export_model(loaded.model(), &source, &target, &options, &mut ()).unwrap_err();
    assert!(refused.to_string().contains("I8"), "{refused}");

    let (broken, _) = changed("dense_tied", |tensors| {
        let norm = tensors.get_mut("model.visual.merger.norm.weight").unwrap();
        norm.bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let message = error(load(broken.path()).model(), broken.path(), &target).to_string();
    assert!(message.contains("`model.visual.merger.norm.weight` holds a value"), "{message}");
    assert_eq!(names(out.path()), [""; 0]);

    std::fs::create_dir(&target).unwrap();
    export(&source, &target, &ExportOptions::default());
    assert!(names(&target).contains(&"model.safetensors".to_owned()), "an empty folder is taken");
}

#[test]
fn progress_counts_bytes() {
    #[derive(Default)]
    struct Seen(Vec<(String, u64, u64)>);
    impl qwen3_vl::weights::Progress for Seen {
        fn tensor(&mut self, name: &str, done: u64, total: u64) {
            self.0.push((name.to_owned(), done, total));
        }
    }
    let out = tempfile::tempdir().unwrap();
    let source = common::fixtures().join("dense_tied");
    let (mut seen, options) = (Seen::default(), ExportOptions::default());
    let model = load(&source);
    let target = out.path().join("new");
    let report = export_model(model.model(), &source, &target, &options, &mut seen).unwrap();
    assert_eq!(seen.0.len(), report.tensors);
    assert!(seen.0.iter().all(|(_, done, total)| done <= total && *total == report.bytes));
    assert_eq!(seen.0.last().unwrap().1, report.bytes);
}

#[test]
fn transformers_loads_what_was_exported() {
    if !common::python_has("transformers") {
        println!("skipped: there is no python3 with transformers");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let sharded = ExportOptions { max_shard_bytes: 300_000, ..ExportOptions::default() };
    let bf16 = ExportOptions { dtype: Some(DType::BF16), ..ExportOptions::default() };
    let cases = [
        ("dense_tied", sharded.clone(), "0"),
        ("moe", sharded, "0"),
        ("dense_untied", bf16, "0.004"),
    ];
    for (model, options, tolerance) in cases {
        let (source, target) = (common::fixtures().join(model), out.path().join(model));
        export(&source, &target, &options);
        common::python("reload.py", &[target.as_os_str(), source.as_os_str(), tolerance.as_ref()]);
    }
}

#[test]
fn half_precision_does_not_overflow_unseen() {
    let (source, _) = changed("dense_tied", |tensors| {
        let norm = tensors.get_mut("model.visual.merger.norm.weight").unwrap();
        norm.bytes[4..8].copy_from_slice(&1e6f32.to_le_bytes());
    });
    let loaded = Qwen3Vl::load(
        source.path().to_str().unwrap(),
        LoadOptions { dtype: "f32".parse().unwrap(), ..LoadOptions::default() },
    )
    .unwrap();
    let options = ExportOptions { dtype: Some(DType::F16), ..ExportOptions::default() };
    let out = source.path().join("out");
    let refused = export_model(loaded.model(), source.path(), &out, &options, &mut ()).unwrap_err();
    assert!(refused.to_string().contains("not finite in f16"), "{refused}");
    assert!(!out.exists());
}
