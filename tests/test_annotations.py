from pathlib import Path

import pytest

from xvit.data.annotations import Sample, find_videos, read_class_folders, read_label_names
from xvit.errors import XViTError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"video")


def ids(samples: list[Sample]) -> list[str]:
    return [sample.id for sample in samples]


def test_train_and_val_folders(tmp_path):
    touch(tmp_path, "train/run far/b c.mp4", "train/run far/a.AVI", "train/jump/1.webm", "val/jump/2.mp4")
    touch(tmp_path, "train/jump/.hidden.mp4", "train/jump/notes.txt", "train/.cache/x.mp4", "labels.csv")
    train, val, classes = read_class_folders(tmp_path)
    assert classes == ["jump", "run far"]
    assert ids(train) == ["train/jump/1.webm", "train/run far/a.AVI", "train/run far/b c.mp4"]
    assert [sample.label for sample in train] == [0, 1, 1]
    assert val == [Sample(path=str(tmp_path / "val/jump/2.mp4"), label=0, id="val/jump/2.mp4")]


@pytest.mark.parametrize(("number", "fraction", "expected"), [(10, 0.2, 2), (10, 0.01, 1), (2, 0.9, 1), (1, 0.5, 0)])
def test_split_keeps_the_share_and_one_on_each_side(number, fraction, expected, tmp_path):
    for name in ("a", "b", "c"):
        touch(tmp_path, *(f"{name}/{video}.mp4" for video in range(number)))
    train, val, classes = read_class_folders(str(tmp_path), val_fraction=fraction)
    assert classes == ["a", "b", "c"]
    assert sorted(ids(train) + ids(val)) == sorted(f"{name}/{video}.mp4" for name in "abc" for video in range(number))
    for label in range(3):
        assert sum(sample.label == label for sample in val) == expected
    assert all(classes[sample.label] == Path(sample.id).parent.name for sample in train + val)


def test_no_validation_when_asked_for(tmp_path):
    touch(tmp_path, "a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4")
    assert read_class_folders(tmp_path, val_fraction=0).val == []


def test_split_depends_on_the_seed_and_not_on_other_classes(tmp_path):
    names = [f"{name}/{video}.mp4" for name in "bc" for video in range(20)]
    touch(tmp_path / "one", *names)
    touch(tmp_path / "two", *names, *(f"a/{video}.mp4" for video in range(7)))
    one, two = (read_class_folders(tmp_path / root, seed=3) for root in ("one", "two"))
    assert ids(one.val) == [name for name in ids(two.val) if not name.startswith("a/")]
    assert ids(one.val) == ids(read_class_folders(tmp_path / "one", seed=3).val)
    assert ids(one.val) != ids(read_class_folders(tmp_path / "one", seed=4).val)
    same_numbers = {Path(name).name for name in ids(one.val) if name.startswith("b/")}
    assert same_numbers != {Path(name).name for name in ids(one.val) if name.startswith("c/")}


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([], "no videos: expected data/<class>/"),
        (["a/notes.txt"], "no videos: expected data/<class>/"),
        (["1.mp4"], "no videos: expected data/<class>/"),
        (["a/1.mp4", "b/notes.txt"], "data/b: a class without videos"),
        (["a/1.mp4"], 'only one class, "a"'),
        (["train/a/1.mp4", "train/b/1.mp4", "val/a/1.mp4", "val/c/1.mp4"], 'val: class "c" is not in .*train'),
        (["train/a/1.mp4", "train/b/1.mp4", "val/notes.txt"], "val: no videos"),
        (["train/a/1.mp4", "train/b/1.mp4"], "train: .* no .*val"),
    ],
)
def test_folders_that_are_no_data_set(files, text, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    touch(root, *files)
    with pytest.raises(XViTError, match=text) as caught:
        read_class_folders(root)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path):
    touch(tmp_path, "file")
    with pytest.raises(XViTError, match="nowhere: no such folder"):
        read_class_folders(tmp_path / "nowhere")
    with pytest.raises(XViTError, match="a file, not a folder"):
        read_class_folders(tmp_path / "file")
    with pytest.raises(XViTError, match="val_fraction=2"):
        read_class_folders(tmp_path, val_fraction=2)


def test_a_class_may_be_named_train(tmp_path):
    touch(tmp_path, "train/1.mp4", "train/2.mp4", "car/1.mp4", "car/2.mp4")
    assert read_class_folders(tmp_path).classes == ["car", "train"]


def test_find_videos(tmp_path):
    touch(tmp_path, "b/2.mp4", "b/deep/1.MKV", "b/notes.txt", "b/.hidden.mp4", "text.txt", "empty/notes.txt")
    paths = [tmp_path / "text.txt", tmp_path / "missing.mp4", tmp_path / "b", str(tmp_path / "empty")]
    assert find_videos(paths) == [
        str(tmp_path / name) for name in ("text.txt", "missing.mp4", "b/2.mp4", "b/deep/1.MKV", "empty")
    ]


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (3, 3), (3, 2), (None, 0)])
def test_a_stretch_must_have_a_length(start, stop):
    with pytest.raises(XViTError, match="expected 0 <= start < stop"):
        Sample(path="a.mp4", label=0, id="a", start=start, stop=stop)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("labels.txt", "put down\n  take up \n\n", ["put down", "take up"]),
        ("labels.json", '["b", "a"]', ["b", "a"]),
        ("labels.json", '{"b": "1", "a": 0, "c": "2"}', ["a", "b", "c"]),
    ],
)
def test_label_names(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_label_names(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("labels.txt", "", "no class names"),
        ("labels.txt", "a\n\nb", "line 2 is empty"),
        ("labels.txt", "a\nb\na", 'class "a" in lines 1 and 3'),
        ("labels.json", "[1]", "expected a list of class names"),
        ("labels.json", '"a"', "expected a list of class names"),
        ("labels.json", '{"a": 0, "b": 2}', "numbers 0 to 1"),
        ("labels.json", '{"a": 0, "b": [2]}', "numbers 0 to 1"),
        ("labels.json", "{", "not readable"),
    ],
)
def test_label_names_that_are_none(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(XViTError, match=said) as raised:
        read_label_names(tmp_path / name)
    assert name in str(raised.value)
