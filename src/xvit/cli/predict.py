"""`xvit predict`: classify videos."""

from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_device, add_json, add_trust_code, add_videos, make_parser, parse_args
from xvit.config import SINGLE_TASK, as_task_dict
from xvit.utils.errors import VideoError, check_range

if TYPE_CHECKING:
    from xvit.inference.predictor import Prediction


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "predict",
        "VIDEO_OR_FOLDER ... --checkpoint DIR [--top-k K] [--temporal-views N] [--spatial-views M]",
        "Classify videos with a trained model. Prints the best classes of each video with their scores.\n"
        "Files that cannot be read are skipped and listed at the end; the exit code is then 1.",
        "xvit predict clip.mp4 --checkpoint run/best\n"
        "xvit predict videos/ other.webm --checkpoint run/best --top-k 3\n"
        "xvit predict videos/ --checkpoint run/best --json > predictions.json",
    )
    add = parser.add_argument
    add_videos(parser)
    add("--checkpoint", metavar="DIR", type=str, required=True, help="a trained or an exported model")
    add("--top-k", metavar="K", type=int, default=5, help="number of classes to show per video")
    add("--temporal-views", metavar="N", type=int, default=1, help="clips per video, whose scores are averaged")
    add("--spatial-views", metavar="M", type=int, default=1, help="crops per clip: 1 (centre) or 3")
    add(
        "--num-workers",
        metavar="N",
        type=int,
        default=2,
        help="processes that decode videos while the model runs; 0 decodes in the main process",
    )
    add_device(parser)
    add_trust_code(parser)
    add_json(parser)
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse and check the arguments after the command."""
    args = parse_args(parser(), argv)
    check_range("top_k", args.top_k, 1)
    check_range("num_workers", args.num_workers, 0)
    return args


def run(args: Namespace) -> int:
    """Classify all videos and print their classes."""
    from xvit.data.annotations import find_videos
    from xvit.inference.predictor import Predictor

    predictor = Predictor(
        args.checkpoint,
        device=args.device,
        temporal_views=args.temporal_views,
        spatial_views=args.spatial_views,
        trust_code=args.trust_code,
    )
    paths = find_videos(args.videos)
    num_workers = min(args.num_workers, len(paths) - 1)  # a worker process would only delay a single video
    predictions: list[Prediction] = []
    failures: list[VideoError] = []
    with terminal.progress_bar("predicting", quiet=args.json) as update:
        for done, prediction in enumerate(predictor.predict(paths, num_workers=num_workers), start=1):
            if isinstance(prediction, VideoError):
                failures.append(prediction)
            else:
                predictions.append(prediction)
            update(done, len(paths))
    if args.json:
        terminal.print_json(
            {
                "predictions": [_to_json(prediction, args.top_k) for prediction in predictions],
                "failed": terminal.failures_to_json(failures),
            }
        )
    elif predictions:
        _print_table(predictions, args.top_k)
    terminal.print_failures(failures, len(paths))
    return SOME_FAILED if failures else SUCCESS


def _to_json(prediction: "Prediction", top_k: int) -> dict[str, Any]:
    """A prediction as plain values, with its best classes only."""
    values = prediction.to_dict()
    for key in ("labels", "scores"):
        values[key] = terminal.top_k(values[key], top_k)
    return values


def _print_table(predictions: "list[Prediction]", top_k: int) -> None:
    table = terminal.table("video", "prediction", "score", numeric=[2])
    for prediction in predictions:
        labels, scores = as_task_dict(prediction.labels), as_task_dict(prediction.scores)
        path = prediction.path
        for task in labels:
            for rank, (label, score) in enumerate(zip(labels[task][:top_k], scores[task][:top_k], strict=True)):
                style = "bold" if rank == 0 else "dim"
                name = label if task == SINGLE_TASK else f"{task}: {label}"
                table.add_row(Text(path), Text(name, style=style), Text(f"{100 * score:.1f} %", style=style))
                path = ""  # shown in the first row only
        if top_k > 1:
            table.add_section()
    terminal.console().print(table)
