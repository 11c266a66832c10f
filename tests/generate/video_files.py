"""Makes the tiny videos in tests/fixtures/videos with an FFmpeg test source (a zoom in which no frame is like another), and `videos.json` with what FFmpeg
finds in them: times by ffprobe, and every frame as rgb24 (sha256 of each, and the frames themselves, compressed,
in `frames.bin`, for decoders that may differ by 3).

Needs `ffmpeg` and `ffprobe` with libx264, libx265 and libwebp_anim. Run: python3 tests/generate/video_files.py
"""

import hashlib
import json
import subprocess
import zlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "videos"
X264 = "-c:v libx264 -pix_fmt yuv420p -threads 1 -bitexact -x264-params "
FLAT = X264 + "bframes=0:keyint=6 "

# name: (size, frames, options)
VIDEOS = {
    "constant25.mp4": ("48x32", 12, FLAT),
    "ntsc.mp4": ("48x32", 7, "-r 30000/1001 " + FLAT),
    "variable.mp4": ("48x32", 9, "-vf select='not(mod(n,3))+not(mod(n,5))' -vsync vfr " + FLAT),
    "bt709.mp4": ("48x32", 3, "-colorspace bt709 -color_primaries bt709 -color_trc bt709 " + FLAT),
    "full_range.mp4": ("48x32", 3, "-vf scale=out_range=full -color_range pc " + FLAT),
    "single.mp4": ("48x32", 1, FLAT),
    "cropped.mp4": ("50x34", 3, FLAT),
    "fragmented.mp4": ("48x32", 9, "-movflags frag_keyframe+empty_moov+default_base_moof " + FLAT),
    "faststart.mp4": ("48x32", 12, "-movflags +faststart " + FLAT),
    "reordered.mp4": (
        "48x32",
        17,
        X264 + "open-gop=1:keyint=8:bframes=3:b-adapt=0:b-pyramid=normal:ref=3:no-deblock=1",
    ),
    "main_profile.mp4": ("48x32", 9, "-profile:v main " + X264 + "bframes=2:no-deblock=1"),
    "film.mkv": ("48x32", 7, X264 + "bframes=2"),
    "hevc.mp4": ("48x32", 5, "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none:info=0"),
    "animation.gif": ("32x24", 6, "-vf select='lt(mod(n,4),2)' -vsync vfr -loop 0"),
    "animation.apng": ("32x24", 5, "-f apng -plays 0"),
    "animation.webp": ("32x24", 5, "-c:v libwebp_anim -lossless 1 -loop 0"),
}


def run(*arguments: str) -> bytes:
    return subprocess.run(arguments, check=True, capture_output=True).stdout


def make(name: str, size: str, frames: int, options: str) -> None:
    source = ["-f", "lavfi", "-i", f"mandelbrot=s={size}:r=25:start_scale=3:end_scale=0.3:end_pts=16"]
    path = str(FOLDER / name)
    run("ffmpeg", "-v", "error", "-y", *source, "-frames:v", str(frames), *options.split(), path)


def derived() -> None:
    """Files that are made of others: turned by the track's matrix, cut by an edit list, sound only."""
    copy = ["ffmpeg", "-v", "error", "-y", "-i", str(FOLDER / "constant25.mp4"), "-c", "copy", "-bitexact"]
    # The muxer counts anticlockwise: this is what a phone held upright writes, a quarter turn clockwise to show.
    run(*copy, "-metadata:s:v:0", "rotate=270", str(FOLDER / "rotated90.mp4"))
    cut = ["ffmpeg", "-v", "error", "-y", "-ss", "0.12", "-i", str(FOLDER / "constant25.mp4")]
    run(*cut, "-t", "0.2", "-c", "copy", "-bitexact", str(FOLDER / "edited.mp4"))
    sound = ["-f", "lavfi", "-i", "sine=d=0.1:r=8000", "-c:a", "aac", "-bitexact"]
    run("ffmpeg", "-v", "error", "-y", *sound, str(FOLDER / "sound_only.m4a"))


def facts(name: str) -> tuple[dict, bytes]:
    path = str(FOLDER / name)
    entries = "stream=width,height,avg_frame_rate,codec_name:frame=best_effort_timestamp_time"
    probe = json.loads(
        run("ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", "json", path)
    )
    stream = probe["streams"][0]
    width, height = stream["width"], stream["height"]
    if name.startswith("rotated90"):
        width, height = height, width
    raw = run("ffmpeg", "-v", "error", "-i", path, "-vsync", "0", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    size = width * height * 3
    frames = [raw[i : i + size] for i in range(0, len(raw), size)]
    times = [float(frame["best_effort_timestamp_time"]) for frame in probe["frames"]]
    assert len(times) == len(frames), name
    num, den = map(int, stream["avg_frame_rate"].split("/"))
    known = {
        "width": width,
        "height": height,
        "codec": stream["codec_name"],
        "rate": [num, den],
        "times": [round(time - times[0], 6) for time in times],
        "sha256": [hashlib.sha256(frame).hexdigest() for frame in frames],
    }
    return known, raw


def animated_webp() -> tuple[dict, bytes]:
    """FFmpeg 5 cannot read animated WebP; Pillow can."""
    from PIL import Image, ImageSequence

    image = Image.open(FOLDER / "animation.webp")
    frames, times, now = [], [], 0
    for frame in ImageSequence.Iterator(image):
        frames.append(frame.convert("RGB").tobytes())
        times.append(now / 1000)
        now += frame.info["duration"]
    known = {
        "width": image.width,
        "height": image.height,
        "codec": "webp",
        "rate": [len(frames) * 1000, now],
        "times": times,
        "sha256": [hashlib.sha256(frame).hexdigest() for frame in frames],
    }
    return known, b"".join(frames)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (size, frames, options) in VIDEOS.items():
        make(name, size, frames, options)
    derived()
    known, packed = {}, b""
    for name in [*VIDEOS, "rotated90.mp4", "edited.mp4"]:
        known[name], raw = animated_webp() if name.endswith(".webp") else facts(name)
        # Decoders may differ by 3 (animated WebP: by 1 where Rust's decoder blends opaque pixels).
        if known[name]["codec"] in ("h264", "webp"):
            # Kept whole: the last frame, and of some the one in the middle.
            size = known[name]["width"] * known[name]["height"] * 3
            count = len(raw) // size
            both = name.startswith(("constant", "variable", "reordered", "animation"))
            kept = sorted({count // 2, count - 1}) if both else [count - 1]
            data = zlib.compress(b"".join(raw[i * size : (i + 1) * size] for i in kept), 9)
            known[name]["stored"] = {"frames": kept, "offset": len(packed), "bytes": len(data)}
            packed += data
    (FOLDER / "frames.bin").write_bytes(packed)
    (FOLDER / "videos.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
