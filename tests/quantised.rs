//! Rounded weights: computed alike however they came to be rounded, near the reference, and named where they are wrong.

mod common;
#[cfg(feature = "nano")]
#[path = "quantised/nano.rs"]
mod nano;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use qwen3_vl::backends::quant::QuantScheme;
use qwen3_vl::verify::{Divergence, Tolerance, verify};
use qwen3_vl::weights::checkpoint::TensorEntry;
use qwen3_vl::weights::export::{ExportError, ExportReport, QuantizeOptions, quantize_checkpoint};
use qwen3_vl::weights::{Checkpoint, Rounding};
use qwen3_vl::{LoadOptions, Qwen3Vl};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const SCHEMES: [&str; 6] =
    ["int8-g32", "int8-g64", "int8-g128", "int4-g32", "int4-g64", "int4-g128"];
/// Prompts of the references: text, pictures, videos.
const CASES: [&str; 5] = ["text", "image", "two_images", "video", "mixed"];

fn options(device: &str, quant: Option<&str>) -> LoadOptions {
    LoadOptions {
        device: Some(device.to_owned()),
        dtype: "f32".parse().unwrap(),
        quant: quant.map(rounding),
        ..LoadOptions::default()
    }
}

fn load(folder: &Path, device: &str, quant: Option<&str>) -> Result<Qwen3Vl, String> {
    Qwen3Vl::load(folder.to_str().unwrap(), options(device, quant)).map_err(|e| e.to_string())
}

fn rounding(scheme: &str) -> Rounding {
    Rounding::new(scheme.parse().unwrap())
}

fn quantize(
    source: &Path,
    out: &Path,
    rounding: Rounding,
) -> Result<ExportReport, Box<ExportError>> {
    let options = QuantizeOptions { rounding, max_shard_bytes: 5_000_000_000 };
    quantize_checkpoint(source, out, &options, &mut ()).map_err(Box::new)
}

fn fixture(model: &str) -> PathBuf {
    common::fixtures().join(model)
}

/// `None` where the reference has no logits.
fn divergence(loaded: &Qwen3Vl, model: &str, case: &str) -> Option<Divergence> {
    let reference = fixture(model).join(format!("ref_{case}.safetensors"));
    let outcome = verify(loaded.model(), &reference, Tolerance::Cosine(0.0)).unwrap();
    outcome.logits
}

/// Divergences of all prompts of `models` together.
fn quality(models: &[&str], scheme: &str) -> Divergence {
    let mut all = Divergence { rows: 0, mean_kl: 0.0, max_kl: 0.0, top1: 0.0 };
    for model in models {
        let loaded = load(&fixture(model), "flex", Some(scheme)).unwrap();
        for case in CASES {
            let Some(found) = divergence(&loaded, model, case) else { continue };
            let rows = found.rows as f64;
            all.rows += found.rows;
            all.mean_kl += found.mean_kl * rows;
            all.top1 += found.top1 * rows;
            all.max_kl = all.max_kl.max(found.max_kl);
        }
    }
    let rows = all.rows as f64;
    Divergence { mean_kl: all.mean_kl / rows, top1: all.top1 / rows, ..all }
}

