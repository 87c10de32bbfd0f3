"""Samples, labels and files of class names."""

import pytest

from xvit.config import SINGLE_TASK
from xvit.data.annotations import ParsedAnnotations, Sample, class_indices, read_class_names, remap_label
from xvit.utils.errors import XViTError


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (3, 3), (3, 2), (None, 0)])
def test_a_segment_must_end_after_it_starts(start, stop):
    with pytest.raises(XViTError, match="expected 0 <= start < stop"):
        Sample(path="a.mp4", label=0, id="a", start=start, stop=stop)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("labels.txt", "put down\n  take up \n\n", ["put down", "take up"]),
        ("labels.json", '["b", "a"]', ["b", "a"]),
        ("labels.json", '{"b": "1", "a": 0, "c": "2"}', ["a", "b", "c"]),
        ("labels.csv", 'id,key,instances\n1,put,"[1, 2]"\n0,take,[]\n', ["take", "put"]),
        ("labels.csv", "id,name\r\n0,abseiling\r\n1,air drumming\r\n", ["abseiling", "air drumming"]),
        ("labels.csv", "take\nput\n", ["take", "put"]),
    ],
)
def test_class_names(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_class_names(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.txt", "", "no class names"),
        ("labels.txt", "a\n\nb", "line 2 is empty"),
        ("labels.txt", "a\nb\na", 'class "a" is in lines 1 and 3'),
        ("labels.json", "[1]", "expected a list of class names"),
        ("labels.json", '"a"', "expected a list of class names"),
        ("labels.json", '{"a": 0, "b": 2}', "expected the class indices 0 to 1, each once"),
        ("labels.json", '{"a": 0, "b": [2]}', "expected the class indices 0 to 1, each once"),
        ("labels.json", "{", "not readable"),
        ("labels.csv", "id,key\n0,a\n2,b\n", "expected the class indices 0 to 1, each once"),
        ("labels.csv", "id,key\n0,a\nx,b\n", "expected the class indices 0 to 1, each once"),
    ],
)
def test_invalid_class_names(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(XViTError, match=message) as raised:
        read_class_names(tmp_path / name)
    assert name in str(raised.value)


def test_class_indices_and_remap_label():
    assert [class_indices(label) for label in (None, 2, (0, 3), ())] == [(), (2,), (0, 3), ()]
    assert class_indices({"verb": 1, "noun": 4}, "noun") == (4,)
    order = {SINGLE_TASK: (2, 0, 1)}
    assert [remap_label(label, order) for label in (None, 0, (0, 2), ())] == [None, 2, (2, 1), ()]
    assert remap_label({"verb": 1, "noun": 0}, {"verb": (1, 0), "noun": (1, 0)}) == {"verb": 0, "noun": 1}


def test_parsed_annotations_name_each_missing_video_once():
    parsed = ParsedAnnotations(["x"])
    parsed.add_row("a.mp4", "a", 0, fps=5)
    parsed.add_row("frames", "frames", 0, fps=5, id="b", start=1.0, stop=2.0)
    for _ in range(2):
        parsed.add_row(None, "gone", 0, fps=5)
    assert parsed.samples == [
        Sample(path="a.mp4", label=0, id="a"),
        Sample(path="frames", label=0, id="b", start=1.0, stop=2.0, fps=5),
    ]
    assert (parsed.missing, parsed.missing_rows) == (["gone"], ["gone", "gone"])
