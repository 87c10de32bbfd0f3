"""The model card, read as Markdown: no name leaves its place in it."""

from copy import deepcopy
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

from xvit.checkpoint.model_card import model_card

CONFIG = {
    "model": {"backbone": "vit_tiny_patch16_224", "attention": "mixing", "temporal_head": "mean"},
    "clip_spec": {"num_frames": 8, "image_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3},
    "provenance": {},
    "class_names": ["walk", "run"],
}
HOSTILE = [
    "`", "``", "```", "a`b", "a``b`c", "`a`", " a ", "a|b", "a\\|b", "a\\", "|", "](x)", "[a](javascript:1)",
    "![a](http://192.0.2.1/x.png)", "<img src=x onerror=1>", "<!--", "a & b &amp;",
    "*a* **b** _c_ __d__ ~~e~~", "$x$ $$y$$", "snake_case_name", "# a", "> a", "- a", "1. a", "---", "a=b", "动作",
]  # fmt: skip
ESCAPED = {"a\nb": r"a\nb", "a\r\n\r\n# b": r"a\r\n\r\n# b", "a\u2028b": r"a\u2028b", "\x1b[31m": r"\x1b[31m"}


def parse(config):
    """The code spans of the classes, the cells of the table by their names, and the types of all tokens."""
    body = model_card(config).split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body)
    cells, spans, types = [], [], []
    for before, token in pairwise(tokens):
        types.append(token.type)
        if token.type == "inline":
            types += [child.type for child in token.children or ()]
            if before.type == "td_open":
                cells.append("".join(child.content for child in token.children or ()))
            else:
                spans.append([child.content for child in token.children or () if child.type == "code_inline"])
    return spans[-1], dict(zip(cells[::2], cells[1::2], strict=True)), types


BENIGN = parse(CONFIG)


@pytest.mark.parametrize("name", [*HOSTILE, *ESCAPED])
def test_a_class_name_stays_in_its_code_span(name):
    spans, cells, types = parse(CONFIG | {"class_names": ["walk", name]})
    assert spans == ["walk", ESCAPED.get(name, name)]
    assert (cells, types) == (BENIGN[1], BENIGN[2])


def test_task_names_and_classes_stay_apart():
    spans, _, _ = parse(CONFIG | {"class_names": {"# verb`": ["a"]}})
    assert spans == ["# verb`", "a"]


@pytest.mark.parametrize("place", ["backbone", "attention", "temporal_head", "data"])
@pytest.mark.parametrize("name", [*HOSTILE, *ESCAPED])
def test_a_value_stays_in_its_cell(name, place):
    config = deepcopy(CONFIG)
    config["provenance" if place == "data" else "model"][place] = name
    _, cells, types = parse(config)
    benign = deepcopy(CONFIG)
    benign["provenance" if place == "data" else "model"][place] = "x"
    assert set(types) == set(parse(benign)[2])
    assert cells[place.replace("_", " ")] == " ".join(ESCAPED.get(name, name).split())


def test_addresses_lose_their_secrets():
    config = CONFIG | {"provenance": {"data": "http://user:pass@host/videos?token=secret"}}
    assert parse(config)[1]["data"] == "http://host/videos?..."
