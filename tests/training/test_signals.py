"""Signals that stop a training, and those that do not."""

import os
import signal
import subprocess
import sys

import pytest

from xvit.cli.stream import _stop_on_ctrl_c
from xvit.training.signals import StopSignals
from xvit.utils.errors import Interrupted


@pytest.fixture
def ignored_interrupts():
    """As in a process that was started by nohup, or in the background of a script."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_recorded_and_acknowledged(number, caplog):
    """At the level of a warning: finetune shows nothing else of its trainings."""
    before = signal.getsignal(number)
    with StopSignals() as signals:
        signals.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as stopped:
            signals.check()
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    [record] = caplog.records
    assert (record.levelname, record.message[:24]) == ("WARNING", "stopping after this step")


@pytest.mark.usefixtures("ignored_interrupts")
def test_an_ignored_interrupt_stays_ignored():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        signals.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as stopped:
            signals.check()
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.usefixtures("ignored_interrupts")
def test_a_stream_in_the_background_goes_on():
    class Source:
        def stop(self):
            pytest.fail("stopped")

    with _stop_on_ctrl_c(Source()):
        os.kill(os.getpid(), signal.SIGINT)


def test_these_tests_do_not_inherit_an_ignored_interrupt():
    """They may be started in the background, too: conftest.py has restored the handler."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
