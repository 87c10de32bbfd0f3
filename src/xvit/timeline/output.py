"""The output folder of timelines: which video's files go where, and what is finished.

    DIR/timeline.*        the files of a single video, or
    DIR/NAME/timeline.*   those of each of several videos; NAME is its path below the folder that all of them are in
    DIR/manifest.json     the model, the settings, and for each video its folder, size and time of change

The files of a video appear together. A command that was stopped goes on where the files of a video are missing, if the
model, the settings and the finished videos are still the same.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvit.data.shards import file_size, shard_of
from xvit.utils.errors import VideoError, XViTError
from xvit.utils.files import atomic_directory, check_new_directory, read_json, write_json

MANIFEST = "manifest.json"
RESULT = "timeline.json"
_ADVICE = "choose another --output, or remove this one"


@dataclass(frozen=True)
class TimelineOutput:
    """An output folder, opened by `open_output`.

    Args:
        directory: the folder.
        run: the model and the settings, as plain values.
        videos: by absolute path: {"folder": NAME or ".", "bytes": size, "modified_ns": time}.
    """

    directory: Path
    run: Mapping[str, Any]
    videos: Mapping[str, Mapping[str, Any]]

    def folder(self, video: str) -> Path:
        """The folder of a video's files."""
        return self.directory / self.videos[os.path.abspath(video)]["folder"]

    def is_finished(self, video: str) -> bool:
        """Whether the files of a video are there."""
        return (self.folder(video) / RESULT).exists()

    def read_result(self, video: str) -> dict[str, Any]:
        """The contents of a finished video's timeline.json. Raises `XViTError` if it is damaged."""
        path = self.folder(video) / RESULT
        result = read_json(path)
        if not isinstance(result, dict) or not {"video", "duration", "segments", "motion_gate"} <= result.keys():
            raise XViTError(f"{path}: not a timeline; remove its folder to make it again")
        return result | {"video": video}

    @contextmanager
    def new_folder(self, video: str) -> Iterator[Path]:
        """Yield an empty folder for the files of a video; it gets its place when the block ends without an error."""
        folder = self.folder(video)
        if folder != self.directory:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._write_manifest(self.directory)
        with atomic_directory(folder) as tmp_path:
            yield tmp_path
            if folder == self.directory:
                self._write_manifest(tmp_path)

    @property
    def renamed(self) -> dict[str, Path]:
        """The folders of videos whose own name was taken."""
        folders = {path: self.folder(path) for path in self.videos}
        return {path: f for path, f in folders.items() if f not in (self.directory, f.with_name(Path(path).stem))}

    def _write_manifest(self, directory: Path) -> None:
        write_json(directory / MANIFEST, {"run": self.run, "videos": self.videos})


def open_output(directory: str | Path, run: Mapping[str, Any], videos: Sequence[str]) -> TimelineOutput:
    """Prepare an output folder for these videos, or open one that the same command has begun. Nothing is written.

    Args:
        directory: the folder.
        run: the model and the settings, as plain values; a folder of another run is refused.
        videos: their paths.

    Raises:
        XViTError: the folder holds something else, or belongs to another run, or a finished video has changed since.
    """
    directory, paths = Path(directory), list(dict.fromkeys(map(os.path.abspath, videos)))
    if not (directory / MANIFEST).exists():
        check_new_directory(directory)
        folders = {paths[0]: "."} if len(paths) == 1 else name_folders(paths)
        return TimelineOutput(directory, run, {path: {"folder": folders[path]} | _file_state(path) for path in paths})
    known = _read_manifest(directory, run)
    new = [path for path in paths if path not in known]
    names = name_folders(new, [video["folder"] for video in known.values()])
    if new and "." in [video["folder"] for video in known.values()]:
        raise XViTError(f"{directory}: holds the timeline of {next(iter(known))}; {_ADVICE}")
    output = TimelineOutput(directory, run, known | {path: {"folder": names[path]} for path in new})
    states = {path: {**output.videos[path], **_file_state(path)} for path in paths}
    for path, state in states.items():
        if output.is_finished(path) and state != output.videos[path]:
            raise XViTError(f"{path}: changed since its timeline was written to {output.folder(path)}; {_ADVICE}")
    return TimelineOutput(directory, run, {**output.videos, **states})


def _read_manifest(directory: Path, run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The videos in the manifest of a folder, if it is of the same run."""
    manifest = read_json(directory / MANIFEST)
    try:
        previous, videos = manifest["run"], {str(path): dict(video) for path, video in manifest["videos"].items()}
        changed = next((name for name in run if previous[name] != run[name]), None)
        for video in videos.values():
            Path(video["folder"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise XViTError(f"{directory / MANIFEST}: not the manifest of a timeline; {_ADVICE}") from None
    if changed is not None:
        was, now = ("unset" if value is None else value for value in (previous[changed], run[changed]))
        raise XViTError(f"{directory}: made with {changed} {was}, now {now}; use the same, or choose another --output")
    return videos


def name_folders(paths: Sequence[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Name a folder for each video: its path below their common folder, without the extension.

    Where that is taken, or holds or lies in another one, the extension stays, or the name gets a number.

    Args:
        paths: absolute paths, each once.
        taken: names that cannot be used.

    Returns:
        The folder of each video, with "/" between its parts.
    """
    if not paths:
        return {}
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    used = [*taken, MANIFEST]
    names: dict[str, str] = {}
    for path in sorted(paths, key=lambda path: (-path.count(os.sep), path)):  # outer folders keep clear of inner ones
        full = os.path.relpath(path, root).replace(os.sep, "/")
        short = os.path.splitext(full)[0]
        flat = short.replace("/", "_")
        numbered = (f"{flat}-{number}" for number in range(2, len(used) + 3))
        names[path] = next(name for name in [short, full, *numbered] if not any(_clash(name, other) for other in used))
        used.append(names[path])
    return {path: names[path] for path in paths}


def _clash(a: str, b: str) -> bool:
    """Whether two folders are the same, on file systems that ignore case too, or one is in the other."""
    a, b = f"{a}/".casefold(), f"{b}/".casefold()
    return a.startswith(b) or b.startswith(a)


def _file_state(path: str) -> dict[str, int]:
    """What changes when a file is written; empty for a file that cannot be read."""
    try:
        return {"bytes": file_size(path), "modified_ns": os.stat(shard_of(path) or path).st_mtime_ns}
    except (OSError, VideoError):
        return {}
