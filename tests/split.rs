//! Matrices that are larger than a buffer of their device lie in several, and compute what they compute in one.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Int, Tensor, TensorData};
use qwen3_vl::backends::{DtypeRequest, Placement, Precision, device};
use qwen3_vl::model::Qwen3VlModel;
use qwen3_vl::model::generate::{GenerateOptions, Generation, SessionSlot};
use qwen3_vl::model::inputs::ModelInputs;
use qwen3_vl::model::probe::Probe;
use qwen3_vl::model::replay::Stepping;
use qwen3_vl::model::session::Session;
use qwen3_vl::model::weight::Weight;
use qwen3_vl::verify::{Tolerance, verify};
use qwen3_vl::weights::adapter::{Adapter, AdapterConfig, LoraPair};
use qwen3_vl::weights::export::{
    ExportOptions, QuantizeOptions, export_model, quantize_checkpoint,
};
use qwen3_vl::weights::{Checkpoint, LoadHow, Rounding, load_placed};
use qwen3_vl::{LoadOptions, Qwen3Vl};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// Rows of most tables here.
const ROWS: usize = 1000;
/// Bytes of a row of theirs in f32.
const ROW: usize = 64 * 4;

fn options(device: &str, limit: Option<u64>) -> LoadOptions {
    LoadOptions {
        device: Some(device.to_owned()),
        dtype: "f32".parse().unwrap(),
        max_buffer: limit,
        ..LoadOptions::default()
    }
}

fn load(folder: &Path, options: LoadOptions) -> Result<Qwen3Vl, String> {
    Qwen3Vl::load(folder.to_str().unwrap(), options).map_err(|error| error.to_string())
}

type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(folder: &Path) -> Tensors {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let held = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    file.tensors().into_iter().map(|(name, view)| (name, held(view))).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// `dense_untied` with [`ROWS`] rows in its tables, which are larger than all else then. With `tied`, the embedding is the head.
fn wide(tied: bool) -> tempfile::TempDir {
    with_rows(ROWS, tied)
}

/// The same with `rows` rows, no two of them alike.
fn with_rows(rows: usize, tied: bool) -> tempfile::TempDir {
    let folder = common::copy_of("dense_untied");
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("\"vocab_size\": 512", &format!("\"vocab_size\": {rows}"));
    let flag = |tied: bool| format!("\"tie_word_embeddings\": {tied}");
    let text = text.replace(&flag(false), &flag(tied));
    assert!(text.contains(&flag(tied)) && text.contains(&rows.to_string()));
    std::fs::write(&config, text).unwrap();
    let mut tensors = tensors(folder.path());
    if tied {
        tensors.remove("lm_head.weight");
    }
    for (name, (_, shape, bytes)) in &mut tensors {
        if name.contains("embed_tokens") || name.contains("lm_head") {
            shape[0] = rows;
            let first: Vec<f32> = floats(bytes);
            let row = |row: usize| {
                let scale = 1.0 - (row / 512) as f32 * (1.0 / 4096.0);
                first[row % 512 * 64..][..64].iter().flat_map(move |x| (x * scale).to_le_bytes())
            };
            *bytes = (0..rows).flat_map(row).collect();
        }
    }
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let path = folder.path().join("model.safetensors");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    folder
}

/// Rows of the blocks of a weight.
fn rows(weight: &Weight) -> Vec<usize> {
    weight.blocks().iter().map(|block| block.shape()[0]).collect()
}

/// Those of the embedding, and of the head where it has a weight of its own.
fn tables(model: &Qwen3VlModel) -> Vec<Vec<usize>> {
    let embed = &model.language_model.embed_tokens.weight;
    let head = model.lm_head.as_ref().map(|head| &head.weight);
    std::iter::once(embed).chain(head).map(rows).collect()
}

/// Ids of all blocks.
fn text() -> ModelInputs {
    ModelInputs::text((0..37).map(|i| 3 + (i * 211 % 990)).collect())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert_dtype(DType::F32).try_to_vec().unwrap()
}

/// Logits of all rows of a prompt, and of one step more.
fn logits(model: &Qwen3VlModel, inputs: &ModelInputs) -> Vec<f32> {
    let mut probe = Probe::off();
    let mut prompt = model.prepare(inputs, &mut probe).unwrap();
    let (all, mut cache) = (0..inputs.ids.len(), model.new_cache());
    let hidden = model.prefill(&mut prompt, all, &mut cache, &mut probe);
    let next = model.decode(&[(7, 900)], &mut [&mut cache]);
    [values(model.logits(hidden)), values(next)].concat()
}

/// On `ndarray` bit by bit, elsewhere within the bound of the conformance tests.
fn same(expected: &[f32], found: &[f32], device: &str, what: &str) {
    assert!(device != "ndarray" || expected == found, "{what} on {device}");
    near(expected, found, device, what);
}

fn near(expected: &[f32], found: &[f32], device: &str, what: &str) {
    let size = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let far = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size;
    assert!(expected.len() == found.len() && far < 1e-4, "{what} on {device}: {far}");
}

/// The embedding of every id below `count`, the last one first.
fn embedded(model: &Qwen3VlModel, count: usize) -> Vec<f32> {
    let ids: Vec<i64> = (0..count as i64).rev().collect();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &model.device());
    values(model.language_model.embed(ids))
}