/// `cargo test --test quantised -- --nocapture quality` prints the table of the README. In a mixture of experts, small
/// changes send some rows to other experts, so that single rows move far.
#[test]
fn quality_falls_with_the_bits_and_never_below_its_bounds() {
    println!(
        "| weights | dense: mean KL | largest | same token | experts: mean KL | largest | same token |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut means = BTreeMap::new();
    for scheme in SCHEMES {
        let dense = quality(&["dense_tied", "dense_untied", "dense_yarn"], scheme);
        let experts = quality(&["moe"], scheme);
        let columns = [dense, experts]
            .map(|d| format!("{:.1e} | {:.1e} | {:.1} %", d.mean_kl, d.max_kl, 100.0 * d.top1));
        println!("| {scheme} | {} |", columns.join(" | "));
        assert!(dense.rows > 100 && experts.rows > 100, "{} and {} rows", dense.rows, experts.rows);
        means.insert(scheme, (dense, experts));
    }
    for (scheme, (dense, experts)) in &means {
        let (mean, share) = if scheme.starts_with("int8") { (0.01, 0.9) } else { (1.0, 0.5) };
        assert!(dense.mean_kl > 0.0 && dense.mean_kl < mean, "{scheme}: {dense:?}");
        assert!(experts.mean_kl > 0.0 && experts.mean_kl < 2.0 * mean, "{scheme}: {experts:?}");
        assert!(
            dense.top1 > share && experts.top1 > share - 0.2,
            "{scheme}: {dense:?}, {experts:?}"
        );
    }
    let mean = |scheme| means[scheme].0.mean_kl;
    assert!(mean("int8-g128") < mean("int4-g32") && mean("int4-g32") < mean("int4-g128"));
}

/// Written and loaded, or rounded while loading: the same bits, on every CPU device.
/// GPUs leave activations as they are, as ndarray does.
#[test]
fn gpus_compute_with_the_same_rounded_numbers() {
    let folder = tempfile::tempdir().unwrap();
    for (index, (model, scheme, table)) in [
        ("dense_untied", "int8-g64", None),
        ("dense_tied", "int4", Some("embed_tokens")),
        ("moe", "int8-g64", None),
        ("moe", "int4", Some("embed_tokens")),
    ]
    .into_iter()
    .enumerate()
    {
        let include = table.into_iter().map(str::to_owned).collect();
        let rounding = Rounding { include, ..rounding(scheme) };
        let out = folder.path().join(index.to_string());
        quantize(&fixture(model), &out, rounding).unwrap();
        let logits = |device: &str| {
            common::logits_of_two_images(load(&out, device, None).unwrap().model(), model)
        };
        let expected = logits("ndarray");
        let size = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        for device in &common::cards() {
            let pairs = logits(device).into_iter().zip(&expected);
            let worst = pairs.fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst < 1e-3 * size, "{model} {scheme} on {device}: {worst} of {size}");
        }
    }
    for device in &common::cards() {
        let options = LoadOptions { quant: None, ..options(device, Some("int8")) };
        let kept = Rounding { exclude: vec!["*.experts.*".into()], ..rounding("int8") };
        let options = LoadOptions { quant: Some(kept), ..options };
        Qwen3Vl::load(fixture("moe").to_str().unwrap(), options).unwrap();
    }
}

/// Tokens of answers are those of ndarray: each is a step of one row, whose experts a GPU finds without the host.
#[test]
fn gpus_answer_with_rounded_experts_as_the_reference_does() {
    for scheme in ["int8-g64", "int4"] {
        let answer = |device: &str| {
            let loaded = load(&fixture("moe"), device, Some(scheme)).unwrap();
            let mut cache = loaded.model().new_cache();
            let mut tokens = vec![7u32];
            for position in 0..8 {
                let next = *tokens.last().unwrap();
                let logits = loaded.model().decode(&[(next, position)], &mut [&mut cache]);
                let logits = logits.into_data().convert::<f32>().try_to_vec::<f32>().unwrap();
                let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
                tokens.push(best.unwrap() as u32);
            }
            tokens
        };
        let expected = answer("ndarray");
        for device in &common::cards() {
            assert_eq!(answer(device), expected, "{scheme} on {device}");
        }
    }
}

