#!/usr/bin/env python3
"""Inference here and elsewhere: the same random weights, in turn on the same machine.

    cargo build --release
    python3 benches/compare/inference.py [--shape 2b|nano|..] [--rounds 3] [--precision bf16,int8,4-bit] [--peers ..]

Writes one checkpoint with random weights (2b: 4.3 GB; for llama.cpp and OpenVINO, as much again in their formats) and lets
each peer that can be imported, and ours, read a text prompt (`--prompt`), write tokens behind it, look at a picture of 1280 x
960 pixels (`--image`) with a question, and preprocess pictures of 1300 x 970 and 4032 x 3024. Every measurement is a process of
its own; a round is one of each, and the median of the rounds counts. Prints all figures, how many times as fast ours is (of
memory, how many times as much it takes), what is aimed at, and which share ours reached of what the machine can do: of reading
memory for writing, of multiplying matrices for prompts and the vision tower. That is measured once, in a process of its own.
What cannot be measured is named. `--shape nano` takes seconds: it tries the script, and its figures mean nothing. The script
itself wants numpy. Peers are taken from the environment that it runs in, as far as they are wanted; with `--install FOLDER` each
has one of its own there, which pip fills before the first run with what INSTALLED says (llama.cpp and ik_llama.cpp are built, for
this processor, which needs cmake and a compiler and takes a quarter of an hour). What ends before its time is named too: as GCC 12
builds it, llama.cpp crashes on processors with AMX, for want of `__asm__ volatile("" ::: "memory");` behind `_tile_loadconfig`.

Rounded weights are written once for each program (ours: `quantize`), the tables of tokens in eight bits, as llama.cpp's Q8_0 has
them. OpenVINO rounds the vision tower too and takes its picture by the chat template; llama.cpp has the text rows only. All rows
are on the CPU with one thread per core, or as many as `--threads` says.

With `--device cuda` (a build with the feature `cuda`; torch with CUDA; transformers alone, not compiled, without graphs) every
measurement is the median of three in one process behind a first one, in which kernels are compiled (ours: of all four), and there
is no row of memory, which is the card's. Only what is there is used: `--program PATH` names a program that was built elsewhere.
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

SMALL, LARGE = (1300, 970), (4032, 3024)
TOKENS, FIRST = 32, 16
# Name, unit, whether more is better.
ROWS = [("decode", "tokens/s", True), ("prefill", "tokens/s", True), ("vision tower", "ms", False),
        ("picture and question, first token", "ms", False), ("preprocess 1300x970", "ms", False),
        ("preprocess 4032x3024", "ms", False), ("peak memory", "GiB", False), ("load to first text token", "s", False)]
# What the ratio to the best peer of a row should be on a processor, and for writing the share of the speed of reading memory.
AIMS = {"decode": {"4-bit": "1.25", "int8": "1.05, 95 % of reading", "bf16": "1.02, 95 % of reading"}, "prefill": "1.5",
        "vision tower": "2", "picture and question, first token": "2", "preprocess 1300x970": "2", "preprocess 4032x3024": "2",
        "peak memory": "at most 1.05", "load to first text token": "1"}


def aim(row, precision):
    aims = AIMS.get(row, "")
    return aims.get(precision, "") if isinstance(aims, dict) else aims


# What bounds ours in a row, and what that is called.
LIMITS = {"decode": ("read_bytes_per_s", "reading memory"), "prefill": ("matmul_flop_per_s", "multiplying"),
          "vision tower": ("matmul_flop_per_s", "multiplying")}
# Times that a call is measured on a card, behind one that is not.
ON_CARD = 3
# What each peer calls our precisions.
PEERS = {
    "transformers": {"modules": ["torch", "transformers"], "precisions": {"f32": "f32", "bf16": "bf16"}},
    "llama.cpp": {"modules": ["llama_cpp", "gguf"], "precisions": {"bf16": "BF16", "int8": "Q8_0", "4-bit": "Q4_0"}},
    "llama.cpp Q4_K_M": {"modules": ["llama_cpp", "gguf"], "precisions": {"4-bit": "Q4_K_M"}},
    "ik_llama.cpp": {"modules": ["ik_llama_cpp", "gguf"], "precisions": {"bf16": "BF16", "int8": "Q8_0", "4-bit": "Q4_0"}},
    "ik_llama.cpp Q4_K_M": {"modules": ["ik_llama_cpp", "gguf"], "precisions": {"4-bit": "Q4_K_M"}},
    "openvino": {"modules": ["openvino_genai", "optimum.intel"], "precisions": {"int8": "int8", "4-bit": "int4"}},
}
OURS = {"int8": "int8", "4-bit": "int4"}
# What pip installs for each peer, in an environment of its own: their versions of transformers differ.
INSTALLED = {
    "transformers": ["torch==2.15.0", "torchvision", "transformers==5.24.0"],
    "llama.cpp": ["numpy", "gguf", "llama-cpp-python==0.3.36"],
    "ik_llama.cpp": ["numpy", "gguf", "ik-llama-cpp-python==0.1.5"],
    "openvino": ["torch==2.15.0", "torchvision", "transformers>=4.57,<5", "openvino-genai==2026.4.1", "optimum-intel", "nncf"],
}


def python_of(name, args):
    """The interpreter that runs a peer: this one, or with `--install` that of its own environment, which is made."""
    if args.install is None:
        return sys.executable
    name = name.split()[0]
    home = args.install / name
    python, ready = home / "bin/python", home / "installed"
    if not ready.exists():
        print(f"installing {name} into {home}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        native = {**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=ON"}
        subprocess.run([str(python), "-m", "pip", "install", "-q", *INSTALLED[name]], check=True, env=native, stdout=sys.stderr)
        ready.touch()
    return str(python)


def in_memory(path):
    """Reads a file, or those of a folder, so that loading them is not reading the disk, whatever ran before."""
    for file in [path] if path.is_file() else (file for file in path.iterdir() if file.is_file()):
        with file.open("rb") as data:
            while data.read(1 << 24):
                pass


def clock(call):
    """Seconds of a call, and what it returned."""
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def noise(size):
    import numpy

    return numpy.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)


def own_checkpoint(args, precision):
    """Folder and dtype of the weights in our format."""
    if precision not in OURS:
        return args.folder, precision
    folder = args.folder / f"ours-{precision}"
    if not folder.exists():
        command = [args.program, "quantize", args.folder, "-o", folder, "--quant", OURS[precision], "--include", "embed_tokens"]
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    return folder, "bf16"  # what is not rounded is computed as the others do, who round activations too


def ours(args, precision):
    folder, dtype = own_checkpoint(args, precision)

    def bench(*more, probe=("--read", "1MB", "--square", "64")):
        command = [args.program, "bench", "--shape", folder, "--dtype", dtype, "-o", "json", "--device", args.device,
                   "--threads", args.threads, *probe, *more]
        return common.figures_of(command)

    if not args.machine:
        # Alone, with the sizes that `bench` takes by itself: what it needs of memory and time is no peer's.
        args.machine.update(bench("--only", "picture", "--image", "64x64", "-r", "1", probe=())["machine"])
    size = "x".join(map(str, args.image))
    rounds = ["-r", "1" if args.device == "cpu" else 1 + ON_CARD]
    prompt = ["-p", args.prompt, "-n", TOKENS, *rounds]
    # Text has a process of its own, because llama.cpp's peak memory is without a picture.
    in_memory(folder)
    text = bench("--only", "text", *prompt)
    seen = bench("--only", "question", "--image", size, *rounds)
    figures = {
        "decode": text["decode"]["tokens_per_s"],
        "prefill": text["prefill"]["tokens_per_s"],
        "vision tower": seen["vision"]["ms"],
        "picture and question, first token": seen["question"]["first_token_ms"],
        "peak memory": peak(args, text["memory"]),
        "load to first text token": text["load"]["first_text_token_s"],
    }
    # Pictures are preprocessed alike whatever the weights are.
    for width, height in (SMALL, LARGE) if precision == args.precision.split(",")[0] else ():
        size = f"{width}x{height}"
        figures[f"preprocess {size}"] = bench("--only", "picture", "--image", size, "-r", "5")["preprocess"]["ms"]
    reached = {"decode": text["decode"]["bytes_per_s"], "prefill": text["prefill"]["flop_per_s"],
               "vision tower": seen["vision"]["flop_per_s"]}
    for row, value in reached.items():
        if limit := args.machine[LIMITS[row][0]]:
            args.shares.setdefault((row, precision), []).append(value / limit)
    return figures


def peak(args, figures):
    """Peak memory in GiB; nothing where the weights are on a card, because it is that of the process."""
    return figures["peak_bytes"] / 2**30 if args.device == "cpu" else None


def transformers(args, precision):
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageTextToText

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    in_memory(args.folder)
    start = time.perf_counter()
    model = AutoModelForImageTextToText.from_pretrained(args.folder, dtype=dtype, attn_implementation=args.attn).eval()
    model = model.to(args.device)
    config = model.config
    words = [id for id in range(config.text_config.vocab_size) if id not in (config.image_token_id, config.video_token_id)]

    def timed(call):
        """Seconds of a call, and what it returned; on a card, whose work is waited for, of the median of several."""
        if args.device == "cpu":
            return clock(call)

        def whole():
            value = call()
            torch.cuda.synchronize()
            return value

        whole()
        times, value = [], None
        for _ in range(ON_CARD):
            value = None  # its memory is free for the next
            seconds, value = clock(whole)
            times.append(seconds)
        return statistics.median(times), value

    def ask(ids, **more):
        ids = torch.tensor([ids], device=args.device)
        kinds = (ids == config.image_token_id).long()
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds, logits_to_keep=1, **more)

    ask(words[:FIRST]).logits.cpu()
    figures = {"load to first text token": time.perf_counter() - start}
    seconds, out = timed(lambda: ask(words[:args.prompt]))
    figures["prefill"] = args.prompt / seconds
    cache = out.past_key_values

    def write():
        if written := cache.get_seq_length() - args.prompt:
            cache.crop(-written)
        for id in words[:TOKENS]:
            past = cache.get_seq_length()
            ids, mask = torch.tensor([[id]]), torch.ones(1, past + 1, dtype=torch.long)
            model(input_ids=ids.to(args.device), attention_mask=mask.to(args.device), past_key_values=cache, logits_to_keep=1)

    figures["decode"] = TOKENS / timed(write)[0]
    processor = AutoImageProcessor.from_pretrained(args.folder)

    def preprocess(size):
        pixels = torch.from_numpy(noise(size)).permute(2, 0, 1).contiguous()
        return lambda: processor(images=[pixels], return_tensors="pt")

    for size in (SMALL, LARGE):
        call = preprocess(size)
        times = [clock(call)[0] for _ in range(5)]
        figures[f"preprocess {size[0]}x{size[1]}"] = 1e3 * statistics.median(times)
    seconds, patches = clock(preprocess(args.image))
    pixels, grid = patches["pixel_values"].to(args.device, dtype), patches["image_grid_thw"].to(args.device)
    figures["vision tower"] = 1e3 * timed(lambda: model.model.visual(pixels, grid_thw=grid))[0]
    tokens = int(grid.prod()) // config.vision_config.spatial_merge_size**2
    marks = [[config.vision_start_token_id], [config.vision_end_token_id]]
    question = words[:14] + marks[0] + [config.image_token_id] * tokens + marks[1] + words[:12]
    both, _ = timed(lambda: ask(question, pixel_values=pixels, image_grid_thw=grid))
    figures["picture and question, first token"] = 1e3 * (seconds + both)
    return figures


def llama_cpp(args, precision):
    import llama_cpp

    path = gguf_file(args.folder, precision)
    in_memory(pathlib.Path(path))
    start = time.perf_counter()
    model = llama_cpp.Llama(str(path), n_ctx=max(4096, args.prompt + TOKENS + 1), n_batch=2048, n_ubatch=512, n_threads=args.threads,
                            n_threads_batch=args.threads, verbose=False)
    model.eval(list(range(FIRST)))
    figures = {"load to first text token": time.perf_counter() - start}
    model.reset()
    figures["prefill"] = args.prompt / clock(lambda: model.eval(list(range(args.prompt))))[0]

    def write():
        for id in range(TOKENS):
            model.eval([id])

    figures["decode"] = TOKENS / clock(write)[0]
    return figures


def ik_llama_cpp(args, precision):
    from ik_llama_cpp import _ctypes_api as api
    from ik_llama_cpp import _internals as parts
    from ik_llama_cpp.llama import _cpu_has_avx_vnni

    path = gguf_file(args.folder, precision)
    in_memory(pathlib.Path(path))
    start = time.perf_counter()
    model = parts.IkModel(str(path))
    # As the package itself chooses: its fused attention fails without these instructions.
    context = parts.IkContext(model, n_ctx=max(4096, args.prompt + TOKENS + 1), n_threads=args.threads, flash_attn=_cpu_has_avx_vnni())

    def run(ids, past):
        for first in range(0, len(ids), context._n_ubatch):
            part = ids[first:first + context._n_ubatch]
            batch = parts.make_batch_range(part, pos_start=past + first, logits_last=True)
            if context.decode(batch) != 0:
                sys.exit("ik_llama.cpp could not compute a batch")
            api.llama_batch_free(batch)
        # Waits for it.
        context.get_logits(-1)

    run(list(range(FIRST)), 0)
    figures = {"load to first text token": time.perf_counter() - start}
    context.kv_cache_clear()
    figures["prefill"] = args.prompt / clock(lambda: run(list(range(args.prompt)), 0))[0]

    def write():
        for id in range(TOKENS):
            run([id], args.prompt + id)

    figures["decode"] = TOKENS / clock(write)[0]
    return figures


def gguf_file(folder, precision):
    """The checkpoint for llama.cpp, which is written once: by its Python package, or what this lacks by llama.cpp itself."""
    path = folder / f"{precision}.gguf"
    if path.exists():
        return path
    if precision != "Q4_K_M":
        write_gguf(folder, path, precision)
        return path
    whole = gguf_file(folder, "BF16")
    try:
        import llama_cpp
    except ModuleNotFoundError:
        program = pathlib.Path(sys.executable).with_name("ik-llama-quantize")
        subprocess.run([str(part) for part in (program, whole, path, precision)], check=True, stdout=sys.stderr)
        return path
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    if llama_cpp.llama_model_quantize(str(whole).encode(), str(path).encode(), settings) != 0:
        sys.exit(f"llama.cpp could not write {path}")
    return path


def write_gguf(folder, path, precision):
    """The language model of a checkpoint as llama.cpp reads it, without words for its numbers."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    text, levels = config["text_config"], config["vision_config"]["deepstack_visual_indexes"]
    if "num_experts" in text:
        sys.exit("experts are not written for llama.cpp")
    writer = gguf.GGUFWriter(path, "qwen3vl", use_temp_file=True)
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(text["head_dim"])
    writer.add_value_length(text["head_dim"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text["rope_theta"])
    writer.add_rope_dimension_sections([*text["rope_scaling"]["mrope_section"], 0])
    writer.add_num_deepstack_layers(len(levels))
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(text["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3VL, text["num_hidden_layers"])
    kinds = gguf.GGMLQuantizationType
    for name, values in common.stored_tensors(folder):
        if name.startswith("model.visual."):
            continue
        # llama.cpp's own recipe keeps the table of a 4-bit model in more bits, too.
        table = "embed_tokens" in name or name.startswith("lm_head")
        kind = kinds.Q8_0 if precision == "Q4_0" and table else kinds[precision]
        kind = kinds.F32 if values.ndim < 2 else kind
        data = values if kind == kinds.F32 else gguf.quants.quantize(values, kind)
        name = names.get_name(name.replace("model.language_model.", "model."), (".weight",))
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def openvino(args, precision):
    import openvino_genai
    from openvino import Tensor

    folder = args.folder / f"openvino-{precision}"
    if not folder.exists():
        program = pathlib.Path(sys.executable).with_name("optimum-cli")
        command = [program, "export", "openvino", "-m", args.folder, "--task", "image-text-to-text",
                   "--weight-format", precision, folder]
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)

    def ask(text, tokens, **more):
        settings = openvino_genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
        return pipe.generate(text, generation_config=settings, **more).perf_metrics

    in_memory(folder)
    start = time.perf_counter()
    pipe = openvino_genai.VLMPipeline(str(folder), "CPU", INFERENCE_NUM_THREADS=args.threads)
    # Other digits, because what two prompts begin with alike is kept.
    ask("3" * FIRST, 1)
    figures = {"load to first text token": time.perf_counter() - start}
    text = ask("7" * args.prompt, TOKENS)
    figures["prefill"] = 1e3 * text.get_num_input_tokens() / text.get_ttft().mean
    figures["decode"] = 1e3 / text.get_tpot().mean
    question = ask("5" * 26, 1, images=[Tensor(noise(args.image)[None])])
    figures["picture and question, first token"] = question.get_ttft().mean
    figures["vision tower"] = question.get_prepare_embeddings_duration().mean
    return figures


def present(name, args):
    if args.device != "cpu" and name != "transformers":
        return False
    look = "import importlib.util, sys; sys.exit(not all(importlib.util.find_spec(m) for m in sys.argv[1:]))"
    command = [python_of(name, args), "-c", look, *PEERS[name]["modules"]]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def measure(args):
    """Figures by precision, then row, then program, one per round."""
    run = {"transformers": transformers, "llama.cpp": llama_cpp, "ik_llama.cpp": ik_llama_cpp, "openvino": openvino}
    if args.peer:
        name, precision = args.peer
        return common.report(run[name.split()[0]](args, PEERS[name]["precisions"][precision]))
    peers = [name for name in args.peers.split(",") if name and present(name, args)]
    for name in PEERS:
        if name not in peers and args.device == "cpu":
            print(f"not measured: {name}, which needs the modules {', '.join(PEERS[name]['modules'])}")
    found = {}
    for number in range(args.rounds):
        print(f"round {number + 1}, load {os.getloadavg()[0]:.1f}", flush=True)
        for precision in args.precision.split(","):
            rows = found.setdefault(precision, {})
            figures = {"ours": ours(args, precision)}
            for name in (name for name in peers if precision in PEERS[name]["precisions"]):
                same = ["--shape", args.shape, "--folder", args.folder, "--threads", args.threads, "--device", args.device,
                        "--attn", args.attn, "--prompt", args.prompt, "--image", "x".join(map(str, args.image))]
                try:
                    result = common.again(__file__, *same, "--peer", name, precision, python=python_of(name, args))
                except subprocess.CalledProcessError as error:
                    # One that ends, by a signal say, is told of, and the others go on.
                    print(f"not measured: {name} in {precision}, which ended with {error.returncode}", flush=True)
                    continue
                figures[name] = {**result, "peak memory": peak(args, result)}
                del figures[name]["peak_bytes"]
            for name, values in figures.items():
                for row, value in values.items():
                    if value is None:
                        continue
                    rows.setdefault(row, {}).setdefault(name, []).append(value)
    print(f"at the end, load {os.getloadavg()[0]:.1f}\n")
    machine = {name: args.machine.get(name) for name, _ in LIMITS.values()}
    said = [f"{label} {machine[name] / 1e9:.1f} G{'B' if 'bytes' in name else 'FLOP'}/s"
            for name, label in dict(LIMITS.values()).items() if machine[name]]
    print(f"machine: {', '.join(said)} ({args.machine.get('matmul_kernel')})\n")
    return show(found, args.shares)


def show(found, shares):
    print("| row | ours | of the machine | peer | ours : peer | aim |\n|---|---|---|---|---|---|")
    for precision, rows in found.items():
        for row, unit, more in ROWS:
            values = {name: statistics.median(all) for name, all in rows.get(row, {}).items()}
            mine = values.pop("ours", None)
            if mine is None:
                continue
            part = shares.get((row, precision))
            part = f"{100 * statistics.median(part):.0f} % of {LIMITS[row][1]}" if part else ""
            best = (max if more else min)(values.values(), default=None)
            for name, value in values.items():
                name = f"{name}, the best," if value == best and len(values) > 1 else name
                if row == "peak memory":
                    ratio = f"{mine / value:.2f} times as much"
                else:
                    ratio = f"{mine / value if more else value / mine:.2f} times as fast"
                print(f"| {row}, {precision} | {mine:.4g} {unit} | {part} | {name} {value:.4g} {unit} | {ratio} | {aim(row, precision)} |")
            if not values:
                print(f"| {row}, {precision} | {mine:.4g} {unit} | {part} | not measured | | {aim(row, precision)} |")


def size(text):
    """`1280x960` as two numbers."""
    width, height = map(int, text.split("x"))
    if not (1 <= width <= 8192 and 1 <= height <= 8192):
        raise ValueError(text)
    return width, height


def count(text):
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="2b", choices=[*common.SHAPES, "nano"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="bf16,int8,4-bit", help="of f32, bf16, int8 and 4-bit")
    parser.add_argument("--peers", default=",".join(PEERS), help="those to be measured, or nothing")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--attn", default="sdpa", choices=["sdpa", "eager"], help="attention of transformers")
    parser.add_argument("--prompt", type=count, default=512, metavar="N", help="tokens of the text prompt (512)")
    parser.add_argument("--image", type=size, default=(1280, 960), metavar="WxH", help="of the question's picture (1280x960)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=pathlib.Path, help="keeps the checkpoints here, and takes them from there")
    parser.add_argument("--program", default=common.PROGRAM)
    parser.add_argument("--install", type=pathlib.Path, metavar="FOLDER", help="installs the peers there, each by itself")
    parser.add_argument("--peer", nargs=2, metavar=("NAME", "PRECISION"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = [name for name in args.peers.split(",") if name and name not in PEERS]
    if unknown:
        parser.error(f"{unknown[0]} is no peer; there are {', '.join(PEERS)}")
    # What the machine reached, and ours of it.
    args.machine, args.shares = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        args.folder = args.folder or pathlib.Path(folder)
        args.folder.mkdir(parents=True, exist_ok=True)
        if not (args.folder / "model.safetensors").exists():
            common.write_checkpoint(args.folder, args.shape)
        measure(args)


if __name__ == "__main__":
    main()
