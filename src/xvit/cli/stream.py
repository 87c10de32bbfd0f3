"""`xvit stream`: a camera, an address, a pipe or a file in; what happens in it out, as it goes on."""

import json
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from jsonargparse import ArgumentParser, Namespace
from rich.console import Group
from rich.live import Live as Screen
from rich.table import Column, Table
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.exit_codes import SOME_FAILED, SUCCESS
from xvit.cli.parsing import add_device, add_json, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.config import as_task_dict
from xvit.models.streaming import Stream
from xvit.utils.errors import XViTError, check_range

if TYPE_CHECKING:
    from xvit.data.capture.source import Source, SourceEvent
    from xvit.inference.live import LivePrediction, LivePredictor, StreamStats

_BLOCKS = " ▁▂▃▄▅▆▇█"
_HISTORY = 24  # answers in the small curves
_BAR = 16  # characters: with a label, all fits into 80 columns


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "stream",
        "SOURCE --checkpoint DIR [--real-time] [--stride N] [--every K] [--threshold P] ...",
        "Name what happens while it happens. SOURCE is a file, a camera (/dev/video0, or its number), an address\n"
        "(rtsp://, http://, srt://, udp://, ...) or - for the standard input (mpegts, matroska, ...; or --raw).\n"
        "Live sources drop their oldest frames where the model is slower; files, pipes and http files wait for it,\n"
        "unless --real-time. All that is dropped, damaged or lost is reported on the standard error.\n"
        "--json: a line for each answer, and a last one with the summary. Ctrl-C ends with the summary and 130;\n"
        "a source that fails after its first frame ends with 1.",
        "xvit stream 0 --checkpoint run/best\n"
        "xvit stream rtsp://192.0.2.7/door --checkpoint run/best --threshold 0.6 --every 5\n"
        "xvit stream clip.mp4 --checkpoint run/best --real-time --json > answers.jsonl\n"
        "xvit stream - --checkpoint run/best --raw 320x240@25",
    )
    made.add_argument("source", metavar="SOURCE", type=str, help="where the frames come from")
    made.add_argument("--checkpoint", metavar="DIR", type=str, required=True, help="a trained model")
    made.add_argument("--real-time", action="store_true", help="play a file or a pipe at its own rate, as if live")
    made.add_argument("--every", metavar="K", type=int, default=1, help="answer each K-th frame that is fed")
    made.add_argument(
        "--stride", metavar="N", type=int | None, default=None, help="feed each N-th frame; as trained if unset"
    )
    made.add_argument(
        "--threshold", metavar="P", type=float, default=0.0, help="below this score: nothing of these (null in JSON)"
    )
    made.add_argument("--top", metavar="K", type=int, default=5, help="classes to show, the best ones")
    made.add_argument("--reconnect", metavar="N", type=int, default=5, help="attempts after an address was lost")
    made.add_argument("--timeout", metavar="S", type=float, default=10.0, help="seconds without a frame: it is lost")
    made.add_argument("--max-frames", metavar="N", type=int | None, default=None, help="end after N frames")
    made.add_argument(
        "--raw", metavar="WxH@RATE", type=str | None, default=None, help="the standard input is raw rgb24 pictures"
    )
    add_device(made)
    add_json(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    args = parse_words(parser(), argv)
    check_range("top", args.top, 1)
    return args


def run(args: Namespace) -> int:
    """Answer until the source ends or Ctrl-C."""
    from xvit.data.capture.source import Source
    from xvit.inference.live import LivePrediction, LivePredictor
    from xvit.models.xvit import XViT
    from xvit.utils.devices import default_device

    source = Source(
        args.source,
        real_time=args.real_time,
        reconnect=args.reconnect,
        timeout=args.timeout,
        max_frames=args.max_frames,
        raw=args.raw,
    )
    model = XViT.from_pretrained(args.checkpoint, device=args.device or default_device())
    try:
        Stream(model)
    except XViTError as error:
        raise XViTError(
            f"{args.checkpoint}: this model cannot be streamed: {error}, and train it again, as "
            "recipes/motion-streaming.yaml does. `xvit timeline` takes any model"
        ) from None
    live = LivePredictor(model, source, stride=args.stride, every=args.every, threshold=args.threshold)
    with _ctrl_c(source), _shown(args, live) as view, closing(iter(live)) as events:
        for event in events:
            if isinstance(event, LivePrediction):
                view.answer(event)
            else:
                view.notice(event)
    view.end(live.counts)
    if source.stopped:
        raise KeyboardInterrupt
    return SOME_FAILED if source.failed else SUCCESS


class _View(Protocol):
    def answer(self, scores: "LivePrediction") -> None: ...
    def notice(self, notice: "SourceEvent") -> None: ...
    def end(self, counts: "StreamStats") -> None: ...


@contextmanager
def _ctrl_c(source: "Source") -> Iterator[None]:
    """Ctrl-C ends the source, so that the frame in work is finished; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be had
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        source.stop()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _shown(args: Namespace, live: "LivePredictor") -> Iterator[_View]:
    if args.json:
        yield _JsonLines(args.top)
    elif not sys.stdout.isatty():
        yield _Lines(args.top)
    else:
        with Screen(console=terminal.console(), refresh_per_second=10) as screen:
            yield _Picture(screen, live, args.top)


class _Lines:
    """One line an answer, where no terminal is."""

    def __init__(self, top: int) -> None:
        self.top = top

    def answer(self, scores: "LivePrediction") -> None:
        said = []
        for task, labels in as_task_dict(scores.labels).items():
            values, best = as_task_dict(scores.scores)[task], as_task_dict(scores.label)[task]
            best_ones = zip(labels[: self.top], values[: self.top], strict=True)
            text = ", ".join(f"{label} {100 * value:.1f} %" for label, value in best_ones)
            nothing = "nothing of these: " if best is None else ""
            said.append(f"{task}: {nothing}{text}" if task else nothing + text)
        print(f"{scores.time:.2f} s: {'; '.join(said)}", flush=True)

    def notice(self, notice: "SourceEvent") -> None:
        print(f"xvit: {notice.message}", file=sys.stderr, flush=True)

    def end(self, counts: "StreamStats") -> None:
        print(_summary(counts), flush=True)


class _JsonLines(_Lines):
    """One document a line: the answers, and last of all {"summary": {...}}."""

    def answer(self, scores: "LivePrediction") -> None:
        values = asdict(scores)
        for key in ("labels", "scores"):
            found = values[key]
            cut = {task: all_[: self.top] for task, all_ in found.items()} if isinstance(found, dict) else None
            values[key] = found[: self.top] if cut is None else cut
        print(json.dumps(values), flush=True)

    def end(self, counts: "StreamStats") -> None:
        print(json.dumps({"summary": asdict(counts)}), flush=True)


class _Picture:
    """The best classes as bars, their small curves over the latest answers, and the state of the run."""

    def __init__(self, screen: Screen, live: "LivePredictor", top: int) -> None:
        self.screen, self.live, self.top = screen, live, top
        self.history: deque[dict[tuple[Any, str], float]] = deque(maxlen=_HISTORY)

    def answer(self, scores: "LivePrediction") -> None:
        values = as_task_dict(scores.scores)
        self.history.append(
            {
                (task, label): value
                for task, labels in as_task_dict(scores.labels).items()
                for label, value in zip(labels, values[task], strict=True)
            }
        )
        table = Table.grid(*[Column(no_wrap=True) for _ in range(4)], padding=(0, 2))
        for task, labels in as_task_dict(scores.labels).items():
            said = as_task_dict(scores.label)[task]
            title = "nothing of these" if said is None else said
            table.add_row(Text(f"{task}: {title}" if task else title, style="dim" if said is None else "bold"))
            for label, value in list(zip(labels, values[task], strict=True))[: self.top]:
                style = "green" if label == said else "dim"
                bar = "█" * round(_BAR * value)
                curve = "".join(_BLOCKS[round(8 * past.get((task, label), 0.0))] for past in self.history)
                table.add_row(
                    Text(label, style=style),
                    Text(f"{100 * value:5.1f} %", style=style),
                    Text(f"{bar:<{_BAR}}", style=style),
                    Text(f"{curve:>{_HISTORY}}", style=style),
                )
        counts = self.live.counts
        state = (
            f"{scores.time:.1f} s   {counts.recent_frames_per_second:.1f} frames/s   lag {scores.lag_seconds:.2f} s   "
            f"{counts.dropped} of {counts.read} frames dropped\n"
            f"an answer waits for {self.live.stream.latency_frames} frames   Ctrl-C ends"
        )
        self.screen.update(Group(table, Text(state, style="dim")))

    def notice(self, notice: "SourceEvent") -> None:
        style = "dim" if notice.kind in ("opened", "stride") else "yellow"
        self.screen.console.print(Text(notice.message, style=style))

    def end(self, counts: "StreamStats") -> None:
        self.screen.console.print(_summary(counts))


def _summary(counts: "StreamStats") -> str:
    parts = {"dropped": counts.dropped, "skipped": counts.skipped, "not used": counts.left}
    losses = "".join(f", {number} {name}" for name, number in parts.items() if number or name == "dropped")
    damage = f"; {counts.damaged} damaged" if counts.damaged else ""
    breaks = f"; {counts.reconnects} attempts to reconnect" if counts.reconnects else ""
    return (
        f"{counts.read} frames: {counts.fed} fed{losses}{damage}{breaks}; {counts.answered} answers; "
        f"{counts.frames_per_second:.1f} frames/s; lag {counts.mean_lag_seconds:.2f} s on average, "
        f"95 % below {counts.lag_95_seconds:.2f} s"
    )