#[test]
fn a_written_checkpoint_is_the_one_that_is_rounded_on_load() {
    let folder = tempfile::tempdir().unwrap();
    for (index, (model, scheme, include)) in [
        ("dense_untied", "int8-g64", &[][..]),
        ("dense_tied", "int4", &[]),
        ("moe", "int4-g128", &[]),
        ("dense_tied", "int4", &["embed_tokens"]),
        ("dense_untied", "int4-g64", &["embed_tokens", "lm_head"]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path().join(index.to_string());
        let rounding = Rounding {
            include: include.iter().map(|pattern| pattern.to_string()).collect(),
            ..rounding(scheme)
        };
        let report = quantize(&fixture(model), &out, rounding.clone()).unwrap();
        assert!(report.copied.iter().any(|name| name == "tokenizer.json"), "{:?}", report.copied);
        assert!(report.bytes < Checkpoint::open(&fixture(model)).unwrap().bytes());
        let stored = Checkpoint::open(&out).unwrap();
        let tables = stored.tensors().iter().filter(|(name, _)| {
            let name = name.strip_suffix(".weight").unwrap_or_default();
            include.iter().any(|table| name.ends_with(table))
        });
        let eight = |(_, entry): (&String, &TensorEntry)| entry.dtype() == Some(Dtype::I8);
        assert_eq!(tables.filter(|table| eight(*table)).count(), include.len(), "{model} {scheme}");
        for device in common::cpu_devices() {
            let written = load(&out, &device, None).unwrap();
            let options = LoadOptions { quant: Some(rounding.clone()), ..options(&device, None) };
            let rounded = Qwen3Vl::load(fixture(model).to_str().unwrap(), options).unwrap();
            assert!(written.report().unexpected.is_empty(), "{:?}", written.report());
            assert_eq!(written.scheme(), Some(scheme.parse::<QuantScheme>().unwrap()));
            let (a, b) = (
                common::logits_of_two_images(written.model(), model),
                common::logits_of_two_images(rounded.model(), model),
            );
            assert!(a.iter().all(|x| x.is_finite()));
            assert_eq!(a, b, "{model} on {device}");
            let plain = common::logits_of_two_images(
                load(&fixture(model), &device, None).unwrap().model(),
                model,
            );
            assert_ne!(a, plain, "{model} on {device}: nothing was rounded");
        }
    }
}

/// Flex rounds the activations too, and ndarray takes the reference body. Where that sends a row to another expert, its logits
/// are others.
#[test]
fn the_cpu_backends_agree() {
    if common::cpu_devices().len() < 2 {
        println!("skipped: only one CPU backend is compiled in");
        return;
    }
    for (model, bounds) in [("dense_tied", [0.999, 0.999]), ("moe", [0.999, 0.99])] {
        for (scheme, bound) in ["int8", "int4"].into_iter().zip(bounds) {
            let of = |device| {
                common::logits_of_two_images(
                    load(&fixture(model), device, Some(scheme)).unwrap().model(),
                    model,
                )
            };
            let (a, b) = (of("flex"), of("ndarray"));
            let dot =
                |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
            assert!(cosine > bound, "{model} {scheme}: {cosine}");
        }
    }
}

/// Patterns widen and narrow what is rounded; what is not keeps its bytes.
#[test]
fn patterns_choose_and_the_rest_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("dense_untied");
    let rounded = |out: &Path| -> Vec<String> {
        let (before, after) = (Checkpoint::open(&source).unwrap(), Checkpoint::open(out).unwrap());
        let bytes = |checkpoint: &Checkpoint, name: &str| {
            let entry = &checkpoint.tensors()[name];
            checkpoint.file(entry).map.as_slice()[entry.range.clone()].to_vec()
        };
        let names = before.tensors().keys();
        let (changed, same): (Vec<_>, Vec<_>) =
            names.partition(|name| after.tensors().contains_key(&format!("{name}_scale")));
        same.iter()
            .for_each(|name| assert_eq!(bytes(&before, name), bytes(&after, name), "{name}"));
        assert_eq!(after.tensors().len(), before.tensors().len() + changed.len());
        changed.into_iter().cloned().collect()
    };
    let write = |name: &str, include: &[&str], exclude: &[&str]| {
        let list = |patterns: &[&str]| patterns.iter().map(|p| p.to_string()).collect();
        let rounding =
            Rounding { include: list(include), exclude: list(exclude), ..rounding("int4") };
        let out = folder.path().join(name);
        quantize(&source, &out, rounding).map(|_| rounded(&out)).map_err(|e| e.to_string())
    };
    let plain = write("plain", &[], &[]).unwrap();
    assert_eq!(plain.len(), 3 * 7, "{plain:?}");
    assert!(plain.iter().all(|name| name.starts_with("model.language_model.layers.")));
    let more = write("more", &["lm_head", "visual.*"], &["down_proj", "layers.0.*"]).unwrap();
    assert!(more.contains(&"lm_head.weight".to_owned()), "{more:?}");
    assert!(more.contains(&"model.visual.merger.linear_fc1.weight".to_owned()), "{more:?}");
    assert!(!more.iter().any(|name| name.contains("down_proj") || name.contains("layers.0.")));
    assert!(
        common::logits_of_two_images(
            load(&folder.path().join("more"), "flex", None).unwrap().model(),
            "dense_untied"
        )
        .iter()
        .all(|x| x.is_finite())
    );
    let error = write("none", &["down_pro"], &[]).unwrap_err();
    assert!(error.contains("`down_pro` names no linear layer"), "{error}");
    let error = write("none", &[], &["*"]).unwrap_err();
    assert!(error.contains("nothing is left"), "{error}");
    assert!(!folder.path().join("none").exists());
    let error = write("plain", &[], &[]).unwrap_err();
    assert!(error.contains("not an empty folder"), "{error}");
}

