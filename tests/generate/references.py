"""Reference tensors of every checkpoint and case: `ref_<case>.safetensors`."""

import torch

import models
from common import CASES, MODELS, NEW_TOKENS, model_dir, write_tensors
from prompts import batch, batch_bytes, cases


class Recorder:
    """Collects intermediate tensors of one forward pass through hooks."""

    def __init__(self, model, inputs):
        self.tensors, self.handles, self.kind = {}, [], None
        # The tower runs once for images, then once for videos.
        order = (("image", "pixel_values"), ("video", "pixel_values_videos"))
        self.kinds = iter([kind for kind, key in order if key in inputs])
        self.watch_vision(model.model.visual)
        self.watch_text(model.model.language_model)

    def keep(self, key, value):
        self.tensors[key] = value.detach().clone().contiguous()

    def before(self, module, key):
        def hook(_, args, kwargs):
            self.keep(key(), args[0] if args else kwargs["hidden_states"])

        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def after(self, module, *keys):
        """Record the outputs under the given names; hooks return None, else they would replace."""

        def hook(_, args, output):
            parts = output if isinstance(output, tuple) else (output,)
            for key, part in zip(keys, parts):
                self.keep(key(), part)

        self.handles.append(module.register_forward_hook(hook))

    def vision(self, name):
        return lambda: f"vision.{self.kind}.{name}"

    def next_kind(self, *_):
        self.kind = next(self.kinds)

    def watch_vision(self, tower):
        self.handles.append(tower.register_forward_pre_hook(self.next_kind))
        self.after(tower.patch_embed, self.vision("patch_embed"))
        self.after(tower.rotary_pos_emb, self.vision("rope_cos"), self.vision("rope_sin"))
        self.before(tower.blocks[0], self.vision("block_in"))
        for i, block in enumerate(tower.blocks):
            self.after(block, self.vision(f"block.{i}"))
        self.after(tower.merger, self.vision("embeds"))
        for i, merger in enumerate(tower.deepstack_merger_list):
            self.after(merger, self.vision(f"deepstack.{i}"))

    def watch_text(self, text):
        name = lambda key: lambda: key
        self.after(text.rotary_emb, name("text.rope_cos"), name("text.rope_sin"))
        for i, layer in enumerate(text.layers):
            self.before(layer, name(f"text.layer_in.{i}"))
            self.after(layer, name(f"text.layer_out.{i}"))
            self.after(layer.self_attn, name(f"text.attn.{i}"))
            if hasattr(layer.mlp, "experts"):
                router = ("logits", "weights", "index")
                self.after(layer.mlp.gate, *(name(f"text.router_{r}.{i}") for r in router))
        self.after(text.norm, name("text.final_norm"))

    def close(self):
        for handle in self.handles:
            handle.remove()


def forward(model, inputs):
    """All intermediates and the logits of one uncached pass."""
    recorder = Recorder(model, inputs)
    model.model.rope_deltas = None
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits
    recorder.close()
    recorder.keep("logits", logits)
    return recorder.tensors


def positions(model, inputs):
    """Position ids [3,B,S] and deltas [B,1]; text-only batches count live tokens."""
    mask = inputs["attention_mask"]
    grids = inputs.get("image_grid_thw"), inputs.get("video_grid_thw")
    if grids == (None, None):
        ids = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
        return ids[None].repeat(3, 1, 1), torch.zeros(len(mask), 1, dtype=torch.long)
    ids, kinds = inputs["input_ids"], inputs["mm_token_type_ids"]
    return model.model.get_rope_index(ids, kinds, *grids, mask)


def greedy(model, inputs):
    """Greedy ids [B,24], logits [B,24,V] and the smallest gap between the two best logits."""
    model.model.rope_deltas = None
    with torch.no_grad():
        out = model.generate(
            **{k: v.clone() for k, v in inputs.items()},
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            return_dict_in_generate=True,
            output_logits=True,
        )
    ids = out.sequences[:, inputs["input_ids"].shape[1] :]
    logits = torch.stack(out.logits, 1)
    best = logits.topk(2, -1).values
    return ids, logits, (best[..., 0] - best[..., 1]).min().item()


def reference(model, prompts):
    """Everything that transformers computes for one case, and its greedy margin."""
    inputs = batch(prompts)
    position_ids, deltas = positions(model, inputs)
    ids, logits, margin = greedy(model, inputs)
    tensors = {f"in.{k}": v for k, v in inputs.items()}
    tensors |= {"position_ids": position_ids, "rope_deltas": deltas}
    tensors |= {"greedy_ids": ids, "greedy_logits": logits[:, :1]}
    tensors |= forward(model, inputs)
    as_stored = lambda v: v.float() if v.is_floating_point() else v.long()
    return {k: as_stored(v) for k, v in tensors.items()}, margin


def is_compact(name, case):
    """Files that repeat what another file covers are stored in short."""
    return name == "dense_yarn" or case == "batch_leftpad"


def redundant(key, case):
    """Tensors left out of a compact file: another case or checkpoint holds their like."""
    kept_vision = (".embeds", ".deepstack.")
    if key.startswith("vision."):
        return not any(part in key for part in kept_vision)
    if key.startswith(("text.attn.", "text.layer_in.")):
        return True
    return key == "logits" and case not in ("image", "text")


def compact(tensors, prompts, case):
    """Drop the redundant tensors and store pixel rows as bytes, a quarter of their size."""
    kept = {k: v for k, v in tensors.items() if not redundant(k, case)}
    rows = {f"in.{k}": v for k, v in batch_bytes(prompts).items() if v.dtype == torch.uint8}
    return kept | rows


def write_case(model, name, case, prompts):
    tensors, margin = reference(model, prompts)
    assert margin > 0.05, f"{name}/{case}: greedy margin {margin} is too small"
    if is_compact(name, case):
        tensors = compact(tensors, prompts, case)
    write_tensors(model_dir(name) / f"ref_{case}.safetensors", tensors, margin=repr(margin))


# Values of one gradient that are stored.
SAMPLES = 512


def sampled(grad, most=SAMPLES):
    """Every n-th value of a gradient, at most `most` of them."""
    flat = grad.flatten()
    return flat[:: -(-flat.numel() // most)].clone()


def write_train(model, name):
    """Loss, and norm and samples of every gradient, on the two-image prompt; the last six tokens are labels."""
    inputs = batch(cases(models.patch_size(name))["two_images"])
    labels = inputs["input_ids"].clone()
    labels[:, :-6] = -100
    model.zero_grad()
    model.model.rope_deltas = None
    extra = {"output_router_logits": True} if name == "moe" else {}
    out = model(**inputs, labels=labels, use_cache=False, **extra)
    out.loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    tensors = {f"grad.{n}": sampled(g) for n, g in grads.items()}
    tensors |= {"norms": torch.stack([grads[n].norm() for n in sorted(grads)])}
    tensors |= {"loss": out.loss.reshape(1), "in.labels": labels}
    if name == "moe":
        tensors["aux_loss"] = out.aux_loss.reshape(1)
    write_tensors(model_dir(name) / "ref_train.safetensors", tensors)


def main():
    for name in MODELS:
        model = models.save(name)
        prompts = cases(models.patch_size(name))
        for case in CASES:
            write_case(model, name, case, prompts[case])
        write_train(model, name)


if __name__ == "__main__":
    main()
