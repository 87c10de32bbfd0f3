"""Data sets that are stored as one folder per class."""

import hashlib
import os
from pathlib import Path

from xvit.data.annotations.finder import check_folder, is_video_file
from xvit.data.annotations.samples import DatasetSplits, Sample
from xvit.data.decode import VIDEO_EXTENSIONS
from xvit.data.decode.frame_folder import is_image_file
from xvit.utils.errors import XViTError, check_range


def read_class_folders(root: str | Path, *, val_fraction: float = 0.2, seed: int = 0) -> DatasetSplits:
    """Read root/train/<class>/* and root/val/<class>/*, or read root/<class>/* and split it.

    The split sorts the videos of each class by a hash of their names and `seed`, so it does not depend on the other
    classes. A class with at least two videos has at least one in each split, unless `val_fraction` is 0. A single video
    goes to the training split.

    Args:
        root: the folder.
        val_fraction: fraction of each class for validation, if root has no train and val folders.
        seed: seed of the split.

    Returns:
        The splits, with samples sorted by id and class names sorted.

    Raises:
        XViTError: no such folder, no videos, a class without videos, only one class, a validation class without
            training videos.
    """
    check_range("val_fraction", val_fraction, 0, 1)
    check_folder(root)
    root = Path(root)
    if (root / "train").is_dir() and (root / "val").is_dir():
        train, val = _list_classes(root / "train"), _list_classes(root / "val")
        unknown = sorted(set(val) - set(train))
        if unknown:
            raise XViTError(f'{root / "val"}: class "{unknown[0]}" is not in {root / "train"}')
    elif (root / "train").is_dir() and any(path.is_dir() for path in (root / "train").iterdir()):
        raise XViTError(f"{root / 'train'}: contains class folders, but there is no folder {root / 'val'}")
    else:
        train, val = {}, {}
        for name, videos in _list_classes(root).items():
            num_val = round(val_fraction * len(videos))
            if val_fraction > 0:
                num_val = min(max(num_val, 1), len(videos) - 1)
            shuffled = sorted(videos, key=lambda video: _hash(seed, f"{name}/{video.name}"))
            train[name], val[name] = shuffled[num_val:], shuffled[:num_val]
    class_names = sorted(train)
    if len(class_names) == 1:
        raise XViTError(f'{root}: only one class, "{class_names[0]}": expected at least two class folders')
    train_samples, val_samples = (_make_samples(root, videos, class_names) for videos in (train, val))
    return DatasetSplits(train=train_samples, val=val_samples, class_names=class_names)


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """The sorted videos of each class folder in `folder`."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = {
        name: sorted(path for path in (folder / name).iterdir() if is_video_file(path) or _is_frame_folder(path))
        for name in names
    }
    if not any(classes.values()):
        extensions = ", ".join(sorted(VIDEO_EXTENSIONS - {".mp4"}))
        raise XViTError(f"{folder}: no videos: expected {folder.name}/<class>/*.mp4 (or {extensions})")
    for name, videos in classes.items():
        if not videos:
            raise XViTError(f"{folder / name}: a class without videos: add videos or remove the folder")
    return classes


def _make_samples(root: Path, videos: dict[str, list[Path]], class_names: list[str]) -> list[Sample]:
    indices = {name: index for index, name in enumerate(class_names)}
    samples = [
        Sample(path=str(path), label=indices[name], id=path.relative_to(root).as_posix())
        for name, paths in videos.items()
        for path in paths
    ]
    return sorted(samples, key=lambda sample: sample.id)


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).hexdigest()


def _is_frame_folder(folder: Path) -> bool:
    if folder.name.startswith(".") or not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(is_image_file(entry.name) for entry in entries)
