"""xvit stream SOURCE --checkpoint DIR [--real-time] [--stride N] [--predict-every K] [--threshold P] ...

Classify a live stream. SOURCE is a camera (/dev/video0, or its number), an address (rtsp://, http://, srt://,
udp://, ...), a video file, or - for the standard input (mpegts, matroska, ...; raw frames with --raw).
Prints a line per prediction; in a terminal, a live view. --json prints one JSON document per line: the
predictions, then a summary.
If the model is slower than a live source, the oldest frames are dropped. Files, pipes and http files wait for
the model, unless --real-time is given. Dropped, damaged and lost frames are reported on standard error.
Ctrl-C prints the summary and ends with exit code 130; a source that fails after its first frame ends with 1.

examples:
  xvit stream 0 --checkpoint run/best
  xvit stream rtsp://192.0.2.7/door --checkpoint run/best --threshold 0.6 --predict-every 5
  xvit stream clip.mp4 --checkpoint run/best --real-time --json > predictions.jsonl
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
from rich.console import Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import CommandParser, select
from xvit.config import SINGLE_TASK, as_task_dict
from xvit.utils.errors import XViTError

if TYPE_CHECKING:
    from xvit.data.capture.source import Source, SourceEvent
    from xvit.inference.live import LivePrediction, LivePredictor, StreamStats
    from xvit.models.xvit import XViT

_BLOCKS = " ▁▂▃▄▅▆▇█"
_HISTORY = 24  # predictions in the curve of each class
_BAR_WIDTH = 16  # characters; with the label, a row then fits into 80 columns
_BELOW_THRESHOLD = "below threshold"


def add_options(parser: CommandParser) -> None:
    parser.add("source SOURCE", str, "camera, address, file, or - for standard input")
    parser.add("--checkpoint DIR", str, "a trained model", required=True)
    parser.add_switch("--real-time", "play a file or a pipe at its own frame rate, like a live source")
    parser.add("--stride N", int | None, "process each N-th frame; as trained if unset")
    parser.add("--predict-every K", int, "predict at each K-th of the processed frames", default=1)
    parser.add("--threshold P", float, "minimum score; below it the label is null", default=0.0)
    parser.add("--top-k K", int, "number of classes to show", default=5, low=1)
    parser.add("--reconnect N", int, "attempts to reconnect after an address was lost", default=5)
    parser.add("--timeout S", float, "seconds without a frame until the source is lost", default=10.0)
    parser.add("--max-frames N", int | None, "stop after N frames")
    parser.add("--raw WxH@RATE", str | None, "the standard input holds raw rgb24 frames")
    parser.add_device()


def run(args: Namespace) -> int:
    """Print predictions until the source ends or Ctrl-C."""
    from xvit.data.capture.source import Source
    from xvit.inference.live import LivePrediction, LivePredictor

    source = Source(args.source, **select(args, "real_time", "reconnect", "timeout", "max_frames", "raw"))
    live = LivePredictor(_load_model(args), source, **select(args, "stride", "predict_every", "threshold"))
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


def _load_model(args: Namespace) -> "XViT":
    """Load a model that can be streamed."""
    from xvit.models.streaming import Stream
    from xvit.models.xvit import XViT
    from xvit.utils.devices import resolve_device

    model = XViT.from_pretrained(args.checkpoint, device=resolve_device(args.device))
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
        yield _JsonView(args.top_k)
    elif not sys.stdout.isatty():
        yield _LineView(args.top_k)
    else:
        with Live(console=terminal.console(), refresh_per_second=10) as screen:
            yield _ScreenView(screen, live, args.top_k)


class _LineView:
    """One line of text per prediction, for files and pipes."""

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k

    def show_prediction(self, prediction: "LivePrediction") -> None:
        texts = []
        for task, ranked in terminal.best_classes(prediction, self.top_k).items():
            text = ", ".join(f"{label} {100 * score:.1f} %" for label, score in ranked)
            if as_task_dict(prediction.label)[task] is None:
                text = f"{_BELOW_THRESHOLD}: {text}"
            texts.append(text if task == SINGLE_TASK else f"{task}: {text}")
        print(f"{prediction.time:.2f} s: {'; '.join(texts)}", flush=True)

    def show_event(self, event: "SourceEvent") -> None:
        print(f"xvit: {event.message}", file=sys.stderr, flush=True)

    def show_summary(self, stats: "StreamStats") -> None:
        print(_format_summary(stats), flush=True)


class _JsonView(_LineView):
    """One JSON document per line: the predictions, and at the end {"summary": {...}}."""

    def show_prediction(self, prediction: "LivePrediction") -> None:
        print(json.dumps(terminal.prediction_to_dict(prediction, self.top_k)), flush=True)

    def show_summary(self, stats: "StreamStats") -> None:
        print(json.dumps({"summary": asdict(stats)}), flush=True)


class _ScreenView(_LineView):
    """A bar and a curve over the latest predictions for each of the best classes, and the state of the run."""

    def __init__(self, screen: Live, live: "LivePredictor", top_k: int) -> None:
        super().__init__(top_k)
        self.screen, self.live = screen, live
        self.history: deque[dict[str, dict[str, float]]] = deque(maxlen=_HISTORY)  # task -> class -> score

    def show_prediction(self, prediction: "LivePrediction") -> None:
        classes = terminal.best_classes(prediction)
        self.history.append({task: dict(ranked) for task, ranked in classes.items()})
        table = Table.grid(*[Column(no_wrap=True) for _ in range(4)], padding=(0, 2))
        for task, ranked in classes.items():
            best = as_task_dict(prediction.label)[task]
            title = _BELOW_THRESHOLD if best is None else best
            title = title if task == SINGLE_TASK else f"{task}: {title}"
            table.add_row(Text(title, style="dim" if best is None else "bold"))
            for label, score in ranked[: self.top_k]:
                bar = "█" * round(_BAR_WIDTH * score)
                curve = "".join(_BLOCKS[round(8 * past[task].get(label, 0.0))] for past in self.history)
                cells = (label, f"{100 * score:5.1f} %", f"{bar:<{_BAR_WIDTH}}", f"{curve:>{_HISTORY}}")
                table.add_row(*(Text(cell, style="green" if label == best else "dim") for cell in cells))
        stats = self.live.stats
        state = (
            f"{prediction.time:.1f} s   {stats.recent_frames_per_second:.1f} frames/s   "
            f"lag {prediction.lag_seconds:.2f} s   {stats.dropped} of {stats.read} frames dropped\n"
            f"a prediction needs {self.live.stream.latency_frames} further frames   Ctrl-C stops"
        )
        self.screen.update(Group(table, Text(state, style="dim")))

    def show_event(self, event: "SourceEvent") -> None:
        style = "dim" if event.kind in ("opened", "stride") else "yellow"
        self.screen.console.print(Text(event.message, style=style))

    def show_summary(self, stats: "StreamStats") -> None:
        self.screen.console.print(_format_summary(stats))


def _format_summary(stats: "StreamStats") -> str:
    losses = {"dropped": stats.dropped, "skipped": stats.skipped, "undelivered": stats.undelivered}
    parts = [f"{count} {name}" for name, count in losses.items() if count or name == "dropped"]
    damage = f"; {stats.damaged} damaged" if stats.damaged else ""
    reconnects = f"; {stats.reconnects} attempts to reconnect" if stats.reconnects else ""
    return (
        f"{stats.read} frames: {stats.processed} processed, {', '.join(parts)}{damage}{reconnects}; "
        f"{stats.predictions} predictions; {stats.frames_per_second:.1f} frames/s; "
        f"lag {stats.mean_lag_seconds:.2f} s on average, 95 % below {stats.p95_lag_seconds:.2f} s"
    )
