"""xvit benchmark [--output DIR] [--models NAME ...] [--frames T ...] [--precisions P ...] [--modes M ...] [--rounds N]

Measure video transformers on this machine: XViT with each attention scheme, timm's image model on the same
frames, TimeSformer, ViViT and VideoMAE of transformers, MViT v2 and Video Swin of torchvision. Reports the
median time (the models take turns), the peak memory (each model in its own process), multiply-adds, and the
growth with the number of frames. Use an otherwise idle machine.
Writes benchmark.json, benchmark.md and benchmark.png. Run the same command to continue after a stop. With
other --frames, --precisions or --modes, only the new ones are measured; with more --models, all are measured
again.

examples:
  xvit benchmark
  xvit benchmark --output small --models "image model" "xvit mixing" VideoMAE --frames 8 16 --modes inference
  xvit benchmark --device cuda --batch-size 8 --rounds 20
"""

from dataclasses import asdict

from jsonargparse import Namespace
from rich.console import RenderableType

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, select
from xvit.utils.files import check_writable_directory


def add_options(parser: CommandParser) -> None:
    parser.add(
        "--output DIR", str, "folder to create, or to continue in", check=check_writable_directory, default="benchmark"
    )
    parser.add("--models NAME", str, "models; all if unset", nargs="+", default=[])
    parser.add("--backbone NAME", str, "sets the size of the models", default="vit_base_patch16_224")
    parser.add("--frames T", int, "frames per clip", nargs="+", default=[4, 8, 16, 32, 64])
    parser.add("--precisions P", str, "fp32, bf16", nargs="+", default=["fp32", "bf16"])
    parser.add("--modes M", str, "inference, training", nargs="+", default=["inference", "training"])
    parser.add("--batch-size N", int, "clips per step", default=1)
    parser.add("--rounds N", int, "timed steps of each model", default=5)
    parser.add_switch("--compiled", "use torch.compile, which needs a C++ compiler")
    parser.add_device()


def run(args: Namespace) -> int:
    """Measure the models and print the tables."""
    import torch

    from xvit.experiments.benchmark.peers import MODELS
    from xvit.experiments.benchmark.report import COLUMNS, make_tables, summarize, table_rows, write_report
    from xvit.experiments.benchmark.run import BenchmarkConfig, run_benchmark
    from xvit.utils.devices import default_device

    config = BenchmarkConfig(
        **select(args, "backbone", "batch_size", "rounds", "compiled"),
        models=tuple(args.models or MODELS),
        frames=tuple(args.frames),
        precisions=tuple(args.precisions),
        modes=tuple(args.modes),
        device=args.device or str(default_device()),
        threads=torch.get_num_threads(),
    )
    with terminal.progress_display(quiet=args.json) as display:
        task = display.add_task("benchmark", total=None)

        def update(step: str, done: int, total: int) -> None:
            display.update(task, description=step, completed=done, total=total)

        results = run_benchmark(args.output, config, update)
    write_report(args.output, config, results)
    texts: list[RenderableType] = []
    for table in make_tables(results):
        numeric = range(1, len(COLUMNS))
        texts.append(terminal.table(*COLUMNS, rows=table_rows(table), title=table.title, numeric=numeric))
        texts += [f"  {line}" for line in summarize(table)]
    texts.append(f"written to {args.output}: benchmark.json, benchmark.md, benchmark.png")
    return terminal.finish(args, [asdict(result) for result in results], *texts)
