"""Timelines over HTTP equal those of `score_video`."""

import json

import av
import numpy as np
import pytest

from helpers.serving import serve, wait_until
from xvit.serving import timelines
from xvit.serving.timelines import summarize
from xvit.timeline.scoring import score_video


def lines(response) -> list[dict]:
    assert response.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.iter_lines()]


@pytest.mark.parametrize("options", [{}, {"threshold": 0.8, "predict_every": 4}])
def test_the_result_is_that_of_the_library(server, predictor, long_video, options):
    with server.client() as client:
        response = client.post("/v1/timeline", data=options, files={"file": long_video.read_bytes()})
    assert response.status_code == 200
    *progress, last = lines(response)
    scores = score_video(predictor.model, long_video, predict_every=options.get("predict_every"))
    expected = summarize(scores, options.get("threshold", 0.5))
    result = last["result"]
    assert result["segments"]
    assert list(result) == ["duration", "class_names", "times", "scores", "segments", "warnings"]
    np.testing.assert_allclose(result["scores"], expected["scores"], atol=1e-6)
    assert result["segments"] == [pytest.approx(segment) for segment in expected["segments"]]
    assert {name: result[name] for name in ("duration", "class_names", "times", "warnings")} == {
        name: expected[name] for name in ("duration", "class_names", "times", "warnings")
    }
    for line in progress:
        assert 0 <= line["progress"]["decoded"] <= line["progress"]["total"]


def test_progress_comes_while_the_video_is_read(server, long_video, monkeypatch):
    monkeypatch.setattr(timelines, "_PROGRESS_SECONDS", 0.0)
    with server.client() as client:
        response = client.post("/v1/timeline", files={"file": long_video.read_bytes()})
    decoded = [line["progress"]["decoded"] for line in lines(response)[1:-1]]
    assert len(decoded) > 5
    assert decoded == sorted(decoded)


def test_an_error_after_the_start_is_the_last_line(server, long_video, monkeypatch):
    monkeypatch.setattr(timelines, "_PROGRESS_SECONDS", 0.0)

    def fail(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(timelines, "summarize", fail)
    with server.client() as client:
        response = client.post("/v1/timeline", files={"file": long_video.read_bytes()})
    assert response.status_code == 200
    *_, last = lines(response)
    assert "unexpected error" in last["error"]
    assert "secret" not in last["error"]
    wait_until(lambda: server.service.places.used == 0 and server.uploads() == [])


def test_a_damaged_video_is_scored_as_far_as_it_goes(server, long_video, tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(long_video)) as source, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    data = path.read_bytes()
    with server.client() as client:
        *_, last = lines(client.post("/v1/timeline", files={"file": data[: len(data) // 2]}))
    assert last["result"]["scores"]
    assert "cut short" in last["result"]["warnings"][0]


def test_videos_and_parameters_that_cannot_be_used(server, video):
    with server.client() as client:
        garbage = client.post("/v1/timeline", files={"file": b"garbage"})
        assert garbage.status_code == 422
        assert garbage.json()["error"].startswith("the video: not a readable video file")
        wrong = client.post("/v1/timeline?threshold=2", files={"file": video.read_bytes()})
        assert wrong.status_code == 422
        assert "threshold" in wrong.json()["error"]


def test_a_model_without_a_known_spacing_has_no_timelines(checkpoint, video):
    with serve([checkpoint]) as running, running.client() as client:
        assert not client.get("/v1/models").json()["models"][0]["timeline"]
        response = client.post("/v1/timeline", files={"file": video.read_bytes()})
    assert response.status_code == 422
    assert "no timelines" in response.json()["error"]
