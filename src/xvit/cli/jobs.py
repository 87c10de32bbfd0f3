"""The options of large jobs, which `predict`, `features` and `data check` have in common, and their output."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import INTERRUPTED, SOME_FAILED, SUCCESS, TERMINATED
from xvit.cli.parsing import CommandParser, require
from xvit.utils.errors import Interrupted, XViTError
from xvit.utils.files import check_exists, check_writable_directory

if TYPE_CHECKING:
    from xvit.batch import JobSummary
    from xvit.batch.job import Runner
    from xvit.batch.tasks import Task

OPTIONS = ("input", "output", "shard", "part_size", "runner", "address", "actors", "gpus_per_actor")


def add_job(parser: CommandParser, *, output: bool = True) -> None:
    """Add the options of large jobs, --output unless the command has it already."""
    text = "a large job: a text file with a path per line, a .parquet with a column path, a folder, or a .tar"
    parser.add("--input LIST", str | None, text, check=check_exists)
    if output:
        parser.add("--output DIR", str | None, "of a large job: folder for Parquet files; the same one to continue")
    text = "of a large job: shard I of N, counted from 0, as for the tasks of a Slurm array"
    parser.add("--shard I/N", str, text, default="0/1")
    parser.add("--part-size N", int, "of a large job: rows per Parquet file", default=256, low=1)
    parser.add(
        "--runner NAME", Literal["local", "ray"], "of a large job: this process, or a Ray cluster", default="local"
    )
    parser.add("--address A", str | None, "of the Ray cluster, such as auto; if unset, one is started on this machine")
    parser.add("--actors N", int | None, "on the Ray cluster; as many as there is room for if unset", low=1)
    parser.add("--gpus-per-actor F", float, "such as 1, or 0.5 for two actors on a GPU", default=0.0, low=0)


def check_job(parser: CommandParser, args: Namespace) -> None:
    """Raise `XViTError` for options of large jobs that do not go together; they need --input."""
    defaults = parser.get_defaults()
    given = [name for name in OPTIONS[2:] if args[name] != defaults[name]]
    if args.input is None:
        if given:
            raise XViTError(f"--{given[0].replace('_', '-')}: is for large jobs: give their videos with --input")
        return
    require(args.output, "--output", "the folder for the rows of a large job", parser.prog)
    if args.get("videos"):
        raise XViTError(f"{args.videos[0]}: videos cannot be combined with --input; add them to its list")
    check_writable_directory(args.output)
    for name in ("address", "actors", "gpus_per_actor"):
        if name in given and args.runner != "ray":
            raise XViTError(f"--{name.replace('_', '-')}: is for --runner ray")
    _parse_shard(args.shard)


def run_job(args: Namespace, task: "Task") -> int:
    """Run or continue a large job, and print its summary."""
    from xvit.batch import read_inputs, run_job

    inputs = read_inputs(args.input)
    progress = {"done": 0, "total": 0}
    try:
        with _stopped_by_sigterm(), terminal.progress_bar(f"xvit {task.command}", quiet=args.json) as update:

            def report(done: int, total: int) -> None:
                progress.update(done=done, total=total)
                update(done, total)

            summary = run_job(
                task,
                inputs,
                args.output,
                shard=_parse_shard(args.shard),
                part_size=args.part_size,
                runner=_make_runner(args),
                on_progress=report,
            )
    except KeyboardInterrupt as error:
        rows = f"{progress['done']:,} of {progress['total']:,} rows are in {args.output}"
        text = f"stopped: {rows}. Run the same command to continue."
        raise Interrupted(text, exit_code=getattr(error, "exit_code", INTERRUPTED)) from None
    terminal.finish(args, summary.to_dict(), terminal.key_values(_describe(summary)))
    if summary.failed:
        terminal.echo(f"xvit: {summary.failed:,} of {summary.rows:,} videos failed:", stderr=True)
        for path, reason in summary.failures:
            terminal.echo(f"  {path}: {reason}", stderr=True)
        if summary.failed > len(summary.failures):
            terminal.echo(f"  and {summary.failed - len(summary.failures):,} more: see their rows", stderr=True)
    return SOME_FAILED if summary.failed else SUCCESS


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM stop this process as Ctrl-C does, so that it says where the rows are."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(exit_code=TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _describe(summary: "JobSummary") -> dict[str, object]:
    before = f", of which {summary.continued:,} were there before" if summary.continued else ""
    return {
        "rows": f"{summary.rows:,}{before}",
        "failed": f"{summary.failed:,}",
        "written to": Path(summary.output, "parts"),
    }


def _make_runner(args: Namespace) -> "Runner | None":
    if args.runner == "local":
        return None
    from xvit.batch.ray import RayRunner

    return RayRunner(address=args.address, actors=args.actors, gpus_per_actor=args.gpus_per_actor)


def _parse_shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if match is None or int(match[1]) >= int(match[2]):
        raise XViTError(f"--shard {text}: expected I/N with 0 <= I < N, such as 0/3, 1/3 and 2/3")
    return int(match[1]), int(match[2])
