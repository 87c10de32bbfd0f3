"""The run folder: when it is refused, and how damaged files in it are handled."""

import json
import math
import os
import re
import shutil
from dataclasses import asdict

import pytest
import torch

from helpers.color_videos import make_config
from xvit.checkpoint.weights import tensor_shapes
from xvit.data.annotations import load_splits
from xvit.training import fit, run_dir
from xvit.training.run import TrainingRun
from xvit.training.run_dir import RunDirectory
from xvit.training.state import TrainState, read_train_state
from xvit.utils.errors import XViTError
from xvit.utils.files import previous_version


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    """The recipe and the folder of a finished run with averaged weights. Read-only."""
    config, output = make_config(videos, epochs=1, ema_decay=0.9), tmp_path_factory.mktemp("finished") / "run"
    fit(config, output)
    return config, output


def test_a_folder_in_use_is_refused(videos, finished, tmp_path):
    config, output = finished
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(XViTError, match=r"contains a training run; .*--resume.*--output"):
        fit(config, output)
    with pytest.raises(XViTError, match=r"train\.epochs was 1 and is now 2"):
        fit(make_config(videos, ema_decay=0.9), output, resume=True)
    deeper = {"backbone_kwargs": {**make_config(videos).model.backbone_kwargs, "depth": 3}}
    with pytest.raises(XViTError, match=r"model\.backbone_kwargs\.depth was 2 and is now 3"):
        fit(make_config(videos, epochs=1, ema_decay=0.9, model=deeper), output, resume=True)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(XViTError, match=r"contains files, but no training run; .*--output"):
            fit(make_config(videos), tmp_path / "other", resume=resume)
    with pytest.raises(XViTError, match="is a file"):
        fit(make_config(videos), tmp_path / "other" / "thesis.txt")


def test_incomplete_and_later_rows_are_deleted(finished, tmp_path):
    config, output = finished[0], shutil.copytree(finished[1], tmp_path / "run")
    metrics, bad_videos = output / "metrics.jsonl", output / "bad_videos.jsonl"
    before = metrics.read_text()
    metrics.write_text(before + json.dumps({"stage": "train", "step": 4}) + '\n{"stage": "tr')
    bad_videos.write_text('{"path": "a.mp4", "reason": "empty"}\n{"path": "b.m')
    assert fit(config, output, resume=True).bad_videos == 1
    assert metrics.read_text() == before
    assert bad_videos.read_text().endswith('"empty"}\n')


DAMAGED_ROWS = [b"\0\0\0", b"\xff\xfe", b"[]", b"null", b"7", b"{}", b'{"step": "3", "path": 1}', b"[" * 100_000]
DAMAGED_ROWS += [b'{"step": null, "path": "a.mp4", "outcome": "lost"}', b"9" * 5000, b'{"step": 1,']


def test_a_damaged_row_is_named(finished, tmp_path):
    config, output = finished[0], shutil.copytree(finished[1], tmp_path / "run")
    data = load_splits(config.data)
    metrics, bad_videos = output / "metrics.jsonl", output / "bad_videos.jsonl"
    bad_videos.write_text('{"path": "a.mp4", "reason": "empty"}\n')
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for path, expected in ((metrics, 'a metric row with "step"'), (bad_videos, 'a video with "path"')):
        for row in DAMAGED_ROWS:
            path.write_bytes(before[path] + row + b"\n" + before[path])
            line = before[path].count(b"\n") + 1
            message = rf"{path.name} line {line}: damaged: expected {expected}, got .*; remove this line$"
            with pytest.raises(XViTError, match=message):
                RunDirectory(output, config, data, resume=True)
        with pytest.raises(XViTError, match=message):
            fit(config, output, resume=True)
        path.write_bytes(before[path])
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def set_values(**values):
    """A damage of train_state.json: other values."""
    return lambda content: json.dumps(json.loads(content) | values).encode()


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "missing": None,
}
STATES = {"step": "3", "epoch": -1, "best_epoch": 1.5, "seconds": None, "best_metrics": [], "data_hash": 3, "lr": 1}


def test_a_state_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "step_0000003" / "train_state.json"
    path.parent.mkdir()
    state = TrainState(step=3, seconds=1.5, best_metrics={"top1": 0.5})
    path.write_text(json.dumps(asdict(state)))
    assert read_train_state(path) == state
    nan, inf = math.nan, math.inf
    for values in (
        {"epoch": True},
        {"seconds": nan},
        {"seconds": inf},
        {"seconds": True},
        {"best_metrics": {"a": nan}},
    ):
        path.write_text(json.dumps(asdict(state) | values))
        with pytest.raises(ValueError, match=r"^train_state\.json has values that no run has$"):
            read_train_state(path)


