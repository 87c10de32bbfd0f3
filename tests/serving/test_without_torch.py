"""A service for an exported model imports no torch, and answers as the trained model."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
import torch
from websockets.sync.client import connect

from helpers.color_videos import CLIP
from helpers.exports import NO_LIMITS, STREAMING, make_original
from helpers.serving import TIMEOUT, decode_picture, encode_picture
from xvit import Predictor, Stream
from xvit.data.decode import decode
from xvit.data.transforms import normalize
from xvit.export import export_model
from xvit.inference.streams import view_function
from xvit.timeline.scoring import score_video

SCRIPT = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "torchvision", "timm", "accelerate", "safetensors", "huggingface_hub", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
from xvit.cli.main import main

code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


@contextmanager
def serving(*words):
    """The address of a service in a process that cannot import torch."""
    command = [sys.executable, "-c", SCRIPT, "serve", *map(str, words), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield json.loads(line)["address"]
        finally:
            process.terminate()
            assert process.wait(TIMEOUT) == 143, process.stderr.read()


def test_an_exported_streaming_step(tmp_path, long_video):
    model = make_original(**STREAMING)
    model.clip_spec = replace(CLIP, sampling="strided", frame_rate=4.0)
    settings = {"format": "onnx", "num_clips": 2, "limits": NO_LIMITS, "streaming": True}
    export_model(model, tmp_path / "step", videos=[long_video], **settings)
    data = long_video.read_bytes()
    with serving(tmp_path / "step") as address:
        with httpx.Client(base_url=address, timeout=TIMEOUT, trust_env=False) as client:
            [entry] = client.get("/v1/models").json()["models"]
            assert [entry[name] for name in ("predict", "timeline", "stream", "explain")] == [True, True, True, False]
            answer = client.post("/v1/predict?frames=1&spatial_views=3", files={"file": data}).json()
            expected = Predictor(model, spatial_views=3)(long_video)
            scores = dict(zip(expected.labels, expected.scores, strict=True))
            assert dict(zip(answer["labels"], answer["scores"], strict=True)) == pytest.approx(scores, abs=1e-5)
            assert len(answer["frames"]) == len(answer["times"])
            *_, line = client.post("/v1/timeline", files={"file": data}).iter_lines()
            timeline = score_video(model, long_video)
            assert json.loads(line)["result"]["times"] == pytest.approx(timeline.times)
            assert json.loads(line)["result"]["scores"] == pytest.approx(timeline.scores, abs=1e-5)
            refused = client.post("/v1/explain", files={"file": data})
            assert refused.status_code == 422
            assert "no explanations" in refused.json()["error"]
        check_stream(address, model, decode(long_video, range(0, 40, 2)).frames)


def check_stream(address: str, model, frames: np.ndarray) -> None:
    pictures = [encode_picture(frame, "JPEG") for frame in frames]
    with connect(address.replace("http", "ws") + "/v1/stream", open_timeout=TIMEOUT, proxy=None) as socket:
        for message in ('{"format": "images"}', *pictures, '{"end": true}'):
            socket.send(message)
        _, *messages, done = (json.loads(message) for message in socket)
    assert done == {"done": {"frames": 20}}
    views = view_function(model)(np.stack([decode_picture(picture) for picture in pictures]))
    output = Stream(model).push(normalize(torch.from_numpy(views)[None], model.clip_spec))
    for message, row in zip(messages, model.probabilities(output.logits[0]).tolist(), strict=True):
        found = dict(zip(message["scores"]["labels"], message["scores"]["scores"], strict=True))
        assert found == pytest.approx(dict(zip(model.class_names, row, strict=True)), abs=1e-5)
