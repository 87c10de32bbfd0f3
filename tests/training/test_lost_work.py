"""What a training leaves behind when it cannot start, or its disk is full, read-only or gone."""

import errno
import os
import shutil
from functools import partial
from itertools import product

import pytest

from helpers.color_videos import make_config, write_video
from helpers.files import limited_file_size, locked_by_another_process
from helpers.training_runs import rows, same, weights
from xvit.data.annotations import load_splits
from xvit.training import engine, fit
from xvit.training.run_dir import RunDirectory
from xvit.utils.errors import Interrupted, WriteError, XViTError
from xvit.utils.files import previous_version, read_json


@pytest.fixture(scope="module")
def config(videos):
    return make_config(videos, ema_decay=0.9)


def after_first_epoch(action):
    """An `on_progress` callback that calls `action` once, after the first step of the second epoch."""

    def on_progress(event):
        if (event.stage, event.epoch, event.step) == ("train", 2, 1):
            action()

    return on_progress


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory):
    """A run of 2 epochs of 3 steps, and its folder as it was after the first step of the second epoch. Read-only."""
    place = tmp_path_factory.mktemp("runs")
    copy = partial(shutil.copytree, place / "unstopped", place / "first_epoch")
    fit(config, place / "unstopped", on_progress=after_first_epoch(copy))
    return place


@pytest.fixture(scope="module")
def unstopped(runs):
    """The weights of a run of 2 epochs."""
    return weights(runs / "unstopped" / "last")


@pytest.fixture(scope="module")
def first_epoch(runs):
    """The folder of a run that was killed after its first epoch."""
    return runs / "first_epoch"


# A file that grows beyond the limit fails: rows, checkpoints, and each of the larger files of a state.
LIMITS = (100, 5_000, 20_000, 40_000, 60_000)


def test_a_full_disk_costs_no_saved_work(config, first_epoch, unstopped, tmp_path):
    """A run that fails again and again, each time at another file of its second epoch."""
    output = shutil.copytree(first_epoch, tmp_path / "run")
    for limit in LIMITS:
        limits = []

        def fill_disk(limit=limit, limits=limits):
            limits.append(limited_file_size(limit))
            limits[0].__enter__()

        try:
            with pytest.raises(WriteError) as failure:
                fit(config, output, resume=True, on_progress=after_first_epoch(fill_disk))
        finally:
            limits[0].__exit__(None, None, None)
        message = str(failure.value)
        assert message.startswith(f"{output}/")
        assert ": cannot be written" in message
        assert "; stopped after step " in message
        assert message.endswith("; continue with --resume once it can be")
        assert "\n" not in message
        assert not [path for path in output.rglob("*") if path.name.endswith(".writing")]
    fit(config, output, resume=True)
    assert same(weights(output / "last"), unstopped)
    assert [row["epoch"] for row in rows(output, "eval")] == [1, 2]


def test_every_error_of_a_disk_is_one_line(config, first_epoch, unstopped, tmp_path, monkeypatch):
    output = shutil.copytree(first_epoch, tmp_path / "run")
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE):

        def fail(*args, number=number):
            raise OSError(number, os.strerror(number))

        message = rf"run/(last|best): cannot be written: {os.strerror(number)}; stopped after step 6 of 6; "
        with monkeypatch.context() as patch:
            fail_from_now_on = after_first_epoch(partial(patch.setattr, os, "fsync", fail))
            with pytest.raises(WriteError, match=message):
                fit(config, output, resume=True, on_progress=fail_from_now_on)
    fit(config, output, resume=True)
    assert same(weights(output / "last"), unstopped)


def test_a_folder_that_vanishes_is_not_created_again(config, first_epoch, tmp_path):
    output = shutil.copytree(first_epoch, tmp_path / "run")
    message = f"{output}: was removed, or lost its config.yaml, while the run was on; .*; no state is saved$"
    with pytest.raises(WriteError, match=message):
        fit(config, output, resume=True, on_progress=after_first_epoch(lambda: shutil.rmtree(output)))
    assert not list(tmp_path.iterdir())


