"""Live streams: the scores are those of `Stream` on the same decoded frames."""

import io
import json
import threading
from contextlib import contextmanager

import av
import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from helpers.serving import TIMEOUT, decode_picture, encode_picture, serve, wait_until
from xvit import Stream
from xvit.data.decode import decode, probe
from xvit.data.transforms import normalize
from xvit.inference.streams import view_function


@pytest.fixture(scope="module")
def pictures(long_video) -> list[bytes]:
    """Frames of a video at the rate that the model sees, as JPEG; one of them as WebP."""
    frames = decode(long_video, range(0, probe(long_video).num_frames, 2)).frames
    return [encode_picture(frame, "WEBP" if i == 3 else "JPEG") for i, frame in enumerate(frames)]


def expected_scores(model, frames) -> np.ndarray:
    """Scores (n, classes) of `Stream` on frames, one after the other."""
    stream, views = Stream(model), view_function(model)(np.stack(frames))
    outputs = [stream.push(normalize(torch.from_numpy(view)[None, None], model.clip_spec)) for view in views]
    outputs.append(stream.flush())
    return torch.cat([model.probabilities(output.logits[0]) for output in outputs]).numpy()


@contextmanager
def opened(server, address: str = "", *, hello: dict | None = None, **settings):
    with connect(server.websocket_url + address, open_timeout=TIMEOUT, proxy=None, **settings) as socket:
        if hello is not None:
            socket.send(json.dumps(hello))
            ready = json.loads(socket.recv(TIMEOUT))
            assert list(ready) == ["ready"], ready
        yield socket


def finish(socket) -> tuple[list[dict], int | None]:
    """All messages until the connection is closed, and the close code."""
    messages = []
    try:
        while True:
            messages.append(json.loads(socket.recv(TIMEOUT)))
    except ConnectionClosed:
        return messages, socket.close_code


def check_scores(messages, model, frames, *, tolerance: float = 0.0) -> None:
    *scores, done = messages
    assert done == {"done": {"frames": len(frames)}}
    expected = expected_scores(model, frames)
    assert len(scores) == len(expected)
    for index, (message, row) in enumerate(zip(scores, expected, strict=True)):
        found = message["scores"]
        assert found["frame"] == index
        by_name = dict(zip(model.class_names, row.tolist(), strict=True))
        assert dict(zip(found["labels"], found["scores"], strict=True)) == pytest.approx(by_name, abs=tolerance, rel=0)
        assert found["scores"] == sorted(found["scores"], reverse=True)


def test_pictures(server, predictor, pictures):
    with opened(server, hello={"format": "images", "threshold": 0.5}) as socket:
        for picture in pictures:
            socket.send(picture)
        socket.send('{"end": true}')
        messages, code = finish(socket)
    assert code == 1000
    frames = [decode_picture(picture) for picture in pictures]
    check_scores(messages, predictor.model, frames)
    scores = [message["scores"] for message in messages[:-1]]
    assert [score["time"] for score in scores] == [index / 4 for index in range(len(scores))]
    assert {score["moving"] for score in scores} == {True}
    assert all(score["lag_seconds"] >= 0 for score in scores)
    for score in scores:
        chosen = score["scores"][0] >= 0.5 and score["labels"][0] != "background"
        assert score["label"] == (score["labels"][0] if chosen else None)


def test_a_still_picture_has_no_label(server, pictures):
    with opened(server, hello={"format": "images"}) as socket:
        for _ in range(12):
            socket.send(pictures[0])
        socket.send('{"end": true}')
        messages, _ = finish(socket)
    scores = [message["scores"] for message in messages[:-1]]
    assert [score["moving"] for score in scores] == [True] * 7 + [False] * 5
    assert {score["label"] for score in scores[7:]} == {None}


