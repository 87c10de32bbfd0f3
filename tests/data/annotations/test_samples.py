import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.files import ids, touch
from xvit.data.annotations.finder import VideoFinder
from xvit.data.annotations.lists import read_list, write_list
from xvit.data.annotations.samples import (
    Sample,
    find_videos,
    read_class_folders,
    read_class_names,
)
from xvit.utils.errors import XViTError


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
        ("labels.csv", 'id,key,instances\n1,put,"[1, 2]"\n0,take,[]\n', ["take", "put"]),
        ("labels.csv", "id,name\r\n0,abseiling\r\n1,air drumming\r\n", ["abseiling", "air drumming"]),
        ("labels.csv", "take\nput\n", ["take", "put"]),
    ],
)
def test_label_names(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_class_names(tmp_path / name) == expected


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
        ("labels.csv", "id,key\n0,a\n2,b\n", "numbers 0 to 1"),
        ("labels.csv", "id,key\n0,a\nx,b\n", "numbers 0 to 1"),
    ],
)
def test_label_names_that_are_none(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(XViTError, match=said) as raised:
        read_class_names(tmp_path / name)
    assert name in str(raised.value)


def listed(tmp_path: Path, text: str, **options):
    (tmp_path / "list.txt").write_bytes(text.encode())
    return read_list(tmp_path / "list.txt", VideoFinder(tmp_path), **options)


@pytest.mark.parametrize(
    "text",
    [
        "a/1.mp4 0\nb c/2 3.mp4 1\n",
        "a/1.mp4,0\r\nb c/2 3.mp4,1\r\n\r\n",
        "a/1.mp4\t0\nb c/2 3.mp4\t1",
        "path label\na/1.mp4 0\nb c/2 3.mp4 1\n",
        "video_path,label\na/1.mp4, 0\nb c/2 3.mp4, 1\n",
        "\ufeffa/1.mp4  0 \n\n./b c/../b c/2 3.mp4  1",
        '"a/1.mp4",0\n"b c/2 3.mp4","1"\n',
    ],
)
def test_lists_with_numbers(text, tmp_path):
    touch(tmp_path, "a/1.mp4", "b c/2 3.mp4")
    samples, labels, missing, rows = listed(tmp_path, text)
    assert [sample.path for sample in samples] == [str(tmp_path / "a/1.mp4"), str(tmp_path / "b c/2 3.mp4")]
    assert [sample.label for sample in samples] == [0, 1]
    assert (labels, missing, rows) == (["0", "1"], [], 0)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("1.mp4 swim\n2, 3.mp4 run\n", ["run", "swim"]),
        ("1.mp4,riding a bike\n2, 3.mp4,run\n", ["riding a bike", "run"]),
        ("1.mp4\triding, a bike\n2, 3.mp4\trun\n", ["riding, a bike", "run"]),
        ('1.mp4,"riding, a ""bike"""\n"2, 3.mp4",run\n', ['riding, a "bike"', "run"]),
        ("filename,class\n1.mp4,swim\n2, 3.mp4,run\n", ["run", "swim"]),
    ],
)
def test_lists_with_names(text, labels, tmp_path):
    touch(tmp_path, "1.mp4", "2, 3.mp4")
    found = listed(tmp_path, text)
    assert found.class_names == labels
    assert [labels[sample.label] for sample in found.samples] == [next(x for x in labels if x != "run"), "run"]
    assert ids(found.samples) == ["1.mp4", "2, 3.mp4"]
    assert [sample.label for sample in listed(tmp_path, text, labels=["x", *labels]).samples] == [
        1 + sample.label for sample in found.samples
    ]


NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0\n\r\t"), min_size=1, max_size=12
).filter(lambda name: name.strip() == name and name[0] not in '."')


