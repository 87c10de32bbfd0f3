"""Finding videos and folders of frames on disk."""

import os

import pytest

from helpers.files import touch
from xvit.data.annotations import VideoFinder, class_by_folder, find_videos, read_list, read_multi_label_list
from xvit.utils.errors import XViTError


def test_find_videos(tmp_path):
    touch(tmp_path, "b/2.mp4", "b/deep/1.MKV", "b/notes.txt", "b/.hidden.mp4", "text.md", "empty/notes.txt")
    paths = [tmp_path / "text.md", tmp_path / "b", str(tmp_path / "empty")]
    assert find_videos(paths) == [str(tmp_path / name) for name in ("text.md", "b/2.mp4", "b/deep/1.MKV", "empty")]


def test_finder_walks_the_root_once_and_follows_no_cycles(tmp_path, monkeypatch):
    touch(tmp_path, "root/b/1.mp4", "root/a/1.MKV", "root/a/.1.mp4", "root/.c/1.mp4", "root/f/1/2.png", "linked/2.webm")
    touch(tmp_path, "root/a/1.jpg", "root/g/2.5/0.jpg")
    (tmp_path / "root/back").symlink_to(tmp_path / "root")
    (tmp_path / "root/link").symlink_to(tmp_path / "linked")
    finder = VideoFinder(tmp_path / "root")
    found = [str(tmp_path / "root" / name) for name in ("a/1.MKV", "b/1.mp4", "f/1")]
    assert finder.find_by_name("1") == found
    monkeypatch.setattr(os, "scandir", None)
    assert finder.find_by_name("2") == [str(tmp_path / "root/link/2.webm")]
    assert finder.find_by_name("2.5") == [str(tmp_path / "root/g/2.5")]
    assert finder.find_by_name("3") == []


def test_find_videos_returns_folders_of_frames(tmp_path):
    touch(tmp_path, "a/1/frame_1.jpg", "a/2.mp4", "b/1/img_1.PNG")
    assert find_videos([tmp_path / "a", tmp_path / "b/1"]) == [
        str(tmp_path / name) for name in ("a/1", "a/2.mp4", "b/1")
    ]


def test_missing_root(tmp_path):
    with pytest.raises(XViTError, match=r"nowhere: no such folder"):
        VideoFinder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "line", ["{}", "{} 3", "{}\t3", "{},run far", '"{}",3', "{};0;", " {}  ", "./{}", "{} 120 3", "{root}/{}"]
)
@pytest.mark.parametrize("name", ["a b/1 2.mp4", "x.mp4", "frames of 3"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".TSV"])
def test_a_list_of_videos(line, name, suffix, tmp_path):
    touch(tmp_path, "lists/a b/1 2.mp4", "lists/x.mp4", "lists/frames of 3/1.jpg", "lists/a/decoy.mp4")
    text = line.replace("{root}", str(tmp_path / "lists")).replace("{}", name)
    (tmp_path / f"lists/list{suffix}").write_text(f"\ufeffpath,label\r\n{text}\r\n\r\n", encoding="utf-8")
    assert find_videos([tmp_path / f"lists/list{suffix}"]) == [str(tmp_path / "lists" / name)]


def test_where_the_paths_of_a_list_start(tmp_path, monkeypatch):
    touch(tmp_path, "lists/1.mp4", "root/1.mp4", "root/2.mp4", "cwd/2.mp4", "cwd/a/3.mp4", "cwd/a/4.mp4")
    (tmp_path / "lists/list.txt").write_text("1.mp4 0\n2.mp4 0\na\n")
    monkeypatch.chdir(tmp_path / "cwd")
    lists, root, a = tmp_path / "lists/list.txt", tmp_path / "root", ["a/3.mp4", "a/4.mp4"]
    assert find_videos([lists], root=root) == [str(tmp_path / "lists/1.mp4"), str(root / "2.mp4"), *a]
    assert find_videos([lists]) == [str(tmp_path / "lists/1.mp4"), "2.mp4", *a]


@pytest.mark.parametrize("line", ["gone.mp4 3", "a gone.mp4,3", "a\\gone.mp4", "labels only"])
def test_a_line_without_a_video_is_an_error(line, tmp_path):
    touch(tmp_path, "1.mp4", "a/2.mp4")
    (tmp_path / "list.txt").write_text(f"1.mp4 0\n{line}\n")
    with pytest.raises(XViTError, match=r"list.txt line 2: .*: expected the path of a video, but it is not in"):
        find_videos([tmp_path / "list.txt"])


@pytest.mark.parametrize("name", ["gone.mp4", "gone", "gone.txt"])
def test_missing_paths(name):
    with pytest.raises(XViTError, match=f"{name}: no such file or folder"):
        find_videos([name])


def test_live_streams_are_no_files():
    with pytest.raises(XViTError, match=r"rtsp:// is not supported: .* for live streams, use `xvit stream`"):
        find_videos(["rtsp://camera/1"])


def test_addresses_in_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("XVIT_ALLOW_REMOTE", "s3,https")
    touch(tmp_path, "1.mp4")
    lines = {
        "s3://bucket/a.mp4 3": "s3://bucket/a.mp4",
        "s3://bucket/two words.mp4 3": "s3://bucket/two words.mp4",
        "https://host/a.mp4?x=1 3": "https://host/a.mp4?x=1",
        "https://host/video?id=7 3": "https://host/video?id=7",
        "1.mp4 3": str(tmp_path / "1.mp4"),
    }
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert find_videos([tmp_path / "list.txt"]) == list(lines.values())
    for separator in "\t,;":
        (tmp_path / "labels.csv").write_text("".join(f"{line[:-2]}{separator}{line[-1]}\n" for line in lines))
        parsed = read_list(tmp_path / "labels.csv", VideoFinder(tmp_path))
        assert [sample.path for sample in parsed.samples] == list(lines.values())
        parsed = read_multi_label_list(tmp_path / "labels.csv", VideoFinder(tmp_path))
        assert [(sample.path, sample.label) for sample in parsed.samples] == [(path, (3,)) for path in lines.values()]
    videos = VideoFinder("s3://bucket/videos/")
    assert videos.find_by_path("a/1.mp4") == "s3://bucket/videos/a/1.mp4"
    with pytest.raises(XViTError, match="not searched at an address"):
        videos.find_by_name("1")
    with pytest.raises(XViTError, match="--allow-remote gs"):
        VideoFinder("gs://bucket")


def test_a_video_given_twice_is_used_once(tmp_path, caplog):
    touch(tmp_path, "a/1.mp4", "a/2.mp4")
    paths = [str(tmp_path / "a/1.mp4"), str(tmp_path / "a/2.mp4")]
    assert find_videos([paths[1], tmp_path / "a"]) == paths[::-1]
    assert caplog.messages == [f"left out: given more than once: 1 ({paths[1]})"]


@pytest.mark.parametrize(
    ("video", "given", "expected"),
    [
        ("v/red/1.mp4", ["v"], "red"),
        ("v/red/group/deep/1.mp4", ["x", "v"], "red"),
        ("v/val/red/group/1.mp4", ["v"], "red"),
        ("v/red/1.mp4", ["v/red"], "red"),
        ("v/red/1.mp4", ["v/red/1.mp4"], "red"),
        ("v/test/1.mp4", ["v"], "test"),
        ("elsewhere/blue/1.mp4", ["list.txt"], "blue"),
    ],
)
def test_the_class_of_a_video_by_its_folders(video, given, expected):
    assert class_by_folder(video, given) == expected
