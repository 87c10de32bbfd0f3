"""Files and directories that appear under their name only when they are complete, and checks of paths."""

import errno
import json
import math
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from xvit.utils.errors import WriteError, XViTError, one_line
from xvit.utils.text import MAX_BYTES, read_text

_MAX_NESTING = 100  # levels of plain values
LOCK = ".lock"  # the lock file in a folder; see `xvit.utils.locks`
_OTHER_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ECHILD}
_TORCH_WRITERS = ("inline_container", "PytorchStreamWriter", "iostream")  # in the messages of its errors


@contextmanager
def write_errors(path: str | Path) -> Iterator[None]:
    """Report an error of the file system while `path` is written as a `WriteError`, in one line that names it.

    safetensors and torch have errors of their own; torch's do not say what the system's error was. An error at a file
    of another folder, or for lack of processes or memory, is none of writing.
    """
    try:
        yield
    except BrokenPipeError:  # of standard output
        raise
    except OSError as error:
        if not _is_of_writing(error, Path(path).absolute().parent):
            raise
        raise WriteError(f"{path}: cannot be written: {error.strerror or one_line(error)}") from None
    except RuntimeError as error:
        if not any(name in str(error) for name in _TORCH_WRITERS):
            raise
        raise WriteError(f"{path}: cannot be written (is the disk full, or a quota reached?)") from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # its library is not imported for this
            raise
        raise WriteError(f"{path}: cannot be written: {one_line(error)}") from None


def _is_of_writing(error: OSError, folder: Path) -> bool:
    name = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else folder
    is_inside = Path(os.fsdecode(name).removeprefix("file:")).absolute().is_relative_to(folder)  # FFmpeg's file:PATH
    return is_inside and error.errno not in _OTHER_ERRORS


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file under a temporary name, then rename it: readers see the old file or the new one.

    Raises:
        WriteError: the disk is full, the folder is read-only or gone, and the like. The old file is as it was.
    """
    path = Path(path)
    tmp_path = path.with_name(f".{path.name}")
    with write_errors(path):
        try:
            tmp_path.write_text(text, encoding="utf-8", newline="")
            publish(tmp_path, path)
        finally:
            tmp_path.unlink(missing_ok=True)


def publish(tmp_path: Path, path: Path) -> None:
    """Rename a complete file or folder to its final name, on the disk too: a power failure leaves no part of it."""
    if tmp_path.is_dir():
        for child in tmp_path.rglob("*"):
            sync(child)
    sync(tmp_path)
    tmp_path.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, from the system's memory to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # which cannot open folders
    file = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush a folder
            raise
    finally:
        os.close(file)


def write_json(path: str | Path, value: Any) -> None:
    """Write plain values to a JSON file, as `atomic_write_text` does."""
    atomic_write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The plain values in a JSON file.

    Raises:
        XViTError: no such file, not a regular file, too large, not JSON.
    """
    text = read_text(path, max_bytes=max_bytes)
    try:
        return parse_json(text)
    except ValueError as error:
        raise XViTError(f"{path}: not readable as JSON: {error}") from None


def parse_json(text: str | bytes) -> Any:
    """The plain values in a JSON text.

    Raises:
        ValueError: not JSON; NaN or Infinity, which JSON does not have; nested too deeply.
    """
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    check_nesting(values)
    return values


def check_nesting(values: Any, max_values: float = math.inf) -> None:
    """Raise `ValueError` if plain values are nested so deeply that functions on them fail, or are too many."""
    level, count = [values], 0
    for _ in range(_MAX_NESTING):
        count += len(level)
        if count > max_values:
            raise ValueError(f"more than {max_values:,} values")
        inner = (
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)
        )
        level = list(chain.from_iterable(inner))
        if not level:
            return
    raise ValueError("nested too deeply")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


@contextmanager
def atomic_directory(directory: str | Path) -> Iterator[Path]:
    """Yield an empty temporary directory that is renamed to `directory` when the block ends without an error.

    An existing `directory` is first renamed to `previous_version(directory)`, and deleted once the new one is in place.
    A process that is killed between the two renames leaves the old contents there. The umask decides the modes of the
    files, whatever library wrote them.

    Raises:
        WriteError: the disk is full, the folder is read-only or gone, and the like. `directory` is as it was.
    """
    directory = Path(directory)
    tmp_path, previous = directory.with_name(f".{directory.name}.writing"), previous_version(directory)
    with write_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        if tmp_path.exists():
            shutil.rmtree(tmp_path)  # left by a process that was killed
        tmp_path.mkdir()
        try:
            yield tmp_path
            _apply_umask(tmp_path)
            if directory.exists():
                if previous.exists():
                    shutil.rmtree(previous)
                directory.rename(previous)
            try:
                publish(tmp_path, directory)
            except OSError:
                if previous.exists() and not directory.exists():
                    previous.rename(directory)
                raise
        except BaseException:
            shutil.rmtree(tmp_path, ignore_errors=True)
            raise
        if previous.exists():
            shutil.rmtree(previous)


def _apply_umask(directory: Path) -> None:
    """Give the files in a new directory the modes that the umask gives to new files: some libraries write 0600."""
    mode = stat.S_IMODE(directory.stat().st_mode) & 0o666
    for path in directory.rglob("*"):
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) != mode:
            with suppress(OSError):  # of a file system that has no modes
                path.chmod(mode)


def previous_version(directory: Path) -> Path:
    """Where `atomic_directory` keeps the old contents of `directory` while it replaces them."""
    return directory.with_name(f".{directory.name}.older")


def holds_something(path: str | Path) -> bool:
    """Whether `path` is a file, or a directory with anything but a lock in it."""
    path = Path(path)
    return path.exists() and (not path.is_dir() or any(child.name != LOCK for child in path.iterdir()))


def check_new_directory(path: str | Path, advice: str = "choose another --output") -> Path:
    """The path of a directory that is to be created, as a `Path`.

    Raises:
        XViTError: something is there already; the message ends with the advice.
    """
    path = Path(path)
    if holds_something(path):
        state = "exists and is not an empty directory" if path.is_dir() else "exists"
        raise XViTError(f"{path}: {state}; {advice}")
    check_writable_directory(path)
    return path


def check_writable_directory(path: str | Path) -> None:
    """Raise `XViTError` if `path` cannot be a directory to write into, whether it exists or is to be created."""
    path = Path(path).absolute()
    existing = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise XViTError(f"{path}: {'is' if existing == path else f'{existing} is'} a file; expected a directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise XViTError(f"{path}: no permission to write into {existing}")


def check_writable_file(path: str | Path) -> None:
    """Raise `XViTError` if `path` cannot be a file to write, whether it exists or is to be created."""
    if Path(path).is_dir():
        raise XViTError(f"{path}: is a directory; expected the name of a file")
    check_writable_directory(Path(path).absolute().parent)


def check_exists(*paths: str | Path) -> None:
    """Raise `XViTError` unless there is a file or directory at each path."""
    for path in paths:
        if not Path(path).exists():
            raise XViTError(f"{path}: no such file or folder")


def check_files(*paths: str | Path) -> None:
    """Raise `XViTError` unless there is a file at each path."""
    for path in paths:
        if not Path(path).is_file():
            raise XViTError(f"{path}: {'a folder, not a file' if Path(path).is_dir() else 'no such file'}")


def check_folder(path: str | Path) -> None:
    """Raise `XViTError` unless there is a folder at `path`."""
    if not Path(path).is_dir():
        raise XViTError(f"{path}: {'a file, not a folder' if Path(path).exists() else 'no such folder'}")
