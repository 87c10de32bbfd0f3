"""Class folders: train and val folders, and reproducible splits."""

import hashlib
from pathlib import Path

import pytest

from helpers.files import ids, touch
from xvit.data.annotations import Sample, read_class_folders
from xvit.utils.errors import XViTError


def test_train_and_val_folders(tmp_path):
    touch(tmp_path, "train/run far/b c.mp4", "train/run far/a.AVI", "train/jump/1.webm", "val/jump/2.mp4")
    touch(tmp_path, "train/jump/.hidden.mp4", "train/jump/notes.txt", "train/.cache/x.mp4", "labels.csv")
    splits = read_class_folders(tmp_path)
    assert splits.class_names == ["jump", "run far"]
    assert ids(splits.train) == ["train/jump/1.webm", "train/run far/a.AVI", "train/run far/b c.mp4"]
    assert [sample.label for sample in splits.train] == [0, 1, 1]
    assert splits.val == [Sample(path=str(tmp_path / "val/jump/2.mp4"), label=0, id="val/jump/2.mp4")]


@pytest.mark.parametrize(("number", "fraction", "expected"), [(10, 0.2, 2), (10, 0.01, 1), (2, 0.9, 1), (1, 0.5, 0)])
def test_split_has_the_fraction_and_at_least_one_video_on_each_side(number, fraction, expected, tmp_path):
    for name in ("a", "b", "c"):
        touch(tmp_path, *(f"{name}/{video}.mp4" for video in range(number)))
    splits = read_class_folders(str(tmp_path), val_fraction=fraction)
    train, val, class_names = splits.train, splits.val, splits.class_names
    assert class_names == ["a", "b", "c"]
    assert sorted(ids(train) + ids(val)) == sorted(f"{name}/{video}.mp4" for name in "abc" for video in range(number))
    for label in range(3):
        assert sum(sample.label == label for sample in val) == expected
    assert all(class_names[sample.label] == Path(sample.id).parent.name for sample in train + val)


