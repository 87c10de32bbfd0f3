"""Finding videos and folders of frames on disk."""

import os

import pytest

from helpers.files import touch
from xvit.data.annotations import VideoFinder, find_videos
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
