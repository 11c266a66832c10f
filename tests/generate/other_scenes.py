"""The nano checkpoint's task, drawn by another program: `python other_scenes.py OUT ROWS_PER_CHANNEL SEED [FONTS]`.

Pillow draws with or without 4 x 4 samples per pixel and saves JPEG of quality 80. Sizes, aspect ratios, typefaces (DejaVu), colours,
proportions and phrasings are this file's own; only the wording of the answers is that of `qwen3-vl train synth`. Writes
OUT/data.jsonl with one question per row, and pictures and frames beside it. FONTS is a folder with DejaVu*.ttf; without it those
of matplotlib, if installed, or of the system are taken.
"""

import json
import math
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = {
    "red": [(255, 0, 0), (214, 39, 40), (231, 76, 60)],
    "green": [(0, 128, 0), (44, 160, 44), (39, 174, 96)],
    "blue": [(0, 0, 255), (31, 80, 200), (41, 98, 255)],
    "yellow": [(255, 255, 0), (255, 221, 30), (241, 220, 15)],
    "orange": [(255, 165, 0), (255, 127, 14), (243, 135, 18)],
    "purple": [(128, 0, 128), (125, 60, 170), (106, 27, 154)],
    "pink": [(255, 192, 203), (255, 105, 180), (244, 143, 177)],
    "cyan": [(0, 255, 255), (23, 200, 215), (0, 212, 230)],
    "brown": [(121, 70, 35), (109, 76, 50), (139, 69, 19)],
    "gray": [(128, 128, 128), (120, 122, 124), (140, 140, 140)],
    "black": [(0, 0, 0), (16, 16, 16), (10, 10, 14)],
    "white": [(255, 255, 255), (248, 248, 248), (250, 250, 246)],
}
SHAPES = ["circle", "square", "rectangle", "triangle", "star", "diamond", "cross", "heart"]
GROUNDS = [
    (255, 255, 255), (245, 245, 220), (0, 0, 0), (30, 30, 46), (200, 220, 240), (40, 60, 40), (180, 180, 180),
    (240, 200, 200), (90, 60, 120), (135, 206, 235), (60, 60, 60), (210, 240, 210), (255, 240, 200), (20, 60, 110),
]
NUMBERS = ["no", "one", "two", "three", "four"]
FPS = 4.0


def plural(shape):
    return shape + "es" if shape == "cross" else shape + "s"


def article(name):
    return ("an " if name[0] in "aeiou" else "a ") + name


def listed(parts):
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def contrast(one, two):
    """Distance that weighs channels as eyes do, 0 to 765."""
    mean = (one[0] + two[0]) / 2
    r, g, b = (one[c] - two[c] for c in range(3))
    return math.sqrt((2 + mean / 256) * r * r + 4 * g * g + (2 + (255 - mean) / 256) * b * b)


def ground_for(rng, colours, least=150):
    fitting = [g for g in GROUNDS if all(contrast(g, c) >= least for c in colours)]
    return rng.choice(fitting) if fitting else None


def outline(shape, rng):
    """Polygons in a square of side 2 around the origin; a circle is None."""
    if shape == "circle":
        return None
    if shape == "square":
        return [[(-1, -1), (1, -1), (1, 1), (-1, 1)]]
    if shape == "rectangle":
        a = 1 / rng.uniform(1.6, 2.4)
        flat = [(-1, -a), (1, -a), (1, a), (-1, a)]
        return [flat if rng.random() < 0.6 else [(y, x) for x, y in flat]]
    if shape == "triangle":
        return [[(0, -0.87), (1, 0.87), (-1, 0.87)]]
    if shape == "diamond":
        a = rng.choice([0.7, 0.85, 1.0])
        return [[(0, -1), (a, 0), (0, 1), (-a, 0)]]
    if shape == "cross":
        a = rng.choice([0.25, 0.33])
        return [[(-a, -1), (a, -1), (a, 1), (-a, 1)], [(-1, -a), (1, -a), (1, a), (-1, a)]]
    if shape == "star":
        inner = rng.choice([0.382, 0.45])
        spikes = [(1 if k % 2 == 0 else inner, math.pi * k / 5) for k in range(10)]
        return [[(r * math.sin(t), -r * math.cos(t)) for r, t in spikes]]
    t = [2 * math.pi * k / 90 for k in range(90)]  # the usual heart curve
    x = [16 * math.sin(u) ** 3 / 16 for u in t]
    y = [-(13 * math.cos(u) - 5 * math.cos(2 * u) - 2 * math.cos(3 * u) - math.cos(4 * u)) / 16 for u in t]
    return [list(zip(x, y))]


