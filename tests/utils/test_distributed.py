"""Values exchanged between processes."""

import pytest

from helpers.warm_processes import run_two
from xvit.utils import distributed

SCRIPT = """
from pathlib import Path
import os, sys
from xvit.utils import distributed
from xvit.utils.errors import XViTError

rank = distributed.rank()
gathered = distributed.all_gather({"rank": rank})
largest = max(distributed.all_gather(rank)), max(distributed.all_gather(-rank)), any(distributed.all_gather(rank == 0))
distributed.barrier()
Path(sys.argv[1], str(rank)).write_text(f"{distributed.world_size()} {distributed.is_main()} {gathered} {largest}")
if rank == 1:
    os._exit(0)
try:
    distributed.barrier()
except XViTError as error:
    Path(sys.argv[1], "error").write_text(str(error))
"""

# The second process does not answer until the first one has its error.
TIMEOUT = """
import datetime, functools, os, sys, time, torch.distributed
from pathlib import Path
from xvit.utils import distributed

new_group = torch.distributed.new_group
torch.distributed.new_group = functools.partial(new_group, timeout=datetime.timedelta(seconds=1))
path = Path(sys.argv[1], "error")
distributed._cpu_group()
if distributed.is_main():
    try:
        distributed.barrier()
    except ValueError as error:
        path.write_text(str(error))
else:
    while not path.exists():
        time.sleep(0.01)
os._exit(0)
"""


def test_one_process():
    assert (distributed.world_size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    assert distributed.all_gather("value") == ["value"]
    assert (max(distributed.all_gather(3)), max(distributed.all_gather(-2))) == (3, -2)
    assert not distributed.uses_cpu()
    distributed.barrier()


def test_two_processes(tmp_path):
    codes, _, err = run_two("-c", SCRIPT, tmp_path)
    assert codes == [0, 0], err
    for rank in (0, 1):
        text = (tmp_path / str(rank)).read_text()
        assert text == f"2 {rank == 0} [{{'rank': 0}}, {{'rank': 1}}] (1, 0, True)"
    assert (tmp_path / "error").read_text() == "another process of this run has ended; see its error"


def test_a_process_that_does_not_answer_is_a_timeout(tmp_path):
    run_two("-c", TIMEOUT, tmp_path)
    text = (tmp_path / "error").read_text()
    assert text == "timeout: another process of this run does not answer; it may hang"


@pytest.mark.parametrize("text", ["out of memory", "NCCL error: duplicate GPU", "the decoder timed out"])
def test_other_errors_are_raised_as_they_are(text):
    with pytest.raises(RuntimeError, match=text), distributed.peer_errors():
        raise RuntimeError(text)
