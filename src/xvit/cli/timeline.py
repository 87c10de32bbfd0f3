"""xvit timeline VIDEO_OR_FOLDER ... --checkpoint DIR [--output DIR] [--ground-truth FILE] [--ignore CLASS] [...]

Find when each class occurs in long videos. The model sees frames a fixed time apart, as it was trained,
whatever the frame rate of a video, and scores the latest ones again and again. A segment begins where the
score of a class reaches the threshold, and ends where it falls below the low threshold. Times at which
nothing moves, ignored classes, and times at which a calibrated model (xvit calibrate) sees none of its
classes are no segments. Memory does not grow with the length of a video.
Files that cannot be read are skipped, damaged ones are scored as far as they can be read; both are listed at
the end, and the exit code is 1.

Writes to the output folder, if given: timeline.json, timeline.csv, timeline.srt (subtitles) and timeline.png.
With several videos, each gets a folder of its own, named after the file. The same command goes on after a
stop: finished videos are not scored again.

examples:
  xvit timeline match.mp4 --checkpoint run/best --output match
  xvit data motion --output long --concatenate 3
  xvit timeline long --checkpoint run/best --ground-truth long/segments.json
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.exit_codes import INTERRUPTED
from xvit.cli.gates import add_gates, resolve_gates
from xvit.cli.parsing import TRAINED_OR_EXPORTED_MODEL, CommandParser, parse_args, select
from xvit.utils.checkpoint_path import check_model
from xvit.utils.errors import Interrupted, VideoError, WriteError, XViTError, check_range
from xvit.utils.files import check_files, check_writable_directory

if TYPE_CHECKING:
    import numpy as np

    from xvit.export.runtime import ExportedModel
    from xvit.models.xvit import XViT
    from xvit.timeline.metrics import SegmentMetrics
    from xvit.timeline.output import TimelineOutput
    from xvit.timeline.scoring import ScoreTimeline
    from xvit.timeline.segments import Segment

_PLOTTED_FRAMES = 14


def add_options(parser: CommandParser) -> None:
    parser.add_videos()
    parser.add("--checkpoint DIR", str, TRAINED_OR_EXPORTED_MODEL, required=True, check=check_model)
    parser.add("--output DIR", str | None, "folder to create, or to go on with", check=check_writable_directory)
    text = 'the true segments, to compare with: {"video.mp4": [{"start": 0, "end": 2.5, "label": ...}, ...], ...}'
    parser.add("--ground-truth FILE", str | None, text, check=check_files)
    text = "process each N-th frame, counted at the model's frame rate if it has one; as trained if unset"
    parser.add("--stride N", int | None, text, low=1)
    text = "score at each K-th of the processed frames; if unset, 1, or half a clip if the model cannot be streamed"
    parser.add("--predict-every K", int | None, text, low=1)
    add_gates(parser)
    text = "moving average over the scores, in seconds; unset: a fraction of the model's clip"
    parser.add("--smooth S", float | None, text, low=0)
    parser.add("--threshold P", float, "score at which a segment begins", default=0.5, low=0, high=1)
    parser.add("--low-threshold P", float | None, "score below which it ends; half of --threshold if unset")
    text = "drop segments that are shorter, in seconds; unset: a fraction of the model's clip"
    parser.add("--min-length S", float | None, text, low=0)
    parser.add_device()
    parser.add_trust_code()


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options and check the low threshold."""
    args = parse_args(parser, argv)
    if args.low_threshold is None:
        args.low_threshold = args.threshold / 2
    check_range("low_threshold", args.low_threshold, 0, args.threshold)
    return args


def run(args: Namespace) -> int:
    """Find the segments of one video after the other."""
    from xvit.data.annotations import find_videos
    from xvit.inference.predictor import open_model

    if args.output is not None:
        import matplotlib  # noqa: F401  # if it is missing, fail before hours of scoring
    model = open_model(args.checkpoint, **select(args, "device", "trust_code"))
    gates = resolve_gates(args, model.class_names)
    paths = find_videos(args.videos)
    ground_truth = _read_ground_truth(args.ground_truth, paths, model, gates["ignore"])
    output = _open_output(args, model, gates, paths)
    finder = _Finder(args, model, gates, ground_truth, output)
    results: list[dict[str, Any]] = []
    failures: list[VideoError] = []
    for number, path in enumerate(paths, start=1):
        name = path if len(paths) == 1 else f"{path} ({number} of {len(paths)})"
        try:
            results.append(finder.find(path, name))
        except VideoError as error:
            failures.append(error)
            continue
        except KeyboardInterrupt:
            if output is None:
                raise
            text = f"stopped: {number - 1} of {len(paths)} videos are done. Run the same command to go on."
            raise Interrupted(text, exit_code=INTERRUPTED) from None
        if damage := results[-1]["damage"]:
            failures.append(VideoError(path, f"{damage}: scored as far as it can be read"))
        if not args.json:
            _print_result(results[-1])
    return _finish(args, results, failures, ground_truth, len(paths))


