"""sampler.safetensors: logits through the processors of transformers, in their order."""

import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from common import FIXTURES, write_tensors

SEED = 3


def inputs():
    """Logits [4,64] with ties in row 1, and histories [4,12]."""
    generator = torch.Generator().manual_seed(SEED)
    logits = torch.randn(4, 64, generator=generator) * 4
    logits[1, :8] = logits[1, 8]
    return logits, torch.randint(0, 64, (4, 12), generator=generator)


def presence(logits, history, penalty):
    """The rule of vLLM, which transformers lacks: once per distinct id of the history."""
    out = logits.clone()
    for row, ids in enumerate(history):
        out[row, ids.unique()] -= penalty
    return out


def main():
    logits, history = inputs()
    out = {"logits": logits, "history": history, "presence_1.5": presence(logits, history, 1.5)}
    out["minp_0.05_on_logits"] = MinPLogitsWarper(0.05)(history, logits.clone())
    chain = {
        "rep_1.3": RepetitionPenaltyLogitsProcessor(1.3),
        "then_temp_0.7": TemperatureLogitsWarper(0.7),
        "then_topk_20": TopKLogitsWarper(20),
        "then_topp_0.8": TopPLogitsWarper(0.8),
    }
    scores = logits.clone()
    for key, processor in chain.items():
        scores = out[key] = processor(history, scores)
    write_tensors(FIXTURES / "sampler.safetensors", out)


if __name__ == "__main__":
    main()