@given(
    paths=st.lists(st.tuples(NAMES, NAMES).map("/".join), min_size=1, max_size=5),
    numbers=st.lists(st.integers(0, 40), min_size=5, max_size=5),
    separator=st.sampled_from(" ,\t"),
)
def test_any_path_is_read_back(paths, numbers, separator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("list")
    rows = list(zip([f"{path}.mp4" for path in paths], numbers, strict=False))
    text = "".join(f"{path}{separator}{number}\n" for path, number in rows)
    (folder / "list").write_bytes(text.encode())
    finder = VideoFinder(folder)
    finder.at = lambda path: f"found/{path}"  # the splitting alone: not all these names are good for all disks
    found = read_list(folder / "list", finder)
    assert [(sample.id, sample.label) for sample in found.samples] == rows
    assert len(found.class_names) == max(number for _, number in rows) + 1


@given(st.lists(st.text(st.characters(blacklist_characters="\n\0/"), min_size=1, max_size=9), min_size=1, max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("list")
    paths = [f"{folder}/{name.encode('utf-8', 'replace').decode()}.mp4" for name in names]
    written = [Sample(path=path, label=place, id="") for place, path in enumerate(paths)]
    write_list(folder / "list", written, folder)
    finder = VideoFinder(folder)
    finder.at = lambda path: f"{folder}/{path}"
    assert [(s.path, s.label) for s in read_list(folder / "list", finder).samples] == [
        (s.path, s.label) for s in written
    ]


def test_a_name_in_bytes_that_are_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    touch(tmp_path, name)
    write_list(tmp_path / "list", [Sample(path=str(tmp_path / name), label=0, id="a")], tmp_path)
    assert read_list(tmp_path / "list", VideoFinder(tmp_path)).samples[0].path == str(tmp_path / name)


@pytest.mark.parametrize(
    "sample",
    [
        Sample(path="a", label=0, id="a", start=1.0),
        Sample(path="a", label=None, id="a"),
        Sample(path="a", label={"verb": 1}, id="a"),
        Sample(path="a\nb", label=0, id="a"),
    ],
)
def test_what_a_list_cannot_hold(sample, tmp_path):
    with pytest.raises(XViTError, match="a list"):
        write_list(tmp_path / "list", [sample], tmp_path)


def test_missing_other_extensions_and_folders_of_frames(tmp_path):
    touch(tmp_path, "a/1.webm", "a/2.mkv", "a/2.avi", "a/3.mp4", "a/f 4/img_00001.jpg", "elsewhere/5.mp4")
    elsewhere = tmp_path / "elsewhere/5.mp4"
    text = f"a/1.mp4 0\na/2.mp4 1\na/3.mp4 2\na/f 4 163 3\nno/5.mp4 4\nno/5.mp4 4\n{elsewhere} 5\n"
    samples, labels, missing, rows = listed(tmp_path, text, fps=12)
    assert [Path(sample.path).name for sample in samples] == ["1.webm", "3.mp4", "f 4", "5.mp4"]
    assert [sample.fps for sample in samples] == [None, None, 12, None]
    assert [sample.label for sample in samples] == [0, 2, 3, 5]
    assert labels == ["0", "1", "2", "3", "4", "5"]
    assert missing == ["a/2.mp4", "no/5.mp4"], "which of two is meant is not guessed"
    assert rows == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list.txt: no videos in it"),
        ("path label\n", "list.txt: no videos in it"),
        ("1.mp4 0\n2.mp4\n", "line 2: '2.mp4': expected a path and a label, with a space"),
        ("1.mp4,0\n\n,1\n", "line 3: ',1': expected a path and a label, with a comma"),
        ("1.mp4\t0\n2.mp4\t\n3.mp4\t1", "line 2: .*a path and a label, with a tab"),
        ("1.mp4 0\n2.mp4 -1\n", 'line 2: label "-1": expected a number from 0, as in other lines'),
        ("1.mp4 0\n2.mp4 1.0\n3.mp4 1", 'line 2: label "1.0": expected a number'),
        ("1.mp4 0\n2.mp4 99999999999999\n", "line 2: label 99999999999999: expected a number from 0 to 99999"),
    ],
)
def test_lines_that_are_none(text, said, tmp_path):
    with pytest.raises(XViTError, match=said) as caught:
        listed(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_labels_that_are_no_class(tmp_path):
    with pytest.raises(XViTError, match=r"list.txt line 2: label 2: expected a number from 0 to 1"):
        listed(tmp_path, "1.mp4 0\n2.mp4 2\n", labels=["a", "b"])
    with pytest.raises(XViTError, match=r'line 2: label "swin" is not one of the 2 classes. Did you mean "swim"\?'):
        listed(tmp_path, "1.mp4 run\n2.mp4 swin\n", labels=["swim", "run"])
    with pytest.raises(XViTError, match=r"none.txt: no such file"):
        read_list(tmp_path / "none.txt", VideoFinder(tmp_path))
    with pytest.raises(XViTError, match=r"nowhere: no such folder"):
        VideoFinder(tmp_path / "nowhere")


def test_a_large_list_takes_a_listing_a_folder(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{number % 7}/{number}.mp4" for number in range(100)))
    asked = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: asked.append(path) or listdir(path))
    monkeypatch.setattr(os.path, "exists", None)
    text = "".join(f"{number % 7}/{number}.mp4 {number}\n" for number in range(100))
    assert len(listed(tmp_path, text).samples) == 100
    assert len(asked) == 7


def test_the_finder_walks_once_and_not_in_circles(tmp_path, monkeypatch):
    touch(tmp_path, "root/b/1.mp4", "root/a/1.MKV", "root/a/.1.mp4", "root/.c/1.mp4", "root/f/1/2.png", "linked/2.webm")
    touch(tmp_path, "root/a/1.jpg", "root/g/2.5/0.jpg")
    (tmp_path / "root/back").symlink_to(tmp_path / "root")
    (tmp_path / "root/link").symlink_to(tmp_path / "linked")
    finder = VideoFinder(tmp_path / "root")
    found = [str(tmp_path / "root" / name) for name in ("a/1.MKV", "b/1.mp4", "f/1")]
    assert finder.named("1") == found
    monkeypatch.setattr(os, "walk", None)
    assert finder.named("2") == [str(tmp_path / "root/link/2.webm")]
    assert finder.named("2.5") == [str(tmp_path / "root/g/2.5")]
    assert finder.named("3") == []


def test_folders_of_frames_are_videos(tmp_path):
    touch(tmp_path, "a/1/frame_1.jpg", "a/2.mp4", "b/1/img_1.PNG", "b/3/notes.txt", "b/cover.jpg")
    assert sorted(ids([*read_class_folders(tmp_path, val_fraction=0).train])) == ["a/1", "a/2.mp4", "b/1"]
    assert find_videos([tmp_path / "a", tmp_path / "b/1"]) == [
        str(tmp_path / name) for name in ("a/1", "a/2.mp4", "b/1")
    ]