class Thing:
    def __init__(self, rng, colour, shape, size):
        self.colour, self.shape = colour, shape
        self.rgb = rng.choice(COLOURS[colour])
        polygons = outline(shape, rng)
        self.polygons = polygons and [[(x * size / 2, y * size / 2) for x, y in p] for p in polygons]
        if polygons is None:
            self.rect = (-size / 2, -size / 2, size / 2, size / 2)
        else:
            xs, ys = zip(*(point for p in self.polygons for point in p))
            self.rect = (min(xs), min(ys), max(xs), max(ys))
        self.at = (0, 0)

    @property
    def name(self):
        return f"{self.colour} {self.shape}"

    def box(self):
        x, y = self.at
        return (self.rect[0] + x, self.rect[1] + y, self.rect[2] + x, self.rect[3] + y)

    def centre(self):
        a, b, c, d = self.box()
        return ((a + c) / 2, (b + d) / 2)

    def draw(self, draw, scale):
        x, y = self.at
        if self.polygons is None:
            draw.ellipse([v * scale for v in self.box()], fill=self.rgb)
        for polygon in self.polygons or []:
            draw.polygon([((px + x) * scale, (py + y) * scale) for px, py in polygon], fill=self.rgb)


class Scene:
    def __init__(self, rng, kinds, size=None):
        self.size = size or any_size(rng)
        self.scale = rng.choice([1, 4])
        self.noise = rng.choice([0, 0, 0, 10, 20])
        self.text = None
        while True:
            self.things = arranged(rng, kinds, self.size)
            self.ground = self.things and ground_for(rng, [t.rgb for t in self.things], 150 + 1.5 * self.noise)
            if self.ground:
                return

    def draw(self, rng):
        return drawn(rng, self.size, self.scale, self.ground, self.noise, self.things, self.text)

    def count(self, wanted):
        return sum(1 for t in self.things if wanted(t))


def drawn(rng, size, scale, ground, noise, things, text=None):
    image = Image.new("RGB", (size[0] * scale, size[1] * scale), ground)
    draw = ImageDraw.Draw(image)
    for thing in things:
        thing.draw(draw, scale)
    if text:
        content, font, at, rgb = text
        draw.text((at[0] * scale, at[1] * scale), content, font=font_at(font, scale), fill=rgb)
    if scale > 1:
        image = image.resize(size, Image.LANCZOS)
    if noise:
        grain = np.random.default_rng(rng.getrandbits(63)).normal(0, noise, (size[1], size[0], 1))
        image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).round().astype(np.uint8))
    return image


def any_size(rng):
    short = rng.randint(110, 360)
    long = min(640, int(short * rng.choice([1, 1, 4 / 3, 1.5, 16 / 9, 2])))
    return rng.choice([(short, long), (long, short)])


