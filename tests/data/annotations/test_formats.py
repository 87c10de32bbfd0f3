"""The annotation files of published data sets, in small hand-written examples, and `load_splits`."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.files import ids, touch, write
from xvit.config import DataConfig, from_dict
from xvit.data.annotations import (
    DatasetSplits,
    Sample,
    VideoFinder,
    load_splits,
    read_class_folders,
    read_epic,
    read_kinetics,
    read_list,
    read_ssv2,
)
from xvit.utils.errors import XViTError

KINETICS = """label,youtube_id,time_start,time_end,split
playing chess,-abc_DEF123,5,15,train
"pushing, pulling",xyz,20,30,train
playing chess,bothNames00,1,11,train
making tea,inFrames,0,10,train
making tea,gone,0,10,train
"""

EPIC = """\
narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,\
narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes
P01_01_0,P01,P01_01,00:00:01.0,00:00:00.25,00:00:03.35,15,201,lift lid,lift,3,lid,3,['lid'],[3]
P01_01_1,P01,P01_01,00:00:02.6,00:00:04.40,00:00:06.20,264,372,"stir soup, slowly",stir,6,soup,114,['soup'],[114]
P02_101_0,P02,P02_101,01:00:02.6,01:02:03.5,01:02:04,186175,186200,shake jar,shake,0,jar,299,['jar'],[299]
"""


def relative_paths(samples: list[Sample], root: Path) -> list[str]:
    return [Path(sample.path).relative_to(root).as_posix() for sample in samples]


@pytest.fixture
def kinetics(tmp_path) -> Path:
    touch(tmp_path / "k", "playing_chess/-abc_DEF123_000005_000015.mp4", "train/pushing, pulling/xyz.webm")
    touch(
        tmp_path / "k", "other/bothNames00.mp4", "Playing chess/bothNames00.mkv", "other/bothNames00_000002_000012.mp4"
    )
    touch(tmp_path / "k", "inFrames_000000_000010/image_00001.jpg")
    return tmp_path / "k"


def test_kinetics_file_names(kinetics, tmp_path):
    path = write(tmp_path / "train.csv", KINETICS)
    parsed = read_kinetics(path, VideoFinder(kinetics), fps=25)
    samples = parsed.samples
    assert parsed.class_names == ["making tea", "playing chess", "pushing, pulling"]
    assert relative_paths(samples, kinetics) == [
        "playing_chess/-abc_DEF123_000005_000015.mp4",
        "train/pushing, pulling/xyz.webm",
        "Playing chess/bothNames00.mkv",
        "inFrames_000000_000010",
    ]
    assert [sample.label for sample in samples] == [1, 2, 1, 0]
    assert [sample.fps for sample in samples] == [None, None, None, 25]
    assert all(sample.start is sample.stop is None for sample in samples)
    assert samples[0].id == "-abc_DEF123_000005_000015"
    assert parsed.missing == parsed.missing_rows == ["gone_000000_000010"]


def test_kinetics_file_with_several_splits(kinetics, tmp_path):
    text = KINETICS + "making tea,inVal,0,10,validate\nmaking tea,inTest,0,10,test\n"
    touch(kinetics, "inVal.mp4", "inTest.mp4")
    path = write(tmp_path / "all.csv", text)
    data = load_splits(
        DataConfig(root=str(kinetics), format="kinetics", train=path, val=path, max_missing_fraction=0.2)
    )
    assert len(data.train) == 4
    assert ids(data.val) == ["inVal_000000_000010"]
    assert data.missing == ["gone_000000_000010"]
    only = write(tmp_path / "test.csv", "label,youtube_id,time_start,time_end,split\nmaking tea,inTest,0,10,test\n")
    assert ids(load_splits(DataConfig(root=str(kinetics), format="kinetics", val=only)).val) == ["inTest_000000_000010"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a.csv line 1: no column youtube_id\. Expected youtube_id, time_start, time_end"),
        ("label,youtube_ids,time_start,time_end\n", r'line 1: no column youtube_id\. Did you mean "youtube_ids"\?'),
        ("label,youtube_id,time_start,time_end\n", "a.csv: no rows in it"),
        ("label,youtube_id,time_start,time_end\nx,a,0,10\nx,b,0\n", "a.csv line 3: no time_end"),
        (
            "label,youtube_id,time_start,time_end\nx,a,0,10,train\n",
            "line 2: '\"train\"|'train': more values than columns in line 1",
        ),
        ("label,youtube_id,time_start,time_end\n,a,0,10\n", "a.csv line 2: no label"),
        ("label,youtube_id,time_start,time_end\nx,a,zero,10\n", "a.csv line 2: time_start 'zero': expected seconds"),
        ("label,youtube_id,time_start,time_end\nx,a,-1,10\n", "a.csv line 2: time_start '-1': expected seconds"),
        (
            "label,youtube_id,time_start,time_end\nx,a,10,10\n",
            "a.csv line 2: time_start 10, time_end 10: expected start < end",
        ),
        ("label,youtube_id,time_start,time_end\nx,a,nan,inf\n", "a.csv line 2: time_start 'nan'"),
        (
            f"label,youtube_id,time_start,time_end\nx,{'a' * 140_000},0,1\n",
            "a.csv line 2: longer than 65536 characters",
        ),
        ('label,youtube_id,time_start,time_end\nx,"' + "a\n" * 70_000, r"a.csv line \d+: not readable as CSV"),
    ],
)
def test_invalid_kinetics_rows(text, message, tmp_path):
    with pytest.raises(XViTError, match=message) as caught:
        read_kinetics(write(tmp_path / "a.csv", text), VideoFinder(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_class_that_is_not_in_the_label_file(kinetics, tmp_path):
    labels = write(tmp_path / "labels.csv", "id,name\n1,making te\n0,playing chess\n")
    path = write(tmp_path / "train.csv", "label,youtube_id,time_start,time_end\nmaking tea,inFrames,0,10\n")
    config = DataConfig(root=str(kinetics), format="kinetics", train=path, label_files=labels)
    with pytest.raises(XViTError, match=r'line 2: label "making tea" is not one of the 2 .* mean "making te"\?'):
        load_splits(config)


def test_ssv2(tmp_path):
    touch(tmp_path / "s", "1.webm", "2.mp4", "deep/er/3.WEBM", "4/00001.jpg")
    labels = {"Holding something next to something": "1", "Putting something": "0", "Unused": "2"}
    entries = [
        {
            "id": "1",
            "label": "holding a cup",
            "template": "Holding [something] next to [something]",
            "placeholders": [],
        },
        {"id": 2, "template": "Putting [something]"},
        {"id": "3", "template": "Putting [something]"},
        {"id": "9", "template": "Putting [something]"},
    ]
    train = write(tmp_path / "train.json", json.dumps(entries))
    test = write(tmp_path / "test.json", json.dumps([{"id": "4"}]))
    files = write(tmp_path / "labels.json", json.dumps(labels))
    root = str(tmp_path / "s")
    data = load_splits(
        DataConfig(
            root=root, format="ssv2", train=train, val=test, label_files=files, max_missing_fraction=0.25, fps=12
        )
    )
    assert data.class_names == ["Putting something", "Holding something next to something", "Unused"]
    assert relative_paths(data.train, tmp_path / "s") == ["1.webm", "2.mp4", "deep/er/3.WEBM"]
    assert [sample.label for sample in data.train] == [1, 0, 0]
    assert data.val == [Sample(path=f"{root}/4", label=None, id="4", fps=12)]
    assert data.missing == ["9"]
    assert read_ssv2(train, VideoFinder(root)).class_names == [
        "Holding something next to something",
        "Putting something",
    ]
    with pytest.raises(XViTError, match=r"test.json: videos without a label: training needs a label for each video"):
        load_splits(DataConfig(root=root, format="ssv2", train=test, label_files=files))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a.json: not readable as JSON: .* line 1 column 2"),
        ("{}", "a.json: expected a list of entries"),
        ("[]", "a.json: expected a list of entries"),
        ('[{"id": "1", "template": "A"}, "x"]', "a.json entry 2: 'x': expected an entry with an id"),
        ('[{"template": "A"}]', "a.json entry 1: .*: expected an entry with an id"),
        ('[{"id": [1]}]', "a.json entry 1: .*: expected an entry with an id"),
        ('[{"id": "1", "template": 3}]', "a.json entry 1: template 3: expected text"),
        ('[{"id": "1", "template": ""}]', "a.json entry 1: template '': expected text"),
    ],
)
def test_invalid_ssv2_entries(text, message, tmp_path):
    with pytest.raises(XViTError, match=message) as caught:
        read_ssv2(write(tmp_path / "a.json", text), VideoFinder(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(XViTError, match='entry 1: class "B" is not one of the 1 classes'):
        read_ssv2(write(tmp_path / "b.json", '[{"id": "1", "template": "[B]"}]'), VideoFinder("."), class_names=["A"])


def test_epic(tmp_path):
    root = tmp_path / "e"
    touch(root, "P01/videos/P01_01.MP4", "P02/rgb_frames/P02_101/frame_0000000001.jpg")
    touch(root, "P01/rgb_frames/P01_01/frame_0000000001.jpg", "P01/flow_frames/P01_01/u/frame_0000000001.jpg")
    touch(root, "P02/flow_frames/P02_101/frame_0000000001.jpg")
    path = write(tmp_path / "epic.csv", EPIC)
    data = load_splits(DataConfig(root=str(root), format="epic", train=path, val=path))
    assert data.train == data.val
    first, second, third = data.train
    long = f"{root}/P01/videos/P01_01.MP4"
    assert first == Sample(path=long, label={"verb": 3, "noun": 3}, id="P01_01_0", start=0.25, stop=3.35)
    assert second == Sample(path=long, label={"verb": 6, "noun": 114}, id="P01_01_1", start=4.4, stop=6.2)
    assert (third.path, third.label) == (f"{root}/P02/rgb_frames/P02_101", {"verb": 0, "noun": 299})
    assert (third.start, third.stop, third.fps) == (3723.5, 3724.0, 50.0)
    assert isinstance(data.class_names, dict)
    assert {task: len(names) for task, names in data.class_names.items()} == {"verb": 97, "noun": 300}
    (root / "P01/videos/P01_01.MP4").unlink()
    samples = read_epic(path, VideoFinder(root)).samples
    assert (samples[0].path, samples[0].fps) == (f"{root}/P01/rgb_frames/P01_01", 60.0)


def test_epic_with_class_names_and_without_frame_numbers(tmp_path):
    touch(tmp_path, "P01_01.MP4")
    verbs = write(tmp_path / "verbs.csv", 'id,key,instances,category\n0,take,"[\'take\']",retrieve\n1,put,"[]",leave\n')
    nouns = write(tmp_path / "nouns.csv", "id,key\n0,tap\n1,pan\n2,plate\n")
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class\n"
    path = write(tmp_path / "a.csv", head + "a,P01,P01_01,00:00:00,00:00:01,1,2\nb,P01,P01_02,00:00:00,00:00:01,0,0\n")
    config = DataConfig(
        root=str(tmp_path), format="epic", val=path, label_files=(verbs, nouns), max_missing_fraction=0.5
    )
    data = load_splits(config)
    assert data.class_names == {"verb": ["take", "put"], "noun": ["tap", "pan", "plate"]}
    assert [sample.label for sample in data.val] == [{"verb": 1, "noun": 2}]
    assert (data.train, data.missing) == ([], ["P01_02"])
    with pytest.raises(XViTError, match="expected two files for epic: verbs, then nouns"):
        load_splits(DataConfig(root=str(tmp_path), format="epic", val=path, label_files=(verbs,)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("verb_class", "verb_clas", r'line 1: no column verb_class\. Did you mean "verb_clas"'),
        (",3,lid,3,", ",97,lid,3,", "epic.csv line 2: verb_class '97': expected a number from 0 to 96"),
        (",114,", ",-1,", "epic.csv line 3: noun_class '-1': expected a number from 0 to 299"),
        (",114,", ",,", "epic.csv line 3: no noun_class"),
        (",00:00:04.40,", ",00:00:61.37,", "epic.csv line 3: start_timestamp '00:00:61.37': expected HH:MM:SS.ss"),
        (",00:00:04.40,", ",4.37,", "epic.csv line 3: start_timestamp '4.37': expected HH:MM:SS.ss"),
        (
            ",00:00:04.40,",
            ",00:00:06.20,",
            "epic.csv line 3: start_timestamp 00:00:06.20, stop_timestamp 00:00:06.20: expected start < end",
        ),
        (",186200,", ",many,", "epic.csv line 4: stop_frame 'many': expected a number"),
    ],
)
def test_invalid_epic_rows(old, new, message, tmp_path):
    with pytest.raises(XViTError, match=message):
        read_epic(write(tmp_path / "epic.csv", EPIC.replace(old, new, 1)), VideoFinder(tmp_path))


def test_class_folders_equal_read_class_folders(tmp_path):
    touch(tmp_path, *(f"{name}/{video}.mp4" for name in "abc" for video in range(6)), "c/frames/1.jpg")
    expected = read_class_folders(tmp_path, val_fraction=0.4, seed=2)
    data = load_splits(DataConfig(root=str(tmp_path), val_fraction=0.4, split_seed=2, fps=15))
    assert isinstance(data, DatasetSplits)
    assert (ids(data.train), ids(data.val)) == (ids(expected.train), ids(expected.val))
    assert (data.class_names, data.missing) == (expected.class_names, [])
    assert {sample.fps for sample in data.train + data.val if sample.id != "c/frames"} == {None}
    assert {sample.fps for sample in data.train + data.val if sample.id == "c/frames"} == {15}


def test_lists_for_training_and_validation(tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    train, val = write(tmp_path / "train.txt", "1.mp4 b\n2.mp4 a\n"), write(tmp_path / "val.txt", "3.mp4 b\n")
    config = {"root": str(tmp_path), "format": "list", "train": train, "val": val}
    data = load_splits(DataConfig(**config))
    assert data.class_names == ["a", "b"]
    assert ([sample.label for sample in data.train], [sample.label for sample in data.val]) == ([1, 0], [1])
    names = write(tmp_path / "labels.txt", "c\nb\na\n")
    assert [sample.label for sample in load_splits(DataConfig(**config, label_files=names)).train] == [1, 2]
    write(tmp_path / "val.txt", "3.mp4 c\n")
    with pytest.raises(XViTError, match=r'val.txt line 1: label "c" is not one of the 2 classes'):
        load_splits(DataConfig(**config))


def test_missing_videos_are_counted_and_limited(tmp_path):
    touch(tmp_path, "0.mp4")
    path = write(tmp_path / "list.txt", "".join(f"{number}.mp4 0\n" for number in range(6)))
    config = {"root": str(tmp_path), "format": "list", "train": path}
    with pytest.raises(
        XViTError, match=r"list.txt: the videos of 5 of 6 rows are not in .*: 1.mp4, 2.mp4, 3.mp4, \.\.\."
    ) as e:
        load_splits(DataConfig(**config))
    fraction = float(str(e.value).rpartition("data.max_missing_fraction=")[2])
    data = load_splits(DataConfig(**config, max_missing_fraction=fraction))
    assert (len(data.train), data.missing) == (1, [f"{number}.mp4" for number in range(1, 6)])
    (tmp_path / "0.mp4").unlink()
    with pytest.raises(XViTError, match="6 of 6 rows"):
        load_splits(DataConfig(**config, max_missing_fraction=1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "data.root: missing"),
        ({"root": "."}, None),
        ({"root": ".", "train": "x"}, "data.train='x': not used with data.format='folders': set another data.format"),
        ({"root": ".", "label_files": "x"}, "data.label_files="),
        (
            {"root": ".", "format": "list"},
            "data.train, data.val, data.test: missing: data.format='list' needs annotation files",
        ),
        ({"root": ".", "format": "list", "train": "t", "label_files": ("a", "b")}, "expected one file for data.format"),
        ({"root": "nowhere", "format": "list", "train": "t"}, "nowhere: no such folder"),
        ({"root": ".", "format": "epic", "train": "no.csv"}, "no.csv: no such file"),
    ],
)
def test_incompatible_settings(values, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a/1.mp4", "b/1.mp4")
    if message is None:
        assert load_splits(DataConfig(**values)).class_names == ["a", "b"]
    else:
        with pytest.raises(XViTError, match=message):
            load_splits(DataConfig(**values))


def test_data_config_checks_its_values():
    assert DataConfig(label_files="a.txt").label_files == DataConfig(label_files=("a.txt",)).label_files == ("a.txt",)
    assert DataConfig().label_files == ()
    config = from_dict(DataConfig, {"format": "epic", "label_files": ["a", "b"], "fps": 50}, "test")
    assert (config.format, config.label_files, config.fps) == ("epic", ("a", "b"), 50)
    assert from_dict(DataConfig, {"label_files": "a"}, "test").label_files == ("a",)
    with pytest.raises(XViTError, match="multi_label=True with format='ssv2'"):
        DataConfig(multi_label=True, format="ssv2")
    for values in ({"format": "kinetic"}, {"fps": 0}, {"max_missing_fraction": 1.5}):
        with pytest.raises(XViTError, match=next(iter(values))):
            DataConfig(**values)


READERS = {
    "kinetics": (read_kinetics, KINETICS),
    "epic": (read_epic, EPIC),
    "ssv2": (read_ssv2, '[{"id": "1", "template": "A [b]"}, {"id": "2"}]'),
    "list": (read_list, '1.mp4 0\n2.mp4 1\n"x y",3'),
}


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_give_a_one_line_error(name, tmp_path):
    reader, text = READERS[name]
    rng = np.random.default_rng(0)
    videos, messages = VideoFinder(tmp_path), []
    for _ in range(300):
        data = bytearray(text.encode())
        for _ in range(rng.integers(1, 5)):
            start = int(rng.integers(len(data)))
            data[start : start + int(rng.integers(4))] = rng.choice(
                [b'"', b"\n", b",", b"\xff", b"\0", b"9" * 12, b"", b"\r"]
            )
        (tmp_path / "damaged").write_bytes(data)
        try:
            reader(tmp_path / "damaged", videos)
        except XViTError as error:
            messages.append(str(error))
    assert messages
    assert all("damaged" in text and "\n" not in text for text in messages)


def test_three_annotation_files(tmp_path):
    touch(tmp_path, *(f"{number}.mp4" for number in range(6)))
    paths = {}
    for split, numbers in {"train": (0, 1, 2), "val": (3, 4), "test": (5,)}.items():
        paths[split] = write(tmp_path / f"{split}.txt", "".join(f"{i}.mp4 {'ab'[i % 2]}\n" for i in numbers))
    splits = load_splits(DataConfig(root=str(tmp_path), format="list", **paths))
    assert {name: ids(samples) for name, samples in splits.by_name.items()} == {
        "train": ["0.mp4", "1.mp4", "2.mp4"],
        "val": ["3.mp4", "4.mp4"],
        "test": ["5.mp4"],
    }
    assert splits.test[0].label == splits.class_names.index("b")
    with pytest.raises(XViTError, match=r"test_fraction=0.1 with format='list': .*data.test"):
        DataConfig(root=str(tmp_path), format="list", **paths, test_fraction=0.1)


def test_labels_from_1_and_classes_without_videos_are_said(tmp_path, caplog):
    touch(tmp_path, *(f"{number}.mp4" for number in range(4)))
    from_one = write(tmp_path / "one.txt", "0.mp4 1\n1.mp4 2\n")
    with pytest.raises(XViTError, match=r"one.txt: labels are numbered from 1 to 2"):
        load_splits(DataConfig(root=str(tmp_path), format="list", train=from_one))
    gap = write(tmp_path / "gap.txt", "0.mp4 0\n1.mp4 3\n")
    assert load_splits(DataConfig(root=str(tmp_path), format="list", train=gap)).class_names == list("0123")
    assert caplog.messages == [f"{gap}: 2 classes have no training videos: 1, 2"]
    caplog.clear()
    names = write(tmp_path / "names.txt", "red\ngreen\nblue\ngrey\n")
    load_splits(DataConfig(root=str(tmp_path), format="list", train=from_one, label_files=names))
    advice = "; if the labels are numbered from 1, number them from 0"
    assert caplog.messages == [f"{from_one}: 2 classes have no training videos: red, grey{advice}"]


def test_without_strictness_all_classes_are_read(tmp_path):
    touch(tmp_path, *(f"{number}.mp4" for number in range(4)))
    train = write(tmp_path / "train.txt", "0.mp4 run\n1.mp4 swim\n")
    val = write(tmp_path / "val.txt", "2.mp4 jump\n3.mp4 swim\n")
    config = DataConfig(root=str(tmp_path), format="list", train=train, val=val)
    with pytest.raises(XViTError, match=r'val.txt line 1: label "jump" is not one of the 2 classes'):
        load_splits(config)
    splits = load_splits(config, strict=False)
    assert splits.class_names == ["run", "swim", "jump"]
    assert [splits.class_names[sample.label] for sample in splits.train + splits.val] == ["run", "swim", "jump", "swim"]
