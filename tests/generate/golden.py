"""golden.json: integer and string tables from transformers, qwen-vl-utils and the official files."""

import json
import lzma
import os

import torch
from qwen_vl_utils import vision_process as utils
from tokenizers import Tokenizer
from transformers import Qwen3VLProcessor, Qwen3VLTextConfig, Qwen3VLVideoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as resize_image
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as resize_video
from transformers.video_utils import VideoMetadata
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

import preproc
import rope_index
from common import FIXTURES, HERE, write_rows

IMAGE_SIZES = [
    *[(48, 48), (80, 80), (112, 80), (16, 16), (1, 1), (10, 2000), (15, 3000), (15, 3001)],
    *[(720, 1280), (1080, 1920), (4000, 6000), (256, 256), (240, 272), (31, 33), (1536, 2720)],
    *[(2160, 3840), (100, 20000), (8000, 8000), (33, 65), (224, 224)],
]
IMAGE_BOUNDS = [(65536, 16777216), (4096, 1310720), (262144, 1310720)]
UTILS_BOUNDS = [(4096, 16777216), (262144, 1310720)]
VIDEO_SIZES = [(64, 96), (360, 640), (720, 1280), (1080, 1920), (20, 200), (16, 16)]
VIDEO_BOUNDS = [(4096, 25165824), (131072, 786432)]
CLIP_SIZES = [(360, 640), (1080, 1920)]
CLIP_BOUNDS = {"shortest_edge": 4096, "longest_edge": 25165824}
SOURCES = [
    *[(1, 30), (2, 30), (3, 30), (5, 25), (9, 4), (30, 30), (31, 29.97), (100, 25), (300, 30)],
    *[(301, 30), (1000, 23.976), (10000, 30), (50000, 30)],
]
UTILS_SOURCES = [
    (1, 30),
    (2, 30),
    (3, 30),
    (9, 4),
    (30, 30),
    (100, 25),
    (1000, 23.976),
    (50000, 30),
]
UTILS_REQUESTS = [
    *[{}, {"fps": 1.0}, {"nframes": 5}, {"nframes": 8}],
    *[{"fps": 4, "max_frames": 16}, {"min_frames": 5}],
]
BUDGETS = [
    {},
    {"total_pixels": 20971520, "min_pixels": 65536},
    {"max_pixels": 262144, "min_pixels": 4096, "total_pixels": 20971520},
]
CLIPS = [
    *[([0, 1, 2, 3], 2.0), ([0, 1, 2, 3, 4], 4.0), ([0, 15, 30, 44], 30)],
    *[([0, 13, 27, 40, 54, 67, 81], 29.97), ([0], 24), ([*range(0, 99, 7)], 23.976), ([1, 2], 20)],
]
GRIDS = [[1, 2, 2], [1, 4, 6], [1, 48, 48], [2, 2, 4], [1, 50, 62]]
# Sizes whose quotient by 32 or 16 is a tie, sizes at the pixel bounds, slivers and odd bounds.
TIES = [
    (16, 16),
    (48, 80),
    (80, 112),
    (144, 176),
    (208, 240),
    (272, 304),
    (336, 400),
    (8, 24),
    (40, 56),
]
EDGES = [
    *[(64, 64), (63, 65), (65, 63), (512, 512), (513, 511), (1, 200), (200, 1), (1, 201), (201, 1)],
    *[(3, 600), (97, 131), (1000, 999), (4095, 17), (2999, 15), (1024, 1024), (1025, 1024)],
]
MORE_BOUNDS = [(32, 4096, 262144), (16, 1024, 65536), (32, 65536, 16777216)]


def attempt(function, *args, **kwargs):
    """The result as a list, or the error as text."""
    try:
        result = function(*args, **kwargs)
    except ValueError as error:
        return f"ValueError: {error}"
    return list(result) if isinstance(result, tuple) else [result]


