"""Configurations and weights of the four tiny random checkpoints."""

import copy
import math

import torch
from transformers import (
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from common import (
    IM_END,
    IM_START,
    IMAGE_PAD,
    PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    VOCAB,
    model_dir,
    write_json,
)

DENSE, MOE = "Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"

# Found by search: the gap between the two best logits exceeds 0.05 at every greedy step of
# every case, and no placeholder id is ever generated.
WEIGHT_SEED = {"dense_tied": 103, "dense_yarn": 103, "dense_untied": 368, "moe": 135}


def vision_config(model_type, depth, hidden, inner, heads, patch, out, positions, taps):
    """Vision tower in the layout that published (transformers 4) files use."""
    return dict(
        model_type=model_type,
        depth=depth,
        hidden_size=hidden,
        intermediate_size=inner,
        num_heads=heads,
        in_channels=3,
        patch_size=patch,
        temporal_patch_size=2,
        spatial_merge_size=2,
        out_hidden_size=out,
        num_position_embeddings=positions,
        deepstack_visual_indexes=taps,
        hidden_act="gelu_pytorch_tanh",
        initializer_range=0.02,
    )


def text_config(model_type, hidden, inner, layers, heads, kv, head_dim, section, tie, **extra):
    """Text model in the published layout; `extra` overrides or adds fields."""
    rope = dict(rope_type="default", mrope_interleaved=True, mrope_section=section)
    rope.update(extra.pop("yarn", {}))
    config = dict(
        model_type=model_type,
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=head_dim,
        hidden_act="silu",
        rms_norm_eps=1e-6,
        max_position_embeddings=4096,
        attention_bias=False,
        attention_dropout=0.0,
        initializer_range=0.02,
        use_cache=True,
        bos_token_id=IM_START,
        eos_token_id=IM_END,
        rope_theta=5000000,
        rope_scaling=rope,
        dtype="float32",
    )
    if tie is not None:
        config["tie_word_embeddings"] = tie
    config.update(extra)
    return config


def top_config(model_type, architecture, text, vision, tie):
    """The whole config.json of a published file."""
    return dict(
        architectures=[architecture],
        model_type=model_type,
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_PAD,
        video_token_id=VIDEO_PAD,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=tie,
        transformers_version="4.57.0.dev0",
    )


def dense_tied(**extra):
    """Head size not hidden/heads, grouped queries 4:2, three taps, 8x8 table, patch 16."""
    text = text_config("qwen3_vl_text", 48, 96, 4, 4, 2, 16, [4, 2, 2], True, **extra)
    vision = vision_config("qwen3_vl", 5, 32, 64, 2, 16, 48, 64, [0, 2, 3])
    return top_config("qwen3_vl", DENSE, text, vision, True)


def dense_untied():
    """One key head, untied, two taps (one on the last block), odd 5x5 table, patch 8."""
    text = text_config("qwen3_vl_text", 64, 112, 3, 4, 1, 32, [6, 5, 5], None)
    vision = vision_config("qwen3_vl", 4, 24, 56, 3, 8, 64, 25, [1, 3])
    return top_config("qwen3_vl", DENSE, text, vision, False)


def moe():
    """Expert layers 0 and 2, a dense layer 1, six experts of which two are used."""
    experts = dict(
        moe_intermediate_size=20,
        num_experts=6,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
        mlp_only_layers=[1],
        norm_topk_prob=True,
    )
    text = text_config("qwen3_vl_moe_text", 48, 80, 3, 4, 2, 16, [4, 2, 2], None, **experts)
    vision = vision_config("qwen3_vl_moe", 3, 32, 64, 2, 8, 48, 36, [0, 1, 2])
    return top_config("qwen3_vl_moe", MOE, text, vision, False)


def dense_yarn():
    """The weights of dense_tied under YaRN rotary embeddings."""
    yarn = dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=64)
    return dense_tied(max_position_embeddings=128, yarn=yarn)


CONFIGS = dict(
    dense_tied=dense_tied(), dense_untied=dense_untied(), moe=moe(), dense_yarn=dense_yarn()
)


def patch_size(name):
    return CONFIGS[name]["vision_config"]["patch_size"]


def fill(name, parameter, noise):
    """Loud weights, so that every branch of the network moves the logits."""
    root = math.sqrt(noise.shape[-1])
    if "norm" in name and name.endswith("weight"):
        value = 1 + 0.3 * noise
    elif name.endswith("bias"):
        value = 0.2 * noise
    elif "embed_tokens" in name or "pos_embed" in name:
        value = 0.7 * noise
    elif name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        value = 1.5 * noise / root
    elif "mlp.gate.weight" in name:
        value = 2.0 * noise / root
    elif name == "lm_head.weight":
        value = 3.0 * noise / root
    else:
        value = 1.3 * noise / math.sqrt(parameter[0].numel())
    parameter.copy_(value)


def build(name):
    """The model with its seeded weights, float32, eager attention, no stop token."""
    config = copy.deepcopy(CONFIGS[name])
    is_moe = config["model_type"].endswith("moe")
    config = (Qwen3VLMoeConfig if is_moe else Qwen3VLConfig)(**config)
    kind = Qwen3VLMoeForConditionalGeneration if is_moe else Qwen3VLForConditionalGeneration
    torch.manual_seed(0)
    model = kind(config).float().eval()
    generator = torch.Generator().manual_seed(WEIGHT_SEED[name])
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            fill(key, parameter, torch.randn(parameter.shape, generator=generator))
    model.tie_weights()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    model.set_attn_implementation("eager")
    return model


def share_weights(folder, source):
    """Replace the weights by a relative link to another folder that holds the same bytes."""
    weights, original = folder / "model.safetensors", folder.parent / source / "model.safetensors"
    assert weights.read_bytes() == original.read_bytes(), f"{folder.name} and {source} differ"
    weights.unlink()
    weights.symlink_to(f"../{source}/model.safetensors")


def save(name):
    """Write config.json (5), config_v4.json, generation_config.json and the weights."""
    folder = model_dir(name)
    (folder / "model.safetensors").unlink(missing_ok=True)
    model = build(name)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    write_json(folder / "config_v4.json", CONFIGS[name], indent=2)
    if name == "dense_yarn":
        share_weights(folder, "dense_tied")
    return model
