"""xvit timeline VIDEO_OR_FOLDER ... --checkpoint DIR [--output DIR] [--ground-truth FILE] [--stride N] [...]

Find when each class occurs in long videos. The model scores the latest frames again and again; a segment
begins where the score of a class reaches the threshold, and ends where it falls below the low threshold.
Memory does not grow with the length of a video.
Files that cannot be read are skipped, damaged ones are scored as far as they can be read; both are listed at
the end, and the exit code is 1.

Writes to the output folder, if given: timeline.json, timeline.csv, timeline.srt (subtitles) and timeline.png.
With several videos, each gets a folder of its own, named after the file.

examples:
  xvit timeline match.mp4 --checkpoint run/best --stride 2 --output match
  xvit data motion --output long --concatenate 3
  xvit timeline long --checkpoint run/best --stride 2 --ground-truth long/segments.json
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, parse_args, select
from xvit.utils.errors import VideoError, XViTError, check_range
from xvit.utils.files import check_new_directory

if TYPE_CHECKING:
    import numpy as np

    from xvit.models.xvit import XViT
    from xvit.timeline.metrics import SegmentMetrics, VideoSegments
    from xvit.timeline.scoring import ScoreTimeline
    from xvit.timeline.segments import Segment

_PLOTTED_FRAMES = 14


def add_options(parser: CommandParser) -> None:
    parser.add_videos()
    parser.add("--checkpoint DIR", str, "a trained model", required=True)
    parser.add("--output DIR", str | None, "folder to create")
    text = 'the true segments, to compare with: {"video.mp4": [{"start": 0, "end": 2.5, "label": ...}, ...], ...}'
    parser.add("--ground-truth FILE", str | None, text)
    parser.add("--stride N", int | None, "process each N-th frame; as trained if unset", low=1)
    text = "score at each K-th of the processed frames; if unset, 1, or half a clip if the model cannot be streamed"
    parser.add("--predict-every K", int | None, text, low=1)
    parser.add("--smooth S", float, "moving average over the scores, in seconds", default=0.0, low=0)
    parser.add("--threshold P", float, "score at which a segment begins", default=0.5, low=0, high=1)
    parser.add("--low-threshold P", float | None, "score below which it ends; half of --threshold if unset")
    parser.add("--min-length S", float, "drop segments that are shorter, in seconds", default=0.0, low=0)
    parser.add_device()


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options and check the low threshold."""
    args = parse_args(parser, argv)
    if args.low_threshold is not None:
        check_range("low_threshold", args.low_threshold, 0, args.threshold)
    return args


def run(args: Namespace) -> int:
    """Find the segments of one video after the other."""
    from xvit.data.annotations import find_videos
    from xvit.models.xvit import XViT
    from xvit.timeline.metrics import compute_metrics
    from xvit.utils.devices import resolve_device

    output = None if args.output is None else check_new_directory(args.output)
    model = XViT.from_pretrained(args.checkpoint, device=resolve_device(args.device))
    paths = find_videos(args.videos)
    folders = _output_folders(paths, output)
    ground_truth = _read_ground_truth(args.ground_truth, paths, model)
    videos: list[dict[str, Any]] = []
    compared: list[VideoSegments] = []
    failures: list[VideoError] = []
    for number, path in enumerate(paths, start=1):
        name = path if len(paths) == 1 else f"{path} ({number} of {len(paths)})"
        try:
            timeline = _find_segments(args, model, path, ground_truth.get(path), name)
        except VideoError as error:
            failures.append(error)
            continue
        videos.append(timeline.to_dict())
        if timeline.compared is not None:
            compared.append(timeline.compared)
        if timeline.scores.damage:
            failures.append(VideoError(path, f"{timeline.scores.damage}: scored as far as it can be read"))
        if folder := folders[path]:
            timeline.write(folder)
        if not args.json:
            timeline.print()
    values: dict[str, Any] = {"videos": videos, "failed": terminal.failures_to_json(failures)}
    tables: list[Table] = []
    if compared:
        metrics = compute_metrics(compared)
        values["metrics"] = asdict(metrics)
        tables = _metrics_tables(metrics)
    return terminal.finish(args, values, *tables, failures=failures, total=len(paths))


