"""Random prompts of the reference cases: ids, pixels and grids (no tokenizer involved)."""

import numpy as np
import torch

from common import IM_START, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START

INPUT_SEED = 7


def patchify(frames, patch, temporal=2, merge=2):
    """Frames [T,3,H,W] to rows [t*h*w, 3*temporal*patch*patch] and the grid (t,h,w).

    The last frame is repeated up to a multiple of `temporal`; rows come in blocks of
    merge x merge patches.
    """
    short = -len(frames) % temporal
    if short:
        frames = torch.cat([frames, frames[-1:].repeat(short, 1, 1, 1)])
    count, channels, height, width = frames.shape
    t, h, w = count // temporal, height // patch, width // patch
    x = frames.reshape(t, temporal, channels, h // merge, merge, patch, w // merge, merge, patch)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(t * h * w, channels * temporal * patch * patch).contiguous(), [t, h, w]


def normalise(pixels):
    """Bytes 0..255 to -1..1, in the order of operations that the recorded values used."""
    return (pixels.float() / 255 - 0.5) / 0.5


class Prompt:
    """One row of a batch, built left to right."""

    def __init__(self, random, patch):
        self.random, self.patch, self.ids = random, patch, [IM_START]
        self.pixels = {"image": [], "video": []}
        self.grids = {"image": [], "video": []}

    def words(self, count):
        return [int(x) for x in self.random.randint(10, 490, count)]

    def media(self, kind, frames, h, w):
        shape = (frames, 3, h * self.patch, w * self.patch)
        rows, grid = patchify(torch.from_numpy(self.random.randint(0, 256, shape)), self.patch)
        self.pixels[kind].append(rows)
        self.grids[kind].append(grid)
        return grid

    def text(self, count):
        self.ids += self.words(count)
        return self

    def image(self, h, w):
        self.media("image", 1, h, w)
        self.ids += [VISION_START] + [IMAGE_PAD] * (h * w // 4) + [VISION_END]
        return self

    def video(self, frames, h, w, nested=False):
        """A clip: per temporal patch some words (the time) and its own vision span."""
        t, _, _ = self.media("video", frames, h, w)
        span = [VISION_START] + [VIDEO_PAD] * (h * w // 4) + [VISION_END]
        body = [x for i in range(t) for x in self.words(5 + i % 2) + span]
        self.ids += [VISION_START] + body + [VISION_END] if nested else body
        return self


def cases(patch):
    """The prompts of every case; the order of calls fixes the random numbers."""
    random = np.random.RandomState(INPUT_SEED)
    new = lambda: Prompt(random, patch)
    image = new().text(4).image(4, 6).text(6)
    two = new().text(2).image(6, 4).text(3).image(2, 10).text(5)
    video = new().text(3).video(5, 4, 6).text(5)
    mixed = new().text(2).image(4, 4).text(2).video(4, 2, 6, nested=True)
    mixed = mixed.text(1).image(2, 2).text(4)
    text = new().text(13)
    clip = new().text(1).video(3, 2, 4).text(2)
    return {
        "image": [image],
        "two_images": [two],
        "video": [video],
        "mixed": [mixed],
        "text": [text],
        "batch_leftpad": [two, text, image, clip],
    }


def media_inputs(prompts, kind, pixel_key, grid_key):
    """Byte rows and grids of all media of one kind, in batch order."""
    rows = [x for q in prompts for x in q.pixels[kind]]
    if not rows:
        return {}
    grids = torch.tensor([g for q in prompts for g in q.grids[kind]])
    return {pixel_key: torch.cat(rows).to(torch.uint8), grid_key: grids}


def batch_bytes(prompts):
    """Left-padded model inputs, pixel rows still as bytes."""
    length = max(len(q.ids) for q in prompts)
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, q in enumerate(prompts):
        ids[row, length - len(q.ids) :] = torch.tensor(q.ids)
        mask[row, length - len(q.ids) :] = 1
    kinds = (ids == IMAGE_PAD).long() + 2 * (ids == VIDEO_PAD).long()
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": kinds,
        **media_inputs(prompts, "image", "pixel_values", "image_grid_thw"),
        **media_inputs(prompts, "video", "pixel_values_videos", "video_grid_thw"),
    }


def batch(prompts):
    """Model inputs: `batch_bytes` with the pixel rows normalised to float32."""
    inputs = batch_bytes(prompts)
    return {k: normalise(v) if v.dtype == torch.uint8 else v for k, v in inputs.items()}
