"""Results of worker processes, and their end when the main process ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xvit.utils.errors import XViTError
from xvit.utils.parallel import check_stop, parallel_map

SCRIPT = """
import os, sys, time
from pathlib import Path
from xvit.utils.parallel import parallel_map

def work(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(3600)

if __name__ == "__main__":
    parallel_map(work, [sys.argv[1]] * 2, num_workers=2)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_of_a_killed_process_end(tmp_path, number):
    script, started = tmp_path / "script.py", tmp_path / "started"
    script.write_text(SCRIPT)
    started.mkdir()
    with subprocess.Popen([sys.executable, str(script), str(started)]) as main:
        deadline = time.monotonic() + 600
        while len(list(started.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = [int(path.name) for path in started.iterdir()]
        assert len(workers) == 2
        main.send_signal(number)
        assert main.wait(600) == -number
    deadline = time.monotonic() + 600
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def _square_or_die(job: int) -> int:
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job * job


def _die_once(folder: Path) -> str:
    if not (folder / "begun").exists():
        (folder / "begun").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_results_are_in_order_and_a_killed_worker_is_an_error(tmp_path):
    assert parallel_map(_square_or_die, [0, 1, 2, 4], num_workers=0) == [0, 1, 4, 16]
    assert parallel_map(_square_or_die, [], num_workers=2) == []
    jobs, progress = [0, 1, 2, 3, 4], []
    with pytest.raises(XViTError, match=r"job 4 of 5 \(3\): .* killed \(signal 9\) twice, .* fewer workers"):
        parallel_map(_square_or_die, jobs, num_workers=2)
    reported = parallel_map(
        _square_or_die,
        jobs,
        num_workers=2,
        on_progress=lambda done, total: progress.append((done, total)),
        on_killed=lambda job, how: f"{job} {how}",
    )
    assert reported == [0, 1, 4, "3 was killed (signal 9)", 16]
    assert progress == [(done, 5) for done in range(1, 6)]
    assert parallel_map(_die_once, [tmp_path], num_workers=1) == ["done"]
    with pytest.raises(XViTError, match="num_workers=-1"):
        parallel_map(_square_or_die, [1], num_workers=-1)


def _run_until_stopped(job: int) -> int:
    while job > 0:
        time.sleep(0.01)
        check_stop()
    return job


def test_an_interrupt_ends_the_workers():
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        parallel_map(_run_until_stopped, range(20), num_workers=1, on_progress=stop)
    assert set(multiprocessing.active_children()) <= before


UNGUARDED = """
from xvit.utils.parallel import parallel_map

print(parallel_map(abs, [1, -2], num_workers=1))
"""


def test_a_worker_that_cannot_start_is_no_fault_of_its_job(tmp_path):
    """A script without a main guard: each worker runs it again."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "ended (exit code 1) before its first job; a script that uses workers must start below" in ended.stderr