def _read_ground_truth(
    file: str | None, paths: list[str], model: "XViT | ExportedModel", ignore: Sequence[str]
) -> "dict[str, list[Segment]]":
    """The true segments of each video, without those of ignored classes; empty without a file."""
    from xvit.timeline.writers import read_ground_truth

    if file is None:
        return {}
    segments = read_ground_truth(file, list(model.class_names))
    for path in paths:
        if Path(path).resolve() not in segments:
            raise XViTError(f"{path}: not in {file}, whose paths are relative to its own folder")
    return {path: [s for s in segments[Path(path).resolve()] if s.label not in ignore] for path in paths}


def _open_output(
    args: Namespace, model: "XViT | ExportedModel", gates: dict[str, Any], paths: Sequence[str]
) -> "TimelineOutput | None":
    """The output folder, with a record of what its files depend on; None without --output."""
    from xvit.inference.predictor import model_hash
    from xvit.timeline.output import open_output

    if args.output is None:
        return None
    run: dict[str, Any] = {"model": model_hash(model), "clips": model.clip_spec.sampling_text}
    names = ("stride", "predict_every", "smooth", "threshold", "low_threshold", "min_length")
    run |= {f"--{name.replace('_', '-')}": args[name] for name in names}
    run |= {"--ignore": ", ".join(gates["ignore"]) or None, "--motion-threshold": gates["motion_threshold"]}
    truth = args.ground_truth
    run["--ground-truth"] = truth and f"of hash {hashlib.sha256(Path(truth).read_bytes()).hexdigest()[:16]}"
    output = open_output(args.output, run, paths)
    for path, folder in output.renamed.items():
        terminal.echo(f"xvit: the timeline of {path} goes to {folder}, because its name is taken", stderr=True)
    if finished := sum(map(output.is_finished, paths)):
        terminal.echo(
            f"xvit: {finished} of {len(paths)} videos are finished already in {output.directory}", stderr=True
        )
    return output


@dataclass(frozen=True)
class _Finder:
    """Finds the segments of videos, or reads them from the output folder if they are there."""

    args: Namespace
    model: "XViT | ExportedModel"
    gates: dict[str, Any]
    ground_truth: "dict[str, list[Segment]]"
    output: "TimelineOutput | None"

    def find(self, path: str, name: str) -> dict[str, Any]:
        """The contents of a video's timeline.json. `name` stands beside the progress bar."""
        from xvit.timeline.scoring import score_video

        if self.output is not None and self.output.is_finished(path):
            return self.output.read_result(path)
        with terminal.progress_bar(name, quiet=self.args.json) as update:
            scores = score_video(self.model, path, **select(self.args, "stride", "predict_every"), on_progress=update)
        result, segments = self._find_segments(scores, path)
        if self.output is not None:
            try:
                with self.output.new_folder(path) as folder:
                    self._write(folder, scores, segments, result)
            except WriteError:  # a result of hours is printed first
                print(json.dumps(result)) if self.args.json else _print_result(result)
                raise
        return result

    def _find_segments(self, scores: "ScoreTimeline", path: str) -> "tuple[dict[str, Any], list[Segment]]":
        """The segments, and plain values of them and all that they depend on."""
        from xvit.timeline.segments import default_lengths, find_segments, still_stretches

        moving = scores.motion >= self.gates["motion_threshold"]
        lengths = default_lengths(scores.clip_duration)
        lengths |= {name: self.args[name] for name in lengths if self.args[name] is not None}
        options = lengths | select(self.args, "threshold", "low_threshold")
        segments = find_segments(
            scores.times,
            scores.scores,
            scores.class_names,
            duration=scores.duration,
            moving=moving,
            ignore=self.gates["ignore"],
            **options,
        )
        names = ("duration", "clip_duration", "method", "frame_rate", "stride", "predict_every", "damage", "warnings")
        result = {"video": scores.path} | {name: getattr(scores, name) for name in names} | options
        result |= {"ignore": list(self.gates["ignore"]), "warnings": list(scores.warnings)}
        still = still_stretches(scores.times, moving, scores.duration)
        result["motion_gate"] = {
            "threshold": self.gates["motion_threshold"],
            "seconds": sum(end - start for start, end in still),
            "stretches": [{"start": start, "end": end} for start, end in still],
        }
        result["segments"] = [asdict(segment) for segment in segments]
        if path in self.ground_truth:
            result["metrics"] = asdict(_compute_metrics([result], {scores.path: self.ground_truth[path]}))
        return result, segments

    def _write(
        self, folder: Path, scores: "ScoreTimeline", segments: "Sequence[Segment]", result: dict[str, Any]
    ) -> None:
        """Write timeline.png, timeline.csv, timeline.srt and timeline.json."""
        from xvit.timeline.writers import to_csv, to_json, to_srt, write_new_file

        self._plot(folder / "timeline.png", scores, segments, result)
        write_new_file(folder / "timeline.csv", to_csv(segments))
        write_new_file(folder / "timeline.srt", to_srt(segments))
        write_new_file(folder / "timeline.json", to_json(result))

    def _plot(self, path: Path, scores: "ScoreTimeline", segments: "Sequence[Segment]", result: dict[str, Any]) -> None:
        from xvit.visualize import plot_timeline

        truth = self.ground_truth.get(scores.path)
        rows = {"predicted": segments} if truth is None else {"ground truth": truth, "predicted": segments}
        plot_timeline(
            scores.times,
            scores.scores,
            scores.class_names,
            path,
            duration=scores.duration,
            bands={name: [(s.start, s.end, s.label) for s in segments] for name, segments in rows.items()},
            ignored=result["ignore"],
            still=[(stretch["start"], stretch["end"]) for stretch in result["motion_gate"]["stretches"]],
            frames=_read_frames(scores.path),
            title=Path(scores.path).name,
        )


