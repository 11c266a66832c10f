"""Load two checkpoint folders with transformers: they must hold and compute the same.

python tests/generate/reload.py EXPORTED ORIGINAL [TOLERANCE]
"""

import sys
from pathlib import Path

import torch

from check import inputs_of, load, stored
from common import VOCAB


def text():
    ids = torch.randint(0, VOCAB - 16, (1, 24), generator=torch.Generator().manual_seed(5))
    return {"input_ids": ids}


def pictures(folder):
    """The prompt with two pictures that is stored beside the original."""
    return inputs_of(stored(Path(folder) / "ref_two_images.safetensors"))


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


def main():
    exported, original = load(sys.argv[1]), load(sys.argv[2])
    tolerance = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    found, expected = exported.state_dict(), original.state_dict()
    assert set(found) == set(expected), set(found) ^ set(expected)
    for key, value in expected.items():
        error = ((found[key] - value).abs().max() / value.abs().max()).item()
        assert error <= tolerance, f"{key}: relative error {error}"
    for name, inputs in [("text", text()), ("pictures", pictures(sys.argv[2]))]:
        expected = logits(original, inputs)
        error = ((logits(exported, inputs) - expected).abs().max() / expected.abs().max()).item()
        assert error <= 20 * tolerance, f"logits of {name}: relative error {error}"
        print(f"{len(found)} tensors, logits of {name} within {error} of the largest")


if __name__ == "__main__":
    main()
