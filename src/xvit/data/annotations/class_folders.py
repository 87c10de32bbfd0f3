"""Data sets that are stored as one folder per class."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from xvit.data.annotations.finder import (
    LOOP,
    NOT_A_VIDEO,
    UNREADABLE,
    LeftOut,
    is_skipped_folder,
    merge_left_out,
    scan_folder,
)
from xvit.data.annotations.samples import DatasetSplits, Sample
from xvit.data.video_names import VIDEO_EXTENSIONS, has_video_extension
from xvit.utils.errors import XViTError, check_range, did_you_mean
from xvit.utils.files import check_folder

NO_CLASS = "in no class folder"
SPLITS = ("train", "val", "test")


@dataclass(kw_only=True)
class _ClassFolders:
    """The real path of each video below a folder, by class and path; and paths with what is wrong there."""

    classes: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=dict)


def read_class_folders(
    root: str | Path,
    *,
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    seed: int = 0,
    fps: float | None = None,
    strict: bool = True,
) -> DatasetSplits:
    """Read root/train/<class>/..., root/val/<class>/... and perhaps root/test/<class>/..., or split root/<class>/...

    What counts as a video is described in `finder`. The class of a video is the first folder below the root, or below
    the folder of the split, however deep the video is.

    The split sorts the videos of each class by a hash of their names and `seed`, so it does not depend on the other
    classes. The first ones are for validation, the next ones for the test: `test_fraction` does not change the
    validation videos. If a class has enough videos, it has at least one in each split whose fraction is not 0. A single
    video goes to the training split. Two names of one file go to the same split.

    Args:
        root: the folder.
        val_fraction: fraction of each class for validation, if root has no train and val folders.
        test_fraction: fraction of each class for the test, likewise.
        seed: seed of the split.
        fps: frames per second of folders of frames.
        strict: raise an error if a class or a split cannot be used; otherwise, describe it in `problems`.

    Returns:
        The splits, with samples sorted by id and class names sorted.

    Raises:
        XViTError: no such folder, no videos; if `strict`, also a class without videos, only one class, a validation or
            test class without training videos.
    """
    check_range("val_fraction", val_fraction, 0, 1)
    check_range("test_fraction", test_fraction, 0, 1 - val_fraction)
    check_folder(root)
    root = Path(root)
    if _has_split_folders(root):
        if test_fraction:
            advice = f"{root} has its own splits: move videos to {root / 'test'} instead"
            raise XViTError(f"test_fraction={test_fraction:g}: {advice}")
        folders = _read_split_folders(root, strict)
    else:
        folders = _split_classes(_read_classes(root), root, {"val": val_fraction, "test": test_fraction}, seed)
    problems = [problem for part in folders.values() for problem in part.problems]
    class_names = sorted(set().union(*(part.classes for part in folders.values())))
    if len(class_names) == 1:
        problems.append((str(root), f'only one class, "{class_names[0]}": expected at least two class folders'))
    splits = {split: _to_samples(part, root, class_names, fps) for split, part in folders.items()}
    if problems and (strict or not any(splits.values())):
        path, reason = problems[0]
        more = f" ({len(problems) - 1} more problems: `xvit data check` lists them)" if len(problems) > 1 else ""
        raise XViTError(f"{path}: {reason}{more}")
    left_out = merge_left_out(*(part.left_out for part in folders.values()))
    train, val, test = (splits.get(split, []) for split in SPLITS)
    return DatasetSplits(train=train, val=val, test=test, class_names=class_names, problems=problems, left_out=left_out)


def _to_samples(part: _ClassFolders, root: Path, class_names: list[str], fps: float | None) -> list[Sample]:
    samples = []
    for label, name in enumerate(class_names):
        for path in part.classes.get(name, ()):
            id, fps_of_path = Path(path).relative_to(root).as_posix(), None if has_video_extension(path) else fps
            samples.append(Sample(path=path, label=label, id=id, fps=fps_of_path))
    return sorted(samples, key=lambda sample: sample.id)


def _has_split_folders(root: Path) -> bool:
    """Whether root has train/<class>/... A folder train that holds videos itself may be a class."""
    train = root / "train"
    return train.is_dir() and ((root / "val").is_dir() or any(path.is_dir() for path in train.iterdir()))


def _read_split_folders(root: Path, strict: bool) -> dict[str, _ClassFolders]:
    folders = {split: _read_classes(root / split) for split in SPLITS if (root / split).is_dir()}
    train = folders["train"]
    for split, part in folders.items():
        for name in sorted(set(part.classes) - set(train.classes)) if strict else ():
            part.problems.append((str(root / split), f'class "{name}" is not in {root / "train"}'))
    if "val" not in folders:
        advice = did_you_mean("val", [path.name for path in root.iterdir()])
        reason = f"contains class folders, but there is no folder {root / 'val'}.{advice}"
        train.problems.append((str(root / "train"), reason))
    if "test" in folders and not any(folders["test"].classes.values()):
        folders["test"] = _ClassFolders(left_out={NO_CLASS: [str(root / "test")]})  # unlabelled, as in a challenge
    others = [path for path in sorted(root.iterdir()) if path.name not in folders and not is_skipped_folder(path.name)]
    for path in others:
        kind = NO_CLASS if path.is_dir() or has_video_extension(path.name) else NOT_A_VIDEO
        train.left_out.setdefault(kind, []).append(str(path))
    return folders


def _read_classes(folder: Path) -> _ClassFolders:
    """The videos of each class folder in `folder`."""
    contents = scan_folder(folder)
    found = _ClassFolders(left_out=merge_left_out(contents.left_out))
    ignored = {*found.left_out.get(LOOP, ()), *found.left_out.get(UNREADABLE, ())}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not is_skipped_folder(path.name) and str(path) not in ignored:
            found.classes[path.name] = {}
    for video, real_path in contents.videos.items():
        parts = Path(video).relative_to(folder).parts
        if len(parts) > 1:
            found.classes[parts[0]][video] = real_path
        elif has_video_extension(video):
            found.left_out.setdefault(NO_CLASS, []).append(video)
        else:
            reason = f"frames without a folder of their own: move those of each video to {video}/<video>"
            found.problems.append((video, reason))
    if not any(found.classes.values()) and not found.problems:
        extensions = ", ".join(sorted(VIDEO_EXTENSIONS - {".mp4"}))
        reason = f"no videos: expected {folder.name}/<class>/*.mp4 (or {extensions})"
        if NO_CLASS in found.left_out:
            reason += "; the videos in it have no class: --data.format reads classes from annotation files"
        found.problems.append((str(folder), reason))
        return found
    known = {path for path, _ in found.problems}
    for name, videos in found.classes.items():
        if not videos and str(folder / name) not in known:
            found.problems.append((str(folder / name), "a class without videos: add videos or remove the folder"))
    return found


def _split_classes(
    whole: _ClassFolders, root: Path, fractions: dict[str, float], seed: int
) -> dict[str, _ClassFolders]:
    """Split each class into training, validation and test videos."""
    parts = {split: _ClassFolders() for split in SPLITS}
    parts["train"].problems, parts["train"].left_out = whole.problems, whole.left_out
    for name, videos in whole.classes.items():
        names_of_file: dict[str, list[str]] = {}
        for path, real_path in videos.items():
            names_of_file.setdefault(real_path, []).append(path)
        files = sorted(names_of_file, key=lambda real_path: _hash(seed, root / name, names_of_file[real_path][0]))
        start = 0
        for split, fraction in fractions.items():
            size = max(1, round(fraction * len(files))) if fraction > 0 else 0
            stop = start + max(0, min(size, len(files) - start - 1))  # one remains for training
            parts[split].classes[name] = {path: file for file in files[start:stop] for path in names_of_file[file]}
            start = stop
        parts["train"].classes[name] = {path: file for file in files[start:] for path in names_of_file[file]}
    return parts


def _hash(seed: int, class_folder: Path, path: str) -> str:
    """A pseudo-random order of the videos of a class."""
    name = f"{seed}/{class_folder.name}/{Path(path).relative_to(class_folder).as_posix()}"
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