/// Dtype, shape and bytes by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Edits the one weight file of a checkpoint.
fn edit(folder: &Path, change: impl FnOnce(&mut Tensors)) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |(name, view): (String, TensorView<'_>)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    let mut tensors = file.tensors().into_iter().map(owned).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn what_is_wrong_with_a_rounded_checkpoint_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("int8");
    quantize(&fixture("dense_tied"), &out, rounding("int8-g32")).unwrap();
    let (config, weights) = (out.join("config.json"), out.join("model.safetensors"));
    let (text, bytes) =
        (std::fs::read_to_string(&config).unwrap(), std::fs::read(&weights).unwrap());
    let with = |key: &str, value: Value| {
        let mut json: Value = serde_json::from_str(&text).unwrap();
        json["quantization_config"][key] = value;
        std::fs::write(&config, json.to_string()).unwrap();
        let error = load(&out, "flex", None).unwrap_err();
        std::fs::write(&config, &text).unwrap();
        error
    };
    for (key, value, expected) in [
        ("version", json!(99), "is 99, but this program reads version 1; a newer program"),
        ("version", json!("2"), "is \"2\", but this program reads version 1"),
        ("group_size", json!(33), "32, 64 and 128"),
        ("group_size", json!(64), "2 scales per row"),
        ("bits", json!(4), "whose codes are U8"),
    ] {
        let error = with(key, value);
        assert!(error.contains(expected), "{key}: {error}");
    }
    let name = "model.language_model.layers.0.mlp.up_proj.weight";
    let scales = format!("{name}_scale");
    let broken = |change: &dyn Fn(&mut Tensors)| {
        edit(&out, change);
        let error = load(&out, "flex", None).unwrap_err();
        std::fs::write(&weights, &bytes).unwrap();
        error
    };
    let error = broken(&|tensors| drop(tensors.remove(&scales)));
    assert!(error.contains(&scales), "{error}");
    let error = broken(&|tensors| tensors.get_mut(&scales).unwrap().0 = Dtype::F16);
    assert!(error.contains("F16") && error.contains("whose scales are BF16"), "{error}");
    let error = broken(&|tensors| {
        let (_, shape, bytes) = tensors.get_mut(name).unwrap();
        shape[0] -= 1;
        bytes.truncate(shape[0] * shape[1]);
    });
    assert!(error.contains(name) && error.contains("[95, 48]"), "{error}");
    let error = broken(&|tensors| {
        let table = "model.language_model.embed_tokens.weight";
        let (dtype, shape, bytes) = tensors.get_mut(table).unwrap();
        (*dtype, *bytes) = (Dtype::I8, vec![1; shape[0] * shape[1]]);
    });
    assert!(error.contains("embed_tokens"), "{error}");
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json.as_object_mut().unwrap().remove("quantization_config");
    std::fs::write(&config, json.to_string()).unwrap();
    let error = load(&out, "flex", None).unwrap_err();
    assert!(error.contains("weights must be"), "{error}");
    std::fs::write(&config, &text).unwrap();

    let error = load(&out, "flex", Some("int4")).unwrap_err();
    assert!(error.contains("rounded to int8-g32 already"), "{error}");
    let error = quantize(&out, &folder.path().join("twice"), rounding("int4")).unwrap_err();
    assert!(error.to_string().contains("rounded to int8-g32 already"), "{error}");
    load(&out, "flex", None).unwrap();
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let folder = common::copy_of("dense_tied");
    edit(folder.path(), |tensors| {
        let (_, _, bytes) =
            tensors.get_mut("model.language_model.layers.1.self_attn.q_proj.weight").unwrap();
        bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let out = folder.path().join("out");
    let error = quantize(folder.path(), &out, rounding("int8")).unwrap_err().to_string();
    assert!(
        error.contains("layers.1.self_attn.q_proj.weight") && error.contains("row 0"),
        "{error}"
    );
    assert!(!out.exists());
    let left = std::fs::read_dir(folder.path()).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!left.into_iter().any(|name| name.starts_with(".partial")));
}

/// Side paths of LoRA lie beside rounded weights as beside others.
#[test]
fn adapters_go_on_rounded_weights() {
    for adapter in ["plain", "rslora"] {
        let adapter = common::fixtures().join("adapters").join(adapter);
        let config = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let name = config["base_model_name_or_path"].as_str().unwrap();
        let with = |quant| LoadOptions { adapter: Some(adapter.clone()), ..options("flex", quant) };
        let load = |options| Qwen3Vl::load(fixture(name).to_str().unwrap(), options).unwrap();
        let whole = load(with(None));
        let rounded = load(with(Some("int8")));
        let bare = load(options("flex", Some("int8")));
        let of = |loaded: &Qwen3Vl| common::logits_of_two_images(loaded.model(), name);
        let far =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let (whole, rounded, bare) = (of(&whole), of(&rounded), of(&bare));
        assert!(far(&rounded, &whole) < 0.2 * far(&rounded, &bare), "the adapter has no effect");
    }
}

#[test]
fn rounded_checkpoints_cannot_be_trained() {
    let folder = common::training::Folder::new();
    let out = folder.folder.path().join("int4");
    quantize(&fixture("dense_tied"), &out, rounding("int4")).unwrap();
    let config = folder.config(out.to_str().unwrap(), "run", "lr = { base = 1e-3 }\nsteps = 1\n");
    let device = qwen3_vl::backends::device::open("flex").unwrap();
    let error = qwen3_vl::train::run::Trainer::new(config, &device).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("int4-g32, which cannot be trained"), "{error}");
}