def _print_result(result: dict[str, Any]) -> None:
    """Print the segments of a video as a table, and what they depend on."""
    table = terminal.table("start", "end", "class", "score", numeric=[0, 1, 3])
    for segment in result["segments"]:
        score = f"{100 * segment['score']:.1f} %"
        table.add_row(format_time(segment["start"]), format_time(segment["end"]), Text(segment["label"]), score)
    if not result["segments"]:
        table.add_row("", "", Text("no event: no score reaches the threshold", style="dim"), "")
    terminal.console().print(result["video"], style="bold")  # a table would wrap it as its title
    terminal.console().print(table)
    terminal.console().print(terminal.key_values(_describe(result)))


def _describe(result: dict[str, Any]) -> dict[str, str | None]:
    """What the segments of a video depend on, in words."""
    rate, stride, gate = result["frame_rate"], result["stride"], result["motion_gate"]
    frames = f"every {stride} frames of the file" if stride > 1 else "every frame of the file"
    sampled = f"{rate / stride:.4g} frames per second" if rate else frames
    stretches = f"{len(gate['stretches'])} stretches" if len(gate["stretches"]) != 1 else "1 stretch"
    still = f"{stretches}, {gate['seconds']:.1f} s without motion (--motion-threshold 0 turns it off)"
    return {
        "sampled": f"{sampled}, clips of {result['clip_duration']:.3g} s",
        "smoothed": f"over {result['smooth']:.3g} s; segments shorter than {result['min_length']:.3g} s are dropped",
        "ignored": ", ".join(result["ignore"]) or None,
        "motion gate": still if gate["stretches"] else None,
    }


def _finish(
    args: Namespace,
    results: list[dict[str, Any]],
    failures: list[VideoError],
    ground_truth: "dict[str, list[Segment]]",
    total: int,
) -> int:
    """Print the metrics over all videos, and what could not be read; returns the exit code."""
    values: dict[str, Any] = {"videos": results, "failed": terminal.failures_to_json(failures)}
    tables: list[Table] = []
    if results and ground_truth:
        metrics = _compute_metrics(results, ground_truth)
        values["metrics"] = asdict(metrics)
        tables = _metrics_tables(metrics)
    warned = [(result["video"], result["warnings"]) for result in results if result["warnings"]]
    terminal.print_warnings(warned, total=total)
    return terminal.finish(args, values, *tables, failures=failures, total=total)


def _compute_metrics(results: Sequence[dict[str, Any]], ground_truth: "dict[str, list[Segment]]") -> "SegmentMetrics":
    from xvit.timeline.metrics import VideoSegments, compute_metrics
    from xvit.timeline.segments import Segment

    return compute_metrics(
        [
            VideoSegments(
                ground_truth=ground_truth[result["video"]],
                predicted=[Segment(**segment) for segment in result["segments"]],
                duration=result["duration"],
            )
            for result in results
        ]
    )


def _read_frames(path: str) -> "np.ndarray | None":
    """Evenly spaced frames for the plot, (n, H, W, C) uint8; None if they are damaged."""
    from xvit.data.decode import decode, probe

    count = probe(path).num_frames
    indices = [(2 * part + 1) * count // (2 * _PLOTTED_FRAMES) for part in range(_PLOTTED_FRAMES)]
    try:
        return decode(path, indices, short_side=120, strict=False).frames
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
