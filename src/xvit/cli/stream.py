"""xvit stream SOURCE --checkpoint DIR [--real-time] [--stride N] [--predict-every K] [--threshold P] ...

Classify a live stream. SOURCE is a camera (/dev/video0, or its number), an address (rtsp://, http://, udp://,
tcp://, ...), a video file, or - for the standard input (mpegts, matroska, ...; raw frames with --raw).
Prints a line when the label changes (with --all: for each prediction); in a terminal, a live view. --json
prints one JSON document per line: all predictions, then a summary.
The label is null where the score is below the threshold, where nothing moves, for ignored classes, and where
a calibrated model (xvit calibrate) sees none of its classes.
An exported streaming step (xvit export --streaming) needs no torch, and computes nothing while a picture
stands still. If the model is slower than a live source, the oldest frames are dropped. Files, pipes and
http files wait for the model, unless --real-time is given. Dropped, damaged and lost frames are reported on
standard error.
Ctrl-C prints the summary and ends with exit code 130; a source that fails after its first frame ends with 1.

examples:
  xvit stream 0 --checkpoint run/best
  xvit stream rtsp://192.0.2.7/door --checkpoint run/best --threshold 0.6 --ignore other
  xvit stream clip.mp4 --checkpoint run/best --real-time --json > predictions.jsonl
  xvit export run/best --streaming --precision int8 --format openvino --videos videos/train --output step
  xvit stream 0 --checkpoint step
  xvit stream - --checkpoint run/best --raw 320x240@25
"""

import json
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.cells import cell_len
from rich.console import Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.gates import add_gates, resolve_gates
from xvit.cli.parsing import TRAINED_MODEL, CommandParser, select
from xvit.config import SINGLE_TASK, as_task_dict
from xvit.data.shards import check_video_exists
from xvit.utils.checkpoint_path import check_model
from xvit.utils.errors import XViTError
from xvit.utils.text import printable

if TYPE_CHECKING:
    from xvit.data.capture.source import Source, SourceEvent
    from xvit.export.runtime import ExportedModel
    from xvit.inference.live import LivePrediction, LivePredictor, StreamStats
    from xvit.models.xvit import XViT

_BLOCKS = " ▁▂▃▄▅▆▇█"
_GAP = 2  # characters between columns
_SCORE_WIDTH = 7  # characters, such as "100.0 %"
_BAR_WIDTH, _CURVE_WIDTH = 16, 24  # characters, at most
_MIN_WIDTH = 4  # characters; a bar or a curve that would be narrower is left out


def _check_source(name: str) -> None:
    """Raise `XViTError` if the source is a file that does not exist."""
    if name != "-" and "://" not in name and not name.isdigit() and not name.startswith("/dev/"):
        check_video_exists(name)


def add_options(parser: CommandParser) -> None:
    parser.add("source SOURCE", str, "camera, address, file, or - for standard input", check=_check_source)
    text = f"{TRAINED_MODEL}; or one exported with xvit export --streaming"
    parser.add("--checkpoint DIR", str, text, required=True, check=check_model)
    parser.add_switch("--real-time", "play a file or a pipe at its own frame rate, like a live source")
    text = "process each N-th frame, counted at the model's frame rate if it has one; as trained if unset"
    parser.add("--stride N", int | None, text)
    parser.add("--predict-every K", int, "predict at each K-th of the processed frames", default=1)
    parser.add("--threshold P", float, "minimum score; below it the label is null", default=0.0)
    add_gates(parser)
    text = "compute only patches that changed by more: faster, approximate; 0.1 is a few grey levels; unset: all"
    parser.add("--unchanged-threshold X", float | None, text, low=0)
    parser.add("--top-k K", int, "number of classes to show", default=5, low=1)
    parser.add_switch("--all", "print each prediction, not only changes of the label")
    parser.add("--reconnect N", int, "attempts to reconnect after an address was lost", default=5)
    parser.add("--timeout S", float, "seconds without a frame until the source is lost", default=10.0)
    parser.add("--max-frames N", int | None, "stop after N frames")
    parser.add("--raw WxH@RATE", str | None, "the standard input holds raw rgb24 frames")
    parser.add_device()
    parser.add_trust_code()