def smart_resize_tables():
    """Rows [h, w, (factor,) min, max, [h', w'] or error]; factor 32 where none is given."""
    image = [
        [h, w, lo, hi, attempt(resize_image, h, w, 32, lo, hi)]
        for h, w in IMAGE_SIZES
        for lo, hi in IMAGE_BOUNDS
    ]
    with_utils = [
        [h, w, lo, hi, attempt(utils.smart_resize, h, w, 32, lo, hi)]
        for h, w in IMAGE_SIZES
        for lo, hi in UTILS_BOUNDS
    ]
    more = [
        [h, w, factor, lo, hi, attempt(resize_image, h, w, factor, lo, hi)]
        for h, w in TIES + EDGES
        for factor, lo, hi in MORE_BOUNDS
    ]
    video = [
        [n, h, w, lo, hi, attempt(resize_video, n, h, w, 2, 32, lo, hi)]
        for n in (1, 2, 3, 4, 5, 7, 8, 16, 100, 768)
        for h, w in VIDEO_SIZES
        for lo, hi in VIDEO_BOUNDS
    ]
    return {
        "smart_resize_image": image,
        "smart_resize_more": more,
        "smart_resize_qwen_vl_utils": with_utils,
        "smart_resize_video": video,
    }


def num_video_patches():
    """Rows [frames, h, w, cap_pixels_per_frame, patches]."""
    processor = Qwen3VLVideoProcessor(size=CLIP_BOUNDS)
    count = processor.get_num_of_video_patches
    return [
        [n, h, w, cap, count(n, h, w, {"cap_pixels_per_frame": cap})]
        for n in (4, 8, 32, 100, 768)
        for h, w in CLIP_SIZES
        for cap in (False, True)
    ]


def sample(total, source_fps, **request):
    metadata = VideoMetadata(total_num_frames=total, fps=source_fps)
    return Qwen3VLVideoProcessor().sample_frames(metadata, **request).tolist()


def sample_frames_tables():
    """Rows [total, source fps, fps, count, indices]; only six at each end of more than 16."""
    rows = []
    for total, source_fps in SOURCES:
        for fps in (2, 1, 0.5, 4):
            ids = sample(total, source_fps, fps=fps)
            shown = ids if len(ids) <= 16 else ids[:6] + ids[-6:]
            rows.append([total, source_fps, fps, len(ids), shown])
    wanted = [(10, 4), (11, 4), (7, 5), (100, 9)]
    Qwen3VLVideoProcessor.fps, fps = None, Qwen3VLVideoProcessor.fps
    by_count = [[total, n, sample(total, 30, num_frames=n)] for total, n in wanted]
    Qwen3VLVideoProcessor.fps = fps
    return {"sample_frames_fps": rows, "sample_frames_num": by_count}


def smart_nframes():
    """Rows [total, source fps, request, [count] or error] of qwen-vl-utils."""
    return [
        [total, fps, request, attempt(utils.smart_nframes, request, total, fps)]
        for total, fps in UTILS_SOURCES
        for request in UTILS_REQUESTS
    ]


def fetch_video(frames, height, width, request):
    """Runs qwen-vl-utils' fetch_video on a zero-stride clip; returns (max_pixels, [h, w])."""
    seen = {}
    clip = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(frames, 3, height, width)
    reader, resize, target = (
        utils.get_video_reader_backend,
        utils.transforms.functional.resize,
        utils.smart_resize,
    )

    def bounds(h, w, factor, min_pixels, max_pixels):
        seen["max"] = max_pixels
        return target(h, w, factor, min_pixels, max_pixels)

    def no_resize(video, size, **_):
        seen["size"] = size
        return torch.zeros(1)

    utils.VIDEO_READER_BACKENDS["zeros"] = lambda _: (clip, {}, 2.0)
    utils.get_video_reader_backend = lambda: "zeros"
    utils.transforms.functional.resize, utils.smart_resize = no_resize, bounds
    utils.fetch_video({"video": "zeros", **request}, image_patch_size=16)
    utils.get_video_reader_backend = reader
    utils.transforms.functional.resize, utils.smart_resize = resize, target
    return seen["max"], list(seen["size"])


