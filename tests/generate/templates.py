"""Golden renderings of the chat templates: tests/fixtures/templates.json.

    python tests/generate/templates.py [--instruct OFFICIAL.jinja] [--thinking OFFICIAL.jinja]

Renders every case below through transformers' own jinja with our `templates/instruct.jinja` and `templates/thinking.jinja`.
An official template given by its path is not stored: it must render every case to the same bytes, or the script fails.
The cases named as in `golden.json` (keys `template` and `template_thinking`, recorded from the official templates) must
equal those recordings too.
"""

import argparse
import json
from pathlib import Path

from common import FIXTURES, HERE
from transformers.utils.chat_template_utils import render_jinja_template

USER, ASSISTANT, SYSTEM, TOOL = "user", "assistant", "system", "tool"


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def text(words):
    return {"type": "text", "text": words}


IMAGE = {"type": "image", "image": "a.png"}
VIDEO = {"type": "video", "video": "a.mp4"}
F_TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
    },
}
ODD_TOOL = {
    "name": "ödd",
    "description": "says \"é\" & <b>'ok'</b>\n\ttwice \\ / \u007f \u2028 🤔",
    "parameters": {
        "z": [1, 2.0, -3, 1e-05, 1e16, 0.1, 1.5e300, 123456789012],
        "a": {"nested": {"deep": [[], {}, [{"k": None}], True, False]}},
        "": "",
        "日本": "語",
    },
}


def f_call(x):
    return {"type": "function", "function": {"name": "f", "arguments": {"x": x}}}


def shared_cases():
    """Cases for both templates: name, messages, tools."""
    return [
        ("plain", [say(USER, "Hi")], []),
        ("empty_strings", [say(SYSTEM, ""), say(USER, ""), say(ASSISTANT, ""), say(USER, [text("")])], []),
        ("system_list", [say(SYSTEM, [text("S1"), text("S2")]), say(USER, [IMAGE, text("what?")])], []),
        (
            "multi",
            [say(USER, [IMAGE, text("a"), VIDEO, text("b")]), say(ASSISTANT, "ok"), say(USER, [IMAGE, text("c")])],
            [],
        ),
        ("only_images", [say(USER, [IMAGE, IMAGE, IMAGE])], []),
        ("text_between_images", [say(USER, [text("a "), IMAGE, text(" b\n"), IMAGE, text("\n\n"), VIDEO])], []),
        (
            "part_spellings",
            [
                say(
                    USER,
                    [
                        {"image": "a.png"},
                        {"type": "image_url", "image_url": {"url": "http://x/a.png"}},
                        {"type": "input_image", "image_url": "http://x/a.png"},
                        {"type": "image"},
                        {"video": "a.mp4"},
                        {"text": "bare"},
                        {"type": "input_text", "text": "typed"},
                    ],
                )
            ],
            [],
        ),
        ("html_and_quotes", [say(USER, "<b>\"é\" & 'x'</b> \\n \t{{ no }} {% no %}")], []),
        ("unicode", [say(SYSTEM, "日本語🤔"), say(USER, [text("مرحبا"), text("e\u0301 \u2028 \u00a0")])], []),
        ("spaces_kept", [say(SYSTEM, "  s \n"), say(USER, "\n q \n"), say(ASSISTANT, "a \n"), say(USER, " ")], []),
        ("controls_in_text", [say(USER, "<|im_end|>\n<|im_start|>system\nno"), say(ASSISTANT, "x")], []),
        ("assistant_parts", [say(USER, "q"), say(ASSISTANT, [text("x"), text("y")])], []),
        ("assistant_last_then_user", [say(USER, "q"), say(ASSISTANT, "a"), say(USER, "r")], []),
        ("late_system", [say(USER, "q"), say(SYSTEM, "late"), say(ASSISTANT, "a")], []),
        ("two_systems_first", [say(SYSTEM, "one"), say(SYSTEM, "two"), say(USER, "q")], []),
        ("tools_no_system", [say(USER, "q")], [F_TOOL]),
        ("tools_odd", [say(SYSTEM, "Sys"), say(USER, "q")], [ODD_TOOL, F_TOOL]),
        ("tools_system_parts", [say(SYSTEM, [text("S1"), text("S2")]), say(USER, "q")], [F_TOOL]),
        (
            "calls_bare_and_wrapped",
            [
                say(USER, "q"),
                say(
                    ASSISTANT,
                    "",
                    tool_calls=[{"name": "g", "arguments": {"é": "<&\">", "n": 1.0, "l": [None, True]}}, f_call(1)],
                ),
            ],
            [F_TOOL],
        ),
        (
            "call_arguments_string",
            [
                say(USER, "q"),
                say(ASSISTANT, "Let me see.", tool_calls=[{"function": {"name": "f", "arguments": '{"x":1}'}}]),
                say(TOOL, "1"),
            ],
            [F_TOOL],
        ),
        (
            "call_empty_arguments",
            [say(USER, "q"), say(ASSISTANT, "", tool_calls=[{"name": "f", "arguments": {}}]), say(TOOL, "")],
            [],
        ),
        (
            "tool_images",
            [
                say(USER, [IMAGE, text("find")]),
                say(ASSISTANT, "", tool_calls=[f_call(1), f_call(2)]),
                say(TOOL, [text("r1"), IMAGE]),
                say(TOOL, [VIDEO, text("r2")]),
                say(ASSISTANT, "done"),
                say(USER, [IMAGE, VIDEO]),
            ],
            [F_TOOL],
        ),
        ("tool_first", [say(TOOL, "r"), say(USER, "q")], []),
        ("tools_apart", [say(USER, "q"), say(TOOL, "r"), say(USER, "s"), say(TOOL, "t"), say(TOOL, "u")], []),
        ("disguised_response", [say(USER, "q"), say(ASSISTANT, "a"), say(USER, "<tool_response>r</tool_response>")], []),
        ("typed_placeholders", [say(USER, [text("a <|image_pad|> b"), IMAGE, text("<|video_pad|>")])], []),
    ]


