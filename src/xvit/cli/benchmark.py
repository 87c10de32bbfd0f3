"""`xvit benchmark`: this machine's own comparison of video transformers."""

from dataclasses import asdict

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_device, add_json, make_parser
from xvit.cli.parsing import parse as parse_words


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "benchmark",
        "[--output DIR] [--models NAME ...] [--frames T ...] [--precisions P ...] [--modes M ...] [--rounds N]",
        "Measure video transformers side by side on this machine: XViT with each scheme, timm's image model on the\n"
        "same frames, TimeSformer, ViViT and VideoMAE of transformers, MViT v2 and Video Swin of torchvision. Time\n"
        "(all models take turns; medians), peak memory (a process for each), multiply-adds, growth with the frames.\n"
        "Writes benchmark.json, benchmark.md and benchmark.png. Run again with the same settings, it goes on where it\n"
        "was stopped; with other --frames, --precisions or --modes only those are measured, with more --models the\n"
        "others once more beside them. Needs a quiet machine.",
        "xvit benchmark\n"
        'xvit benchmark --output small --models "image model" "xvit mixing" VideoMAE --frames 8 16 --modes inference\n'
        "xvit benchmark --device cuda --batch-size 8 --rounds 20",
    )
    made.add_argument("--output", metavar="DIR", type=str, default="benchmark", help="folder to make, or to go on in")
    made.add_argument("--models", metavar="NAME", type=str, nargs="+", default=[], help="which; all if unset")
    made.add_argument(
        "--backbone", metavar="NAME", type=str, default="vit_base_patch16_224", help="whose size all have"
    )
    made.add_argument("--frames", metavar="T", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="frames a clip")
    made.add_argument("--precisions", metavar="P", type=str, nargs="+", default=["fp32", "bf16"], help="fp32, bf16")
    made.add_argument(
        "--modes", metavar="M", type=str, nargs="+", default=["inference", "training"], help="inference, training"
    )
    made.add_argument("--batch-size", metavar="N", type=int, default=1, help="clips at a time")
    made.add_argument("--rounds", metavar="N", type=int, default=5, help="turns of each model")
    made.add_argument("--compiled", action="store_true", help="through torch.compile, which needs a C++ compiler")
    made.add_argument("--threads", metavar="N", type=int | None, default=None, help="on a CPU; all cores if unset")
    add_device(made)
    add_json(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    return parse_words(parser(), argv)


def run(args: Namespace) -> int:
    """Measure, and print the tables."""
    import torch

    from xvit.experiments.benchmark.peers import MODELS
    from xvit.experiments.benchmark.report import COLUMNS, make_tables, summarize, table_rows, write_report
    from xvit.experiments.benchmark.run import BenchmarkConfig, run_benchmark
    from xvit.utils.devices import default_device

    config = BenchmarkConfig(
        models=tuple(args.models or MODELS),
        backbone=args.backbone,
        frames=tuple(args.frames),
        precisions=tuple(args.precisions),
        modes=tuple(args.modes),
        batch_size=args.batch_size,
        rounds=args.rounds,
        compiled=args.compiled,
        device=args.device or str(default_device()),
        threads=args.threads or torch.get_num_threads(),
    )
    with terminal.progress(quiet=args.json) as shown:
        task = shown.add_task("benchmark", total=None)

        def advance(what: str, done: int, total: int) -> None:
            shown.update(task, description=what, completed=done, total=total)

        rows = run_benchmark(args.output, config, advance)
    write_report(args.output, config, rows)
    if args.json:
        terminal.print_json([asdict(row) for row in rows])
        return SUCCESS
    out = terminal.console()
    for table in make_tables(rows):
        drawn = terminal.table(*COLUMNS, title=table.title, numbers=tuple(range(1, len(COLUMNS))))
        for line in table_rows(table):
            drawn.add_row(*line)
        out.print(drawn)
        for text in summarize(table):
            out.print(f"  {text}")
    out.print(f"written to {args.output}: benchmark.json, benchmark.md, benchmark.png")
    return SUCCESS
