"""Is each video of a data set there, whole, long enough? Before a training of days, not within it."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from xvit.config import DataConfig, as_task_dict
from xvit.data.annotations.formats import DatasetSplits
from xvit.data.annotations.lists import write_list
from xvit.data.annotations.samples import Sample, class_indices, read_text
from xvit.data.decode import decode, probe, read_clip
from xvit.data.decode.sequential import FrameReader
from xvit.utils.errors import VideoError, check_range
from xvit.utils.parallel import check_stop, run_all

MISSING, UNREADABLE, CUT, DAMAGED, SHORT = "missing", "unreadable", "cut short", "damaged", "too short"
_FIRST_ONLY = 2**31  # a stride: the decoder sees all frames, the colours of the first one alone are converted
_AT_A_TIME = 32  # pictures of a folder


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """One file, or one folder of frames.

    Args:
        path: where it lies.
        kind: what is wrong: missing, unreadable, cut short, damaged; empty for nothing.
        reason: what exactly.
        frames: how many it has; 0 where it cannot be read. So with the others.
        fps: frames a second.
        seconds: its length.
        width: in pixels.
        height: in pixels.
        codec: FFmpeg's name.
        stretches: frames of each stretch that was asked for.
    """

    path: str
    kind: str = ""
    reason: str = ""
    frames: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    stretches: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A sample that cannot be used: its id, its path (empty for one that was not found), what is wrong."""

    id: str
    path: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or self.id}: {self.kind}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `check_data` found.

    Args:
        data: the data set without the samples that have a problem.
        files: each file once.
        problems: what is wrong, in the order of the samples; the missing videos first.
        odd: readable files of under half or over twice the usual frame rate: no problem in itself, but often a mistake.
        samples: how many there were, the missing videos not counted.
    """

    data: DatasetSplits
    files: list[FileReport]
    problems: list[Problem]
    odd: list[FileReport]
    samples: int

    @property
    def kinds(self) -> dict[str, int]:
        """Problems of each kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Usable samples of each task, part (train, val) and class; the only task is named None."""
        parts = {"train": self.data.train, "val": self.data.val}
        found: dict[str, dict[str, dict[str, int]]] = {}
        for task, names in as_task_dict(self.data.class_names).items():
            found[task] = {}
            for part, samples in parts.items():
                counted = Counter(chain.from_iterable(class_indices(sample.label, task) for sample in samples))
                if samples:
                    found[task][part] = {name: counted[place] for place, name in enumerate(names)}
        return found


def check_data(
    data: DatasetSplits,
    *,
    num_frames: int = 8,
    full: bool = False,
    num_workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Look at each video of a data set once.

    Args:
        data: what `load_splits` gives.
        num_frames: that a sample must have; fewer are a problem.
        full: decode all frames; else only the packets are counted, and the first and last frames decoded.
        workers: processes; 0 for this one.
        on_progress: called with (files done, files in all) after each.

    Raises:
        XViTError: a number out of its range.
    """
    check_range("num_frames", num_frames, 1)
    samples = [*data.train, *data.val]
    stretches: dict[tuple[str, float | None], dict[tuple[float | None, float | None], int]] = {}
    for sample in samples:
        here = stretches.setdefault((sample.path, sample.fps), {})
        here.setdefault((sample.start, sample.stop), len(here))
    jobs = [(path, fps, tuple(here)) for (path, fps), here in stretches.items()]
    files = run_all(partial(check_file, full=full), jobs, num_workers=num_workers, on_progress=on_progress)
    reports = dict(zip(stretches, files, strict=True))
    problems = [Problem(id=name, path="", kind=MISSING, reason="annotated, but not there") for name in data.missing]
    good: dict[str, list[Sample]] = {"train": [], "val": []}
    for part, members in (("train", data.train), ("val", data.val)):
        for sample in members:
            key = sample.path, sample.fps
            report = reports[key]
            kind, reason = report.kind, report.reason
            if not kind:
                frames = report.stretches[stretches[key][sample.start, sample.stop]]
                if frames < num_frames:
                    kind, reason = SHORT, _too_short(sample, report, frames, num_frames)
            if kind:
                problems.append(Problem(id=sample.id, path=sample.path, kind=kind, reason=reason))
            else:
                good[part].append(sample)
    return Report(
        data=DatasetSplits(train=good["train"], val=good["val"], class_names=data.class_names, missing=data.missing),
        files=files,
        problems=problems,
        odd=_odd(files),
        samples=len(samples),
    )


