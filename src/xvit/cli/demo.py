"""`xvit demo`: three models trained, tested and compared, without any data to bring."""

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.progress import Progress, TaskID

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.config import RunConfig, from_dict, read_yaml

if TYPE_CHECKING:
    from xvit.training.logger import Progress as TrainingNews


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "demo",
        "[--output DIR] [--config RECIPE] [--clips-per-class N] [--seed S]",
        "Make videos of moving shapes, train XViT on them and, by the same recipe, two models without mixing; test\n"
        "all three on held-out videos, predict some files, and write DIR/report.html. Run again, it goes on where it\n"
        "was stopped: what is done is not done again, and nothing is overwritten.",
        "xvit demo\nxvit demo --output other --seed 1",
    )
    made.add_argument("--output", metavar="DIR", type=str, default="demo", help="folder to make, or to go on in")
    made.add_argument(
        "--config", metavar="RECIPE", type=str | None, default=None, help="recipe file; recipes/motion.yaml if unset"
    )
    made.add_argument("--clips-per-class", metavar="N", type=int | None, default=None, help="videos a class")
    made.add_argument("--seed", metavar="S", type=int, default=0, help="of the videos")
    add_json(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    args = parse_words(parser(), argv)
    args.recipe = from_dict(RunConfig, read_yaml(args.config), args.config) if args.config else None
    return args


def run(args: Namespace) -> int:
    """Run the demonstration."""
    from xvit.experiments.demo.report import ORDER_BLIND_BOUND, table_of
    from xvit.experiments.demo.run import CLIPS_PER_CLASS, Listener, default_recipe, run_demo

    with terminal.progress(quiet=args.json) as shown:
        display = _Display(shown, quiet=args.json)
        try:
            result = run_demo(
                args.output,
                recipe=args.recipe or default_recipe(),
                clips_per_class=args.clips_per_class or CLIPS_PER_CLASS,
                seed=args.seed,
                listener=Listener(display.counted, display.training, display.finished),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # without a training's advice: here the same command goes on
    if args.json:
        terminal.print_json(result)
        return SUCCESS
    heads, cells = table_of(result["rows"])
    table = terminal.table(*heads, numbers=tuple(range(1, len(heads))))
    for line in cells:
        table.add_row(*line)
    out = terminal.console()
    out.print(table)
    bound = f"{100 * ORDER_BLIND_BOUND:.0f} %"
    out.print(f"A model that is blind to the order of the frames reaches at most {bound}, by construction.")
    out.print(f"{sum(result['seconds'].values()):.0f} s in all. Look at {result['report']}")
    return SUCCESS


class _Display:
    """Shows what `run_demo` tells: a bar for what is under way, a line for each stage that is done."""

    def __init__(self, shown: Progress, *, quiet: bool) -> None:
        self.shown, self.quiet = shown, quiet
        self.counts: dict[str, TaskID] = {}
        self.trainings: dict[str, terminal.TrainingProgress] = {}

    def counted(self, name: str, done: int, total: int) -> None:
        if name not in self.counts:
            self.counts[name] = self.shown.add_task(name)
        self.shown.update(self.counts[name], completed=done, total=total)

    def training(self, name: str, news: "TrainingNews") -> None:
        if name not in self.trainings:
            self.trainings[name] = terminal.TrainingProgress(self.shown, name, quiet=self.quiet)
        self.trainings[name](news)

    def finished(self, name: str, seconds: float, earlier: bool) -> None:
        for task in self.shown.task_ids:
            self.shown.remove_task(task)
        self.counts.clear()
        self.trainings.clear()
        if not self.quiet:
            self.shown.console.print(f"{name:<20} {seconds:6.1f} s{'  (done earlier)' if earlier else ''}")
