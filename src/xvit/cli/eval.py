"""xvit eval --checkpoint DIR --data.root DIR [--split val|test] [--output DIR] [--eval.temporal_views N]
                 [--eval.spatial_views M] [--submission FILE]

Measure a trained model on the videos DIR/val/<class>/*.mp4 (or on the held-out part of DIR/<class>/*.mp4; for
annotation files, see --data.format). Prints the accuracy of each class and of all videos, with its 95 %
interval, and how far scores are from the share of videos that is right (calibration error). Writes to the
output folder, if given: evaluation.json, predictions.jsonl and plots.
The validation videos chose the checkpoint "best" of a training, so its accuracy on them tends to be too high.
With --split test it is measured on videos that training does not read: DIR/test/<class>/*.mp4, --data.test
FILE, or a part of the class folders, --data.test_fraction. Videos that the model knows from its training are
counted.
Videos that cannot be read are listed, never replaced; the exit code is then 1. Under torchrun, each process
scores a part of the videos; the result is the same. Videos without labels can be scored for a challenge with
--submission.

examples:
  xvit eval --checkpoint run/best --data.root videos --output result
  xvit eval --checkpoint run/best --data.root videos --eval.temporal_views 2 --eval.spatial_views 3 --json
  xvit eval --checkpoint run/best --data.root videos --split test
  torchrun --nproc-per-node 8 -m xvit eval --checkpoint run/best --data.root videos
  xvit eval --checkpoint run/best --data.root epic --data.format epic --data.val EPIC_100_test_timestamps.csv --submission test.json --supervision 2 3 4
"""  # noqa: E501

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import RenderableType
from rich.table import Table

from xvit.cli import terminal
from xvit.cli.parsing import TRAINED_OR_EXPORTED_MODEL, CommandParser, parse_data_args
from xvit.cli.splits import add_split, describe_seen, read_split
from xvit.config import SINGLE_TASK, EvalConfig
from xvit.utils import distributed
from xvit.utils.checkpoint_path import check_model
from xvit.utils.errors import VideoError, WriteError, XViTError
from xvit.utils.files import atomic_directory, check_new_directory, check_writable_file, write_errors

if TYPE_CHECKING:
    from xvit.data.annotations import Sample
    from xvit.evaluation import Evaluation, MultiLabelEvaluation, ScoredVideos, TaskResult
    from xvit.inference.predictor import Predictor


def add_options(parser: CommandParser) -> None:
    parser.add("--checkpoint DIR", str, TRAINED_OR_EXPORTED_MODEL, required=True, check=check_model)
    parser.add("--output DIR", str | None, "folder for the result, to be created", check=check_new_directory)
    text = "write scores for a challenge: .json for EPIC-KITCHENS-100, .csv for the five best classes per video"
    parser.add("--submission FILE", str | None, text, check=check_writable_file)
    text = "for EPIC-KITCHENS: the supervision levels of pretraining, training labels and training data"
    parser.add("--supervision LEVEL", int, text, nargs=3, default=[])
    parser.add_device()
    parser.add_trust_code()
    add_split(parser)
    parser.add_class_arguments(EvalConfig, "eval")


parse = parse_data_args