@pytest.fixture(scope="module")
def opened(finished, tmp_path_factory):
    """A run that was resumed from its state, which it can load again."""
    output = shutil.copytree(finished[1], tmp_path_factory.mktemp("opened") / "run")
    run = TrainingRun(finished[0], output, resume=True, on_progress=None)
    yield run
    run.close()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in ("optimizer.bin", "model.safetensors", "train_state.json", "random_states_0.pkl")
        for damage in DAMAGES.values()
    ]
    + [("ema_model.safetensors", damage) for damage in DAMAGES.values()]
    + [("train_state.json", set_values(**{key: value})) for key, value in STATES.items()]
    + [("train_state.json", set_values(step=4))],  # of another state
)
def test_a_corrupt_state_is_named(opened, name, damage):
    path = opened.run_dir.path / "state" / "step_0000003" / name
    content = path.read_bytes()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(content))
    try:
        with pytest.raises(XViTError, match=r"step_0000003: corrupt .*all saved states are corrupt.*--output"):
            opened.run_dir.load_state(opened.state_tensors)
    finally:
        path.write_bytes(content)


def test_states_of_wrapped_models_fit(opened):
    path = opened.run_dir.path / "state" / "step_0000003"
    state, shapes = read_train_state(path / "train_state.json"), tensor_shapes(path / "model.safetensors")
    for wrapped in (
        {f"module.{name}": shape for name, shape in shapes.items()},
        {f"module._orig_mod.{name}": shape for name, shape in shapes.items()},
        {name.replace("blocks.0.", "blocks.0._orig_mod."): shape for name, shape in shapes.items()},
    ):
        assert wrapped != shapes
        opened.run_dir._check_state(path, state, wrapped, opened.raw_model)
    name, tensor = next(iter(opened.raw_model.state_dict().items()))
    message = rf"of another model: {name} is not in it and {re.escape(str(tuple(tensor.shape)))} in this model;"
    with pytest.raises(XViTError, match=message):
        opened.run_dir._check_state(path, state, {}, opened.raw_model)


def test_a_state_appears_when_it_is_complete(opened, monkeypatch, tmp_path):
    """Then all but the newest two are deleted. A state that was not completed is deleted when the run is resumed."""
    run, write, seen = opened.run_dir, opened.accelerator.save_state, []
    state, before = run.load_state(opened.state_tensors), run.saved_states()

    def record(path):
        write(path)
        seen.append(run.saved_states())

    monkeypatch.setattr(opened.accelerator, "save_state", record)
    state.step += 1
    run.save_state(opened.state_tensors, state)
    *others, newest = run.saved_states()
    assert seen == [others] == [before]
    assert read_train_state(newest / "train_state.json") == state
    kept, incomplete = shutil.copytree(others[0], tmp_path / "kept"), newest.with_name(".step_0000009.writing")
    try:
        state.step += 1
        run.save_state(opened.state_tensors, state)
        assert [path.name for path in run.saved_states()] == ["step_0000004", "step_0000005"]
    finally:
        for path in run.saved_states():
            shutil.rmtree(path)
        shutil.copytree(kept, others[0])
    incomplete.mkdir()
    run.load_state(opened.state_tensors)
    assert not incomplete.exists()


def test_checkpoints_left_under_another_name_are_renamed(opened):
    """A process that is killed while it replaces a checkpoint leaves the one before it under such a name."""
    directories = (opened.run_dir.best, opened.run_dir.last)
    for directory in directories:
        directory.rename(previous_version(directory))
    opened.run_dir.load_state(opened.state_tensors)
    assert all(directory.is_dir() and not previous_version(directory).exists() for directory in directories)


class Code:
    """An object that makes a directory when it is loaded as a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["optimizer.bin", "random_states_0.pkl"])
def test_loading_a_state_executes_no_code(opened, name, tmp_path):
    path = opened.run_dir.path / "state" / "step_0000003" / name
    content = path.read_bytes()
    torch.save({"state": Code(tmp_path / "made")}, path)
    try:
        with pytest.raises(XViTError, match=r"step_0000003: corrupt .*\(holds more than tensors and"):
            opened.run_dir.load_state(opened.state_tensors)
    finally:
        path.write_bytes(content)
    assert not (tmp_path / "made").exists()


def out_of_memory(*args, **options):
    raise MemoryError


def test_too_little_memory_does_not_make_a_state_corrupt(opened, monkeypatch):
    for place, name in ((run_dir, "read_train_state"), (opened.accelerator, "load_state")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, out_of_memory)
            with pytest.raises(MemoryError):
                opened.run_dir.load_state(opened.state_tensors)


def test_a_run_of_an_earlier_version_is_refused(finished, tmp_path):
    config, output = finished[0], shutil.copytree(finished[1], tmp_path / "run")
    text = (output / "config.yaml").read_text()
    (output / "config.yaml").write_text(text.replace("grad_accum_steps", "accumulate"))
    with pytest.raises(XViTError, match=r"config\.yaml: .*earlier version of xvit: .*accumulate.*grad_accum_steps"):
        fit(config, output, resume=True)