def test_two_runs_in_one_folder(config, unstopped, tmp_path):
    output = tmp_path / "run"
    with locked_by_another_process(output, "xvit train") as process:
        for resume in (False, True):
            with pytest.raises(XViTError, match=rf"run: in use by xvit train \(process {process.pid} on host "):
                fit(config, output, resume=resume)
    assert not list(tmp_path.iterdir())

    def start_another():
        assert (tmp_path / ".run.lock").exists()
        with pytest.raises(XViTError, match="run: in use by this process"):
            fit(config, output, resume=True)

    fit(config, output, on_progress=after_first_epoch(start_another))
    assert same(weights(output / "last"), unstopped)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_nothing_is_written_before_the_first_step(config, tmp_path, monkeypatch):
    errors = (RuntimeError("CUDA out of memory"), XViTError("no"), KeyboardInterrupt())
    for function, error in product(("backward", "update_weights"), errors):

        def fail(*args, error=error, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(engine, function, fail)
            with pytest.raises(type(error)):
                fit(config, tmp_path / "run", resume=True)
        assert not list(tmp_path.iterdir())
    fit(make_config(config.data.root, epochs=1), tmp_path / "run", resume=True)  # another recipe


@pytest.mark.parametrize("names", [[".data.json"], ["data.json"], ["data.json", ".config.yaml"]])
def test_a_start_that_was_killed_does_not_block_the_folder(config, tmp_path, names):
    """The recipe is written last: without it there is no run, and what else was written is of no use."""
    path = tmp_path / "run"
    path.mkdir()
    for name in names:
        (path / name).write_text("{" if name.startswith(".") else '{"versions": {}, "clip_spec": {}}')
    run_dir = RunDirectory(path, config, load_splits(config.data), resume=False)
    run_dir.close()
    assert not list(path.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"versions": {}}'])
def test_a_foreign_file_of_the_same_name_is_kept(config, tmp_path, text):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(XViTError, match="contains files, but no training run"):
        RunDirectory(tmp_path, config, load_splits(config.data), resume=True)
    assert (tmp_path / "data.json").read_text() == text


def test_a_stop_before_the_first_step_says_that_nothing_is_saved(config, tmp_path, monkeypatch):
    def stop(self):
        raise Interrupted(exit_code=143)

    monkeypatch.setattr("xvit.training.signals.StopSignals.check", stop)
    with pytest.raises(Interrupted, match=r"stopped before the first step; nothing is saved in .*run$") as stopped:
        fit(config, tmp_path / "run")
    assert stopped.value.exit_code == 143
    assert not list(tmp_path.iterdir())


LATIN1 = os.fsdecode(b"caf\xe9")


def test_class_names_that_cannot_be_saved_are_refused_before_the_start(tmp_path):
    for split in ("train", "val"):
        for index, name in enumerate((LATIN1, "b")):
            write_video(tmp_path / "videos" / split / name / "0.mp4", color=index, seed=index)
    with pytest.raises(XViTError, match='class "caf\udce9": the name is not valid UTF-8: rename the class'):
        fit(make_config(tmp_path / "videos"), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_names_of_videos_and_folders_may_have_any_bytes(tmp_path):
    data = tmp_path / "caf\udce9"
    for split in ("train", "val"):
        for index, name in enumerate("ab"):
            write_video(data / split / name / "caf\udce9.mp4", color=index, seed=index)
    config = make_config(data, epochs=1)
    fit(config, tmp_path / "run")
    fit(config, tmp_path / "run", resume=True)


def test_a_checkpoint_that_was_lost(config, first_epoch, tmp_path, caplog):
    """A process that was killed between two renames leaves it under another name. One that was deleted is said."""
    output = shutil.copytree(first_epoch, tmp_path / "run")
    (output / "last").rename(previous_version(output / "last"))
    shutil.rmtree(output / "best")
    result = fit(config, output, resume=True)
    assert "best: the checkpoint of epoch 1 is missing; later ones are saved" in caplog.text
    assert result.epoch == 2
    for name in ("best", "last"):
        assert read_json(output / name / "config.json")["provenance"]["epoch"] == 2
    assert not previous_version(output / "last").exists()


def test_an_unfinished_start_beside_other_files_stays(config, tmp_path):
    (tmp_path / "data.json").write_text('{"versions": {}, "clip_spec": {}}')
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(XViTError, match="contains files, but no training run"):
        RunDirectory(tmp_path, config, load_splits(config.data), resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.json", "thesis.txt"]
