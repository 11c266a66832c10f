"""e2e.json: requests from messages to text as transformers answers them, greedily in float32."""

import torch
import torchvision
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor

import pictures
from common import FIXTURES, IMAGE_PAD, MODELS, NEW_TOKENS, VIDEO_PAD, model_dir, write_rows

LEAST_MARGIN = 0.02
LEAST_DISTINCT = 4
TOP, STEPS = 5, 4


def text(value):
    return {"type": "text", "text": value}


def image(name):
    return {"type": "image", "image": f"e2e/{name}"}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def said(role, value):
    return {"role": role, "content": value}


# Each request is a function of the wording: wordings are tried until the margins suffice.
WORDINGS = [
    *["Describe the picture.", "What is shown here?", "Name three things.", "How many are there?"],
    *["Which colour is it?", "Where was this taken?", "Read the sign.", "Is it day or night?"],
    *[
        "Tell me more.",
        "What comes next?",
        "Count the objects.",
        "Is there a dog?",
        "Say it briefly.",
    ],
    *["Why is it so bright?", "Who is in front?", "What is written there?", "Give the answer."],
]


def one_image(w):
    return [user(image("gradient.png"), text(w))]


def photograph(w):
    """A JPEG, resized, decoded by us bit for bit as by PIL."""
    photo = {"type": "image", "image": "images/photo.jpg"}
    return [user(photo, text("What is in this picture?" if w == WORDINGS[0] else w))]


def two_images(w):
    first, second = image("waves.png"), image("blocks.png")
    return [user(text("First: "), first, text(" and then the second one:\n"), second, text(w))]


def image_last(w):
    return [user(text(w + " Look:"), image("tower.png"))]


def text_only(w):
    return [user(text(w))]


def system_prompt(w):
    return [said("system", "Answer in one short sentence."), said("user", w)]


def non_ascii(w):
    return [user(image("blocks.png"), text("Où est le café, 日本語? 👍🏽 e\u0301\t" + w))]


def turns(w):
    first = user(image("tower.png"), text("What is this?"))
    return [first, said("assistant", "A tower."), user(text(w), image("gradient.png"))]


def twice(w):
    """The same picture two times, side by side."""
    return [user(image("blocks.png"), image("blocks.png"), text(w))]


REQUESTS = {
    "one_image": dict(build=one_image, logprobs=True),
    "photograph": dict(build=photograph, optional=True),
    "two_images": dict(build=two_images),
    "image_last": dict(build=image_last),
    "text_only": dict(build=text_only),
    "system_prompt": dict(build=system_prompt),
    "non_ascii": dict(build=non_ascii),
    "turns": dict(build=turns),
    "same_image_twice": dict(build=twice),
    "min_pixels": dict(build=one_image, min_tokens=30),
    "max_pixels": dict(build=image_last, max_tokens=9),
    "repetition_penalty": dict(build=one_image, generate=dict(repetition_penalty=1.3)),
    "stop_at_eos": dict(build=two_images, stop_at=7),
}


class Reference:
    """One checkpoint as transformers runs it."""

    def __init__(self, name):
        folder, self.name = model_dir(name), name
        self.processor = AutoProcessor.from_pretrained(folder)
        assert type(self.processor).__name__ == "Qwen3VLProcessor"
        self.model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.patch = self.processor.image_processor.patch_size

    def size(self, min_tokens=None, max_tokens=None):
        """Pixel bounds; None where the checkpoint's own bounds hold."""
        if min_tokens is None and max_tokens is None:
            return None
        own, area = self.processor.image_processor.size, (2 * self.patch) ** 2
        low = own["shortest_edge"] if min_tokens is None else min_tokens * area
        high = own["longest_edge"] if max_tokens is None else max_tokens * area
        return {"shortest_edge": low, "longest_edge": high}

    def prompt(self, messages):
        return self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def inputs(self, messages, size):
        """Model inputs from absolute picture paths."""
        kwargs = {"images_kwargs": {"size": size}} if size else {}
        return self.processor.apply_chat_template(
            located(messages),
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=kwargs,
        )

    def generate(self, inputs, **settings):
        """New ids, raw logits [steps,V] and per step the margin of the processed scores."""
        self.model.model.rope_deltas = None
        with torch.no_grad():
            out = self.model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                return_dict_in_generate=True,
                output_logits=True,
                output_scores=True,
                **settings,
            )
        best = torch.cat(out.scores).topk(2, -1).values
        margins = (best[:, 0] - best[:, 1]).tolist()
        ids = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        return ids, torch.cat(out.logits), margins

    def decode(self, ids):
        return self.processor.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def located(messages):
    """Messages whose picture names are paths that open from anywhere."""

    def part(p):
        return {**p, "image": str(FIXTURES / p["image"])} if p.get("type") == "image" else p

    def message(m):
        parts = m["content"]
        return m if isinstance(parts, str) else {**m, "content": [part(p) for p in parts]}

    return [message(m) for m in messages]


