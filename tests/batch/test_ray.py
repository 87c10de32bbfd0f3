"""A job on a Ray cluster of several nodes on this machine: its rows are those of the local runner."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from xvit.batch import CheckTask, PredictTask, read_inputs, run_job
from xvit.batch.ray import RayRunner, _Actor, _with_absolute_path
from xvit.utils.errors import XViTError

from .test_job import read_rows

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

source, checkpoint, output = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=1)

from xvit.batch import PredictTask, read_inputs, run_job
from xvit.batch.ray import RayRunner

def remove_node(done, total):
    if done and not removed:
        removed.append(done)
        cluster.remove_node(node, allow_graceful=False)

removed = []
task = PredictTask(checkpoint=checkpoint, num_workers=1)
inputs = read_inputs(source)
summary = run_job(
    task, inputs, output, part_size=8, runner=RayRunner(address=cluster.address), on_progress=remove_node
)
print(summary.rows, summary.failed, removed[0] < summary.rows)
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory, videos):
    """A list of videos, three times, with some that are none."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "bad.mp4").write_text("no video")
    paths = [*sorted(videos.rglob("*.mp4")), "bad.mp4"]
    (folder / "videos.txt").write_text("".join(f"{path}\n" for path in paths * 3))
    return folder / "videos.txt"


def test_rows_are_those_of_the_local_runner_though_a_node_is_lost(source, checkpoint, tmp_path):
    pytest.importorskip("ray")
    local = run_job(PredictTask(checkpoint=str(checkpoint)), read_inputs(source), tmp_path / "local", part_size=8)
    words = [sys.executable, "-c", SCRIPT, source, checkpoint, tmp_path / "ray"]
    result = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"{local.rows} 3 True"
    rows, expected = read_rows(tmp_path / "ray"), read_rows(tmp_path / "local")
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert (row.pop("scores") is None) == (other["scores"] is None)
        assert row == {name: value for name, value in other.items() if name != "scores"}
    assert (tmp_path / "ray" / "job.json").read_text() == (tmp_path / "local" / "job.json").read_text()


def test_errors_without_a_cluster(source, checkpoint, tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nothing listens
        addresses = [f"{prefix}127.0.0.1:{closed.getsockname()[1]}" for prefix in ("", "ray://")]
        for address in addresses:
            task = PredictTask(checkpoint=str(checkpoint), num_workers=1)
            with pytest.raises(XViTError, match=f"--address {address}: no Ray cluster there: .*refused"):
                run_job(task, read_inputs(source), tmp_path / "out", runner=RayRunner(address=address))
    task = PredictTask(checkpoint=str(checkpoint), num_workers=0)
    with pytest.raises(XViTError, match="--num-workers 0: an actor on Ray needs at least 1"):
        run_job(task, read_inputs(source), tmp_path / "out", runner=RayRunner(address=addresses[0]))


def test_an_actor_reports_why_it_has_no_model(checkpoint, tmp_path):
    """In a row: Ray prints pages about an actor that cannot be created, and creates it again."""
    batch = {"number": np.array([3]), "first": np.array([0]), "paths": np.array([b"a.mp4\0b.mp4"], object)}
    expected = PredictTask(checkpoint=str(checkpoint)).open().describe()
    for task, message in [
        (PredictTask(checkpoint=str(tmp_path / "none")), "none: no such checkpoint directory"),
        (PredictTask(checkpoint=str(checkpoint), top_k=2), "the model there is another one than that of the job"),
    ]:
        [row] = _Actor(task, expected, "/videos", "")(batch)
        assert (row["number"], row["table"]) == ([3], [b""])
        assert message in row["error"][0]
        assert row["error"][0].startswith(f"host {os.uname().nodename}: ")


def test_models_are_found_from_another_working_directory(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    task = _with_absolute_path(PredictTask(checkpoint=checkpoint.name, top_k=3))
    assert task == PredictTask(checkpoint=str(checkpoint), top_k=3)
    for other in (PredictTask(checkpoint="motion"), PredictTask(checkpoint="hf://owner/name"), CheckTask()):
        assert _with_absolute_path(other) == other
