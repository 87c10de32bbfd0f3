"""`xvit stream` as a user meets it, most of it in a process of its own."""

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
from helpers.color_videos import CLASSES, CLIP, described, make_model
from xvit.cli.main import main
from xvit.data.decode.video import decode
from xvit.data.transforms import eval_views, normalize

XVIT = [sys.executable, "-m", "xvit", "stream"]
LIMIT = 60  # seconds, for a command that hangs


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(a streamable model, its directory)"""
    made = described(make_model(temporal_position="head"), list(CLASSES))
    made.clip_spec = replace(CLIP, sampling="strided")
    directory = tmp_path_factory.mktemp("model") / "best"
    made.save_pretrained(directory)
    return made, directory


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", frames=20, kind="h264-faststart")


@pytest.fixture
def run(capfd, model):
    def run(*words) -> tuple[int, str, str]:
        code = main(["stream", *map(str, words), "--checkpoint", str(model[1])])
        return code, *capfd.readouterr()

    return run


def answers(out):
    """(answers, summary) of the JSON lines."""
    *lines, last = [json.loads(line) for line in out.splitlines()]
    return lines, last["summary"]


@torch.no_grad()
def test_a_file_as_json_lines(run, model, video):
    code, out, err = run(video, "--json", "--every", 5, "--top", 2)
    assert code == 0
    said, summary = answers(out)
    assert [answer["frame"] for answer in said] == [4, 9, 14, 19]
    assert all(len(answer["labels"]) == len(answer["scores"]) == 2 for answer in said)
    assert all(answer["label"] == answer["labels"][0] for answer in said)
    assert summary["read"] == summary["fed"] == 20
    assert summary["answered"] == 4
    assert err.count("\n") == 1
    assert f"xvit: {video}: 96x64, h264, 25 frames/s" in err
    made, _ = model
    pixels = normalize(eval_views(decode(video, range(20), short_side=16).frames, made.clip_spec), made.clip_spec)
    frames = made.forward_features(pixels).frames
    scores = made.classifier(made.temporal_head(frames[:, -4:])).softmax(-1)[0]
    assert said[-1]["scores"][0] == pytest.approx(scores.max().item(), abs=1e-5)


def test_a_file_as_plain_lines(run, video):
    code, out, err = run(video, "--stride", 4, "--threshold", 0.99, "--top", 1, "--max-frames", 10)
    assert code == 0
    lines = out.splitlines()
    assert [line.split(" s: ")[0] for line in lines[:-1]] == ["0.00", "0.16", "0.32"]
    assert all("nothing of these: " in line and line.endswith(" %") for line in lines[:-1])
    assert lines[-1].startswith("10 frames: 3 fed, 0 dropped, 7 skipped; 3 answers; ")
    assert "95 % below" in lines[-1]
    assert "\x1b" not in out + err


def test_mistakes_are_one_line_and_2(run, capfd, model, video, tmp_path):
    index_last = write_video(tmp_path / "index_last.mp4", frames=20)
    for words, text in {
        (tmp_path / "none.mp4",): "none.mp4: no such file",
        (truncate(tmp_path / "short.mp4", index_last, share=0.5),): "short.mp4: not a readable video file",
        ("htp://127.0.0.1/x",): 'Did you mean "http"?',
        (video, "--stride", 0): "stride=0",
        (video, "--every", 0): "every=0",
        (video, "--top", 0): "top=0",
        (video, "--threshold", 3): "threshold=3",
        (video, "--raw", "4x4@4"): "standard input only",
        (video, "--device", "cuda:99"): "cuda:99",
        (video, "--reconnct", 3): 'Did you mean "--reconnect"?',
    }.items():
        code, out, err = run(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert text in err
    other = described(make_model(temporal_position="input"), list(CLASSES))
    other.save_pretrained(tmp_path / "other")
    assert main(["stream", str(video), "--checkpoint", str(tmp_path / "other")]) == 2
    assert "take temporal_position='head' or 'none'" in capfd.readouterr().err


def test_a_pipe_that_stalls_ends_with_1(run, monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, barcode_frame(0).tobytes())
    with os.fdopen(reading, "rb") as file:
        monkeypatch.setattr("sys.stdin", file)
        code, out, err = run("-", "--raw", "96x64@25", "--json", "--timeout", 0.5)
    os.close(writing)
    assert code == 1
    assert err.endswith("xvit: -: no frame for 0.5 s\n")
    assert len(answers(out)[0]) == 1


def test_raw_pictures_through_a_pipe_until_ctrl_c(model):
    pictures = b"".join(barcode_frame(number).tobytes() for number in range(10))
    words = [*XVIT, "-", "--raw", "96x64@25", "--checkpoint", str(model[1]), "--json", "--timeout", "60"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, **pipes) as process:
        stop = threading.Timer(LIMIT, process.kill)
        stop.start()
        process.stdin.write(pictures)
        process.stdin.flush()
        first = process.stdout.readline()  # it runs
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 130
        assert time.monotonic() - began < 10
        out, err = (first + process.stdout.read()).decode(), process.stderr.read().decode()
        stop.cancel()
    said, summary = answers(out)
    assert [answer["frame"] for answer in said] == list(range(summary["fed"]))  # those that waited for others too
    assert summary["read"] == summary["fed"] + summary["left"]
    assert err.endswith("xvit: stopped. Run the same command to start again.\n")
    assert "Traceback" not in err


def test_a_reader_of_the_answers_that_leaves(model, video):
    command = '"$0" -m xvit stream - --checkpoint "$2" --real-time < "$1" | head -n 1; echo ${PIPESTATUS[0]}'
    words = ["bash", "-c", command, sys.executable, str(video), str(model[1])]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout.splitlines()[1:] == ["0"], done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_shows_bars_and_curves(model, video):
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))
    words = [*XVIT, str(video), "--checkpoint", str(model[1])]
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(words, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    out = b""
    try:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            try:
                got = os.read(parent, 65536)
            except OSError:  # how a terminal ends
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
    assert "an answer waits for" in text
    assert "20 frames: 20 fed" in text
    assert all(name in text for name in CLASSES)
