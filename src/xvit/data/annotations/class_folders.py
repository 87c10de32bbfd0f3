"""Data sets that are stored as one folder per class."""

import hashlib
from pathlib import Path

from xvit.data.annotations.finder import check_folder, has_video_extension, is_video_file
from xvit.data.annotations.samples import DatasetSplits, Sample
from xvit.data.decode import VIDEO_EXTENSIONS
from xvit.data.decode.frame_folder import is_image_file
from xvit.utils.errors import XViTError, check_range


def read_class_folders(
    root: str | Path, *, val_fraction: float = 0.2, seed: int = 0, fps: float | None = None
) -> DatasetSplits:
    """Read root/train/<class>/* and root/val/<class>/*, or read root/<class>/* and split it.

    The split sorts the videos of each class by a hash of their names and `seed`, so it does not depend on the other
    classes. A class with at least two videos has at least one in each split, unless `val_fraction` is 0. A single video
    goes to the training split.

    Args:
        root: the folder.
        val_fraction: fraction of each class for validation, if root has no train and val folders.
        seed: seed of the split.
        fps: frames per second of folders of frames.

    Returns:
        The splits, with samples sorted by id and class names sorted.

    Raises:
        XViTError: no such folder, no videos, a class without videos, only one class, a validation class without
            training videos.
    """
    check_range("val_fraction", val_fraction, 0, 1)
    check_folder(root)
    root = Path(root)
    train_folder, val_folder = root / "train", root / "val"
    if train_folder.is_dir() and val_folder.is_dir():
        train, val = _list_classes(train_folder), _list_classes(val_folder)
        if unknown := sorted(set(val) - set(train)):
            raise XViTError(f'{val_folder}: class "{unknown[0]}" is not in {train_folder}')
    elif train_folder.is_dir() and any(path.is_dir() for path in train_folder.iterdir()):
        raise XViTError(f"{train_folder}: contains class folders, but there is no folder {val_folder}")
    else:
        train, val = {}, {}
        for name, videos in _list_classes(root).items():
            num_val = round(val_fraction * len(videos))
            if val_fraction > 0:
                num_val = min(max(num_val, 1), len(videos) - 1)
            shuffled = sorted(videos, key=lambda video: _hash(f"{seed}/{name}/{video.name}"))
            train[name], val[name] = shuffled[num_val:], shuffled[:num_val]
    class_names = sorted(train)
    if len(class_names) == 1:
        raise XViTError(f'{root}: only one class, "{class_names[0]}": expected at least two class folders')
    splits = DatasetSplits(train=[], val=[], class_names=class_names)
    for samples, classes in ((splits.train, train), (splits.val, val)):
        for name, videos in classes.items():
            for path in videos:
                id, sample_fps = path.relative_to(root).as_posix(), None if has_video_extension(path.name) else fps
                samples.append(Sample(path=str(path), label=class_names.index(name), id=id, fps=sample_fps))
        samples.sort(key=lambda sample: sample.id)
    return splits


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """The sorted videos of each class folder in `folder`."""
    classes = {
        path.name: sorted(video for video in path.iterdir() if is_video_file(video) or _is_frame_folder(video))
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    if not any(classes.values()):
        extensions = ", ".join(sorted(VIDEO_EXTENSIONS - {".mp4"}))
        raise XViTError(f"{folder}: no videos: expected {folder.name}/<class>/*.mp4 (or {extensions})")
    for name, videos in classes.items():
        if not videos:
            raise XViTError(f"{folder / name}: a class without videos: add videos or remove the folder")
    return classes


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def _is_frame_folder(folder: Path) -> bool:
    if folder.name.startswith(".") or not folder.is_dir():
        return False
    return any(is_image_file(path.name) for path in folder.iterdir())
