"""Records of data sets: every difference between two of them is named, in the words of their class names."""

import json
from dataclasses import replace

import pytest

from xvit.data.annotations import DatasetSplits, Sample
from xvit.data.record import compare_splits, compare_versions, record_hash, record_splits

ACTIONS = {"verb": ["cut", "wash"], "noun": ["cup", "knife"]}
SPLITS = ("train", "val")


def sample(id: str, label, **options) -> Sample:
    return Sample(path=f"nowhere/{id}", label=label, id=id, **options)


def splits(*train: Sample, class_names=("a", "b")) -> DatasetSplits:
    names = class_names if isinstance(class_names, dict) else list(class_names)
    return DatasetSplits(train=list(train), val=[], class_names=names)


ONE, TWO = sample("1.mp4", 0), sample("2.mp4", 1)
CUT = sample("3.mp4", {"verb": 0, "noun": 1}, start=1.0, stop=2.5)
TAGS = sample("4.mp4", (0, 1))


@pytest.mark.parametrize(
    ("before", "now", "changes"),
    [
        (splits(ONE, TWO), splits(ONE, TWO), ""),
        (splits(ONE, TWO), splits(TWO, ONE), "training videos: in another order"),
        (splits(ONE), splits(TWO), "training videos: 1 removed (1.mp4), 1 added (2.mp4)"),
        (splits(ONE), splits(ONE, ONE), "training videos: 1 added (1.mp4 [2])"),
        (splits(ONE), splits(sample("1.mp4", 0, fps=10.0)), "training videos: 1 with another frame rate (1.mp4)"),
        (splits(ONE), splits(sample("1.mp4", None)), "training videos: 1 with another label (1.mp4: a, now none)"),
        # An index says nothing by itself: class b is number 1, then 2.
        (splits(ONE, TWO), splits(ONE, replace(TWO, label=2), class_names="axb"), "classes: x added"),
        (
            splits(ONE, TWO),
            splits(replace(ONE, label=1), replace(TWO, label=0), class_names="ba"),
            "classes: in another order",
        ),
        (
            splits(TAGS),
            splits(replace(TAGS, label=(1,))),
            "training videos: 1 with another label (4.mp4: a and b, now b)",
        ),
        (
            splits(sample("5.mp4", 0, start=3601.123, stop=3602.0)),
            splits(sample("5.mp4", 0, start=3601.124, stop=3602.0)),
            "training videos: 1 removed (5.mp4 (3601.123 to 3602 s)), 1 added (5.mp4 (3601.124 to 3602 s))",
        ),
        (
            splits(CUT, class_names=ACTIONS),
            splits(replace(CUT, label={"verb": 1, "noun": 1}), class_names=ACTIONS),
            "training videos: 1 with another label (3.mp4 (1 to 2.5 s): cut and knife, now wash and knife)",
        ),
        (
            splits(CUT, class_names=ACTIONS),
            splits(replace(CUT, stop=None), class_names=ACTIONS),
            "training videos: 1 removed (3.mp4 (1 to 2.5 s)), 1 added (3.mp4 (from 1 s))",
        ),
        (
            splits(CUT, class_names=ACTIONS),
            splits(CUT, class_names=ACTIONS | {"noun": ["mug", "knife", "pan", "pot", "lid"]}),
            "classes: cup removed, mug, pan, ... added",
        ),
        (
            splits(*[sample(f"{n}.mp4", 0) for n in range(5)]),
            splits(sample("0.mp4", 0)),
            "training videos: 4 removed (1.mp4, 2.mp4, ...)",
        ),
    ],
)  # fmt: skip
def test_differences_are_named(before, now, changes):
    before, now = json.loads(json.dumps(record_splits(before))), record_splits(now)
    assert compare_splits(before, now, SPLITS) == changes
    assert (record_hash(before) == record_hash(now)) == (not changes)


def test_sizes_of_files_and_of_folders_of_frames(tmp_path):
    (tmp_path / "1.mp4").write_bytes(b"12345")
    (tmp_path / "frames").mkdir()
    for name in ("frame_1.jpg", "frame_2.jpg", "notes.txt"):
        (tmp_path / "frames" / name).write_bytes(b"1")
    samples = [Sample(path=str(tmp_path / id), label=0, id=id) for id in ("1.mp4", "frames", "none.mp4")]
    rows = record_splits(splits(*samples))["train"]
    assert [row[-1] for row in rows] == [5, 2, None]


def test_versions():
    assert compare_versions({"torch": "2.9", "timm": "1.0"}, {"torch": "2.10", "timm": "1.0"}) == "torch 2.9 (now 2.10)"
    assert compare_versions({"torch": "2.9"}, {"torch": "2.9"}) == ""
