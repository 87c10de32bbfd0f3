"""A training that is stopped and resumed ends with bit-identical weights to an uninterrupted one."""

import os
import random
import shutil
import signal
import sys
from itertools import product
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.color_videos import make_config, write_videos
from helpers.training_runs import rows, same, stop_at, weights
from xvit.data.dataset import VideoDataset
from xvit.training import fit
from xvit.utils.errors import Interrupted

# everything that draws random numbers or has a state; Muon includes AdamW
UNSTOPPED = {"model": {"dropout": 0.3}, "mixup": 0.4, "cutmix": 1.0, "ema_decay": 0.9, "optimizer": "muon"}
UNSTOPPED |= {"epochs": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Two steps per epoch, of 4 and of 2 videos. Read-only."""
    return write_videos(tmp_path_factory.mktemp("colors"), train=2, val=1)


@pytest.fixture(scope="module")
def unstopped(videos, tmp_path_factory):
    return fit(make_config(videos, **UNSTOPPED), tmp_path_factory.mktemp("unstopped"))


def assert_equal_runs(resumed, unstopped):
    """Weights, metrics, and the last state."""
    assert same(weights(resumed.last), weights(unstopped.last))
    assert same(weights(resumed.best), weights(unstopped.best))
    assert (resumed.metrics, resumed.epoch) == (unstopped.metrics, unstopped.epoch)
    for name in ("model.safetensors", "ema_model.safetensors"):
        states = [load_file(run.last.parent / "state" / "step_0000006" / name) for run in (unstopped, resumed)]
        assert same(*states)


def test_a_resumed_run_ends_bit_identical(videos, unstopped, tmp_path):
    """Stopped at once, without saving, in each of its epochs."""
    for epoch, step in ((1, 2), (2, 2), (3, 1)):
        with pytest.raises(KeyboardInterrupt, match="continue with --resume"):
            fit(make_config(videos, **UNSTOPPED), tmp_path, resume=True, on_progress=stop_at(epoch, step))
    resumed = fit(make_config(videos, num_workers=1, **UNSTOPPED), tmp_path, resume=True)
    assert_equal_runs(resumed, unstopped)
    compared = ("loss", "lr", "grad_norm", "step", "epoch", "top1", "val_loss")
    for stage in ("train", "eval"):
        runs = [
            [{key: row.get(key) for key in compared} for row in rows(run.last.parent, stage)]
            for run in (unstopped, resumed)
        ]
        assert runs[0] == runs[1]


def test_the_state_before_a_corrupt_one_is_used(videos, unstopped, tmp_path, caplog):
    shutil.copytree(unstopped.last.parent, tmp_path / "run")
    states = sorted((tmp_path / "run" / "state").iterdir())
    assert [state.name for state in states] == ["step_0000004", "step_0000006"]
    (states[1] / "model.safetensors").write_bytes(b"cut off")
    shutil.rmtree(tmp_path / "run" / "last")
    resumed = fit(make_config(videos, **UNSTOPPED), tmp_path / "run", resume=True)
    assert "step_0000006: corrupt" in caplog.text
    assert same(weights(resumed.last), weights(unstopped.last))


def test_a_signal_stops_after_the_step_and_saves(videos, unstopped, tmp_path, monkeypatch):
    """In the middle of an epoch and at its end. After resuming, the clips trained on before are not read again."""
    reads, item = [], VideoDataset.__getitem__
    monkeypatch.setattr(
        VideoDataset, "__getitem__", lambda self, i: reads.append(self.augment is not None) or item(self, i)
    )
    stops = product((0, 2), (signal.SIGINT, signal.SIGTERM))
    for step, (num_workers, number) in enumerate(stops, start=1):

        def send(event, step=step, number=number):
            if (event.stage, 2 * (event.epoch - 1) + event.step) == ("train", step):
                os.kill(os.getpid(), number)

        config = make_config(videos, num_workers=num_workers, **UNSTOPPED)
        message = rf"epoch \d of 3, after step {step}; state saved in .*; continue with --resume"
        with pytest.raises(Interrupted, match=message) as stopped:
            fit(config, tmp_path, resume=True, on_progress=send)
        assert stopped.value.exit_code == 128 + number
        assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    assert sum(reads) == 6 + 2  # without workers: an epoch of 6 videos, and its second batch again
    reads.clear()
    assert_equal_runs(fit(make_config(videos, **UNSTOPPED), tmp_path, resume=True), unstopped)
    assert sum(reads) == 6  # the third epoch


def test_a_signal_during_a_validation(videos, unstopped, tmp_path):
    def send(event):
        if (event.stage, event.epoch) == ("eval", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 4"):
        fit(make_config(videos, **UNSTOPPED), tmp_path, on_progress=send)
    resumed = fit(make_config(videos, **UNSTOPPED), tmp_path, resume=True)
    assert_equal_runs(resumed, unstopped)
    assert [row["epoch"] for row in rows(tmp_path, "eval")] == [1, 2, 3]


def test_kills_at_random_moments(videos, unstopped, tmp_path):
    """SIGKILLs until the run ends. `load_state` would report a corrupt state."""
    moments, kills = random.Random(0), 0
    config = make_config(videos, **UNSTOPPED, save_minutes=0.0)
    while True:
        number = moments.randrange(1, 70)
        child = os.fork()
        if child == 0:
            try:
                kill_before_change(number)
                fit(config, tmp_path / "run", resume=True)
                os._exit(0)
            except BaseException:
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills += 1
    assert kills >= 3
    assert_equal_runs(fit(config, tmp_path / "run", resume=True), unstopped)


def kill_before_change(number: int) -> None:
    """Kill this process before its change of this number to the file system: to a file or a name."""
    count = 0

    def count_changes(event, args):
        nonlocal count
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count_changes)
