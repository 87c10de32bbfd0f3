"""A calibrated model behind the service: predictions, streams and timelines say what is none of its classes."""

import json

import numpy as np
import pytest

from helpers.calibration import with_calibration
from helpers.serving import encode_picture, serve
from xvit import Predictor, XViT
from xvit.data.decode import decode

from .test_streams import finish, opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the bundled model that rejects everything."""
    model = with_calibration(XViT.from_pretrained("motion"), temperature=2.0, threshold=1e3)
    path = tmp_path_factory.mktemp("models") / "rejecting"
    model.save_pretrained(path)
    return path


def test_answers_say_whether_the_video_is_known(folder, video, long_video):
    frames = decode(long_video, range(0, 40, 4)).frames
    with serve([str(folder), "motion"]) as server, server.client() as client:
        content = video.read_bytes()
        answer = client.post("/v1/predict?temporal_views=2", files={"file": content}).json()
        prediction = Predictor(folder, device="cpu", temporal_views=2)(video)
        assert answer["known"] is prediction.known is False
        assert answer["scores"] == pytest.approx(prediction.scores[:5], abs=1e-6)
        assert "known" not in client.post("/v1/predict?model=motion", files={"file": content}).json()
        lines = client.post("/v1/timeline?threshold=0", files={"file": content}).text.splitlines()
        result = json.loads(lines[-1])["result"]
        assert result["segments"] == []
        assert not np.array(result["scores"]).any()
        for name, known in (("", False), ("?model=motion", None)):
            with opened(server, name, hello={"format": "images"}) as socket:
                for frame in frames:
                    socket.send(encode_picture(frame))
                socket.send('{"end": true}')
                messages, _ = finish(socket)
            scores = [message["scores"] for message in messages[:-1]]
            assert len(scores) == len(frames)
            assert all(score.get("known") is known for score in scores)
            assert all(score["label"] is None for score in scores) == (known is False)
