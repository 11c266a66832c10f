"""A 512-entry byte-level BPE tokenizer with Qwen's structure, and the processor files."""

import json
import shutil

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from common import HERE, MODELS, VOCAB, model_dir, write_json
from models import patch_size

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Control tokens are skipped when text is decoded, marks are kept (as in the published files).
CONTROL = {
    0: "<|endoftext|>",
    1: "<|im_start|>",
    2: "<|im_end|>",
    495: "<|object_ref_start|>",
    496: "<|object_ref_end|>",
    497: "<|box_start|>",
    498: "<|box_end|>",
    499: "<|quad_start|>",
    500: "<|quad_end|>",
    502: "<|vision_start|>",
    503: "<|vision_end|>",
    504: "<|vision_pad|>",
    505: "<|image_pad|>",
    506: "<|video_pad|>",
}
MARKS = {
    501: "<tool_call>",
    507: "</tool_call>",
    508: "<tool_response>",
    509: "</tool_response>",
    510: "<think>",
    511: "</think>",
}
FIRST_BYTE, FIRST_MERGE, MERGES = 3, 3 + 256, 495 - 3 - 256

CORPUS = """\
user
Describe the picture. What do you see in this image? How many people are there in the photo?
assistant
The picture shows a small wooden house on the shore of a lake. Behind the house there is a forest,
and above the forest there are mountains with snow. In front of the house a red boat lies on the
sand. Two children are playing with a dog near the water, and a woman in a blue dress is reading.
user
Compare the two images. Which one is brighter, and what is written on the sign?
assistant
The first image is darker than the second one. It was taken in the evening, when the street lamps
were on. The second image shows the same street in the morning. The sign says that the road is
closed for repairs, and that the buses stop at the other end of the street.
system
You are a helpful assistant. Answer in one short sentence, and say so when you are not sure.
user
Please read the text in the image and count the objects on the table.
assistant
There are three cups, a plate with bread, a knife and an open book on the table. The text on the
page is too small to read. The cup on the left is green, the others are white. There is also a
chair, and on the chair there is a black cat that is looking at the window.
user
What colour is the car? Where is it going? Is there anything else in the background?
assistant
The car is yellow. It is going to the right, along a road that follows the river. In the background
there are trees, a church with a tall tower and some clouds. Nothing else is moving in the scene.
The answer is 12. The first one, the second one, the third one. This is what the image contains.
def area(width, height):
    return width * height  # the number of pixels
"""


def byte_alphabet():
    """The 256 byte symbols in byte order of GPT-2: printable bytes first, then the rest."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def pipeline(model):
    """Normaliser, pre-tokeniser and decoder of the published tokenizer around a BPE model."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_merges():
    """Merge rules learned from the corpus, in order."""
    trainer = BpeTrainer(
        vocab_size=256 + MERGES, initial_alphabet=byte_alphabet(), show_progress=False
    )
    trained = pipeline(BPE())
    trained.train_from_iterator(CORPUS.split("\n\n"), trainer)
    merges = json.loads(trained.to_str())["model"]["merges"]
    assert len(merges) == MERGES, f"the corpus gives {len(merges)} merges, {MERGES} are needed"
    return [tuple(pair) for pair in merges]


def build():
    """The tokenizer: every id below 512 is a control token, a mark, a byte or a merge."""
    merges = train_merges()
    symbols = byte_alphabet() + [left + right for left, right in merges]
    vocab = {s: FIRST_BYTE + i for i, s in enumerate(symbols)}
    vocab |= {text: id for id, text in (CONTROL | MARKS).items()}
    assert sorted(vocab.values()) == list(range(VOCAB)), "some id below 512 has no token"
    tokenizer = pipeline(BPE(vocab=vocab, merges=merges))
    plain = dict(lstrip=False, rstrip=False, single_word=False, normalized=False)
    for id, text in sorted((CONTROL | MARKS).items()):
        tokenizer.add_tokens([AddedToken(text, special=id in CONTROL, **plain)])
        assert tokenizer.token_to_id(text) == id
    return tokenizer


def tokenizer_config():
    """tokenizer_config.json in the published layout (the template stands in its own file)."""
    flags = dict(lstrip=False, normalized=False, rstrip=False, single_word=False)
    added = {
        str(id): dict(content=text, **flags, special=id in CONTROL)
        for id, text in sorted((CONTROL | MARKS).items())
    }
    return dict(
        add_bos_token=False,
        add_prefix_space=False,
        added_tokens_decoder=added,
        additional_special_tokens=[t for id, t in sorted(CONTROL.items()) if id != 0],
        bos_token=None,
        clean_up_tokenization_spaces=False,
        eos_token="<|im_end|>",
        errors="replace",
        model_max_length=4096,
        pad_token="<|endoftext|>",
        split_special_tokens=False,
        tokenizer_class="Qwen2Tokenizer",
        unk_token=None,
    )


def pixel_config(patch, **extra):
    """Fields that the image and the video processor share."""
    return dict(
        patch_size=patch,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        processor_class="Qwen3VLProcessor",
        **extra,
    )


def write_processor(folder, patch):
    """Pixel bounds that turn any photograph into at most 256 tokens."""
    size = dict(longest_edge=256 * (2 * patch) ** 2, shortest_edge=16 * patch * patch)
    image = pixel_config(patch, image_processor_type="Qwen2VLImageProcessorFast")
    video = pixel_config(patch, video_processor_type="Qwen3VLVideoProcessor")
    write_json(folder / "preprocessor_config.json", dict(size=size, **image), indent=2)
    size = dict(longest_edge=4 * size["longest_edge"], shortest_edge=size["shortest_edge"])
    write_json(folder / "video_preprocessor_config.json", dict(size=size, **video), indent=2)


def template(name):
    """dense_untied plays the Thinking edition, the others the Instruct edition."""
    edition = "thinking" if name == "dense_untied" else "instruct"
    return HERE / "templates" / f"{edition}.jinja"


def main():
    tokenizer = build()
    for name in MODELS:
        folder = model_dir(name)
        tokenizer.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", tokenizer_config(), indent=2)
        shutil.copyfile(template(name), folder / "chat_template.jinja")
        write_processor(folder, patch_size(name))


if __name__ == "__main__":
    main()