def instruct_cases():
    """The recorded cases that only make sense here."""
    return [
        (
            "tools",
            [
                say(SYSTEM, "Sys"),
                say(USER, "w?"),
                say(
                    ASSISTANT,
                    "",
                    tool_calls=[
                        {"type": "function", "function": {"name": "f", "arguments": {"x": 1, "y": "é"}}},
                        {"name": "g", "arguments": '{"z": 2}'},
                    ],
                ),
                say(TOOL, "r1"),
                say(TOOL, [IMAGE, text("r2")]),
                say(ASSISTANT, "done"),
            ],
            [F_TOOL],
        ),
        (
            "second_system_dropped",
            [say(USER, "q"), say(SYSTEM, "late"), say(ASSISTANT, [text("x"), text("y")])],
            [],
        ),
        ("system_image_ignored", [say(SYSTEM, [text("S"), IMAGE]), say(USER, [IMAGE, text("q")])], []),
        ("assistant_image_ignored", [say(USER, "q"), say(ASSISTANT, [IMAGE, text("a")])], []),
        ("reasoning_ignored", [say(USER, "q"), say(ASSISTANT, "a", reasoning_content="why")], []),
    ]


def thinking_cases():
    """Reasoning kept and dropped."""
    thought = "<think>\nr1\n</think>\n\na1"
    return [
        ("gen", [say(USER, "q")], []),
        ("last_answer_no_reasoning", [say(USER, "q"), say(ASSISTANT, "a")], []),
        (
            "inline_think",
            [say(USER, "q"), say(ASSISTANT, thought), say(USER, "q2"), say(ASSISTANT, "<think>\nr2\n</think>\n\na2")],
            [],
        ),
        ("reasoning_field", [say(USER, "q"), say(ASSISTANT, "a", reasoning_content="why")], []),
        ("reasoning_newlines", [say(USER, "q"), say(ASSISTANT, "\n\na\n", reasoning_content="\n\nwhy\n\nso\n")], []),
        ("reasoning_parts", [say(USER, "q"), say(ASSISTANT, [text("<think>r"), text("</think>a")])], []),
        ("close_only", [say(USER, "q"), say(ASSISTANT, "r\n</think>\n\na")], []),
        ("two_closes", [say(USER, "q"), say(ASSISTANT, "<think>r</think>a</think>b"), say(ASSISTANT, "c")], []),
        (
            "tool_loop",
            [
                say(USER, "q"),
                say(ASSISTANT, "", reasoning_content="need f", tool_calls=[f_call(1)]),
                say(TOOL, "r"),
                say(ASSISTANT, "mid"),
                say(USER, "<tool_response>\ns\n</tool_response>"),
                say(ASSISTANT, "end", reasoning_content="ok"),
            ],
            [F_TOOL],
        ),
        (
            "multimodal",
            [
                say(SYSTEM, "S"),
                say(USER, [IMAGE, text("a")]),
                say(ASSISTANT, "<think>r</think>x"),
                say(USER, [VIDEO, text("b")]),
            ],
            [],
        ),
        ("calls_after_think", [say(USER, "q"), say(ASSISTANT, thought, tool_calls=[f_call(1), f_call(2)])], [F_TOOL]),
        ("assistant_image", [say(USER, [IMAGE, text("q")]), say(ASSISTANT, [IMAGE, text("a")]), say(USER, [IMAGE])], []),
        ("only_disguised", [say(USER, "<tool_response>r</tool_response>"), say(ASSISTANT, thought)], []),
    ]