/// Runs the program; its exit code, standard output and standard error.
fn program(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = common::program("flex");
    command.envs(environment.iter().copied());
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_program_rounds_runs_and_tells() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (fixture("dense_tied"), folder.path().join("int4"));
    let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
    let done = |arguments: &[&str]| {
        let (code, said, errors) = program(arguments, &[]);
        assert_eq!(code, Some(0), "{arguments:?}: {errors}");
        (said, errors)
    };
    let (_, said) = done(&["quantize", source, "-o", out, "--quant", "int4-g64"]);
    assert!(said.contains("int4-g64") && said.contains("instead of"), "{said}");
    let ask = ["-p", "Say hello.", "-n", "8", "--greedy", "--json"];
    let written = done(&[&["run", out][..], &ask].concat()).0;
    let rounded = done(&[&["run", source, "--quant", "int4-g64"][..], &ask].concat()).0;
    let ids = |json: &str| serde_json::from_str::<Value>(json).unwrap()["token_ids"].clone();
    assert_eq!(ids(&written), ids(&rounded));
    let plain = done(&[&["run", source, "--quant", "none"][..], &ask].concat()).0;
    assert_eq!(ids(&plain), ids(&done(&[&["run", source][..], &ask].concat()).0));
    let said = done(&["inspect", out]).0;
    assert!(said.contains("rounded to int4-g64") && !said.contains("mixed dtypes"), "{said}");
    let reference = fixture("dense_tied").join("ref_text.safetensors");
    let reference = ["--reference", reference.to_str().unwrap()];
    let said = done(&[&["verify", source, "--quant", "int8"][..], &reference].concat()).0;
    assert!(said.contains("KL divergence"), "{said}");
}

