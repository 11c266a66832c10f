"""Writes tests/fixtures/images: small files of every kind that the image processor reads, what they must decode to, more
JPEG files (jpeg.json) with the SHA-256 of their pixels, checksums of torchvision resizes, normalisation tables of transformers, and a picture to try the program on.

    pip install pillow numpy torch torchvision transformers safetensors
    python tests/generate/images.py

Made with pillow 13.0, torch 2.15, torchvision 0.29, transformers 5.23. Encoders of other versions may write other bytes;
the expectations are always made from the files just written.
"""

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from safetensors.numpy import save
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from transformers.image_transforms import convert_to_rgb
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "images"
ORIENTATION = 0x0112
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


# ---------------------------------------------------------------------------------------------- source pictures


def scene(width, height):
    """A small picture with gradients, edges and saturated colours, different in all four corners."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 255 * x / (width - 1)
    green = 255 * y / (height - 1)
    blue = 127.5 + 127.5 * np.sin(x / 5) * np.cos(y / 7)
    image = Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((3, 3, width // 3, height // 2), fill=(250, 240, 20), outline=(0, 0, 0))
    draw.rectangle((width * 2 // 3, height // 2, width - 4, height - 5), fill=(20, 30, 160))
    return image


def alpha_plane(width, height):
    y, x = np.mgrid[0:height, 0:width]
    plane = (255 * (x + y) / (width + height - 2)).astype(np.uint8)
    plane[:4], plane[-4:] = 0, 255
    return Image.fromarray(plane)


# ---------------------------------------------------------------------------------------------- writers


def png(samples, colour, depth, interlace=False, chunks=()):
    """A PNG of the rarer kinds: `samples` is [h, w] or [h, w, c], already of the right integer range."""
    samples = np.atleast_3d(samples)
    height, width = samples.shape[:2]
    dtype = ">u2" if depth == 16 else "u1"
    passes = ADAM7 if interlace else [(0, 0, 1, 1)]
    raw = b""
    for x0, y0, dx, dy in passes:
        part = samples[y0::dy, x0::dx].astype(dtype)
        raw += b"".join(b"\0" + row.tobytes() for row in part if row.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlace))
    return assemble_png(header, [*chunks, (b"IDAT", zlib.compress(raw, 9))])


def assemble_png(header, chunks):
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in [(b"IHDR", header), *chunks, (b"IEND", b"")]:
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out


def bomb(side):
    """A valid black 1-bit PNG of side * side pixels in few bytes."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    data = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    return assemble_png(struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), [(b"IDAT", data)])


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


def adobe_transform(data, transform):
    """The same JPEG with another colour transform in its Adobe segment."""
    at = data.index(b"Adobe") + 11
    return data[:at] + bytes([transform]) + data[at + 1 :]


def without_adobe(data):
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]


def offset_gif():
    """A GIF whose only frame (20x10) lies at (5, 3) on a screen of 30x15."""
    data = bytearray(encoded(scene(20, 10).quantize(16), "GIF"))
    data[6:10] = struct.pack("<HH", 30, 15)
    at = data.index(b"\x2c", 13 + 3 * 16)
    data[at + 1 : at + 5] = struct.pack("<HH", 5, 3)
    return bytes(data)


# ---------------------------------------------------------------------------------------------- the files


def jpegs():
    small, odd = scene(40, 24), scene(61, 43)
    cmyk = encoded(odd.convert("CMYK"), "JPEG", quality=95)
    files = {f"orientation{i}.jpg": encoded(small, "JPEG", quality=92, subsampling=0, exif=exif(i)) for i in range(1, 9)}
    return files | {
        "baseline420.jpg": encoded(odd, "JPEG", quality=90, subsampling=2),
        "baseline422.jpg": encoded(odd, "JPEG", quality=90, subsampling=1),
        "baseline444.jpg": encoded(odd, "JPEG", quality=90, subsampling=0),
        "progressive.jpg": encoded(odd, "JPEG", quality=90, progressive=True),
        "restart.jpg": encoded(odd, "JPEG", quality=90, restart_marker_blocks=2),
        "grey.jpg": encoded(odd.convert("L"), "JPEG", quality=90),
        "rgb.jpg": encoded(odd, "JPEG", quality=95, keep_rgb=True),
        "cmyk.jpg": cmyk,
        "cmyk_no_adobe.jpg": without_adobe(cmyk),
        "ycck.jpg": adobe_transform(cmyk, 2),
        "one_pixel.jpg": encoded(Image.new("RGB", (1, 1), (200, 100, 50)), "JPEG"),
    }


