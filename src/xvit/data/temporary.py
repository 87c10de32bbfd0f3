"""A file for the bytes of a video that is not on a disk: the decoder opens it by a path, and nothing of it is left.

    up to 64 MiB ──▶ in memory          more ──▶ a file without a name in the folder for temporary files

Both vanish with the process, even if it is killed. Only Linux can open such files by a path; elsewhere the file is in a
private folder, which `close` removes.
"""

import os
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from xvit.utils.errors import WriteError

MEMORY_BYTES = 2**26
_DESCRIPTORS = Path("/proc/self/fd")  # Linux: paths of open files, with or without a name
_NAME = "video"


class TemporaryVideo:
    """A new, empty file, which only this process knows. A context manager: the file is gone at the end.

    Attributes:
        path: where it can be opened; `write` may change it.
        size: bytes in it.

    Raises:
        WriteError: there is no place for temporary files.
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._file: BinaryIO
        self._open(in_memory=True)

    def __enter__(self) -> "TemporaryVideo":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append to the file; returns the number of bytes.

        Raises:
            WriteError: the disk is full, and the like.
        """
        view = memoryview(data).cast("B")
        if self._in_memory and self.size + len(view) > MEMORY_BYTES:
            self._move_to_disk()
        self.size += len(view)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _write_error(error) from None
        return len(data)

    def clear(self) -> None:
        """Remove what was written."""
        self._file.seek(0)
        self._file.truncate()
        self.size = 0

    def close(self) -> None:
        """Remove the file."""
        if file := self.__dict__.pop("_file", None):
            file.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def hide_path(self, text: str) -> str:
        """A message without the path of the file."""
        return text.replace(self.path, _NAME)

    def _open(self, *, in_memory: bool) -> None:
        """Open a new file, without a buffer: the decoder opens it a second time."""
        file = _open_in_memory() if in_memory else None
        self.size, self._in_memory = 0, file is not None
        try:
            if file is None and _DESCRIPTORS.is_dir():
                file = cast(BinaryIO, tempfile.TemporaryFile(prefix="xvit-", buffering=0))  # noqa: SIM115
            elif file is None:
                self._folder = tempfile.TemporaryDirectory(prefix="xvit-")  # only its owner can enter it
                file = cast(BinaryIO, open(os.path.join(self._folder.name, _NAME), "w+b", buffering=0))  # noqa: SIM115
        except OSError as error:
            raise _write_error(error) from None
        self._file = file
        self.path = os.path.join(self._folder.name, _NAME) if self._folder else f"{_DESCRIPTORS}/{file.fileno()}"

    def _move_to_disk(self) -> None:
        in_memory, size = self._file, self.size
        with in_memory:
            self._open(in_memory=False)
            in_memory.seek(0)
            while self.size < size:
                self.write(in_memory.read(2**20))


def _open_in_memory() -> BinaryIO | None:
    """None where the system has no such files, or no paths of them."""
    if not hasattr(os, "memfd_create") or not _DESCRIPTORS.is_dir():
        return None
    try:
        return cast(BinaryIO, os.fdopen(os.memfd_create("xvit"), "w+b", buffering=0))
    except OSError:
        return None


def _write_error(error: OSError) -> WriteError:
    folder = tempfile.gettempdir()
    advice = "free some space, or set TMPDIR to another folder"
    return WriteError(f"{folder}: a temporary video cannot be written: {error.strerror}; {advice}")
