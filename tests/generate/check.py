"""Reload everything that is stored and compare it with transformers, and with another folder.

python tests/generate/check.py [--against DIR]   DIR: an earlier set of the same files
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import references
from common import CASES, FIXTURES, MODELS, PAD, model_dir, write_tensors
from prompts import normalise
from tokenizer import template

TOLERANCE = 1e-5
LIMIT = 12_000_000


def load(folder):
    kinds = dict(dtype=torch.float32, attn_implementation="eager")
    return AutoModelForImageTextToText.from_pretrained(folder, **kinds).eval()


def stored(path):
    """Tensors of a reference file, byte pixels normalised."""
    tensors = load_file(str(path))
    pixels = lambda k, v: k.startswith("in.pixel_values") and v.dtype == torch.uint8
    return {k: normalise(v) if pixels(k, v) else v for k, v in tensors.items()}


def inputs_of(tensors):
    return {k[3:]: v for k, v in tensors.items() if k.startswith("in.")}


def live(name, value, mask):
    """Drop the rows of padding, which hold nothing of meaning."""
    if name == "logits" or name.startswith(("text.layer", "text.attn", "text.final")):
        return value[mask]
    return value[mask.flatten()] if name.startswith("text.router") else value


def distance(name, a, b, mask):
    """Exact for integers, else the largest difference relative to the largest value."""
    assert a.shape == b.shape, f"{name}: shapes {tuple(a.shape)} and {tuple(b.shape)}"
    a, b = live(name, a, mask), live(name, b, mask)
    if not a.is_floating_point():
        assert torch.equal(a, b), f"{name}: integers differ"
        return 0.0
    error = ((a - b).abs().max() / b.abs().max()).item()
    assert error < TOLERANCE, f"{name}: relative error {error}"
    return error


def compare(found, expected):
    """Largest distance over the tensors of `expected` that `found` holds too."""
    mask = expected["in.attention_mask"].bool()
    return max(distance(k, found[k], v, mask) for k, v in expected.items() if k in found)


def check_case(model, name, case):
    """Recompute one file from its own inputs."""
    expected = stored(model_dir(name) / f"ref_{case}.safetensors")
    inputs = inputs_of(expected)
    ids, logits, _ = references.greedy(model, inputs)
    position_ids, deltas = references.positions(model, inputs)
    found = references.forward(model, inputs) | {"position_ids": position_ids}
    found |= {"rope_deltas": deltas, "greedy_ids": ids, "greedy_logits": logits[:, :1]}
    missing = [k for k in expected if k not in found and not k.startswith("in.")]
    assert not missing, f"{name}/{case}: nothing computes {missing}"
    return compare(found, expected)


def published(name, folder):
    """The checkpoint as a published file: version-4 config, experts as [E,H,2I] and [E,I,H]."""
    source = model_dir(name)
    shutil.copy(source / "config_v4.json", folder / "config.json")
    turn = lambda k, v: v.transpose(1, 2) if ".mlp.experts." in k else v
    weights = load_file(str(source / "model.safetensors"))
    path = folder / "model.safetensors"
    write_tensors(path, {k: turn(k, v) for k, v in weights.items()}, format="pt")
    model = load(folder)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, PAD
    return model


def check_model(name):
    copied = (model_dir(name) / "chat_template.jinja").read_bytes()
    assert copied == template(name).read_bytes(), f"{name}: run tokenizer.py, the template changed"
    processor = AutoProcessor.from_pretrained(model_dir(name))
    assert type(processor).__name__ == "Qwen3VLProcessor"
    model = load(model_dir(name))
    worst = max(check_case(model, name, case) for case in CASES)
    with tempfile.TemporaryDirectory() as folder:
        old = published(name, Path(folder))
        worst_old = max(check_case(old, name, case) for case in CASES)
    print(f"{name}: relative error {worst:.1e}, as a published file {worst_old:.1e}")


def check_against(other):
    """Every file that both folders hold says the same."""
    for path in sorted(FIXTURES.rglob("*.safetensors")):
        twin = other / path.relative_to(FIXTURES)
        if not twin.exists():
            continue
        ours, theirs = stored(path), load_file(str(twin))
        if "greedy_logits" in ours:
            theirs["greedy_logits"] = theirs["greedy_logits"][:, :1]
        if "in.attention_mask" not in ours:
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(v, theirs[k]) for k, v in ours.items()), path.name
            print(f"{path.relative_to(FIXTURES)}: equal")
            continue
        print(f"{path.relative_to(FIXTURES)}: relative error {compare(theirs, ours):.1e}")
    check_tables(other / "golden.json")


def check_tables(twin):
    if not twin.exists():
        return
    ours = json.loads((FIXTURES / "golden.json").read_text(encoding="utf-8"))
    theirs = json.loads(twin.read_text(encoding="utf-8"))
    unequal = [k for k, v in theirs.items() if ours.get(k) != v]
    assert not unequal, f"golden.json: {unequal} differ"
    print(f"golden.json: {len(theirs)} tables equal, new: {sorted(ours.keys() - theirs.keys())}")


def check_sizes():
    sizes = {p: p.lstat().st_size for p in FIXTURES.rglob("*") if p.is_file()}
    for folder in sorted({p.parent for p in sizes}):
        total = sum(size for p, size in sizes.items() if p.parent == folder)
        print(f"{total:>10} {folder.relative_to(FIXTURES)}")
    print(f"{sum(sizes.values()):>10} bytes in all")
    assert sum(sizes.values()) <= LIMIT, f"fixtures exceed {LIMIT} bytes"


def main(arguments):
    for name in MODELS:
        check_model(name)
    if "--against" in arguments:
        check_against(Path(arguments[arguments.index("--against") + 1]))
    check_sizes()


if __name__ == "__main__":
    main(sys.argv[1:])