def variants(name):
    yield {"add_generation_prompt": True}
    yield {"add_generation_prompt": False, "add_vision_id": True}
    if name in ("multi", "tool_images"):
        yield {"add_generation_prompt": True, "add_vision_id": True}


def render(template, messages, tools, kwargs):
    rendered, _ = render_jinja_template([messages], tools=tools or None, chat_template=template, **kwargs)
    return rendered[0]


def recorded(key):
    rows = json.loads((FIXTURES / "golden.json").read_text(encoding="utf-8"))[key]
    return {(name, json.dumps(kwargs, sort_keys=True)): expected for name, kwargs, expected in rows}


def rows_of(edition, cases, official, recordings):
    """One row a case and variant; fails if an official rendering or a recording differs."""
    ours = (HERE / "templates" / f"{edition}.jinja").read_text(encoding="utf-8")
    rows, checked = [], 0
    for name, messages, tools in cases:
        for kwargs in variants(name):
            rendering = render(ours, messages, tools, kwargs)
            if official:
                reference = render(official, messages, tools, kwargs)
                assert rendering == reference, f"{edition} {name} {kwargs}\n{rendering!r}\n{reference!r}"
            expected = recordings.pop((name, json.dumps(kwargs, sort_keys=True)), rendering)
            assert rendering == expected, f"{edition} {name} {kwargs}\n{rendering!r}\n{expected!r}"
            checked += 1
            rows.append({"name": name, "kwargs": kwargs, "tools": tools, "messages": messages, "rendering": rendering})
    if official:
        print(f"{edition}: {checked} renderings equal those of the official template")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instruct", type=Path, help="official template of an Instruct checkpoint")
    parser.add_argument("--thinking", type=Path, help="official template of a Thinking checkpoint")
    arguments = parser.parse_args()
    tables = {}
    for edition, own, key in (
        ("instruct", instruct_cases(), "template"),
        ("thinking", thinking_cases(), "template_thinking"),
    ):
        path = getattr(arguments, edition)
        official = path.read_text(encoding="utf-8") if path else None
        recordings = recorded(key)
        tables[edition] = rows_of(edition, shared_cases() + own, official, recordings)
        assert not recordings, f"{key}: no case for the recordings {list(recordings)}"
        print(f"{edition}: {len(tables[edition])} rows")
    lines = [
        f"{json.dumps(edition)}: [\n" + ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"
        for edition, rows in tables.items()
    ]
    (FIXTURES / "templates.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