/// The ids of an answer, and how many of its tokens were replayed.
fn answer(loaded: &Qwen3Vl, inputs: &ModelInputs, stepping: Stepping) -> (Vec<u32>, usize) {
    let session = SessionSlot::Owned(Box::new(Session::new(loaded.model())));
    let options = GenerateOptions { max_new_tokens: 24, ..GenerateOptions::default() };
    let begun = Generation::start(loaded.model(), session, inputs, options).unwrap();
    let mut begun = begun.stepping(stepping);
    let ids = begun.by_ref().map(|token| token.unwrap().id).collect();
    (ids, begun.timings().replayed_tokens)
}

/// Two blocks of whole tiles but the last, and six that no tile divides; with a head of its own and without.
#[test]
fn tables_in_blocks_compute_what_they_compute_whole() {
    let blocks = [(140_000, vec![512, 488]), (45_000, vec![167, 167, 167, 167, 167, 165])];
    for tied in [true, false] {
        let folder = wide(tied);
        for device in common::devices() {
            let whole = load(folder.path(), options(&device, None)).unwrap();
            let (expected, (told, _)) =
                (logits(whole.model(), &text()), answer(&whole, &text(), Stepping::Ordinary));
            for (limit, rows) in &blocks {
                let split = load(folder.path(), options(&device, Some(*limit))).unwrap();
                let (model, what) = (split.model(), format!("tied {tied}, {limit}"));
                assert_eq!(tables(model), vec![rows.clone(); 2 - usize::from(tied)], "{what}");
                assert_eq!(model.bytes_per_token(), whole.model().bytes_per_token(), "{what}");
                let [a, b] = [whole.model(), model].map(|model| embedded(model, ROWS));
                assert!(a == b, "{what} on {device}");
                same(&expected, &logits(model, &text()), &device, &what);
                let replayed = if common::is_card(&device) { 23 } else { 0 };
                for (stepping, replayed) in
                    [(Stepping::Ordinary, 0), (Stepping::Fixed, 0), (Stepping::Auto, replayed)]
                {
                    let found = answer(&split, &text(), stepping);
                    assert_eq!(found, (told.clone(), replayed), "{what}, {stepping:?}, {device}");
                }
            }
        }
    }
}

/// Half precision, where a device has it.
#[test]
fn blocks_are_as_whole_tables_in_every_dtype() {
    let folder = wide(true);
    for device in common::devices() {
        let selected = device::select(Some(&device)).unwrap();
        for dtype in ["f16", "bf16"] {
            let dtype: DtypeRequest = dtype.parse().unwrap();
            if !matches!(dtype, DtypeRequest::Exact(exact) if selected.holds(exact)) {
                continue;
            }
            let [whole, split] = [None, Some(37_000)].map(|limit| {
                load(folder.path(), LoadOptions { dtype, ..options(&device, limit) }).unwrap()
            });
            assert_eq!(tables(split.model()), [[256, 256, 256, 232]]);
            let [a, b] = [&whole, &split].map(|loaded| embedded(loaded.model(), ROWS));
            assert!(a == b, "{dtype:?} on {device}");
            let [a, b] = [&whole, &split].map(|loaded| logits(loaded.model(), &text()));
            let size = a.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size;
            assert!(far < 1e-2, "{dtype:?} on {device}: {far}");
        }
    }
}

