//! Mixtures of experts: rounded weights stay rounded, whatever way the file holds them, and files are read where a token goes.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Int, Tensor, bf16};
use qwen3_vl::backends::quant::QuantScheme;
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::model::inputs::{ModelInputs, PlaceholderIds};
use qwen3_vl::model::probe::Probe;
use qwen3_vl::model::roundable::Roundable;
use qwen3_vl::weights::export::{QuantizeOptions, quantize_checkpoint};
use qwen3_vl::weights::load::checkpoint_sizes;
use qwen3_vl::weights::{Checkpoint, LoadHow, Rounding};
use qwen3_vl::{LoadOptions, Qwen3Vl};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// Dtype, shape and bytes by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |(name, view): (String, TensorView<'_>)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    file.tensors().into_iter().map(owned).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The checkpoint `moe` with other tensors.
fn changed(change: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let folder = common::copy_of("moe");
    let path = folder.path().join("model.safetensors");
    let mut tensors = read(&path);
    change(&mut tensors);
    write(&path, &tensors);
    folder
}

/// Swaps the last two axes of the weights of experts, as published files hold them.
fn turn(tensors: &mut Tensors) {
    for (_, (dtype, shape, bytes)) in
        tensors.iter_mut().filter(|(name, _)| name.contains(".experts."))
    {
        let ([e, a, b], size) = (shape[..].try_into().unwrap(), dtype.bitsize() / 8);
        let at = |expert: usize, row: usize, column: usize| {
            let start = ((expert * a + row) * b + column) * size;
            &bytes[start..start + size]
        };
        let all = (0..e * b * a).flat_map(|i| at(i / (a * b), i % a, i / a % b).to_vec());
        (*shape, *bytes) = (vec![e, b, a], all.collect());
    }
}

fn load(folder: &Path, device: &str, quant: Option<&str>) -> Qwen3Vl {
    let options = LoadOptions {
        device: Some(device.to_owned()),
        dtype: "f32".parse().unwrap(),
        quant: quant.map(|scheme| Rounding::new(scheme.parse().unwrap())),
        ..LoadOptions::default()
    };
    Qwen3Vl::load(folder.to_str().unwrap(), options)
        .unwrap_or_else(|error| panic!("{} on {device}: {error}", folder.display()))
}

fn quantize(source: &Path, out: &Path, scheme: &str) {
    let rounding = Rounding::new(scheme.parse().unwrap());
    let options = QuantizeOptions { rounding, max_shard_bytes: 5_000_000_000 };
    quantize_checkpoint(source, out, &options, &mut ()).unwrap();
}

fn logits(model: &Qwen3VlModel) -> Vec<f32> {
    common::logits_of_two_images(model, "moe")
}

/// The largest difference, as a share of the largest number.
fn far(found: &[f32], expected: &[f32]) -> f32 {
    let largest = |values: &mut dyn Iterator<Item = f32>| values.map(f32::abs).fold(0.0, f32::max);
    let size = largest(&mut expected.iter().copied());
    largest(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / size
}

/// Bytes of the tensors of experts, as they are held.
#[derive(Default)]
struct Held {
    path: Vec<String>,
    bytes: usize,
}

impl Held {
    fn of(model: &Qwen3VlModel) -> usize {
        let mut held = Self::default();
        model.visit(&mut held);
        held.bytes
    }

    fn add(&mut self, count: usize, dtype: DType) {
        if self.path.iter().any(|name| name == "experts") {
            self.bytes += count * dtype.size();
        }
    }
}

impl ModuleVisitor for Held {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.val().shape().num_elements(), param.val().dtype());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.val().shape().num_elements(), param.val().dtype());
    }

    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

