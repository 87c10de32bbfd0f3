"""Data sets in shards: splits by name and by pattern, labels in every form, errors that name shard and member."""

import json

import pytest

from helpers.shards import labelled, write_tar
from xvit.config import DataConfig
from xvit.data.annotations import class_by_folder, find_videos, load_splits
from xvit.utils.errors import VideoError, XViTError


def write_shard(path, labels, *, extension="mp4"):
    """A shard with a video KEY.mp4 for each key of `labels`, and its annotation unless that is None."""
    videos = {f"{key}.{extension}": b"video of " + key.encode() for key in labels}
    return write_tar(path, labelled(videos, {key: label for key, label in labels.items() if label is not None}))


def load(root, *, strict=True, **settings):
    return load_splits(DataConfig(root=str(root), format="webdataset", **settings), strict=strict)


def labels_of(samples):
    return {sample.id: sample.label for sample in samples}


def test_splits_by_name_in_the_order_of_the_shards(tmp_path):
    write_shard(tmp_path / "train-000001.tar", {"c": "red", "a": "blue"})
    write_shard(tmp_path / "train-000000.tar", {"b": {"label": "green", "id": "own id"}})
    write_shard(tmp_path / "validation/deep/1.tar", {"a": {"class": "red"}})
    write_shard(tmp_path / "test.tar", {"a": None})
    (tmp_path / ".train-000002.tar.part").write_bytes(b"half written")
    data = load(tmp_path)
    assert data.class_names == ["blue", "green", "red"]
    assert list(labels_of(data.train).items()) == [
        ("own id", 1),
        ("train-000001.tar/c.mp4", 2),
        ("train-000001.tar/a.mp4", 0),
    ]
    assert labels_of(data.val) == {"validation/deep/1.tar/a.mp4": 2}
    assert labels_of(data.test) == {"test.tar/a.mp4": None}
    assert data.train[1].path == f"{tmp_path}/train-000001.tar/c.mp4"


def test_splits_by_pattern(tmp_path):
    for number in range(12):
        write_shard(tmp_path / f"part-{number:02d}.tar", {"a": "x" if number % 2 else "y"})
    write_shard(tmp_path / "held out/1.tar", {"a": "x"})
    absolute = str(tmp_path / "part-11.tar")
    data = load(tmp_path, train="part-{00..09}.tar", val="part-1[01].tar", test="held out")
    assert [sample.id for sample in data.train] == [f"part-0{number}.tar/a.mp4" for number in range(10)]
    assert [sample.id for sample in data.val] == ["part-10.tar/a.mp4", "part-11.tar/a.mp4"]
    assert [sample.id for sample in data.test] == ["held out/1.tar/a.mp4"]
    assert [sample.id for sample in load(tmp_path, val=absolute).val] == ["part-11.tar/a.mp4"]
    assert load(tmp_path, val="part-{0..1}{0..1}.tar").train == []
    assert len(load(tmp_path, val="part-{0..1}{0..1}.tar").val) == 4
    for pattern, message in {
        "part-{00..12}.tar": r"^data\.train='part-\{00\.\.12\}\.tar': no shard part-12\.tar \(\.tar\) in ",
        "none": r"^data\.train='none': no shard none \(\.tar\) in ",
        "a-{9..0}.tar": r"\{9\.\.0\}: expected a range of numbers that ascends",
        "a-{0..999999999}.tar": r"\{0\.\.999999999\}: expected a range",
    }.items():
        with pytest.raises(XViTError, match=message):
            load(tmp_path, train=pattern)


def test_no_shards(tmp_path):
    with pytest.raises(XViTError, match=r": no shards of these names: expected train-\*\.tar and val-\*\.tar"):
        load(tmp_path)
    (tmp_path / "train-0.tar.gz").touch()
    with pytest.raises(XViTError, match=r"train-0\.tar\.gz: compressed: .*decompress the shards first$"):
        load(tmp_path)
    with pytest.raises(XViTError, match=r"none: no such folder"):
        load(tmp_path / "none")


def test_class_indices_of_others(tmp_path):
    """As WebDataset's own examples have them, beside JSON with other things in it."""
    members = [("1.mp4", b"1"), ("1.cls", b"3"), ("2.mp4", b"2"), ("2.cls", b"0"), ("2.json", b'{"fps": 25}')]
    write_tar(tmp_path / "train.tar", [*members, ("3.mp4", b"3"), ("3.json", b"1")])
    data = load(tmp_path)
    assert data.class_names == ["0", "1", "2", "3"]
    assert [sample.label for sample in data.train] == [3, 0, 1]
    names = tmp_path / "names.txt"
    names.write_text("no\nyes\nmaybe\nnever\nalways\n")
    assert load(tmp_path, label_files=str(names)).class_names == ["no", "yes", "maybe", "never", "always"]
    names.write_text("no\nyes\n")
    with pytest.raises(VideoError, match=r"train\.tar/1\.mp4: label 3: expected a class index from 0 to 1$"):
        load(tmp_path, label_files=str(names))


def test_class_names_of_the_labels_file(tmp_path):
    write_shard(tmp_path / "train.tar", {"a": "red", "b": 2})
    (tmp_path / "labels.json").write_text('["red", "green", "blue"]')
    data = load(tmp_path)
    assert (data.class_names, [sample.label for sample in data.train]) == (["red", "green", "blue"], [0, 2])
    (tmp_path / "labels.json").write_text('["rot", "redd"]')
    with pytest.raises(XViTError, match=r'train\.tar/a\.mp4: label "red" is not one of the 2 classes\. Did you mean'):
        load(tmp_path)
    with pytest.raises(XViTError, match=r"expected one file for data\.format='webdataset'"):
        load(tmp_path, label_files=("a.txt", "b.txt"))


