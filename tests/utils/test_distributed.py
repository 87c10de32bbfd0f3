"""Training in two processes, as torchrun starts them (gloo, CPU)."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.color_videos import recipe, write_videos
from xvit.config import to_dict
from xvit.training.engine import fit

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "xvit", "train"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def config(videos, tmp_path_factory):
    """Twelve videos in steps of 2 x 3 clips."""
    made = recipe(
        videos, batch_size=3, epochs=3, ema_decay=0.9, save_minutes=0.0, grad_accum_steps=2, optimizer="sgd", lr=0.1
    )
    path = tmp_path_factory.mktemp("recipe") / "two.yaml"
    path.write_text(yaml.safe_dump(to_dict(made)))
    return made, path


def two(path, output, *options):
    return subprocess.run(
        [*TWO, "--config", str(path), "--output", str(output), *options], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def together(config, tmp_path_factory):
    output = tmp_path_factory.mktemp("together") / "run"
    ended = two(config[1], output, "--json")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count('"best"') == 1  # one of them tells
    return output


def test_two_processes_train_as_one_of_twice_the_batch(config, together, tmp_path):
    alone = fit(replace(config[0], train=replace(config[0].train, batch_size=6)), tmp_path / "run")
    ours, theirs = (load_file(path / "last" / "model.safetensors") for path in (alone.last.parent, together))
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, atol=2e-5, rtol=1e-4)


def test_two_processes_are_stopped_and_go_on(config, together, tmp_path):
    """SIGTERM, as a cluster sends it to the launcher, which hands it on to the processes."""
    output = tmp_path / "run"
    launched = subprocess.Popen(
        [*TWO, "--config", str(config[1]), "--output", str(output)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 60
        while not list(output.glob("state/step_*")) and time.monotonic() < until:
            time.sleep(0.02)
        launched.terminate()
        told = launched.communicate(timeout=60)[1]
    finally:
        if launched.poll() is None:
            os.killpg(launched.pid, signal.SIGKILL)
    assert launched.returncode != 0
    assert "go on with --resume" in told
    refused = two(config[1], output)
    assert "go on with it by --resume" in refused.stderr
    ended = two(config[1], output, "--resume")
    assert ended.returncode == 0, ended.stderr
    ours, theirs = (load_file(path / "last" / "model.safetensors") for path in (output, together))
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())


def test_another_number_of_processes_is_refused(config, together, refused):
    message = refused("train", "--config", str(config[1]), "--output", str(together), "--resume")
    assert "a run of 2 processes cannot go on in 1: take as many" in message


def test_a_process_without_a_readable_video_waits_for_nobody(tmp_path):
    """Steps of one clip each, a third of them broken: the others' gradients come all the same."""
    root = write_videos(tmp_path / "videos")
    broken = sorted(root.glob("train/*/3.mp4")) + sorted(root.glob("train/red/*.mp4"))[:1]
    for path in broken:
        path.write_bytes(b"no video")
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(to_dict(recipe(root, batch_size=1, epochs=1, save_minutes=0.0))))
    ended = two(path, tmp_path / "run", "--json")
    assert ended.returncode == 1, ended.stderr
    assert json.loads(ended.stdout)["bad_videos"] == len(broken)
    rows = [json.loads(line) for line in (tmp_path / "run" / "bad_videos.jsonl").read_text().splitlines()]
    assert sorted(row["path"] for row in rows) == sorted(map(str, broken))
