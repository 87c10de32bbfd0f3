"""Where the videos are."""

from dataclasses import dataclass
from typing import Literal

from xvit.utils.errors import XViTError, check_choice, check_range


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the videos are and how training varies them.

    `xvit.data.annotations.formats.read_data` reads them.

    Args:
        root: folder with train/<class>/*.mp4 and val/<class>/*.mp4, or <class>/*.mp4 to be split by `val_fraction`;
            with another format, the folder that holds the videos. A folder of frames (frame_0001.jpg, ...) counts as
            a video.
        format: folders (as above), or what the annotation files are: list (`path label` lines), kinetics (its CSV),
            ssv2 (Something-Something's JSON), epic (EPIC-KITCHENS-100's CSV).
        train: annotation file of the training videos; not for folders.
        val: annotation file of the held-out videos; not for folders.
        multi_label: a video may have several classes, or none; for the format list, whose lines are then a path and any
            number of labels: `path label label` or `path label;label`.
        label_files: class names, in the order of their numbers: one file, or for epic that of the verbs and that of
            the nouns. Without, they are those that the annotations name.
        fps: frames a second of folders of frames, where the annotations do not tell.
        missing_tolerance: share of the annotated videos that may be missing; they are left out.
        val_fraction: share of each class kept for validation where the folder has no train and val of its own.
        split_seed: seed of that split.
        scale_jitter: smallest and largest short side before the training crop, relative to the view's size.
        horizontal_flip: probability of mirroring a training clip; 0 where left and right are different classes, unless
            `flip_pairs`.
        flip_pairs: a mirrored clip gets the class whose name says left for right and right for left, such as "Pulling
            [something] from right to left"; a class without such another keeps its own.
        auto_augment: a random change of colours or geometry, the same for all frames of a training clip: none, auto
            (AutoAugment's ImageNet policy) or rand (RandAugment: 2 operations of magnitude 9).
        erase: probability of erasing a box of a training clip, the same in all frames: 2 % to a third of the picture.
        workers: loader processes; 0 decodes in the main process.
        unreadable_tolerance: share of the training videos that may turn out unreadable; with more the training stops.
        decode_timeout: seconds after which a video that is still being read counts as unreadable; 0 for no limit.
        class_balanced: draw the training videos with replacement, so that all classes come equally often.
        repeats: repeated augmentation: how many clips of a video come in a row; an epoch then has fewer videos.

    Raises:
        XViTError: a value out of its range or its choices.
    """

    root: str = ""
    format: Literal["folders", "list", "kinetics", "ssv2", "epic"] = "folders"
    train: str = ""
    val: str = ""
    multi_label: bool = False
    label_files: tuple[str, ...] | str = ()
    fps: float = 30.0
    missing_tolerance: float = 0.0
    val_fraction: float = 0.2
    split_seed: int = 0
    scale_jitter: tuple[float, float] = (1.0, 1.25)
    horizontal_flip: float = 0.5
    flip_pairs: bool = False
    auto_augment: Literal["none", "auto", "rand"] = "none"
    erase: float = 0.0
    workers: int = 2
    unreadable_tolerance: float = 0.1
    decode_timeout: float = 120.0
    class_balanced: bool = False
    repeats: int = 1

    def __post_init__(self) -> None:
        check_choice("format", self.format, ("folders", "list", "kinetics", "ssv2", "epic"))
        if self.multi_label and self.format != "list":
            raise XViTError(
                f"multi_label=True with format={self.format!r}: only the format list has several labels a video"
            )
        check_range("fps", self.fps, 0.001)
        check_range("missing_tolerance", self.missing_tolerance, 0, 1)
        files = (self.label_files,) if isinstance(self.label_files, str) else tuple(self.label_files)
        object.__setattr__(self, "label_files", tuple(file for file in files if file))
        check_range("val_fraction", self.val_fraction, 0, 1)
        check_range("horizontal_flip", self.horizontal_flip, 0, 1)
        check_choice("auto_augment", self.auto_augment, ("none", "auto", "rand"))
        check_range("erase", self.erase, 0, 1)
        check_range("workers", self.workers, 0)
        check_range("unreadable_tolerance", self.unreadable_tolerance, 0, 1)
        check_range("decode_timeout", self.decode_timeout, 0)
        check_range("repeats", self.repeats, 1)
        object.__setattr__(self, "scale_jitter", tuple(self.scale_jitter))
        low, high = self.scale_jitter
        if not 0 < low <= high:
            raise XViTError(f"scale_jitter={self.scale_jitter}: expected 0 < smallest <= largest")