def test_no_validation_split_for_fraction_zero(tmp_path):
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
    ("files", "message"),
    [
        ([], "no videos: expected data/<class>/"),
        (["a/notes.txt"], "no videos: expected data/<class>/"),
        (["1.mp4"], "no videos: expected data/<class>/.* in it have no class: --data.format"),
        (["a/1.mp4", "b/notes.txt"], "data/b: a class without videos"),
        (["a/1.mp4"], 'only one class, "a"'),
        (["train/a/1.mp4", "train/b/1.mp4", "val/a/1.mp4", "val/c/1.mp4"], 'val: class "c" is not in .*train'),
        (["train/a/1.mp4", "train/b/1.mp4", "val/notes.txt"], "val: no videos"),
        (["train/a/1.mp4", "train/b/1.mp4"], "train: contains class folders, but there is no folder .*val"),
    ],
)
def test_invalid_folders(files, message, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    touch(root, *files)
    with pytest.raises(XViTError, match=message) as caught:
        read_class_folders(root)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_invalid_fraction(tmp_path):
    touch(tmp_path, "file")
    with pytest.raises(XViTError, match="nowhere: no such folder"):
        read_class_folders(tmp_path / "nowhere")
    with pytest.raises(XViTError, match="a file, not a folder"):
        read_class_folders(tmp_path / "file")
    with pytest.raises(XViTError, match="val_fraction=2"):
        read_class_folders(tmp_path, val_fraction=2)


def test_a_class_may_be_named_train(tmp_path):
    touch(tmp_path, "train/1.mp4", "train/2.mp4", "car/1.mp4", "car/2.mp4")
    assert read_class_folders(tmp_path).class_names == ["car", "train"]


def test_folders_of_frames_are_videos(tmp_path):
    touch(tmp_path, "a/1/frame_1.jpg", "a/2.mp4", "b/1/img_1.PNG", "b/3/notes.txt", "b/cover.jpg")
    assert ids(read_class_folders(tmp_path, val_fraction=0).train) == ["a/1", "a/2.mp4", "b/1"]


@pytest.mark.parametrize(
    ("number", "val", "test", "sizes"),
    [
        (10, 0.2, 0.2, (6, 2, 2)),
        (10, 0.2, 0.0, (8, 2, 0)),
        (10, 0.0, 0.3, (7, 0, 3)),
        (10, 0.01, 0.01, (8, 1, 1)),
        (3, 0.3, 0.3, (1, 1, 1)),
        (2, 0.5, 0.5, (1, 1, 0)),
        (1, 0.2, 0.2, (1, 0, 0)),
    ],
)
def test_three_splits_share_no_video_and_the_test_split_changes_no_validation_video(number, val, test, sizes, tmp_path):
    names = [f"{name}/{video}.mp4" for name in "ab" for video in range(number)]
    touch(tmp_path, *names)
    splits = read_class_folders(tmp_path, val_fraction=val, test_fraction=test, seed=1)
    assert sorted(ids(splits.train) + ids(splits.val) + ids(splits.test)) == sorted(names)
    assert {name: len(samples) for name, samples in splits.by_name.items()} == {
        "train": 2 * sizes[0],
        "val": 2 * sizes[1],
        "test": 2 * sizes[2],
    }
    without_test = read_class_folders(tmp_path, val_fraction=val, seed=1)
    assert without_test.val == splits.val
    assert without_test.test == []


def test_the_split_of_flat_class_folders_stays_as_it_was(tmp_path):
    """The order is a hash of seed, class and file name: stored runs and published results depend on it."""
    touch(tmp_path, *(f"{name}/{video}.mp4" for name in ("a", "b c") for video in range(8)))
    expected = []
    for name in ("a", "b c"):
        videos = [f"{video}.mp4" for video in range(8)]
        videos.sort(key=lambda video: hashlib.sha256(f"5/{name}/{video}".encode()).hexdigest())
        expected += [f"{name}/{video}" for video in videos[:3]]
    assert ids(read_class_folders(tmp_path, val_fraction=0.4, seed=5).val) == sorted(expected)


def test_a_test_folder_beside_train_and_val(tmp_path):
    touch(tmp_path, *(f"{split}/{name}/1.mp4" for split in ("train", "val", "test") for name in "ab"))
    assert ids(read_class_folders(tmp_path).test) == ["test/a/1.mp4", "test/b/1.mp4"]
    with pytest.raises(XViTError, match=r"test_fraction=0.1: .* has its own splits"):
        read_class_folders(tmp_path, test_fraction=0.1)
    touch(tmp_path, "test/c/1.mp4")
    with pytest.raises(XViTError, match=r'test: class "c" is not in .*train'):
        read_class_folders(tmp_path)


def test_an_unlabelled_test_folder_is_left_out_and_said(tmp_path):
    touch(tmp_path, *(f"{split}/{name}/1.mp4" for split in ("train", "val") for name in "ab"), "test/1.mp4")
    splits = read_class_folders(tmp_path)
    assert (len(splits.train), len(splits.val), splits.test) == (2, 2, [])
    assert splits.left_out == {"in no class folder": [str(tmp_path / "test")]}


def test_two_names_of_one_file_are_in_the_same_split(tmp_path):
    touch(tmp_path, *(f"{name}/group/{video}.mp4" for name in "ab" for video in range(10)))
    (tmp_path / "a/same group").symlink_to(tmp_path / "a/group")
    for seed in range(5):
        splits = read_class_folders(tmp_path, val_fraction=0.4, test_fraction=0.3, seed=seed)
        files = [{Path(sample.path).resolve() for sample in samples} for samples in splits.by_name.values()]
        assert sum(map(len, files)) == len(set().union(*files)) == 20
        assert {name: len(samples) for name, samples in splits.by_name.items()} == {"train": 9, "val": 12, "test": 9}