def fetch_video_budget():
    """Rows [frames, h, w, request, max_pixels, [h', w']] of qwen-vl-utils, patch size 16."""
    return [
        [n, h, w, request, *fetch_video(n, h, w, request)]
        for n in (4, 16, 64, 300, 768)
        for h, w in CLIP_SIZES
        for request in BUDGETS
    ]


def timestamps():
    """Rows [indices, source fps, times, texts]."""
    rows = []
    for indices, fps in CLIPS:
        times = Qwen3VLProcessor._calculate_timestamps(None, list(indices), fps)
        rows.append([indices, fps, times, [f"<{t:.1f} seconds>" for t in times]])
    return rows


def rotary(**rope):
    """The text rotary embedding of the published geometry."""
    parameters = {"rope_theta": 5000000, "mrope_section": [24, 20, 20], **rope}
    maximum = 1000000 if rope["rope_type"] == "yarn" else 262144
    config = Qwen3VLTextConfig(
        hidden_size=2048,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=maximum,
        rope_parameters=parameters,
    )
    return Qwen3VLTextRotaryEmbedding(config)


def rotary_tables():
    plain = rotary(rope_type="default")
    yarn = rotary(rope_type="yarn", factor=3.0, original_max_position_embeddings=262144)
    axes = torch.arange(3.0)[:, None, None, None].expand(3, 1, 1, 64).clone()
    axes = plain.recomposition_frequencies(axes)[..., :64]
    return {
        "inv_freq_default": plain.inv_freq.tolist(),
        "inv_freq_yarn3": yarn.inv_freq.tolist(),
        "yarn3_attention_factor": yarn.attention_scaling,
        "mrope_axis_of_freq": axes.flatten().long().tolist(),
    }


def pos_interp():
    """Rows [grid, table indices, weights] of the first 12 patches; 48x48 table, block order."""
    rows = []
    for grid in GRIDS:
        ids, weights = get_vision_interpolation_indices_and_weights(
            torch.tensor([grid]), 48, "bilinear", align_corners=True, spatial_merge_size=2
        )
        rows.append([grid, ids[:12].tolist(), weights[:12].tolist()])
    return rows


def label_spans(ids):
    """Labels as qwen-vl-finetune makes them: answer, <|im_end|> and the token after it."""
    assistant, end, ignored = 77091, 151645, -100
    labels, position = [ignored] * len(ids), 0
    while position < len(ids):
        if ids[position] == assistant:
            start = stop = position + 2
            while stop < len(ids) and ids[stop] != end:
                stop += 1
            if stop < len(ids):
                labels[start : stop + 2] = ids[start : stop + 2]
                position = stop
        position += 1
    return labels


def official_tables():
    """Values recorded from the official tokenizer and templates, which are not ours to ship."""
    tables = json.loads((HERE / "official.json").read_text(encoding="utf-8"))
    recheck_tokens(tables["tokens"])
    tables["train_labels"] = [[ids, label_spans(ids)] for ids in tables.pop("train_ids")]
    return tables


def recheck_tokens(rows):
    """Compare the recorded ids with the official tokenizer where QWEN3_VL_ASSETS holds one."""
    folder = os.environ.get("QWEN3_VL_ASSETS")
    if not folder:
        return
    plain, packed = (os.path.join(folder, f"tokenizer.json{end}") for end in ("", ".xz"))
    with open(plain, "rb") if os.path.exists(plain) else lzma.open(packed) as file:
        tokenizer = Tokenizer.from_str(file.read().decode())
    for text, ids in rows:
        assert tokenizer.encode(text, add_special_tokens=False).ids == ids, text


def main():
    tables = {
        **smart_resize_tables(),
        "num_video_patches": num_video_patches(),
        **sample_frames_tables(),
        "smart_nframes": smart_nframes(),
        "timestamps": timestamps(),
        "fetch_video_budget": fetch_video_budget(),
        **rotary_tables(),
        "pos_interp": pos_interp(),
        "rope_index": rope_index.table(),
        "checks": preproc.checks(),
        **official_tables(),
    }
    write_rows(FIXTURES / "golden.json", tables)


if __name__ == "__main__":
    main()
