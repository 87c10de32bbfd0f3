"""The output folder of timelines: names, and what an unfinished one accepts."""

import itertools
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xvit.timeline.output import MANIFEST, RESULT, name_folders, open_output
from xvit.utils.errors import XViTError

RUN = {"model": "abc", "--threshold": 0.5, "--smooth": None}
DONE = {"video": "x", "duration": 1.0, "segments": [], "motion_gate": {}}

parts = st.sampled_from(["a", "A", "b", "a-2", "a_b", "a.mp4", "manifest"])
paths = st.builds(
    lambda folders, name, end: "/".join(["/videos", *folders, name + end]),
    st.lists(parts, max_size=2),
    parts,
    st.sampled_from([".mp4", ".mkv", ".json", ""]),
)


def parents_of(name: str) -> list[str]:
    """The folder and all that it is in, in lower case."""
    pieces = name.lower().split("/")
    return ["/".join(pieces[:count]) for count in range(1, len(pieces) + 1)]


@settings(max_examples=300, deadline=None)
@given(videos=st.lists(paths, unique=True, max_size=8), taken=st.lists(parts, max_size=3), data=st.data())
def test_folders_are_apart_and_do_not_depend_on_the_order(videos, taken, data):
    names = name_folders(videos, taken)
    assert list(names) == videos
    for a, b in itertools.permutations([*names.values(), MANIFEST], 2):
        assert a.lower() not in parents_of(b)
    for name, other in itertools.product(names.values(), taken):
        assert name.lower() not in parents_of(other)
        assert other.lower() not in parents_of(name)
    assert name_folders(data.draw(st.permutations(videos)), taken) == names


@pytest.mark.parametrize(
    ("videos", "folders"),
    [
        (["/v/0.mp4", "/v/1.mp4"], ["0", "1"]),
        (["/v/cam1/0.mp4", "/v/cam2/0.mp4"], ["cam1/0", "cam2/0"]),
        (["/v/x/cam1/0.mp4", "/v/y/cam2/1.mp4"], ["x/cam1/0", "y/cam2/1"]),
        (["/v/0.mp4", "/v/0.mkv"], ["0.mp4", "0"]),
        (["/v/a.mp4", "/v/a/b.mp4"], ["a.mp4", "a/b"]),
        (["/v/a.mp4", "/v/A.mp4", "/v/b.mp4"], ["a.mp4", "A", "b"]),
        ([], []),
    ],
)
def test_names_by_hand(videos, folders):
    assert list(name_folders(videos).values()) == folders


def finish(output, video: Path):
    """Write the files of a video."""
    with output.new_folder(str(video)) as folder:
        (folder / RESULT).write_text(json.dumps(DONE))


@pytest.fixture
def videos(tmp_path) -> list[Path]:
    """Files of the same name in two folders, and another one."""
    files = [tmp_path / "v" / name for name in ("1/a.mp4", "2/a.mp4", "2/b.mp4")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"12345")
    return files


def test_an_unfinished_folder_is_gone_on_with(videos, tmp_path, monkeypatch):
    output = open_output(tmp_path / "out", RUN, list(map(str, videos)))
    assert not (tmp_path / "out").exists()
    finish(output, videos[0])
    with suppress(KeyboardInterrupt), output.new_folder(str(videos[1])) as folder:
        (folder / "timeline.png").touch()
        raise KeyboardInterrupt
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert files == ["1/a/timeline.json", MANIFEST]

    monkeypatch.chdir(tmp_path)
    again = open_output("out", RUN, [os.path.relpath(path) for path in reversed(videos)])  # the same videos
    assert [again.is_finished(str(path)) for path in videos] == [True, False, False]
    assert again.read_result(str(videos[0])) == DONE | {"video": str(videos[0])}
    finish(again, videos[1])
    finish(again, videos[2])
    more = tmp_path / "v" / "c.mp4"
    more.write_bytes(b"1")
    last = open_output("out", RUN, [str(more), *map(str, videos)])
    assert all(last.is_finished(str(path)) for path in videos)
    assert last.folder(str(more)) == Path("out/c")
    (tmp_path / "out/1/a" / RESULT).write_text('{"segments": 3}')
    with pytest.raises(XViTError, match=r"timeline\.json: not a timeline"):
        last.read_result(str(videos[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "abd"}, "made with model abc, now abd"),
        ({"--threshold": 0.6}, r"made with --threshold 0\.5, now 0\.6; use the same, or choose another --output"),
        ({"--smooth": 1.0}, r"made with --smooth unset, now 1\.0"),
        ({"--new": 1}, "not the manifest of a timeline"),
    ],
)
def test_another_run_is_refused(change, message, videos, tmp_path):
    names = list(map(str, videos))
    finish(open_output(tmp_path / "out", RUN, names), videos[0])
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(XViTError, match=message):
        open_output(tmp_path / "out", RUN | change, names)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_a_changed_video_is_refused_once_it_is_finished(videos, tmp_path):
    names = list(map(str, videos))
    finish(open_output(tmp_path / "out", RUN, names), videos[0])
    videos[1].write_bytes(b"123456")
    finish(open_output(tmp_path / "out", RUN, names), videos[1])
    videos[0].write_bytes(b"1234567")
    open_output(tmp_path / "out", RUN, names[1:])
    with pytest.raises(XViTError, match=r"1/a\.mp4: changed since its timeline was written to .*out/1/a;"):
        open_output(tmp_path / "out", RUN, names)
    finish(open_output(tmp_path / "out", RUN, names[1:]), videos[2])
    with pytest.raises(XViTError, match="changed since"):  # the record of a finished video is kept
        open_output(tmp_path / "out", RUN, names)
    os.utime(videos[1], ns=(0, 0))
    with pytest.raises(XViTError, match=r"2/a\.mp4: changed since"):
        open_output(tmp_path / "out", RUN, names[1:])


def test_one_video_has_its_files_in_the_folder_itself(videos, tmp_path):
    name = str(videos[0])
    finish(open_output(tmp_path / "out", RUN, [name]), videos[0])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MANIFEST, RESULT]
    assert open_output(tmp_path / "out", RUN, [name, name]).is_finished(name)
    with pytest.raises(XViTError, match=r"out: holds the timeline of .*1/a\.mp4; choose another --output"):
        open_output(tmp_path / "out", RUN, list(map(str, videos)))


def test_other_folders_are_refused(videos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(XViTError, match="not an empty directory"):
        open_output(tmp_path / "out", RUN, [str(videos[0])])
    for text in ("{", "[]", "{}", '{"run": {}, "videos": {}}', '{"run": 3, "videos": {"a": {"folder": 3}}}'):
        (tmp_path / "out" / MANIFEST).write_text(text)
        with pytest.raises(XViTError, match=r"manifest\.json: not "):
            open_output(tmp_path / "out", RUN, [str(videos[0])])
