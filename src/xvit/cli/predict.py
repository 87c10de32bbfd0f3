"""xvit predict VIDEO_OR_FOLDER ... --checkpoint DIR [--top-k K] [--temporal-views N] [--spatial-views M]
       xvit predict --input LIST --output DIR --checkpoint DIR [--shard I/N] [--runner ray]

Classify videos with a trained model. Prints the best classes of each video with their scores, and below
them what is wrong with the video, such as damaged frames. A calibrated model (xvit calibrate) answers
"none of these" to videos of none of its classes.
Files that cannot be read are skipped and listed at the end; the exit code is then 1.

For many videos, --input takes a list, and --output a folder for Parquet files with a row per video: path,
status, error, labels, scores, times of the frames; of a calibrated model, also known. A video that cannot be
read has a row with the reason. Run the same command to continue after any stop.

examples:
  xvit predict samples/val --checkpoint motion   # the bundled model, on videos of `xvit data motion --output samples`
  xvit predict clip.mp4 --checkpoint run/best
  xvit predict videos/ other.webm --checkpoint run/best --top-k 3
  xvit predict s3://bucket/clip.mp4 --allow-remote s3 --checkpoint run/best
  xvit predict videos/ --checkpoint run/best --json > predictions.json
  xvit predict --input videos.txt --output predictions --checkpoint run/best
  xvit predict --input videos.txt --output predictions --checkpoint run/best --shard 3/100
  xvit predict --input videos.parquet --output predictions --checkpoint run/best --runner ray --address auto
"""

from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.jobs import add_job, check_job, run_job
from xvit.cli.parsing import TRAINED_OR_EXPORTED_MODEL, CommandParser, parse_args, require, select
from xvit.config import SINGLE_TASK
from xvit.utils.checkpoint_path import check_model
from xvit.utils.errors import VideoError, XViTError

if TYPE_CHECKING:
    from xvit.batch import PredictTask
    from xvit.inference.predictor import Prediction


def add_options(parser: CommandParser) -> None:
    parser.add_videos(required=False, remote=True)
    parser.add("--checkpoint DIR", str, TRAINED_OR_EXPORTED_MODEL, required=True, check=check_model)
    parser.add("--top-k K", int, "number of classes to show per video", default=5, low=1)
    parser.add("--temporal-views N", int, "clips per video, whose scores are averaged", default=1)
    parser.add("--spatial-views M", int, "crops per clip: 1 (centre) or 3", default=1)
    parser.add("--fps F", float | None, "frames per second of folders of frames; 30 if unset", low=0.001)
    text = "processes that decode videos while the model runs; 0 decodes in the main process"
    parser.add("--num-workers N", int, text, default=2, low=0)
    parser.add_device()
    parser.add_trust_code()
    add_job(parser)


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options: videos, or a large job."""
    args = parse_args(parser, argv)
    check_job(parser, args)
    if args.input is None:
        if args.output is not None:
            raise XViTError("--output: is for large jobs: give their videos with --input")
        require(args.videos, "VIDEO_OR_FOLDER or --input", "the videos", parser.prog)
    return args


def run(args: Namespace) -> int:
    """Classify all videos and print their classes, or write them."""
    if args.input is not None:
        return run_job(args, _make_task(args))
    return _print_predictions(args)


def _make_task(args: Namespace) -> "PredictTask":
    from xvit.batch import PredictTask

    names = ("checkpoint", "top_k", "temporal_views", "spatial_views", "fps", "num_workers", "device", "trust_code")
    return PredictTask(**select(args, *names))


def _print_predictions(args: Namespace) -> int:
    from xvit.data.annotations import find_videos
    from xvit.inference.predictor import Predictor

    options = select(args, "device", "temporal_views", "spatial_views", "trust_code")
    predictor = Predictor(args.checkpoint, **options)
    paths = find_videos(args.videos)
    num_workers = min(args.num_workers, len(paths) - 1)  # a worker process would only delay a single video
    predictions: list[Prediction] = []
    failures: list[VideoError] = []
    with terminal.progress_bar("predicting", quiet=args.json) as update:
        for done, prediction in enumerate(predictor.predict(paths, fps=args.fps, num_workers=num_workers), start=1):
            if isinstance(prediction, VideoError):
                failures.append(prediction)
            else:
                predictions.append(prediction)
            update(done, len(paths))
    values = {
        "predictions": [terminal.prediction_to_dict(prediction, args.top_k) for prediction in predictions],
        "failed": terminal.failures_to_json(failures),
    }
    tables = [_table(predictions, args.top_k)] if predictions else []
    return terminal.finish(args, values, *tables, failures=failures, total=len(paths))


def _table(predictions: "list[Prediction]", top_k: int) -> Table:
    from xvit.inference.predictor import is_rejected

    table = terminal.table("video", "prediction", "score", numeric=[2])
    for prediction in predictions:
        path = prediction.path
        for task, ranked in terminal.best_classes(prediction, top_k).items():
            for rank, (label, score) in enumerate(ranked):
                style = "bold" if rank == 0 else "dim"
                if rank == 0 and is_rejected(prediction.known, task):
                    label = f"none of these (nearest: {label})"
                name = label if task == SINGLE_TASK else f"{task}: {label}"
                table.add_row(Text(path), Text(name, style=style), Text(f"{100 * score:.1f} %", style=style))
                path = ""  # shown in the first row only
        for warning in prediction.warnings:
            table.add_row("", Text(f"warning: {warning}", style="yellow"), "")
        if top_k > 1:
            table.add_section()
    return table
