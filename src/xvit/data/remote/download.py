"""Download a video for the decoder: limited in size and time, and tried again after errors that may pass.

address ──▶ blocks or a stream ──▶ TemporaryVideo ──▶ path for the decoder
             └─ 5xx, reset, timeout: wait, try again, count
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from xvit.data.decode import Clip, VideoInfo
from xvit.data.remote import stores
from xvit.data.remote.errors import CredentialsError, MissingVideoError, describe, explain, needs_request
from xvit.data.temporary import TemporaryVideo
from xvit.data.timeout import call_with_timeout, check_deadline
from xvit.utils.addresses import check_address, is_address, is_web_address, name_place
from xvit.utils.errors import VideoError, XViTError, check_range
from xvit.utils.parallel import check_stop

Result = TypeVar("Result")

TIMEOUT_VARIABLE, SIZE_VARIABLE = "XVIT_REMOTE_TIMEOUT", "XVIT_REMOTE_MAX_GB"
_DEFAULT_TIMEOUT, _DEFAULT_MAX_GB = 600.0, 4.0  # seconds and 10^9 bytes of one video
_ATTEMPTS = 6
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0  # seconds between attempts
_STREAM_BYTES = 2**20  # to read at a time
_MAX_DENIED = 50  # videos of a place of which none could be read, until the command ends

_random = random.Random()  # not the global one, whose state a program may rely on
_denied: Counter[str] = Counter()  # by place, in this process
_readable: set[str] = set()  # places


@dataclass(frozen=True, kw_only=True)
class LocalVideo:
    """A video where the decoder can open it.

    Args:
        name: its path, or its address.
        path: where it can be opened.
        warnings: what to tell whoever uses it, in words.
    """

    name: str
    path: str
    warnings: tuple[str, ...] = ()

    def name_info(self, info: VideoInfo) -> VideoInfo:
        """The description of the video, with its own name and warnings."""
        return replace(info, path=self.name, warnings=(*self.warnings, *info.warnings))

    def name_clip(self, clip: Clip) -> Clip:
        """A clip of the video, with its own name and warnings."""
        if self.path == self.name:
            return clip
        warnings = (*self.warnings, *clip.warnings)
        return replace(clip, path=self.name, info=self.name_info(clip.info), warnings=warnings)


@contextmanager
def local_video(path: str) -> Iterator[LocalVideo]:
    """A video on a disk as it is; one at an address is downloaded, and its copy removed at the end.

    Errors of the video name the address, never the copy.

    Raises:
        VideoError: there is no such file, access is denied, it is too large, takes too long, or fails again and again.
        CredentialsError: credentials are missing or not accepted.
        XViTError: the address is not allowed; a library is not installed.
    """
    if not is_address(path):
        yield LocalVideo(name=path, path=path)
        return
    check_address(path)
    timeout = _read_limit(TIMEOUT_VARIABLE, _DEFAULT_TIMEOUT)
    reason = f"not downloaded within {timeout:g} s ({TIMEOUT_VARIABLE})"
    copy, retries = call_with_timeout(partial(_download, path), path, timeout, reason=reason)
    warnings = (f"downloaded with {retries} {'retry' if retries == 1 else 'retries'}",) if retries else ()
    with copy:
        try:
            yield LocalVideo(name=path, path=copy.path, warnings=warnings)
        except VideoError as error:
            raise VideoError(path, copy.hide_path(error.reason)) from None


def remote_size(address: str) -> int | None:
    """Bytes of the file at an address; None if the server does not say. Raises as `local_video` does."""
    check_address(address)
    return _Attempts(address).call(partial(stores.fetch_size, address))


def read_beginning(address: str, length: int) -> tuple[int | None, bytes]:
    """The size of the file at an address and its first bytes. Raises as `local_video` does."""
    check_address(address)

    def read() -> tuple[int | None, bytes]:
        with stores.open_file(address) as file:
            data = b""
            while len(data) < length and (chunk := file.read(length - len(data))):
                data += chunk
            return stores.size_of(file), data

    return _Attempts(address).call(read)


class _Attempts:
    """Calls that are repeated after errors that may pass.

    Attributes:
        retries: the number of repetitions so far.
    """

    def __init__(self, address: str) -> None:
        self.address, self.retries = address, 0

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function, again if need be, each time after a longer wait."""
        for attempt in range(_ATTEMPTS):
            check_deadline()
            check_stop()
            try:
                return function()
            except (XViTError, MemoryError):
                raise
            except Exception as error:
                if final := self._explain(error):
                    raise final from None
                latest = describe(error)
            if attempt < _ATTEMPTS - 1:
                self.retries += 1
                time.sleep(min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * _random.uniform(0.5, 1))
        raise VideoError(self.address, f"not downloaded in {_ATTEMPTS} attempts ({latest})")

    def _explain(self, error: Exception) -> XViTError | None:
        final = explain(self.address, error)
        if final is None or isinstance(final, CredentialsError | MissingVideoError) or not needs_request(error):
            return final
        if not is_web_address(self.address):
            try:
                stores.ask_again(self.address)
            except Exception as again:
                final = explain(self.address, again) or final
        place = name_place(self.address)
        _denied[place] += 1
        if _denied[place] >= _MAX_DENIED and place not in _readable:
            reason = f"access was denied to each of the first {_MAX_DENIED} videos, and none could be read"
            return CredentialsError(f"{place}: {reason}: check the credentials and their permissions")
        return final


def _download(address: str) -> tuple[TemporaryVideo, int]:
    """A copy of the file at an address, and the number of retries."""
    attempts, copy = _Attempts(address), TemporaryVideo()
    try:
        if is_web_address(address):
            attempts.call(partial(_read_stream, address, copy))
        else:
            _read_blocks(address, copy, attempts)
    except BaseException:
        copy.close()
        raise
    _readable.add(name_place(address))
    return copy, attempts.retries


def _read_stream(address: str, copy: TemporaryVideo) -> None:
    copy.clear()  # of an attempt before
    with stores.open_file(address) as file:
        _check_size(address, stores.size_of(file) or 0)
        while data := file.read(_STREAM_BYTES):
            _append(address, copy, data)


def _read_blocks(address: str, copy: TemporaryVideo, attempts: _Attempts) -> None:
    with attempts.call(partial(stores.open_file, address)) as file:
        size = stores.size_of(file) or 0
        _check_size(address, size)
        while data := attempts.call(partial(file.read, stores.BLOCK_BYTES)):
            _append(address, copy, data)
    if copy.size != size:
        raise VideoError(address, f"only {copy.size:,} of its {size:,} bytes could be downloaded")


def _append(address: str, copy: TemporaryVideo, data: bytes) -> None:
    check_deadline()
    check_stop()
    _check_size(address, copy.size + len(data))
    copy.write(data)


def _check_size(address: str, size: int) -> None:
    gigabytes = _read_limit(SIZE_VARIABLE, _DEFAULT_MAX_GB)
    if size > gigabytes * 1e9:
        raise VideoError(address, f"larger than {gigabytes:g} GB ({SIZE_VARIABLE})")


def _read_limit(variable: str, default: float) -> float:
    """A number from the environment, above 0."""
    text: Any = os.environ.get(variable, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = text
    check_range(variable, value, 1e-6)
    return value
