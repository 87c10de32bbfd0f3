"""Private folders for temporary files, of which none outlives its server for long.

A server holds a lock on its folder, which the operating system drops with the process. The next server that starts
removes the folders of servers that were killed.
"""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "xvit-serve-"


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that only this user can enter; it is removed at the end of the block."""
    root = Path(tempfile.gettempdir())
    remove_abandoned(root)
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        lock = _lock(path)
        if lock is None or path.exists():  # another server may have removed it before it was locked
            break
        os.close(lock)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_abandoned(root: Path) -> None:
    """Remove the folders of this user's servers that do not run any more."""
    if sys.platform == "win32":
        return
    for path in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and (lock := _lock(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a folder; None if another process holds it, or there are no such locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