#[cfg(feature = "nano")]
#[test]
fn the_embedded_checkpoint_is_rounded_where_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (out, cache) = (folder.path().join("int8"), folder.path().join("cache"));
    let environment = [("XDG_CACHE_HOME", cache.to_str().unwrap())];
    let out = out.to_str().unwrap();
    let (code, _, errors) = program(&["quantize", "-o", out, "--quant", "int8"], &environment);
    assert_eq!(code, Some(0), "{errors}");
    let (_, said, _) = program(&["inspect", out], &environment);
    assert!(said.contains("rounded to int8-g64"), "{said}");
    let gguf = common::fixtures().join("gguf/model.gguf");
    let arguments = ["quantize", gguf.to_str().unwrap(), "-o", "out", "--quant", "int8"];
    let (code, _, errors) = program(&arguments, &environment);
    assert!(code == Some(1) && errors.contains("checkpoint folder"), "{errors}");
    let (_, help, _) = program(&["quantize", "--help"], &environment);
    assert!(!help.contains("for the CPU") && help.contains("A GGUF file is not taken"), "{help}");
}

#[test]
fn the_program_refuses_what_it_cannot_do() {
    let folder = tempfile::tempdir().unwrap();
    let (source, here) = (fixture("dense_tied"), folder.path().join("model"));
    let (source, here) = (source.to_str().unwrap(), here.to_str().unwrap());
    std::fs::create_dir(here).unwrap();
    std::fs::write(Path::new(here).join("mine"), "mine").unwrap();
    let run = ["run", source, "-p", "Hi", "-n", "1"];
    let quantize = ["quantize", source, "-o", here];
    let several = common::fixtures().join("gguf").to_str().unwrap().to_owned();
    for (arguments, environment, code, words) in [
        (vec!["run", source, "--quant", "int5"], vec![], 2, vec!["int5", "int8 or int4"]),
        (vec!["run", source, "--quant", "int4-g48"], vec![], 2, vec!["48", "32, 64 and 128"]),
        (quantize.to_vec(), vec![], 2, vec!["--quant"]),
        ([&quantize[..], &["--quant", "int8"]].concat(), vec![], 1, vec!["not an empty folder"]),
        (
            run.to_vec(),
            vec![("QWEN3_VL_CPU", "sse9")],
            1,
            vec!["sse9", "portable, neon, avx2, avx512 or amx"],
        ),
        (
            vec!["quantize", source, "-o", "new", "--quant", "int8"],
            vec![("QWEN3_VL_CPU", "sse9")],
            1,
            vec!["sse9", "portable, neon, avx2, avx512 or amx"],
        ),
        (run.to_vec(), vec![("QWEN3_VL_GRAPH", "none")], 1, vec!["QWEN3_VL_GRAPH", "`none`"]),
        (vec!["quantize", &several, "-o", "new", "--quant", "int8"], vec![], 1, vec!["GGUF"]),
    ] {
        let (found, _, errors) = program(&arguments, &environment);
        assert_eq!(found, Some(code), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        for word in words {
            assert!(errors.contains(word), "{arguments:?} should mention {word}: {errors}");
        }
    }
    for level in qwen3_vl::backends::cpu::Level::ALL {
        let (code, _, errors) = program(&run, &[("QWEN3_VL_CPU", level.name())]);
        let present = qwen3_vl::backends::cpu::Level::present().any(|found| found == level);
        assert_eq!(code, Some(if present { 0 } else { 1 }), "{}: {errors}", level.name());
    }
}