def arranged(rng, kinds, size):
    """Objects apart from each other, from left to right; None where chance left no room."""
    side, things = min(size), []
    largest = [0.5, 0.4, 0.33, 0.3][len(kinds) - 1]
    for colour, shape in kinds:
        for _ in range(60):
            thing = Thing(rng, colour, shape, rng.uniform(max(0.15 * side, 18), max(largest * side, 19)))
            a, b, c, d = thing.rect
            if c - a > size[0] - 6 or d - b > size[1] - 6:
                continue
            thing.at = (rng.uniform(3 - a, size[0] - 3 - c), rng.uniform(3 - b, size[1] - 3 - d))
            box, gap = thing.box(), side * 0.03
            clear = all(
                (box[0] > o[2] + gap or o[0] > box[2] + gap or box[1] > o[3] + gap or o[1] > box[3] + gap)
                for o in (t.box() for t in things)
            )
            apart = all(abs(thing.centre()[0] - t.centre()[0]) > 0.06 * size[0] for t in things)
            if clear and apart:
                things.append(thing)
                break
        else:
            return None
    return sorted(things, key=lambda t: t.centre()[0])


def any_kinds(rng, count):
    if rng.random() < 0.35:  # some shapes or colours come twice
        shapes, colours = rng.sample(SHAPES, 2), rng.sample(list(COLOURS), 2)
        return [(rng.choice(colours), rng.choice(shapes)) for _ in range(count)]
    return list(zip(rng.sample(list(COLOURS), count), rng.sample(SHAPES, count)))


def any_scene(rng):
    return Scene(rng, any_kinds(rng, rng.randint(1, 4)))


# Questions: each returns (media, question, answer), or None where the drawn scene has no clear answer.


def contents(scene):
    seen = {}
    for thing in scene.things:
        seen.setdefault((thing.colour, thing.shape), []).append(thing)
    parts = []
    for (colour, shape), same in seen.items():
        many = f"{NUMBERS[len(same)]} {colour} {plural(shape)}" if len(same) > 1 else article(f"{colour} {shape}")
        parts.append(many)
    return listed(parts)


def describe(rng):
    scene = any_scene(rng)
    text = contents(scene)
    verb = "are" if text.split()[0] in NUMBERS[2:] else "is"
    asked = ["What can be seen in this picture?", "Describe the image.", "Which things are in the picture?", "What do you see here?"]
    return scene, rng.choice(asked), f"There {verb} {text}."


def color(rng):
    scene = any_scene(rng)
    thing = rng.choice(scene.things)
    if scene.count(lambda t: t.shape == thing.shape) > 1:
        return None
    asked = ["What is the color of the {}?", "Which colour is the {}?", "Please tell me what color the {} has.", "The {} is of what colour?"]
    return scene, rng.choice(asked).format(thing.shape), f"The {thing.shape} is {thing.colour}."


def shape(rng):
    scene = any_scene(rng)
    thing = rng.choice(scene.things)
    if scene.count(lambda t: t.colour == thing.colour) > 1:
        return None
    asked = ["What shape does the {} object have?", "Which shape is {}?", "Tell me the shape of the {} object.", "What is the {} thing?"]
    return scene, rng.choice(asked).format(thing.colour), f"The {thing.colour} object is {article(thing.shape)}."


def count(rng):
    scene = any_scene(rng)
    form = rng.randrange(4)
    seed = rng.choice(scene.things)
    colour = seed.colour if rng.random() < 0.8 else rng.choice(list(COLOURS))
    kind = seed.shape if rng.random() < 0.8 else rng.choice(SHAPES)
    if form <= 1:
        one, many, found = "object", "objects", len(scene.things)
    elif form == 2:
        one, many, found = kind, plural(kind), scene.count(lambda t: t.shape == kind)
    else:
        one, many = f"{colour} object", f"{colour} objects"
        found = scene.count(lambda t: t.colour == colour)
    asked = ["How many {} are in this picture?", "Count all the {}.", "What number of {} do you see?", "How many {} can be seen?"]
    answer = f"There is one {one}." if found == 1 else f"There are {NUMBERS[found]} {many}."
    return scene, rng.choice(asked).format(many), answer


