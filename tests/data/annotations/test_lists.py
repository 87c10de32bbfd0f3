"""Lists of paths and labels: separators, quotes, headers, missing videos, multi-label lists, writing."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.files import ids, touch
from xvit.data.annotations import ParsedAnnotations, Sample, VideoFinder, read_list, read_multi_label_list, write_list
from xvit.data.annotations.lists import read_paths
from xvit.utils.errors import XViTError


def parse(tmp_path: Path, text: str, **options) -> ParsedAnnotations:
    (tmp_path / "list.txt").write_bytes(text.encode())
    return read_list(tmp_path / "list.txt", VideoFinder(tmp_path), **options)


def parse_multi_label(tmp_path: Path, text: str, **options) -> ParsedAnnotations:
    (tmp_path / "list.txt").write_text(text)
    return read_multi_label_list(tmp_path / "list.txt", VideoFinder(tmp_path), **options)


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
def test_labels_as_indices(text, tmp_path):
    touch(tmp_path, "a/1.mp4", "b c/2 3.mp4")
    parsed = parse(tmp_path, text)
    assert [sample.path for sample in parsed.samples] == [str(tmp_path / "a/1.mp4"), str(tmp_path / "b c/2 3.mp4")]
    assert [sample.label for sample in parsed.samples] == [0, 1]
    assert (parsed.class_names, parsed.missing, parsed.missing_rows) == (["0", "1"], [], [])


@pytest.mark.parametrize(
    ("text", "class_names"),
    [
        ("1.mp4 swim\n2, 3.mp4 run\n", ["run", "swim"]),
        ("1.mp4,riding a bike\n2, 3.mp4,run\n", ["riding a bike", "run"]),
        ("1.mp4\triding, a bike\n2, 3.mp4\trun\n", ["riding, a bike", "run"]),
        ('1.mp4,"riding, a ""bike"""\n"2, 3.mp4",run\n', ['riding, a "bike"', "run"]),
        ("filename,class\n1.mp4,swim\n2, 3.mp4,run\n", ["run", "swim"]),
    ],
)
def test_labels_as_names(text, class_names, tmp_path):
    touch(tmp_path, "1.mp4", "2, 3.mp4")
    parsed = parse(tmp_path, text)
    assert parsed.class_names == class_names
    assert [class_names[sample.label] for sample in parsed.samples] == [
        next(x for x in class_names if x != "run"),
        "run",
    ]
    assert ids(parsed.samples) == ["1.mp4", "2, 3.mp4"]
    assert [sample.label for sample in parse(tmp_path, text, class_names=["x", *class_names]).samples] == [
        1 + sample.label for sample in parsed.samples
    ]


NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0\n\r\t"), min_size=1, max_size=12
).filter(lambda name: name.strip() == name and name[0] not in '."')


