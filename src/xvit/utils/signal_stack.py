"""The alternate stack on which Python handles signals: a library must not leave one that it has freed."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Restore the signal stack of this thread at the end.

    Each CPU plugin of OpenVINO (one per `Core`) installs a signal stack of its own and frees it when it is destroyed.
    Where their lives overlap, the last one restores a stack that is freed already, and the next signal, such as that of
    a loader process that ends or Ctrl-C, kills the process (seen with OpenVINO 2026.4).
    """
    if sys.platform != "linux":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)