WAYS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def relation(rng):
    scene = Scene(rng, any_kinds(rng, rng.randint(2, 4)))
    one, two = rng.sample(scene.things, 2)
    if any(scene.count(lambda t: t.name == o.name) > 1 for o in (one, two)):
        return None
    dx, dy = (a - b for a, b in zip(one.centre(), two.centre()))
    clear = 0.2 * min(scene.size)
    if abs(dx) > max(1.6 * abs(dy), clear):
        way = "left" if dx < 0 else "right"
    elif abs(dy) > max(1.6 * abs(dx), clear):
        way = "above" if dy < 0 else "below"
    else:
        return None
    fact = f"the {one.name} is {WAYS[way]} the {two.name}."
    if rng.random() < 0.5:
        yes = rng.random() < 0.5
        said = WAYS[way if yes else OPPOSITE[way]]
        asked = ["Is the {0} {2} the {1}?", "Is it true that the {0} is {2} the {1}?"]
        return scene, rng.choice(asked).format(one.name, two.name, said), ("Yes, " if yes else "No, ") + fact
    asked = ["Where is the {0} relative to the {1}?", "Where is the {0} in relation to the {1}?", "Seen from the {1}, where is the {0}?"]
    return scene, rng.choice(asked).format(one.name, two.name), "T" + fact[1:]


def box(rng):
    scene = any_scene(rng)
    thing = rng.choice(scene.things)
    if rng.random() < 0.4:
        found = scene.things
        question = rng.choice(["Locate every object in the image, report bbox coordinates in JSON format.", "Give the bounding boxes of all objects."])
    else:
        found = [t for t in scene.things if t.name == thing.name]
        if len(found) > 1:
            return None
        asked = ["Outline the position of the {} and output all the coordinates in JSON format.", "Find the {} and return its bounding box.", "Bounding box of the {}?"]
        question = rng.choice(asked).format(thing.name)
    boxes = []
    for t in found:
        limits = [v / scene.size[k % 2] * 1000 for k, v in enumerate(t.box())]
        boxes.append({"bbox_2d": [min(1000, max(0, round(v))) for v in limits], "label": t.name})
    return scene, question, json.dumps(boxes)


def exists(rng):
    scene = any_scene(rng)
    thing = rng.choice(scene.things)
    yes = rng.random() < 0.5
    colour, kind = thing.colour, thing.shape
    if not yes:
        colour, kind = rng.choice([(colour, rng.choice(SHAPES)), (rng.choice(list(COLOURS)), kind)])
    name = f"{colour} {kind}"
    if yes != any(t.name == name for t in scene.things):
        return None
    asked = ["Is there {} in the picture?", "Can you see {}?", "Does this image show {}?", "Is {} visible here?"]
    answer = f"Yes, there is {article(name)}." if yes else f"No, there is no {name}."
    return scene, rng.choice(asked).format(article(name)), answer


FONTS = []


def font_at(font, scale):
    path, size = font
    return ImageFont.truetype(str(path), max(1, round(size * scale)))


def text(rng):
    length = rng.randint(1, 8)
    content = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(length))
    scene = Scene(rng, [("red", "circle")])
    scene.things, width, height = [], *scene.size
    if length > 5 and height > width:
        scene.size = width, height = height, width
    ink = rng.choice(COLOURS[rng.choice(["black", "white", "black", "red", "blue", "green", "yellow", "purple"])])
    scene.noise = rng.choice([0, 0, 10])
    light = sum(ink) / 3
    fitting = [g for g in GROUNDS if contrast(g, ink) > 200 and abs(sum(g) / 3 - light) > 70]
    if not fitting:
        return None
    scene.ground = rng.choice(fitting)
    path = rng.choice(FONTS)
    low = min(0.85, 0.22 + 0.07 * length)
    wanted, unit = rng.uniform(low, max(low + 0.02, 0.92)) * width, font_at((path, 100), 1).getbbox(content)
    size = min(100 * wanted / (unit[2] - unit[0]), 100 * 0.6 * height / (unit[3] - unit[1]))
    font = (path, size)
    left, top, right, bottom = font_at(font, 1).getbbox(content)
    if bottom - top < 11 or right - left > width - 6 or (right - left) / width < low - 0.1:
        return None
    at = (rng.uniform(3 - left, width - 3 - right), rng.uniform(3 - top, height - 3 - bottom))
    scene.text = (content, font, at, ink)
    asked = ["What is written in the picture?", "Read the text.", "What does the text say?", "Which text do you see?", "Please read this."]
    return scene, rng.choice(asked), f'The text reads "{content}".'


