"""preproc.safetensors: raw pixels to resized bytes to patch rows, and how colour is handled.

The raw pixels (`*.rgb`, `rgba.in`) are frozen inputs: they are read from the stored file and
everything else is computed from them.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from qwen_vl_utils import vision_process as utils
from safetensors.torch import load_file
from torchvision.transforms.v2 import functional as F
from transformers import Qwen2VLImageProcessor, Qwen3VLVideoProcessor

from common import FIXTURES, write_tensors
from prompts import patchify

FILE = FIXTURES / "preproc.safetensors"
IMAGES = ("img0", "img1", "img2", "img3")
RAW = (*(f"{name}.rgb" for name in IMAGES), "rgba.in", "video.rgb")
WITH_ROWS = ("img0", "img3")
ORIENTATION_TAG, ROTATED = 0x0112, 6


def raw_inputs():
    assert FILE.exists(), f"{FILE.name} holds the frozen raw pixels and must not be deleted"
    stored = load_file(str(FILE))
    return {key: stored[key] for key in RAW}


def settings(longest):
    """The published processor settings with small pixel bounds."""
    return dict(
        size={"shortest_edge": 4096, "longest_edge": longest},
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def image_processor():
    return Qwen2VLImageProcessor(**settings(49152))


def process(image):
    """Patch rows and grid of one image, given as a path or as a PIL image."""
    processor = image_processor()
    if isinstance(image, str):
        image = processor.fetch_images(image)
    out = processor(image, return_tensors="pt")
    return out["pixel_values"], out["image_grid_thw"]


def process_clip(frames, cap):
    processor = Qwen3VLVideoProcessor(**settings(25165824), cap_pixels_per_frame=cap)
    video = frames.permute(0, 3, 1, 2).contiguous()
    out = processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    return out["pixel_values_videos"], out["video_grid_thw"]


def pil(array):
    return Image.fromarray(array.numpy())


def resized(rgb, grid):
    """The bytes [H,W,3] that the processor's resize makes, for the size of its grid."""
    height, width = (16 * int(x) for x in grid[1:])
    chw = rgb.permute(2, 0, 1).contiguous()
    out = F.resize(chw, [height, width], interpolation=F.InterpolationMode.BICUBIC, antialias=True)
    return out.permute(1, 2, 0).contiguous()


def cubic(x):
    """Bicubic kernel with a = -0.5."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def taps(size, target):
    """Per output index: first source index and float64 weights that sum to one."""
    scale = size / target
    stretch = max(scale, 1.0)
    rows = []
    for i in range(target):
        centre = scale * (i + 0.5)
        low = max(int(centre - 2 * stretch + 0.5), 0)
        high = min(int(centre + 2 * stretch + 0.5), size)
        weights = [cubic((j - centre + 0.5) / stretch) for j in range(low, high)]
        rows.append((low, np.array(weights) / sum(weights)))
    return rows


def fixed_point(rows):
    """Integer weights and the largest precision that keeps them within 16 bit."""
    peak = max(weights.max() for _, weights in rows)
    fits = lambda p: int(0.5 + peak * 2**p) < 2**15
    precision = max(p for p in range(23) if fits(p))
    scaled = [(low, np.trunc(w * 2**precision + np.copysign(0.5, w))) for low, w in rows]
    return [(low, w.astype(np.int64)) for low, w in scaled], precision


def resize_axis(pixels, target):
    """Resize axis 0 of an integer array with the fixed-point recipe."""
    if len(pixels) == target:
        return pixels
    rows, precision = fixed_point(taps(len(pixels), target))
    half = 1 << (precision - 1)
    sums = [np.tensordot(w, pixels[low : low + len(w)], axes=1) + half for low, w in rows]
    return np.clip(np.stack(sums) >> precision, 0, 255)


def resize_recipe(rgb, height, width):
    """The bit-exact uint8 bicubic written down in integers: columns first, then rows."""
    wide = resize_axis(rgb.numpy().astype(np.int64).transpose(1, 0, 2), width)
    tall = resize_axis(wide.transpose(1, 0, 2), height)
    return torch.from_numpy(tall.astype(np.uint8))


def tensors():
    """All tensors of the file."""
    out = raw_inputs()
    for name in IMAGES:
        rows, grid = process(pil(out[f"{name}.rgb"]))
        out[f"{name}.grid"] = grid
        out[f"{name}.resized"] = resized(out[f"{name}.rgb"], grid[0])
        if name in WITH_ROWS:
            out[f"{name}.pixel_values"] = rows
    rgba = out["rgba.in"]
    out["rgba.dropped"] = rgba[..., :3]
    white = lambda image: torch.from_numpy(np.array(image))
    out["rgba.white_qwen_vl_utils"] = white(utils.to_rgb(pil(rgba)))
    out["rgba.white_pil"] = to_rgb_in_processor(pil(rgba))
    out["video.pixel_values"], out["video.grid"] = process_clip(out["video.rgb"], False)
    return out


def to_rgb_in_processor(image):
    """[H,W,3] bytes after the processor's own conversion to RGB."""
    return image_processor().process_image(image, do_convert_rgb=True).permute(1, 2, 0)