@given(
    paths=st.lists(st.tuples(NAMES, NAMES).map("/".join), min_size=1, max_size=5),
    numbers=st.lists(st.integers(0, 40), min_size=5, max_size=5),
    separator=st.sampled_from(" ,\t"),
)
def test_any_path_can_be_read(paths, numbers, separator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("list")
    rows = list(zip([f"{path}.mp4" for path in paths], numbers, strict=False))
    text = "".join(f"{path}{separator}{number}\n" for path, number in rows)
    (folder / "list").write_bytes(text.encode())
    finder = VideoFinder(folder)
    finder.find_by_path = lambda path: f"found/{path}"  # no files: not every disk allows all of these names
    parsed = read_list(folder / "list", finder)
    assert [(sample.id, sample.label) for sample in parsed.samples] == rows
    assert len(parsed.class_names) == max(number for _, number in rows) + 1


@given(st.lists(st.text(st.characters(blacklist_characters="\n\0/"), min_size=1, max_size=9), min_size=1, max_size=4))
def test_a_written_list_can_be_read(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("list")
    paths = [f"{folder}/{name.encode('utf-8', 'replace').decode()}.mp4" for name in names]
    written = [Sample(path=path, label=index, id="") for index, path in enumerate(paths)]
    write_list(folder / "list", written, folder)
    finder = VideoFinder(folder)
    finder.find_by_path = lambda path: f"{folder}/{path}"
    assert [(s.path, s.label) for s in read_list(folder / "list", finder).samples] == [
        (s.path, s.label) for s in written
    ]


def test_a_file_name_that_is_not_utf8(tmp_path):
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
def test_samples_that_cannot_be_written(sample, tmp_path):
    with pytest.raises(XViTError, match="a list"):
        write_list(tmp_path / "list", [sample], tmp_path)


def test_missing_videos_other_extensions_and_folders_of_frames(tmp_path):
    touch(tmp_path, "a/1.webm", "a/2.mkv", "a/2.avi", "a/3.mp4", "a/f 4/img_00001.jpg", "elsewhere/5.mp4")
    elsewhere = tmp_path / "elsewhere/5.mp4"
    text = f"a/1.mp4 0\na/2.mp4 1\na/3.mp4 2\na/f 4 163 3\nno/5.mp4 4\nno/5.mp4 4\n{elsewhere} 5\n"
    parsed = parse(tmp_path, text, fps=12)
    samples = parsed.samples
    assert [Path(sample.path).name for sample in samples] == ["1.webm", "3.mp4", "f 4", "5.mp4"]
    assert [sample.fps for sample in samples] == [None, None, 12, None]
    assert [sample.label for sample in samples] == [0, 2, 3, 5]
    assert parsed.class_names == ["0", "1", "2", "3", "4", "5"]
    assert parsed.missing == ["a/2.mp4", "no/5.mp4"], "two candidates are ambiguous"
    assert parsed.missing_rows == ["a/2.mp4", "no/5.mp4", "no/5.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.txt: no videos in it"),
        ("path label\n", "list.txt: no videos in it"),
        ("1.mp4 0\n2.mp4\n", "line 2: '2.mp4': expected a path and a label, separated by a space"),
        ("1.mp4,0\n\n,1\n", "line 3: ',1': expected a path and a label, separated by a comma"),
        ("1.mp4\t0\n2.mp4\t\n3.mp4\t1", "line 2: .*a path and a label, separated by a tab"),
        ("1.mp4 0\n2.mp4 -1\n", 'line 2: label "-1": expected a class index, as in the other lines'),
        ("1.mp4 0\n2.mp4 1.0\n3.mp4 1", 'line 2: label "1.0": expected a class index'),
        ("1.mp4 0\n2.mp4 99999999999999\n", "line 2: label 99999999999999: expected a class index from 0 to 99999"),
        (f"1.mp4 0\n2.mp4 {'9' * 5000}\n", "line 2: label 9{200}: expected a class index from 0 to 99999"),
    ],
)
def test_invalid_lines(text, message, tmp_path):
    with pytest.raises(XViTError, match=message) as caught:
        parse(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_unknown_classes_and_missing_files(tmp_path):
    with pytest.raises(XViTError, match=r"list.txt line 2: label 2: expected a class index from 0 to 1"):
        parse(tmp_path, "1.mp4 0\n2.mp4 2\n", class_names=["a", "b"])
    with pytest.raises(XViTError, match=r'line 2: label "swin" is not one of the 2 classes. Did you mean "swim"\?'):
        parse(tmp_path, "1.mp4 run\n2.mp4 swin\n", class_names=["swim", "run"])
    with pytest.raises(XViTError, match=r"none.txt: no such file"):
        read_list(tmp_path / "none.txt", VideoFinder(tmp_path))


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{number % 7}/{number}.mp4" for number in range(100)))
    listings = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listings.append(path) or listdir(path))
    monkeypatch.setattr(os.path, "exists", None)
    text = "".join(f"{number % 7}/{number}.mp4 {number}\n" for number in range(100))
    assert len(parse(tmp_path, text).samples) == 100
    assert len(listings) == 7


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 0 2\nb c.mp4 1\nd.mp4\n",  # the format of MMAction2, and a path with a space
        "a.mp4,0,2\nb c.mp4,1\nd.mp4\n",
        "a.mp4\t0\t2\nb c.mp4\t1\nd.mp4\n",
        "a.mp4\t0;2\nb c.mp4\t1\nd.mp4\t\n",
        "a.mp4 2;0;2\n\nb c.mp4 1\nd.mp4\n",  # duplicate labels are removed
        'path,labels\na.mp4,"0;2"\n"b c.mp4",1\nd.mp4,\n',  # as spreadsheets export it
        '"a.mp4" 0 2\n"b c.mp4" 1\n"d.mp4"\n',
    ],
)
def test_multi_label_lists(text, tmp_path):
    touch(tmp_path, "a.mp4", "b c.mp4", "d.mp4")
    parsed = parse_multi_label(tmp_path, text)
    labels = {sample.id: sample.label for sample in parsed.samples}
    assert labels == {"a.mp4": (0, 2), "b c.mp4": (1,), "d.mp4": ()}
    assert list(labels) == ["a.mp4", "b c.mp4", "d.mp4"]
    assert parsed.class_names == ["0", "1", "2"]
    named = parse_multi_label(tmp_path, text, class_names=["jump", "run", "swim"])
    assert named.class_names == ["jump", "run", "swim"]
    assert [sample.label for sample in named.samples] == [(0, 2), (1,), ()]


