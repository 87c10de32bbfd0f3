"""xvit demo [--output DIR] [--config RECIPE] [--clips-per-class N] [--seed S]

Classify new videos of moving shapes with the model that comes with xvit (--checkpoint motion). Then generate
more of them, train XViT and the same model without mixing on them, with the same recipe, and show the curves.
Evaluate both on held-out videos, classify some files, and write DIR/report.html.
Run the same command to continue after a stop: finished stages are not repeated, and nothing is overwritten.

examples:
  xvit demo
  xvit demo --output other --seed 1
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich.console import Group
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.curves import draw_curves
from xvit.cli.parsing import CommandParser, read_recipe
from xvit.utils.files import check_writable_directory

if TYPE_CHECKING:
    from xvit.training import Progress as TrainingEvent

_STYLES = ("bold blue", "yellow")  # of the curves, in the order of the trainings
_MAX_WIDTH, _HEIGHT = 100, 7  # of the curves, in characters


def add_options(parser: CommandParser) -> None:
    parser.add(
        "--output DIR", str, "folder to create, or to continue in", check=check_writable_directory, default="demo"
    )
    parser.add("--config RECIPE", str | None, "recipe file; recipes/demo.yaml if unset", check=read_recipe)
    parser.add("--clips-per-class N", int | None, "videos per class")
    parser.add("--seed S", int, "seed of the videos", default=0)
    parser.add_threads()


def run(args: Namespace) -> int:
    """Run the demo and print the comparison."""
    from xvit.experiments.demo.report import ORDER_BLIND_BOUND, comparison_table, next_commands
    from xvit.experiments.demo.run import CLIPS_PER_CLASS, DemoCallbacks, run_demo

    curves = _Curves(args.output)
    with terminal.progress_display(quiet=args.json, below=curves.render) as display:
        stages = _StageDisplay(display, curves, quiet=args.json)
        try:
            result = run_demo(
                args.output,
                recipe=read_recipe(args.config or "demo"),
                clips_per_class=args.clips_per_class or CLIPS_PER_CLASS,
                seed=args.seed,
                callbacks=DemoCallbacks(
                    stages.on_first_predictions, stages.on_count, stages.on_training, stages.on_stage_end
                ),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # without the advice of a training: the same command continues the demo
        if not display.disable:  # in a log file, the lines of the epochs say the same
            display.console.print(curves.render(display.console.width))
    columns, rows = comparison_table(result["rows"])
    table = terminal.table(*columns, rows=rows, numeric=range(1, len(columns)))
    bound = f"{100 * ORDER_BLIND_BOUND:.0f} %"
    notes = ["Pair: the right class or its time-reversed twin, which has the same frames in the opposite order."]
    notes.append(f"A model that ignores the order of the frames reaches at most {bound}, by construction.")
    seconds = sum(result["seconds"].values())
    report = f"{seconds:.0f} s in total. Report: {result['report']}"
    commands = [f"  {command}" for command in next_commands(args.output)]
    return terminal.finish(args, result, table, *notes, report, "Next:", *commands)


class _Curves:
    """The curves of the trainings so far, from their metric rows."""

    def __init__(self, output: str) -> None:
        self.output = Path(output)
        self.epochs = 0  # of a training; 0 before the first one
        self.rows: dict[str, list[dict[str, Any]]] = {}  # of each model

    def update(self, epochs: int) -> None:
        """Read the metric rows."""
        from xvit.experiments.demo.run import read_curves

        self.epochs, self.rows = epochs, read_curves(self.output)

    def render(self, width: int) -> Group:
        """Accuracy and loss side by side, each model in its colour; empty before the first rows."""
        if not self.epochs:
            return Group()
        legend, panels = Text(), Table.grid(padding=(0, 2, 0, 0))  # of no foreign text
        accuracy, loss = (
            {style: _points(rows, key) for style, rows in zip(_STYLES, self.rows.values(), strict=False)}
            for key in ("top1", "loss")
        )
        for name, style in zip(self.rows, _STYLES, strict=False):
            latest = f" {100 * accuracy[style][-1][1]:.1f} %" if accuracy[style] else ""
            legend.append(f"━ {name}{latest}   ", style)
        size: dict[str, Any] = {"width": min(width, _MAX_WIDTH) // 2 - 2, "height": _HEIGHT, "x_max": self.epochs}
        y_max = max((y for points in loss.values() for _, y in points), default=1.0)
        panels.add_row(
            draw_curves(accuracy, title="accuracy, held-out videos", y_max=1.0, percent=True, **size),
            draw_curves(loss, title="training loss, by epoch", y_max=y_max, **size),
        )
        return Group(panels, legend)


def _points(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[key]) for row in rows if key in row]


class _StageDisplay:
    """Shows the progress of `run_demo`: bars for the current stage, and a line for each finished one."""

    def __init__(self, display: Progress, curves: _Curves, *, quiet: bool) -> None:
        self.display, self.curves, self.quiet = display, curves, quiet
        self.tasks: dict[str, TaskID] = {}
        self.trainings: dict[str, terminal.TrainingProgress] = {}
        self.loss: float | None = None  # of the latest metric row

    def on_first_predictions(self, predictions: list[dict[str, Any]], picture: str) -> None:
        if self.quiet:
            return
        table = terminal.table("ground truth", "prediction", "score", numeric=[2])
        for item in predictions:
            style = "green" if item["prediction"] == item["ground_truth"] else "red"
            cells = [Text(item["prediction"], style=style), Text(f"{100 * item['score']:.0f} %", style=style)]
            table.add_row(item["ground_truth"], *cells)
        correct = sum(item["prediction"] == item["ground_truth"] for item in predictions)
        print_line = self.display.console.print
        print_line("The model that comes with xvit, --checkpoint motion, on videos it has not seen:")
        print_line(table)
        print_line(f"{correct} of {len(predictions)} correct. Picture: {picture}")

    def on_count(self, name: str, done: int, total: int) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.display.add_task(name)
        self.display.update(self.tasks[name], completed=done, total=total)

    def on_training(self, name: str, event: "TrainingEvent") -> None:
        if name not in self.trainings:
            self.trainings[name] = terminal.TrainingProgress(self.display, name, quiet=self.quiet)
        if event.loss != self.loss or event.validation is not None:  # there is a new metric row
            self.loss = event.loss
            self.curves.update(event.epochs)
        self.trainings[name](event)

    def on_stage_end(self, name: str, seconds: float, earlier: bool) -> None:
        for task in self.display.task_ids:
            self.display.remove_task(task)
        self.tasks.clear()
        self.trainings.clear()
        if not self.quiet:
            self.display.console.print(f"{name:<20} {seconds:6.1f} s{'  (done earlier)' if earlier else ''}")