def largest(a, b):
    return int((a.int() - b.int()).abs().max())


def image_check(data, name):
    rgb, small, grid = data[f"{name}.rgb"], data[f"{name}.resized"], data[f"{name}.grid"]
    height, width = small.shape[:2]
    by_pil = torch.from_numpy(np.array(pil(rgb).resize((width, height), Image.BICUBIC)))
    frames = (small.float() - 127.5) / 127.5
    rows, _ = patchify(frames.permute(2, 0, 1)[None], 16)
    return {
        "size": list(rgb.shape[:2]),
        "grid": grid[0].tolist(),
        "int16_matches_torch": torch.equal(resize_recipe(rgb, height, width), small),
        "pil_maxdiff": largest(by_pil, small),
        "pixel_formula_maxdiff": (rows - process(pil(rgb))[0]).abs().max().item(),
    }


def alpha_check(data, folder):
    path = str(folder / "alpha.png")
    pil(data["rgba.in"]).save(path)
    by_path, by_pil = process(path)[0], process(pil(data["rgba.in"]))[0]
    return {
        "equals_dropped": torch.equal(by_path, process(pil(data["rgba.dropped"]))[0]),
        "pil_into_processor_white": torch.equal(by_pil, process(pil(data["rgba.white_pil"]))[0]),
    }


def exif_check(data, folder):
    """Shapes [C,H,W] after loading a 64x40 JPEG that asks to be turned, and utils' [W,H]."""
    path = str(folder / "turned.jpg")
    image = pil(data["rgba.dropped"])
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = ROTATED
    image.save(path, exif=exif, quality=95)
    direct = image_processor().process_image(Image.open(path), do_convert_rgb=True)
    return {
        "path_shape": list(image_processor().fetch_images(path).shape),
        "pil_direct": list(direct.shape),
        "utils": list(utils.fetch_image({"image": path}, image_patch_size=16).size),
    }


def video_check(data):
    clip = data["video.rgb"].permute(0, 3, 1, 2).contiguous()
    size, cubic_mode = [64, 64], F.InterpolationMode.BICUBIC
    whole = F.resize(clip[None], size, interpolation=cubic_mode, antialias=True)[0]
    frames = [F.resize(x, size, interpolation=cubic_mode, antialias=True) for x in clip]
    old = torchvision.transforms.functional.resize(clip, size, cubic_mode, antialias=True)
    recipe = torch.stack([resize_recipe(x, *size) for x in data["video.rgb"]])
    return {
        "v2_5d_equals_per_frame": torch.equal(whole, torch.stack(frames)),
        "v1_functional_dtype": str(old.dtype),
        "qwen_utils_v1_vs_v2_maxdiff": largest(old, whole),
        "int16_matches": torch.equal(recipe.permute(0, 3, 1, 2), whole),
    }


def checks():
    """Facts about the stored arrays, measured."""
    data = tensors()
    out = {name: image_check(data, name) for name in IMAGES}
    with tempfile.TemporaryDirectory() as folder:
        out["rgba_path"] = alpha_check(data, Path(folder))
        out["exif"] = exif_check(data, Path(folder))
    out["rgba"] = {
        "pil_vs_utils": largest(data["rgba.white_pil"], data["rgba.white_qwen_vl_utils"]),
        "white_vs_dropped": largest(data["rgba.white_pil"], data["rgba.dropped"]),
    }
    for cap in (False, True):
        out[f"video_cap_{cap}"] = process_clip(data["video.rgb"], cap)[1].tolist()
    out["video_resize"] = video_check(data)
    return out


def main():
    write_tensors(FILE, tensors())


if __name__ == "__main__":
    main()