/// Bytes of the codes of all experts, and how many scales these have.
fn rounded_size(model: &Qwen3VlModel) -> (usize, usize) {
    let mut model = model.clone();
    let weights = model.roundable_mut().into_iter();
    let experts = weights.filter(|(_, weight)| matches!(weight, Roundable::Experts(_)));
    let size = |(path, weight): (String, Roundable<'_>)| {
        let scheme = weight.scheme().unwrap_or_else(|| panic!("{path} is not rounded"));
        let [rows, inputs] = weight.shape();
        (rows * scheme.row_bytes(inputs), rows * scheme.scale_columns(inputs))
    };
    experts.map(size).fold((0, 0), |(a, b), (codes, scales)| (a + codes, b + scales))
}

/// The model with the numbers in the place of rounded weights of experts.
fn expanded(model: &Qwen3VlModel) -> Qwen3VlModel {
    let mut model = model.clone();
    for (_, mut weight) in model.roundable_mut() {
        if matches!(weight, Roundable::Experts(_)) {
            assert!(weight.scheme().is_some());
            weight.expand();
        }
    }
    model
}

#[test]
fn rounded_experts_are_held_rounded_and_computed_with_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    for scheme in ["int8-g64", "int4-g32"] {
        let out = folder.path().join(scheme);
        quantize(&common::fixtures().join("moe"), &out, scheme);
        for device in common::cpu_devices() {
            for loaded in [
                load(&out, &device, None),
                load(&common::fixtures().join("moe"), &device, Some(scheme)),
            ] {
                let model = loaded.model();
                let (codes, scales) = rounded_size(model);
                let of_scale = if device == "flex" { 2 } else { 4 };
                assert_eq!(Held::of(model), codes + of_scale * scales, "{scheme} on {device}");
                let numbers = expanded(model);
                assert!(Held::of(&numbers) > 3 * Held::of(model), "{scheme} on {device}");
                let far = far(&logits(model), &logits(&numbers));
                // Flex rounds the activations too.
                let bound = if device == "ndarray" { 1e-5 } else { 0.1 };
                assert!(far < bound, "{scheme} on {device}: {far}");
            }
        }
    }
}

/// Groups lie along the inputs, whichever way the file holds them.
#[test]
fn published_files_are_rounded_to_the_same_codes() {
    let published = changed(turn);
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    quantize(&common::fixtures().join("moe"), &ours, "int4-g32");
    quantize(published.path(), &theirs, "int4-g32");
    let [ours, theirs] = [ours, theirs].map(|folder| read(&folder.join("model.safetensors")));
    assert!(ours == theirs, "the files differ");
    let name = "model.language_model.layers.0.mlp.experts.gate_up_proj";
    assert_eq!((ours[name].0, &ours[name].1[..]), (Dtype::U8, &[6, 40, 24][..]));
    assert_eq!(ours[&format!("{name}_scale")].1, [6, 40, 2]);
    for device in common::cpu_devices() {
        let of = |folder: &Path| logits(load(folder, &device, Some("int4-g32")).model());
        assert_eq!(of(published.path()), of(&common::fixtures().join("moe")), "{device}");
    }
}