def test_multi_label_names_missing_videos_and_errors(tmp_path):
    touch(tmp_path, "a.mp4")
    parsed = parse_multi_label(tmp_path, "a.mp4,run,high jump\ngone.mp4,swim\n")
    assert parsed.class_names == ["high jump", "run", "swim"]
    assert [sample.label for sample in parsed.samples] == [(0, 1)]
    assert (parsed.missing, parsed.missing_rows) == (["gone.mp4"], ["gone.mp4"])
    with pytest.raises(XViTError, match=r'list.txt line 1: label "high jump" is not one of the 2.*'):
        parse_multi_label(tmp_path, "a.mp4,run,high jump\n", class_names=["run", "swim"])
    with pytest.raises(XViTError, match=r"line 1: label 7: expected a class index from 0 to 1"):
        parse_multi_label(tmp_path, "a.mp4 7\n", class_names=["run", "swim"])
    with pytest.raises(XViTError, match="no labels in it"):
        parse_multi_label(tmp_path, "a.mp4\n")
    with pytest.raises(XViTError, match="no videos in it"):
        parse_multi_label(tmp_path, "\n")


def test_a_written_multi_label_list_can_be_read(tmp_path):
    labels = {"a.mp4": (0, 2), "b c.mp4": (1,), " d.mp4": (), '"e", f.mp4': (0, 1)}
    touch(tmp_path, *labels)
    samples = [Sample(path=str(tmp_path / name), label=label, id=name) for name, label in labels.items()]
    write_list(tmp_path / "list.txt", samples, tmp_path)
    read = read_multi_label_list(tmp_path / "list.txt", VideoFinder(tmp_path), class_names=["x", "y", "z"]).samples
    assert [(sample.path, sample.label) for sample in read] == [(sample.path, sample.label) for sample in samples]


@pytest.mark.parametrize(
    "text",
    [
        "my video 1.mp4 3\nb/c d.MKV 0\nframes of 2 1\n",
        "my video 1.mp4,3,\nb/c d.MKV,0,\nframes of 2,1,\n",
        "my video 1.mp4;3\nb/c d.MKV;0\nframes of 2;1\n",
        '"my video 1.mp4";"3"\n"b/c d.MKV";"0"\n"frames of 2";"1"\n',
        "my video 1.mp4 3\r\nb\\c d.MKV 0\r\n.\\frames of 2 1\r\n",
        "./my video 1.mp4\t3\r{root}/b/c d.MKV\t0\rb/../frames of 2\t1\r",
        "my video 1.mp4 3\nb/c d.MKV 0\nframes of 2 300 1\n",
        "label;path\n3;my video 1.mp4\n0;b/c d.MKV\n1;frames of 2\n",
        "id,Path,duration,Label\n9,my video 1.mp4,3.2,3\n8,b/c d.MKV,1.0,0\n7,frames of 2,,1\n",
    ],
)
def test_paths_as_people_write_them(text, tmp_path):
    touch(tmp_path, "my video 1.mp4", "b/c d.MKV", "frames of 2/1.jpg")
    parsed = parse(tmp_path, text.replace("{root}", str(tmp_path)))
    paths = [os.path.relpath(sample.path, tmp_path) for sample in parsed.samples]
    assert paths == ["my video 1.mp4", "b/c d.MKV", "frames of 2"]
    assert [sample.label for sample in parsed.samples] == [3, 0, 1]