/// The limit of the device itself, where that is no more than WebGPU promises: a table that has no room in one buffer.
#[test]
fn a_small_adapter_answers_as_a_processor() {
    const ADAPTER: u64 = 128 << 20;
    let rows = ADAPTER as usize / ROW + 1000;
    let small = |name: &String| {
        let limit = device::select(Some(name)).unwrap().max_buffer();
        limit.is_some_and(|limit| limit <= ADAPTER)
    };
    let Some(card) = common::cards().into_iter().find(small) else {
        println!("skipped: no adapter with buffers of at most {ADAPTER} bytes");
        return;
    };
    let folder = with_rows(rows, true);
    let inputs = ModelInputs::text((0..20).map(|i| (i * 104_729 % rows) as u32).collect());
    let [cpu, card] = [&common::cpu_devices()[0], &card].map(|device| {
        let loaded = load(folder.path(), options(device, None)).unwrap();
        let blocks = tables(loaded.model())[0].len();
        let mut session = Session::new(loaded.model());
        let logits = session.prefill(loaded.model(), &inputs, usize::MAX).unwrap().logits;
        let told = answer(&loaded, &inputs, Stepping::Auto);
        (blocks, values(logits), told)
    });
    assert_eq!((cpu.0, card.0), (1, 2));
    near(&cpu.1, &card.1, "an adapter", "its own limit");
    assert_eq!((card.2.0, card.2.1), (cpu.2.0, 23));
}

/// Of `moe`, the layers of the mergers are split too, which have biases.
#[test]
fn blocks_are_computed_as_by_transformers() {
    for device in common::devices() {
        for (model, limit, blocks) in [("dense_untied", 45_000, 3), ("moe", 50_000, 2)] {
            let folder = common::fixtures().join(model);
            let loaded = load(&folder, options(&device, Some(limit))).unwrap();
            assert!(tables(loaded.model()).iter().all(|rows| rows.len() == blocks), "{model}");
            let merger = rows(&loaded.model().visual.merger.linear_fc1.weight);
            assert_eq!(merger.len(), if model == "moe" { 2 } else { 1 });
            let tolerance = Tolerance::for_device(loaded.device().kind, Precision::F32);
            for case in ["text", "two_images", "video", "batch_leftpad"] {
                let reference = folder.join(format!("ref_{case}.safetensors"));
                let outcome = verify(loaded.model(), &reference, tolerance).unwrap();
                assert!(outcome.passed(), "{model}/{case} on {device}: {:?}", outcome.worst());
            }
        }
    }
}

