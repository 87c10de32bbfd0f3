"""Training with two processes (gloo, CPU), started as torchrun does or by torchrun itself."""

import json
import multiprocessing
import signal
import time
from contextlib import ExitStack
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from helpers.color_videos import make_config, write_videos
from helpers.hosts import NoHostsError, two_hosts
from helpers.warm_processes import WarmProcess, run_two
from xvit import __main__ as program
from xvit.config import to_dict
from xvit.training import fit

# torchrun, whose processes are forks of it: they import nothing. The first one that saves a state stops the launcher,
# and goes on once it has been told to stop.
TORCHRUN = """
import os, signal, sys, time
from torch.distributed.run import main
from xvit.training.run import TrainingRun

def save_and_stop(run):
    save_state(run)
    if os.environ["RANK"] == "0" and not run.signals.received:
        os.kill(os.getppid(), signal.SIGTERM)
        while not run.signals.received:
            time.sleep(0.01)

save_state, TrainingRun.save_state = TrainingRun.save_state, save_and_stop
main(["--standalone", "--nproc-per-node", "2", "--start-method", "fork", "--run-path", *sys.argv[1:]])
"""


# torchrun on one of two hosts; its processes are forks of it. The first worker on host-b stops within its fourth step,
# in the middle of the second epoch, until the host is killed.
HOST = """
import os, sys, time
from pathlib import Path
from torch.distributed.run import main
from helpers.hosts import Host
from xvit.training import engine

def compute_and_stop(run, *args):
    if run.state.step == 3 and os.uname().nodename == "host-b" and not stopped.exists():
        stopped.touch()
        time.sleep(600)
    return compute_loss(run, *args)

Host(*sys.argv[1:4]).enter()
stopped = Path(sys.argv[4])
os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # see docs/guides/clusters.md
compute_loss, engine.compute_loss = engine.compute_loss, compute_and_stop
options = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--monitor-interval", "0.1"]
options += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "host-a:29400", "--rdzv-id", "run"]
options += ["--rdzv-conf", "keep_alive_interval=1,keep_alive_max_attempt=5"]  # a host is lost after 5 s
main([*options, "--start-method", "fork", "--run-path", *sys.argv[5:]])
"""


# A fault in one of the two processes while the other one waits for its gradients.
FAULT = """
import os, sys
from xvit.cli import main
from xvit.training import engine

def fail(*args):
    raise RuntimeError("a fault")

main._LAUNCHER_SECONDS = 0
if os.environ["RANK"] == sys.argv[1]:
    engine.compute_loss = fail
sys.exit(main.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def config(videos, tmp_path_factory):
    """A recipe with steps of 2 x 3 clips of the 12 videos, and its file."""
    run_config = make_config(
        videos, batch_size=3, epochs=3, ema_decay=0.9, save_minutes=0.0, grad_accum_steps=2, optimizer="sgd", lr=0.1
    )
    path = tmp_path_factory.mktemp("recipe") / "two.yaml"
    path.write_text(yaml.safe_dump(to_dict(run_config)))
    return run_config, path


@pytest.fixture(scope="module")
def two_processes(config, tmp_path_factory):
    output = tmp_path_factory.mktemp("two") / "run"
    codes, out, err = run_two("train", "--config", config[1], "--output", output, "--json")
    assert codes == [0, 0], err
    assert out.count('"best"') == 1  # only the main process prints
    return output


def test_two_processes_equal_one_with_twice_the_batch_size(config, two_processes, tmp_path):
    one_process = fit(replace(config[0], train=replace(config[0].train, batch_size=6)), tmp_path / "run")
    one, two = (load_file(path / "last" / "model.safetensors") for path in (one_process.last.parent, two_processes))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=2e-5, rtol=1e-4)


def test_two_processes_are_stopped_and_resumed(config, two_processes, tmp_path):
    """A cluster sends SIGTERM to the launcher, which sends it to the processes."""
    require_shared_memory()
    output = tmp_path / "run"
    words = ["train", "--config", str(config[1]), "--output", str(output)]
    code, _, err = WarmProcess("-c", TORCHRUN, Path(program.__file__).resolve(), *words).wait()
    assert code != 0
    assert "continue with --resume" in err
    assert "SignalException: Process" in err
    codes, _, err = run_two(*words)
    assert codes == [2, 2]
    assert "continue it with --resume" in err
    codes, _, err = run_two(*words, "--resume")
    assert codes == [0, 0], err
    one, two = (load_file(path / "last" / "model.safetensors") for path in (output, two_processes))
    assert all(torch.equal(two[name], weight) for name, weight in one.items())


@pytest.fixture
def hosts(tmp_path):
    with ExitStack() as stack:
        try:
            pair = stack.enter_context(two_hosts(tmp_path))
        except NoHostsError as error:
            pytest.skip(str(error))
        yield pair


def test_a_lost_host_comes_back(config, two_processes, hosts, tmp_path):
    """The other host's torchrun waits for it; both go on from the last saved state."""
    host_b, stopped = hosts[1], tmp_path / "stopped"
    words = ["train", "--config", config[1], "--output", tmp_path / "run", "--resume"]
    survivor, lost = (start_on(host, stopped, words) for host in hosts)
    wait_for(stopped, survivor)
    assert host_b.kill() >= 2  # torchrun and its worker
    assert lost.wait()[0] == -signal.SIGKILL
    back = start_on(host_b, stopped, words)
    for process in (back, survivor):
        code, _, err = process.wait()
        assert code == 0, err
    assert "no run to resume; starting a new one" in err
    assert "xvit: error: another process of this run has ended" in err
    one, two = (load_file(path / "last" / "model.safetensors") for path in (tmp_path / "run", two_processes))
    assert all(torch.equal(two[name], weight) for name, weight in one.items())


