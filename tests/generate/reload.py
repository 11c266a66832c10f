"""Load two checkpoint folders with transformers: they must hold and compute the same.

python tests/generate/reload.py EXPORTED ORIGINAL [TOLERANCE]
"""

import sys

import torch

from check import load
from common import VOCAB


def logits(model):
    ids = torch.randint(0, VOCAB - 16, (1, 24), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def main():
    exported, original = load(sys.argv[1]), load(sys.argv[2])
    tolerance = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    found, expected = exported.state_dict(), original.state_dict()
    assert set(found) == set(expected), set(found) ^ set(expected)
    for key, value in expected.items():
        error = ((found[key] - value).abs().max() / value.abs().max()).item()
        assert error <= tolerance, f"{key}: relative error {error}"
    expected = logits(original)
    error = ((logits(exported) - expected).abs().max() / expected.abs().max()).item()
    assert error <= 20 * tolerance, f"logits: relative error {error}"
    print(f"{len(found)} tensors, logits within {error} of the largest")


if __name__ == "__main__":
    main()
