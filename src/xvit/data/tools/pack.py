"""Write a data set as shards: large tar files in the layout of WebDataset, which network disks read fast.

A shard appears under its name once it is complete, with its index after it. The same call goes on after a stop: which
videos go into which shard depends only on the data set and the size of the shards.
"""

import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xvit.config import SINGLE_TASK, ClassNames, as_task_dict
from xvit.data.annotations import DatasetSplits, Sample, class_indices
from xvit.data.annotations.webdataset import LABELS_FILE
from xvit.data.record import record_hash
from xvit.data.shards import file_size, has_index, index_path, open_file, read_shard, write_index
from xvit.data.video_names import VIDEO_EXTENSIONS, has_video_extension
from xvit.utils.errors import VideoError, XViTError, check_range
from xvit.utils.files import check_new_directory, publish, read_json, write_errors, write_json
from xvit.utils.locks import lock_directory

_RECORD = ".pack.json"
_STAT_THREADS = 16  # a network disk answers many at once
_SEED = 0  # of the order of the training videos
_MAX_KEY = 200  # characters


@dataclass(frozen=True, kw_only=True)
class PackResult:
    """The result of `pack_splits`.

    Args:
        shards: number of shards of each split that has any.
        written: how many of them were written; the others existed.
        videos: number of videos in the shards.
        bytes: of these videos.
        failures: the errors of the videos that could not be read; they are in no shard.
    """

    shards: dict[str, int]
    written: int
    videos: int
    bytes: int
    failures: list[VideoError]


@dataclass(frozen=True, kw_only=True)
class _Video:
    """A video and its samples: one, or one for each of its segments."""

    key: str
    path: str
    size: int
    samples: Sequence[Sample]

    @property
    def name(self) -> str:
        """Of the member. Any extension of a video will do: FFmpeg goes by the contents."""
        extension = os.path.splitext(self.path)[1].lower()
        return f"{self.key}{extension if extension in VIDEO_EXTENSIONS else '.mp4'}"


def pack_splits(
    splits: DatasetSplits,
    output: str | Path,
    *,
    shard_size: int = 10**9,
    on_progress: Callable[[int, int], None] | None = None,
) -> PackResult:
    """Write the videos of a data set, as they are, with their labels to shards SPLIT-000000.tar, ...

    The training videos are written in random order, because training reads runs of neighbours; the others in the order
    of the data set. Existing shards are kept, so a second call continues an interrupted one.

    Args:
        splits: the data set, from `load_splits`.
        output: the folder of the shards.
        shard_size: bytes of videos in a shard; a larger video gets a shard of its own.
        on_progress: called with (videos done, total videos) after each video.

    Raises:
        XViTError: a number out of its range; no video that can be read; an output with anything else in it, which was
            written from other videos, or that another process writes.
        WriteError: the disk is full, and the like; the shards that are complete stay.
    """
    check_range("shard_size", shard_size, 1)
    output = Path(output)
    with lock_directory(output, "xvit data pack"):
        return _Packing(splits, output, shard_size, on_progress).run()