/// As they are read, as `quantize` wrote them, and as a GGUF file without a vision tower holds them, where all matrices are split.
#[test]
fn rounded_tables_are_split_too() {
    let (source, folder) = (wide(false), tempfile::tempdir().unwrap());
    let mut rounding = Rounding::new("int8".parse().unwrap());
    rounding.include = vec!["embed_tokens".into(), "lm_head".into()];
    let stored = folder.path().join("int8");
    let how = QuantizeOptions { rounding: rounding.clone(), max_shard_bytes: 5_000_000_000 };
    quantize_checkpoint(source.path(), &stored, &how, &mut ()).unwrap();
    let gguf = folder.path().join("model.gguf");
    std::fs::copy(common::fixtures().join("gguf/model.gguf"), &gguf).unwrap();
    let text = ModelInputs::text((0..37).map(|i| 3 + (i * 13 % 200)).collect());
    let cases = [
        ("now", source.path(), Some(rounding), 40_000, vec![512, 488]),
        ("before", stored.as_path(), None, 40_000, vec![512, 488]),
        ("gguf", gguf.as_path(), None, 20_000, vec![128; 4]),
    ];
    for (what, path, quant, limit, expected) in cases {
        for device in common::devices() {
            let of = |limit| {
                let options = LoadOptions { quant: quant.clone(), ..options(&device, limit) };
                load(path, options).unwrap()
            };
            let (whole, split) = (of(None), of(Some(limit)));
            let embed = &split.model().language_model.embed_tokens.weight;
            assert_eq!((rows(embed), embed.scheme().is_some()), (expected.clone(), true), "{what}");
            let up = &split.model().language_model.layers[0].mlp.as_ref().unwrap().up_proj;
            assert_eq!(up.weight.blocks().len() > 1, what == "gguf");
            // Burn's ndarray adds in another order where a row lies otherwise in memory.
            let [a, b] = [&whole, &split].map(|loaded| logits(loaded.model(), &text));
            near(&a, &b, &device, what);
            let [a, b] = [&whole, &split].map(|loaded| embedded(loaded.model(), 512));
            assert!(a == b, "{what} on {device}");
            let [a, b] = [&whole, &split].map(|loaded| loaded.model().bytes_per_token());
            assert_eq!(a, b, "{what}");
            let expanded = |loaded: &Qwen3Vl| {
                let mut model = loaded.model().clone();
                model.roundable_mut().iter_mut().for_each(|(_, weight)| weight.expand());
                let table = model.language_model.embed_tokens.weight;
                (table.scheme(), values(table.values()))
            };
            assert!(expanded(&whole) == expanded(&split), "{what} on {device}");
        }
    }
}

/// Keys of a layer take 128 bytes a token, so that a buffer has room for those of 256 tokens in whole blocks. Steps that would have all
/// of them in one are not recorded.
#[test]
fn keys_and_values_are_divided_too() {
    let folder = wide(false);
    let ids = (0..700).map(|i| 3 + i * 13 % 200).collect();
    let inputs = ModelInputs::text(ids);
    let read = |model: &Qwen3VlModel| {
        let (mut prompt, mut cache) =
            (model.prepare(&inputs, &mut Probe::off()).unwrap(), model.new_cache());
        let (mut rows, mut capacity) = (Vec::new(), 0);
        for start in (0..700).step_by(100) {
            let part = start..start + 100;
            let hidden = model.prefill(&mut prompt, part, &mut cache, &mut Probe::off());
            rows.extend(values(model.logits(hidden)));
            capacity = capacity.max(cache.own_capacity());
        }
        rows.extend(values(model.decode(&[(7, 700)], &mut [&mut cache])));
        (rows, capacity, cache.in_blocks())
    };
    let session = |loaded: &Qwen3Vl| {
        let mut session = Session::new(loaded.model());
        let prefill = session.prefill(loaded.model(), &inputs, 100).unwrap();
        values(prefill.logits)
    };
    for device in common::devices() {
        let whole = load(folder.path(), options(&device, None)).unwrap();
        let split = load(folder.path(), options(&device, Some(45_000))).unwrap();
        let (expected, capacity, in_blocks) = read(whole.model());
        assert!(capacity >= 700 && in_blocks == 0, "{device}: {capacity}");
        let (found, capacity, in_blocks) = read(split.model());
        assert!(capacity <= 256 && in_blocks == 600, "{device}: {capacity}, {in_blocks}");
        near(&expected, &found, &device, "divided keys");
        let told = answer(&whole, &inputs, Stepping::Ordinary);
        assert_eq!(answer(&split, &inputs, Stepping::Auto), told, "{device}");
        // Through the stages of a map, whose caches are divided between two runs of theirs.
        let map = Some(format!("{device},{device}").parse().unwrap());
        let options = LoadOptions { device: None, device_map: map, ..options("", Some(45_000)) };
        let stages = load(folder.path(), options).unwrap();
        near(&session(&whole), &session(&stages), &device, "divided keys in stages");
    }
}

