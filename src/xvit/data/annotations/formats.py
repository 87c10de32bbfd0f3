"""The annotation files of published data sets, and `load_splits`, which reads any data set by its `DataConfig`.

    folders   root/train/<class>/*.mp4, ...                          xvit.data.annotations.samples.read_class_folders
    list      lines of `path label`                                  xvit.data.annotations.lists.read_list
    kinetics  label,youtube_id,time_start,time_end,split             read_kinetics
    ssv2      [{"id": "78687", "template": "Holding [something]"}]   read_something
    epic      narration_id,video_id,start_timestamp,verb_class,...   read_epic: two labels, stretches of long videos

Where the videos lie below the root does not matter but for `list`: one walk finds them by their names.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xvit.config import ClassNames, DataConfig
from xvit.data.annotations.finder import VideoFinder, rate_of
from xvit.data.annotations.lists import read_list, read_multi_label_list
from xvit.data.annotations.samples import (
    ParsedAnnotations,
    Sample,
    read_class_folders,
    read_class_names,
    read_text,
)
from xvit.utils.errors import XViTError, did_you_mean

EPIC_CLASSES = {"verb": 97, "noun": 300}


@dataclass(frozen=True, kw_only=True)
class DatasetSplits:
    """A data set.

    Args:
        train: samples to train on; none without an annotation file of them.
        val: samples to validate on; none without an annotation file of them.
        class_names: the class names, which the samples' labels index; for several tasks a dict of them.
        missing: annotated videos that are not there, as the annotations name them.
    """

    train: list[Sample]
    val: list[Sample]
    class_names: ClassNames
    missing: list[str]


def load_splits(config: DataConfig) -> DatasetSplits:
    """Read a data set.

    Class names are those of the label files, else those of the training annotations, else those of the others.

    Args:
        config: where it lies, and in which format.

    Raises:
        XViTError: no such folder or file, settings that the format does not take, a row that cannot be used (with file
            and line), an unknown class, more missing videos than `max_missing_fraction` allows.
    """
    if not config.root:
        raise XViTError("data.root: missing: the folder of the videos")
    if config.format == "folders":
        for name in ("train", "val", "label_files"):
            if getattr(config, name):
                raise XViTError(f"data.{name}={getattr(config, name)!r}: class folders have none; give data.format too")
        train, val, classes = read_class_folders(config.root, val_fraction=config.val_fraction, seed=config.split_seed)
        train, val = ([replace(s, fps=rate_of(s.path, config.fps)) for s in samples] for samples in (train, val))
        return DatasetSplits(train=train, val=val, class_names=classes, missing=[])
    if not config.train and not config.val:
        raise XViTError(f"data.train, data.val: missing: the annotation files of data.format={config.format!r}")
    videos = VideoFinder(config.root)
    labels = _read_labels(config)
    parts: dict[str, list[Sample]] = {"train": [], "val": []}
    missing: list[str] = []
    for part, path in (("train", config.train), ("val", config.val)):
        if path:
            listing = _read_part(config, part, path, videos, labels)
            _check_missing(path, listing, config)
            labels, parts[part] = listing.class_names, listing.samples
            missing += listing.missing
    return DatasetSplits(**parts, class_names=labels or [], missing=list(dict.fromkeys(missing)))


def read_kinetics(
    path: str | Path, videos: VideoFinder, *, part: str = "", labels: list[str] | None = None, fps: float | None = None
) -> ParsedAnnotations:
    """Read one of Kinetics' CSV files: columns label, youtube_id, time_start and time_end in seconds, and split.
    Those of test sets have no label.

    A row's video is `<id>_<start>_<end>`, times of six digits, else `<id>`, which is taken for the cut clip too. Of
    several such the one in a folder named like the class is taken, with spaces or underscores.

    Args:
        path: the CSV file.
        videos: where the videos lie.
        part: train or val: where the file holds rows of this split, the others are left out.
        class_names: class names; without, those of the file, sorted.
        fps: frames a second of folders of frames.

    Raises:
        XViTError: no such file, no such columns, a row that cannot be used, an unknown class.
    """
    rows = list(_read_csv(path, ("youtube_id", "time_start", "time_end"), labels=("label",)))
    splits = {"train": {"train"}, "val": {"val", "validate", "validation"}}.get(part, set())
    if any(row.get("split") in splits for _, row in rows):
        rows = [(where, row) for where, row in rows if row.get("split") in splits]
    names = labels or sorted({row["label"] for _, row in rows if "label" in row})
    places = {name: place for place, name in enumerate(names)}
    samples, missing = [], []
    for where, row in rows:
        start, stop = (_seconds(where, column, row[column]) for column in ("time_start", "time_end"))
        if stop <= start:
            raise XViTError(f"{where}: from {row['time_start']} to {row['time_end']} s: expected start < end")
        label = _place(where, "label", row["label"], places) if "label" in row else None
        name = f"{row['youtube_id']}_{int(start):06d}_{int(stop):06d}"
        found = videos.named(name) or videos.named(row["youtube_id"])
        if found:
            place = min(found, key=lambda found: _folder(found) != _plain(row.get("label", "")))
            samples.append(Sample(path=place, label=label, id=name, fps=rate_of(place, fps)))
        else:
            missing.append(name)
    return ParsedAnnotations(samples, names, missing, len(missing))


def read_something(
    path: str | Path, videos: VideoFinder, *, labels: list[str] | None = None, fps: float | None = None
) -> ParsedAnnotations:
    """Read one of Something-Something v2's JSON lists. Test lists have ids only: their samples have no label.

    Args:
        path: the JSON file: a list of {"id": "78687", "template": "Holding [something]"}.
        videos: where the videos lie, named by their ids.
        class_names: class names; without, the templates of the file without brackets, sorted.
        fps: frames a second of folders of frames.

    Raises:
        XViTError: no such file, not JSON, an entry that cannot be used, an unknown class.
    """
    try:
        entries = json.loads(read_text(path))
    except ValueError as error:
        raise XViTError(f"{path}: not readable as JSON: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list) or not entries:
        raise XViTError(f"{path}: expected a list of entries with id and template")
    rows: list[tuple[str, str, str | None]] = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path} entry {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str | int) or entry["id"] in ("", True):
            raise XViTError(f"{where}: {_short(entry)}: expected an entry with an id")
        template = entry.get("template")
        if template is not None and not (isinstance(template, str) and template):
            raise XViTError(f"{where}: template {_short(template)}: expected text")
        rows.append((where, str(entry["id"]), template and template.replace("[", "").replace("]", "")))
    names = labels or sorted({label for _, _, label in rows if label is not None})
    places = {name: place for place, name in enumerate(names)}
    samples, missing = [], []
    for where, name, label in rows:
        place = None if label is None else _place(where, "class", label, places)
        found = videos.named(name)
        if found:
            samples.append(Sample(path=found[0], label=place, id=name, fps=rate_of(found[0], fps)))
        else:
            missing.append(name)
    return ParsedAnnotations(samples, names, missing, len(missing))


def read_epic(
    path: str | Path, videos: VideoFinder, *, labels: Mapping[str, list[str]] | None = None, fps: float | None = None
) -> ParsedAnnotations:
    """Read one of EPIC-KITCHENS-100's CSV files: each row a stretch of a long video, with a verb and a noun, or
    without, in those of test sets.

    The rate of a folder of frames is that of the file's own frame numbers (50 or 60 a second), where it has them.

    Args:
        path: the CSV file.
        videos: where the videos lie, named by their video_id, or folders of their frames.
        class_names: class names of "verb" and "noun"; without, the numbers 0 to 96 and 0 to 299.
        fps: frames a second of folders of frames, where the file does not tell.

    Raises:
        XViTError: no such file, no such columns, a row that cannot be used, a number that is no class.
    """
    names = dict(labels or {task: [str(number) for number in range(K)] for task, K in EPIC_CLASSES.items()})
    rows = list(_read_csv(path, _EPIC, labels=[f"{task}_class" for task in names]))
    rates = _epic_rates(rows)
    samples: list[Sample] = []
    missing: list[str] = []
    for where, row in rows:
        start, stop = (_clock(where, column, row[column]) for column in ("start_timestamp", "stop_timestamp"))
        if stop <= start:
            raise XViTError(f"{where}: from {row['start_timestamp']} to {row['stop_timestamp']}: expected start < stop")
        label = {
            task: _number(where, f"{task}_class", row[f"{task}_class"], len(names[task]))
            for task in names
            if f"{task}_class" in row
        }
        found = [place for place in videos.named(row["video_id"]) if "flow" not in Path(place).parent.name]
        if found:
            rate = rate_of(found[0], rates.get(row["video_id"], fps))
            samples.append(
                Sample(path=found[0], label=label or None, id=row["narration_id"], start=start, stop=stop, fps=rate)
            )
        else:
            missing.append(row["video_id"])
    return ParsedAnnotations(samples, names, list(dict.fromkeys(missing)), len(missing))


_EPIC = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")


def _read_labels(config: DataConfig) -> ClassNames | None:
    files: Sequence[str] = config.label_files
    if config.format == "epic":
        if len(files) not in (0, 2):
            raise XViTError(f"data.label_files={list(files)}: expected two for epic: of the verbs, of the nouns")
        return dict(zip(EPIC_CLASSES, map(read_class_names, files), strict=True)) if files else None
    if len(files) > 1:
        raise XViTError(f"data.label_files={list(files)}: expected one file for data.format={config.format!r}")
    return read_class_names(files[0]) if files else None


def _read_part(config: DataConfig, part: str, path: str, videos: VideoFinder, labels: Any) -> ParsedAnnotations:
    if config.format == "kinetics":
        listing = read_kinetics(path, videos, part=part, labels=labels, fps=config.fps)
    elif config.format == "epic":
        listing = read_epic(path, videos, labels=labels, fps=config.fps)
    elif config.format == "list":
        read = read_multi_label_list if config.multi_label else read_list
        listing = read(path, videos, labels=labels, fps=config.fps)
    else:
        listing = read_something(path, videos, labels=labels, fps=config.fps)
    if part == "train" and any(sample.label is None for sample in listing.samples):
        raise XViTError(f"{path}: videos without a label: only labelled ones can be trained on")
    return listing


def _check_missing(path: str, listing: ParsedAnnotations, config: DataConfig) -> None:
    rows = len(listing.samples) + listing.missing_rows
    if not listing.missing_rows:
        return
    some = ", ".join(listing.missing[:3]) + ", ..." * (len(listing.missing) > 3)
    told = f"{path}: the videos of {listing.missing_rows} of {rows} rows are not in {config.root}: {some}"
    if not listing.samples:
        raise XViTError(told)
    if listing.missing_rows > config.max_missing_fraction * rows:
        share = -(-1000 * listing.missing_rows // rows) / 1000  # rounded up
        raise XViTError(f"{told}. To go on without them: data.max_missing_fraction={share:g}")


def _read_csv(
    path: str | Path, columns: Sequence[str], *, labels: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a head, each with its place for an error's text. Columns must be there and filled;
    those of labels too, unless there is none of them.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    empty = True
    try:
        if any(label in (reader.fieldnames or ()) for label in labels):
            columns = (*columns, *labels)
        for column in columns:
            if column not in (reader.fieldnames or ()):
                near = did_you_mean(column, reader.fieldnames or ())
                raise XViTError(f"{path} line 1: no column {column}.{near} Expected {', '.join(columns)}")
        for row in reader:
            empty, where = False, f"{path} line {reader.line_num}"
            if None in row:
                raise XViTError(f"{where}: {_short(','.join(row[None]))}: more values than the columns of line 1")
            for column in columns:
                if not (row[column] or "").strip():
                    raise XViTError(f"{where}: no {column}")
            yield where, {column: (value or "").strip() for column, value in row.items()}
    except csv.Error as error:
        raise XViTError(f"{path} line {reader.line_num + 1}: not readable as CSV: {error}") from None
    if empty:
        raise XViTError(f"{path}: no rows in it")


def _epic_rates(rows: Sequence[tuple[str, dict[str, str]]]) -> dict[str, float]:
    """Frames a second of each video: a stop_frame is its stop_timestamp times the rate, rounded down."""
    last: dict[str, tuple[float, int]] = {}
    for where, row in rows:
        if row.get("stop_frame"):
            frame = _number(where, "stop_frame", row["stop_frame"], 10**9)
            stop = _clock(where, "stop_timestamp", row["stop_timestamp"])
            last[row["video_id"]] = max(last.get(row["video_id"], (0.0, 0)), (stop, frame))
    return {video: float(round((frame + 0.5) / stop)) for video, (stop, frame) in last.items() if stop and frame > stop}


def _number(where: str, column: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) < most):
        raise XViTError(f"{where}: {column} {_short(text)}: expected a number from 0 to {most - 1}")
    return int(text)


def _seconds(where: str, column: str, text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", text):
        raise XViTError(f"{where}: {column} {_short(text)}: expected seconds")
    return float(text)


def _clock(where: str, column: str, text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,3}):([0-5]?[0-9]):([0-5]?[0-9](?:\.[0-9]+)?)", text)
    if not found:
        raise XViTError(f"{where}: {column} {_short(text)}: expected HH:MM:SS.ss")
    return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])


def _place(where: str, column: str, name: str, places: Mapping[str, int]) -> int:
    if name not in places:
        near = did_you_mean(name, places)
        raise XViTError(f'{where}: {column} "{name}" is not one of the {len(places)} classes.{near}')
    return places[name]


def _folder(path: str) -> str:
    return _plain(Path(path).parent.name)


def _plain(label: str) -> str:
    return label.replace("_", " ").lower()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