#[test]
fn what_is_wrong_with_rounded_experts_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("int8");
    quantize(&common::fixtures().join("moe"), &out, "int8-g32");
    let path = out.join("model.safetensors");
    let whole = read(&path);
    let name = "model.language_model.layers.2.mlp.experts.down_proj";
    let scales = format!("{name}_scale");
    let broken = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = whole.clone();
        change(&mut tensors);
        write(&path, &tensors);
        let options = LoadOptions { device: Some("flex".into()), ..LoadOptions::default() };
        Qwen3Vl::load(out.to_str().unwrap(), options).map(|_| ()).unwrap_err().to_string()
    };
    let error = broken(&|tensors| drop(tensors.remove(&scales)));
    assert!(error.contains(&scales) && error.contains("missing"), "{error}");
    let error = broken(&|tensors| tensors.get_mut(&scales).unwrap().1 = vec![6, 24, 2]);
    assert!(error.contains(&scales) && error.contains("2 scales per row"), "{error}");
    let error = broken(&|tensors| {
        let (_, shape, bytes) = tensors.get_mut(name).unwrap();
        shape[0] = 5;
        bytes.truncate(5 * 48 * 20);
    });
    assert!(error.contains(name) && error.contains("[5, 48, 20]"), "{error}");
    let folder = changed(|tensors| {
        let (_, _, bytes) = tensors.get_mut(name).unwrap();
        // Row 50 of all: the third of the second expert.
        bytes[50 * 20 * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let rounding = Rounding::new("int4".parse().unwrap());
    let options = LoadOptions {
        device: Some("flex".into()),
        quant: Some(rounding),
        ..LoadOptions::default()
    };
    let error = Qwen3Vl::load(folder.path().to_str().unwrap(), options).map(|_| ()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains(name) && error.contains("row 50"), "{error}");
}

const EXPERTS: usize = 64;
const INNER: usize = 512;
const HIDDEN: usize = 48;

/// The checkpoint `moe` with many and large experts in bf16, some 18 MB, with random weights.
fn large(published: bool) -> tempfile::TempDir {
    let mut state = 1u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bf16::from_f32(((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.2)
    };
    let mut random = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        let bytes = (0..count).flat_map(|_| number().to_le_bytes()).collect();
        (Dtype::BF16, shape.to_vec(), bytes)
    };
    let folder = changed(|tensors| {
        for layer in [0, 2] {
            let name = |end: &str| format!("model.language_model.layers.{layer}.mlp.{end}");
            let gate_up = random(&[EXPERTS, 2 * INNER, HIDDEN]);
            tensors.insert(name("experts.gate_up_proj"), gate_up);
            tensors.insert(name("experts.down_proj"), random(&[EXPERTS, HIDDEN, INNER]));
            tensors.insert(name("gate.weight"), random(&[EXPERTS, HIDDEN]));
        }
        if published {
            turn(tensors);
        }
    });
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["text_config"]["num_local_experts"] = json!(EXPERTS);
    config["text_config"]["moe_intermediate_size"] = json!(INNER);
    std::fs::write(path, config.to_string()).unwrap();
    folder
}

fn open(folder: &Path, device: &str) -> Qwen3Vl {
    let options = LoadOptions { device: Some(device.to_owned()), ..LoadOptions::default() };
    Qwen3Vl::load(folder.to_str().unwrap(), options).unwrap()
}

/// Which way a file holds them makes no difference, in bf16 too.
#[test]
fn experts_that_lie_the_other_way_round_compute_the_same() {
    let (ours, published) = (large(false), large(true));
    for device in common::cpu_devices() {
        let of = |folder: &tempfile::TempDir| logits(open(folder.path(), &device).model());
        let far = far(&of(&published), &of(&ours));
        assert!(far < 1e-4, "{device}: {far}");
    }
}

/// Bytes of the pages of mapped files in `folder` that this process has touched.
#[cfg(target_os = "linux")]
fn touched(folder: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut inside, mut sum) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if inside => {
                sum += 1024 * words.next().unwrap().parse::<u64>().unwrap();
            }
            Some(first) if first.contains('-') => {
                inside = line.contains(folder.to_str().unwrap());
            }
            _ => {}
        }
    }
    sum
}

/// Writes a file again, a page at a time: a system that caches it in larger pieces would count those as touched.
#[cfg(target_os = "linux")]
fn by_pages(folder: &Path) {
    use std::io::Write;
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut file = std::fs::File::create(&path).unwrap();
    bytes.chunks(4096).for_each(|page| file.write_all(page).unwrap());
}

