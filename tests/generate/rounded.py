"""Files of other programs with rounded weights, and what transformers computes with the numbers they stand for.

python tests/generate/rounded.py        writes fixtures/gguf/ and fixtures/rounded/

Needs gguf (the stored files are of 0.19.0). Names and metadata of GGUF files follow llama.cpp's convert_hf_to_gguf.py.
"""

import json

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T

import models
import tokenizer
from common import FIXTURES, HERE, IM_END, PAD, VOCAB, write_json, write_tensors
from prompts import batch, cases
from references import compact, reference

GGUF, ROUNDED = FIXTURES / "gguf", FIXTURES / "rounded"
# The checkpoint whose weights AWQ, compressed-tensors and FP8 round.
BASE = "dense_untied"


def fingerprint(values):
    """The sum of all bits, each number times an odd one of its own, modulo 2^64; +0 and -0 are the same."""
    bits = (np.asarray(values, np.float32).ravel() + np.float32(0)).view(np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        return int((bits * (2 * np.arange(bits.size, dtype=np.uint64) + 1)).sum(dtype=np.uint64))


def half(values):
    return np.asarray(values, np.float16).view(np.uint8)


def k_blocks(kind, rows, columns, rng):
    """Random blocks of a K type; scales chosen so that weights look like those of a layer."""
    count = rows * columns // 256
    loud = 1.3 / np.sqrt(columns)
    noise = lambda width: rng.integers(0, 256, (count, width), dtype=np.uint8)
    some = lambda size: half(size * rng.uniform(0.5, 1.5, (count, 1)))
    if kind == T.Q6_K:
        return np.concatenate([noise(192), noise(16), some(loud / 1400)], 1)
    top, extra = (7.5, 128) if kind == T.Q4_K else (15.5, 160)
    scale = loud / (33 * top)
    return np.concatenate([some(scale), some(scale * top), noise(12), noise(extra)], 1)


def stored(kind, shape, rng):
    """Bytes of a random matrix, and its numbers."""
    if kind in (T.Q4_K, T.Q5_K, T.Q6_K):
        data = k_blocks(kind, *shape, rng).reshape(shape[0], -1)
    else:
        data = gguf.quants.quantize(rng.normal(0, 1.3 / np.sqrt(shape[1]), shape).astype(np.float32), kind)
    return data, gguf.quants.dequantize(data, kind).reshape(shape)


def config():
    """Wide enough for blocks of 256, tied, with two DeepStack levels."""
    text = models.text_config("qwen3_vl_text", 256, 256, 2, 2, 1, 64, [12, 10, 10], True)
    vision = models.vision_config("qwen3_vl", 3, 32, 64, 2, 8, 256, 36, [0, 2])
    return models.top_config("qwen3_vl", models.DENSE, text, vision, True)


TEXT_TYPES = {
    "blk.0.attn_q": T.Q4_K, "blk.0.attn_k": T.Q6_K, "blk.0.attn_v": T.Q8_0, "blk.0.attn_output": T.Q4_0,
    "blk.0.ffn_gate": T.Q4_K, "blk.0.ffn_up": T.Q5_K, "blk.0.ffn_down": T.Q6_K,
    "blk.1.attn_q": T.Q5_0, "blk.1.attn_k": T.Q4_1, "blk.1.attn_v": T.Q6_K, "blk.1.attn_output": T.Q8_0,
    "blk.1.ffn_gate": T.Q4_0, "blk.1.ffn_up": T.Q4_K, "blk.1.ffn_down": T.Q4_1,
    "token_embd": T.Q4_K,
}
VISION_TYPES = {
    "v.blk.0.attn_qkv": T.Q8_0, "v.blk.1.attn_qkv": T.Q4_0, "v.blk.0.attn_out": T.Q8_0, "mm.0": T.Q8_0,
    "v.blk.0.ffn_up": T.Q8_0, "v.blk.2.ffn_down": T.BF16, "mm.2": T.Q8_0,
    "v.deepstack.0.fc1": T.Q8_0, "v.deepstack.0.fc2": T.Q4_0, "v.deepstack.2.fc1": T.Q4_0, "v.deepstack.2.fc2": T.Q8_0, "v.patch_embd": T.F16,
}
MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
BLOCKS = {
    "ln1": "norm1", "ln2": "norm2", "attn_qkv": "attn.qkv", "attn_out": "attn.proj",
    "ffn_up": "mlp.linear_fc1", "ffn_down": "mlp.linear_fc2",
}


def text_names():
    """Name in the GGUF file and in transformers, of every module of the language model."""
    text = "model.language_model"
    yield "token_embd", f"{text}.embed_tokens"
    yield "output_norm", f"{text}.norm"
    for i in range(2):
        yield from ((f"blk.{i}.{a}", f"{text}.layers.{i}.{b}") for a, b in MODULES.items())


def vision_names(taps):
    yield "v.position_embd", "model.visual.pos_embed"
    yield "v.post_ln", "model.visual.merger.norm"
    yield "mm.0", "model.visual.merger.linear_fc1"
    yield "mm.2", "model.visual.merger.linear_fc2"
    for i in range(3):
        yield from ((f"v.blk.{i}.{a}", f"model.visual.blocks.{i}.{b}") for a, b in BLOCKS.items())
    for j, tap in enumerate(taps):
        for a, b in (("norm", "norm"), ("fc1", "linear_fc1"), ("fc2", "linear_fc2")):
            yield f"v.deepstack.{tap}.{a}", f"model.visual.deepstack_merger_list.{j}.{b}"


class Writer:
    """Writes the tensors of one file, and puts the numbers that they stand for into the model."""

    def __init__(self, name, architecture, state, rng):
        self.file = gguf.GGUFWriter(GGUF / name, architecture)
        self.state, self.rng, self.prints = state, rng, {}

    def add(self, name, key, kind):
        values = self.state[key]
        if kind in (T.F32, T.F16, T.BF16):
            data = gguf.quants.quantize(values.numpy(), kind)
            found = gguf.quants.dequantize(data, kind).reshape(values.shape)
        else:
            data, found = stored(kind, tuple(values.shape), self.rng)
            self.prints[key] = fingerprint(found)
        raw = kind if kind not in (T.F32, T.F16) else None
        self.file.add_tensor(name, data, raw_dtype=raw)
        values.copy_(torch.from_numpy(found.copy()))

    def close(self):
        self.file.write_header_to_file()
        self.file.write_kv_data_to_file()
        self.file.write_tensors_to_file()
        self.file.close()


def write_text(model, rng):
    text = config()["text_config"]
    writer = Writer("model.gguf", "qwen3vl", model.state_dict(), rng)
    file = writer.file
    file.add_block_count(text["num_hidden_layers"])
    file.add_context_length(text["max_position_embeddings"])
    file.add_embedding_length(text["hidden_size"])
    file.add_feed_forward_length(text["intermediate_size"])
    file.add_head_count(text["num_attention_heads"])
    file.add_head_count_kv(text["num_key_value_heads"])
    file.add_key_length(text["head_dim"])
    file.add_value_length(text["head_dim"])
    file.add_layer_norm_rms_eps(text["rms_norm_eps"])
    file.add_rope_freq_base(float(text["rope_theta"]))
    file.add_rope_dimension_sections([*text["rope_scaling"]["mrope_section"], 0])
    file.add_uint32("qwen3vl.n_deepstack_layers", 2)
    write_vocabulary(file)
    for name, module in text_names():
        key = f"{module}.weight"
        writer.add(f"{name}.weight", key, TEXT_TYPES.get(name, T.F32))
    writer.close()
    return writer.prints


def write_vocabulary(file):
    """As llama.cpp's `_set_vocab_gpt2` does."""
    built = json.loads(tokenizer.build().to_str())
    kinds = {t["id"]: 3 if t["special"] else 4 for t in built["added_tokens"]}
    tokens = sorted(built["model"]["vocab"].items(), key=lambda item: item[1])
    assert [id for _, id in tokens] == list(range(VOCAB))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("qwen2")
    file.add_token_list([text for text, _ in tokens])
    file.add_token_types([kinds.get(id, 1) for _, id in tokens])
    file.add_token_merges([" ".join(pair) for pair in built["model"]["merges"]])
    file.add_eos_token_id(IM_END)
    file.add_pad_token_id(PAD)
    file.add_chat_template((HERE / "templates" / "instruct.jinja").read_text())


def write_vision(model, rng):
    vision = config()["vision_config"]
    writer = Writer("mmproj-model.gguf", "clip", model.state_dict(), rng)
    file = writer.file
    file.add_bool("clip.has_vision_encoder", True)
    file.add_string("clip.projector_type", "qwen3vl_merger")
    file.add_bool("clip.use_gelu", True)
    side = round(vision["num_position_embeddings"] ** 0.5) * vision["patch_size"]
    sizes = dict(
        image_size=side, patch_size=vision["patch_size"], embedding_length=vision["hidden_size"],
        feed_forward_length=vision["intermediate_size"], projection_dim=vision["out_hidden_size"],
        block_count=vision["depth"], spatial_merge_size=vision["spatial_merge_size"],
    )
    for key, value in sizes.items():
        file.add_uint32(f"clip.vision.{key}", value)
    file.add_uint32("clip.vision.attention.head_count", vision["num_heads"])
    file.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    file.add_array("clip.vision.image_mean", [0.5] * 3)
    file.add_array("clip.vision.image_std", [0.5] * 3)
    taps = vision["deepstack_visual_indexes"]
    file.add_array("clip.vision.is_deepstack_layers", [i in taps for i in range(vision["depth"])])
    write_patches(writer)
    for name, module in vision_names(taps):
        writer.add(f"{name}.weight", f"{module}.weight", VISION_TYPES.get(name, T.F32))
        if f"{module}.bias" in writer.state:
            writer.add(f"{name}.bias", f"{module}.bias", T.F32)
    writer.close()
    return writer.prints


def write_patches(writer):
    """The Conv3d of patches as two Conv2d."""
    key = "model.visual.patch_embed.proj.weight"
    values = writer.state[key]
    values.copy_(values.half().float())
    for frame, end in enumerate(("weight", "weight.1")):
        writer.file.add_tensor(f"v.patch_embd.{end}", values[:, :, frame].half().numpy().copy())
    writer.add("v.patch_embd.bias", key.replace("weight", "bias"), T.F32)


def build():
    """The model of the GGUF files, with fresh weights."""
    made = models.Qwen3VLForConditionalGeneration(models.Qwen3VLConfig(**config())).float().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in sorted(made.named_parameters()):
            models.fill(key, parameter, torch.randn(parameter.shape, generator=generator))
    made.tie_weights()
    made.generation_config.eos_token_id = None
    made.generation_config.pad_token_id = PAD
    made.set_attn_implementation("eager")
    return made


def write_reference(model, patch, case, path):
    """What tells whether weights, names and settings are right: features of pictures, and the end."""
    prompts = cases(patch)[case]
    tensors, margin = reference(model, prompts)
    tensors = compact(tensors, prompts, case)
    kept = lambda key: not key.startswith("text.") or key == "text.final_norm"
    write_tensors(path, {k: v for k, v in tensors.items() if kept(k)}, margin=repr(margin))


def write_gguf():
    GGUF.mkdir(exist_ok=True)
    rng, model = np.random.default_rng(7), build()
    with torch.no_grad():
        prints = write_text(model, rng) | write_vision(model, rng)
    write_json(GGUF / "prints.json", prints, indent=1)
    patch = config()["vision_config"]["patch_size"]
    for case in ("text", "image"):
        write_reference(model, patch, case, GGUF / f"ref_{case}.safetensors")


def linear_weights(state):
    """The linear weights of the first layer of the language model of BASE; the others stay as they are."""
    return {k: v for k, v in state.items() if k.endswith("_proj.weight") and ".layers.0." in k}


def pack(codes):
    """Eight codes of four bits along the last axis in each 32-bit word, the first in the lowest bits."""
    rows, columns = codes.shape
    codes = np.pad(codes, ((0, 0), (0, -columns % 8))).reshape(rows, -1, 8).astype(np.uint32)
    return (codes << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)


def check_packing():
    """That `pack` is what compressed-tensors does, where that package is installed."""
    try:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    except ImportError:
        print("not compared: the package compressed-tensors 0.20 is not installed")
        return
    rng = np.random.default_rng(1)
    for shape in ((8, 64), (10, 44)):
        codes = rng.integers(-8, 8, shape).astype(np.int8)
        for axis, ours in ((1, pack(codes + 8)), (0, pack((codes + 8).T).T)):
            theirs = pack_to_int32(torch.from_numpy(codes), 4, packed_dim=axis).numpy()
            assert np.array_equal(ours, theirs), (shape, axis)


def asymmetric(weight, group):
    """Codes from 0 to 15, scales in f16 and zero points of groups along the rows of `weight`."""
    rows, columns = weight.shape
    parts = weight.reshape(rows, columns // group, group)
    low, high = np.minimum(parts.min(-1), 0), np.maximum(parts.max(-1), 0)
    scale = ((high - low) / 15).astype(np.float16).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, 15)
    codes = np.clip(np.rint(parts / scale[..., None]) + zero[..., None], 0, 15)
    numbers = (codes - zero[..., None]).astype(np.float32) * scale[..., None]
    return codes.reshape(rows, columns), scale, zero, numbers.reshape(rows, columns)


def awq(name, weight):
    """AutoAWQ, version gemm, groups of 32; `None` where the groups do not fit."""
    if weight.shape[1] % 32:
        return None
    codes, scale, zero, numbers = asymmetric(weight, 32)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    shuffled = lambda m: pack(m.T.reshape(m.shape[1], -1, 8)[:, :, order].reshape(m.shape[1], -1))
    tensors = dict(qweight=shuffled(codes), qzeros=shuffled(zero), scales=scale.T.astype(np.float16))
    return {f"{name}.{k}": torch.from_numpy(v.copy()) for k, v in tensors.items()}, numbers


def compressed(name, weight):
    """compressed-tensors, pack-quantized: zero points, and scales of several dtypes by the name."""
    if weight.shape[1] % 32:
        return None
    codes, scale, zero, numbers = asymmetric(weight, 32)
    kind = torch.float16
    if "mlp" in name:
        kind = torch.float32
        scale = scale * np.float32(1.0009765625)
        numbers = (codes - np.repeat(zero, 32, 1)).astype(np.float32) * np.repeat(scale, 32, 1)
    tensors = dict(
        weight_packed=torch.from_numpy(pack(codes)),
        weight_scale=torch.from_numpy(scale).to(kind),
        weight_zero_point=torch.from_numpy(pack(zero.T).T.copy()),
        weight_shape=torch.tensor(weight.shape),
    )
    return {f"{name}.{k}": v for k, v in tensors.items()}, numbers


def symmetric(name, weight):
    """compressed-tensors, pack-quantized without zero points, bf16 scales, groups of 64."""
    if weight.shape[1] % 64:
        return None
    parts = weight.reshape(weight.shape[0], -1, 64)
    scale = torch.from_numpy(np.abs(parts).max(-1) / 7.5).bfloat16()
    wide = scale.float().numpy()[..., None]
    codes = np.clip(np.rint(parts / wide), -8, 7)
    numbers = (codes.astype(np.float32) * wide).reshape(weight.shape)
    packed = pack(codes.reshape(weight.shape) + 8)
    tensors = dict(weight_packed=torch.from_numpy(packed), weight_scale=scale, weight_shape=torch.tensor(weight.shape))
    return {f"{name}.{k}": v for k, v in tensors.items()}, numbers


def fp8(name, weight):
    """E4M3 with scales of blocks of 128 by 128 in f32, as Qwen's FP8 checkpoints; of rows for attention's k, of all for v."""
    weight = torch.from_numpy(weight)
    rows, columns = weight.shape
    if "k_proj" in name:
        scale, end = (weight.abs().amax(1, keepdim=True) / 448).bfloat16(), "weight_scale"
        spread = scale.float()
    elif "v_proj" in name:
        scale, end = (weight.abs().max() / 448).reshape(1), "weight_scale"
        spread = scale
    else:
        padded = torch.nn.functional.pad(weight, (0, -columns % 128, 0, -rows % 128))
        blocks = padded.reshape(padded.shape[0] // 128, 128, -1, 128).abs().amax((1, 3))
        scale, end = blocks / 448, "weight_scale_inv"
        spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
    codes = (weight / spread).to(torch.float8_e4m3fn)
    return {f"{name}.weight": codes, f"{name}.{end}": scale}, (codes.float() * spread).numpy()


def group(**weights):
    return {"group_0": dict(targets=["Linear"], weights=weights)}


METHODS = dict(
    awq=(awq, dict(quant_method="awq", bits=4, group_size=32, version="gemm", zero_point=True)),
    compressed=(compressed, dict(
        quant_method="compressed-tensors", format="pack-quantized",
        config_groups=group(num_bits=4, type="int", group_size=32, strategy="group", symmetric=False),
    )),
    symmetric=(symmetric, dict(
        quant_method="compressed-tensors", format="pack-quantized",
        config_groups=group(num_bits=4, type="int", group_size=64, strategy="group", symmetric=True),
    )),
    fp8=(fp8, dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[128, 128])),
)


def write_method(name):
    """Only what differs from BASE: the tests put the rest beside it."""
    rounder, settings = METHODS[name]
    tensors, prints = {}, {}
    for key, value in linear_weights(models.build(BASE).state_dict()).items():
        found = rounder(key.removesuffix(".weight"), value.numpy())
        if found is not None:
            tensors |= found[0]
            prints[key] = fingerprint(found[1])
    write_tensors(ROUNDED / f"{name}.safetensors", tensors)
    write_json(ROUNDED / f"{name}.json", dict(quantization_config=settings, prints=prints), indent=1)


def main():
    check_packing()
    write_gguf()
    ROUNDED.mkdir(exist_ok=True)
    for name in METHODS:
        write_method(name)


if __name__ == "__main__":
    main()
