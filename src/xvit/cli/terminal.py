"""What a command shows: tables and progress for people, JSON for machines, no escape codes where no terminal is."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from xvit.utils import distributed
from xvit.utils.errors import VideoError

if TYPE_CHECKING:
    from xvit.training.logger import Progress as TrainingNews

_UNLIMITED = 10_000  # columns: in a file or a pipe nothing is cut or wrapped


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # for `main`, instead of rich's own exit


def console(*, stderr: bool = False) -> Console:
    """Where results (standard output) or progress (standard error) go. Text is shown as it is: no markup in it."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNLIMITED
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def table(*columns: str, title: str | None = None, numbers: tuple[int, ...] = ()) -> Table:
    """An empty table; `numbers` are the columns aligned to the right."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for place, name in enumerate(columns):
        made.add_column(name, justify="right" if place in numbers else "left", overflow="fold")
    return made


def pairs(rows: Mapping[str, Any]) -> Table:
    """Names and values, one pair a line; those that are None are left out."""
    made = Table.grid(padding=(0, 3))
    for name, value in rows.items():
        if value is not None:
            made.add_row(Text(name, style="bold"), Text(str(value)))
    return made


def print_json(value: Any) -> None:
    """One JSON document on the standard output."""
    print(json.dumps(value, indent=2))


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """A progress display with the time left, on the standard error; nothing where that is no terminal, or if `quiet`.

    Lines printed to its `console` appear above the bars, in a log file too unless `quiet`.
    """
    shown = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty() or not distributed.is_main(),
    )
    with shown:
        yield shown


@contextmanager
def counter(text: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A function to be called with (done, in all), which draws a bar named `text`."""
    with counters(quiet=quiet) as advance:
        yield partial(advance, text)


@contextmanager
def counters(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A function to be called with (name, done, in all), which draws a bar for each name."""
    with progress(quiet=quiet) as shown:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = shown.add_task(name, total=None)
            shown.update(tasks[name], completed=done, total=total)

        yield advance


class TrainingProgress:
    """Shows a training: a bar over all its steps, and a line for each validation, in a log file too.

    Args:
        shown: the display to draw in.
        name: what is being trained.
        quiet: no lines.
    """

    def __init__(self, shown: Progress, name: str, *, quiet: bool = False) -> None:
        self.shown, self.name, self.quiet = shown, name, quiet
        self.task = shown.add_task(name, total=None)
        self.metrics: dict[str, float] = {}

    def __call__(self, now: "TrainingNews") -> None:
        """Take what `fit` tells."""
        if now.stage == "train":
            loss = "" if now.loss is None else f", loss {now.loss:.3f}"
            speed = "" if now.clips_per_second is None else f", {now.clips_per_second:.0f} clips/s"
            text = f"{self.name}: epoch {now.epoch} of {now.epochs}{loss}{speed}"
            done = (now.epoch - 1) * now.steps + now.step
            self.shown.update(self.task, description=text, completed=done, total=now.steps * now.epochs)
        if now.metrics != self.metrics:  # told with the first step after the validation
            self.metrics = now.metrics
            loss = "" if now.loss is None else f", training loss {now.loss:.3f}"
            if not self.quiet and distributed.is_main():
                name, value = next(iter(shares_of(now.metrics).items()))
                told = f"{name} {value} on held-out videos{loss}"
                self.shown.console.print(f"{self.name}: epoch {now.epoch - 1} of {now.epochs}: {told}")


def shares_of(metrics: Mapping[str, float]) -> dict[str, str]:
    """The shares among the figures of a validation, with their names, as texts; what is judged by first."""
    names = {"top1": "top-1", "top5": "top-5", "map": "mAP"}
    return {names[key]: f"{100 * value:.1f} %" for key, value in metrics.items() if key in names}


def report_failures(failed: Sequence[VideoError], total: int) -> None:
    """Name the videos that could not be used, on the standard error."""
    if failed and distributed.is_main():
        print(f"xvit: {len(failed)} of {total} videos could not be read:", file=sys.stderr)
        for error in failed:
            print(f"  {error}", file=sys.stderr)
