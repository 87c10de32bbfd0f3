"""`WorkerPool`: how far ahead it works."""

import multiprocessing
import sys
import time
from contextlib import closing
from multiprocessing.util import get_temp_dir

import pytest

from xvit.utils.workers import WorkerPool


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_no_job_beyond_the_window_is_begun(tmp_path):
    """While job 0 runs, with a window of 3, the other worker may begin jobs 1 and 2 only."""

    def work(index: int) -> int:
        (tmp_path / str(index)).touch()
        if index == 0:
            time.sleep(0.5)  # in which the other worker could begin all of them
        return max(int(path.name) for path in tmp_path.iterdir())

    pool = WorkerPool(work, 2, start_method="fork")
    latest = dict(pool.imap(range(8), window=3))
    pool.close()
    assert sorted(latest) == list(range(8))
    assert latest[0] <= 2


def test_no_temporary_folders_are_left(tmp_path, monkeypatch):
    """Workers that pass tensors share the folder of the main process, which multiprocessing deletes at its end."""
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(multiprocessing.process.current_process()._config, "tempdir", None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in range(2):
        with closing(WorkerPool(torch.zeros, 2)) as pool:
            assert sorted(len(tensor) for _, tensor in pool.imap([3, 4, 5], window=3)) == [3, 4, 5]
    assert list(map(str, tmp_path.iterdir())) == [get_temp_dir()]
