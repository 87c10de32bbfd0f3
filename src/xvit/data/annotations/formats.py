"""The annotation files of published data sets, and `load_splits`, which reads any data set by its `DataConfig`.

    folders     root/train/<class>/*.mp4, ...                          xvit.data.annotations.class_folders
    list        lines of `path label`                                  xvit.data.annotations.lists
    kinetics    label,youtube_id,time_start,time_end,split             read_kinetics
    ssv2        [{"id": "78687", "template": "Holding [something]"}]   read_ssv2
    epic        narration_id,video_id,start_timestamp,verb_class,...   read_epic: two labels, segments of long videos
    webdataset  train-000000.tar, val-000000.tar, ...                        xvit.data.annotations.webdataset

For kinetics, ssv2 and epic the videos may be anywhere below the root: they are found by their names.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from xvit.config import SINGLE_TASK, ClassNames, DataConfig
from xvit.data.annotations.class_folders import read_class_folders
from xvit.data.annotations.class_names import read_class_names
from xvit.data.annotations.finder import VideoFinder, report_left_out
from xvit.data.annotations.lists import read_list, read_multi_label_list
from xvit.data.annotations.samples import (
    DatasetSplits,
    ParsedAnnotations,
    Sample,
    class_index,
    class_indices,
    remap_label,
)
from xvit.data.annotations.webdataset import read_webdataset
from xvit.utils.addresses import allow_remote
from xvit.utils.errors import XViTError, one_line
from xvit.utils.files import parse_json
from xvit.utils.text import Row, is_index, name_some, read_csv, read_text

EPIC_NUM_CLASSES = {"verb": 97, "noun": 300}
_EPIC_COLUMNS = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")
_logger = logging.getLogger("xvit")

_SECONDS = r"[0-9]{1,9}(\.[0-9]*)?"
_EPIC_TIMES = (_EPIC_COLUMNS[3:], r"[0-9]{1,3}:[0-5]?[0-9]:[0-5]?[0-9](\.[0-9]+)?", "HH:MM:SS.ss")


def load_splits(config: DataConfig, *, strict: bool = True) -> DatasetSplits:
    """Read the annotations of a data set and find its videos.

    The class names are those of the label files, else those in the training annotations, else those in the validation
    annotations.

    Args:
        config: the data settings. The addresses that they allow stay allowed, for reading the videos.
        strict: raise an error if a class cannot be used, and log what class folders hold besides videos. Otherwise,
            return `problems` and `left_out` without a message, and accept validation classes that training lacks.

    Raises:
        XViTError: no such folder or file, settings that the format does not have, an invalid row (with file and line),
            an unknown class, more missing videos than `max_missing_fraction` allows.
    """
    allow_remote(*config.allow_remote)
    if not config.root:
        raise XViTError("data.root: missing: expected the folder of the videos")
    if config.format == "folders":
        for name in ("train", "val", "test", "label_files"):
            if value := getattr(config, name):
                raise XViTError(f"data.{name}={value!r}: not used with data.format='folders': set another data.format")
        fractions = {"val_fraction": config.val_fraction, "test_fraction": config.test_fraction}
        folders = read_class_folders(config.root, **fractions, seed=config.split_seed, fps=config.fps, strict=strict)
        if strict:
            report_left_out(folders.left_out)
        return folders
    if config.format == "webdataset":
        return read_webdataset(config, strict=strict)
    if not (config.train or config.val or config.test):
        raise XViTError(
            f"data.train, data.val, data.test: missing: data.format={config.format!r} needs annotation files"
        )
    videos = VideoFinder(config.root)
    class_names = _read_label_files(config)
    splits: dict[str, list[Sample]] = {}
    missing: list[str] = []
    problems: list[tuple[str, str]] = []
    for split, path in (("train", config.train), ("val", config.val), ("test", config.test)):
        splits[split] = []
        if path:
            known = class_names if strict or config.label_files else None
            parsed = _read_annotations(config, split, path, videos, known)
            if strict and parsed.problems:
                raise XViTError(f"{path}: {parsed.problems[0]}")
            _check_missing(path, parsed, config)
            class_names, splits[split] = _join_classes(class_names, parsed)
            missing += parsed.missing
            problems += [(path, reason) for reason in parsed.problems]
            if strict and split == "train" and config.format == "list":
                _report_unused(path, parsed)
    train, val, test = splits.values()
    missing = list(dict.fromkeys(missing))
    return DatasetSplits(
        train=train, val=val, test=test, class_names=class_names or [], missing=missing, problems=problems
    )


def read_kinetics(
    path: str | Path,
    videos: VideoFinder,
    *,
    split: str = "",
    class_names: list[str] | None = None,
    fps: float | None = None,
) -> ParsedAnnotations:
    """Read a Kinetics CSV file: columns label, youtube_id, time_start and time_end in seconds, and split.

    Test files have no label. The video of a row is named `<id>_<start>_<end>`, with times of six digits, or `<id>`,
    which is assumed to be cut already. If there are several, the one in a folder named like the class is taken, spelled
    with spaces or underscores.

    Args:
        split: train, val or test: if the file has rows of this split, rows of other splits are left out.
        class_names: class names; None takes those in the file, sorted.
        fps: frames per second of folders of frames.

    Raises:
        XViTError: no such file, missing columns, an invalid row, an unknown class.
    """
    rows = list(read_csv(path, ("youtube_id", "time_start", "time_end"), optional=("label",)))
    spellings = {"train": {"train"}, "val": {"val", "validate", "validation"}, "test": {"test"}}.get(split, set())
    if any(row.get("split") in spellings for _, row in rows):
        rows = [(where, row) for where, row in rows if row.get("split") in spellings]
    names = class_names or sorted({row["label"] for _, row in rows if "label" in row})
    indices = {name: index for index, name in enumerate(names)}
    parsed = ParsedAnnotations(names)
    for where, row in rows:
        start, stop = _parse_segment(where, row, ("time_start", "time_end"), _SECONDS, "seconds")
        label = class_index(where, "label", row["label"], indices) if "label" in row else None
        name = f"{row['youtube_id']}_{int(start):06d}_{int(stop):06d}"
        folder_name = _folder_name(row.get("label", ""))
        candidates = videos.find_by_name(name) or videos.find_by_name(row["youtube_id"])
        video = min(candidates, key=lambda video: _folder_name(Path(video).parent.name) != folder_name, default=None)
        parsed.add_row(video, name, label, fps=fps)
    return parsed


def read_ssv2(
    path: str | Path, videos: VideoFinder, *, class_names: list[str] | None = None, fps: float | None = None
) -> ParsedAnnotations:
    """Read a Something-Something v2 JSON list. The videos are named by their ids.

    Test lists contain ids only: their samples have no label.

    Args:
        class_names: class names; None takes the templates in the file without brackets, sorted.
        fps: frames per second of folders of frames.

    Raises:
        XViTError: no such file, invalid JSON, an invalid entry, an unknown class.
    """
    try:
        entries = parse_json(read_text(path))
    except XViTError:
        raise
    except ValueError as error:
        raise XViTError(f"{path}: not readable as JSON: {one_line(error)}") from None
    if not isinstance(entries, list) or not entries:
        raise XViTError(f"{path}: expected a list of entries with id and template")
    rows: list[tuple[str, str, str | None]] = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path} entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str | int) or entry["id"] in ("", True):
            raise XViTError(f"{where}: {_shorten(entry)}: expected an entry with an id")
        template = entry.get("template")
        if template is not None and not (isinstance(template, str) and template):
            raise XViTError(f"{where}: template {_shorten(template)}: expected text")
        rows.append((where, str(entry["id"]), template and template.replace("[", "").replace("]", "")))
    names = class_names or sorted({label for _, _, label in rows if label is not None})
    indices = {name: index for index, name in enumerate(names)}
    parsed = ParsedAnnotations(names)
    for where, name, label in rows:
        index = None if label is None else class_index(where, "class", label, indices)
        parsed.add_row(next(iter(videos.find_by_name(name)), None), name, index, fps=fps)
    return parsed


def read_epic(
    path: str | Path,
    videos: VideoFinder,
    *,
    class_names: Mapping[str, list[str]] | None = None,
    fps: float | None = None,
) -> ParsedAnnotations:
    """Read an EPIC-KITCHENS-100 CSV file. Each row is a segment of a long video, with a verb and a noun.

    The videos, or folders of their frames, are named by video_id. Test files have no verb and noun. The frame rate of
    folders of frames is computed from the frame numbers in the file (50 or 60 frames per second), if it has them.

    Args:
        class_names: class names of "verb" and "noun"; None takes the numbers 0 to 96 and 0 to 299.
        fps: frames per second of folders of frames, if the file does not have it.

    Raises:
        XViTError: no such file, missing columns, an invalid row, an unknown class.
    """
    names = dict(class_names or {task: list(map(str, range(K))) for task, K in EPIC_NUM_CLASSES.items()})
    rows = list(read_csv(path, _EPIC_COLUMNS, optional=[f"{task}_class" for task in names]))
    columns = {task: f"{task}_class" for task in names if f"{task}_class" in rows[0][1]}
    frame_rates = _epic_frame_rates(rows)
    parsed = ParsedAnnotations(names)
    for where, row in rows:
        start, stop = _parse_segment(where, row, *_EPIC_TIMES)
        label = {task: _parse_index(where, row, column, len(names[task])) for task, column in columns.items()}
        candidates = [video for video in videos.find_by_name(row["video_id"]) if "flow" not in Path(video).parent.name]
        video, name, id = next(iter(candidates), None), row["video_id"], row["narration_id"]
        parsed.add_row(video, name, label or None, fps=frame_rates.get(name, fps), id=id, start=start, stop=stop)
    return parsed


def _read_label_files(config: DataConfig) -> ClassNames | None:
    num_files, expected = 1, f"one file for data.format={config.format!r}"
    if config.format == "epic":
        num_files, expected = 2, "two files for epic: verbs, then nouns"
    if len(config.label_files) not in (0, num_files):
        raise XViTError(f"data.label_files={list(config.label_files)}: expected {expected}")
    names = [read_class_names(path) for path in config.label_files]
    if not names:
        return None
    return dict(zip(EPIC_NUM_CLASSES, names, strict=True)) if config.format == "epic" else names[0]


def _read_annotations(
    config: DataConfig, split: str, path: str, videos: VideoFinder, class_names: ClassNames | None
) -> ParsedAnnotations:
    readers: dict[str, Callable[..., ParsedAnnotations]] = {
        "kinetics": partial(read_kinetics, split=split),
        "ssv2": read_ssv2,
        "epic": read_epic,
        "list": read_multi_label_list if config.multi_label else read_list,
    }
    parsed = readers[config.format](path, videos, class_names=class_names, fps=config.fps)
    if split == "train" and any(sample.label is None for sample in parsed.samples):
        raise XViTError(f"{path}: videos without a label: training needs a label for each video")
    return parsed


def _join_classes(class_names: ClassNames | None, parsed: ParsedAnnotations) -> tuple[ClassNames, list[Sample]]:
    """Append the classes of another split to those known so far; return them and the samples with their indices."""
    names = parsed.class_names
    if class_names is None or isinstance(names, dict) or isinstance(class_names, dict) or names == class_names:
        return names, parsed.samples
    joined = list(dict.fromkeys([*class_names, *names]))
    index_of = {name: index for index, name in enumerate(joined)}
    indices = {SINGLE_TASK: [index_of[name] for name in names]}
    return joined, [replace(sample, label=remap_label(sample.label, indices)) for sample in parsed.samples]


def _report_unused(path: str, parsed: ParsedAnnotations) -> None:
    """Log the classes of a list without training videos, such as indices between those that occur."""
    used = {index for sample in parsed.samples for index in class_indices(sample.label)}
    unused = [name for index, name in enumerate(parsed.class_names) if index not in used]
    if unused:
        count = "1 class has" if len(unused) == 1 else f"{len(unused)} classes have"
        advice = "; if the labels are numbered from 1, number them from 0" if used and 0 not in used else ""
        _logger.warning("%s: %s no training videos: %s%s", path, count, name_some(unused, 10), advice)


def _check_missing(path: str, parsed: ParsedAnnotations, config: DataConfig) -> None:
    num_missing = len(parsed.missing_rows)
    if not num_missing:
        return
    num_rows = len(parsed.samples) + num_missing
    examples = name_some(parsed.missing)
    message = f"{path}: the videos of {num_missing} of {num_rows} rows are not in {config.root}: {examples}"
    if re.match(r"/|[A-Za-z]:[\\/]", parsed.missing[0]):
        message += " (a path from the root of a disk: expected paths relative to data.root)"
    if not parsed.samples:
        raise XViTError(message)
    if num_missing > config.max_missing_fraction * num_rows:
        fraction = -(-1000 * num_missing // num_rows) / 1000  # rounded up
        raise XViTError(f"{message}. To continue without them, set data.max_missing_fraction={fraction:g}")


def _epic_frame_rates(rows: Sequence[Row]) -> dict[str, float]:
    """Frames per second of each video: stop_frame is stop_timestamp times the frame rate, rounded down."""
    latest: dict[str, tuple[float, int]] = {}
    for where, row in rows:
        if row.get("stop_frame"):
            frame = _parse_index(where, row, "stop_frame", 10**9)
            _, stop = _parse_segment(where, row, *_EPIC_TIMES)
            latest[row["video_id"]] = max(latest.get(row["video_id"], (0.0, 0)), (stop, frame))
    return {id: float(round((frame + 0.5) / stop)) for id, (stop, frame) in latest.items() if stop and frame > stop}


def _parse_segment(
    where: str, row: dict[str, str], columns: Sequence[str], pattern: str, expected: str
) -> tuple[float, float]:
    """Start and stop in seconds, from two columns with seconds or HH:MM:SS.ss."""
    for column in columns:
        if not re.fullmatch(pattern, row[column]):
            raise XViTError(f"{where}: {column} {_shorten(row[column])}: expected {expected}")
    parts = [["0", "0", *row[column].split(":")][-3:] for column in columns]
    start, stop = (3600 * int(hours) + 60 * int(minutes) + float(seconds) for hours, minutes, seconds in parts)
    if stop <= start:
        text = ", ".join(f"{column} {row[column]}" for column in columns)
        raise XViTError(f"{where}: {text}: expected start < end")
    return start, stop


def _parse_index(where: str, row: dict[str, str], column: str, size: int) -> int:
    text = row[column]
    if not (is_index(text) and len(text) < 10 and int(text) < size):
        raise XViTError(f"{where}: {column} {_shorten(text)}: expected a number from 0 to {size - 1}")
    return int(text)


def _folder_name(label: str) -> str:
    return label.replace("_", " ").lower()


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