def seen(one, two):
    return f"The first picture shows {contents(one)} and the second shows {contents(two)}."


def compare(rng):
    form = rng.randrange(4)
    while True:
        first = Scene(rng, any_kinds(rng, rng.randint(1, 3)))
        if len({t.colour for t in first.things}) == len({t.shape for t in first.things}) == len(first.things):
            break
    asked = rng.choice(["What is the difference between the two pictures?", "How do these pictures differ?", "Compare the two images."])
    kinds = [(t.colour, t.shape) for t in first.things]
    if form == 0:
        return [first, first], asked, f"{seen(first, first)} The pictures are the same."
    at = rng.randrange(len(kinds))
    old = first.things[at]
    second = Scene(rng, kinds, first.size)
    second.scale, second.noise, second.things = first.scale, first.noise, list(first.things)
    if form == 1:
        new = Thing(rng, rng.choice([c for c in COLOURS if c not in {k[0] for k in kinds}]), old.shape, 10)
        new.polygons, new.rect, new.at = old.polygons, old.rect, old.at
        second.things[at] = new
        answer = f"The {old.shape} is {old.colour} in the first picture and {new.colour} in the second."
    elif form == 2:
        kind = rng.choice([s for s in SHAPES if s not in {k[1] for k in kinds}])
        side = min(old.rect[2] - old.rect[0], old.rect[3] - old.rect[1])
        if side < 20:
            return None
        new = Thing(rng, old.colour, kind, side)
        new.rgb, new.at = old.rgb, old.centre()
        second.things[at] = new
        answer = f"The {old.colour} object is {article(old.shape)} in the first picture and {article(kind)} in the second."
    else:
        if len(kinds) == 1:
            return None
        second.things.pop(at)
        pair = [first, second] if rng.random() < 0.5 else [second, first]
        one, two = (len(s.things) for s in pair)
        noun = "object" if one == 1 else "objects"
        answer = f"The first picture has {NUMBERS[one]} {noun} and the second has {NUMBERS[two]}."
    ground = ground_for(rng, [t.rgb for t in first.things + second.things])
    if not ground:
        return None
    first.ground = second.ground = ground
    pair = pair if form == 3 else [first, second]
    return pair, asked, f"{seen(*pair)} {answer}"


class Film:
    STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}

    def __init__(self, rng, whole):
        side = rng.choice([100, 112, 128, 144, 160])
        self.size = (side, rng.choice([side, 120]))
        self.frames = rng.choice([8, 10, 12, 16, 20, 24])
        self.motion = rng.choice(list(self.STEPS))
        self.visible = (0, self.frames)
        while not whole and (self.visible == (0, self.frames) or self.visible[1] - self.visible[0] < 4):
            self.visible = tuple(sorted(rng.sample(range(0, self.frames + 1, 2), 2)))
        self.scale, self.noise = rng.choice([1, 4]), rng.choice([0, 0, 8])
        short = min(self.size)
        self.thing = Thing(rng, rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.uniform(0.2, 0.33) * short)
        self.ground = rng.choice([g for g in GROUNDS if contrast(g, self.thing.rgb) > 160])
        step = self.STEPS[self.motion]
        a, b, c, d = self.thing.rect
        lows, highs = (2 - a, 2 - b), (self.size[0] - 2 - c, self.size[1] - 2 - d)
        self.ends = []
        for low, high, way in zip(lows, highs, step):
            if way == 0:
                place = rng.uniform(low, high)
                self.ends.append((place, place))
            else:
                far = rng.uniform(0.7, 1.0) * (high - low)
                start = rng.uniform(low, high - far)
                self.ends.append((start, start + far) if way > 0 else (start + far, start))

    def draw(self, rng):
        first, last = self.visible
        images = []
        for k in range(self.frames):
            part = (k - first) / max(1, last - 1 - first)
            self.thing.at = tuple(a + (b - a) * part for a, b in self.ends)
            shown = [self.thing] if first <= k < last else []
            images.append(drawn(rng, self.size, self.scale, self.ground, self.noise, shown))
        return images

    def verb(self):
        ways = {"left": "moves to the left", "right": "moves to the right", "up": "moves up", "down": "moves down"}
        return ways.get(self.motion, "does not move")

    def seen(self):
        return f"is visible from {self.visible[0] / FPS:.1f} to {self.visible[1] / FPS:.1f} seconds"


