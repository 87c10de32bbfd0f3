"""Check a data set before training: find missing, unreadable, damaged and short videos."""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from xvit.config import DataConfig, as_task_dict
from xvit.data.annotations import DatasetSplits, Sample, class_indices, write_list
from xvit.data.decode import VideoInfo, decode, probe, read_clip
from xvit.data.decode.sequential import FrameReader
from xvit.data.remote import LocalVideo, MissingVideoError, local_video
from xvit.data.shards import shard_of
from xvit.data.timeout import call_with_timeout, restart_deadline
from xvit.data.tools.splits import Copy, find_class_problems, find_copies, find_overlaps
from xvit.utils.addresses import is_address
from xvit.utils.errors import VideoError, check_range
from xvit.utils.parallel import check_stop, parallel_map
from xvit.utils.text import read_csv
from xvit.utils.workers import killed_error

MISSING, UNREADABLE, CUT_SHORT, DAMAGED, TOO_SHORT = "missing", "unreadable", "cut short", "damaged", "too short"
CLASSES, OVERLAP, LINE_BREAK = "classes", "in two splits", "line break"
_FIRST_FRAME_ONLY = 2**31  # a stride: all frames are decoded, but only the first one is converted to RGB
_IMAGES_PER_READ = 32
_KEPT_SIDE = 32  # pixels of the frames that are decoded only to see whether they can be


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """The result for one video file or folder of frames.

    Args:
        path: the file or folder.
        kind: what is wrong: missing, unreadable, cut short, damaged, or a line break in the path; empty if nothing.
        reason: the details.
        info: its size and length, without the times of the frames; None if it cannot be read.
        segment_frames: number of frames of each segment, by its start and stop.
    """

    path: str
    kind: str = ""
    reason: str = ""
    info: VideoInfo | None = None
    segment_frames: dict[tuple[float | None, float | None], int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What cannot be used: id and path of a sample, kind of problem, details.

    The path is empty for a missing video, and for a class or an annotation file, which is the id.
    """

    id: str
    path: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or self.id}: {self.kind}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The result of `check_dataset`.

    Args:
        usable: the data set without the samples that have a problem.
        files: one report per file.
        problems: classes and missing videos first, then the other problems in the order of the samples.
        copies: pairs of samples whose files have the same contents.
        num_samples: number of samples, without missing videos.
    """

    usable: DatasetSplits
    files: list[FileReport]
    problems: list[Problem]
    copies: list[Copy]
    num_samples: int

    @property
    def videos(self) -> list[VideoInfo]:
        """The files that can be opened."""
        return [file.info for file in self.files if file.info]

    @property
    def unusual_fps(self) -> list[VideoInfo]:
        """Files with less than half or more than twice the median frame rate: usable, but often a mistake."""
        readable = [file.info for file in self.files if file.info and not file.kind]
        median = np.median([info.fps for info in readable] or [0])
        return [info for info in readable if not median / 2 <= info.fps <= 2 * median]

    @property
    def problem_counts(self) -> dict[str, int]:
        """Number of problems of each kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    def class_counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Number of usable samples by task, split (train, val, test) and class. A single task is called "label"."""
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for task, names in as_task_dict(self.usable.class_names).items():
            counts[task] = {}
            for split, samples in self.usable.by_name.items():
                if samples:
                    by_index = Counter(chain.from_iterable(class_indices(sample.label, task) for sample in samples))
                    counts[task][split] = {name: by_index[index] for index, name in enumerate(names)}
        return counts


def check_dataset(
    splits: DatasetSplits,
    *,
    num_frames: int = 8,
    full: bool = False,
    num_workers: int = 0,
    decode_timeout: float = DataConfig.decode_timeout,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check each video of a data set once.

    Args:
        splits: the data set, from `load_splits`.
        num_frames: frames per clip; a sample with fewer frames is a problem.
        full: decode all frames; otherwise count the packets and decode the first and last frame.
        num_workers: worker processes; 0 checks in this process.
        decode_timeout: seconds after which a video that is still being read counts as unreadable, as in training; with
            `full`, after which its next frame is still being read; 0 for no limit.
        on_progress: called with (files done, total files) after each file.

    Raises:
        XViTError: a number out of its range.
    """
    check_range("num_frames", num_frames, 1)
    samples = [sample for samples in splits.by_name.values() for sample in samples]
    by_file: dict[tuple[str, float | None], list[Sample]] = {}
    for sample in samples:
        by_file.setdefault((sample.path, sample.fps), []).append(sample)
    check = partial(check_file, full=full, timeout=decode_timeout)
    files = parallel_map(
        check, list(by_file.values()), num_workers=num_workers, on_progress=on_progress, on_killed=report_killed
    )
    reports = dict(zip(by_file, files, strict=True))
    problems = [Problem(id=path, path="", kind=CLASSES, reason=reason) for path, reason in find_class_problems(splits)]
    problems += [Problem(id=name, path="", kind=MISSING, reason="annotated, but not found") for name in splits.missing]
    usable: dict[str, list[Sample]] = {split: [] for split in splits.by_name}
    overlaps = find_overlaps(splits)
    for split, members in splits.by_name.items():
        for sample in members:
            problem = find_problem(sample, reports[sample.path, sample.fps], num_frames)
            if problem is None and (first := overlaps.get((split, sample.id))):
                problem = Problem(id=sample.id, path=sample.path, kind=OVERLAP, reason=f"also in {first}")
            if problem is None:
                usable[split].append(sample)
            else:
                problems.append(problem)
    usable_splits = replace(splits, train=usable["train"], val=usable["val"], test=usable["test"])
    copies = find_copies(usable_splits)
    return CheckReport(usable=usable_splits, files=files, problems=problems, copies=copies, num_samples=len(samples))


def check_file(samples: Sequence[Sample], *, full: bool = False, timeout: float = 0.0) -> FileReport:
    """Check the file or folder of frames that the samples are segments of.

    Args:
        samples: at least one, all with the same path and frame rate.
        full: decode all frames, not only the first and the last.
        timeout: as `decode_timeout` of `check_dataset`.
    """
    path = samples[0].path
    check_stop()
    if not is_address(path) and not os.path.exists(path) and not shard_of(path):
        return FileReport(path=path, kind=MISSING, reason="no such file")
    try:
        with local_video(path) as video:
            return call_with_timeout(partial(_check_contents, video, samples, full), path, timeout)
    except MissingVideoError as error:
        return FileReport(path=path, kind=MISSING, reason=error.reason)
    except VideoError as error:
        return FileReport(path=path, kind=UNREADABLE, reason=_reason(error, path))


def report_killed(samples: Sequence[Sample], how: str) -> FileReport:
    """The report of a file whose check was killed; `how` as in `xvit.utils.workers.Killed`."""
    return FileReport(path=samples[0].path, kind=UNREADABLE, reason=killed_error(samples[0].path, how).reason)


def _check_contents(video: LocalVideo, samples: Sequence[Sample], full: bool) -> FileReport:
    path = video.path
    info = probe(path, fps=samples[0].fps)
    kind, reason = (CUT_SHORT, info.damage) if info.damage else ("", "")
    if not kind:
        try:
            if full:
                _decode_all(path, info.num_frames)
            else:
                num_damaged = read_clip(path, lambda info: [0, info.num_frames - 1], short_side=_KEPT_SIDE).num_damaged
                if num_damaged:
                    raise VideoError(path, f"{num_damaged} damaged frames")
        except VideoError as error:
            kind, reason = DAMAGED, _reason(error, path)
    if not kind and "\n" in video.name:
        kind, reason = LINE_BREAK, "a line break in the path, which no list of videos can hold: rename it"
    segment_frames = {(sample.start, sample.stop): len(sample.frames(info.times)) for sample in samples}
    info = replace(video.name_info(info), times=info.times[:0])  # they would fill the memory
    return FileReport(path=video.name, kind=kind, reason=reason, info=info, segment_frames=segment_frames)


def write_usable_annotations(report: CheckReport, config: DataConfig, directory: Path) -> dict[str, str]:
    """Write annotations of the usable samples: lists and labels.json, or for epic a CSV with the usable rows.

    Shards with several tasks or with segments of videos fit neither: of those, nothing is written.

    Args:
        report: the result of `check_dataset`.
        config: the data settings that were checked.
        directory: where the files are written.

    Returns:
        The data settings (format, train, val, test, label_files) that change in order to use these files.
    """
    settings: dict[str, str] = {}
    for split, samples in report.usable.by_name.items():
        if samples and config.format == "epic":
            settings[split] = f"{split}.csv"
            _copy_epic_rows(getattr(config, split), {sample.id for sample in samples}, directory / settings[split])
        elif samples and _fit_list(samples):
            settings |= {"format": "list", split: f"{split}.txt", "label_files": "labels.json"}
            labelled = [sample for sample in samples if sample.label is not None]
            write_list(directory / settings[split], labelled, config.root)
    if "label_files" in settings:
        class_names = json.dumps(report.usable.class_names, indent=1)
        (directory / "labels.json").write_text(class_names + "\n", encoding="utf-8")
    return settings


def _fit_list(samples: Sequence[Sample]) -> bool:
    """Whether a list can hold the samples: whole videos with labels of a single task."""
    return all((sample.start, sample.stop) == (None, None) and not isinstance(sample.label, dict) for sample in samples)


def _decode_all(path: str, num_frames: int) -> None:
    if os.path.isdir(path):
        for first in range(0, num_frames, _IMAGES_PER_READ):
            check_stop()
            restart_deadline()
            decode(path, range(first, min(first + _IMAGES_PER_READ, num_frames)), short_side=_KEPT_SIDE)
        return
    reader = FrameReader(path, stride=_FIRST_FRAME_ONLY)
    for _ in reader:
        pass
    if reader.damage:
        raise VideoError(path, reader.damage)


def find_problem(sample: Sample, file: FileReport, num_frames: int) -> Problem | None:
    """What is wrong with a sample, from the report of its file; None if nothing is."""
    kind, reason = file.kind, file.reason
    if file.info and not kind and (available := file.segment_frames[sample.start, sample.stop]) < num_frames:
        kind, duration = TOO_SHORT, file.info.duration
        if sample.start is not None and sample.start >= duration:
            reason = f"starts at {sample.start:g} s, but the video ends at {duration:g} s"
        else:
            segment = "" if sample.start is None else f" from {sample.start:g} to {sample.stop or duration:g} s"
            reason = f"{available} frames{segment}, but a clip needs {num_frames}"
    return Problem(id=sample.id, path=sample.path, kind=kind, reason=reason) if kind else None


def _reason(error: VideoError, path: str) -> str:
    """The reason of an error; if it concerns an image in the folder `path`, preceded by the name of the image."""
    return error.reason if error.path == path else f"{os.path.basename(error.path)}: {error.reason}"


def _copy_epic_rows(source: str, ids: set[str], path: Path) -> None:
    rows = [row for _, row in read_csv(source, ["narration_id"]) if row["narration_id"] in ids]
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
