"""Recognising the videos of a model's own training, in other places and under other names."""

import shutil

import pytest

from helpers import barcode_videos
from helpers.color_videos import CLASSES, write_video, write_videos
from xvit.data.annotations import DatasetSplits, Sample, read_class_folders
from xvit.data.seen import count_seen, fingerprint_splits


def make_provenance(data: DatasetSplits, *, chosen: bool = True) -> dict:
    """What training records in a checkpoint."""
    counts = {"train": len(data.train), "val": len(data.val)}
    provenance = {"data": {**counts, "fingerprints": fingerprint_splits(data)}}
    return provenance | ({"chosen_by": "validation top1"} if chosen else {})


def samples_of(paths, **segment) -> list[Sample]:
    return [Sample(path=str(path), label=0, id=str(path), **segment) for path in paths]


def test_copies_are_recognised_and_other_videos_are_not(tmp_path):
    data = read_class_folders(write_videos(tmp_path / "videos", train=2, val=2))
    provenance = make_provenance(data)
    assert count_seen(provenance, data.val) == {"val": 6}
    assert count_seen(provenance, data.train) == {"train": 6}
    copies = [shutil.copy(sample.path, tmp_path / f"{i}.mp4") for i, sample in enumerate(data.val[:2] + data.train[:1])]
    assert count_seen(provenance, samples_of(copies)) == {"train": 1, "val": 2}
    others = [write_video(tmp_path / name / "0.mp4", color=i, seed=77 + i) for i, name in enumerate(CLASSES)]
    assert count_seen(provenance, samples_of(others)) == {}  # same names, other contents
    assert count_seen(provenance, samples_of([*others, copies[0]])) == {"val": 1}
    assert count_seen(make_provenance(data, chosen=False), data.val) == {}  # the last checkpoint
    assert count_seen({}, data.val) == count_seen({"data": {"name": "old"}}, data.val) == {}


def test_segments_and_folders_of_frames(tmp_path):
    video = write_video(tmp_path / "a.mp4", color=0, seed=1)
    folders = [barcode_videos.write_frames(tmp_path / name, frames=6, first=n) for n, name in enumerate(("x", "y"))]
    val = samples_of([video], start=0.0, stop=1.0) + samples_of(folders[:1])
    data = DatasetSplits(train=samples_of([video], start=1.0, stop=2.0), val=val, class_names=["a"])
    provenance = make_provenance(data)
    assert count_seen(provenance, samples_of([video], start=0.0, stop=1.0)) == {"val": 1}
    assert count_seen(provenance, samples_of([video], start=0.0, stop=0.5)) == {}
    copy = shutil.copytree(tmp_path / "x", tmp_path / "z")
    assert count_seen(provenance, samples_of([copy, folders[1]])) == {"val": 1}
    assert count_seen(provenance, samples_of([tmp_path / "gone.mp4"])) == {}


@pytest.mark.parametrize("total", [255, 257, 600])
def test_of_a_large_split_a_sample_is_recorded(tmp_path, total):
    paths = [tmp_path / f"{i}.mp4" for i in range(total)]
    for i, path in enumerate(paths):
        path.write_text(f"video {i}")
    data = DatasetSplits(train=samples_of(paths[:1]), val=samples_of(paths), class_names=["a"])
    provenance = make_provenance(data)
    recorded = provenance["data"]["fingerprints"]["val"].split()
    assert total / 3 <= len(recorded) <= 256
    assert count_seen(provenance, data.val)["val"] == total
    half = count_seen(provenance, data.val[: total // 2])["val"]
    assert half == pytest.approx(total / 2, abs=3)


NO_RECORDS = [
    None,
    "text",
    [1],
    {"fingerprints": 3},
    {"fingerprints": {"train": [1]}},
    {"fingerprints": {"train": "a"}},
]


@pytest.mark.parametrize("data", NO_RECORDS)
def test_a_provenance_of_other_code_records_nothing(tmp_path, data):
    (tmp_path / "a.mp4").write_text("video")
    assert count_seen({"chosen_by": "x", "data": data}, samples_of([tmp_path / "a.mp4"])) == {}
