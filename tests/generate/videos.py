"""videos.json: frames, sizes, times, prompts, positions, pixels of clips by the references."""

import hashlib
import re
import sys
import types

import numpy as np
import torch
from PIL import Image
from qwen_vl_utils import vision_process as utils
from transformers import AutoProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

import golden
import models
from common import FIXTURES, VIDEO_PAD, model_dir, write_rows

PUBLISHED = dict(size=dict(shortest_edge=4096, longest_edge=25165824))
QUESTION = "What happens?"
SHOWN = 16
NTSC = 30000 / 1001


def clip(total, fps, size, config=None, /, **request):
    """One row to compute: `request` holds fps, num_frames, start and end of the video."""
    height, width = size
    return dict(
        total=total,
        fps=fps,
        height=height,
        width=width,
        config={**PUBLISHED, **(config or {})},
        request=request,
    )


def bounds(low, high):
    return dict(size=dict(shortest_edge=low, longest_edge=high))


SD, HD, FULL = (480, 640), (720, 1280), (1080, 1920)
CAP = dict(cap_pixels_per_frame=True)
CLIPS = [
    # length and rate of the source
    *[clip(n, 30, SD) for n in (2, 3, 4, 5, 59, 60, 61, 75, 300, 301)],
    *[clip(1000, 23.976, HD), clip(900, NTSC, HD), clip(10000, 30, FULL), clip(11511, 29.97, HD)],
    *[clip(50000, 25, HD), clip(108000, 30, HD), clip(7, 1, SD), clip(40, 0.5, SD)],
    clip(33, 1000, SD),
    *[clip(120, None, SD), clip(100, 24, SD)],
    # rate and count of the request
    *[clip(300, 30, HD, fps=fps) for fps in (0.1, 0.5, 1, 2.5, 4, 29.97, 60)],
    *[clip(300, 30, HD, num_frames=n) for n in (2, 3, 5, 9, 16, 299, 300)],
    *[clip(5, 25, SD, num_frames=8), clip(11, 30, SD, num_frames=4), clip(7, 30, SD, num_frames=5)],
    # limits of the number of frames
    *[clip(300, 30, SD, dict(min_frames=9)), clip(300, 30, SD, dict(min_frames=24, max_frames=30))],
    *[clip(3000, 30, SD, dict(max_frames=15)), clip(3000, 30, SD, dict(fps=1, max_frames=64))],
    *[clip(5, 30, SD, dict(min_frames=10)), clip(3000, 25, SD, dict(num_frames=11))],
    # sizes and their budget
    *[clip(n, 30, FULL) for n in (4, 150, 3000, 23040)],
    *[clip(100, 10, size) for size in ((31, 400), (16, 16), (20, 200), (1, 1), (80, 112))],
    *[clip(100, 10, size) for size in ((48, 80), (10, 2000), (2160, 3840), (33, 6600), (1000, 33))],
    *[clip(105, 30, size, bounds(131072, 786432)) for size in (SD, HD, (64, 96), (40, 56))],
    *[clip(100, 25, SD, bounds(4096, 65536)), clip(150, 30, (96, 96), bounds(1048576, 4194304))],
    *[clip(n, 30, FULL, CAP) for n in (5, 150, 1000, 23040)],
    clip(150, 30, HD, {**CAP, "max_video_tokens": 100}),
    clip(23040, 30, FULL, {**CAP, **bounds(131072, 786432)}),
    # parts of the source
    *[clip(300, 30, SD, start=2.0), clip(300, 30, SD, end=3.5)],
    *[clip(300, 30, SD, start=2.05, end=7.95), clip(1000, 23.976, SD, start=10, end=20, fps=1.5)],
    clip(300, 30, SD, start=9, end=100, num_frames=5),
    # every frame
    *[clip(n, 25, SD, dict(do_sample_frames=False)) for n in (2, 7, 30)],
    clip(9, None, SD, dict(do_sample_frames=False)),
]

# Times that no rate explains, and the average rate that the container states.
UNEVEN = [
    ([round(0.04 * i + 0.3 * (i > 10) + 0.013 * (i % 3), 6) for i in range(25)], 21.5),
    ([round(0.1 * i * i, 6) for i in range(20)], 0.5),
    ([5 + 0.5 * i for i in range(11)], 2.0),
]

