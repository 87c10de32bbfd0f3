"""One process at a time for a folder or file that a command writes."""

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from xvit.utils.errors import XViTError
from xvit.utils.files import LOCK, write_errors

_logger = logging.getLogger("xvit")
_held: set[Path] = set()  # by this process, which the operating system would not exclude from its own lock
_guard = threading.Lock()  # of `_held`


@contextmanager
def lock_directory(directory: str | Path, command: str) -> Iterator[None]:
    """Keep other processes out of a folder or file that a command writes, until the block or the process ends.

    The lock is a hidden file with the owner's process, host and command. It is beside the folder, because some commands
    replace the whole folder; in a folder that is a mount point, or beside which nothing can be created, it is inside.
    The operating system drops the lock of a process that dies, so the file of a dead process is no obstacle.

    Args:
        directory: the folder or file, which may not exist yet.
        command: the owner, such as "xvit train".

    Raises:
        XViTError: another process holds the lock; the message names it. The lock file cannot be written.
    """
    if sys.platform == "win32":
        yield
        return
    path = _lock_path(Path(directory).resolve())
    with _guard:
        if path in _held:
            raise XViTError(f"{directory}: in use by this process already; choose another folder")
        _held.add(path)
    missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        with write_errors(directory):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _acquire(path, directory, command)
        try:
            yield
        finally:
            with file, suppress(OSError):
                path.unlink(missing_ok=True)  # while it is locked: see `_acquire`
    finally:
        _held.discard(path)
        with suppress(OSError):  # those that are not empty stay
            for folder in missing:
                folder.rmdir()


def _lock_path(directory: Path) -> Path:
    inside = directory.is_dir() and (directory.is_mount() or not os.access(directory.parent, os.W_OK | os.X_OK))
    return directory / LOCK if inside else directory.with_name(f".{directory.name}{LOCK}")


def _acquire(path: Path, directory: str | Path, command: str) -> FileIO:
    """The locked file, with this process as its owner."""
    import fcntl

    while True:
        file = path.open("a+b", buffering=0)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which workers that outlive us would keep
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, by operating system
            with file:
                owner = _describe_owner(file)
            raise XViTError(f"{directory}: in use by {owner}; wait until it ends, or choose another --output") from None
        except OSError as error:
            reason = error.strerror
            _logger.warning("%s: cannot be locked on this file system (%s): run one command at a time", path, reason)
            return file
        if _is_same_file(file, path):
            break
        file.close()  # its owner deleted it between our opening and locking it
    try:
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": command}).encode())
    except OSError:  # a full disk
        with file:
            path.unlink(missing_ok=True)
        raise
    return file


def _is_same_file(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _describe_owner(file: FileIO) -> str:
    try:
        file.seek(0)
        owner = json.loads(file.read())
        return f"{owner['command']} (process {owner['pid']} on host {owner['host']})"
    except (ValueError, KeyError, TypeError, OSError):  # it has locked the file, but not written it yet
        return "another process"
