"""What the copies of `resize_videos` were made of, in the file .resize.json of their folder.

A source is recorded before its copy is made, and a copy whose source changed is deleted before that is recorded: after
a stop at any moment, a copy that exists was made of the source in the record.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xvit.utils.errors import XViTError
from xvit.utils.files import atomic_write_text, check_new_directory, parse_json
from xvit.utils.text import MAX_RECORD_BYTES, name_some, read_text

_RECORD = ".resize.json"

Source = list[str | int]  # path relative to the root, size in bytes, time of modification in ns

_logger = logging.getLogger("xvit")


def open_output(
    root: Path, output: Path, targets: Mapping[Path, Path], settings: Mapping[str, float | None]
) -> tuple[int, list[str]]:
    """Create the output, or delete the copies in it whose sources changed.

    Args:
        root: folder of the sources.
        output: folder of the copies.
        targets: the source of each copy.
        settings: of the copies.

    Returns:
        The number of copies that were deleted, and the copies whose source is gone.

    Raises:
        XViTError: another folder, or one that was written with other settings or from other videos of the same names.
    """
    path = output / _RECORD
    sources = {target.relative_to(output).as_posix(): _identify(source, root) for target, source in targets.items()}
    if not path.exists():
        check_new_directory(output).mkdir(parents=True, exist_ok=True)
        _write(path, root, settings, sources)
        return 0, []
    previous_root, previous = _read(path, settings)
    existing = [name for name in sources if (output / name).exists()]
    without_source = [name for name in previous if name not in sources and (output / name).exists()]
    if unknown := [name for name in existing if name not in previous]:
        _logger.warning("%s: it is not known of which file it was made: %s", output, name_some(unknown))
    changed = [name for name in existing if name in previous and previous[name] != sources[name]]
    if previous_root not in ("", str(root.resolve())):  # a copy of the folder has other times
        changed = [name for name in changed if previous[name][:2] != sources[name][:2]]
        if changed:
            raise XViTError(
                f"{output}: {len(changed)} of its videos were made of other files ({name_some(changed)}), in "
                f"{previous_root}: choose another --output"
            )
    for name in changed:
        (output / name).unlink()
    if changed:
        _logger.warning("%s: made again, because the source changed: %s", output, name_some(changed))
    if without_source:
        names = name_some(without_source)
        _logger.warning("%s: %d videos whose source is gone: %s; remove them", output, len(without_source), names)
    _write(path, root, settings, {name: previous[name] for name in without_source} | sources)
    return len(changed), without_source


def _identify(source: Path, root: Path) -> Source:
    stat = source.stat()
    return [source.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns]


def _read(path: Path, settings: Mapping[str, float | None]) -> tuple[str, dict[str, Source]]:
    """The folder and the sources of the copies, which have to have these settings; empty in earlier versions."""
    try:
        previous: dict[str, Any] = parse_json(read_text(path, max_bytes=MAX_RECORD_BYTES))
        root, sources = str(previous.pop("root", "")), dict(previous.pop("sources", {}))
        changed = [name for name in settings if previous[name] != settings[name]]
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise XViTError(f"{path}: damaged: choose another --output") from None
    if changed:
        before = ", ".join(f"{name}={json.dumps(previous[name])}" for name in changed)
        now = ", ".join(f"{name}={json.dumps(settings[name])}" for name in changed)
        raise XViTError(f"{path.parent}: was written with {before}, not {now}: choose another --output")
    return root, sources


def _write(path: Path, root: Path, settings: Mapping[str, float | None], sources: Mapping[str, Source]) -> None:
    atomic_write_text(path, json.dumps({**settings, "root": str(root.resolve()), "sources": sources}) + "\n")