def resampled(data, factors, width, height):
    """A baseline JPEG with other sampling factors for its first component: PIL writes only 1x1, 2x1 and 2x2. The number of
    blocks per unit and of units must stay the same; the picture is scrambled, but just as valid."""
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HHBBB", height, width, 3, 1, factors) + data[at + 12 :]


def random_jpegs():
    """[name, file]: every subsampling, colour space and coding at qualities 30 to 95 and sizes 1 to 70."""
    rng = np.random.default_rng(11)
    files = []
    for index in range(48):
        width, height = (int(v) for v in rng.integers(1, 71, 2))
        if index < 6:
            width, height = [(1, 1), (2, 1), (1, 3), (17, 16), (5, 70), (70, 3)][index]
        smooth = Image.fromarray(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
        pixels = np.array(smooth.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        image = Image.fromarray((pixels + rng.integers(-20, 21, pixels.shape)).clip(0, 255).astype(np.uint8))
        subsampling = ["4:2:0", "4:2:2", "4:4:4"][index % 3]
        options = {"quality": int(rng.integers(30, 96)), "optimize": index % 4 == 1, "progressive": index % 5 == 2}
        if index % 7 == 3:
            options["restart_marker_blocks"] = int(rng.integers(1, 4))
        kind = {8: "grey", 9: "cmyk", 10: "ycck", 11: "rgb", 15: "resampled"}.get(index % 16, "ycc")
        if kind == "grey":
            image = image.convert("L")
        elif kind in ("cmyk", "ycck"):
            image = Image.merge("CMYK", [*image.split(), image.convert("L").transpose(Image.Transpose.ROTATE_180)])
        elif kind == "rgb":
            options |= {"keep_rgb": True}
        elif kind == "resampled":
            options, subsampling = {"quality": 80}, ["4:2:2", "4:2:0", "4:2:0"][index // 16]
        data = encoded(image, "JPEG", **options, **({} if kind == "rgb" else {"subsampling": subsampling}))
        if kind == "ycck":
            data = adobe_transform(data, 2)
        if kind == "resampled":
            wide, narrow = -(-width // 16) * 32 - 3, -(-height // 16) * 8 - 1
            data = [
                lambda: resampled(data, 0x12, height, width),
                lambda: resampled(data, 0x41, wide, narrow),
                lambda: resampled(data, 0x14, narrow, wide),
            ][index // 16]()
        how = "_".join(name for name in ("optimize", "progressive", "restart_marker_blocks") if options.get(name))
        files.append([f"{index}_{kind}_{subsampling}_q{options['quality']}_{how}", data])
    return files


def jpeg_rows(photo):
    """[name, file in hexadecimal digits, or null for photo.jpg; width, height, SHA-256 of PIL's RGB]."""
    rows = []
    for name, data in [*random_jpegs(), ["photo.jpg", photo]]:
        pixels = upright_rgb(data)
        height, width = pixels.shape[:2]
        text = None if name == "photo.jpg" else data.hex()
        rows.append([name, text, width, height, hashlib.sha256(pixels.tobytes()).hexdigest()])
    return rows


def pngs():
    image, alpha = scene(37, 29), alpha_plane(37, 29)
    grey, rgb = np.array(image.convert("L")), np.array(image)
    rgba = np.dstack([rgb, np.array(alpha)])
    wide = lambda samples: samples.astype(np.uint16) * 256 + (samples[::-1] ^ 0x5A)
    palette = image.quantize(32)
    with_alpha = Image.merge("RGBA", [*image.split(), alpha])
    return {
        "rgb.png": encoded(image, "PNG"),
        "grey.png": encoded(image.convert("L"), "PNG"),
        "bilevel.png": encoded(image.convert("1"), "PNG"),
        "la.png": encoded(Image.merge("LA", [image.convert("L"), alpha]), "PNG"),
        "rgba.png": encoded(with_alpha, "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette2.png": encoded(image.quantize(4), "PNG"),
        "palette_trns.png": encoded(palette, "PNG", transparency=bytes(range(0, 256, 8))),
        "grey_trns.png": encoded(image.convert("L"), "PNG", transparency=int(grey[20, 30])),
        "rgb_trns.png": encoded(image, "PNG", transparency=tuple(int(v) for v in rgb[20, 30])),
        "grey16.png": png(wide(grey), 0, 16),
        "la16.png": png(wide(np.dstack([grey, np.array(alpha)])), 4, 16),
        "rgb16.png": png(wide(rgb), 2, 16),
        "rgba16.png": png(wide(rgba), 6, 16),
        "interlaced.png": png(rgb, 2, 8, interlace=True),
        "interlaced_rgba16.png": png(wide(rgba), 6, 16, interlace=True),
        "orientation6.png": encoded(image, "PNG", exif=exif(6)),
        "one_pixel.png": encoded(Image.new("RGB", (1, 1), (200, 100, 50)), "PNG"),
        "strip_1x500.png": encoded(Image.new("RGB", (1, 500), (200, 100, 50)), "PNG"),
    }


def others():
    image, alpha = scene(37, 29), alpha_plane(37, 29)
    rgba = Image.merge("RGBA", [*image.split(), alpha])
    cut = Image.merge("RGBA", [*image.split(), alpha.point(lambda a: 255 * (a > 127))])
    second = image.transpose(Image.Transpose.ROTATE_180)
    frames = {"save_all": True, "append_images": [second], "duration": 100}
    grey16 = Image.fromarray(np.arange(37 * 29, dtype=np.uint16).reshape(29, 37) * 61)
    return {
        "plain.gif": encoded(image.quantize(64), "GIF"),
        "transparent.gif": encoded(cut, "GIF"),
        "animated.gif": encoded(image.quantize(32), "GIF", **frames),
        "lossy.webp": encoded(image, "WEBP", quality=90),
        "lossy_alpha.webp": encoded(rgba, "WEBP", quality=90),
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "lossless_alpha.webp": encoded(rgba, "WEBP", lossless=True, exact=True),
        "animated.webp": encoded(image, "WEBP", lossless=True, **frames),
        "orientation8.webp": encoded(image, "WEBP", lossless=True, exif=exif(8)),
        "rgb.bmp": encoded(image, "BMP"),
        "grey.bmp": encoded(image.convert("L"), "BMP"),
        "palette.bmp": encoded(image.quantize(16), "BMP"),
        "bilevel.bmp": encoded(image.convert("1"), "BMP"),
        "raw.tiff": encoded(image, "TIFF"),
        "lzw.tiff": encoded(image, "TIFF", compression="tiff_lzw"),
        "deflate.tiff": encoded(image, "TIFF", compression="tiff_adobe_deflate"),
        "packbits.tiff": encoded(image, "TIFF", compression="packbits"),
        "jpeg.tiff": encoded(image, "TIFF", compression="jpeg"),
        "grey.tiff": encoded(image.convert("L"), "TIFF"),
        "grey16.tiff": encoded(grey16, "TIFF"),
        "bilevel.tiff": encoded(image.convert("1"), "TIFF"),
        "rgba.tiff": encoded(rgba, "TIFF"),
        "cmyk.tiff": encoded(image.convert("CMYK"), "TIFF"),
        "orientation5.tiff": encoded(image, "TIFF", tiffinfo={ORIENTATION: 5}),
    }


def special():
    """Files that must be refused, or (the last) that are read otherwise than PIL reads them."""
    return {
        "bomb_20000x20000.png": bomb(20000),
        "palette.tiff": encoded(scene(37, 29).quantize(16), "TIFF"),
        "offset_frame.gif": offset_gif(),
    }


# ---------------------------------------------------------------------------------------------- expectations


def upright_rgb(data):
    """What transformers makes of a PIL image, turned upright first; 16-bit grey keeps its high byte."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            return np.repeat((np.array(image) >> 8).astype(np.uint8)[..., None], 3, -1)
        return convert_to_rgb(image, return_numpy=True)


def noise(width, height, kind):
    """Pixels that the Rust test makes in the same way: a hash of the index, or blocks of 0 and 255 on a gradient."""
    i = np.arange(width * height * 3, dtype=np.uint32)
    if kind == "hash":
        i *= np.uint32(0x9E3779B1)
        i ^= i >> np.uint32(15)
        i *= np.uint32(0x85EBCA77)
        i ^= i >> np.uint32(13)
        return (i & np.uint32(255)).astype(np.uint8).reshape(height, width, 3)
    x, y = i // 3 % width, i // 3 // width
    blocks = np.where((x // 7 + y // 5) % 2 == 0, 255 * ((x // 7) % 2), (x * 3 + y * 2 + i % 3 * 40) % 256)
    return blocks.astype(np.uint8).reshape(height, width, 3)


def resize_rows():
    """[source width, height, target width, height, kind, CRC-32 of the resized bytes]."""
    rng = np.random.default_rng(7)
    sizes = [(1, 1, 256, 256), (2, 3, 64, 96), (640, 480, 640, 480), (333, 200, 333, 160), (200, 333, 160, 333)]
    sizes += [(1300, 970, 1312, 960), (500, 3, 3648, 32), (33, 1000, 32, 64), (63, 65, 64, 64), (1920, 1080, 448, 256)]
    sizes += [tuple(int(v) for v in np.exp(rng.uniform(np.log(4), np.log(600), 4))) for _ in range(40)]
    rows = []
    for index, (width, height, to_width, to_height) in enumerate(sizes):
        kind = ["hash", "blocks"][index % 2]
        source = torch.from_numpy(noise(width, height, kind)).permute(2, 0, 1).contiguous()
        resized = tvF.resize(source, [to_height, to_width], interpolation=InterpolationMode.BICUBIC, antialias=True)
        crc = zlib.crc32(resized.permute(1, 2, 0).contiguous().numpy().tobytes())
        rows.append([width, height, to_width, to_height, kind, crc])
    return rows


def normalisation_tables():
    """name -> [3, 256]: every sample value through transformers' rescale_and_normalize."""
    clip = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}
    half = {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}
    cases = {
        "published": {"do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, **half},
        "clip": {"do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, **clip},
        "clip_127": {"do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 127.5, **clip},
        "rescale_only": {"do_rescale": True, "do_normalize": False, "rescale_factor": 1 / 255, **half},
        "normalize_only": {"do_rescale": False, "do_normalize": True, "rescale_factor": 1 / 255, **clip},
    }
    ramp = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    processor = Qwen2VLImageProcessor()
    run = lambda case: processor.rescale_and_normalize(ramp.clone(), **case).reshape(3, 256).to(torch.float32)
    return {f"normalize.{name}": run(case).numpy() for name, case in cases.items()}


# ---------------------------------------------------------------------------------------------- a photograph-like picture


def fractal(rng, width, height, cells, octaves):
    """Smooth noise in 0..1."""
    total = np.zeros((height, width))
    for octave in range(octaves):
        across, down = cells[0] << octave, cells[1] << octave
        grid = Image.fromarray(rng.random((down + 1, across + 1)).astype(np.float32))
        total += np.array(grid.resize((width, height), Image.Resampling.BICUBIC)) * 0.5**octave
    return (total - total.min()) / (total.max() - total.min())


def mix(a, b, t):
    return np.asarray(a, float) * (1 - t[..., None]) + np.asarray(b, float) * t[..., None]


def sky(rng, width, height):
    y, x = np.mgrid[0:height, 0:width].astype(float)
    down = np.clip(y / height, 0, 1)
    colours = mix([62, 104, 168], [246, 178, 120], down**1.3)
    distance = np.hypot(x - width * 0.68, y - height * 0.66)
    colours += np.exp(-distance / 90)[..., None] * np.array([110, 80, 30])
    clouds = np.clip(fractal(rng, width, height, (3, 7), 6) * 2.2 - 1.05, 0, 1)
    colours = mix(colours, mix([255, 214, 190], [176, 140, 160], down), clouds * 0.75)
    disc = np.clip((26 - distance) / 2, 0, 1)
    return mix(colours, [255, 246, 214], disc)


def ridge(rng, width, base, swing, roughness):
    """Height of a mountain line for every column."""
    line = fractal(rng, width, 8, (roughness, 1), 7)[4]
    return base - swing * line


def hills(rng, picture, horizon):
    height, width = picture.shape[:2]
    y = np.arange(height)[:, None]
    layers = [(78, 3, (122, 128, 158)), (54, 4, (88, 98, 124)), (34, 5, (52, 70, 76)), (20, 7, (30, 48, 40))]
    for swing, roughness, colour in layers:
        line = ridge(rng, width, horizon - 4, swing * 1.6, roughness)
        cover = np.clip(y - line, 0, 1) * (y <= horizon)
        texture = fractal(rng, width, height, (40, 30), 3) * 26 - 13
        haze = np.clip((y - line) / 90, 0, 1)
        shade = mix(np.array(colour) + texture[..., None], [206, 164, 140], haze * 0.35)
        picture = mix(picture, shade, cover)
    return picture


def lake(rng, picture, horizon):
    """Mirrors what is above the horizon, rippled, darker and bluer."""
    height, width = picture.shape[:2]
    depth = np.arange(height - horizon)
    ripple = fractal(rng, width, height - horizon, (10, 60), 4) - 0.5
    rows = horizon - 1 - np.clip(depth[:, None] * 0.95 + ripple * (2 + depth[:, None] * 0.10), 0, horizon - 1)
    columns = np.clip(np.arange(width) + ripple * (1 + depth[:, None] * 0.12), 0, width - 1)
    mirrored = picture[rows.astype(int), columns.astype(int)]
    water = mix(mirrored * 0.86, [40, 62, 88], np.broadcast_to(0.12 + 0.4 * depth[:, None] / len(depth), ripple.shape))
    picture[horizon:] = water + (ripple * 22)[..., None]
    picture[horizon - 1 : horizon + 1] *= 0.7
    return picture


def fir(draw, rng, x, foot, size):
    for level in range(9):
        top = foot - size + size * level * 0.105
        spread = size * (0.05 + 0.026 * level)
        green = (int(rng.integers(14, 30)), int(rng.integers(30, 50)), int(rng.integers(18, 32)))
        left, right = rng.uniform(0.85, 1.15, 2) * spread
        drop = size * 0.17
        draw.polygon([(x, top), (x - left, top + drop), (x + right, top + drop)], fill=green)
    draw.rectangle((x - size * 0.02, foot - size * 0.1, x + size * 0.02, foot), fill=(44, 32, 24))


def shore(rng, image):
    """Grass and firs in the foreground."""
    width, height = image.size
    draw = ImageDraw.Draw(image)
    line = ridge(rng, width, height - 18, 46, 3) + np.abs(np.linspace(-1, 1, width)) * -26
    draw.polygon([(0, height), *enumerate(line + 5), (width, height)], fill=(44, 58, 28))
    for x in range(width):
        for _ in range(3):
            y = line[x] + rng.uniform(0, height - line[x])
            green = (int(rng.integers(36, 84)), int(rng.integers(52, 96)), int(rng.integers(20, 44)))
            draw.line((x, y - rng.uniform(3, 11), x + rng.uniform(-2, 2), y + 14), fill=green)
    trees = [(42, 190), (92, 132), (128, 88), (560, 150), (604, 214), (528, 92), (632, 120)]
    for x, size in sorted(trees, key=lambda tree: tree[1]):
        fir(draw, rng, x, line[min(x, width - 1)] + 16, size)
    return image


def photo(width=640, height=480, horizon=292):
    rng = np.random.default_rng(20)
    picture = np.concatenate([sky(rng, width, horizon), np.zeros((height - horizon, width, 3))])
    picture = lake(rng, hills(rng, picture, horizon), horizon)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    image = shore(rng, image).filter(ImageFilter.GaussianBlur(0.6))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = 1 - 0.22 * (x**2 + y**2) / 2
    grain = rng.normal(0, 3.0, (height, width, 1))
    return Image.fromarray(np.clip(np.array(image) * vignette[..., None] + grain, 0, 255).astype(np.uint8))


# ---------------------------------------------------------------------------------------------- main


def main():
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    readable = jpegs() | pngs() | others()
    expected = {name: np.ascontiguousarray(upright_rgb(data)) for name, data in readable.items()}
    picture = encoded(photo(), "JPEG", quality=90, subsampling=2, optimize=True)
    for name, data in (readable | special() | {"photo.jpg": picture}).items():
        (OUT / name).write_bytes(data)
    (OUT / "expected.safetensors").write_bytes(save(expected | normalisation_tables()))
    rows = ",\n".join(json.dumps(row) for row in resize_rows())
    (OUT / "resize.json").write_text(f"[\n{rows}\n]\n")
    rows = ",\n".join(json.dumps(row) for row in jpeg_rows(picture))
    (OUT / "jpeg.json").write_text(f"[\n{rows}\n]\n")
    total = sum(path.stat().st_size for path in OUT.iterdir())
    print(f"{len(readable)} readable files, photo {len(picture)} bytes, {total} bytes in all")


if __name__ == "__main__":
    main()
