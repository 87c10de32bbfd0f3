"""Parameters divided among two processes (gloo, CPU)."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.color_videos import make_config
from helpers.training_runs import rows, same, weights
from helpers.warm_processes import run_two
from xvit.config import TrainConfig, to_dict
from xvit.training.sharding import check_sharding
from xvit.utils.errors import XViTError

# Killed in the middle of the second epoch, with gradients that are not applied yet.
KILLED = """
import os, signal, sys
from xvit.cli import main
from xvit.training import engine

def compute_and_kill(run, *args):
    if run.state.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute_loss(run, *args)

compute_loss, engine.compute_loss = engine.compute_loss, compute_and_kill
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def train(videos, tmp_path_factory):
    """A function that trains in two processes, perhaps started in another way; returns exit codes and run folder."""
    folder = tmp_path_factory.mktemp("sharding")

    def train(name, *start, resume=False, **settings):
        common = {"batch_size": 3, "epochs": 3, "ema_decay": 0.9, "grad_accum_steps": 2, "clip_grad": 0.5}
        path, output = folder / f"{name}.yaml", folder / name
        path.write_text(yaml.safe_dump(to_dict(make_config(videos, **common, **settings))))
        words = ["train", "--config", path, "--output", output, *["--resume"] * resume]
        codes, _, err = run_two(*start, *words)
        assert start or codes == [0, 0], err
        return codes, output

    return train


def test_sharded_training_equals_unsharded(train):
    """Up to the order in which gradients are summed."""
    [plain, sharded] = [train(name, sharding=name, optimizer="sgd", lr=0.1)[1] for name in ("none", "fsdp")]
    for name in ("best", "last"):
        expected, found = weights(plain / name), weights(sharded / name)
        assert expected.keys() == found.keys()
        for key, weight in expected.items():
            torch.testing.assert_close(found[key], weight, atol=2e-5, rtol=1e-4)
    for stage, keys in (("train", ("loss", "grad_norm", "lr")), ("eval", ("val_loss", "top1", "videos"))):
        for row, other in zip(rows(plain, stage), rows(sharded, stage), strict=True):
            assert {key: row[key] for key in keys} == pytest.approx({key: other[key] for key in keys}, rel=1e-4)
    states = [output / "state" / "step_0000006" for output in (plain, sharded)]
    names = [sorted(path.name for path in state.iterdir()) for state in states]
    assert names[0] == names[1]
    shapes = [{name: t.shape for name, t in load_file(state / "model.safetensors").items()} for state in states]
    assert {name.removeprefix("module."): shape for name, shape in shapes[0].items()} == shapes[1]


def test_a_killed_sharded_run_resumes_bit_for_bit(train):
    """With dropout, AdamW and bfloat16."""
    settings = {"sharding": "fsdp", "model": {"dropout": 0.3}, "mixup": 0.4, "precision": "bf16"}
    unstopped = train("unstopped", **settings)[1]
    codes, output = train("killed", "-c", KILLED, **settings)
    assert codes == [-9, -9]
    assert [path.name for path in (output / "state").glob("step_*")] == ["step_0000002"]
    train("killed", resume=True, **settings)
    for name in ("best", "last"):
        assert same(weights(output / name), weights(unstopped / name))
    for name in ("model.safetensors", "ema_model.safetensors"):
        states = [load_file(path / "state" / "step_0000006" / name) for path in (output, unstopped)]
        assert same(*states)


@pytest.mark.parametrize(("settings", "message"), [
    ({"optimizer": "muon"}, r"train\.optimizer='muon': .* use adamw or sgd"),
    ({"precision": "fp16"}, r"train\.precision='fp16': .* use bf16 or fp32"),
    ({"compile": True}, r"train\.compile=true: .* use false"),
])  # fmt: skip
def test_settings_that_cannot_be_sharded(settings, message, monkeypatch):
    check_sharding(TrainConfig(**settings))
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_sharding(TrainConfig(sharding="fsdp"))
    with pytest.raises(XViTError, match=message):
        check_sharding(TrainConfig(sharding="fsdp", **settings))


def test_one_process_has_nobody_to_share_with():
    with pytest.raises(XViTError, match="start several with torchrun"):
        check_sharding(TrainConfig(sharding="fsdp"))