def run(args: Namespace) -> int:
    """Print predictions until the source ends or Ctrl-C."""
    from xvit.data.capture.source import Source
    from xvit.inference.live import LivePrediction, LivePredictor

    source = Source(args.source, **select(args, "real_time", "reconnect", "timeout", "max_frames", "raw"))
    model = _load_model(args)
    options = select(args, "stride", "predict_every", "threshold", "unchanged_threshold")
    live = LivePredictor(model, source, **options, **resolve_gates(args, model.class_names))
    with _stop_on_ctrl_c(source), _open_view(args, live) as view, closing(iter(live)) as items:
        for item in items:
            if isinstance(item, LivePrediction):
                view.show_prediction(item)
            else:
                view.show_event(item)
    view.show_summary(live.stats)
    if source.stopped:
        raise KeyboardInterrupt
    return SOME_FAILED if source.failed else SUCCESS


def _load_model(args: Namespace) -> "XViT | ExportedModel":
    """Load a model that can be streamed."""
    from xvit.export.runtime import ExportedModel
    from xvit.inference.predictor import open_model

    model = open_model(args.checkpoint, **select(args, "device", "trust_code"))
    if isinstance(model, ExportedModel):
        return model
    from xvit.models.streaming import Stream

    try:
        Stream(model)
    except XViTError as error:
        raise XViTError(
            f"{args.checkpoint}: this model cannot be streamed: {error}, and train it again; see "
            "recipes/motion-streaming.yaml. `xvit timeline` accepts any model"
        ) from None
    return model


