"""Output of the commands: tables and progress bars for people, JSON for programs; plain text outside a terminal.

All text for people goes through `printable` here: in `echo`, in the console, and in the cells of tables.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich import box
from rich.console import Console, RenderableType
from rich.padding import PaddingDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.config import as_task_dict, unwrap_single_task
from xvit.utils import distributed
from xvit.utils.errors import VideoError
from xvit.utils.text import printable

if TYPE_CHECKING:
    from xvit.inference.live import LivePrediction
    from xvit.inference.predictor import Prediction
    from xvit.training import Progress as TrainingEvent

_MAX_WARNINGS = 20  # videos that were read with warnings, in a list for people
_UNLIMITED_WIDTH = 10_000  # columns; nothing is cut or wrapped in a file or a pipe


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        # A `Text` passes as it is: rich prints the lines of other libraries, without their escape sequences, as one.
        super().print(*(to_text(value) if isinstance(value, str) else value for value in objects), **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # handled by `main`, instead of rich's own exit


class _Table(Table):
    def add_row(self, *cells: object, **_: object) -> None:
        super().add_row(*(to_text(cell, cell.style) if isinstance(cell, Text) else to_text(cell) for cell in cells))


def to_text(value: object, style: str | Style = "") -> Text:
    """A value as text of one line, which may be foreign."""
    return Text(printable(value), style=style)


def echo(text: str, *, stderr: bool = False) -> None:
    """Print one line, which may hold foreign text."""
    print(printable(text), file=sys.stderr if stderr else sys.stdout, flush=True)


def console(*, stderr: bool = False) -> Console:
    """A console for results (standard output) or progress (standard error). It shows text as it is, without markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNLIMITED_WIDTH
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def table(
    *columns: str, rows: Iterable[Iterable[str | Text]] = (), title: str | None = None, numeric: Sequence[int] = ()
) -> Table:
    """A table. The columns whose indices are in `numeric` are aligned to the right."""
    title = None if title is None else printable(title)
    result = _Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        result.add_column(name, justify="right" if index in numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


def grid(*columns: Column, padding: PaddingDimensions) -> Table:
    """A table without lines and column names."""
    return _Table.grid(*columns, padding=padding)


def key_values(rows: Mapping[str, object]) -> Table:
    """A table with one name and value per line. Values that are None are left out."""
    result = grid(padding=(0, 3))
    for name, value in rows.items():
        if value is not None:
            result.add_row(Text(name, style="bold"), to_text(value))
    return result


def finish(
    args: Namespace, value: object, *texts: RenderableType, failures: Sequence[VideoError] = (), total: int = 0
) -> int:
    """Print the result to standard output, the videos that could not be read to standard error; return the exit code.

    Args:
        args: the options; with --json, `value` is printed as one JSON document, else the texts and tables.
        failures: the videos that could not be read.
        total: number of videos.
    """
    if args.json:
        print(json.dumps(value, indent=2))
    else:
        for text in texts:
            console().print(text)
    if failures and distributed.is_main():
        echo(f"xvit: {len(failures)} of {total} videos could not be read:", stderr=True)
        for error in failures:
            echo(f"  {error}", stderr=True)
    return SOME_FAILED if failures else SUCCESS


def print_warnings(warnings: Sequence[tuple[str, Sequence[str]]], *, total: int) -> None:
    """Print the videos that were read with warnings, as pairs of path and warnings, to standard error."""
    if warnings and distributed.is_main():
        echo(f"xvit: {len(warnings)} of {total} videos were read with warnings:", stderr=True)
        for path, texts in warnings[:_MAX_WARNINGS]:
            echo(f"  {path}: {'; '.join(texts)}", stderr=True)
        if len(warnings) > _MAX_WARNINGS:
            echo(f"  and {len(warnings) - _MAX_WARNINGS} more; --json lists all", stderr=True)


def failures_to_json(failures: Sequence[VideoError]) -> list[dict[str, str]]:
    """The videos that could not be used, as plain values."""
    return [{"path": error.path, "reason": error.reason} for error in failures]


class _Display(Progress):
    """Progress bars, and below them what `below` returns."""

    below: Callable[[int], RenderableType] | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below is not None:
            yield self.below(self.console.width)


@contextmanager
def progress_display(
    *, quiet: bool = False, below: Callable[[int], RenderableType] | None = None
) -> Iterator[Progress]:
    """An empty display of progress bars on standard error. It shows no bars outside a terminal, or if `quiet`.

    Lines printed to its `console` appear above the bars, and in a log file too. `below` returns what is shown below the
    bars, in a terminal of so many columns; it is called again at each refresh.
    """
    display = _Display(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty() or not distributed.is_main(),
    )
    display.below = below
    with display:
        yield display


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A function to call with (name, done, total). It draws one bar per name."""
    with progress_display(quiet=quiet) as display:
        tasks: dict[str, TaskID] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = display.add_task(printable(name), total=None)
            display.update(tasks[name], completed=done, total=total)

        yield update


@contextmanager
def progress_bar(name: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A function to call with (done, total). It draws one bar."""
    with progress_bars(quiet=quiet) as update:
        yield partial(update, name)


class TrainingProgress:
    """Shows one training: a bar over all steps, and a line per validation (in a log file too) unless `quiet`."""

    def __init__(self, display: Progress, name: str, *, quiet: bool = False) -> None:
        self.display, self.name, self.quiet = display, name, quiet
        self.task = display.add_task(name, total=None)

    def __call__(self, event: "TrainingEvent") -> None:
        """Show an event of `fit(on_progress=...)`."""
        if event.stage == "frames":
            text = f"{self.name}: epoch {event.epoch} of {event.epochs}, frame vectors of {event.step} of {event.steps}"
            self.display.update(self.task, description=f"{text} videos")
        if event.stage == "train":
            loss = "" if event.loss is None else f", loss {event.loss:.3f}"
            speed = "" if event.clips_per_second is None else f", {event.clips_per_second:.0f} clips/s"
            text = f"{self.name}: epoch {event.epoch} of {event.epochs}{loss}{speed}"
            done = (event.epoch - 1) * event.steps + event.step
            self.display.update(self.task, description=text, completed=done, total=event.steps * event.epochs)
        if event.validation is not None and not self.quiet and distributed.is_main():
            loss = "" if event.loss is None else f"training loss {event.loss:.3f}, "
            epoch = f"epoch {event.epoch} of {event.epochs}"
            self.display.console.print(f"{self.name}: {epoch}: {loss}validation {event.validation}")


def best_classes(prediction: "Prediction | LivePrediction", k: int | None = None) -> dict[str, list[tuple[str, float]]]:
    """The best `k` classes of each task with their scores; all classes if `k` is None."""
    labels, scores = as_task_dict(prediction.labels), as_task_dict(prediction.scores)
    return {task: list(zip(labels[task], scores[task], strict=True))[:k] for task in labels}


def prediction_to_dict(prediction: "Prediction | LivePrediction", k: int) -> dict[str, Any]:
    """The prediction as plain values, with its best `k` classes only."""
    from xvit.inference.predictor import without_unknown

    values = without_unknown(asdict(prediction))
    for key in ("labels", "scores"):
        values[key] = unwrap_single_task({task: ranked[:k] for task, ranked in as_task_dict(values[key]).items()})
    return values


def format_metrics(metrics: Mapping[str, float]) -> dict[str, str]:
    """The accuracies among the metrics of a validation as text, such as {"top-5": "81.0 %"}; the main one first."""
    from xvit.evaluation import wilson_interval

    names, videos = {"top1": "top-1", "top5": "top-5", "map": "mAP"}, round(metrics.get("videos", 0))
    texts = {names[key]: f"{100 * value:.1f} %" for key, value in metrics.items() if key in names}
    if "top1" in metrics and videos:
        low, high = wilson_interval(round(metrics["top1"] * videos), videos)
        texts["top-1"] += f" (95 % interval {100 * low:.1f} to {100 * high:.1f} %) of {videos} validation videos"
    return texts
