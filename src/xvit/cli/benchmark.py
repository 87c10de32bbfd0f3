"""xvit benchmark [--output DIR] [--models NAME ...] [--backbones NAME ...] [--frames T ...] [--time-limit MIN]

Measure video transformers on this machine: XViT with each attention scheme, timm's image model on the same
frames, TimeSformer, ViViT and VideoMAE of transformers, MViT v2 and Video Swin of torchvision. Reports each
model's time relative to the image model with its 95 % interval, the peak memory (each model in processes of
its own), and multiply-adds. Use an otherwise idle machine.

All models with the same number of frames take turns in rounds, until the interval of each ratio is within
--margin percent, or the time is used up; ratios that are less precise are marked.

Writes benchmark.json, benchmark.md, inference.png and training.png. Ctrl-C ends with what was measured so
far. Run the same command to continue after a stop, or to add rounds where a ratio is not precise enough.
With other --backbones, --frames, --precisions or --modes, only the new ones are measured; with more --models,
all are measured again.

examples:
  xvit benchmark
  xvit benchmark --output small --models "xvit mixing" VideoMAE --frames 8 16 --modes inference --time-limit 5
  xvit benchmark --output small --report-only
  xvit benchmark --device cuda --batch-size 8 --margin 0.5
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich.console import RenderableType

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, select
from xvit.utils.files import check_writable_directory

if TYPE_CHECKING:
    from xvit.experiments.benchmark.run import GroupResult


def add_options(parser: CommandParser) -> None:
    parser.add(
        "--output DIR", str, "folder to create, or to continue in", check=check_writable_directory, default="benchmark"
    )
    parser.add("--models NAME", str, "models besides the image model; all if unset", nargs="+", default=[])
    parser.add("--backbones NAME", str, "the sizes of the models", nargs="+", default=["vit_base_patch16_224"])
    parser.add("--frames T", int, "frames per clip", nargs="+", default=[4, 8, 16])
    parser.add("--precisions P", str, "fp32, bf16", nargs="+", default=["fp32"])
    parser.add("--modes M", str, "inference, training", nargs="+", default=["inference", "training"])
    parser.add("--batch-size N", int, "clips per step", default=1)
    parser.add("--margin PERCENT", float, "measure until the interval of each ratio is within this", default=1.0)
    parser.add("--time-limit MINUTES", float, "limit of all rounds together; memory comes on top", default=60.0)
    parser.add_switch("--compiled", "use torch.compile, which needs a C++ compiler")
    parser.add_switch("--report-only", "write the report of the measurements in --output again; measure nothing")
    parser.add_device()


def run(args: Namespace) -> int:
    """Measure the models and print the tables."""
    if not args.report_only:
        try:
            _measure(args)
        except KeyboardInterrupt:
            if (Path(args.output) / "benchmark.json").is_file():
                terminal.echo("xvit: stopped early: the report has the rounds up to here", stderr=True)
                _report(args)
            raise
    return _report(args)


def _measure(args: Namespace) -> None:
    import torch

    from xvit.experiments.benchmark.peers import MODELS
    from xvit.experiments.benchmark.run import BenchmarkConfig, run_benchmark
    from xvit.utils.devices import default_device

    config = BenchmarkConfig(
        **select(args, "batch_size", "margin", "time_limit", "compiled"),
        models=tuple(args.models or MODELS),
        backbones=tuple(args.backbones),
        frames=tuple(args.frames),
        precisions=tuple(args.precisions),
        modes=tuple(args.modes),
        device=args.device or str(default_device()),
        threads=torch.get_num_threads(),
    )
    with terminal.progress_display(quiet=args.json) as display:
        task, finished = display.add_task("benchmark", total=None), 0

        def update(step: str, done: int, total: int) -> None:
            nonlocal finished
            if done > finished and not args.json:
                display.console.print(step)  # how precise the finished group is, in a log file too
            finished = done
            display.update(task, description=step, completed=done, total=total)

        run_benchmark(args.output, config, update)


def _report(args: Namespace) -> int:
    from xvit.experiments.benchmark.report import COLUMNS, make_tables, summarize, table_rows, write_report
    from xvit.experiments.benchmark.run import read_benchmark

    groups, machine = read_benchmark(args.output)
    files = write_report(args.output, groups, machine)
    texts: list[RenderableType] = []
    for table in make_tables(groups):
        numeric = range(1, len(COLUMNS))
        texts.append(terminal.table(*COLUMNS, rows=table_rows(table), title=table.title, numeric=numeric))
        texts += [f"  {line}" for line in summarize(table)]
    texts.append(f"written to {args.output}: benchmark.json, {', '.join(files)}")
    return terminal.finish(args, _to_json(groups), *texts)


def _to_json(groups: "Sequence[GroupResult]") -> list[dict[str, Any]]:
    from xvit.experiments.benchmark.run import ratios_to_json

    extra = ("rounds", "outlier_rounds")
    return [
        asdict(group) | {name: getattr(group, name) for name in extra} | {"time_ratios": ratios_to_json(group)}
        for group in groups
    ]