def run(args: Namespace) -> int:
    """Evaluate the model and print its metrics."""
    from xvit.data.seen import count_seen
    from xvit.evaluation import compute_metrics, run_metadata, score_videos
    from xvit.evaluation.submissions import write_submission
    from xvit.inference.predictor import Predictor

    output = check_new_directory(args.output) if args.output else None
    predictor = Predictor(args.checkpoint, device=args.device, trust_code=args.trust_code)
    samples, labelled = _read_samples(args, predictor)
    seen = count_seen(getattr(predictor.model, "provenance", {}), samples)
    with terminal.progress_bar("evaluating", quiet=args.json) as update:
        options = {"num_workers": args.data.num_workers, "decode_timeout": args.data.decode_timeout}
        scored = score_videos(predictor, samples, eval_config=args.eval, **options, on_progress=update)
    result = compute_metrics(scored) if labelled else scored
    write_error: WriteError | None = None
    if distributed.is_main():
        try:
            if args.submission:
                write_submission(args.submission, scored, supervision=tuple(args.supervision))
            if output:
                metadata = run_metadata(predictor, args.data, checkpoint=args.checkpoint)
                # An empty folder may be a mount point, which cannot be replaced.
                writing = write_errors(output) if output.exists() else atomic_directory(output)
                with writing as folder:
                    result.save(folder or output, metadata=metadata | {"split": args.split, "seen_in_training": seen})
        except WriteError as error:  # a result of hours is printed first
            write_error = error
    values = result.to_dict() | {"split": args.split, "seen_in_training": seen}
    values |= {"submission": args.submission} if args.submission else {}
    written = [f"written to {path}" for path in (output, args.submission) if path and not write_error]
    failures = [VideoError(path, reason) for _, path, reason in scored.failures]
    texts: list[RenderableType] = [*_tables(result), str(result), *describe_seen(seen, len(samples)), *written]
    terminal.print_warnings([(path, texts) for _, path, texts in scored.warnings], total=len(samples))
    exit_code = terminal.finish(args, values, *texts, failures=failures, total=len(samples))
    if write_error:
        raise write_error
    return exit_code


def _read_samples(args: Namespace, predictor: "Predictor") -> "tuple[list[Sample], bool]":
    """The videos of the split, and whether they have labels.

    Raises:
        XViTError: there are none, their labels do not suit the model, or nothing is asked of unlabelled videos.
    """
    from xvit.evaluation.submissions import check_submission

    samples = read_split(args, predictor.class_names, multi_label=predictor.multi_label, prog="xvit eval")
    labelled = any(sample.label is not None for sample in samples)
    if not labelled and not args.submission and not args.output:
        raise XViTError(
            f"{getattr(args.data, args.split)}: the videos have no labels, so there is nothing to measure; give "
            "--submission FILE or --output DIR to write their scores"
        )
    if args.submission:
        check_submission(args.submission, predictor.class_names, supervision=tuple(args.supervision))
    return samples, labelled


def _tables(result: "Evaluation | MultiLabelEvaluation | ScoredVideos") -> Iterator[RenderableType]:
    """A table per task, with one row per class, and what its scores are worth; none for videos without labels."""
    from xvit.evaluation import Evaluation, MultiLabelEvaluation

    if isinstance(result, MultiLabelEvaluation):
        rows = [(name, "" if ap is None else f"{100 * ap:.1f} %") for name, ap in result.average_precision.items()]
        yield terminal.table("class", "average precision", rows=rows, numeric=[1])
    elif isinstance(result, Evaluation):
        for task, task_result in result.tasks.items():
            yield _task_table(task, task_result)
            yield _describe_trust(task_result)


def _describe_trust(result: "TaskResult") -> str:
    text = f"calibration error {100 * result.reliability.calibration_error:.2f} %"
    if result.coverage is not None:
        text += f"; {100 * result.coverage:.1f} % of the videos are accepted as one of the classes"
        if result.accepted_top1 is not None:
            text += f", of which {100 * result.accepted_top1:.2f} % are right"
    return text


def _task_table(task: str, result: "TaskResult") -> Table:
    top5 = "" if result.top5 is None else f", top-5 {100 * result.top5:.1f} %"
    accuracies = f"top-1 {100 * result.top1:.1f} %{top5}"
    title = None if task == SINGLE_TASK else f"{task}: {accuracies}"
    table = terminal.table("class", "top-1", "most often confused with", title=title, numeric=[1])
    for row, (name, accuracy) in enumerate(result.per_class.items()):
        wrong = [(0 if column == row else count, column) for column, count in enumerate(result.confusion[row])]
        count, column = max(wrong)
        confused = f"{result.class_names[column]} ({count})" if count else ""
        table.add_row(name, "" if accuracy is None else f"{100 * accuracy:.1f} %", confused)
    table.caption = f"mean class accuracy {100 * result.mean_class_accuracy:.2f} %"
    table.caption_justify = "left"
    return table
