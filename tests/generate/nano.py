"""nano.json: answers of the embedded checkpoint as transformers gives them, greedily in float32.

python tests/generate/nano.py, whenever assets/nano changes
"""

import json

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from common import FIXTURES

ROOT = FIXTURES.parents[1]
SHAPES, TEXT = "examples/nano/shapes.png", "examples/nano/text.png"
QUESTIONS = [
    (SHAPES, "What is in this picture?"),
    (SHAPES, "What color is the square?"),
    (SHAPES, "How many objects are there?"),
    (SHAPES, "Is the circle to the left of the square?"),
    (SHAPES, "Locate the red circle."),
    (TEXT, "What does the text say?"),
]
NEW_TOKENS = 160
# Another processor rounds otherwise, by less than 1e-4; what is nearly a tie would not be the same answer there.
LEAST_MARGIN = 0.01


def main():
    folder = str(ROOT / "assets/nano")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    rows = []
    for picture, question in QUESTIONS:
        content = [{"type": "image", "image": str(ROOT / picture)}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        model.model.rope_deltas = None
        with torch.no_grad():
            out = model.generate(
                **inputs, do_sample=False, max_new_tokens=NEW_TOKENS,
                return_dict_in_generate=True, output_logits=True)
        best = torch.cat(out.logits).topk(2, -1).values
        margin = (best[:, 0] - best[:, 1]).min().item()
        assert margin >= LEAST_MARGIN, f"{question}: nearly a tie, {margin}; ask otherwise"
        ids = out.sequences[0, inputs["input_ids"].shape[1]:].tolist()
        answer = processor.decode(ids, skip_special_tokens=True)
        rows.append({"image": picture, "question": question, "ids": ids, "answer": answer})
        print(question, "->", answer)
    lines = ",\n".join(json.dumps(row) for row in rows)
    (FIXTURES / "nano.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
