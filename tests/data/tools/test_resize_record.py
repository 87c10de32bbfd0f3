"""Continuing a resize after its sources changed: copies are made again, kept and named, or refused."""

import json
import os
import shutil
from pathlib import Path

import pytest

from helpers.barcode_videos import read_numbers, write_video
from helpers.files import file_bytes
from xvit.data.decode import decode, probe
from xvit.data.tools.resize import resize_videos
from xvit.utils.errors import XViTError


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "videos"
    for name, frames in (("a/1", 4), ("a/2", 5), ("b/1", 6)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / f"{name}.mp4", frames=frames)
    return root


def lengths(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): probe(path).num_frames for path in folder.rglob("*.mp4")}


def replace_by_another(root: Path) -> None:
    write_video(root / "a/1.mp4", frames=9)


def replace_by_another_container(root: Path) -> None:
    (root / "a/1.mp4").unlink()
    write_video(root / "a/1.mkv", kind="h264-mkv", frames=9)


def edit_in_place(root: Path) -> None:
    """As many bytes, changed later."""
    path = root / "a/1.mp4"
    times = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(times + 1, times + 1))


@pytest.mark.parametrize(
    ("change", "expected"), [(replace_by_another, 9), (replace_by_another_container, 9), (edit_in_place, 4)]
)
def test_a_changed_source_is_resized_again(change, expected, root, tmp_path, caplog):
    output = tmp_path / "out"
    resize_videos(root, output, short_side=32)
    kept = {name: (output / name).stat().st_mtime_ns for name in ("a/2.mp4", "b/1.mp4")}
    written = (output / "a/1.mp4").stat().st_mtime_ns
    change(root)
    result = resize_videos(root, output, short_side=32)
    assert (result.written, result.remade, result.skipped, result.without_source) == (1, 1, 2, [])
    assert lengths(output) == {"a/1.mp4": expected, "a/2.mp4": 5, "b/1.mp4": 6}
    assert (output / "a/1.mp4").stat().st_mtime_ns != written
    assert {name: (output / name).stat().st_mtime_ns for name in kept} == kept
    assert "made again, because the source changed: a/1.mp4" in caplog.text
    again = resize_videos(root, output, short_side=32)
    assert (again.written, again.remade, again.skipped) == (0, 0, 3)


def test_a_source_that_became_unreadable_has_no_copy(root, tmp_path):
    resize_videos(root, tmp_path / "out", short_side=32)
    (root / "a/1.mp4").write_text("no video")
    for remade in (1, 0):
        result = resize_videos(root, tmp_path / "out", short_side=32)
        assert (result.remade, [error.path for error in result.failures]) == (remade, [str(root / "a/1.mp4")])
        assert lengths(tmp_path / "out") == {"a/2.mp4": 5, "b/1.mp4": 6}


def test_a_copy_whose_source_is_gone_is_kept_and_named(root, tmp_path, caplog):
    resize_videos(root, tmp_path / "out", short_side=32)
    (root / "a/2.mp4").rename(root / "b/2.mp4")
    for written in (1, 0):
        caplog.clear()
        result = resize_videos(root, tmp_path / "out", short_side=32)
        assert (result.written, result.without_source) == (written, ["a/2.mp4"])
        assert "1 videos whose source is gone: a/2.mp4; remove them" in caplog.text
    (tmp_path / "out/a/2.mp4").unlink()
    assert resize_videos(root, tmp_path / "out", short_side=32).without_source == []


def test_a_stop_after_the_change_leaves_no_stale_copy(root, tmp_path, monkeypatch):
    resize_videos(root, tmp_path / "out", short_side=32)
    replace_by_another(root)

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("xvit.data.tools.resize.parallel_map", stop)
        with pytest.raises(KeyboardInterrupt):
            resize_videos(root, tmp_path / "out", short_side=32)
    assert resize_videos(root, tmp_path / "out", short_side=32).written == 1
    numbers = read_numbers(decode(tmp_path / "out/a/1.mp4", range(9)).frames)
    assert numbers == list(range(9))


def test_another_folder_of_the_same_names_is_refused(root, tmp_path):
    other = tmp_path / "other"
    (other / "a").mkdir(parents=True)
    write_video(other / "a/1.mp4", frames=9)
    resize_videos(root, tmp_path / "out", short_side=32)
    before = file_bytes(tmp_path), (tmp_path / "out/.resize.json").read_bytes()
    with pytest.raises(XViTError, match=r"out: 1 of its videos were made of other files \(a/1\.mp4\), in .*videos"):
        resize_videos(other, tmp_path / "out", short_side=32)
    assert (file_bytes(tmp_path), (tmp_path / "out/.resize.json").read_bytes()) == before


def test_a_folder_that_was_copied_elsewhere_is_continued(root, tmp_path):
    (root / "a/1.mp4").rename(tmp_path / "later.mp4")
    resize_videos(root, tmp_path / "out", short_side=32)
    (tmp_path / "later.mp4").rename(root / "a/1.mp4")
    for path in shutil.copytree(root, tmp_path / "moved").rglob("*.mp4"):
        os.utime(path, (1, 1))
    result = resize_videos(tmp_path / "moved", tmp_path / "out", short_side=32)
    assert (result.written, result.remade, result.skipped) == (1, 0, 2)


def test_the_output_of_an_earlier_version(root, tmp_path, caplog):
    resize_videos(root, tmp_path / "out", short_side=32)
    (tmp_path / "out/.resize.json").write_text(json.dumps({"short_side": 32, "fps": None}))
    assert resize_videos(root, tmp_path / "out", short_side=32).skipped == 3
    assert "it is not known of which file it was made: a/1.mp4, a/2.mp4, b/1.mp4" in caplog.text
    replace_by_another(root)  # from now on it is known
    assert resize_videos(root, tmp_path / "out", short_side=32).remade == 1


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"short_side": 32, "fps": null, "sources": 3}'])
def test_a_damaged_record_is_refused(content, root, tmp_path):
    resize_videos(root, tmp_path / "out", short_side=32)
    (tmp_path / "out/.resize.json").write_text(content)
    with pytest.raises(XViTError, match=r"\.resize\.json: damaged: choose another --output"):
        resize_videos(root, tmp_path / "out", short_side=32)
    assert (tmp_path / "out/.resize.json").read_text() == content