# Small enough to compare every byte: frames, source size, rate, settings.
PIXELS = [
    clip(4, 2, (40, 72)),
    clip(5, 2, (70, 50)),
    clip(7, 4, (96, 64), fps=4),
    clip(30, 30, (33, 57), bounds(4096, 32768), num_frames=6),
    clip(9, 3, (64, 128), dict(do_sample_frames=False)),
    clip(6, 2, (150, 20), bounds(16384, 65536)),
    clip(4, 2, (64, 96), dict(do_resize=False)),
    clip(4, 2, (40, 72), dict(image_mean=[0.48, 0.46, 0.41], image_std=[0.27, 0.26, 0.28])),
    clip(4, 2, (40, 72), dict(do_normalize=False)),
    clip(4, 2, (40, 72), dict(do_rescale=False, do_normalize=False)),
    clip(5, 2, (40, 72), dict(patch_size=8, temporal_patch_size=3)),
    clip(5, 2, (40, 72), dict(cap_pixels_per_frame=True, max_video_tokens=2)),
]

UTILS_SOURCES = [
    *[(4, 30), (5, 25), (9, 4), (100, 25), (301, 30), (1000, 23.976), (50000, 30)],
    (7200, NTSC),
]
UTILS_REQUESTS = [
    *[{}, {"fps": 1.0}, {"fps": 7.3}, {"nframes": 5}, {"nframes": 8}, {"nframes": 100}],
    *[{"fps": 4, "max_frames": 17}, {"min_frames": 5}, {"video_start": 1.0}, {"video_end": 2.05}],
    *[{"video_start": 0.5, "video_end": 3.21, "nframes": 6}, {"video_start": 60, "video_end": 1e9}],
    {"video_start": 400.0, "fps": 0.5},
]
# Frames that depend on torch.linspace rounding once, as CPUs with fused multiplication do.
UTILS_FUSED = [
    (19825, 30, {"nframes": 416}),
    (37573, 1, {"video_start": 18440, "nframes": 468}),
]
BUDGETS = [
    {},
    {"total_pixels": 20971520, "min_pixels": 65536},
    {"max_pixels": 262144, "min_pixels": 4096, "total_pixels": 20971520},
    {"max_pixels": 100000000},
    {"resized_height": 300, "resized_width": 500},
]
BUDGET_SIZES = [(360, 640), (1080, 1920), (30, 50), (3000, 100), (2160, 3840)]
LISTS = [
    *[(4, {}), (5, {}), (5, {"sample_fps": 1.5}), (8, {"raw_fps": 30})],
    (7, {"sample_fps": 2.0, "raw_fps": 24}),
]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def shown(values):
    """All of a short list, the ends of a long one."""
    return values if len(values) <= SHOWN else values[: SHOWN // 2] + values[-SHOWN // 2 :]


# ------------------------------------------------------------------------- frames, sizes, prompts


class Reference:
    """transformers with the tokenizer of a fixture."""

    def __init__(self):
        self.processor = AutoProcessor.from_pretrained(model_dir("dense_tied"))
        self.model = models.build("dense_tied").model
        content = [{"type": "video", "video": "clip"}, {"type": "text", "text": QUESTION}]
        self.prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def texts(self, inputs):
        """The prompt in the layouts of transformers 4.57 and 5."""
        groups = self.processor.replace_video_token(inputs, 0)
        whole = "<|vision_start|><|video_pad|><|vision_end|>"
        assert self.prompt.count(whole) == 1
        return {
            "hf4": self.prompt.replace(whole, groups),
            "hf5": self.prompt.replace("<|video_pad|>", groups),
        }

    def facts(self, text, grid):
        """Ids, their count, and the positions that the model gives them."""
        ids = self.processor.tokenizer(text, return_tensors="pt").input_ids
        kinds = 2 * (ids == VIDEO_PAD).long()
        positions, delta = self.model.get_rope_index(ids, kinds, None, grid, torch.ones_like(ids))
        return {
            "length": ids.shape[1],
            "ids": digest(ids.numpy().astype("<u4").tobytes()),
            "positions": digest(positions[:, 0].contiguous().numpy().astype("<u4").tobytes()),
            "delta": delta.item(),
        }


def kept(row, times):
    """Frames that the range of a request leaves, in order."""
    start, end = row["request"].get("start", -1), row["request"].get("end", 1e99)
    return [i for i, time in enumerate(times) if start <= time <= end]


def video_processor(row):
    return Qwen3VLVideoProcessor(**{"cap_pixels_per_frame": False, **row["config"]})


def sampled(processor, row, times):
    """Indices in the whole source."""
    frames = kept(row, times)
    if not processor.do_sample_frames:
        return frames
    metadata = VideoMetadata(total_num_frames=len(frames), fps=row["fps"])
    wanted = {k: v for k, v in row["request"].items() if k in ("fps", "num_frames")}
    if processor.num_frames is not None:
        wanted, processor.fps = {"num_frames": processor.num_frames, **wanted}, None
    return [frames[i] for i in processor.sample_frames(metadata, **wanted).tolist()]


def resized(processor, count, height, width):
    """The size that the processor resizes `count` frames to; no pixel is touched."""
    seen = []
    own = BaseVideoProcessor.__dict__.get("resize")
    BaseVideoProcessor.resize = lambda self, image, size, resample: seen.append(size)
    frames = torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8).expand(1, count, 3, height, width)
    factor = processor.patch_size * processor.merge_size
    try:
        processor.resize(
            frames,
            processor.size,
            processor.resample,
            factor=factor,
            temporal_factor=processor.temporal_patch_size,
            cap_pixels_per_frame=processor.cap_pixels_per_frame,
        )
    finally:
        if own is None:
            del BaseVideoProcessor.resize
        else:
            BaseVideoProcessor.resize = own
    return [seen[0].height, seen[0].width]


