"""Averages checkpoints of one model: a run that goes on from another learns what that lacked and loses some of what it had; between
the two lies a model that has both (Wortsman et al. 2022, "Model soups").

    pip install torch safetensors
    python examples/nano/average.py nano-average nano-further-3=2 nano-further-4=1

Writes the first folder anew, with everything but the weights from the second. Sums are in float32; dtypes stay.
"""

import pathlib
import shutil
import sys

from safetensors.torch import load_file, save_file


def main():
    if len(sys.argv) < 3 or any("=" not in part for part in sys.argv[2:]):
        sys.exit(__doc__)
    parts = [part.rsplit("=", 1) for part in sys.argv[2:]]
    total = sum(float(share) for _, share in parts)
    out, first = pathlib.Path(sys.argv[1]), load_file(f"{parts[0][0]}/model.safetensors")
    sums = {name: 0.0 for name in first}
    for folder, share in parts:
        for name, value in load_file(f"{folder}/model.safetensors").items():
            sums[name] += value.float() * (float(share) / total)
    shutil.copytree(parts[0][0], out)
    weights = {name: value.to(first[name].dtype) for name, value in sums.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


main()
