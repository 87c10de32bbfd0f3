"""`WorkerPool`: how far ahead it works."""

import sys
import time

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
