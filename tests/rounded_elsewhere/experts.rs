//! A mixture of experts as llama.cpp stores it, written here from the checkpoint `moe` with weights as they are.

use burn::tensor::f16;

use super::*;

/// A GGUF file being written.
#[derive(Default)]
struct Writer {
    keys: Vec<u8>,
    tensors: Vec<u8>,
    data: Vec<u8>,
    counts: [u64; 2],
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Writer {
    fn key(&mut self, name: &str, kind: u32) -> &mut Vec<u8> {
        self.counts[1] += 1;
        text(&mut self.keys, name);
        self.keys.extend(kind.to_le_bytes());
        &mut self.keys
    }

    fn number(&mut self, name: &str, value: usize) {
        self.key(name, 4).extend((value as u32).to_le_bytes());
    }

    fn real(&mut self, name: &str, value: f32) {
        self.key(name, 6).extend(value.to_le_bytes());
    }

    fn text(&mut self, name: &str, value: &str) {
        text(self.key(name, 8), value);
    }

    fn numbers(&mut self, name: &str, values: &[u32]) {
        let out = self.key(name, 9);
        out.extend(5u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| out.extend(value.to_le_bytes()));
    }

    fn texts<'t>(&mut self, name: &str, values: impl ExactSizeIterator<Item = &'t str>) {
        let out = self.key(name, 9);
        out.extend(8u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.for_each(|value| text(out, value));
    }

    /// A tensor of f32.
    fn tensor(&mut self, name: &str, shape: &[usize], bytes: &[u8]) {
        self.typed(name, 0, shape, bytes);
    }

    /// A tensor of one of ggml's types.
    fn typed(&mut self, name: &str, kind: u32, shape: &[usize], bytes: &[u8]) {
        self.counts[0] += 1;
        text(&mut self.tensors, name);
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|side| self.tensors.extend((*side as u64).to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
    }

    fn write(self, path: &Path) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        self.counts.iter().for_each(|count| file.extend(count.to_le_bytes()));
        file.extend(self.keys);
        file.extend(self.tensors);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(self.data);
        std::fs::write(path, file).unwrap();
    }
}

fn write_settings(writer: &mut Writer, config: &Value) {
    let size = |key: &str| config["text_config"][key].as_u64().unwrap() as usize;
    writer.text("general.architecture", "qwen3vlmoe");
    for (theirs, ours) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("expert_count", "num_experts"),
        ("expert_used_count", "num_experts_per_tok"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
    ] {
        writer.number(&format!("qwen3vlmoe.{theirs}"), size(ours));
    }
    writer.real("qwen3vlmoe.attention.layer_norm_rms_epsilon", 1e-6);
    writer.real("qwen3vlmoe.rope.freq_base", 5e6);
    writer.numbers("qwen3vlmoe.rope.dimension_sections", &[4, 2, 2, 0]);
    let tokenizer = read_json(&common::fixtures().join("moe/tokenizer.json"));
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let mut tokens: Vec<(&String, u64)> =
        vocabulary.iter().map(|(token, id)| (token, id.as_u64().unwrap())).collect();
    tokens.sort_by_key(|(_, id)| *id);
    writer.texts("tokenizer.ggml.tokens", tokens.iter().map(|(token, _)| token.as_str()));
    let kinds = tokens.iter().map(|(token, _)| if token.starts_with("<|") { 3 } else { 1 });
    writer.numbers("tokenizer.ggml.token_type", &kinds.collect::<Vec<_>>());
    writer.texts("tokenizer.ggml.merges", [].into_iter());
    writer.text("tokenizer.chat_template", "{{ messages }}");
}

fn write_vision_settings(writer: &mut Writer, config: &Value) {
    let size = |key: &str| config["vision_config"][key].as_u64().unwrap() as usize;
    writer.text("general.architecture", "clip");
    writer.text("clip.projector_type", "qwen3vl_merger");
    for (theirs, ours) in [
        ("block_count", "depth"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_heads"),
        ("patch_size", "patch_size"),
        ("projection_dim", "out_hidden_size"),
    ] {
        writer.number(&format!("clip.vision.{theirs}"), size(ours));
    }
    writer.numbers("clip.vision.is_deepstack_layers", &[1, 1, 1]);
}

/// (in a checkpoint, in a GGUF file), longer names before those that they begin with.
const NAMES: &[(&str, &str)] = &[
    ("model.language_model.embed_tokens", "token_embd"),
    ("model.language_model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.language_model.layers.", "blk."),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.experts.down_proj", "ffn_down_exps.weight"),
    ("mlp.gate.", "ffn_gate_inp."),
    ("model.visual.pos_embed", "v.position_embd"),
    ("model.visual.patch_embed.proj", "v.patch_embd"),
    ("model.visual.merger.norm", "v.post_ln"),
    ("model.visual.merger.linear_fc1", "mm.0"),
    ("model.visual.merger.linear_fc2", "mm.2"),
    ("model.visual.deepstack_merger_list.", "v.deepstack."),
    ("model.visual.blocks.", "v.blk."),
    ("norm1", "ln1"),
    ("norm2", "ln2"),
    ("attn.proj", "attn_out"),
    ("mlp.linear_fc1", "ffn_up"),
    ("mlp.linear_fc2", "ffn_down"),
    (".linear_fc", ".fc"),
];

/// The bytes of a tensor whose elements of `size` bytes lie in two kinds that take turns, and which are wanted.
fn every_other(bytes: &[u8], size: usize, which: usize) -> Vec<u8> {
    bytes.chunks(size).skip(which).step_by(2).flatten().copied().collect()
}

/// How tensors are written.
#[derive(Clone, Copy)]
struct Form {
    /// Attention of the vision tower as one tensor, or as three, as some converters write it.
    whole_qkv: bool,
    /// The last matrices of experts in blocks of Q8_0.
    rounded: bool,
}

/// The tensors of a checkpoint.
fn write_tensors(weights: &Path, text: &mut Writer, vision: &mut Writer, form: Form) {
    let bytes = std::fs::read(weights).unwrap();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let theirs =
            NAMES.iter().fold(name.clone(), |name, (ours, theirs)| name.replace(ours, theirs));
        let (shape, data) = (view.shape(), view.data());
        let writer = if name.contains(".visual.") { &mut *vision } else { &mut *text };
        if let Some(layer) = theirs.strip_suffix(".mlp.experts.gate_up_proj") {
            // Gates, then ups, of each expert.
            let (half, part) = ([shape[0], shape[1] / 2, shape[2]], shape[1] / 2 * shape[2] * 4);
            writer.tensor(
                &format!("{layer}.ffn_gate_exps.weight"),
                &half,
                &every_other(data, part, 0),
            );
            writer.tensor(
                &format!("{layer}.ffn_up_exps.weight"),
                &half,
                &every_other(data, part, 1),
            );
        } else if theirs == "v.patch_embd.weight" {
            let (frame, part) = ([shape[0], 3, shape[3], shape[4]], shape[3] * shape[4] * 4);
            writer.tensor("v.patch_embd.weight", &frame, &every_other(data, part, 0));
            writer.tensor("v.patch_embd.weight.1", &frame, &every_other(data, part, 1));
        } else if let Some((block, end)) = theirs.split_once(".attn.qkv.") {
            if form.whole_qkv {
                writer.tensor(&format!("{block}.attn_qkv.{end}"), shape, data);
                continue;
            }
            let third = [&[shape[0] / 3], &shape[1..]].concat();
            for (part, data) in ["q", "k", "v"].into_iter().zip(data.chunks(data.len() / 3)) {
                writer.tensor(&format!("{block}.attn_{part}.{end}"), &third, data);
            }
        } else if form.rounded && name.ends_with("experts.down_proj") {
            writer.typed(&theirs, 8, shape, &blocks_of_eight_bits(data));
        } else {
            writer.tensor(&theirs, shape, data);
        }
    }
}

/// Q8_0: a scale in f16 for 32 numbers, then their signed bytes.
fn blocks_of_eight_bits(data: &[u8]) -> Vec<u8> {
    let values: Vec<f32> =
        data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let block = |values: &[f32]| {
        let largest = values.iter().fold(0.0f32, |m, value| m.max(value.abs()));
        let scale = f16::from_f32(largest / 127.0);
        let codes = values.iter().map(move |value| (value / scale.to_f32()).round() as i8 as u8);
        scale.to_le_bytes().into_iter().chain(codes).collect::<Vec<u8>>()
    };
    values.chunks(32).flat_map(block).collect()
}

/// The numbers that such blocks stand for.
fn numbers_of_eight_bits(blocks: &[u8]) -> Vec<u8> {
    let number = |block: &[u8]| {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        block[2..].iter().map(|code| scale * f32::from(*code as i8)).collect::<Vec<f32>>()
    };
    blocks.chunks(34).flat_map(number).flat_map(f32::to_le_bytes).collect()
}

/// The checkpoint of `weights` and `config` as GGUF files.
fn written(weights: &Path, config: &Value, form: Form) -> tempfile::TempDir {
    let (mut text, mut vision) = (Writer::default(), Writer::default());
    write_settings(&mut text, config);
    write_vision_settings(&mut vision, config);
    write_tensors(weights, &mut text, &mut vision, form);
    let folder = tempfile::tempdir().unwrap();
    text.write(&folder.path().join("experts.gguf"));
    vision.write(&folder.path().join("mmproj.gguf"));
    folder
}

fn logits_of_experts(loaded: &Qwen3Vl) -> Vec<f32> {
    common::logits_of_two_images(loaded.model(), "moe")
}

#[test]
fn a_mixture_of_experts_is_put_together_from_its_parts() {
    let config = read_json(&common::fixtures().join("moe/config_v4.json"));
    let weights = common::fixtures().join("moe/model.safetensors");
    for whole_qkv in [true, false] {
        let folder = written(&weights, &config, Form { whole_qkv, rounded: false });
        for device in common::cpu_devices() {
            let loaded = load(folder.path(), &device).unwrap();
            assert!(loaded.report().unexpected.is_empty(), "{:?}", loaded.report());
            let original = common::load(&common::fixtures().join("moe"), &device);
            let (found, expected) = (logits_of_experts(&loaded), logits_of_experts(&original));
            assert_eq!(found, expected, "{device}, {whole_qkv}");
        }
    }
}

/// The checkpoint `moe` with wider experts, whose rows are whole blocks, and the numbers of such blocks in their last matrices.
fn of_whole_blocks() -> (tempfile::TempDir, Value) {
    let folder = common::copy_of("moe");
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |count: usize, seed: f32| -> Vec<u8> {
        let values = (0..count).map(|i| ((i as f32 + seed) * 0.7713).sin() * 0.1);
        values.flat_map(f32::to_le_bytes).collect()
    };
    let owned = |(name, view): (String, TensorView<'_>)| {
        let (shape, bytes) = match name.rsplit('.').next() {
            Some("gate_up_proj") => (vec![6, 128, 48], numbers(6 * 128 * 48, 0.5)),
            Some("down_proj") if name.contains("experts") => {
                let blocks = blocks_of_eight_bits(&numbers(6 * 48 * 64, 7.5));
                (vec![6, 48, 64], numbers_of_eight_bits(&blocks))
            }
            _ => (view.shape().to_vec(), view.data().to_vec()),
        };
        (name, (view.dtype(), shape, bytes))
    };
    let tensors: Tensors = file.tensors().into_iter().map(owned).collect();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let mut config = read_json(&folder.path().join("config_v4.json"));
    config["text_config"]["moe_intermediate_size"] = json!(64);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    (folder, config)
}

#[test]
fn experts_that_llama_cpp_rounded_stay_rounded() {
    let (original, config) = of_whole_blocks();
    let weights = original.path().join("model.safetensors");
    let folder = written(&weights, &config, Form { whole_qkv: true, rounded: true });
    for device in common::devices() {
        let loaded = load(folder.path(), &device).unwrap();
        assert!(loaded.report().unexpected.is_empty(), "{:?}", loaded.report());
        let mut model = loaded.model().clone();
        let schemes: Vec<String> = model
            .roundable_mut()
            .into_iter()
            .filter_map(|(path, weight)| Some(format!("{path} {}", weight.scheme()?)))
            .collect();
        let layer = |index| format!("language_model.layers.{index}.moe.experts.down_proj int8-g32");
        assert_eq!(schemes, [layer(0), layer(2)]);
        let original = common::load(original.path(), &device);
        let name = "model.language_model.layers.2.mlp.experts.down_proj";
        let of = |loaded: &Qwen3Vl| weights_of(loaded.model(), name);
        assert_eq!(of(&loaded), of(&original), "{device}");
        let (found, expected) = (logits_of_experts(&loaded), logits_of_experts(&original));
        let size = largest(expected.iter().copied());
        let far = largest(found.iter().zip(&expected).map(|(a, b)| a - b));
        // Flex rounds the activations of few rows.
        let bound = if device == "flex" { 0.05 } else { 1e-5 };
        assert!(far <= bound * size, "{device}: {far} of {size}");
    }
}

fn weights_of(model: &Qwen3VlModel, name: &str) -> Vec<f32> {
    weights(model).remove(name).unwrap()
}
