"""LoRA adapters as peft writes them, and what transformers computes with them.

python tests/generate/adapters.py                          writes fixtures/adapters/
python tests/generate/adapters.py --check DIR NAME         DIR, an adapter that we wrote, is adapter NAME for peft
python tests/generate/adapters.py --same DIR MERGED        DIR on the base model computes what the checkpoint MERGED does

Needs peft (the stored files are of 0.21.2).
"""

import json
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import models
from common import FIXTURES, write_json, write_tensors
from prompts import batch, cases
from references import forward, sampled

BASE = "dense_tied"
TEXT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = dict(
    plain=dict(target_modules=[*TEXT, "qkv"]),
    # A pattern, ranks and scales of single modules, and a module that is stored whole.
    rslora=dict(
        target_modules=r".*language_model.*\.(q_proj|v_proj)",
        use_rslora=True,
        rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"v_proj": 6},
        modules_to_save=["visual.merger.norm"],
    ),
)
# How many times the rate of `A` that of `B` is in training (LoRA+).
RATIOS = dict(plain=1.0, rslora=4.0)
# What is stored of each case.
KEPT = dict(
    plain=dict(text=["logits"], image=["vision.image.embeds", "text.final_norm"]),
    rslora=dict(text=["text.final_norm"], image=["vision.image.embeds", "text.final_norm"]),
)


def fill(model):
    """Loud updates, so that a wrong scale or a lost module is seen."""
    generator = torch.Generator().manual_seed(11)
    state = get_peft_model_state_dict(model)
    for key in sorted(state):
        noise = torch.randn(state[key].shape, generator=generator)
        if ".lora_" in key:
            state[key].copy_(0.5 * noise / state[key].shape[-1] ** 0.5)
        else:
            state[key].add_(0.3 * noise)


def tidy(folder):
    """The order of a set varies, and the path of the base model is nobody's business."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = BASE
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    write_json(path, config, indent=2)
    (folder / "README.md").unlink()
    (folder / "adapter_model.safetensors").chmod(0o644)


def write(name, settings):
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, bias="none", **settings)
    model = get_peft_model(models.build(BASE), config).eval()
    with torch.no_grad():
        fill(model)
    folder = FIXTURES / "adapters" / name
    model.save_pretrained(folder)
    tidy(folder)
    prompts = cases(models.patch_size(BASE))
    for case, keys in KEPT[name].items():
        found = forward(model.base_model.model, batch(prompts[case]))
        write_tensors(folder / f"ref_{case}.safetensors", {key: found[key] for key in keys})


def labelled():
    """The two-image prompt, whose last six tokens are labels, as in `references.write_train`."""
    inputs = batch(cases(models.patch_size(BASE))["two_images"])
    labels = inputs["input_ids"].clone()
    labels[:, :-6] = -100
    return inputs | {"labels": labels, "use_cache": False}


def plain_name(name):
    return name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", "")


def optimizer_of(named, ratio):
    """AdamW over matrices, which decay, `B` by `ratio` faster (LoRA+), and vectors, which do not decay."""
    rate = lambda name: 1e-2 * (ratio if ".lora_B." in name else 1.0)
    groups = [
        dict(params=[p], lr=rate(n), weight_decay=0.01 if p.dim() > 1 else 0.0)
        for n, p in named.items()
    ]
    return torch.optim.AdamW(groups, eps=1e-3)


def write_train(name, steps=5):
    """Gradients of a stored adapter at its start, and the losses of the first steps of training."""
    folder = FIXTURES / "adapters" / name
    model = PeftModel.from_pretrained(models.build(BASE), folder, is_trainable=True).eval()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = optimizer_of(named, RATIOS[name])
    inputs, tensors, losses = labelled(), {}, []
    for step in range(steps):
        model.zero_grad()
        model.base_model.model.model.rope_deltas = None
        loss = model(**inputs).loss
        loss.backward()
        if step == 0:
            tensors = {f"grad.{plain_name(n)}": sampled(p.grad, 64) for n, p in named.items()}
        torch.nn.utils.clip_grad_norm_(list(named.values()), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    tensors["losses"] = torch.stack(losses)
    write_tensors(folder / "ref_train.safetensors", tensors)


def same(folder, merged):
    """The adapter on the base model is the merged checkpoint."""
    adapted = PeftModel.from_pretrained(models.build(BASE), folder).eval().base_model.model
    whole = AutoModelForImageTextToText.from_pretrained(merged, attn_implementation="eager").eval()
    for case, prompts in cases(models.patch_size(BASE)).items():
        ours, theirs = (forward(model, batch(prompts))["logits"] for model in (adapted, whole))
        error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        assert error < 2e-5, f"{case}: relative error {error}"


def check(folder, name):
    """Everything in the file arrives in peft, and the model computes what it computed with the stored adapter."""
    model = PeftModel.from_pretrained(models.build(BASE), folder).eval()
    stored, found = load_file(f"{folder}/adapter_model.safetensors"), get_peft_model_state_dict(model)
    assert set(stored) == set(found), set(stored) ^ set(found)
    for key, value in stored.items():
        assert torch.equal(value, found[key]), key
    prompts = cases(models.patch_size(BASE))
    for case in KEPT[name]:
        expected = load_file(str(FIXTURES / "adapters" / name / f"ref_{case}.safetensors"))
        computed = forward(model.base_model.model, batch(prompts[case]))
        for key, value in expected.items():
            error = ((computed[key] - value).abs().max() / value.abs().max()).item()
            assert error < 1e-5, f"{case} {key}: relative error {error}"
    print(f"{folder} is {name}: {len(stored)} tensors")


def main():
    if sys.argv[1:2] in (["--check"], ["--same"]):
        {"--check": check, "--same": same}[sys.argv[1]](*sys.argv[2:4])
        return
    for name, settings in ADAPTERS.items():
        write(name, settings)
        write_train(name)


if __name__ == "__main__":
    main()
