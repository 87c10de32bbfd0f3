"""`xvit stream`: classify a live stream."""

import json
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from jsonargparse import ArgumentParser, Namespace
from rich.console import Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_device, add_json, make_parser, parse_args
from xvit.config import SINGLE_TASK, as_task_dict
from xvit.utils.errors import XViTError, check_range

if TYPE_CHECKING:
    from xvit.data.capture.source import Source, SourceEvent
    from xvit.inference.live import LivePrediction, LivePredictor, StreamStats
    from xvit.models.xvit import XViT

_BLOCKS = " ▁▂▃▄▅▆▇█"
_HISTORY = 24  # predictions in the curve of each class
_BAR_WIDTH = 16  # characters; with the label, a row then fits into 80 columns
_BELOW_THRESHOLD = "below threshold"


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "stream",
        "SOURCE --checkpoint DIR [--real-time] [--stride N] [--predict-every K] [--threshold P] ...",
        "Classify a live stream. SOURCE is a camera (/dev/video0, or its number), an address (rtsp://, http://, "
        "srt://, udp://, ...), a video file, or - for the standard input (mpegts, matroska, ...; raw frames with "
        "--raw).\n"
        "Prints a line per prediction; in a terminal, a live view. --json prints one JSON document per line: the "
        "predictions, then a summary.\n"
        "If the model is slower than a live source, the oldest frames are dropped. Files, pipes and http files "
        "wait for the model, unless --real-time is given. Dropped, damaged and lost frames are reported on "
        "standard error.\n"
        "Ctrl-C prints the summary and ends with exit code 130; a source that fails after its first frame ends "
        "with 1.",
        "xvit stream 0 --checkpoint run/best\n"
        "xvit stream rtsp://192.0.2.7/door --checkpoint run/best --threshold 0.6 --predict-every 5\n"
        "xvit stream clip.mp4 --checkpoint run/best --real-time --json > predictions.jsonl\n"
        "xvit stream - --checkpoint run/best --raw 320x240@25",
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", type=str, help="camera, address, file, or - for standard input")
    add("--checkpoint", metavar="DIR", type=str, required=True, help="a trained model")
    add("--real-time", action="store_true", help="play a file or a pipe at its own frame rate, like a live source")
    add("--stride", metavar="N", type=int | None, help="process each N-th frame; as trained if unset")
    add("--predict-every", metavar="K", type=int, default=1, help="predict at each K-th of the processed frames")
    add("--threshold", metavar="P", type=float, default=0.0, help="minimum score; below it the label is null")
    add("--top-k", metavar="K", type=int, default=5, help="number of classes to show")
    add("--reconnect", metavar="N", type=int, default=5, help="attempts to reconnect after an address was lost")
    add("--timeout", metavar="S", type=float, default=10.0, help="seconds without a frame until the source is lost")
    add("--max-frames", metavar="N", type=int | None, help="stop after N frames")
    add("--raw", metavar="WxH@RATE", type=str | None, help="the standard input holds raw rgb24 frames")
    add_device(parser)
    add_json(parser)
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse and check the arguments after the command."""
    args = parse_args(parser(), argv)
    check_range("top_k", args.top_k, 1)
    return args


def run(args: Namespace) -> int:
    """Print predictions until the source ends or Ctrl-C."""
    from xvit.data.capture.source import Source
    from xvit.inference.live import LivePrediction, LivePredictor

    source = Source(
        args.source,
        real_time=args.real_time,
        reconnect=args.reconnect,
        timeout=args.timeout,
        max_frames=args.max_frames,
        raw=args.raw,
    )
    live = LivePredictor(
        _load_model(args), source, stride=args.stride, predict_every=args.predict_every, threshold=args.threshold
    )
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


class _View(Protocol):
    def show_prediction(self, prediction: "LivePrediction") -> None: ...
    def show_event(self, event: "SourceEvent") -> None: ...
    def show_summary(self, stats: "StreamStats") -> None: ...


@contextmanager
def _open_view(args: Namespace, live: "LivePredictor") -> Iterator[_View]:
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
        for task, ranked in _ranked_by_task(prediction, self.top_k).items():
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
        best = {key: terminal.top_k(getattr(prediction, key), self.top_k) for key in ("labels", "scores")}
        print(json.dumps(asdict(prediction) | best), flush=True)

    def show_summary(self, stats: "StreamStats") -> None:
        print(json.dumps({"summary": asdict(stats)}), flush=True)


class _ScreenView:
    """A bar and a curve over the latest predictions for each of the best classes, and the state of the run."""

    def __init__(self, screen: Live, live: "LivePredictor", top_k: int) -> None:
        self.screen, self.live, self.top_k = screen, live, top_k
        self.history: deque[dict[str, dict[str, float]]] = deque(maxlen=_HISTORY)  # task -> class -> score

    def show_prediction(self, prediction: "LivePrediction") -> None:
        ranked_by_task = _ranked_by_task(prediction)
        self.history.append({task: dict(ranked) for task, ranked in ranked_by_task.items()})
        table = Table.grid(*[Column(no_wrap=True) for _ in range(4)], padding=(0, 2))
        for task, ranked in ranked_by_task.items():
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


def _ranked_by_task(prediction: "LivePrediction", k: int | None = None) -> dict[str, list[tuple[str, float]]]:
    """The best k classes with their scores, for each task; all classes for None."""
    scores = as_task_dict(prediction.scores)
    labels = as_task_dict(prediction.labels)
    return {task: list(zip(labels[task], scores[task], strict=True))[:k] for task in labels}


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
