#!/usr/bin/env python3
"""What a card's memory and tensor cores allow, kernel by kernel: no measurement, but a count of bytes and operations.

    python3 benches/roofline.py                                        # an H200, 2B and 8B
    python3 benches/roofline.py --bandwidth 1.0 --flops 165 --shape 8b # TB/s and TFLOP/s of another card
    python3 benches/roofline.py --kernels                              # every kernel of every row

Bytes are what must cross the card's memory once: weights, keys and values, and the activations that enter and leave a
kernel. Operations are those of products and attention, causal attention over the pairs that it sees. A row's time is the
sum over its kernels of the longer of the two; the aims are those of the project (8B and 2B, batch of one).
"""
import argparse

TEXT = {  # hidden, intermediate, layers, heads, kv heads, head size, vocabulary
    "2b": (2048, 6144, 28, 16, 8, 128, 151936),
    "4b": (2560, 9728, 36, 32, 8, 128, 151936),
    "8b": (4096, 12288, 36, 32, 8, 128, 151936),
}
VISION = {  # hidden, intermediate, layers, heads, mergers (with those of DeepStack)
    "2b": (1024, 4096, 24, 16, 4),
    "4b": (1024, 4096, 24, 16, 4),
    "8b": (1152, 4304, 27, 16, 4),
}
BF16 = 2
# A weight of int4 in groups of 32 with a scale in bf16.
INT4 = 0.5 + BF16 / 32


def text(shape, rows, past, weight=BF16):
    """Kernels of `rows` new tokens behind `past`, up to the logits of the last one: name, launches, bytes, operations."""
    hidden, inner, layers, heads, kv, size, vocabulary = TEXT[shape]
    pairs = rows * past + rows * (rows + 1) / 2
    qkv, inputs = (heads + 2 * kv) * size, rows * hidden * BF16

    def product(name, columns, depth, launches, count=layers, weight=weight):
        bytes = columns * depth * weight + rows * (columns + depth) * BF16
        return name, count * launches, count * bytes, count * 2 * rows * columns * depth

    return [
        ("embedding", 1, 2 * inputs, 0),
        ("RMSNorm of the first layer and behind all", 2, 2 * 2 * inputs, 0),
        ("residual sum and RMSNorm", 2 * layers - 1, (2 * layers - 1) * 4 * inputs, 0),
        product("q, k, v", qkv, hidden, 3),
        ("norm and rotary of q and k, cache", (1 if rows == 1 else 2) * layers,
         layers * 2 * rows * (heads + 2 * kv) * size * BF16, 0),
        ("attention", (2 if rows == 1 else 1) * layers,
         layers * (2 * (past + rows) * kv * size + 2 * rows * heads * size) * BF16, layers * 4 * pairs * heads * size),
        product("o", hidden, heads * size, 1),
        product("gate, up", 2 * inner, hidden, 2),
        ("SwiGLU", layers, layers * 3 * rows * inner * BF16, 0),
        product("down", hidden, inner, 1),
        ("residual sum of the last layer", 1, 3 * inputs, 0),
        ("head", 1, vocabulary * (hidden + 1) * BF16, 2 * vocabulary * hidden),
        ("largest logit", 1, vocabulary * BF16, 0),
    ]


def vision(shape, patches):
    """Kernels of the vision tower over one picture of `patches` patches."""
    hidden, inner, layers, heads, mergers = VISION[shape]
    out = TEXT[shape][0]
    rows, merged = patches / 4, 4 * hidden

    def product(name, columns, depth, count, rows=patches):
        return (name, count, count * (columns * depth + rows * (columns + depth)) * BF16, count * 2 * rows * columns * depth)

    elements = patches * hidden * BF16
    return [
        product("patches", hidden, 1536, 1),
        ("LayerNorm", 2 * layers, 2 * layers * 2 * elements, 0),
        product("qkv", 3 * hidden, hidden, layers),
        ("rotary and attention", layers, layers * 4 * elements, layers * 4 * patches * patches * hidden),
        product("projection", hidden, hidden, layers),
        product("fc1", inner, hidden, layers),
        ("GELU", layers, layers * 2 * patches * inner * BF16, 0),
        product("fc2", hidden, inner, layers),
        ("residual sums", 2 * layers, 2 * layers * 3 * elements, 0),
        product("mergers, fc1", merged, merged, mergers, rows),
        product("mergers, fc2", out, merged, mergers, rows),
    ]


def seconds(kernels, args):
    return sum(max(bytes / (args.bandwidth * 1e12), flops / (args.flops * 1e12)) for _, _, bytes, flops in kernels)


def rows(args):
    """Name, kernels, unit, value of the bound, aim; whether more is better."""
    for shape in args.shape.split(","):
        rates = {"2b": (600, None), "8b": (220, 450)}.get(shape, (None, None))
        step = text(shape, 1, 512)
        yield f"{shape}: writing, bf16", step, "tokens/s", 1 / seconds(step, args), rates[0]
        step = text(shape, 1, 512, INT4)
        yield f"{shape}: writing, int4", step, "tokens/s", 1 / seconds(step, args), rates[1]
        prompt = text(shape, 4096, 0)
        flops = sum(flops for *_, flops in prompt)
        yield f"{shape}: prompt of 4,096", prompt, "TFLOP/s", flops / seconds(prompt, args) / 1e12, args.flops / 2
        tower = vision(shape, 64 * 64)
        yield f"{shape}: vision, 1024 x 1024", tower, "ms", 1e3 * seconds(tower, args), 20 if shape == "8b" else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="2b,8b", help="2b, 4b or 8b, separated by commas [2b,8b]")
    parser.add_argument("--bandwidth", type=float, default=4.8, help="of the card's memory, TB/s [4.8: an H200]")
    parser.add_argument("--flops", type=float, default=790, help="of dense bf16 products, TFLOP/s [790]")
    parser.add_argument("--kernels", action="store_true", help="every kernel of every row")
    args = parser.parse_args()
    if unknown := [shape for shape in args.shape.split(",") if shape not in TEXT]:
        parser.error(f"--shape {unknown[0]}: one of {', '.join(TEXT)}")
    print("| row | GB | TFLOP | launches | bound | aim | share of the bound |\n|---|---|---|---|---|---|---|")
    for name, kernels, unit, bound, aim in rows(args):
        launches, bytes, flops = (sum(kernel[i] for kernel in kernels) for i in (1, 2, 3))
        share = "" if aim is None else f"{100 * (bound / aim if unit == 'ms' else aim / bound):.0f} %"
        aim = "" if aim is None else f"{aim:.0f} {unit}"
        print(f"| {name} | {bytes / 1e9:.2f} | {flops / 1e12:.3f} | {launches} | {bound:.0f} {unit} | {aim} | {share} |")
        for kernel, launches, bytes, flops in kernels if args.kernels else ():
            limit = "memory" if bytes / args.bandwidth > flops / args.flops else "products"
            time = 1e6 * max(bytes / (args.bandwidth * 1e12), flops / (args.flops * 1e12))
            print(f"| - {kernel} | {bytes / 1e9:.3f} | {flops / 1e12:.4f} | {launches} | {time:.1f} us, {limit} | | |")


if __name__ == "__main__":
    main()