def check_file(
    job: tuple[str, float | None, Sequence[tuple[float | None, float | None]]], *, full: bool = False
) -> FileReport:
    """Look at one file.

    Args:
        job: its path; frames a second, if it is a folder of frames; stretches from start to stop in seconds.
        full: decode all frames, not only the first and the last.
    """
    path, fps, stretches = job
    check_stop()
    if not os.path.exists(path):
        return FileReport(path=path, kind=MISSING, reason="no such file")
    try:
        info = probe(path, fps=fps)
    except VideoError as error:
        return FileReport(path=path, kind=UNREADABLE, reason=_reason(error, path))
    kind, reason = (CUT, info.damage) if info.damage else ("", "")
    if not kind:
        try:
            _decode_all(path, info.num_frames) if full else _decode_ends(path)
        except VideoError as error:
            kind, reason = DAMAGED, _reason(error, path)
    return FileReport(
        path=path,
        kind=kind,
        reason=reason,
        frames=info.num_frames,
        fps=info.fps,
        seconds=info.duration,
        width=info.width,
        height=info.height,
        codec=info.codec,
        stretches=tuple(_frames_between(info.times, start, stop) for start, stop in stretches),
    )


def write_clean(report: Report, config: DataConfig, folder: Path) -> dict[str, str]:
    """Write annotations of the usable samples alone: lists and labels.json, or for epic the same rows as before.

    Args:
        report: what was found.
        config: of the data set that was checked.
        folder: where they are written.

    Returns:
        The data settings that differ, to read them: format, train, val, label_files.
    """
    settings: dict[str, str] = {}
    for part, samples in (("train", report.data.train), ("val", report.data.val)):
        if not samples:
            continue
        if config.format == "epic":
            path = folder / f"{part}.csv"
            _write_rows(getattr(config, part), {sample.id for sample in samples}, path)
        else:
            path = folder / f"{part}.txt"
            write_list(path, [sample for sample in samples if sample.label is not None], config.root)
            settings["format"] = "list"
        settings[part] = path.name
    if settings.get("format") == "list":
        (folder / "labels.json").write_text(json.dumps(report.data.class_names, indent=1) + "\n", encoding="utf-8")
        settings["label_files"] = "labels.json"
    return settings


def _decode_ends(path: str) -> None:
    read_clip(path, lambda info: [0, info.num_frames - 1])


def _decode_all(path: str, frames: int) -> None:
    if os.path.isdir(path):
        for first in range(0, frames, _AT_A_TIME):
            check_stop()
            decode(path, range(first, min(first + _AT_A_TIME, frames)))
        return
    reader = FrameReader(path, stride=_FIRST_ONLY)
    for _ in reader:
        check_stop()
    if reader.damage:
        raise VideoError(path, reader.damage)
    if reader.num_decoded < 0.9 * frames:  # as in `read_clip`: AVI and MPEG often have a few packets without a frame
        raise VideoError(path, f"only {reader.num_decoded} of its {frames} frames can be decoded")


def _frames_between(times: np.ndarray, start: float | None, stop: float | None) -> int:
    first = 0 if start is None else int(np.searchsorted(times, start))
    last = len(times) if stop is None else int(np.searchsorted(times, stop))
    return max(last - first, 0)


def _too_short(sample: Sample, report: FileReport, frames: int, wanted: int) -> str:
    if sample.start is not None and sample.start >= report.seconds:
        return f"starts at {sample.start:g} s, but ends at {report.seconds:g} s"
    where = "" if sample.start is None else f" from {sample.start:g} to {sample.stop or report.seconds:g} s"
    return f"{frames} frames{where}, a clip needs {wanted}"


def _odd(files: Sequence[FileReport]) -> list[FileReport]:
    rates = [file.fps for file in files if file.fps and not file.kind]
    usual = float(np.median(rates)) if rates else 0.0
    return [file for file in files if file.fps and not file.kind and not usual / 2 <= file.fps <= 2 * usual]


def _reason(error: VideoError, path: str) -> str:
    """The reason, with the picture that it is about if that lies in the folder `path`."""
    return error.reason if error.path == path else f"{os.path.basename(error.path)}: {error.reason}"


def _write_rows(source: str, ids: set[str], path: Path) -> None:
    reader = csv.DictReader(io.StringIO(read_text(source), newline=""))
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, reader.fieldnames or (), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in reader if (row["narration_id"] or "").strip() in ids)