@contextmanager
def _stop_on_ctrl_c(source: "Source") -> Iterator[None]:
    """Let the first Ctrl-C stop the source, so that the current frame is finished; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield
        return
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN:  # a script has started this process in the background
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, previous)
        source.stop()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _open_view(args: Namespace, live: "LivePredictor") -> "Iterator[_LineView]":
    if args.json:
        yield _JsonView(live, args.top_k)
    elif not sys.stdout.isatty():
        yield _LineView(live, args.top_k, changes_only=not args.all)
    else:
        with Live(console=terminal.console(), refresh_per_second=10) as screen:
            yield _ScreenView(live, args.top_k, screen)


class _LineView:
    """One line of text per prediction, or per change of the label, for files and pipes."""

    def __init__(self, live: "LivePredictor", top_k: int, *, changes_only: bool = False) -> None:
        self.live, self.top_k, self.changes_only = live, top_k, changes_only
        self.label: object = None  # of the previous prediction

    def show_prediction(self, prediction: "LivePrediction") -> None:
        unchanged, self.label = prediction.label == self.label, prediction.label
        if self.changes_only and unchanged:
            return
        texts = []
        for task, ranked in terminal.best_classes(prediction, self.top_k).items():
            text = ", ".join(f"{label} {100 * score:.1f} %" for label, score in ranked)
            if reason := self.no_label_reason(prediction, task):
                text = f"{reason}: {text}"
            texts.append(text if task == SINGLE_TASK else f"{task}: {text}")
        terminal.echo(f"{prediction.time:.2f} s: {'; '.join(texts)}")

    def no_label_reason(self, prediction: "LivePrediction", task: str) -> str:
        """Why a task has no label; empty if it has one."""
        from xvit.inference.predictor import is_rejected

        if as_task_dict(prediction.label)[task] is not None:
            return ""
        if not prediction.moving:
            return "no motion"
        if is_rejected(prediction.known, task):
            return "none of these"
        return "ignored" if as_task_dict(prediction.labels)[task][0] in self.live.ignore else "below threshold"

    def show_event(self, event: "SourceEvent") -> None:
        terminal.echo(f"xvit: {event.message}", stderr=True)

    def show_summary(self, stats: "StreamStats") -> None:
        terminal.echo(_format_summary(stats))


class _JsonView(_LineView):
    """One JSON document per line: the predictions, and at the end {"summary": {...}}."""

    def show_prediction(self, prediction: "LivePrediction") -> None:
        print(json.dumps(terminal.prediction_to_dict(prediction, self.top_k)), flush=True)

    def show_summary(self, stats: "StreamStats") -> None:
        print(json.dumps({"summary": asdict(stats) | _settings(self.live)}), flush=True)


class _ScreenView(_LineView):
    """The best classes, each with its score, a bar and a curve over the latest predictions; the state of the run."""

    def __init__(self, live: "LivePredictor", top_k: int, screen: Live) -> None:
        super().__init__(live, top_k)
        self.screen = screen
        self.history: deque[dict[str, dict[str, float]]] = deque(maxlen=_CURVE_WIDTH)  # task -> class -> score

    def show_prediction(self, prediction: "LivePrediction") -> None:
        classes = terminal.best_classes(prediction)
        self.history.append({task: dict(ranked) for task, ranked in classes.items()})
        shown = [label for ranked in classes.values() for label, _ in ranked[: self.top_k]]
        width, name_width = self.screen.console.width, max(cell_len(printable(label)) for label in shown)
        bar_width, curve_width = fit_columns(width, name_width)
        name_width = min(name_width, width - _GAP - _SCORE_WIDTH)  # a longer name continues on the next line
        parts: list[Text | Table] = []
        for task, ranked in classes.items():
            best, reason = as_task_dict(prediction.label)[task], self.no_label_reason(prediction, task)
            title = reason or str(best)
            title = title if task == SINGLE_TASK else f"{task}: {title}"
            parts.append(terminal.to_text(title, "dim" if reason else "bold"))
            table = terminal.grid(Column(overflow="fold", min_width=name_width), padding=(0, _GAP, 0, 0))
            for _ in range(1 + bool(bar_width) + bool(curve_width)):
                table.add_column(no_wrap=True)
            for label, score in ranked[: self.top_k]:
                bar = f"{'█' * round(bar_width * score):<{bar_width}}"
                past = list(self.history)[len(self.history) - min(curve_width, len(self.history)) :]
                curve = "".join(_BLOCKS[round(8 * scores[task].get(label, 0.0))] for scores in past)
                cells = [label, f"{100 * score:5.1f} %", bar, f"{curve:>{curve_width}}"]
                style = "green" if label == best else "dim"
                table.add_row(*(Text(cell, style=style) for cell in cells if cell))
            parts.append(table)
        stats = self.live.stats
        state = (
            f"{prediction.time:.1f} s   {stats.recent_frames_per_second:.1f} frames/s   "
            f"lag {prediction.lag_seconds:.2f} s   {stats.dropped} of {stats.read} frames dropped\n"
            f"a prediction needs {self.live.stream.latency_frames} further frames   Ctrl-C stops"
        )
        self.screen.update(Group(*parts, Text(state, style="dim")))

    def show_event(self, event: "SourceEvent") -> None:
        style = "dim" if event.kind in ("opened", "sampling", "ignored", "stride") else "yellow"
        self.screen.console.print(event.message, style=style)

    def show_summary(self, stats: "StreamStats") -> None:
        self.screen.console.print(_format_summary(stats))


def fit_columns(width: int, name_width: int) -> tuple[int, int]:
    """The widths of bars and curves, in characters, that leave names of `name_width` whole; 0 for none.

    In a narrow terminal the curves shrink first, then the bars; names come last.
    """
    rest = width - name_width - _GAP - _SCORE_WIDTH
    bar = min(max(rest - _GAP, 0), _BAR_WIDTH)
    curve = min(max(rest - bar - 2 * _GAP, 0), _CURVE_WIDTH)
    return bar if bar >= _MIN_WIDTH else 0, curve if curve >= _MIN_WIDTH else 0


def _settings(live: "LivePredictor") -> dict[str, object]:
    """What decides which frames the model sees, and which predictions have a label."""
    return {name: getattr(live, name) for name in ("frame_rate", "stride", "threshold", "ignore", "motion_threshold")}


def _format_summary(stats: "StreamStats") -> str:
    losses = {"dropped": stats.dropped, "skipped": stats.skipped, "undelivered": stats.undelivered}
    parts = [f"{count} {name}" for name, count in losses.items() if count or name == "dropped"]
    notes = {"of them repeated": stats.repeated, "not computed, as the picture stood still": stats.reused}
    repeats = (
        f" ({', '.join(f'{count} {note}' for note, count in notes.items() if count)})" if any(notes.values()) else ""
    )
    damage = f"; {stats.damaged} damaged" if stats.damaged else ""
    reconnects = f"; {stats.reconnects} attempts to reconnect" if stats.reconnects else ""
    return (
        f"{stats.read} frames: {stats.processed} processed{repeats}, {', '.join(parts)}{damage}{reconnects}; "
        f"{stats.predictions} predictions; {stats.frames_per_second:.1f} frames/s; "
        f"lag {stats.mean_lag_seconds:.2f} s on average, 95 % below {stats.p95_lag_seconds:.2f} s"
    )