/// A token of a step touches two experts of 64 in each layer, and loading none.
#[cfg(target_os = "linux")]
#[test]
fn only_the_experts_that_tokens_go_to_are_read_from_the_file() {
    let rounded = tempfile::tempdir().unwrap();
    let out = rounded.path().join("int4");
    let (ours, published) = (large(false), large(true));
    quantize(ours.path(), &out, "int4-g32");
    for (what, folder) in [("ours", ours.path()), ("published", published.path()), ("int4", &out)] {
        by_pages(folder);
        let checkpoint = Checkpoint::open(folder).unwrap();
        let experts = checkpoint.tensors().iter().filter(|(name, _)| name.contains(".experts."));
        let experts: u64 = experts.map(|(_, entry)| entry.bytes()).sum();
        let others = checkpoint.bytes() - experts;
        drop(checkpoint);
        let loaded = open(folder, "flex");
        let before = touched(folder);
        // The system maps some pages around each that is touched.
        assert!(before < others + experts / 8, "{what}: {before} of {experts} before any token");
        let mut cache = loaded.model().new_cache();
        loaded.model().decode(&[(7, 0)], &mut [&mut cache]).into_data();
        let after = touched(folder);
        // What a copy was made of would not be touched now.
        let chosen = 2 * experts / EXPERTS as u64;
        assert!(after > before + chosen, "{what}: {after} after {before}, without {chosen}");
        assert!(after < others + experts / 3, "{what}: {after} of {experts} after a token");
    }
}

/// What `plan` says of them is what they take.
#[test]
fn sizes_count_experts_as_they_are_held() {
    let folder = tempfile::tempdir().unwrap();
    let source = large(false);
    for scheme in ["int8", "int4"] {
        let out = folder.path().join(scheme);
        quantize(source.path(), &out, scheme);
        let loaded = open(&out, "flex");
        let parsed: QuantScheme = scheme.parse().unwrap();
        assert_eq!(loaded.scheme(), Some(parsed));
        let (codes, scales) = rounded_size(loaded.model());
        let checkpoint = Checkpoint::open(&out).unwrap();
        let precision = loaded.model().precision();
        let sizes = checkpoint_sizes(&checkpoint, LoadHow::new(precision, None)).unwrap();
        let experts = (codes + 2 * scales) as u64;
        let layers = sizes.layers[0] + sizes.layers[2];
        assert!(experts < layers && layers < experts + 100_000, "{experts} of {layers}");
        let planned = qwen3_vl::weights::load::part_sizes(
            loaded.model().config(),
            LoadHow::new(precision, Some(&Rounding::new(parsed))),
        );
        assert_eq!(planned.layers, sizes.layers, "{scheme}");
        // A step reads two of 64 experts in each of two layers.
        let read = loaded.model().bytes_per_token();
        assert!(read < layers / 2, "{read} of {layers}");
    }
}

/// The logits of all tokens of a prompt of text.
fn logits_of_text(model: &Qwen3VlModel, tokens: usize) -> Vec<f32> {
    let ids = (0..tokens).map(|i| 3 + (i * i + 7 * i) as u32 % 480).collect();
    let none = Default::default;
    let tokens_of = PlaceholderIds::of(model.config());
    let inputs = ModelInputs::from_ids(ids, none(), none(), tokens_of).unwrap();
    let mut probe = Probe::off();
    let (mut prompt, mut cache) = (model.prepare(&inputs, &mut probe).unwrap(), model.new_cache());
    let hidden = model.prefill(&mut prompt, 0..tokens, &mut cache, &mut probe);
    let logits = model.logits(hidden).into_data();
    logits.convert_dtype(DType::F32).try_to_vec().unwrap()
}

/// Cards choose experts by themselves, in small steps and large ones.
#[test]
fn a_card_computes_long_prompts_as_ndarray_does() {
    let folder = common::fixtures().join("moe");
    let of =
        |device: &str, quant, tokens| logits_of_text(load(&folder, device, quant).model(), tokens);
    for card in common::cards() {
        for quant in [None, Some("int8-g32"), Some("int4-g32")] {
            for tokens in [100, 129, 700] {
                let far = far(&of(&card, quant, tokens), &of("ndarray", quant, tokens));
                assert!(far < 1e-4, "{quant:?} on {card}, {tokens} tokens: {far}");
            }
        }
    }
}