#[test]
fn a_map_splits_where_the_part_lies() {
    let folder = wide(false);
    let cpus = common::cpu_devices();
    let whole = load(folder.path(), options(&cpus[0], None)).unwrap();
    let map = format!("embed={},0-={},head={}", cpus[0], cpus[cpus.len() - 1], cpus[0]);
    let options = LoadOptions {
        device: None,
        device_map: Some(map.parse().unwrap()),
        ..options("", Some(45_000))
    };
    let split = load(folder.path(), options).unwrap();
    assert!(tables(split.model()).iter().all(|rows| rows.len() == 6));
    same(&logits(whole.model(), &text()), &logits(split.model(), &text()), "a map", &map);
}

/// Also with side paths beside weights in blocks.
#[test]
fn an_export_of_blocks_is_one_of_whole_weights() {
    let out = tempfile::tempdir().unwrap();
    let export = |model: &Qwen3VlModel, source: &Path, name: &str| {
        let out = out.path().join(name);
        export_model(model, source, &out, &ExportOptions::default(), &mut ()).unwrap();
        tensors(&out)
    };
    let device = &common::cpu_devices()[0];
    for tied in [true, false] {
        let source = wide(tied);
        let split = load(source.path(), options(device, Some(45_000))).unwrap();
        let name = format!("tied {tied}");
        assert!(export(split.model(), source.path(), &name) == tensors(source.path()), "{name}");
    }
    let moe = common::copy_of("moe");
    let numbers = |count: usize| (0..count).map(|i| (i as f32 * 0.37).sin() * 0.1).collect();
    let pair = LoraPair {
        a: TensorData::new::<f32, _>(numbers(4 * 128), [4, 128]),
        b: TensorData::new::<f32, _>(numbers(128 * 4), [128, 4]),
    };
    let adapter = Adapter {
        config: AdapterConfig::new(4, 8.0),
        pairs: [("visual.merger.linear_fc1".to_owned(), pair)].into(),
        saved: BTreeMap::new(),
    };
    let [whole, split] = [None, Some(50_000)].map(|limit| {
        let loaded = load(moe.path(), options(device, limit)).unwrap();
        let model = adapter.attach(loaded.model().clone()).unwrap();
        export(&model, moe.path(), &format!("{limit:?}"))
    });
    assert!(whole != tensors(moe.path()));
    for (name, (_, shape, bytes)) in &whole {
        assert_eq!(shape, &split[name].1);
        let far = floats(bytes).into_iter().zip(floats(&split[name].2));
        let far = far.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-6, "{name}: {far}");
    }
}

#[test]
fn an_adapter_replaces_the_rows_of_all_blocks() {
    let source = wide(false);
    let saved: Vec<f32> = (0..ROWS * 64).map(|i| (i as f32 * 0.13).sin()).collect();
    let adapter = Adapter {
        config: AdapterConfig::new(4, 8.0),
        pairs: BTreeMap::new(),
        saved: [("lm_head.weight".to_owned(), TensorData::new(saved, [ROWS, 64]))].into(),
    };
    for device in common::devices() {
        let [whole, split] = [None, Some(45_000)].map(|limit| {
            let loaded = load(source.path(), options(&device, limit)).unwrap();
            let before = logits(loaded.model(), &text());
            let model = adapter.attach(loaded.model().clone()).unwrap();
            assert_eq!(rows(&model.lm_head.as_ref().unwrap().weight).len() > 1, limit.is_some());
            let after = logits(&model, &text());
            assert_ne!(before, after);
            after
        });
        same(&whole, &split, &device, "a saved head");
    }
}

#[test]
fn what_is_not_split_is_refused() {
    let device = &common::cpu_devices()[0];
    let folder = common::fixtures().join("dense_untied");
    let message = load(&folder, options(device, Some(36_000))).unwrap_err();
    for word in ["patch_embed", "36864 bytes", device, "36000 bytes"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    // As training loads it.
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let selected = device::select(Some(device)).unwrap();
    let placement = Placement::whole(&selected, checkpoint.config().text.layers);
    let how = LoadHow { max_buffer: Some(45_000), ..LoadHow::new(Precision::F32, None) };
    load_placed(&checkpoint, &placement, how, &mut ()).unwrap();
    let how = LoadHow { whole: true, ..how };
    let refused = load_placed(&checkpoint, &placement, how, &mut ()).map(|_| ());
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("embed_tokens") && message.contains("131072 bytes"), "{message}");
}
