"""What the comparisons share: where things are, checkpoints with random weights, processes that report their figures."""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "target/release/qwen3-vl"
FIXTURE = ROOT / "tests/fixtures/dense_tied"
NANO = ROOT / "assets/nano"
# The table of `qwen3-vl bench --shape`.
SHAPES = json.loads((ROOT / "src/cli/bench/shapes.json").read_text())
# Numbers that are drawn; tensors hold them again and again. It is prime, so that no two rows are alike.
DRAWN = 1_048_583


def copy_processor(folder, source=FIXTURE):
    """Tokenizer, template and picture settings of a checkpoint."""
    names = ("tokenizer", "preprocessor", "video_preprocessor", "chat_template", "vocab", "merges")
    for name in os.listdir(source):
        if name.startswith(names):
            shutil.copy(source / name, folder / name)


def report(figures):
    """The last line of a process that was started by `figures_of`."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**figures, "peak_bytes": peak}))


def figures_of(command):
    """Runs a process, whose last line is a JSON object; its other output goes where ours goes."""
    text = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(text.splitlines()[-1])


def again(script, *arguments, python=sys.executable):
    """The same script in a process of its own, so that its peak memory is its own."""
    return figures_of([python, script, *arguments])


def vision_tensors(vision):
    hidden, inner = vision["hidden_size"], vision["intermediate_size"]
    wide = hidden * vision["spatial_merge_size"] ** 2
    patch = [3, vision["temporal_patch_size"], vision["patch_size"], vision["patch_size"]]

    def linear(name, outputs, inputs):
        return [(f"{name}.weight", [outputs, inputs]), (f"{name}.bias", [outputs])]

    def norm(name, width):
        return [(f"{name}.weight", [width]), (f"{name}.bias", [width])]

    yield "patch_embed.proj.weight", [hidden, *patch]
    yield "patch_embed.proj.bias", [hidden]
    yield "pos_embed.weight", [vision["num_position_embeddings"], hidden]
    for index in range(vision["depth"]):
        block = f"blocks.{index}."
        yield from norm(block + "norm1", hidden) + norm(block + "norm2", hidden)
        yield from linear(block + "attn.qkv", 3 * hidden, hidden) + linear(block + "attn.proj", hidden, hidden)
        yield from linear(block + "mlp.linear_fc1", inner, hidden) + linear(block + "mlp.linear_fc2", hidden, inner)
    levels = range(len(vision["deepstack_visual_indexes"]))
    for merger, width in [("merger", hidden)] + [(f"deepstack_merger_list.{level}", wide) for level in levels]:
        yield from norm(merger + ".norm", width)
        yield from linear(merger + ".linear_fc1", wide, wide)
        yield from linear(merger + ".linear_fc2", vision["out_hidden_size"], wide)


def text_tensors(text):
    hidden, inner, dim = text["hidden_size"], text["intermediate_size"], text["head_dim"]
    queries, keys = text["num_attention_heads"] * dim, text["num_key_value_heads"] * dim
    yield "embed_tokens.weight", [text["vocab_size"], hidden]
    for index in range(text["num_hidden_layers"]):
        layer = f"layers.{index}."
        yield layer + "input_layernorm.weight", [hidden]
        yield layer + "post_attention_layernorm.weight", [hidden]
        for name, outputs in [("q", queries), ("k", keys), ("v", keys)]:
            yield f"{layer}self_attn.{name}_proj.weight", [outputs, hidden]
        yield layer + "self_attn.o_proj.weight", [hidden, queries]
        yield layer + "self_attn.q_norm.weight", [dim]
        yield layer + "self_attn.k_norm.weight", [dim]
        if experts := text.get("num_experts"):
            width = text["moe_intermediate_size"]
            yield layer + "mlp.gate.weight", [experts, hidden]
            yield layer + "mlp.experts.gate_up_proj", [experts, hidden, 2 * width]
            yield layer + "mlp.experts.down_proj", [experts, width, hidden]
        else:
            yield layer + "mlp.gate_proj.weight", [inner, hidden]
            yield layer + "mlp.up_proj.weight", [inner, hidden]
            yield layer + "mlp.down_proj.weight", [hidden, inner]
    yield "norm.weight", [hidden]


def tensors(config):
    """Names and shapes of a published checkpoint."""
    yield from (("model.visual." + name, shape) for name, shape in vision_tensors(config["vision_config"]))
    yield from (("model.language_model." + name, shape) for name, shape in text_tensors(config["text_config"]))
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", [config["text_config"]["vocab_size"], config["text_config"]["hidden_size"]]


def write_checkpoint(folder, shape):
    """A checkpoint of a published shape with random bf16 weights, or nano as it is; written tensor by tensor."""
    if shape == "nano":
        shutil.copytree(NANO, folder, dirs_exist_ok=True)
        return
    import numpy

    copy_processor(folder)
    # Marks have the numbers of the tokenizer.
    marks = json.loads((FIXTURE / "config.json").read_text())
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = {**SHAPES[shape], **{name: marks[name] for name in names}}
    kind = "Qwen3VLMoe" if config["model_type"] == "qwen3_vl_moe" else "Qwen3VL"
    config["architectures"] = [kind + "ForConditionalGeneration"]
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        settings = json.loads((folder / name).read_text())
        settings.update(patch_size=config["vision_config"]["patch_size"])
        if not name.startswith("video"):
            settings.update(size={"shortest_edge": 65536, "longest_edge": 16777216})
        (folder / name).write_text(json.dumps(settings, indent=1))
    values = numpy.random.default_rng(0).normal(0.0, 0.02, DRAWN).astype(numpy.float32)
    drawn = (values.view(numpy.uint32) >> 16).astype(numpy.uint16)
    header, end = {}, 0
    for name, sides in tensors(config):
        size = 2 * int(numpy.prod(sides))
        header[name] = {"dtype": "BF16", "shape": sides, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, entry in header.items():
            begin, end = (offset // 2 for offset in entry["data_offsets"])
            if "norm" in name and name.endswith("weight"):
                # One, in bf16.
                file.write(numpy.full(end - begin, 0x3F80, numpy.uint16).tobytes())
                continue
            start = begin % DRAWN
            while begin < end:
                part = drawn[start:start + end - begin]
                file.write(part.tobytes())
                begin, start = begin + len(part), 0


def stored_tensors(folder):
    """Names and values in f32 of a checkpoint in one file, tensor by tensor."""
    import numpy

    path = folder / "model.safetensors"
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = numpy.memmap(path, numpy.uint8, "r", offset=8 + length)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = numpy.array(data[begin:end])
        if entry["dtype"] == "BF16":
            values = (raw.view(numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)
        else:
            values = raw.view({"F32": numpy.float32, "F16": numpy.float16}[entry["dtype"]]).astype(numpy.float32)
        yield name, values.reshape(entry["shape"])