def test_tasks_and_segments(tmp_path):
    rows = [
        {"id": f"P_{i}", "label": {"verb": v, "noun": "cup"}, "start": i, "stop": i + 1.5} for i, v in enumerate("ba")
    ]
    write_shard(tmp_path / "train.tar", {"P01": {"segments": rows}, "P02": {"label": {"verb": "b", "noun": "door"}}})
    data = load(tmp_path)
    assert data.class_names == {"verb": ["a", "b"], "noun": ["cup", "door"]}
    assert [(sample.id, sample.label, sample.start, sample.stop) for sample in data.train] == [
        ("P_0", {"verb": 1, "noun": 0}, 0, 1.5),
        ("P_1", {"verb": 0, "noun": 0}, 1, 2.5),
        ("train.tar/P02.mp4", {"verb": 1, "noun": 1}, None, None),
    ]
    (tmp_path / "labels.json").write_text('{"verb": ["b", "a", "c"], "noun": ["cup", "door"]}')
    assert load(tmp_path).train[0].label == {"verb": 0, "noun": 0}
    for text in (
        '{"verb": ["a", "a"], "noun": ["cup"]}',
        '{"verb": [], "noun": ["cup"]}',
        '{"verb": 1, "noun": ["c"]}',
    ):
        (tmp_path / "labels.json").write_text(text)
        with pytest.raises(XViTError, match=r"labels\.json: verb: expected a list of class names, all different$"):
            load(tmp_path)


def test_several_labels(tmp_path):
    write_shard(tmp_path / "train.tar", {"a": {"labels": ["x", "y"]}, "b": [], "c": "y"})
    data = load(tmp_path, multi_label=True)
    assert [sample.label for sample in data.train] == [(0, 1), (), (1,)]
    with pytest.raises(VideoError, match=r"a\.mp4: label \['x', 'y'\]: several labels: set data\.multi_label=true$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": "x", "b": None}, r'train\.tar/b\.mp4: no label: expected "label" in KEY\.json, or KEY\.cls'),
        ({"a": "x", "b": {"label": None}}, r"train\.tar/b\.mp4: no label"),
        ({"a": {"label": True}}, r"a\.mp4: label True: expected class names, or class indices from 0$"),
        ({"a": -1}, r"a\.mp4: label -1: expected class names"),
        ({"a": 1.5}, r"a\.mp4: label 1\.5: expected class names"),
        ({"a": 10**9}, r"a\.mp4: label 1000000000: expected class names"),
        ({"a": ""}, r"a\.mp4: label '': expected class names"),
        ({"a": {"label": {}}}, r"a\.mp4: label \{\}: expected class names"),
        ({"a": {"label": {"verb": ["x"]}}}, r"a\.mp4: label \{'verb': \['x'\]\}: expected class names"),
        ({"a": 1, "b": "x"}, r'b\.mp4: label "x": expected a class index, as for other videos; or give the names'),
        ({"a": {"label": {"verb": 1}}, "b": 1}, r"b\.mp4: labels for label: expected verb, as for the other videos$"),
        ({"a": {"segments": "all"}}, r"a\.mp4: segments: expected a list of mappings"),
        ({"a": {"segments": [1]}}, r"a\.mp4: segments: expected a list of mappings"),
        ({"a": {"segments": [{"label": 1, "start": "1"}]}}, r"a\.mp4: start '1': expected seconds$"),
        ({"a": {"segments": [{"label": 1, "start": 2, "stop": 1}]}}, r"a\.mp4: from 2 to 1 s: expected 0 <= start"),
    ],
)
def test_wrong_labels(tmp_path, labels, message):
    write_shard(tmp_path / "train.tar", labels)
    with pytest.raises(XViTError, match=message):
        load(tmp_path)


def test_validation_class_that_training_lacks(tmp_path):
    write_shard(tmp_path / "train.tar", {"a": "x"})
    write_shard(tmp_path / "val.tar", {"a": "y"})
    with pytest.raises(XViTError, match=r'val\.tar/a\.mp4: label "y" is not one of the 1 classes'):
        load(tmp_path)
    assert load(tmp_path, strict=False).class_names == ["x", "y"]


def test_videos_that_a_person_names(tmp_path):
    """A shard, a folder of shards, a video in a shard, and a list of those."""
    first = write_shard(tmp_path / "a/1.tar", {"x": "red", "y": {"segments": []}}, extension="mkv")
    second = write_shard(tmp_path / "a/deep/2.tar", {"z/z": 3})
    videos = [f"{first}/x.mkv", f"{first}/y.mkv", f"{second}/z/z.mp4"]
    assert find_videos([first]) == videos[:2]
    assert find_videos([tmp_path / "a"]) == videos
    assert find_videos([videos[2], first]) == [videos[2], *videos[:2]]
    names = tmp_path / "a/list.txt"
    names.write_text("1.tar/y.mkv\ndeep/2.tar/z/z.mp4 3\n")
    assert find_videos([names]) == videos[1:]
    assert [class_by_folder(video, [first]) for video in videos] == ["red", None, "3"]
    names.write_text(json.dumps("1.tar/none.mkv"))
    with pytest.raises(XViTError, match=r"list\.txt line 1"):
        find_videos([names])
    with pytest.raises(XViTError, match=r"1\.tar/none\.mp4: no such video in the shard$"):
        find_videos([f"{first}/none.mp4"])