def planned(reference, row, times=None):
    """What transformers makes of one row, without pixels."""
    processor = video_processor(row)
    rate = 24 if row["fps"] is None else row["fps"]
    indices = sampled(processor, row, times or [i / rate for i in range(row["total"])])
    height, width = resized(processor, len(indices), row["height"], row["width"])
    temporal, patch = processor.temporal_patch_size, processor.patch_size
    grid = torch.tensor([[-(-len(indices) // temporal), height // patch, width // patch]])
    # Uneven times go through the same function: a time is an index at one frame per second.
    seconds, fps = ([times[i] for i in indices], 1) if times else (list(indices), row["fps"])
    metadata = VideoMetadata(row["total"], fps=fps, frames_indices=seconds)
    texts = reference.texts({"video_grid_thw": grid, "video_metadata": [metadata]})
    stamps = re.findall(r"<[0-9.]+ seconds>", texts["hf4"])
    return {
        **row,
        "count": len(indices),
        "indices": shown(indices),
        "indices_sha256": digest(np.array(indices, "<u4").tobytes()),
        "grid": grid[0].tolist(),
        "timestamps": shown(stamps),
        "timestamps_sha256": digest("".join(stamps).encode()),
        **{name: reference.facts(text, grid) for name, text in texts.items()},
    }


def uneven(reference):
    """Sources whose frames have their own times."""
    for times, fps in UNEVEN:
        for request in ({}, {"fps": 1}, {"num_frames": 6}, {"start": times[3], "end": times[-2]}):
            row = clip(len(times), fps, SD, **request)
            yield {"times": times, **planned(reference, row, times)}


# ------------------------------------------------------------------------- pixels


def frames(row):
    """uint8 [total, height, width, 3]: one running hash over all samples."""
    shape = (row["total"], row["height"], row["width"], 3)
    h = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B1)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x85EBCA77)
    return (h ^ (h >> np.uint32(13))).astype(np.uint8).reshape(shape)


def pixels(row):
    """The video processor as a user calls it, on real frames."""
    processor = video_processor(row)
    resized_bytes = []
    own = Qwen3VLVideoProcessor.resize

    def resize(self, *args, **kwargs):
        out = own(self, *args, **kwargs)
        resized_bytes.append(out[0].permute(0, 2, 3, 1).contiguous().numpy())
        assert resized_bytes[0].dtype == np.uint8
        return out

    Qwen3VLVideoProcessor.resize = resize
    try:
        out = processor(
            [torch.from_numpy(frames(row)).permute(0, 3, 1, 2)],
            video_metadata=[{"total_num_frames": row["total"], "fps": row["fps"]}],
            return_metadata=True,
            return_tensors="pt",
            **({"fps": None} if "num_frames" in row["request"] else {}),
            **row["request"],
        )
    finally:
        Qwen3VLVideoProcessor.resize = own
    values = out["pixel_values_videos"].contiguous()
    indices = out["video_metadata"][0].frames_indices
    return {
        **row,
        "indices": list(map(int, indices if indices is not None else range(row["total"]))),
        "grid": out["video_grid_thw"][0].tolist(),
        "resized": [digest(f.tobytes()) for f in resized_bytes[0]] if resized_bytes else None,
        "shape": list(values.shape),
        "sha256": digest(values.numpy().astype("<f4").tobytes()),
        "first": values.flatten()[:4].tolist(),
        "sum": values.double().sum().item(),
    }


# ------------------------------------------------------------------------- qwen-vl-utils


def fake_decord(total, fps):
    """A module that serves one-pixel frames, so that the reader of qwen-vl-utils itself runs."""

    class VideoReader:
        def __init__(self, _):
            pass

        def __len__(self):
            return total

        def get_avg_fps(self):
            return fps

        def get_batch(self, indices):
            array = np.zeros((len(indices), 1, 1, 3), np.uint8)
            return types.SimpleNamespace(asnumpy=lambda: array)

    module = types.ModuleType("decord")
    module.VideoReader = VideoReader
    return module


def utils_row(total, fps, request):
    """Indices and times, or the error."""
    sys.modules["decord"] = fake_decord(total, fps)
    row = dict(total=total, fps=fps, request=request)
    try:
        _, metadata, _ = utils._read_video_decord({"video": "clip", **request})
    except ValueError as error:
        return {**row, "error": str(error)}
    indices = metadata["frames_indices"]
    times = Qwen3VLProcessor._calculate_timestamps(None, list(indices), metadata["fps"])
    stamps = [f"<{time:.1f} seconds>" for time in times]
    return {
        **row,
        "count": len(indices),
        "indices": shown(indices),
        "indices_sha256": digest(np.array(indices, "<u4").tobytes()),
        "timestamps_sha256": digest("".join(stamps).encode()),
    }


def budget_row(count, height, width, request):
    """The size that qwen-vl-utils resizes frames to; bounds are those of its own call."""
    if "resized_height" in request:
        sides = (request["resized_height"], request["resized_width"])
        return [count, height, width, request, list(utils.smart_resize(*sides, factor=32))]
    return [count, height, width, request, golden.fetch_video(count, height, width, request)[1]]


def list_row(count, request):
    """Times of a list of frames."""
    video = [Image.new("RGB", (64, 64))] * count
    (out, metadata) = utils.fetch_video(
        {"video": video, **request}, image_patch_size=16, return_video_metadata=True
    )
    times = Qwen3VLProcessor._calculate_timestamps(
        None, list(metadata["frames_indices"]), metadata["fps"]
    )
    return [count, request, out.shape[0], [f"<{time:.1f} seconds>" for time in times]]


def main():
    reference = Reference()
    tables = {
        "question": QUESTION,
        "clips": [planned(reference, row) for row in CLIPS],
        "uneven": list(uneven(reference)),
        "pixels": [pixels(row) for row in PIXELS],
        "utils_frames": [
            *[utils_row(*source, r) for source in UTILS_SOURCES for r in UTILS_REQUESTS],
            *[utils_row(*row) for row in UTILS_FUSED],
        ],
        "utils_sizes": [
            budget_row(n, *size, request)
            for n in (4, 16, 64, 300, 768)
            for size in BUDGET_SIZES
            for request in BUDGETS
        ],
        "utils_lists": [list_row(*row) for row in LISTS],
    }
    write_rows(FIXTURES / "videos.json", tables)
    print({name: len(rows) for name, rows in tables.items()})


if __name__ == "__main__":
    main()
