"""A training that is stopped and resumed ends with bit-identical weights to an uninterrupted one."""

import os
import random
import shutil
import signal
import time

import pytest
from safetensors.torch import load_file

from helpers.color_videos import make_config
from helpers.training_runs import rows, same, stop_at, weights
from xvit.data.dataset import VideoDataset
from xvit.training import fit
from xvit.utils.errors import Interrupted

# everything that draws random numbers or has a state; Muon includes AdamW
UNSTOPPED = {"model": {"dropout": 0.3}, "mixup": 0.4, "cutmix": 1.0, "epochs": 3, "ema_decay": 0.9, "optimizer": "muon"}


@pytest.fixture(scope="module")
def unstopped(videos, tmp_path_factory):
    return fit(make_config(videos, **UNSTOPPED), tmp_path_factory.mktemp("unstopped"))


@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (2, 3), (3, 1)])
def test_a_resumed_run_ends_bit_identical(videos, unstopped, tmp_path, epoch, step):
    with pytest.raises(KeyboardInterrupt, match="continue with --resume"):
        fit(make_config(videos, **UNSTOPPED), tmp_path, on_progress=stop_at(epoch, step))
    resumed = fit(make_config(videos, num_workers=1, **UNSTOPPED), tmp_path, resume=True)
    assert same(weights(resumed.last), weights(unstopped.last))
    assert same(weights(resumed.best), weights(unstopped.best))
    assert (resumed.metrics, resumed.epoch) == (unstopped.metrics, unstopped.epoch)
    for name in ("model.safetensors", "ema_model.safetensors"):
        states = [load_file(run.last.parent / "state" / "step_0000009" / name) for run in (unstopped, resumed)]
        assert same(*states)
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
    assert [state.name for state in states] == ["step_0000006", "step_0000009"]
    (states[1] / "model.safetensors").write_bytes(b"cut off")
    shutil.rmtree(tmp_path / "run" / "last")
    resumed = fit(make_config(videos, **UNSTOPPED), tmp_path / "run", resume=True)
    assert "step_0000009: corrupt" in caplog.text
    assert same(weights(resumed.last), weights(unstopped.last))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_saves(videos, unstopped, tmp_path, number, num_workers, monkeypatch):
    """In the middle of an epoch. After resuming, the clips trained on before are not read again."""

    def send(event):
        if (event.stage, event.epoch, event.step) == ("train", 2, 1):
            os.kill(os.getpid(), number)

    with pytest.raises(
        Interrupted, match=r"epoch 2 of 3, after step 4; state saved in .*; continue with --resume"
    ) as stopped:
        fit(make_config(videos, num_workers=num_workers, **UNSTOPPED), tmp_path, on_progress=send)
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
    reads = []
    item = VideoDataset.__getitem__
    monkeypatch.setattr(
        VideoDataset, "__getitem__", lambda self, i: reads.append(self.augment is not None) or item(self, i)
    )
    resumed = fit(make_config(videos, **UNSTOPPED), tmp_path, resume=True)
    assert sum(reads) == 12 * 2 - 5  # two epochs of 12 videos, without the first batch of 5
    assert same(weights(resumed.last), weights(unstopped.last))
    assert same(weights(resumed.best), weights(unstopped.best))


def test_a_signal_during_a_validation(videos, unstopped, tmp_path):
    def send(event):
        if (event.stage, event.epoch) == ("eval", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 6"):
        fit(make_config(videos, **UNSTOPPED), tmp_path, on_progress=send)
    resumed = fit(make_config(videos, **UNSTOPPED), tmp_path, resume=True)
    assert same(weights(resumed.last), weights(unstopped.last))
    assert (resumed.metrics, resumed.epoch) == (unstopped.metrics, unstopped.epoch)
    assert [row["epoch"] for row in rows(tmp_path, "eval")] == [1, 2, 3]


def test_kills_at_random_moments(videos, unstopped, tmp_path):
    """Repeated SIGKILLs, until the run ends. `load_state` would report a corrupt state."""
    moments = random.Random(0)
    config = make_config(videos, **UNSTOPPED, save_minutes=0.0)
    kills = 0
    for _ in range(40):
        child = os.fork()
        if child == 0:
            try:
                fit(config, tmp_path / "run", resume=True)
                os._exit(0)
            except BaseException:
                os._exit(1)
        time.sleep(moments.uniform(0.05, 0.3))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
    finished = fit(config, tmp_path / "run", resume=True)
    assert kills >= 2
    assert same(weights(finished.last), weights(unstopped.last))
    assert same(weights(finished.best), weights(unstopped.best))
