"""`keep_signal_stack`: the stack that a library installs does not stay."""

import ctypes
import sys

import pytest

from helpers.signal_stack import Stack, signal_stack
from xvit.utils.signal_stack import keep_signal_stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is changed")


def test_the_stack_of_a_library_does_not_stay():
    before = signal_stack()
    memory = ctypes.create_string_buffer(1 << 16)
    stack = Stack(ctypes.addressof(memory), 0, len(memory))
    with keep_signal_stack():
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0
        assert signal_stack() == (ctypes.addressof(memory), 0, len(memory))
    assert signal_stack() == before
