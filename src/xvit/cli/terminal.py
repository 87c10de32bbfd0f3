"""Output of the commands: tables and progress bars for people, JSON for programs; plain text outside a terminal."""

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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.config import as_task_dict, unwrap_single_task
from xvit.utils import distributed
from xvit.utils.errors import VideoError

if TYPE_CHECKING:
    from xvit.inference.live import LivePrediction
    from xvit.inference.predictor import Prediction
    from xvit.training import Progress as TrainingEvent

_MAX_WARNINGS = 20  # videos that were read with warnings, in a list for people
_UNLIMITED_WIDTH = 10_000  # columns; nothing is cut or wrapped in a file or a pipe


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # handled by `main`, instead of rich's own exit


def console(*, stderr: bool = False) -> Console:
    """A console for results (standard output) or progress (standard error). It shows text as it is, without markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNLIMITED_WIDTH
    return _Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def table(
    *columns: str, rows: Iterable[Iterable[str | Text]] = (), title: str | None = None, numeric: Sequence[int] = ()
) -> Table:
    """A table. The columns whose indices are in `numeric` are aligned to the right."""
    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        result.add_column(name, justify="right" if index in numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


def key_values(rows: Mapping[str, object]) -> Table:
    """A table with one name and value per line. Values that are None are left out."""
    result = Table.grid(padding=(0, 3))
    for name, value in rows.items():
        if value is not None:
            result.add_row(Text(name, style="bold"), Text(str(value)))
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
        print(f"xvit: {len(failures)} of {total} videos could not be read:", file=sys.stderr)
        for error in failures:
            print(f"  {error}", file=sys.stderr)
    return SOME_FAILED if failures else SUCCESS


def print_warnings(warnings: Sequence[tuple[str, Sequence[str]]], *, total: int) -> None:
    """Print the videos that were read with warnings, as pairs of path and warnings, to standard error."""
    if warnings and distributed.is_main():
        print(f"xvit: {len(warnings)} of {total} videos were read with warnings:", file=sys.stderr)
        for path, texts in warnings[:_MAX_WARNINGS]:
            print(f"  {path}: {'; '.join(texts)}", file=sys.stderr)
        if len(warnings) > _MAX_WARNINGS:
            print(f"  and {len(warnings) - _MAX_WARNINGS} more; --json lists all", file=sys.stderr)


def failures_to_json(failures: Sequence[VideoError]) -> list[dict[str, str]]:
    """The videos that could not be used, as plain values."""
    return [{"path": error.path, "reason": error.reason} for error in failures]


@contextmanager
def progress_display(*, quiet: bool = False) -> Iterator[Progress]:
    """An empty display of progress bars on standard error. It shows no bars outside a terminal, or if `quiet`.

    Lines printed to its `console` appear above the bars, and in a log file too.
    """
    display = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty() or not distributed.is_main(),
    )
    with display:
        yield display


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A function to call with (name, done, total). It draws one bar per name."""
    with progress_display(quiet=quiet) as display:
        tasks: dict[str, TaskID] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = display.add_task(name, total=None)
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
    values = asdict(prediction)
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