def picture_names(messages):
    parts = [p for m in messages if isinstance(m["content"], list) for p in m["content"]]
    return [p["image"] for p in parts if p["type"] == "image"]


def pixel_facts(inputs, patch):
    """Grids, resized sizes [h,w] and a digest of the patch rows."""
    if "pixel_values" not in inputs:
        return {"image_grid_thw": [], "resized": [], "pixel_values": None}
    rows, grids = inputs["pixel_values"], inputs["image_grid_thw"].tolist()
    digest = {
        "shape": list(rows.shape),
        "sum": rows.double().sum().item(),
        "first": rows.flatten()[:8].tolist(),
        "last": rows.flatten()[-8:].tolist(),
    }
    sizes = [[h * patch, w * patch] for _, h, w in grids]
    return {"image_grid_thw": grids, "resized": sizes, "pixel_values": digest}


def top_logprobs(logits):
    """Per step the best [id, log probability] pairs of the raw logits."""
    best = logits[:STEPS].log_softmax(-1).topk(TOP, -1)
    pairs = zip(best.indices.tolist(), best.values.tolist())
    return [[[i, round(v, 6)] for i, v in zip(ids, values)] for ids, values in pairs]


def stop_set(ids, step):
    """Two stop ids; the one that ends the answer is generated at `step` or before."""
    return [2, ids[step]]


def answer(reference, inputs, request):
    """Generation settings, ids, logits and margins of one request."""
    settings = dict(request.get("generate", {}))
    ids, logits, margins = reference.generate(inputs, **settings)
    if "stop_at" in request:
        settings["eos_token_id"] = stop_set(ids, request["stop_at"])
        ids, logits, margins = reference.generate(inputs, **settings)
    return settings, ids, logits, margins


def is_clear(ids, margins):
    """Whether the answer is a fair test: safe margins, not one token over and over."""
    varied = len(set(ids)) >= LEAST_DISTINCT
    return min(margins) > LEAST_MARGIN and varied and not {IMAGE_PAD, VIDEO_PAD} & set(ids)


def answer_facts(reference, settings, ids, margins):
    """What a run must reproduce; `text` ends before the stop token."""
    stopped = ids[-1] in settings.get("eos_token_id", [])
    return {
        "settings": {"max_new_tokens": NEW_TOKENS, **settings},
        "token_ids": ids,
        "text": reference.decode(ids[:-1] if stopped else ids),
        "text_of_all_ids": reference.decode(ids),
        "finish_reason": "stop" if stopped else "length",
        "margins": [round(m, 4) for m in margins],
    }


def record(reference, name, request, wording):
    """One request with everything expected of it, or None where the answer is not clear."""
    messages = request["build"](wording)
    size = reference.size(request.get("min_tokens"), request.get("max_tokens"))
    inputs = reference.inputs(messages, size)
    settings, ids, logits, margins = answer(reference, inputs, request)
    if not is_clear(ids, margins):
        return None
    return {
        "model": reference.name,
        "name": name,
        "messages": messages,
        "images": picture_names(messages),
        "min_pixels": size and size["shortest_edge"],
        "max_pixels": size and size["longest_edge"],
        "prompt": reference.prompt(messages),
        "prompt_token_ids": inputs["input_ids"][0].tolist(),
        **pixel_facts(inputs, reference.patch),
        **answer_facts(reference, settings, ids, margins),
        "logprobs": top_logprobs(logits) if request.get("logprobs") else None,
    }


def first_clear(reference, name, request):
    """The request under the first wording whose margins suffice."""
    for wording in WORDINGS:
        found = record(reference, name, request, wording)
        if found:
            return found
    assert request.get("optional"), f"{reference.name}/{name}: no wording gives a clear answer"
    return None


def versions():
    return {
        "torch": torch.__version__.split("+")[0],
        "torchvision": torchvision.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }


def main():
    pictures.main()
    rows = []
    for name in MODELS:
        reference = Reference(name)
        found = [first_clear(reference, key, request) for key, request in REQUESTS.items()]
        rows += [row for row in found if row]
    write_rows(FIXTURES / "e2e.json", {"versions": versions(), "requests": rows})


if __name__ == "__main__":
    main()
