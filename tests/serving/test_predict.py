"""Predictions over HTTP equal those of `Predictor`."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from helpers.color_videos import write_video
from helpers.exports import TASK_NAMES, make_original
from helpers.serving import serve
from xvit import Predictor
from xvit.data.annotations import find_videos


def assert_same(answer: dict, prediction, k: int) -> None:
    assert answer["labels"] == list(prediction.labels[:k])
    assert answer["scores"] == pytest.approx(prediction.scores[:k], abs=1e-6)
    assert answer["times"] == list(prediction.times)
    assert answer["warnings"] == list(prediction.warnings)


@pytest.mark.parametrize("views", [(1, 1), (2, 3)])
def test_answers_equal_those_of_the_predictor(server, video, views):
    temporal_views, spatial_views = views
    expected = Predictor("motion", temporal_views=temporal_views, spatial_views=spatial_views)(video)
    params = {"top_k": 3, "temporal_views": temporal_views, "spatial_views": spatial_views}
    with server.client() as client:
        as_form = client.post("/v1/predict", params=params, files={"file": video.read_bytes()})
        as_fields = client.post("/v1/predict", data=params, files={"file": video.read_bytes()})
        raw = client.post(
            "/v1/predict", params=params, content=video.read_bytes(), headers={"Content-Type": "video/mp4"}
        )
    for response in (as_form, as_fields, raw):
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["model"] == "motion"
        assert_same(answer, expected, 3)
        assert answer["seconds"] > 0
        assert "frames" not in answer


def test_parameters_of_the_address_come_before_those_of_the_form(server, video):
    with server.client() as client:
        response = client.post(
            "/v1/predict?top_k=1", data={"top_k": 4, "frames": "1"}, files={"file": video.read_bytes()}
        )
    assert len(response.json()["labels"]) == 1
    assert response.json()["frames"]


@pytest.mark.parametrize("views", [(1, 1), (2, 3)])
def test_frames_are_the_centre_views_that_the_model_saw(server, video, predictor, views):
    params = {"frames": 1, "temporal_views": views[0], "spatial_views": views[1]}
    with server.client() as client:
        answer = client.post("/v1/predict", params=params, files={"file": video.read_bytes()}).json()
    assert len(answer["frames"]) == len(answer["times"])
    from xvit.data.decode import decode
    from xvit.inference.streams import view_function

    frames = decode(video, [round(8 * time) for time in answer["times"]]).frames
    for uri, view in zip(answer["frames"], view_function(predictor.model)(frames), strict=True):
        kind, _, data = uri.partition(",")
        assert kind == "data:image/jpeg;base64"
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=float)
        assert abs(picture - view.transpose(1, 2, 0)).mean() < 6  # of 255: what JPEG loses


def test_requests_at_the_same_time_share_batches_and_get_their_own_answers(videos, predictor):
    paths = find_videos([str(videos / "val")])
    expected = dict(zip(paths, predictor.predict(paths), strict=True))
    with serve(["motion"], batch_wait=0.1, decode_threads=4) as running, running.client() as client:

        def ask(path: str) -> dict:
            response = client.post("/v1/predict", params={"top_k": 13}, files={"file": Path(path).read_bytes()})
            assert response.status_code == 200, response.text
            return response.json()

        jobs = [paths[i % len(paths)] for i in range(48)]
        with ThreadPoolExecutor(16) as pool:
            for path, answer in zip(jobs, pool.map(ask, jobs), strict=True):
                assert_same(answer, expected[path], 13)
        batches = running.metric("xvit_batch_clips_count", model="motion")
        assert running.metric("xvit_batch_clips_sum", model="motion") == 48
        assert batches < 48
        assert running.uploads() == []


def test_several_models_and_tasks(tmp_path, checkpoint):
    original = make_original(class_names=TASK_NAMES)
    original.save_pretrained(tmp_path / "tasks")
    path = write_video(tmp_path / "a.mp4", color=0, seed=1)
    with serve([checkpoint, f"colours={tmp_path / 'tasks'}"]) as running, running.client() as client:
        entries = client.get("/v1/models").json()["models"]
        assert [(entry["name"], entry["default"]) for entry in entries] == [
            (checkpoint.parent.name, True),
            ("colours", False),
        ]
        assert entries[1]["classes"] == TASK_NAMES
        assert not entries[1]["timeline"]
        answer = client.post("/v1/predict?model=colours&top_k=2", files={"file": path.read_bytes()}).json()
        expected = Predictor(tmp_path / "tasks")(path)
        for task in TASK_NAMES:
            assert answer["labels"][task] == list(expected.labels[task][:2])
            assert answer["scores"][task] == pytest.approx(expected.scores[task][:2], abs=1e-6)
        default = client.post("/v1/predict", files={"file": path.read_bytes()}).json()
        assert default["model"] == checkpoint.parent.name
        for address in ("/v1/predict?model=colour", "/v2/models/colour"):
            get = client.get if address.startswith("/v2") else client.post
            response = get(address) if get == client.get else get(address, files={"file": b"x"})
            assert response.status_code == 404
            assert 'Did you mean "colours"?' in response.json()["error"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"top_k": 0}, "top_k"),
        ({"temporal_views": "many"}, "temporal_views"),
        ({"temporal_views": 20, "spatial_views": 2}, "product of at most 30"),
        ({"colour": "red"}, "colour: no such parameter"),
    ],
)
@pytest.mark.parametrize("place", ["params", "data"])
def test_wrong_parameters(server, video, params, message, place):
    with server.client() as client:
        response = client.post("/v1/predict", files={"file": video.read_bytes()}, **{place: params})
    assert response.status_code == 422
    assert message in response.json()["error"]


def test_models_describe_themselves(server):
    with server.client() as client:
        answer = client.get("/v1/models").json()
    [model] = answer["models"]
    assert (model["num_frames"], model["image_size"], model["frame_rate"]) == (8, 48, 4.0)
    assert all(model[name] for name in ("predict", "timeline", "stream", "explain"))
    assert "moving_left" in model["classes"]
    assert answer["limits"] == {
        "upload_bytes": 100 * 2**20,
        "pixels": 4096 * 2304,
        "frames": 200_000,
        "seconds": 3600.0,
        "deadline_seconds": 60.0,
    }


def test_curl_as_in_the_documentation(server, video):
    """A raw body whose type is application/octet-stream, from a client that knows nothing of videos."""
    response = httpx.post(
        f"{server.url}/v1/predict",
        content=video.read_bytes(),
        headers={"Content-Type": "application/octet-stream"},
        trust_env=False,
    )
    assert response.json()["labels"][0] == "moving_left"
