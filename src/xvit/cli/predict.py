"""`xvit predict`: video files in, what happens in them out."""

from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_device, add_json, add_trust, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.utils.errors import VideoError, check_range

if TYPE_CHECKING:
    from xvit.inference.predictor import Prediction


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "predict",
        "VIDEO_OR_FOLDER ... --checkpoint DIR [--top K] [--temporal-views N] [--spatial-views M]",
        "Name what happens in videos. A file that cannot be read does not stop the others: it is reported at the end,\n"
        "and the exit code is 1.",
        "xvit predict clip.mp4 --checkpoint run/best\n"
        "xvit predict videos/ other.webm --checkpoint run/best --top 3\n"
        "xvit predict videos/ --checkpoint run/best --json > predictions.json",
    )
    made.add_argument("videos", metavar="VIDEO_OR_FOLDER", nargs="+", type=str, help="files, or folders at any depth")
    made.add_argument("--checkpoint", metavar="DIR", type=str, required=True, help="a trained or an exported model")
    made.add_argument("--top", metavar="K", type=int, default=5, help="classes to show a video, the best ones")
    made.add_argument("--temporal-views", metavar="N", type=int, default=1, help="clips along each video")
    made.add_argument("--spatial-views", metavar="M", type=int, default=1, help="crops of each clip, 1 or 3")
    made.add_argument(
        "--num-workers", metavar="N", type=int, default=2, help="processes that read videos while the model works"
    )
    add_device(made)
    add_trust(made)
    add_json(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    args = parse_words(parser(), argv)
    check_range("top", args.top, 1)
    check_range("num_workers", args.num_workers, 0)
    return args


def run(args: Namespace) -> int:
    """Predict all videos."""
    from xvit.data.annotations.samples import find_videos
    from xvit.inference.predictor import Predictor

    predictor = Predictor(
        args.checkpoint,
        device=args.device,
        temporal_views=args.temporal_views,
        spatial_views=args.spatial_views,
        trust_code=args.trust_code,
    )
    paths = find_videos(args.videos)
    predictions: list[Prediction] = []
    failed: list[VideoError] = []
    with terminal.counter("predicting", quiet=args.json) as advance:
        num_workers = min(
            args.num_workers, len(paths) - 1
        )  # the model could not begin before a single one is read anyway
        for done, answer in enumerate(predictor.predict(paths, num_workers=num_workers), start=1):
            if isinstance(answer, VideoError):
                failed.append(answer)
            else:
                predictions.append(answer)
            advance(done, len(paths))
    if args.json:
        terminal.print_json(
            {
                "predictions": [_best(prediction, args.top) for prediction in predictions],
                "failed": [{"path": error.path, "reason": error.reason} for error in failed],
            }
        )
    elif predictions:
        _show(predictions, args.top)
    terminal.report_failures(failed, len(paths))
    return SOME_FAILED if failed else SUCCESS


def _best(prediction: "Prediction", top: int) -> dict[str, object]:
    """The prediction as plain values, cut to its best classes."""
    values = prediction.to_dict()
    for key in ("labels", "scores"):
        found = values[key]
        values[key] = {task: all_[:top] for task, all_ in found.items()} if isinstance(found, dict) else found[:top]
    return values


def _show(predictions: "list[Prediction]", top: int) -> None:
    shown = terminal.table("video", "prediction", "score", numbers=(2,))
    for prediction in predictions:
        several = isinstance(prediction.labels, dict)
        labels = prediction.labels if isinstance(prediction.labels, dict) else {"": prediction.labels}
        scores = prediction.scores if isinstance(prediction.scores, dict) else {"": prediction.scores}
        first = True
        for task in labels:
            for rank, (label, score) in enumerate(zip(labels[task][:top], scores[task][:top], strict=True)):
                style = "bold" if rank == 0 else "dim"
                name = f"{task}: {label}" if several else label
                path = Text(prediction.path if first else "")
                shown.add_row(path, Text(name, style=style), Text(f"{100 * score:.1f} %", style=style))
                first = False
        if top > 1:
            shown.add_section()
    terminal.console().print(shown)