def record(path, kind: str, frames: np.ndarray, fps: float) -> bytes:
    """A recording as browsers send it: without an index, and with fragments."""
    buffer = io.BytesIO()
    options = {"live": "1"} if kind == "webm" else {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(buffer, "w", format=kind, options=options) as container:
        stream = container.add_stream("libvpx" if kind == "webm" else "libx264", rate=int(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", 12
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["webm", "mp4"])
def test_recordings(server, predictor, long_video, tmp_path, kind):
    """A recording of 24 frames per second in pieces, of which the model sees 4 per second."""
    frames = decode(long_video, range(48)).frames.repeat(3, axis=0)
    recording = record(tmp_path / f"a.{kind}", kind, frames, 24)
    with opened(server, hello={"format": "video"}) as socket:
        for start in range(0, len(recording), 5000):
            socket.send(recording[start : start + 5000])
        socket.send('{"end": true}')
        messages, code = finish(socket)
    assert code == 1000
    times = [message["scores"]["time"] for message in messages[:-1]]
    assert times == [index / 4 for index in range(24)]
    decoded = decode(tmp_path / f"a.{kind}", range(0, 144, 6)).frames
    check_scores(messages, predictor.model, list(decoded))


def test_scores_of_a_recording_come_while_it_is_made(server, long_video, tmp_path):
    frames = decode(long_video, range(80)).frames
    recording = record(tmp_path / "a.webm", "webm", frames, 8)
    with opened(server, hello={"format": "video"}) as socket:
        socket.send(recording[: len(recording) // 2])
        assert "scores" in json.loads(socket.recv(TIMEOUT))
        socket.send(recording[len(recording) // 2 :])
        socket.send('{"end": true}')
        messages, code = finish(socket)
    assert (messages[-1], code) == ({"done": {"frames": 40}}, 1000)


def test_connections_are_pushed_together_and_keep_their_own_states(predictor, pictures):
    frames = [decode_picture(picture) for picture in pictures]
    results = {}
    with serve(["motion"], decode_threads=4) as running:

        def watch(start: int) -> None:
            with opened(running, hello={"format": "images"}) as socket:
                for picture in pictures[start:]:
                    socket.send(picture)
                socket.send('{"end": true}')
                results[start] = finish(socket)

        threads = [threading.Thread(target=watch, args=(start,)) for start in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        pushes = running.metric("xvit_stream_batch_streams_count", model="motion")
        total = running.metric("xvit_stream_batch_streams_sum", model="motion")
        assert total > pushes  # some were shared
        assert running.metric("xvit_streams") == 0
    for start, (messages, code) in results.items():
        assert code == 1000
        check_scores(messages, predictor.model, frames[start:], tolerance=1e-5)  # other sizes of matrices


@pytest.mark.parametrize(
    ("hello", "message", "code"),
    [
        ('{"format": "text"}', "the first message", 1008),
        ('{"format": "images", "threshold": 2}', "threshold", 1008),
        ('{"format": "images", "path": "/etc"}', "path: no such parameter", 1008),
        ("no json", "the first message", 1008),
        (b"\xff\xd8\xff", "the first message", 1008),
    ],
)
def test_wrong_first_messages(server, hello, message, code):
    with opened(server) as socket:
        socket.send(hello)
        [answer], closed = finish(socket)
    assert message in answer["error"]
    assert closed == code


@pytest.mark.parametrize(
    ("kind", "data", "message", "code"),
    [
        ("images", b"no picture", "no JPEG or WebP picture", 1008),
        ("images", "text", 'expected {"end": true}', 1008),
        ("images", bytes(70_000), "a message of more than 65,536 bytes", 1009),
        ("video", b"no video" * 1000, "the recording: ", 1008),
    ],
)
def test_wrong_messages_end_the_stream(kind, data, message, code):
    with serve(["motion"], message_bytes=65_536) as running, opened(running, hello={"format": kind}) as socket:
        socket.send(data)
        if kind == "video":
            socket.send('{"end": true}')
        [answer], closed = finish(socket)
        assert message in answer["error"]
        assert closed == code
        assert str(running.service.folder) not in answer["error"]
        wait_until(lambda: running.metric("xvit_streams") == 0)


def test_large_pictures_are_refused_before_they_are_decoded():
    with serve(["motion"], pixels=10_000) as running, opened(running, hello={"format": "images"}) as socket:
        socket.send(encode_picture(np.zeros((200, 200, 3), np.uint8), "JPEG"))
        [answer], code = finish(socket)
    assert "200x200" in answer["error"]
    assert code == 1008


def test_limits_of_streams(pictures):
    hello = {"format": "images"}
    with serve(["motion"], streams=1, stream_idle_seconds=1.0) as running:
        with opened(running, hello=hello) as first:
            with opened(running) as second:
                second.send(json.dumps(hello))
                [answer], code = finish(second)
                assert "all 1 live streams are in use" in answer["error"]
                assert code == 1013
            [answer], code = finish(first)  # it sends nothing
            assert "no message for 1 s" in answer["error"]
            assert code == 1008
        with opened(running, hello=hello) as third:
            third.send(pictures[0])
            assert "scores" in json.loads(third.recv(TIMEOUT))
        wait_until(lambda: running.metric("xvit_streams") == 0)  # the client is gone


def test_a_model_that_cannot_be_streamed(checkpoint):
    with serve([checkpoint]) as running:
        with running.client() as client:
            assert not client.get("/v1/models").json()["models"][0]["stream"]
        with opened(running) as socket:
            socket.send('{"format": "images"}')
            [answer], code = finish(socket)
    assert "cannot be streamed" in answer["error"]
    assert code == 1008


def test_an_unknown_model(server):
    with opened(server, "?model=other") as socket:
        socket.send('{"format": "images"}')
        [answer], code = finish(socket)
    assert "'other': not served here" in answer["error"]
    assert code == 1008


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, OSError])
def test_an_unexpected_error_of_the_model_is_told(server, pictures, monkeypatch, kind, caplog):
    def fail(jobs):
        raise kind("secret detail")

    monkeypatch.setattr(server.service.find(None).engine, "push", fail)
    with opened(server, hello={"format": "images"}) as socket:
        socket.send(pictures[0])
        [message], code = finish(socket)
    assert "server's log" in message["error"]
    assert "secret" not in message["error"]
    assert code == 1011
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("text", ["no JSON", "[" * 100_000, "9" * 5000, '{"end": false}'])
def test_a_text_message_other_than_the_end(server, text):
    with opened(server, hello={"format": "images"}) as socket:
        socket.send(text)
        [message], code = finish(socket)
    assert '{"end": true}' in message["error"]
    assert code == 1008
