"""`xvit timeline`: long videos in, what happens when out."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_device, add_json, check_new_folder, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.utils.errors import VideoError, XViTError, check_range

if TYPE_CHECKING:
    import numpy as np

    from xvit.timeline.metrics import Metrics
    from xvit.timeline.scoring import ScoreTimeline
    from xvit.timeline.segments import Segment

_FRAMES_SHOWN = 14


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "timeline",
        "VIDEO_OR_FOLDER ... --checkpoint DIR [--output DIR] [--truth FILE] [--stride N] [...]",
        "Find what happens when in long videos. The model looks at the latest frames over and over; where a class is\n"
        "sure enough, a segment begins, and where it no longer is, it ends. Memory does not grow with the length.\n"
        "A file that cannot be read does not stop the others, a damaged one is scored as far as it goes; both are\n"
        "reported at the end, and the exit code is 1.\n\n"
        "With --output: timeline.json, timeline.csv, timeline.srt (subtitles) and timeline.png of the video; of\n"
        "several, in a folder each, named after the file.",
        "xvit timeline match.mp4 --checkpoint run/best --stride 2 --output match\n"
        "xvit data motion --output long --joined 3\n"
        "xvit timeline long --checkpoint run/best --stride 2 --truth long/segments.json",
    )
    made.add_argument("videos", metavar="VIDEO_OR_FOLDER", nargs="+", type=str, help="files, or folders at any depth")
    made.add_argument("--checkpoint", metavar="DIR", type=str, required=True, help="a trained model")
    made.add_argument("--output", metavar="DIR", type=str | None, default=None, help="folder to make")
    made.add_argument(
        "--truth",
        metavar="FILE",
        type=str | None,
        default=None,
        help='the right segments: {"video.mp4": [{"start": 0, "end": 2.5, "label": ...}, ...], ...}',
    )
    made.add_argument(
        "--stride",
        metavar="N",
        type=int | None,
        default=None,
        help="frames from one that the model sees to the next; as it was trained if unset",
    )
    made.add_argument(
        "--every",
        metavar="K",
        type=int | None,
        default=None,
        help="of those, from one score to the next; 1 if unset, or half a clip for a model that cannot be streamed",
    )
    made.add_argument("--smooth", metavar="S", type=float, default=0.0, help="seconds of a moving average of scores")
    made.add_argument("--threshold", metavar="P", type=float, default=0.5, help="score at which a segment begins")
    made.add_argument(
        "--leave", metavar="P", type=float | None, default=None, help="below which it ends; half of that if unset"
    )
    made.add_argument("--min-length", metavar="S", type=float, default=0.0, help="seconds; shorter ones are dropped")
    add_device(made)
    add_json(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    args = parse_words(parser(), argv)
    for name in ("stride", "every"):
        if args[name] is not None:
            check_range(name, args[name], 1)
    check_range("smooth", args.smooth, 0)
    check_range("min_length", args.min_length, 0)
    check_range("threshold", args.threshold, 0, 1)
    if args.leave is not None:
        check_range("leave", args.leave, 0, args.threshold)
    return args


def run(args: Namespace) -> int:
    """Score one video after the other."""
    from xvit.data.annotations.samples import find_videos
    from xvit.models.xvit import XViT
    from xvit.timeline.metrics import VideoSegments, measure
    from xvit.timeline.scoring import score_video
    from xvit.timeline.segments import find_segments
    from xvit.timeline.writers import read_truth
    from xvit.utils.devices import default_device

    output = None if args.output is None else check_new_folder(args.output)
    model = XViT.from_pretrained(args.checkpoint, device=args.device or default_device())
    paths = find_videos(args.videos)
    folders = _folders(paths, output)
    truth = None if args.truth is None else read_truth(args.truth, list(model.class_names))
    for path in paths if truth is not None else []:
        if truth is not None and Path(path).resolve() not in truth:
            raise XViTError(f"{path}: not in {args.truth}, which names videos from the folder that it lies in")
    told: list[dict[str, Any]] = []
    judged: list[VideoSegments] = []
    failed: list[VideoError] = []
    for number, path in enumerate(paths, start=1):
        name = path if len(paths) == 1 else f"{path} ({number} of {len(paths)})"
        try:
            with terminal.counter(name, quiet=args.json) as advance:
                scores = score_video(model, path, stride=args.stride, every=args.every, on_progress=advance)
            if scores.damage:
                failed.append(VideoError(path, f"{scores.damage}: scored as far as it goes"))
        except VideoError as error:
            failed.append(error)
            continue
        segments = find_segments(
            scores.times,
            scores.values,
            scores.class_names,
            duration=scores.duration,
            smooth=args.smooth,
            threshold=args.threshold,
            leave=args.leave,
            min_length=args.min_length,
        )
        right = None if truth is None else truth[Path(path).resolve()]
        metrics = None
        if right is not None:
            judged.append(VideoSegments(truth=right, predicted=segments, duration=scores.duration))
            metrics = measure(judged[-1:])
        told.append(_plain(scores, segments, metrics))
        if output is not None:
            _write(folders[path], told[-1], scores, segments, right)
        if not args.json:
            _show(scores, segments)
    total = measure(judged) if judged else None
    if args.json:
        failures = [{"path": error.path, "reason": error.reason} for error in failed]
        terminal.print_json(
            {"videos": told, "failed": failures} | ({} if total is None else {"metrics": _plain_metrics(total)})
        )
    elif total is not None:
        _show_metrics(total)
    terminal.report_failures(failed, len(paths))
    return SOME_FAILED if failed else SUCCESS


def _folders(paths: list[str], output: Path | None) -> dict[str, Path]:
    """Where the files of each video go."""
    if output is None:
        return {}
    if len(paths) == 1:
        return {paths[0]: output}
    folders: dict[str, Path] = {}
    for path in paths:
        folder = output / Path(path).stem
        if folder in folders.values():
            raise XViTError(f"{path}: a second video named {Path(path).stem}: give --output for one of them at a time")
        folders[path] = folder
    return folders


def _plain(scores: "ScoreTimeline", segments: "list[Segment]", metrics: "Metrics | None") -> dict[str, Any]:
    """What is known of a video as plain values, for JSON."""
    known: dict[str, Any] = {
        "video": scores.path,
        "duration": scores.duration,
        "method": scores.method,
        "stride": scores.stride,
        "every": scores.every,
        "damage": scores.damage,
        "segments": [
            {"start": segment.start, "end": segment.end, "label": segment.label, "score": segment.score}
            for segment in segments
        ],
    }
    return known if metrics is None else known | {"metrics": _plain_metrics(metrics)}


def _plain_metrics(metrics: "Metrics") -> dict[str, Any]:
    by_iou = {"f1": metrics.f1, "mean_ap": metrics.mean_ap}
    named = {key: {f"{iou:g}": value for iou, value in values.items()} for key, values in by_iou.items()}
    return {"videos": metrics.videos, "frame_accuracy": metrics.frame_accuracy, **named}


def _write(
    folder: Path,
    told: dict[str, Any],
    scores: "ScoreTimeline",
    segments: "list[Segment]",
    truth: "list[Segment] | None",
) -> None:
    from xvit.timeline.writers import to_csv, to_json, to_srt, write_new
    from xvit.visualize.plots import plot_timeline

    folder.mkdir(parents=True, exist_ok=True)
    rows = {"found": segments} if truth is None else {"truth": truth, "found": segments}
    beside = folder / ".timeline.png"  # named when it is whole
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in letters that the font does not have
            plot_timeline(
                scores.times,
                scores.values,
                scores.class_names,
                beside,
                duration=scores.duration,
                rows={name: [(s.start, s.end, s.label) for s in each] for name, each in rows.items()},
                frames=_frames(scores.path),
                title=Path(scores.path).name.encode(errors="backslashreplace").decode(),  # it may be no text
            )
        beside.replace(folder / "timeline.png")
    finally:
        beside.unlink(missing_ok=True)
    write_new(folder / "timeline.csv", to_csv(segments))
    write_new(folder / "timeline.srt", to_srt(segments))
    write_new(folder / "timeline.json", to_json(told))


def _frames(path: str) -> "np.ndarray | None":
    """Some frames, evenly spread: the middle one of each of as many parts. (n, H, W, C) uint8."""
    from xvit.data.decode import decode, probe

    count = probe(path).num_frames
    places = [(2 * part + 1) * count // (2 * _FRAMES_SHOWN) for part in range(_FRAMES_SHOWN)]
    try:
        return decode(path, places, short_side=120, strict=False).frames.permute(0, 2, 3, 1).numpy()
    except VideoError:  # damaged where it is shown, but not to its first end: the picture does without
        return None


def _show(scores: "ScoreTimeline", segments: "list[Segment]") -> None:
    terminal.console().print(Text(scores.path, style="bold"))  # not as the table's title, which would be wrapped
    shown = terminal.table("start", "end", "class", "score", numbers=(0, 1, 3))
    for segment in segments:
        score = "" if segment.score is None else f"{100 * segment.score:.1f} %"
        shown.add_row(_clock(segment.start), _clock(segment.end), Text(segment.label), score)
    if not segments:
        shown.add_row("", "", Text("nothing above the threshold", style="dim"), "")
    terminal.console().print(shown)


def _show_metrics(metrics: "Metrics") -> None:
    shown = terminal.table("IoU", "F1", "mAP", numbers=(0, 1, 2))
    for iou in metrics.f1:
        shown.add_row(f"{iou:g}", f"{100 * metrics.f1[iou]:.1f} %", f"{100 * metrics.mean_ap[iou]:.1f} %")
    terminal.console().print(shown)
    accuracy = f"{100 * metrics.frame_accuracy:.1f} %"
    terminal.console().print(terminal.pairs({"frame accuracy": accuracy, "videos": metrics.videos}))


def _clock(seconds: float) -> str:
    """m:ss.s"""
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"
