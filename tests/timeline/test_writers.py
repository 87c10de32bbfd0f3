"""Files of segments, and reading of the ground truth."""

import csv
import io
import json

import pytest

from xvit.timeline.segments import Segment
from xvit.timeline.writers import read_ground_truth, to_csv, to_json, to_srt, write_new_file
from xvit.utils.errors import WriteError, XViTError

LABELS = ["a", "b", "c"]


def test_files_of_segments(tmp_path):
    segments = [
        Segment(start=0, end=59.9996, label='say "x", y', score=0.876),
        Segment(start=3600.5, end=3723, label="b"),
    ]
    assert to_csv(segments).splitlines() == [
        "start,end,label,score",
        '0.000,60.000,"say ""x"", y",0.8760',
        "3600.500,3723.000,b,",
    ]
    assert to_srt(segments) == (
        '1\n00:00:00,000 --> 00:01:00,000\nsay "x", y (88 %)\n\n2\n01:00:00,500 --> 01:02:03,000\nb\n'
    )
    path = tmp_path / "timeline.json"
    write_new_file(path, to_json({"a": 1}))
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(XViTError, match=r"timeline\.json: exists"):
        write_new_file(path, "other")
    with pytest.raises(WriteError, match=r"new\.csv: cannot be written"):
        write_new_file(tmp_path / "none" / "new.csv", "x")
    (tmp_path / "new.csv").symlink_to(path)
    with pytest.raises(XViTError, match="exists"):
        write_new_file(tmp_path / "new.csv", "x")
    assert json.loads(path.read_text()) == {"a": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.csv", "timeline.json"]


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1+1", "@SUM(A1)", "＝1"])
def test_no_label_is_a_formula_in_a_spreadsheet(label):
    text = to_csv([Segment(start=0, end=1, label=label), Segment(start=1, end=2, label="b\r=1\n=2")])
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [row[2] for row in rows] == ["label", f"'{label}", r"b\r=1\n=2"]


@pytest.mark.parametrize("label", ["a\n\n9\n00:00:00,000 --> 00:00:09,000\nb", "a\x1b[31mb", "a\u2028b"])
def test_no_label_begins_a_subtitle(label):
    assert len(to_srt([Segment(start=0, end=1, label=label)]).splitlines()) == 3


def test_class_names_that_are_not_valid_unicode_are_escaped(tmp_path):
    write_new_file(tmp_path / "a.csv", "caf\udce9")
    assert (tmp_path / "a.csv").read_text() == "caf\\udce9"


def test_the_ground_truth_is_checked(tmp_path):
    path = tmp_path / "segments.json"

    def read(value):
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return read_ground_truth(path, LABELS)

    rows = [{"start": 2, "end": 3, "label": "b"}, {"start": 0, "end": 2, "label": "a"}]
    assert read({"x/y.mp4": rows}) == {
        tmp_path / "x" / "y.mp4": [Segment(start=0, end=2, label="a"), Segment(start=2, end=3, label="b")]
    }
    for wrong, message in (
        ("{", "not readable as JSON"),
        ([], "expected a mapping of videos to segments, got list"),
        ({"x.mp4": 3}, r"x.mp4: expected a list"),
        ({"x.mp4": [{"start": 0}]}, r"segment 1: expected start, end and label \(KeyError: 'end'\)"),
        ({"x.mp4": [{"start": 3, "end": 2, "label": "a"}]}, "expected 0 <= start < end"),
        ({"x.mp4": [{"start": 0, "end": 2, "label": "d"}]}, 'class "d" is not one of the 3'),
        ({"x.mp4": [{"start": 0, "end": 2, "label": ["a"]}]}, "not one of the 3"),
        ({"x.mp4": [*rows, {"start": 1, "end": 2, "label": "a"}]}, "segments overlap at 1"),
    ):
        with pytest.raises(XViTError, match=message):
            read(wrong)
    with pytest.raises(XViTError, match="no such file"):
        read_ground_truth(tmp_path / "none.json", LABELS)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_ground_truth_with_a_byte_order_mark(encoding, tmp_path):
    rows = {"größe.mp4": [{"start": 0, "end": 1, "label": LABELS[0]}]}
    (tmp_path / "truth.json").write_text(json.dumps(rows, ensure_ascii=False), encoding=encoding)
    assert list(read_ground_truth(tmp_path / "truth.json", LABELS)) == [(tmp_path / "größe.mp4").resolve()]
