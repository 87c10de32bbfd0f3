"""xvit demo [--output DIR] [--config RECIPE] [--clips-per-class N] [--seed S]

Generate videos of moving shapes. Train XViT and two models without mixing on them, with the same recipe.
Evaluate all three on held-out videos, classify some files, and write DIR/report.html.
Run the same command to continue after a stop: finished stages are not repeated, and nothing is overwritten.

examples:
  xvit demo
  xvit demo --output other --seed 1
"""

from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.progress import Progress, TaskID

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, read_recipe
from xvit.utils.files import check_writable_directory

if TYPE_CHECKING:
    from xvit.training import Progress as TrainingEvent


def add_options(parser: CommandParser) -> None:
    parser.add(
        "--output DIR", str, "folder to create, or to continue in", check=check_writable_directory, default="demo"
    )
    parser.add("--config RECIPE", str | None, "recipe file; recipes/motion.yaml if unset", check=read_recipe)
    parser.add("--clips-per-class N", int | None, "videos per class")
    parser.add("--seed S", int, "seed of the videos", default=0)
    parser.add_threads()


def run(args: Namespace) -> int:
    """Run the demo and print the comparison."""
    from xvit.experiments.common import default_recipe
    from xvit.experiments.demo.report import ORDER_BLIND_BOUND, comparison_table
    from xvit.experiments.demo.run import CLIPS_PER_CLASS, DemoCallbacks, run_demo

    with terminal.progress_display(quiet=args.json) as display:
        stages = _StageDisplay(display, quiet=args.json)
        try:
            result = run_demo(
                args.output,
                recipe=read_recipe(args.config) if args.config else default_recipe(),
                clips_per_class=args.clips_per_class or CLIPS_PER_CLASS,
                seed=args.seed,
                callbacks=DemoCallbacks(stages.on_count, stages.on_training, stages.on_stage_end),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # without the advice of a training: the same command continues the demo
    columns, rows = comparison_table(result["rows"])
    table = terminal.table(*columns, rows=rows, numeric=range(1, len(columns)))
    bound = f"{100 * ORDER_BLIND_BOUND:.0f} %"
    note = f"A model that ignores the order of the frames reaches at most {bound}, by construction."
    seconds = sum(result["seconds"].values())
    return terminal.finish(args, result, table, note, f"{seconds:.0f} s in total. Report: {result['report']}")


class _StageDisplay:
    """Shows the progress of `run_demo`: bars for the current stage, and a line for each finished one."""

    def __init__(self, display: Progress, *, quiet: bool) -> None:
        self.display, self.quiet = display, quiet
        self.tasks: dict[str, TaskID] = {}
        self.trainings: dict[str, terminal.TrainingProgress] = {}

    def on_count(self, name: str, done: int, total: int) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.display.add_task(name)
        self.display.update(self.tasks[name], completed=done, total=total)

    def on_training(self, name: str, event: "TrainingEvent") -> None:
        if name not in self.trainings:
            self.trainings[name] = terminal.TrainingProgress(self.display, name, quiet=self.quiet)
        self.trainings[name](event)

    def on_stage_end(self, name: str, seconds: float, earlier: bool) -> None:
        for task in self.display.task_ids:
            self.display.remove_task(task)
        self.tasks.clear()
        self.trainings.clear()
        if not self.quiet:
            self.display.console.print(f"{name:<20} {seconds:6.1f} s{'  (done earlier)' if earlier else ''}")