def start_on(host, stopped: Path, words: list) -> WarmProcess:
    require_shared_memory()
    return WarmProcess("-c", HOST, *astuple(host), stopped, Path(program.__file__).resolve(), *words)


def wait_for(path: Path, process: WarmProcess) -> None:
    while not path.exists():
        process.send_signal(0)  # raises if it has ended
        time.sleep(0.02)


def require_shared_memory() -> None:
    try:
        multiprocessing.Semaphore()
    except OSError:
        pytest.skip("torchrun needs shared memory")


@pytest.mark.parametrize("rank", [0, 1])
def test_the_process_that_fails_tells_the_cause(rank, config, tmp_path):
    codes, _, err = run_two("-c", FAULT, rank, "train", "--config", config[1], "--output", tmp_path / "run")
    assert codes == [2, 2]
    prefix = ["xvit: error: ", "xvit: process 1: error: "]
    errors = [line for line in err.splitlines() if "error: " in line]
    assert sorted(errors) == sorted(
        [
            f"{prefix[rank]}unexpected RuntimeError: a fault (please report it; XVIT_DEBUG=1 shows the traceback)",
            f"{prefix[1 - rank]}another process of this run has ended; see its error",
        ]
    )


def test_another_number_of_processes_is_refused(config, two_processes, cli_error):
    message = cli_error("train", "--config", str(config[1]), "--output", str(two_processes), "--resume")
    assert "a run with 2 processes cannot be resumed with 1; use 2" in message


def test_a_process_without_readable_videos_does_not_block(tmp_path):
    """Batches of one clip, a third of them unreadable: the other process still gets its gradients."""
    root = write_videos(tmp_path / "videos")
    broken = sorted(root.glob("train/*/3.mp4")) + sorted(root.glob("train/red/*.mp4"))[:1]
    for path in broken:
        path.write_bytes(b"no video")
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(to_dict(make_config(root, batch_size=1, epochs=1, save_minutes=0.0))))
    codes, out, err = run_two("train", "--config", path, "--output", tmp_path / "run", "--json")
    assert codes == [1, 1], err
    assert json.loads(out)["bad_videos"] == len(broken)
    rows = [json.loads(line) for line in (tmp_path / "run" / "bad_videos.jsonl").read_text().splitlines()]
    assert sorted(row["path"] for row in rows) == sorted(map(str, broken))