@dataclass(frozen=True)
class _Timeline:
    """The scores and segments of one video, also together with its true segments if they are known."""

    scores: "ScoreTimeline"
    segments: "list[Segment]"
    compared: "VideoSegments | None"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        from xvit.timeline.metrics import compute_metrics

        scores = self.scores
        names = ("duration", "method", "stride", "predict_every", "damage")
        values = {"video": scores.path} | {name: getattr(scores, name) for name in names}
        values["segments"] = [asdict(segment) for segment in self.segments]
        if self.compared is not None:
            values["metrics"] = asdict(compute_metrics([self.compared]))
        return values

    def write(self, folder: Path) -> None:
        """Write timeline.png, timeline.csv, timeline.srt and timeline.json."""
        from xvit.timeline.writers import to_csv, to_json, to_srt, write_new_file

        folder.mkdir(parents=True, exist_ok=True)
        tmp_path = folder / ".timeline.png"
        try:
            self._plot(tmp_path)
            tmp_path.replace(folder / "timeline.png")
        finally:
            tmp_path.unlink(missing_ok=True)
        write_new_file(folder / "timeline.csv", to_csv(self.segments))
        write_new_file(folder / "timeline.srt", to_srt(self.segments))
        write_new_file(folder / "timeline.json", to_json(self.to_dict()))

    def _plot(self, path: Path) -> None:
        from xvit.visualize import plot_timeline

        scores = self.scores
        rows = {"ground truth": self.compared.ground_truth} if self.compared else {}
        rows["predicted"] = self.segments
        bands = {name: [(s.start, s.end, s.label) for s in segments] for name, segments in rows.items()}
        title = Path(scores.path).name.encode(errors="backslashreplace").decode()  # may be invalid Unicode
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # letters in a class name that the font lacks
            plot_timeline(
                scores.times,
                scores.scores,
                scores.class_names,
                path,
                duration=scores.duration,
                bands=bands,
                frames=_read_frames(scores.path),
                title=title,
            )

    def print(self) -> None:
        """Print the segments as a table."""
        table = terminal.table("start", "end", "class", "score", numeric=[0, 1, 3])
        for segment in self.segments:
            score = "" if segment.score is None else f"{100 * segment.score:.1f} %"
            table.add_row(format_time(segment.start), format_time(segment.end), Text(segment.label), score)
        if not self.segments:
            table.add_row("", "", Text("no score reaches the threshold", style="dim"), "")
        terminal.console().print(Text(self.scores.path, style="bold"))  # a table would wrap it as its title
        terminal.console().print(table)


def _find_segments(
    args: Namespace, model: "XViT", path: str, ground_truth: "Sequence[Segment] | None", name: str
) -> _Timeline:
    from xvit.timeline.metrics import VideoSegments
    from xvit.timeline.scoring import score_video
    from xvit.timeline.segments import find_segments

    with terminal.progress_bar(name, quiet=args.json) as update:
        scores = score_video(model, path, **select(args, "stride", "predict_every"), on_progress=update)
    options = select(args, "smooth", "threshold", "low_threshold", "min_length")
    segments = find_segments(scores.times, scores.scores, scores.class_names, duration=scores.duration, **options)
    compared = None
    if ground_truth is not None:
        compared = VideoSegments(ground_truth=ground_truth, predicted=segments, duration=scores.duration)
    return _Timeline(scores, segments, compared)


def _read_ground_truth(file: str | None, paths: list[str], model: "XViT") -> "dict[str, list[Segment]]":
    """The true segments of each video; empty without a file."""
    from xvit.timeline.writers import read_ground_truth

    if file is None:
        return {}
    segments = read_ground_truth(file, list(model.class_names))
    for path in paths:
        if Path(path).resolve() not in segments:
            raise XViTError(f"{path}: not in {file}, whose paths are relative to its own folder")
    return {path: segments[Path(path).resolve()] for path in paths}


def _output_folders(paths: list[str], output: Path | None) -> dict[str, Path | None]:
    """The output folder of each video."""
    if output is None or len(paths) == 1:
        return dict.fromkeys(paths, output)
    names = [Path(path).stem for path in paths]
    for number, (path, name) in enumerate(zip(paths, names, strict=True)):
        if name in names[:number]:
            advice = "process one of them at a time, with another --output"
            raise XViTError(f"{path}: a second video named {name}; {advice}")
    return {path: output / name for path, name in zip(paths, names, strict=True)}


def _read_frames(path: str) -> "np.ndarray | None":
    """Evenly spaced frames for the plot, (n, H, W, C) uint8; None if they are damaged."""
    from xvit.data.decode import decode, probe

    count = probe(path).num_frames
    indices = [(2 * part + 1) * count // (2 * _PLOTTED_FRAMES) for part in range(_PLOTTED_FRAMES)]
    try:
        return decode(path, indices, short_side=120, strict=False).frames.permute(0, 2, 3, 1).numpy()
    except VideoError:
        return None


def _metrics_tables(metrics: "SegmentMetrics") -> list[Table]:
    table = terminal.table("IoU", "F1", "mAP", numeric=[0, 1, 2])
    for iou in metrics.f1:
        table.add_row(f"{iou:g}", f"{100 * metrics.f1[iou]:.1f} %", f"{100 * metrics.mean_ap[iou]:.1f} %")
    rows = {"frame accuracy": f"{100 * metrics.frame_accuracy:.1f} %", "videos": metrics.videos}
    return [table, terminal.key_values(rows)]


def format_time(seconds: float) -> str:
    """Minutes and seconds, such as 1:05.3."""
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"
