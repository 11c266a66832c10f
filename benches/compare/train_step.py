#!/usr/bin/env python3
"""One training step of a small Qwen3-VL, here and in transformers on torch, in turn on the same machine.

    cargo build --release
    python3 benches/compare/train_step.py [--rounds 3] [--steps 6] [--torch f32,autocast,bf16] [--compute f32,bf16]

54 million parameters (text: 512 wide, 8 layers, 8 heads over 4 of keys; vision: 384 wide, 6 layers; vocabulary 8,192), all of
them trained; 4 samples of 130 tokens, of which 64 are a picture of 256 x 256 pixels. A step is forward, backward, clipping
and AdamW in f32; ours is that of `qwen3-vl train run`, reading and decoding its rows included. torch gets its tensors ready
made. Prints milliseconds (the median of all steps but the first two of each round), peak memory of the process, and ratios.
Needs torch, transformers, pillow and numpy.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import common

TOKENS, SAMPLES, WARM = 130, 4, 2


def model_config():
    config = json.loads((common.FIXTURE / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    text.update(hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
                num_key_value_heads=4, head_dim=64, vocab_size=8192)
    text["rope_parameters"]["mrope_section"] = [12, 10, 10]
    vision.update(hidden_size=384, intermediate_size=1536, depth=6, num_heads=6, out_hidden_size=512,
                  num_position_embeddings=2304, deepstack_visual_indexes=[1, 3, 5])
    return config


def make_run(folder, compute, steps, program):
    """A folder with model, data and configuration of a run; returns the configuration and its targets per step."""
    from PIL import Image
    import numpy

    model = folder / "model"
    model.mkdir()
    common.copy_processor(model)
    (model / "config.json").write_text(json.dumps(model_config()))
    noise = numpy.random.default_rng(0)
    for index in range(SAMPLES):
        pixels = noise.integers(0, 256, (256, 256, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png", compress_level=1)

    def write(digits):
        rows = [{"image": f"{index}.png", "conversations": [
            {"from": "human", "value": "<image>Q"}, {"from": "gpt", "value": "7" * digits}]} for index in range(SAMPLES)]
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    config = folder / "run.toml"
    extra = f', compute = "{compute}"' if compute != "f32" else ""
    config.write_text(
        f'model = "model"\noutput = "out"\ninit = "random"\nsteps = {steps}\ndata = [{{ path = "data.jsonl" }}]\n'
        f'lr = {{ base = 1e-4, schedule = "constant" }}\ntrain = {{ vision = true }}\n'
        f'batch = {{ tokens = {TOKENS * SAMPLES} }}\nmemory = {{ recompute = "none"{extra} }}\n')
    digits = 20
    for _ in range(4):
        write(digits)
        report = json.loads(subprocess.run([program, "train", "check", config, "--json"], check=True,
                                           capture_output=True, text=True).stdout)
        if report["tokens"]["most"] == TOKENS:
            return config, report["targets"]["sum"]
        digits += TOKENS - report["tokens"]["most"]
    sys.exit(f"no text makes {TOKENS} tokens")


def ours(compute, steps, program):
    with tempfile.TemporaryDirectory() as name:
        config, targets = make_run(pathlib.Path(name), compute, steps, program)
        subprocess.run([program, "train", "run", "-q", "--device", "flex", config], check=True)
        lines = (pathlib.Path(name) / "out/log.jsonl").read_text().splitlines()
        reports = [json.loads(line) for line in lines]
        assert all(report["tokens"] == TOKENS * SAMPLES for report in reports)
        return {"seconds": [report["seconds"] for report in reports], "peak_bytes": reports[-1]["peak_bytes"],
                "targets": targets}


def peer(precision, steps, targets):
    """Runs in a process of its own, so that its peak memory is its own."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    config = Qwen3VLConfig(**model_config())
    config._attn_implementation = "sdpa"
    model = Qwen3VLForConditionalGeneration(config)
    if precision == "bf16":
        model = model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    image = [config.vision_start_token_id] + [config.image_token_id] * 64 + [config.vision_end_token_id]
    text = torch.randint(10, 500, (SAMPLES, TOKENS - len(image)))
    ids = torch.cat([torch.tensor([image] * SAMPLES), text], 1)
    labels = ids.clone()
    labels[:, : TOKENS - targets // SAMPLES] = -100
    batch = dict(
        input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels,
        pixel_values=torch.randn(SAMPLES * 256, 1536, dtype=model.dtype),
        image_grid_thw=torch.tensor([[1, 16, 16]] * SAMPLES),
        mm_token_type_ids=(ids == config.image_token_id).long())
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    common.report({"seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--torch", default="f32,autocast,bf16", help="precisions of torch, or nothing")
    parser.add_argument("--compute", default="f32", help="memory.compute of ours")
    parser.add_argument("--program", default=common.PROGRAM)
    parser.add_argument("--peer", nargs=2, metavar=("PRECISION", "TARGETS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = args.steps + WARM
    if args.peer:
        return peer(args.peer[0], steps, int(args.peer[1]))
    found = {}
    for round in range(args.rounds):
        print(f"round {round + 1}, load {os.getloadavg()[0]:.1f}", flush=True)
        for compute in args.compute.split(","):
            result = ours(compute, steps, args.program)
            targets = result["targets"]
            found.setdefault(f"ours, {compute}", []).append(result)
        for precision in filter(None, args.torch.split(",")):
            result = common.again(__file__, "--steps", args.steps, "--peer", precision, targets)
            found.setdefault(f"torch, {precision}", []).append(result)
    medians = {}
    for name, results in found.items():
        seconds = [second for result in results for second in result["seconds"][WARM:]]
        medians[name] = statistics.median(seconds)
        spread = f"{1000 * min(seconds):.0f} to {1000 * max(seconds):.0f}"
        peak = max(result["peak_bytes"] for result in results) / 2**30
        print(f"{name:16} {1000 * medians[name]:7.0f} ms ({spread}), {peak:.2f} GiB")
    for name in medians:
        for other in medians:
            if name.startswith("ours") and other.startswith("torch"):
                print(f"{name} : {other} = {medians[name] / medians[other]:.2f}")


if __name__ == "__main__":
    main()
