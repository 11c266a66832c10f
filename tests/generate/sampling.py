"""Golden values of the sampler: tests/fixtures/sampling.json.

    python tests/generate/sampling.py

Three rows of logits, a prompt and an answer for each, and the scores that the processors of transformers leave for many
combinations of parameters, in the order of `GenerationMixin`: repetition penalty, (frequency and presence penalty, which
are vLLM's and computed here), then when sampling temperature, top-k, top-p, min-p. A row of `cases` holds the kept ids, their
scores, their probabilities, and the id of the largest score before the sampling steps (`greedy`). In the row with ties
top-p cuts between equal scores, and which of them stay depends on torch's sort, which is not stable on every CPU: there
`kept` is null and the scores stand in descending order.
"""

import json

import torch
from common import FIXTURES
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 80
TIED = 2
COMBINATIONS = (
    {"temperature": 1.0, "top_k": 0},
    {"temperature": 0.7, "top_k": 0},
    {"temperature": 2.5, "top_k": 0},
    {"temperature": 0.01, "top_k": 0},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 50},
    {"top_k": 79},
    {"top_k": 80},
    {"top_k": 500},
    {"top_k": 0, "top_p": 0.1},
    {"top_k": 0, "top_p": 0.5},
    {"top_k": 0, "top_p": 0.95},
    {"top_k": 0, "top_p": 0.0001},
    {"top_k": 0, "top_p": 0.9999},
    {"top_k": 0, "min_p": 0.05},
    {"top_k": 0, "min_p": 0.5},
    {"top_k": 0, "min_p": 1.0},
    {"top_k": 20, "top_p": 0.8, "temperature": 0.7},
    {"top_k": 20, "top_p": 0.95, "temperature": 0.6, "min_p": 0.1},
    {"top_k": 3, "top_p": 0.3, "min_p": 0.9},
    {"top_k": 0, "repetition_penalty": 1.3},
    {"top_k": 0, "repetition_penalty": 0.5},
    {"top_k": 0, "presence_penalty": 1.5},
    {"top_k": 0, "presence_penalty": -2.0},
    {"top_k": 0, "frequency_penalty": 0.75},
    {"top_k": 0, "frequency_penalty": 0.5, "presence_penalty": 1.0, "repetition_penalty": 1.1},
    {
        **{"temperature": 0.8, "top_k": 12, "top_p": 0.7, "min_p": 0.02},
        **{"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.25},
    },
)


def logits():
    """Multiples of 1/64, so that JSON holds them exactly: spread out, peaked, and with many ties."""
    generator = torch.Generator().manual_seed(20)
    wide = torch.randn(VOCAB, generator=generator) * 3
    peaked = torch.randn(VOCAB, generator=generator)
    peaked[17] += 9
    tied = (torch.randn(VOCAB, generator=generator) * 2).round()
    return [(row * 64).round() / 64 for row in (wide, peaked, tied)]


def penalised(scores, prompt, answer, p):
    ids = torch.tensor([prompt + answer])
    if p.get("repetition_penalty", 1.0) != 1.0:
        scores = RepetitionPenaltyLogitsProcessor(p["repetition_penalty"])(ids, scores)
    counts = torch.bincount(torch.tensor(answer), minlength=VOCAB).to(scores.dtype)
    scores = scores - p.get("frequency_penalty", 0.0) * counts
    return scores - p.get("presence_penalty", 0.0) * (counts > 0)


def warped(scores, p):
    if p.get("temperature", 1.0) != 1.0:
        scores = TemperatureLogitsWarper(p["temperature"])(None, scores)
    if p["top_k"]:
        scores = TopKLogitsWarper(p["top_k"])(None, scores)
    if p.get("top_p", 1.0) < 1.0:
        scores = TopPLogitsWarper(p["top_p"])(None, scores)
    if p.get("min_p", 0.0) > 0.0:
        scores = MinPLogitsWarper(p["min_p"])(None, scores)
    return scores


def main():
    rows = logits()
    generator = torch.Generator().manual_seed(21)
    history = [torch.randint(0, VOCAB, (24,), generator=generator).tolist() for _ in rows]
    prompts, answers = [ids[:10] for ids in history], [ids[10:] + ids[12:16] for ids in history]
    cases = []
    for row, raw in enumerate(rows):
        for params in COMBINATIONS:
            scores = penalised(raw[None].clone(), prompts[row], answers[row], params)
            greedy = int(scores[0].argmax())
            scores = warped(scores, params)[0]
            kept = torch.isfinite(scores).nonzero()[:, 0]
            if row == TIED and params.get("top_p", 1.0) < 1.0:
                kept = kept[scores[kept].sort(descending=True).indices]
            cases.append(
                {
                    "row": row,
                    "params": params,
                    "greedy": greedy,
                    "kept": None if row == TIED and params.get("top_p", 1.0) < 1.0 else kept.tolist(),
                    "scores": [float(f"{x:.9g}") for x in scores[kept].tolist()],
                    "probabilities": [float(f"{x:.9g}") for x in scores.softmax(-1)[kept].tolist()],
                }
            )
    head = {"logits": [row.tolist() for row in rows], "prompts": prompts, "answers": answers}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    lines.append('"cases": [\n' + ",\n".join("  " + json.dumps(case) for case in cases) + "\n]")
    (FIXTURES / "sampling.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")
    print(f"sampling.json: {len(cases)} cases")


if __name__ == "__main__":
    main()
