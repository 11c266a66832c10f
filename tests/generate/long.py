"""long.safetensors: logits of transformers after the last tokens of a text of 60,000 tokens."""

import torch
from transformers import AutoModelForImageTextToText

from common import FIXTURES, model_dir, write_tensors

LENGTH, ROWS = 60_000, 4


def ids():
    """No special tokens; the same formula stands in tests/long_context.rs."""
    return [3 + (i * 7919 + i // 97 * 31) % 450 for i in range(LENGTH)]


def main():
    tensors = {}
    for name in ("dense_yarn", "dense_untied"):
        model = AutoModelForImageTextToText.from_pretrained(
            model_dir(name), dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids()]), logits_to_keep=ROWS, use_cache=False)
        tensors[name] = out.logits[0]
        assert tensors[name].shape == (ROWS, 512)
    write_tensors(FIXTURES / "long.safetensors", tensors)


if __name__ == "__main__":
    main()
