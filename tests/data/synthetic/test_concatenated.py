"""Long synthetic videos: exact clips and boundaries, and their ground truth."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from helpers.files import file_bytes, read_frames
from xvit.data.synthetic.background import render_background
from xvit.data.synthetic.concatenated import _draw_stretches, write_concatenated_videos
from xvit.data.synthetic.dataset import encode_video, write_motion_dataset
from xvit.data.synthetic.motion import CLASSES, FPS, FRAMES, SECONDS, render_clip
from xvit.utils.errors import XViTError


def test_videos_are_concatenated_clips(tmp_path: Path) -> None:
    write_concatenated_videos(tmp_path / "long", num_videos=2, clips_per_video=6, seed=5)
    segments_of = json.loads((tmp_path / "long" / "segments.json").read_text())
    assert list(segments_of) == ["0000.mp4", "0001.mp4"]
    assert {path.name for path in (tmp_path / "long").iterdir()} == {*segments_of, "segments.json"}
    T, seconds = FRAMES, FRAMES / FPS
    for video, segments in enumerate(segments_of.values()):
        frames = read_frames(tmp_path / "long" / f"{video:04d}.mp4")
        assert len(frames) == 6 * T
        assert [(s["start"], s["end"]) for s in segments] == [(i * seconds, (i + 1) * seconds) for i in range(6)]
        labels = [segment["label"] for segment in segments]
        assert set(labels) <= set(CLASSES)
        assert all(a != b for a, b in pairwise(labels))
        for index, label in enumerate(labels):  # exact, also at the boundaries: no frame refers to another one
            encode_video(render_clip(label, np.random.default_rng([5, 2, video, index + 1])), tmp_path / "clip.mp4")
            assert np.array_equal(frames[index * T : (index + 1) * T], read_frames(tmp_path / "clip.mp4"))
    with av.open(str(tmp_path / "long" / "0000.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(6 * T) / FPS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The segments of videos without background."""
    output = tmp_path_factory.mktemp("plain") / "long"
    write_concatenated_videos(output, num_videos=2, clips_per_video=11, seed=5)
    return json.loads((output / "segments.json").read_text())


@pytest.mark.parametrize("fps", [8, 12.5, 9.99])
def test_background_between_the_clips(plain, tmp_path: Path, fps: float) -> None:
    """The segments are frame-accurate: the frames of each one are those of its clip, all others are background."""
    write_concatenated_videos(tmp_path / "long", num_videos=2, clips_per_video=11, seed=5, fps=fps, background=True)
    segments_of = json.loads((tmp_path / "long" / "segments.json").read_text())
    pauses = []
    for video, (name, segments) in enumerate(segments_of.items()):
        assert [segment["label"] for segment in segments] == [segment["label"] for segment in plain[name]]
        frames = read_frames(tmp_path / "long" / name)
        with av.open(str(tmp_path / "long" / name)) as container:
            times = np.array([frame.time for frame in container.decode(video=0)])
        np.testing.assert_allclose(times, np.arange(len(frames)) / fps, atol=1e-3)
        inside = np.zeros(len(frames), dtype=bool)
        for index, segment in enumerate(segments, start=1):
            chosen = (times > segment["start"] - 1e-3) & (times < segment["end"] - 1e-3)
            clip = render_clip(segment["label"], np.random.default_rng([5, 2, video, index]), fps=fps)
            encode_video(clip, tmp_path / "clip.mp4", fps=fps)
            assert np.array_equal(frames[chosen], read_frames(tmp_path / "clip.mp4"))
            assert not (inside & chosen).any()
            inside |= chosen
        assert abs((~inside).sum() - 22 * fps) <= 1, "as much background as clips"
        bounds = np.flatnonzero(np.diff(inside, prepend=True, append=True))
        pauses += [(times[start], end - start) for start, end in bounds.reshape(-1, 2)]
        rng = np.random.default_rng([5, 3, video, 1 + int(inside[: bounds[0]].sum() / len(clip))])
        encode_video(
            render_background(rng, seconds=(bounds[1] - bounds[0]) / fps, fps=fps), tmp_path / "pause.mp4", fps=fps
        )
        assert np.array_equal(frames[bounds[0] : bounds[1]], read_frames(tmp_path / "pause.mp4"))
    assert len(set(pauses)) == len(pauses) >= 2, "at different times, or of different lengths"


def test_stretches_of_background_differ_in_length() -> None:
    for num_clips in (1, 9, 10, 150):
        stretches = _draw_stretches(0, 0, num_clips)
        assert len(stretches) == max(num_clips // 10, 1)
        assert set(stretches) <= set(range(1, num_clips + 2))
        assert min(stretches.values()) >= SECONDS
        assert sum(stretches.values()) == pytest.approx(num_clips * SECONDS)
    assert max(stretches.values()) > 4 * min(stretches.values())


def test_videos_depend_on_seed_and_index_only(tmp_path: Path) -> None:
    for name, num_videos, seed in (("a", 1, 0), ("b", 3, 0), ("c", 1, 1)):
        write_concatenated_videos(tmp_path / name, num_videos=num_videos, clips_per_video=3, seed=seed)
    a, b, c = (file_bytes(tmp_path / name) for name in "abc")
    assert a.items() <= b.items()
    assert len(set(b.values())) == 3
    assert a != c
    write_motion_dataset(tmp_path / "clips", clips_per_class=2, val_fraction=0.5)
    clips = {read_frames(path).tobytes() for path in (tmp_path / "clips").rglob("*.mp4")}
    for path in (tmp_path / "b").glob("*.mp4"):
        frames = read_frames(path)
        assert not clips & {frames[start : start + FRAMES].tobytes() for start in range(0, 48, FRAMES)}


def test_values_out_of_range_and_existing_output(tmp_path: Path) -> None:
    for wrong in ({"num_videos": 0}, {"clips_per_video": 0}, {"seed": -1}, {"fps": 0.5}):
        with pytest.raises(XViTError, match=f"{next(iter(wrong))}="):
            write_concatenated_videos(tmp_path / "out", **({"num_videos": 1} | wrong))
    write_concatenated_videos(tmp_path / "out", num_videos=1, clips_per_video=1)
    with pytest.raises(XViTError, match="not an empty directory"):
        write_concatenated_videos(tmp_path / "out", num_videos=1, clips_per_video=1)
