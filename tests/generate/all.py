"""Run every generator, in order: python tests/generate/all.py"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Checkpoints come first: the end-to-end requests load them as a user would.
STEPS = (
    *("references", "tokenizer", "preproc", "golden", "videos", "sampler_tensors"),
    *("images", "templates", "sampling", "e2e", "e2e_videos", "long", "check"),
)


def main():
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    for step in STEPS:
        script = HERE / f"{step}.py"
        if not script.exists():
            print(f"{script.name}: absent, skipped")
            continue
        print(f"{script.name} ...", flush=True)
        subprocess.run([sys.executable, str(script)], check=True, env=environment)


if __name__ == "__main__":
    main()
