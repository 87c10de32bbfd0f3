"""`xvit stream`, in this process and in processes of its own."""

import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import BinaryIO

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live

from helpers.barcode_videos import barcode_frame, truncate, write_video
from helpers.color_videos import CLASSES, CLIP, make_model, with_metadata
from helpers.rate_videos import write_steps
from helpers.warm_processes import WarmProcess
from xvit.cli.main import main
from xvit.cli.stream import _ScreenView, fit_columns
from xvit.config import SINGLE_TASK
from xvit.data.decode import decode
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.inference.live import LivePrediction
from xvit.models.streaming import Stream


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that can be streamed, and its directory."""
    model = with_metadata(make_model(temporal_position="head"), list(CLASSES))
    model.clip_spec = replace(CLIP, sampling="strided")
    directory = tmp_path_factory.mktemp("model") / "best"
    model.save_pretrained(directory)
    return model, directory


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", frames=20, kind="h264-faststart")


@pytest.fixture
def stream(capfd, model):
    """Run `xvit stream` with the model; returns its exit code, standard output and standard error."""

    def stream(*words) -> tuple[int, str, str]:
        code = main(["stream", *map(str, words), "--checkpoint", str(model[1])])
        return code, *capfd.readouterr()

    return stream


def parse_output(out):
    """The predictions and the summary from the JSON lines."""
    *lines, last = [json.loads(line) for line in out.splitlines()]
    return lines, last["summary"]


@torch.no_grad()
def test_file_to_json_lines(stream, model, video):
    code, out, err = stream(video, "--json", "--predict-every", 5, "--top-k", 2)
    assert code == 0
    predictions, summary = parse_output(out)
    assert [prediction["frame"] for prediction in predictions] == [4, 9, 14, 19]
    assert all(len(prediction["labels"]) == len(prediction["scores"]) == 2 for prediction in predictions)
    assert all(prediction["label"] == prediction["labels"][0] for prediction in predictions)
    assert summary["read"] == summary["processed"] == 20
    assert summary["predictions"] == 4
    settings = {"frame_rate": None, "stride": 1, "threshold": 0, "ignore": [], "motion_threshold": 5}
    assert summary.items() >= settings.items()
    assert err.count("\n") == 1
    assert f"xvit: {video}: 96x64, h264, 25 frames/s" in err
    network, _ = model
    clip_spec = network.clip_spec
    pixels = normalize(eval_views(as_tensor(decode(video, range(20), short_side=16).frames), clip_spec), clip_spec)
    frames = network.forward_features(pixels).frames
    scores = network.classifier(network.temporal_head(frames[:, -4:]))[SINGLE_TASK].softmax(-1)[0]
    assert predictions[-1]["scores"][0] == pytest.approx(scores.max().item(), abs=1e-5)


def test_file_to_text_lines(stream, video):
    code, out, err = stream(video, "--stride", 4, "--threshold", 0.99, "--top-k", 1, "--max-frames", 10, "--all")
    assert code == 0
    lines = out.splitlines()
    assert [line.split(" s: ")[0] for line in lines[:-1]] == ["0.00", "0.16", "0.32"]
    assert all("below threshold: " in line and line.endswith(" %") for line in lines[:-1])
    assert lines[-1].startswith("10 frames: 3 processed, 0 dropped, 7 skipped; 3 predictions; ")
    assert "95 % below" in lines[-1]
    assert "\x1b" not in out + err


@pytest.fixture(scope="module")
def changing(tmp_path_factory):
    """A checkpoint of random weights whose label changes over time: blue, green, background; 8 frames per second."""
    network = with_metadata(make_model(temporal_position="head", causal=True), ["blue", "green", "background"])
    network.clip_spec = replace(CLIP, sampling="strided", frame_rate=8.0)
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(torch.randn_like(tensor))
    directory = tmp_path_factory.mktemp("changing") / "best"
    network.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """12 s of barcodes that change 8 times per second, but stand still from 4 to 8 s; 25 frames per second."""
    times = [index / 25 for index in range(12 * 25)]
    shown = [min(time, 4) if time < 8 else time - 4 for time in times]
    return write_steps(tmp_path_factory.mktemp("long") / "long.mp4", times, shown=shown)


def test_only_changes_of_the_label_are_printed(run, changing, long_video):
    words = ["stream", long_video, "--checkpoint", changing, "--top-k", 1]
    code, out, _ = run(*words, "--json", "--ignore", "")
    assert code == 0
    predictions, summary = parse_output(out)
    labels = [prediction["label"] for prediction in predictions]
    changes = [0] * (labels[0] is not None) + [i for i, (a, b) in enumerate(pairwise(labels), start=1) if a != b]
    assert len(predictions) == summary["predictions"] == 96
    assert len(set(labels)) > 2
    assert len(changes) < 48
    code, out, _ = run(*words, "--ignore", "")
    assert [line.split(" s: ")[0] for line in out.splitlines()[:-1]] == [
        f"{predictions[i]['time']:.2f}" for i in changes
    ]
    code, out, _ = run(*words, "--ignore", "", "--all")
    assert len(out.splitlines()) == 97


def test_the_motion_gate_and_ignored_classes_have_no_label(run, cli_error, changing, long_video):
    words = ["stream", long_video, "--checkpoint", changing]
    code, out, err = run(*words, "--json", "--motion-threshold", 0, "--ignore", "")
    assert code == 0
    assert "motion" not in err
    everything, _ = parse_output(out)
    assert all(prediction["label"] == prediction["labels"][0] for prediction in everything)
    code, out, err = run(*words, "--json")
    predictions, summary = parse_output(out)
    assert (summary["ignore"], summary["frame_rate"]) == (["background"], 8)
    lines = err.splitlines()
    assert lines[1:3] == [
        "xvit: the model sees 8 frames per second, whatever the rate of the source",
        "xvit: ignored, without a label: background",
    ]
    assert lines[3:] == ["xvit: 4.38 s: nothing moves: no label until something does", "xvit: 8.12 s: motion again"]
    for before, now in zip(everything, predictions, strict=True):
        assert now["scores"] == before["scores"]
        assert now["moving"] == (not 4.3 < now["time"] < 8.1)
        assert now["label"] == (before["label"] if now["moving"] and before["label"] != "background" else None)
    assert {"background", "blue"} <= {prediction["label"] for prediction in everything}
    _, out, _ = run(*words, "--all", "--top-k", 1)
    reasons = {line.split(": ")[1] for line in out.splitlines()[:-1]}
    assert {"no motion", "ignored"} <= reasons
    error = cli_error(*words, "--ignore", "gren")
    assert error == 'ignore: class "gren" is not one of the 3 classes of the model. Did you mean "green"?'


def make_view(width: int, names: dict[str, list[str]], label) -> tuple[_ScreenView, Console, LivePrediction]:
    """A live view with a full history, in a terminal of `width` columns."""
    console = Console(width=width, height=40, file=io.StringIO(), force_terminal=True)
    stats = SimpleNamespace(recent_frames_per_second=8.0, dropped=0, read=100)
    live = SimpleNamespace(stats=stats, stream=SimpleNamespace(latency_frames=0), ignore=())
    scores = {task: [0.9] + [0.1 / (len(values) - 1)] * (len(values) - 1) for task, values in names.items()}
    if set(names) == {SINGLE_TASK}:
        names, scores = names[SINGLE_TASK], scores[SINGLE_TASK]
    prediction = LivePrediction(
        frame=9, time=1.1, label=label, labels=names, scores=scores, moving=True, lag_seconds=0.1
    )
    return _ScreenView(live, 5, Live(console=console)), console, prediction


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize(
    "names",
    [
        {SINGLE_TASK: ["coming_out_from_behind", "moving_up", "two_shapes_parting"]},
        {SINGLE_TASK: ["从后面出来的形状", "向上"]},
        {"verb": ["take-apart", "put"], "noun": ["cupboard:kitchen", "cup"]},
    ],
    ids=["motion", "wide", "tasks"],
)
def test_names_are_whole_in_the_live_view_at_any_width(width, names):
    label = names[SINGLE_TASK][0] if SINGLE_TASK in names else {task: values[0] for task, values in names.items()}
    view, console, prediction = make_view(width, names, label)
    for _ in range(30):
        view.show_prediction(prediction)
    with console.capture() as capture:
        console.print(view.screen.renderable)
    lines = [line.rstrip() for line in capture.get().replace("\x1b", "\0").split("\n")]
    text = "\n".join(re.sub(r"\0\[[\d;]*m", "", line) for line in lines)
    assert all(cell_len(line) <= width for line in text.split("\n"))
    rows = {line.split()[0]: line for line in text.split("\n") if "%" in line}
    assert set(rows) == {name for values in names.values() for name in values}
    assert all(row.count("%") == 1 for row in rows.values())
    best = max(rows.values(), key=lambda row: float(row.split()[1]))
    longest = max(cell_len(name) for name in rows)
    bar, curve = fit_columns(width, longest)
    assert best.count("█") == round(0.9 * bar)
    assert best.count("▇") == curve
    assert (bar > 0) == (width - longest >= 15)
    if width >= 80:
        assert (bar, curve) == (16, 24)


def test_a_name_longer_than_the_terminal_goes_on_in_the_next_line():
    name = "Pretending to put something onto something, but something falls down"
    view, console, prediction = make_view(40, {SINGLE_TASK: [name, "Nothing"]}, name)
    view.show_prediction(prediction)
    with console.capture() as capture:
        console.print(view.screen.renderable)
    text = re.sub(r"\x1b\[[\d;]*m", "", capture.get())
    assert all(len(line) <= 40 for line in text.split("\n"))
    rows = text.split("90.0 %")
    assert len(rows) == 2
    assert set(name.split()) <= set(text.split())


def test_invalid_arguments_and_input(stream, capfd, model, video, tmp_path):
    index_last = write_video(tmp_path / "index_last.mp4", frames=20)
    for words, text in {
        (tmp_path / "none.mp4",): "none.mp4: no such file",
        (truncate(tmp_path / "short.mp4", index_last, fraction=0.5),): "short.mp4: not a readable video file",
        ("htp://127.0.0.1/x",): 'Did you mean "http"?',
        (video, "--stride", 0): "stride=0",
        (video, "--predict-every", 0): "predict_every=0",
        (video, "--top-k", 0): "top_k=0",
        (video, "--threshold", 3): "threshold=3",
        (video, "--raw", "4x4@4"): "standard input only",
        (video, "--device", "cuda:99"): "cuda:99",
        (video, "--reconnct", 3): 'Did you mean "--reconnect"?',
    }.items():
        code, out, err = stream(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert text in err
    other = with_metadata(make_model(temporal_position="input"), list(CLASSES))
    other.save_pretrained(tmp_path / "other")
    assert main(["stream", str(video), "--checkpoint", str(tmp_path / "other")]) == 2
    assert "use temporal_position='head' or 'none'" in capfd.readouterr().err


def test_stalled_pipe_gives_exit_code_1(stream, monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, barcode_frame(0).tobytes())
    with os.fdopen(reading, "rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        code, out, err = stream("-", "--raw", "96x64@25", "--json", "--timeout", 2)
    os.close(writing)
    assert code == 1
    assert err.endswith("xvit: -: no frame for 2 s\n")
    assert len(parse_output(out)[0]) == 1


@contextmanager
def start_raw_stream(model, *options: str) -> Iterator[tuple[WarmProcess, BinaryIO, BinaryIO]]:
    """A process that classifies raw frames, its standard input and its output. The source may pause an hour."""
    (stdin, source), (reader, stdout) = os.pipe(), os.pipe()
    with open(source, "wb", buffering=0) as source, open(reader, "rb") as reader:
        words = ["stream", "-", "--raw", "96x64@25", "--checkpoint", model[1], "--timeout", "3600", *options]
        process = WarmProcess(*words, stdin=stdin, stdout=stdout)
        os.close(stdin)
        os.close(stdout)
        yield process, source, reader


def test_raw_frames_through_a_pipe_until_ctrl_c(model):
    with start_raw_stream(model, "--json") as (process, source, reader):
        source.write(b"".join(barcode_frame(number).tobytes() for number in range(10)))
        first = reader.readline()  # it is running
        process.send_signal(signal.SIGINT)
        code, _, err = process.wait()  # it does not wait for the source
        assert code == 130
        predictions, summary = parse_output((first + reader.read()).decode())
    frames = [prediction["frame"] for prediction in predictions]
    assert frames == list(range(summary["processed"]))  # pending frames included
    assert summary["read"] == summary["processed"] + summary["undelivered"]
    assert err.endswith("xvit: stopped. Run the same command to start again.\n")
    assert "Traceback" not in err


def test_closed_pipe_is_not_an_error(model):
    frames = b"".join(barcode_frame(number).tobytes() for number in range(10))
    with start_raw_stream(model, "--all") as (process, source, reader):
        source.write(frames)
        reader.readline()
        reader.close()
        with suppress(BrokenPipeError):  # it may have ended by now
            source.write(frames)
        code, _, err = process.wait()  # it ends, although the source does not
    assert code == 0, err
    assert "Traceback" not in err


def test_terminal_shows_bars_and_curves(model, video):
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))
    words = ["stream", video, "--checkpoint", model[1]]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), child)
    process = WarmProcess(*words, env={"TERM": "xterm-256color"}, **streams)
    os.close(child)
    out = b""
    with open(parent, "rb", buffering=0) as terminal, suppress(OSError):  # the process closes the terminal
        while got := terminal.read(65536):
            out += got
    assert process.wait()[0] == 0
    text = out.decode()
    assert "█" in text
    assert "a prediction needs" in text
    assert "20 frames: 20 processed" in text
    assert all(name in text for name in CLASSES)


def test_model_that_cannot_be_streamed(cli_error, checkpoint, videos):
    video = next((videos / "val" / "moving_left").iterdir())
    message = cli_error("stream", video, "--checkpoint", checkpoint)
    assert message.startswith(f"{checkpoint}: this model cannot be streamed: temporal_position='input'")
    assert "recipes/motion-streaming.yaml" in message


def test_patches_that_did_not_change_are_carried_forward(run, cli_error, model, video, tmp_path):
    causal = with_metadata(make_model(temporal_position="head", causal=True), list(CLASSES))
    causal.clip_spec = replace(CLIP, sampling="strided")
    causal.save_pretrained(tmp_path / "causal")
    words = ["stream", video, "--checkpoint", tmp_path / "causal", "--json"]
    scores = {}
    for threshold in (None, 0.3):
        option = [] if threshold is None else ["--unchanged-threshold", threshold]
        code, out, _ = run(*words, *option)
        assert code == 0
        lines = [json.loads(line) for line in out.splitlines()]
        scores[threshold] = [line["scores"] for line in lines if "scores" in line]
        frames = eval_views(as_tensor(decode(video, range(20), short_side=16).frames), causal.clip_spec)[0]
        expected = Stream(causal, unchanged_threshold=threshold).push(normalize(frames, causal.clip_spec)[None])
        best = expected.logits[0].softmax(dim=-1).sort(dim=-1, descending=True).values
        torch.testing.assert_close(torch.tensor(scores[threshold]), best, atol=1e-5, rtol=0)
    assert scores[None] != scores[0.3]
    error = cli_error("stream", video, "--checkpoint", model[1], "--unchanged-threshold", 0.3)  # a centered model
    assert "causal" in error
