"""Worker processes end with the one that began them, however that ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
from pathlib import Path
from xvit.utils.parallel import run_all

def work(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    run_all(work, [sys.argv[1]] * 2, num_workers=2)
"""


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_of_a_killed_process_end(tmp_path, number):
    script, began = tmp_path / "script.py", tmp_path / "began"
    script.write_text(SCRIPT)
    began.mkdir()
    with subprocess.Popen([sys.executable, str(script), str(began)]) as main:
        until = time.monotonic() + 60
        while len(list(began.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        num_workers = [int(path.name) for path in began.iterdir()]
        assert len(num_workers) == 2
        main.send_signal(number)
        assert main.wait(30) == -number
    until = time.monotonic() + 30
    while any(map(alive, num_workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, num_workers))