def motion(rng):
    film = Film(rng, rng.random() < 0.6)
    asked = ["In which direction does the {} move?", "How does the {} move?", "Where does the {} go?", "Which way is the {} moving?"]
    return film, rng.choice(asked).format(film.thing.name), f"The {film.thing.name} {film.verb()}."


def interval(rng):
    film = Film(rng, rng.random() < 0.2)
    asked = ["When is the {} visible?", "Between which seconds can the {} be seen?", "From when to when is the {} in the video?"]
    return film, rng.choice(asked).format(film.thing.name), f"The {film.thing.name} {film.seen()}."


def video_describe(rng):
    film = Film(rng, rng.random() < 0.5)
    seen = "" if film.visible == (0, film.frames) else film.seen() + " and "
    name = article(film.thing.name)
    return film, rng.choice(["What happens in this video?", "Describe the video."]), f"{name[0].upper()}{name[1:]} {seen}{film.verb()}."


CHANNELS = [describe, color, shape, count, relation, box, exists, text, compare, motion, interval, video_describe]


def save(image, out, name):
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=80)
    return name


def parts(media, rng, out, name):
    if isinstance(media, Film):
        names = [save(image, out, f"videos/{name}/{k:02}.jpg") for k, image in enumerate(media.draw(rng))]
        return [{"type": "video", "video": names, "sample_fps": FPS}]
    scenes = media if isinstance(media, list) else [media]
    same = len(scenes) == 2 and scenes[0] is scenes[1]
    images = [scenes[0].draw(rng)] * 2 if same else [scene.draw(rng) for scene in scenes]
    names = [save(image, out, f"images/{name}-{k}.jpg") for k, image in enumerate(images)]
    return [{"type": "image", "image": name} for name in names]


def rows(out, each, seed):
    for make in CHANNELS:
        channel = make.__name__
        for index in range(each):
            rng = random.Random(f"{seed}/{channel}/{index}")
            made = None
            while made is None:
                made = make(rng)
            media, question, answer = made
            content = parts(media, rng, out, f"{channel}-{index:05}") + [{"type": "text", "text": question}]
            messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
            yield {"messages": messages, "channel": channel}


def font_folder(given):
    if given:
        return Path(given)
    try:
        import matplotlib

        return Path(matplotlib.__file__).parent / "mpl-data/fonts/ttf"
    except ImportError:
        return Path("/usr/share/fonts/truetype/dejavu")


def main():
    if not 4 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    out, each, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder = font_folder(sys.argv[4] if len(sys.argv) == 5 else None)
    names = ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"]
    FONTS.extend(folder / name for name in names if (folder / name).is_file())
    if not FONTS:
        sys.exit(f"error: {folder} holds none of {', '.join(names)}; name a folder that does as the fourth argument.")
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in rows(out, each, seed)]
    (out / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} rows in {out / 'data.jsonl'}")


if __name__ == "__main__":
    main()
