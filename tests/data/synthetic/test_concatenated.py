"""Long synthetic videos: exact clips and boundaries, and their ground truth."""

import json
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from helpers.files import file_bytes, read_frames
from xvit.data.synthetic.concatenated import write_concatenated_videos
from xvit.data.synthetic.motion import CLASSES, FPS, FRAMES, encode_video, render_clip, write_motion_dataset
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
    for wrong in ({"num_videos": 0}, {"clips_per_video": 0}, {"seed": -1}):
        with pytest.raises(XViTError, match=f"{next(iter(wrong))}="):
            write_concatenated_videos(tmp_path / "out", **({"num_videos": 1} | wrong))
    write_concatenated_videos(tmp_path / "out", num_videos=1, clips_per_video=1)
    with pytest.raises(XViTError, match="not an empty directory"):
        write_concatenated_videos(tmp_path / "out", num_videos=1, clips_per_video=1)
