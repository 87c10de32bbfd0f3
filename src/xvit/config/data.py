"""Where the videos are and how they are read."""

from dataclasses import dataclass
from typing import Literal

from xvit.utils.addresses import split_allowed
from xvit.utils.errors import XViTError, check_choices, check_range


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the videos are and how they are read. `xvit.data.annotations.load_splits` reads them.

    Args:
        root: folder with train/<class>/*.mp4, val/<class>/*.mp4 and perhaps test/<class>/*.mp4, or <class>/*.mp4,
            which `val_fraction` and `test_fraction` split; for other formats, the folder that holds the videos or the
            shards, or for a list an address such as s3://bucket/videos. A folder of frames (frame_0001.jpg, ...)
            counts as a video.
        format: folders (as above), or the format of the annotation files: list (`path label` lines), kinetics (its
            CSV), ssv2 (Something-Something's JSON), epic (EPIC-KITCHENS-100's CSV); or webdataset (train-*.tar, ...).
        train: annotation file of the training videos; not for folders. For webdataset: the training shards, if they are
            not named train*, such as "shards-{000..099}.tar", "train-*.tar" or a folder, relative to `root`.
        val: the same for the validation videos.
        test: the same for the test videos, which training never reads.
        multi_label: a video may have any number of classes; only for the formats list, whose lines are then
            `path label label ...` or `path label;label`, and webdataset.
        label_files: files of class names, in the order of the class indices: one file, or for epic one of verbs and
            one of nouns. Without them, the class names are those that occur in the annotations.
        fps: frame rate of folders of frames, in frames per second, unless the annotations give it.
        max_missing_fraction: fraction of the annotated videos that may be missing; they are left out.
        val_fraction: fraction of each class held out for validation, if the folder has no train and val of its own.
        test_fraction: fraction of each class held out as test videos, in the same way; only for folders.
        split_seed: seed of these splits.
        num_workers: loader processes; 0 decodes in the main process, which a crash of a decoder then ends.
        max_unreadable_fraction: fraction of the training videos that may be unreadable; beyond it, training stops.
        decode_timeout: seconds after which a video that is still being decoded counts as unreadable; 0 for no limit.
        allow_remote: what may be read at addresses: schemes (s3, gs, az, hf, https, http), or one of them and a bucket
            or host, such as s3://bucket; several are separated by commas. See docs/guides/remote.md.
        class_balanced: draw the training videos with replacement, so that all classes are equally frequent.

    Raises:
        XViTError: a value out of its range or not among its choices.
    """

    root: str = ""
    format: Literal["folders", "list", "kinetics", "ssv2", "epic", "webdataset"] = "folders"
    train: str = ""
    val: str = ""
    test: str = ""
    multi_label: bool = False
    label_files: tuple[str, ...] | str = ()
    fps: float = 30.0
    max_missing_fraction: float = 0.0
    val_fraction: float = 0.2
    test_fraction: float = 0.0
    split_seed: int = 0
    num_workers: int = 2
    max_unreadable_fraction: float = 0.1
    decode_timeout: float = 120.0
    allow_remote: tuple[str, ...] | str = ()
    class_balanced: bool = False

    def __post_init__(self) -> None:
        check_choices(self)
        if self.multi_label and self.format not in ("list", "webdataset"):
            raise XViTError(
                f"multi_label=True with format={self.format!r}: only list and webdataset have several labels per video"
            )
        check_range("fps", self.fps, 0.001)
        check_range("max_missing_fraction", self.max_missing_fraction, 0, 1)
        files = (self.label_files,) if isinstance(self.label_files, str) else tuple(self.label_files)
        object.__setattr__(self, "label_files", tuple(file for file in files if file))
        object.__setattr__(self, "allow_remote", split_allowed(self.allow_remote))
        check_range("val_fraction", self.val_fraction, 0, 1)
        check_range("test_fraction", self.test_fraction, 0, 1 - self.val_fraction)
        if self.test_fraction and self.format != "folders":
            raise XViTError(
                f"test_fraction={self.test_fraction:g} with format={self.format!r}: only for the format folders; give "
                "the annotation file of the test videos as data.test"
            )
        check_range("num_workers", self.num_workers, 0)
        check_range("max_unreadable_fraction", self.max_unreadable_fraction, 0, 1)
        check_range("decode_timeout", self.decode_timeout, 0)
