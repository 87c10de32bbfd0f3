"""`xvit benchmark`: compare XViT with other video transformers on this machine."""

from dataclasses import asdict

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_device, add_json, make_parser, parse_args


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "benchmark",
        "[--output DIR] [--models NAME ...] [--frames T ...] [--precisions P ...] [--modes M ...] [--rounds N]",
        "Measure video transformers on this machine: XViT with each attention scheme, timm's image model on the "
        "same frames, TimeSformer, ViViT and VideoMAE of transformers, MViT v2 and Video Swin of torchvision. "
        "Reports the median time (the models take turns), the peak memory (each model in its own process), "
        "multiply-adds, and the growth with the number of frames. Use an otherwise idle machine.\n"
        "Writes benchmark.json, benchmark.md and benchmark.png. Run the same command to continue after a stop. "
        "With other --frames, --precisions or --modes, only the new ones are measured; with more --models, all "
        "are measured again.",
        "xvit benchmark\n"
        'xvit benchmark --output small --models "image model" "xvit mixing" VideoMAE --frames 8 16 --modes inference\n'
        "xvit benchmark --device cuda --batch-size 8 --rounds 20",
    )
    add = parser.add_argument
    add("--output", metavar="DIR", type=str, default="benchmark", help="folder to create, or to continue in")
    add("--models", metavar="NAME", type=str, nargs="+", default=[], help="models; all if unset")
    add("--backbone", metavar="NAME", type=str, default="vit_base_patch16_224", help="sets the size of the models")
    add("--frames", metavar="T", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="frames per clip")
    add("--precisions", metavar="P", type=str, nargs="+", default=["fp32", "bf16"], help="fp32, bf16")
    add("--modes", metavar="M", type=str, nargs="+", default=["inference", "training"], help="inference, training")
    add("--batch-size", metavar="N", type=int, default=1, help="clips per step")
    add("--rounds", metavar="N", type=int, default=5, help="timed steps of each model")
    add("--compiled", action="store_true", help="use torch.compile, which needs a C++ compiler")
    add("--threads", metavar="N", type=int | None, help="threads on a CPU; all cores if unset")
    add_device(parser)
    add_json(parser)
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse the arguments after the command."""
    return parse_args(parser(), argv)


def run(args: Namespace) -> int:
    """Measure the models and print the tables."""
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
    with terminal.progress_display(quiet=args.json) as display:
        task = display.add_task("benchmark", total=None)

        def update(step: str, done: int, total: int) -> None:
            display.update(task, description=step, completed=done, total=total)

        results = run_benchmark(args.output, config, update)
    write_report(args.output, config, results)
    if args.json:
        terminal.print_json([asdict(result) for result in results])
        return SUCCESS
    console = terminal.console()
    for result_table in make_tables(results):
        table = terminal.table(*COLUMNS, title=result_table.title, numeric=range(1, len(COLUMNS)))
        for row in table_rows(result_table):
            table.add_row(*row)
        console.print(table)
        for line in summarize(result_table):
            console.print(f"  {line}")
    console.print(f"written to {args.output}: benchmark.json, benchmark.md, benchmark.png")
    return SUCCESS