@pytest.mark.parametrize("separator", [" ", "\t", ",", ";"])
def test_class_names_with_spaces(separator, tmp_path):
    rows = {"my video 1.mp4": "high jump", "2.webm": "run", "frames of 3": "run far"}
    touch(tmp_path, "my video 1.mp4", "2.webm", "frames of 3/1.jpg")
    parsed = parse(tmp_path, "".join(f"{path}{separator}{label}\n" for path, label in rows.items()))
    assert parsed.class_names == ["high jump", "run", "run far"]
    assert {sample.id: parsed.class_names[sample.label] for sample in parsed.samples} == rows


@pytest.mark.parametrize("text", ["datei;klasse\n1.mp4;run\n2.mp4;jump\n", "datei,klasse\n1.mp4,run\n2.mp4,jump\n"])
@pytest.mark.parametrize("reader", [parse, parse_multi_label])
def test_a_header_that_is_not_understood_is_an_error(reader, text, tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4")
    with pytest.raises(XViTError, match=r'line 1: "datei" and "klasse": .*path, .*label, '):
        reader(tmp_path, text)


@pytest.mark.parametrize("reader", [parse, parse_multi_label])
def test_labels_numbered_from_1_are_a_problem(reader, tmp_path):
    touch(tmp_path, "1.mp4", "2.mp4", "3.mp4")
    text = "1.mp4 1\n2.mp4 3\n3.mp4 2\n"
    [problem] = reader(tmp_path, text).problems
    assert problem.startswith("labels are numbered from 1 to 3, without 0: ")
    assert "subtract 1 from each" in problem
    assert reader(tmp_path, text, class_names=list("abcd")).problems == [], "the names say what each index is"
    assert reader(tmp_path, text.replace("1\n", "0\n")).problems == []
    with pytest.raises(XViTError, match=r"line 2: label 3: expected a class index from 0 to 2: .* numbered from 1"):
        reader(tmp_path, text, class_names=list("abc"))


def test_labels_of_another_encoding_are_an_error(tmp_path):
    touch(tmp_path, "1.mp4")
    (tmp_path / "list.txt").write_bytes("1.mp4 größe\n".encode("latin-1"))
    with pytest.raises(XViTError, match=r"list.txt line 1: .* is not UTF-8: save the file as UTF-8"):
        read_list(tmp_path / "list.txt", VideoFinder(tmp_path))


def test_a_missing_video_with_spaces_is_named_without_its_label(tmp_path):
    touch(tmp_path, "1.mp4")
    parsed = parse(tmp_path, "1.mp4 run\nmy gone video.mp4 high jump\n")
    assert (parsed.missing, parsed.class_names) == (["my gone video.mp4"], ["high jump", "run"])


@pytest.mark.parametrize("separator", ["\t", ",", " "])
def test_the_separator_of_a_long_list_and_a_line_of_many_words(separator, tmp_path):
    lines = [f"my videos/{index}.mp4{separator}{index % 7}" for index in range(1500)]
    parsed = parse(tmp_path, "\n".join(lines))
    assert [sample.label for sample in parsed.samples] == []
    assert parsed.missing == [f"my videos/{index}.mp4" for index in range(1500)]
    (tmp_path / "junk.txt").write_text(f"any{separator}" * 15_000)
    with pytest.raises(XViTError, match=r"junk.txt line 1: 'any.*: expected the path of a video") as caught:
        read_paths(tmp_path / "junk.txt", [str(tmp_path)])
    assert len(str(caught.value)) < 1000
    (tmp_path / "my videos").mkdir()
    (tmp_path / "my videos/1.mp4").touch()
    (tmp_path / "labels.txt").write_text(f"my videos/1.mp4{separator}" + f"3{separator}4{separator}" * 10_000)
    assert [s.label for s in read_multi_label_list(tmp_path / "labels.txt", VideoFinder(tmp_path)).samples] == [(3, 4)]
