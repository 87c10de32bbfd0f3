"""The check of a data set: every kind of problem, and the segments of long videos."""

from pathlib import Path

import pytest

from helpers.bad_dataset import PROBLEMS, PROBLEMS_IN_FULL_CHECK, USABLE, write_bad_dataset
from helpers.barcode_videos import write_video
from xvit.config import SINGLE_TASK, DataConfig
from xvit.data.annotations import DatasetSplits, Sample, load_splits
from xvit.data.tools import check
from xvit.data.tools.check import check_dataset, check_file
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_bad_dataset(tmp_path_factory.mktemp("check") / "videos")


@pytest.mark.parametrize(("full", "num_workers"), [(False, 0), (True, 1)])
def test_every_kind_of_problem_is_found(full, num_workers, root):
    progress = []
    splits = load_splits(DataConfig(root=str(root), val_fraction=0))
    report = check_dataset(splits, full=full, num_workers=num_workers, on_progress=lambda *args: progress.append(args))
    bad = {problem.id: problem.kind for problem in report.problems}
    assert bad == PROBLEMS | PROBLEMS_IN_FULL_CHECK if full else PROBLEMS.items() <= bad.items()
    assert set(bad) <= set(PROBLEMS | PROBLEMS_IN_FULL_CHECK)
    assert [sample.id for sample in report.usable.train if sample.id not in PROBLEMS_IN_FULL_CHECK] == USABLE
    assert all("\n" not in str(problem) and problem.reason for problem in report.problems)
    assert [Path(file.path).name for file in report.unusual_fps] == ["slow.mp4"]
    assert progress == [(done, 12) for done in range(1, 13)]
    files = {Path(video.path).name: video for video in report.videos}
    assert (files["1.mp4"].num_frames, files["1.mp4"].width, files["1.mp4"].codec) == (20, 96, "h264")
    assert (files["frames"].num_frames, files["frames"].fps) == (10, 30)
    assert report.class_counts()[SINGLE_TASK]["train"]["put down"] == 2


def test_reasons_name_the_image_and_the_numbers(root):
    report = check_dataset(load_splits(DataConfig(root=str(root), val_fraction=0)), full=True, num_frames=13)
    reasons = {problem.id: problem.reason for problem in report.problems}
    assert reasons["take/broken frames"] == "frame_0000000005.jpg: not a JPEG or PNG image"
    assert reasons["put down/a b, c.mp4"] == "12 frames, but a clip needs 13"
    assert "frames are present" in reasons["take/cut.mp4"]


def test_each_segment_of_a_long_video_is_checked(tmp_path):
    path = str(write_video(tmp_path / "long.mp4", frames=100))  # 4 s
    times = {"good": (0.0, 1.0), "short": (1.0, 1.2), "behind": (5.0, 6.0), "open": (3.0, None), "over": (3.9, 9.0)}
    samples = [
        Sample(path=path, label={"verb": 1, "noun": 0}, id=name, start=start, stop=stop)
        for name, (start, stop) in times.items()
    ]
    class_names = {"verb": ["a", "b"], "noun": ["c"]}
    report = check_dataset(DatasetSplits(train=samples, val=[], class_names=class_names, missing=["gone"]))
    assert len(report.files) == 1
    assert {problem.id: str(problem) for problem in report.problems} == {
        "gone": "gone: missing: annotated, but not found",
        "short": f"{path}: too short: 5 frames from 1 to 1.2 s, but a clip needs 8",
        "behind": f"{path}: too short: starts at 5 s, but the video ends at 4 s",
        "over": f"{path}: too short: 2 frames from 3.9 to 9 s, but a clip needs 8",
    }
    assert report.class_counts() == {"verb": {"train": {"a": 0, "b": 2}}, "noun": {"train": {"c": 2}}}
    assert report.problem_counts == {"missing": 1, "too short": 3}


def test_num_frames_out_of_range():
    with pytest.raises(XViTError, match="num_frames=0"):
        check_dataset(DatasetSplits(train=[], val=[], class_names=["a"]), num_frames=0)


def test_a_video_that_kills_its_process_is_unreadable(root, monkeypatch):
    def parallel_map(function, jobs, *, on_killed, **options):
        kills = [samples[0].path.endswith("put down/1.mp4") for samples in jobs]
        how = "was killed (signal 11)"
        return [on_killed(job, how) if kill else function(job) for job, kill in zip(jobs, kills, strict=True)]

    monkeypatch.setattr(check, "parallel_map", parallel_map)
    report = check_dataset(load_splits(DataConfig(root=str(root), val_fraction=0)), num_workers=2)
    problems = {problem.id: str(problem) for problem in report.problems}
    path = root / "put down/1.mp4"
    assert problems.pop("put down/1.mp4") == f"{path}: unreadable: the process that read it was killed (signal 11)"
    assert PROBLEMS.keys() <= problems.keys() <= (PROBLEMS | PROBLEMS_IN_FULL_CHECK).keys()


def test_a_full_check_that_is_stopped_ends_at_the_next_frame(tmp_path, monkeypatch):
    """Only the first frame is converted to RGB, but a long video must not delay the end of a worker."""
    path, num_frames = write_video(tmp_path / "a.mp4", frames=30), []

    def stop():
        num_frames.append(1)
        if len(num_frames) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("xvit.data.decode.sequential.check_stop", stop)
    with pytest.raises(KeyboardInterrupt):
        check_file([Sample(path=str(path), label=0, id="a")], full=True, timeout=60)
    assert len(num_frames) == 3
