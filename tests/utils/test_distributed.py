"""Values exchanged between processes."""

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
