"""The values that the annotation readers return: samples and splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from xvit.config import SINGLE_TASK, ClassNames, as_task_dict, unwrap_single_task
from xvit.data.video_names import has_video_extension
from xvit.utils.errors import XViTError, did_you_mean

Label = int | tuple[int, ...] | dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A video, or a segment of one, and its label.

    Args:
        path: the file, or the folder of frames.
        label: class index; for several tasks a dict such as {"verb": 3, "noun": 7}; for multi-label data the indices of
            all its classes, such as (3, 7) or (); None if unknown.
        id: name of the sample in results and reports; usually the path relative to the root of the data set.
        start: start of the segment in seconds; None for the start of the video.
        stop: end of the segment in seconds; None for the end of the video.
        fps: frames per second of a folder of frames; None for 30. Video files contain their own frame rate.

    Raises:
        XViTError: a segment that does not end after it starts.
    """

    path: str
    label: Label | None
    id: str
    start: float | None = None
    stop: float | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        start = 0.0 if self.start is None else self.start
        if start < 0 or (self.stop is not None and self.stop <= start):
            raise XViTError(f"{self.id}: from {self.start} to {self.stop} s: expected 0 <= start < stop")

    def frames(self, times: np.ndarray) -> range:
        """The indices of the segment's frames, from the times of all frames of the video in seconds."""
        first = 0 if self.start is None else int(np.searchsorted(times, self.start))
        return range(first, len(times) if self.stop is None else int(np.searchsorted(times, self.stop)))


@dataclass(frozen=True, kw_only=True)
class DatasetSplits:
    """The training, validation and test samples of a data set.

    Args:
        train: training samples; empty without training annotations.
        val: validation samples; empty without validation annotations.
        test: test samples, which training never reads; empty without test annotations.
        class_names: class names, indexed by the labels; for several tasks a dict of lists.
        missing: annotated videos that were not found, as named in the annotations.
        problems: classes and splits that cannot be used: path of the folder, and reason; none if read strictly.
        left_out: what the folders hold besides videos: paths by kind.
    """

    train: list[Sample]
    val: list[Sample]
    test: list[Sample] = field(default_factory=list)
    class_names: ClassNames
    missing: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, list[Sample]]:
        """The samples of the splits "train", "val" and "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass
class ParsedAnnotations:
    """The contents of one annotation file.

    Args:
        class_names: class names, indexed by the labels.
        samples: samples whose videos were found.
        missing_rows: for each row without a video, the name of the video.
        problems: why the labels cannot be used for training.
    """

    class_names: ClassNames
    samples: list[Sample] = field(default_factory=list)
    missing_rows: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """The videos that were not found, each once."""
        return list(dict.fromkeys(self.missing_rows))

    def add_row(
        self, path: str | None, name: str, label: Label | None, *, fps: float | None, id: str = "", **segment: float
    ) -> None:
        """Add a row: a sample (of a segment, from `start` to `stop`), or a missing video if `path` is None."""
        if path is None:
            self.missing_rows.append(name)
        else:
            fps = None if has_video_extension(path) else fps  # for folders of frames only
            self.samples.append(Sample(path=path, label=label, id=id or name, fps=fps, **segment))


def class_indices(label: Label | None, task: str = SINGLE_TASK) -> tuple[int, ...]:
    """The class indices in a label, for one task."""
    index = as_task_dict(label).get(task)
    return () if index is None else index if isinstance(index, tuple) else (index,)


def remap_label(label: Label | None, new_indices: Mapping[str, Sequence[int]]) -> Label | None:
    """Replace the class indices of a label by those that `new_indices` lists for each task."""
    if label is None:
        return None
    if isinstance(label, tuple):
        return tuple(new_indices[SINGLE_TASK][index] for index in label)
    by_task = {task: new_indices[task][index] for task, index in as_task_dict(label).items()}
    remapped: Label = unwrap_single_task(by_task)
    return remapped


def class_index(where: str, column: str, name: str, indices: Mapping[str, int]) -> int:
    """The index of a class name in a row of an annotation file; raise `XViTError` if there is no such class."""
    if name not in indices:
        suggestion = did_you_mean(name, indices)
        raise XViTError(f'{where}: {column} "{name}" is not one of the {len(indices)} classes.{suggestion}')
    return indices[name]
