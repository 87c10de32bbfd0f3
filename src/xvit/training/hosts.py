"""What the hosts of a run have to share: the run folder and the data."""

import os
import socket
from pathlib import Path
from uuid import uuid4

from xvit.data.annotations import DatasetSplits
from xvit.data.record import record_hash
from xvit.utils import distributed
from xvit.utils.errors import WriteError
from xvit.utils.files import write_errors
from xvit.utils.text import name_some

MARKER = ".shared-"  # start of the name of the file that all hosts look for
_MAX_NAMED = 4  # hosts in a message


def explain_separate_folders(path: Path) -> str:
    """Which hosts have another run folder than the main process; empty if all have the same.

    The main process writes a file for a moment, and the others look for it. Its name is new each time, so no cache of a
    network file system knows that it was missing before. All processes must call this.

    Args:
        path: the run folder. It may not exist yet; then its parent does, in the main process.
    """
    if distributed.world_size() == 1:
        return ""
    name, inside = distributed.all_gather((f"{MARKER}{uuid4().hex}", path.is_dir()))[0]
    marker, error = (path if inside else path.resolve().parent) / name, ""
    try:
        if distributed.is_main():
            try:
                with write_errors(path):
                    marker.touch()
            except WriteError as failure:
                error = str(failure)
        if error := distributed.all_gather(error)[0]:
            return error
        hosts = distributed.all_gather((os.path.exists(marker), socket.gethostname()))
    finally:
        if distributed.is_main():
            marker.unlink(missing_ok=True)
    others = list(dict.fromkeys(host for seen, host in hosts if not seen))
    if not others:
        return ""
    return (
        f"{path}: the run folder of host {hosts[0][1]} is not visible on {_name_hosts(others)}; --output must be on "
        "storage that all hosts share"
    )


def explain_other_data(data: DatasetSplits, root: str) -> str:
    """Which hosts found other videos, labels or classes than the main process; empty if all found the same.

    All processes must call this.
    """
    if distributed.world_size() == 1:
        return ""
    videos = {name: [[sample.id, sample.label] for sample in samples] for name, samples in data.by_name.items()}
    hosts = distributed.all_gather((record_hash([data.class_names, videos]), socket.gethostname()))
    others = list(dict.fromkeys(host for found, host in hosts if found != hosts[0][0]))
    if not others:
        return ""
    return (
        f"{root}: {_name_hosts(others)} found other videos, labels or classes than host {hosts[0][1]}; all hosts need "
        "the same data"
    )


def _name_hosts(hosts: list[str]) -> str:
    return f"host{'s' if len(hosts) > 1 else ''} {name_some(hosts, _MAX_NAMED)}"
