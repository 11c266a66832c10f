"""Small lossless RGB pictures for the end-to-end requests: fixtures/e2e/*.png."""

import numpy as np
from PIL import Image

from common import FIXTURES

FOLDER = FIXTURES / "e2e"
SEED = 5


def plane(width, height):
    """Coordinates 0..1 of every pixel, [H,W] each."""
    y, x = np.mgrid[0:height, 0:width]
    return x / (width - 1), y / (height - 1)


def gradient(width, height):
    """A colour ramp with a bright disc."""
    x, y = plane(width, height)
    disc = ((x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.05) * 90
    return np.stack([40 + 150 * x + disc, 30 + 190 * y, 210 - 120 * x * y], -1)


def waves(width, height):
    """Rings and stripes: fine detail that a wrong resize would change."""
    x, y = plane(width, height)
    rings = np.sin(40 * np.hypot(x - 0.7, y - 0.2))
    return np.stack([128 + 120 * rings, 128 + 120 * np.cos(25 * x), 255 * (x + y) / 2], -1)


def blocks(width, height):
    """Hard edges of a few flat colours with a little grain."""
    x, y = plane(width, height)
    cell = (5 * x).astype(int) * 7 + (4 * y).astype(int) * 11
    grain = np.random.RandomState(SEED).randint(-6, 7, (height, width))
    return np.stack([(37 * cell) % 256, (91 * cell) % 256, (53 * cell) % 256 + grain], -1)


def tower(width, height):
    """A light shape on a dark ground."""
    x, y = plane(width, height)
    body = (abs(x - 0.5) < 0.12 + 0.2 * y) & (y > 0.25)
    return np.stack([60 + 160 * body, 50 + 120 * body + 30 * y, 90 + 60 * (1 - y)], -1)


# Name to painter, width and height; no side is a multiple of 32.
PICTURES = {
    "gradient.png": (gradient, 90, 70),
    "waves.png": (waves, 130, 50),
    "blocks.png": (blocks, 61, 111),
    "tower.png": (tower, 203, 148),
}


def paint(name):
    painter, width, height = PICTURES[name]
    return np.clip(np.rint(painter(width, height)), 0, 255).astype(np.uint8)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        Image.fromarray(paint(name)).save(FOLDER / name, compress_level=9)


if __name__ == "__main__":
    main()
