"""`xvit eval`: a trained model on labelled videos."""

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import DONE, SOME_FAILED, terminal
from xvit.cli.parsing import TRAINING_ONLY, add_device, add_json, check_new_folder, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.config import DataConfig, EvalConfig
from xvit.errors import VideoError, XViTError


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "eval",
        "--checkpoint DIR --data.root DIR [--output DIR] [--eval.temporal_views N] [--eval.spatial_views M]",
        "Measure a trained model on DIR/val/<class>/*.mp4 (or the held-out part of DIR/<class>/*.mp4).\n"
        "Writes to the output, if given: evaluation.json, predictions.jsonl, pictures. A video that cannot be read is\n"
        "named, never replaced; the exit code is then 1.",
        "xvit eval --checkpoint run/best --data.root videos --output result\n"
        "xvit eval --checkpoint run/best --data.root videos --eval.temporal_views 2 --eval.spatial_views 3 --json",
    )
    made.add_argument("--checkpoint", metavar="DIR", type=str, required=True, help="a trained model")
    made.add_argument(
        "--output", metavar="DIR", type=str | None, default=None, help="folder for the result, to be made"
    )
    add_device(made)
    add_json(made)
    made.add_class_arguments(DataConfig, "data", skip=TRAINING_ONLY)
    made.add_class_arguments(EvalConfig, "eval")
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    made = parser()
    args = made.instantiate(parse_words(made, argv))
    if not args.data.root:
        raise XViTError("--data.root: missing: the folder of the videos. See `xvit eval --help`")
    return args


def run(args: Namespace) -> int:
    """Evaluate."""
    from xvit.data.formats import read_data
    from xvit.evaluation import certificate, evaluate, match_labels
    from xvit.inference import Predictor

    output = check_new_folder(args.output) if args.output else None
    predictor = Predictor(args.checkpoint, device=args.device)
    data = read_data(args.data)
    if not data.val:
        raise XViTError("--data.val: missing: the annotation file of the held-out videos. See `xvit eval --help`")
    samples = match_labels(data.val, data.labels, predictor.labels)
    with terminal.counter("evaluating", quiet=args.json) as advance:
        result = evaluate(predictor, samples, eval_config=args.eval, workers=args.data.workers, on_progress=advance)
    if output:
        result.save(output, of=certificate(predictor, args.data))
    if args.json:
        terminal.print_json(result.to_dict())
    else:
        out = terminal.console()
        for task, counted in result.tasks.items():
            if len(result.tasks) > 1:
                out.print(str(task))
            shown = terminal.table("class", "top-1", "most often taken for", numbers=(1,))
            for row, (name, share) in enumerate(counted.per_class.items()):
                wrong = [(0 if column == row else count, column) for column, count in enumerate(counted.confusion[row])]
                count, column = max(wrong)
                other = f"{counted.labels[column]} ({count})" if count else ""
                shown.add_row(name, "" if share is None else f"{100 * share:.1f} %", other)
            out.print(shown)
        out.print(str(result))
        if output:
            out.print(f"written to {output}")
    failed = [VideoError(path, reason) for path, reason in result.failures]
    terminal.report_failures(failed, len(samples))
    return SOME_FAILED if failed else DONE
