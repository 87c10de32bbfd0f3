"""`xvit eval`: a trained model on labelled videos."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import TRAINING_ONLY, add_device, add_json, add_trust, check_new_folder, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.config import SINGLE_TASK, DataConfig, EvalConfig
from xvit.utils import distributed
from xvit.utils.errors import VideoError, XViTError

if TYPE_CHECKING:
    from xvit.evaluation import Evaluation, MultiLabelEvaluation, ScoredVideos


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "eval",
        "--checkpoint DIR --data.root DIR [--output DIR] [--eval.temporal_views N] [--eval.spatial_views M]\n"
        "                 [--submission FILE]",
        "Measure a trained model on DIR/val/<class>/*.mp4 (or the held-out part of DIR/<class>/*.mp4).\n"
        "Writes to the output, if given: evaluation.json, predictions.jsonl, pictures. A video that cannot be read is\n"
        "named, never replaced; the exit code is then 1. Under torchrun each process reads a part, and the result is\n"
        "that of one. Videos without labels can be scored for a challenge: --submission.",
        "xvit eval --checkpoint run/best --data.root videos --output result\n"
        "xvit eval --checkpoint run/best --data.root videos --eval.temporal_views 2 --eval.spatial_views 3 --json\n"
        "torchrun --nproc-per-node 8 -m xvit eval --checkpoint run/best --data.root videos\n"
        "xvit eval --checkpoint run/best --data.root epic --data.format epic --data.val EPIC_100_test_timestamps.csv "
        "--submission test.json --supervision 2 3 4",
    )
    made.add_argument("--checkpoint", metavar="DIR", type=str, required=True, help="a trained or an exported model")
    made.add_argument(
        "--output", metavar="DIR", type=str | None, default=None, help="folder for the result, to be made"
    )
    made.add_argument(
        "--submission",
        metavar="FILE",
        type=str | None,
        default=None,
        help="write scores for a challenge: .json for EPIC-KITCHENS-100, .csv for the five best classes of each video",
    )
    made.add_argument(
        "--supervision",
        metavar="LEVEL",
        type=int,
        nargs=3,
        default=[],
        help="of an EPIC submission: levels of pretraining, training labels, training data",
    )
    add_device(made)
    add_trust(made)
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
    from xvit.data.annotations.formats import load_splits
    from xvit.evaluation import match_labels, measure, run_metadata, score
    from xvit.evaluation.results import check_labels
    from xvit.evaluation.submissions import check_submission, write_submission
    from xvit.inference.predictor import Predictor

    output = check_new_folder(args.output) if args.output else None
    predictor = Predictor(args.checkpoint, device=args.device, trust_code=args.trust_code)
    data = load_splits(args.data)
    if not data.val:
        raise XViTError("--data.val: missing: the annotation file of the held-out videos. See `xvit eval --help`")
    samples = match_labels(data.val, data.class_names, predictor.class_names)
    labelled = any(sample.label is not None for sample in samples)
    if labelled:
        check_labels(samples, predictor.class_names, multi_label=predictor.multi_label)
    elif not args.submission and not output:
        raise XViTError(
            f"{args.data.val}: no labels in it, so nothing to measure: give --submission FILE or --output DIR for the "
            "scores"
        )
    if args.submission:
        check_submission(args.submission, predictor.class_names, supervision=tuple(args.supervision))
    with terminal.counter("evaluating", quiet=args.json) as advance:
        scored = score(
            predictor,
            samples,
            eval_config=args.eval,
            num_workers=args.data.num_workers,
            decode_timeout=args.data.decode_timeout,
            on_progress=advance,
        )
    result = measure(scored) if labelled else scored
    if distributed.is_main():
        if args.submission:
            write_submission(args.submission, scored, supervision=tuple(args.supervision))
        if output:
            result.save(output, of=run_metadata(predictor, args.data, checkpoint=args.checkpoint))
    if args.json:
        terminal.print_json(result.to_dict() | ({"submission": args.submission} if args.submission else {}))
    else:
        out = terminal.console()
        for table in _tables(result):
            out.print(table)
        out.print(str(result))
        for written in filter(None, (output, args.submission)):
            out.print(f"written to {written}")
    failed = [VideoError(path, reason) for _, path, reason in scored.failures]
    terminal.report_failures(failed, len(samples))
    return SOME_FAILED if failed else SUCCESS


def _tables(result: "Evaluation | MultiLabelEvaluation | ScoredVideos") -> Iterator[Table]:
    """A line a class; none of videos without labels."""
    from xvit.evaluation import MultiLabelEvaluation, ScoredVideos

    if isinstance(result, ScoredVideos):
        return
    if isinstance(result, MultiLabelEvaluation):
        shown = terminal.table("class", "average precision", numbers=(1,))
        for name, precision in result.average_precision.items():
            shown.add_row(name, "" if precision is None else f"{100 * precision:.1f} %")
        yield shown
        return
    for task, counted in result.tasks.items():
        title = (
            None
            if task == SINGLE_TASK
            else f"{task}: top-1 {100 * counted.top1:.1f} %, top-5 {100 * counted.top5:.1f} %"
        )
        shown = terminal.table("class", "top-1", "most often taken for", title=title, numbers=(1,))
        for row, (name, share) in enumerate(counted.per_class.items()):
            wrong = [(0 if column == row else count, column) for column, count in enumerate(counted.confusion[row])]
            count, column = max(wrong)
            other = f"{counted.class_names[column]} ({count})" if count else ""
            shown.add_row(name, "" if share is None else f"{100 * share:.1f} %", other)
        mean = 100 * counted.mean_class_accuracy
        shown.caption, shown.caption_justify = f"mean class accuracy {mean:.2f} %", "left"
        yield shown
