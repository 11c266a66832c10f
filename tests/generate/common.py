"""Paths, names and writers that every generator shares."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.dont_write_bytecode = True

import torch
from safetensors.torch import save_file

torch.set_num_threads(1)

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"
MODELS = ("dense_tied", "dense_untied", "moe", "dense_yarn")
CASES = ("image", "two_images", "video", "mixed", "text", "batch_leftpad")

VOCAB = 512
PAD, IM_START, IM_END = 0, 1, 2
VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = 502, 503, 505, 506
NEW_TOKENS = 24


def model_dir(name):
    """Folder of one fixture checkpoint, created when absent."""
    folder = FIXTURES / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path, value, indent=None):
    """UTF-8 JSON with a final newline; keys keep their order."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def write_rows(path, tables):
    """JSON object whose lists stand one row a line: small diffs, still greppable."""
    parts = []
    for key, value in tables.items():
        if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
            rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in value)
            parts.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8", newline="\n")


def write_tensors(path, tensors, **metadata):
    """Safetensors file; at most one metadata key, since the writer does not order them."""
    assert len(metadata) <= 1, "more than one metadata key would make the bytes vary"
    ready = {k: v.detach().contiguous().clone() for k, v in sorted(tensors.items())}
    save_file(ready, str(path), metadata=metadata or None)
    path.chmod(0o644)
