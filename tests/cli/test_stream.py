"""`xvit stream`, in this process and in processes of its own."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import replace

import pytest
import torch

from helpers.barcode_videos import barcode_frame, truncate, write_video
from helpers.color_videos import CLASSES, CLIP, make_model, with_metadata
from xvit.cli.main import main
from xvit.config import SINGLE_TASK
from xvit.data.decode import decode
from xvit.data.transforms import eval_views, normalize

XVIT = [sys.executable, "-m", "xvit", "stream"]
TIMEOUT = 60  # seconds after which a process is killed


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
    assert err.count("\n") == 1
    assert f"xvit: {video}: 96x64, h264, 25 frames/s" in err
    network, _ = model
    clip_spec = network.clip_spec
    pixels = normalize(eval_views(decode(video, range(20), short_side=16).frames, clip_spec), clip_spec)
    frames = network.forward_features(pixels).frames
    scores = network.classifier(network.temporal_head(frames[:, -4:]))[SINGLE_TASK].softmax(-1)[0]
    assert predictions[-1]["scores"][0] == pytest.approx(scores.max().item(), abs=1e-5)


def test_file_to_text_lines(stream, video):
    code, out, err = stream(video, "--stride", 4, "--threshold", 0.99, "--top-k", 1, "--max-frames", 10)
    assert code == 0
    lines = out.splitlines()
    assert [line.split(" s: ")[0] for line in lines[:-1]] == ["0.00", "0.16", "0.32"]
    assert all("below threshold: " in line and line.endswith(" %") for line in lines[:-1])
    assert lines[-1].startswith("10 frames: 3 processed, 0 dropped, 7 skipped; 3 predictions; ")
    assert "95 % below" in lines[-1]
    assert "\x1b" not in out + err


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
        code, out, err = stream("-", "--raw", "96x64@25", "--json", "--timeout", 0.5)
    os.close(writing)
    assert code == 1
    assert err.endswith("xvit: -: no frame for 0.5 s\n")
    assert len(parse_output(out)[0]) == 1


def test_raw_frames_through_a_pipe_until_ctrl_c(model):
    frames = b"".join(barcode_frame(number).tobytes() for number in range(10))
    words = [*XVIT, "-", "--raw", "96x64@25", "--checkpoint", str(model[1]), "--json", "--timeout", "60"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, **pipes) as process:
        stop = threading.Timer(TIMEOUT, process.kill)
        stop.start()
        process.stdin.write(frames)
        process.stdin.flush()
        first = process.stdout.readline()  # it is running
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
        assert time.monotonic() - began < 10
        out, err = (first + process.stdout.read()).decode(), process.stderr.read().decode()
        stop.cancel()
    predictions, summary = parse_output(out)
    frames = [prediction["frame"] for prediction in predictions]
    assert frames == list(range(summary["processed"]))  # pending frames included
    assert summary["read"] == summary["processed"] + summary["undelivered"]
    assert err.endswith("xvit: stopped. Run the same command to start again.\n")
    assert "Traceback" not in err


def test_closed_pipe_is_not_an_error(model, video):
    command = '"$0" -m xvit stream - --checkpoint "$2" --real-time < "$1" | head -n 1; echo ${PIPESTATUS[0]}'
    words = ["bash", "-c", command, sys.executable, str(video), str(model[1])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.stdout.splitlines()[1:] == ["0"], done.stderr
    assert "Traceback" not in done.stderr


def test_terminal_shows_bars_and_curves(model, video):
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))
    words = [*XVIT, str(video), "--checkpoint", str(model[1])]
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(words, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    out = b""
    try:
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            try:
                got = os.read(parent, 65536)
            except OSError:  # the process closed the terminal
                break
            if not got:
                break
            out += got
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(parent)
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