class _Packing:
    """One call of `pack_splits`."""

    def __init__(
        self,
        splits: DatasetSplits,
        output: Path,
        shard_size: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.class_names, self.output, self.on_progress = splits.class_names, output, on_progress
        self.failures: list[VideoError] = []
        self.plan = self._plan(splits, shard_size)
        self.total, self.done = sum(map(len, self.plan.values())), 0
        if not self.total:
            raise self.failures[0] if self.failures else XViTError("no videos to pack")

    def run(self) -> PackResult:
        """Write the shards that are not there yet."""
        self._open_output()
        written = 0
        for name, videos in self.plan.items():
            path = self.output / name
            if has_index(path):
                self._keep_shard(path, videos)
                continue
            written += self._write_shard(path, videos)
        names = [name for name in self.plan if (self.output / name).exists()]
        packed = [member for name in names for member in read_shard(self.output / name).values()]
        return PackResult(
            shards=dict(Counter(name.partition("-")[0] for name in names)),
            written=written,
            videos=len(packed),
            bytes=sum(member.size for member in packed),
            failures=self.failures,
        )

    def _plan(self, splits: DatasetSplits, shard_size: int) -> dict[str, list[_Video]]:
        """The videos of each shard, by the name of the shard."""
        plan: dict[str, list[_Video]] = {}
        keys: set[str] = set()
        for split, samples in splits.by_name.items():
            videos = self._find_videos(samples, keys)
            if split == "train":
                videos = [videos[i] for i in np.random.default_rng(_SEED).permutation(len(videos))]
            number, free = -1, 0
            for video in videos:
                if number < 0 or video.size > free:
                    number, free = number + 1, shard_size
                    plan[f"{split}-{number:06d}.tar"] = []
                plan[f"{split}-{number:06d}.tar"].append(video)
                free -= video.size
        return plan

    def _find_videos(self, samples: Sequence[Sample], keys: set[str]) -> list[_Video]:
        by_path: dict[str, list[Sample]] = {}
        for sample in samples:
            by_path.setdefault(sample.path, []).append(sample)
        with ThreadPoolExecutor(_STAT_THREADS) as pool:
            sizes = list(pool.map(_measure, by_path))
        videos = []
        for (path, group), size in zip(by_path.items(), sizes, strict=True):
            if isinstance(size, VideoError):
                self.failures.append(size)
            else:
                videos.append(_Video(key=_make_key(group, keys), path=path, size=size, samples=group))
        return videos

    def _open_output(self) -> None:
        """Create the output, or check that it is that of an earlier call with the same videos."""
        contents = [
            [name, [[video.key, video.size, _annotate(video.samples, self.class_names)] for video in videos]]
            for name, videos in self.plan.items()
        ]
        record = {"contents": record_hash([contents, self.class_names])}
        path = self.output / _RECORD
        if not path.exists():
            path.with_name(f".{_RECORD}").unlink(missing_ok=True)  # left by a process that was killed
            check_new_directory(self.output).mkdir(parents=True, exist_ok=True)
            write_json(path, record)
        elif read_json(path) != record:
            raise XViTError(f"{self.output}: has shards of other videos or another size: choose another --output")
        if self.class_names:
            write_json(self.output / LABELS_FILE, self.class_names)

    def _keep_shard(self, path: Path, videos: Sequence[_Video]) -> None:
        """Count the videos of a shard that is complete; those that it lacks could not be read when it was written."""
        members = read_shard(path)
        reason = f"could not be read when {path.name} was written; to try again, delete that"
        self.failures += [VideoError(video.path, reason) for video in videos if video.name not in members]
        self._count(len(videos))

    def _write_shard(self, path: Path, videos: Sequence[_Video]) -> bool:
        """Write a shard, unless none of its videos can be read; return whether it was written."""
        tmp_path, num_added = path.with_name(f".{path.name}.part"), 0
        index_path(path).unlink(missing_ok=True)
        try:
            with write_errors(path), open(tmp_path, "wb") as file, _open_tar(file) as tar:
                for video in videos:
                    try:
                        self._add(tar, file, video)
                        num_added += 1
                    except VideoError as error:
                        self.failures.append(error)
                    self._count(1)
            if num_added:
                with write_errors(path):
                    publish(tmp_path, path)
                write_index(path)
        finally:
            tmp_path.unlink(missing_ok=True)
        return num_added > 0

    def _add(self, tar: tarfile.TarFile, file: BinaryIO, video: _Video) -> None:
        """Add a video and its annotation. Of one that cannot be read to its end, nothing stays."""
        annotation = json.dumps(_annotate(video.samples, self.class_names)).encode()
        start = tar.offset
        try:
            with _Source(video) as source:
                tar.addfile(_tar_info(video.name, video.size), source)
        except VideoError:
            file.seek(start)
            file.truncate()
            tar.offset = start
            raise
        tar.addfile(_tar_info(f"{video.key}.json", len(annotation)), io.BytesIO(annotation))

    def _count(self, videos: int) -> None:
        self.done += videos
        if self.on_progress is not None:
            self.on_progress(self.done, self.total)


class _Source(io.RawIOBase):
    """The bytes of a video. Errors while it is read are those of the video, not of the shard that is written."""

    def __init__(self, video: _Video) -> None:
        self._video, self._left = video, video.size
        if self._call(lambda: file_size(video.path)) != video.size:
            raise VideoError(video.path, "its size changed while it was packed")
        self._file: io.BufferedReader = self._call(lambda: open_file(video.path))

    def read(self, size: int = -1, /) -> bytes:
        """Read some bytes; raise `VideoError` if the file has fewer than were announced."""
        data = self._call(lambda: self._file.read(size))
        self._left -= len(data)
        if len(data) < size and self._left:
            raise VideoError(self._video.path, "its size changed while it was packed")
        return data

    def close(self) -> None:
        with suppress(AttributeError):  # not opened
            self._file.close()
        super().close()

    def _call(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except OSError as error:
            raise VideoError(self._video.path, f"not readable ({error.strerror or error})") from None


def _open_tar(file: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8")


def _tar_info(name: str, size: int) -> tarfile.TarInfo:
    """A header without owner and time, so that the same videos give the same shards."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def _measure(path: str) -> int | VideoError:
    """Bytes of a video file, or why it cannot be packed."""
    if os.path.isdir(path):
        advice = "make a video of it, for example with ffmpeg -framerate 30 -i frame_%04d.jpg video.mp4"
        return VideoError(path, f"a folder of frames is not packed, because each clip would read all of them: {advice}")
    try:
        size = file_size(path)
    except VideoError as error:
        return error
    except (OSError, ValueError) as error:
        return VideoError(path, f"not readable ({getattr(error, 'strerror', None) or error})")
    return size or VideoError(path, "the file is empty (0 bytes)")


def _make_key(samples: Sequence[Sample], taken: set[str]) -> str:
    """A name for a video in a shard, after its id, that no other one has. In WebDataset, it ends at the first dot."""
    name = samples[0].id if len(samples) == 1 else os.path.basename(samples[0].path)
    stem = os.path.splitext(name)[0] if has_video_extension(name) else name
    parts = filter(None, re.sub(r"[^\w/-]", "_", stem[-_MAX_KEY:]).lstrip("_/").split("/"))
    base = key = "/".join(parts) or "video"
    number = 2
    while key in taken:
        key, number = f"{base}_{number}", number + 1
    taken.add(key)
    return key


def _annotate(samples: Sequence[Sample], class_names: ClassNames) -> dict[str, Any]:
    """What KEY.json says: see `xvit.data.annotations.webdataset`."""
    names = as_task_dict(class_names)
    rows = []
    for sample in samples:
        row: dict[str, Any] = {"id": sample.id, "label": _name_label(sample, names)}
        rows.append(row | {key: value for key in ("start", "stop") if (value := getattr(sample, key)) is not None})
    return rows[0] if len(rows) == 1 and len(rows[0]) == 2 else {"segments": rows}


def _name_label(sample: Sample, names: Mapping[str, Sequence[str]]) -> Any:
    """The class names in a label: one, a list of several, or one for each task; None if it is unknown."""
    if sample.label is None:
        return None
    if isinstance(sample.label, dict):
        return {task: names[task][index] for task, index in sample.label.items()}
    classes = [names[SINGLE_TASK][index] for index in class_indices(sample.label)]
    return classes if isinstance(sample.label, tuple) else classes[0]
