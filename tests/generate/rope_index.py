"""Random prompts and what `get_rope_index` makes of them."""

import random

import torch

import models
from common import IM_START, IMAGE_PAD, PAD, VIDEO_PAD, VISION_END, VISION_START

ROWS = 40
SEED = 41


def words(source, most):
    return [source.randint(10, 490) for _ in range(source.randint(1, most))]


def grid(source, frames=1):
    """A grid in patches: even sides, flat, tall or square."""
    return [frames, 2 * source.randint(1, 4), 2 * source.randint(1, 5)]


def image(source):
    """Ids and grid of one image span."""
    g = grid(source)
    return [VISION_START] + [IMAGE_PAD] * (g[1] * g[2] // 4) + [VISION_END], g


def video(source):
    """Ids and grid of a clip: a time text and a span per frame, sometimes in outer marks."""
    g = grid(source, source.randint(1, 3))
    span = [VISION_START] + [VIDEO_PAD] * (g[1] * g[2] // 4) + [VISION_END]
    ids = [x for _ in range(g[0]) for x in words(source, 4) + span]
    return ([VISION_START] + ids + [VISION_END] if source.random() < 0.5 else ids), g


def row(source, images, videos):
    """One prompt: text, then media in random order with or without text between them."""
    ids = [IM_START] + words(source, 4)
    for kind in source.choices("iiv ", k=source.randint(0, 4)):
        if kind == "i":
            span, g = image(source)
            images.append(g)
        elif kind == "v":
            span, g = video(source)
            videos.append(g)
        else:
            span = words(source, 3)
        ids += span + (words(source, 3) if source.random() < 0.6 else [])
    return ids + words(source, 4)


def case(source, model):
    """A batch of one to three prompts, left padded, with the expected positions."""
    images, videos = [], []
    rows = [row(source, images, videos) for _ in range(source.choice((1, 1, 2, 3)))]
    extra = source.choice((0, 0, 0, 3))
    length = max(map(len, rows)) + extra
    ids = torch.tensor([[PAD] * (length - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in rows])
    kinds = (ids == IMAGE_PAD).long() + 2 * (ids == VIDEO_PAD).long()
    as_grid = lambda grids: torch.tensor(grids) if grids else None
    positions, deltas = model.get_rope_index(ids, kinds, as_grid(images), as_grid(videos), mask)
    return {
        "input_ids": ids.tolist(),
        "attention_mask": mask.tolist(),
        "image_grid_thw": images,
        "video_grid_thw": videos,
        "position_ids": positions.tolist(),
        "rope_deltas": deltas.flatten().tolist(),
    }


def table():
    """Cases with token ids of the fixture vocabulary and merge size 2."""
    source = random.Random(SEED)
    model = models.build("dense_tied").model
    return [case(source, model) for _ in range(ROWS)]
