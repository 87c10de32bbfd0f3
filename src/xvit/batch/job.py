"""Running a job: which parts are missing, who computes them, and the summary.

A runner is a generator: of (number, Arrow table) of parts, in any order. The one here computes them in this process.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from xvit.batch.inputs import Inputs, locate
from xvit.batch.output import FAILED, FORMAT, OK, JobFolder, Part, text_column
from xvit.batch.tasks import Task, Values, Worker
from xvit.utils.errors import VideoError, XViTError, check_range, import_optional
from xvit.utils.locks import lock_directory
from xvit.utils.version import library_versions

PART_SIZE = 256
MAX_NAMED = 20  # failed inputs in a summary
_WINDOW = 64  # parts that are read without a pause: at the end of a window, the processes that decode start anew

Manifest = dict[str, Any]
Runner = Callable[[Task, Worker, Sequence[Part], str], Generator[tuple[int, Any], None, None]]

_logger = logging.getLogger("xvit")


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """What a job has written, counted from its files.

    Args:
        output: the folder.
        rows: of this shard; as many as it has inputs.
        failed: rows of inputs that cannot be read.
        continued: rows that were there before.
        failures: the first failed inputs: path and error.
    """

    output: str
    rows: int
    failed: int
    continued: int
    failures: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        values = asdict(self)
        values["failures"] = [{"path": path, "error": error} for path, error in self.failures]
        return values


def run_job(
    task: Task,
    inputs: Inputs,
    output: str | Path,
    *,
    shard: tuple[int, int] = (0, 1),
    part_size: int = PART_SIZE,
    runner: Runner | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> JobSummary:
    """Write a row for each input, or those that are missing after a stop.

    Args:
        task: what is done with a video.
        inputs: from `read_inputs`.
        output: a new folder, or that of the same job.
        shard: (i, n): only the parts i, i + n, i + 2n, ... Shards may write to the same folder at the same time.
        part_size: inputs per part; a multiple of the task's batch size.
        runner: `run_local` if None.
        on_progress: called with the number of rows that are there, and that of all rows of the shard.

    Returns:
        The summary of the shard.

    Raises:
        WriteError: the disk is full, and the like; the parts that are written stay.
        XViTError: a number out of its range; the folder holds another job, or another process writes it; the model
            cannot be loaded.
    """
    index, num_shards = shard
    check_range("shard", index, 0, num_shards - 1)
    check_range("part_size", part_size, 1)
    if part_size % task.batch_size:
        raise XViTError(f"part_size={part_size}: expected a multiple of the {task.batch_size} videos of a batch")
    import_optional("pyarrow", extra="batch")
    folder = JobFolder(output, part_size=part_size, total=len(inputs), shard=shard)
    locked = folder.path if num_shards == 1 else folder.path / f"shard-{index}-of-{num_shards}"
    with lock_directory(locked, f"xvit {task.command}"):
        worker = task.open()
        if changed := folder.open(_manifest(task, worker, inputs, part_size)):
            _logger.warning("%s: continued with other versions, with which last digits may differ: %s", output, changed)
        missing = folder.missing()
        sizes = {number: min(part_size, len(inputs) - number * part_size) for number in folder.numbers}
        total, continued = sum(sizes.values()), sum(sizes.values()) - sum(sizes[number] for number in missing)
        done = continued
        report = on_progress or (lambda done, total: None)
        report(done, total)
        parts = [_part(inputs, number, part_size) for number in missing]
        with closing((runner or run_local)(task, worker, parts, inputs.folder)) as results:
            for number, table in results:
                folder.write(number, table)
                done += sizes[number]
                report(done, total)
        rows, failed, failures = folder.count(MAX_NAMED)
    return JobSummary(output=str(output), rows=rows, failed=failed, continued=continued, failures=failures)


def run_local(task: Task, worker: Worker, parts: Sequence[Part], folder: str) -> Generator[tuple[int, Any], None, None]:
    """Compute parts in this process, one after the other. Processes of the worker decode the videos meanwhile."""
    for start in range(0, len(parts), _WINDOW):
        yield from compute_parts(worker, parts[start : start + _WINDOW], folder)


def compute_parts(worker: Worker, parts: Sequence[Part], folder: str) -> Generator[tuple[int, Any], None, None]:
    """Compute parts, without a pause between them."""
    values = worker.values([locate(path, folder) for path in chain.from_iterable(part.paths for part in parts)])
    for part in parts:
        yield part.number, make_table(worker, part, islice(values, len(part.paths)))
    next(values, None)  # ends its processes here: Ctrl-C while Python deletes an iterator is lost


def make_table(worker: Worker, part: Part, values: Iterator[Values | VideoError]) -> Any:
    """The rows of a part as an Arrow table: index, path, status, error, and the columns of the task."""
    arrow = import_optional("pyarrow", extra="batch")
    own = {"index": arrow.int64(), "path": arrow.string(), "status": arrow.string(), "error": arrow.string()}
    schema = arrow.schema(list((own | worker.columns).items()))
    rows = []
    for offset, (path, value) in enumerate(zip(part.paths, values, strict=True)):
        row: Values = {"index": part.first + offset, "path": text_column(path)}
        if isinstance(value, VideoError):
            row |= {"status": FAILED, "error": text_column(value.reason)}
        else:
            row |= {"status": OK, **value}
        rows.append(row)
    columns = [arrow.array([row.get(field.name) for row in rows], type=field.type) for field in schema]
    return arrow.table(columns, schema=schema)


def _part(inputs: Inputs, number: int, part_size: int) -> Part:
    first = number * part_size
    return Part(number=number, first=first, paths=inputs.paths[first : first + part_size])


def _manifest(task: Task, worker: Worker, inputs: Inputs, part_size: int) -> Manifest:
    """What the rows are made of."""
    return {
        "format": FORMAT,
        "command": task.command,
        "task": worker.describe(),
        "inputs": {
            "number": len(inputs),
            "hash": inputs.hash,
            "folder": inputs.folder if inputs.any_relative else None,
        },
        "part_size": part_size,
        "versions": library_versions(),
    }
