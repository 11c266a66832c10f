"""e2e_videos.json: requests with videos as transformers answers them, greedily in float32.

Frames come from FFmpeg's own conversion to RGB, times from the frame index and the rate. The layout `hf5` is what the
processor of transformers 5 writes; `hf4` (transformers 4.57) is built from its text.
"""

import subprocess

import numpy
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata

from common import FIXTURES, write_rows
from e2e import WORDINGS, Reference, answer_facts, is_clear, versions

START, END = "<|vision_start|>", "<|vision_end|>"


def film(name, **sampling):
    return {"type": "video", "video": f"videos/{name}", **sampling}


def picture(name):
    return {"type": "image", "image": f"e2e/{name}"}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(value):
    return {"type": "text", "text": value}


REQUESTS = {
    "default_rate": lambda w: [user(film("constant25.mp4"), text(w))],
    "odd_count": lambda w: [user(film("constant25.mp4", num_frames=7), text(w))],
    "rate": lambda w: [user(film("constant25.mp4", fps=12.5), text(w))],
    "ntsc": lambda w: [user(film("ntsc.mp4", num_frames=5), text(w))],
    "rotated": lambda w: [user(text(w), film("rotated90.mp4", num_frames=2))],
    "matroska": lambda w: [user(film("film.mkv", num_frames=4), text(w))],
    "mixed": lambda w: [
        user(picture("blocks.png"), film("bt709.mp4", num_frames=3), text(w), picture("waves.png"))
    ],
    "turns": lambda w: [
        user(film("cropped.mp4", num_frames=2), text("What is this?")),
        {"role": "assistant", "content": "A test."},
        user(text(w), film("constant25.mp4", num_frames=4)),
    ],
}


def probe(path):
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets"]
    entries = "stream=avg_frame_rate,nb_read_packets"
    command += ["-show_entries", entries, "-of", "csv=p=0", str(path)]
    rate, count = subprocess.run(command, check=True, capture_output=True).stdout.decode().split(",")[:2]
    top, bottom = rate.split("/")
    return int(top) / int(bottom), int(count)


def decoded(name, size):
    """Every frame as FFmpeg converts it, [n, h, w, 3]."""
    command = ["ffmpeg", "-v", "error", "-i", str(FIXTURES / name), "-fps_mode", "passthrough"]
    command += ["-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    return numpy.frombuffer(data, numpy.uint8).reshape(-1, size[1], size[0], 3)


def frame_size(name):
    """Width and height after rotation."""
    command = ["ffmpeg", "-v", "error", "-i", str(FIXTURES / name), "-frames:v", "1"]
    command += ["-f", "image2pipe", "-c:v", "bmp", "-"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    import io

    return Image.open(io.BytesIO(data)).size


def parts(messages):
    return [p for m in messages if isinstance(m["content"], list) for p in m["content"]]


def video_inputs(reference, part):
    """Pixel rows, grid and times of one video."""
    name = part["video"]
    frames = decoded(name, frame_size(name))
    rate, count = probe(FIXTURES / name)
    assert len(frames) == count, (name, len(frames), count)
    metadata = VideoMetadata(total_num_frames=count, fps=rate, duration=count / rate)
    sampling = {k: part[k] for k in ("fps", "num_frames") if k in part}
    if "num_frames" in sampling:
        sampling["fps"] = None
    array = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)
    out = reference.processor.video_processor(
        [array], video_metadata=[metadata], return_metadata=True, return_tensors="pt", **sampling
    )
    indices = [int(i) for i in out["video_metadata"][0].frames_indices]
    padded = indices + indices[-1:] * (len(indices) % 2)
    times = [(a + b) / rate / 2 for a, b in zip(padded[::2], padded[1::2])]
    return out["pixel_values_videos"], out["video_grid_thw"], times, indices


def groups(grid, times, merge):
    pads = int(grid[0, 1] * grid[0, 2]) // merge**2
    return "".join(f"<{t:.1f} seconds>{START}{'<|video_pad|>' * pads}{END}" for t in times)


def inputs_of(reference, messages, layout):
    images = [p for p in parts(messages) if p["type"] == "image"]
    videos = [video_inputs(reference, p) for p in parts(messages) if p["type"] == "video"]
    prompt, merge = reference.prompt(messages), reference.processor.image_processor.merge_size
    for _, grid, times, _ in videos:
        body = groups(grid, times, merge).replace("<|video_pad|>", "<|PAD|>")
        body = body if layout == "hf4" else START + body + END
        prompt = prompt.replace(f"{START}<|video_pad|>{END}", body, 1)
    inputs = {}
    if images:
        opened = [Image.open(FIXTURES / p["image"]).convert("RGB") for p in images]
        found = reference.processor.image_processor(opened, return_tensors="pt")
        inputs.update(found)
        for grid in found["image_grid_thw"].tolist():
            count = grid[0] * grid[1] * grid[2] // merge**2
            prompt = prompt.replace("<|image_pad|>", "<|IMG|>" * count, 1)
    prompt = prompt.replace("<|PAD|>", "<|video_pad|>").replace("<|IMG|>", "<|image_pad|>")
    ids = reference.processor.tokenizer(prompt, return_tensors="pt")
    inputs.update(ids)
    inputs["mm_token_type_ids"] = torch.tensor(
        [[{505: 1, 506: 2}.get(i, 0) for i in ids["input_ids"][0].tolist()]]
    )
    inputs["pixel_values_videos"] = torch.cat([v[0] for v in videos])
    inputs["video_grid_thw"] = torch.cat([v[1] for v in videos])
    return inputs, videos


def record(reference, name, build, wording, layout):
    messages = build(wording)
    inputs, videos = inputs_of(reference, messages, layout)
    ids, _, margins = reference.generate(inputs)
    if not is_clear(ids, margins):
        return None
    return {
        "model": reference.name,
        "name": name,
        "layout": layout,
        "messages": messages,
        "prompt_token_ids": inputs["input_ids"][0].tolist(),
        "video_grid_thw": inputs["video_grid_thw"].tolist(),
        "frame_indices": [v[3] for v in videos],
        "timestamps": [[f"{t:.1f}" for t in v[2]] for v in videos],
        **answer_facts(reference, {}, ids, margins),
    }


def main():
    rows = []
    for model in ("dense_tied", "dense_untied", "moe"):
        reference = Reference(model)
        for index, (name, build) in enumerate(REQUESTS.items()):
            layout = ("hf4", "hf5")[index % 2]
            found = (record(reference, name, build, w, layout) for w in WORDINGS)
            row = next((row for row in found if row), None)
            if row is None:
                print(f"{model}/{name}: no wording gives a clear answer")
                continue
            rows.append(row)
    write_rows(FIXTURES / "e2e_videos.json", {"versions": versions(), "requests": rows})


if __name__ == "__main__":
    main()
