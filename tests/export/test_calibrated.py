"""Exports of calibrated models: the scores and rejections of the model, from clips, raw frames and streams."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from helpers.barcode_videos import write_video
from helpers.calibration import naive_energy, with_calibration
from helpers.color_videos import CLIP
from helpers.exports import NO_LIMITS, SMALLEST, STREAMING, TASKS, make_original
from xvit import Predictor
from xvit.data.annotations import Sample, find_videos
from xvit.data.capture.source import Source
from xvit.data.dataset import VideoDataset
from xvit.data.decode import decode
from xvit.export import ExportedModel, export_model
from xvit.inference import LivePrediction, LivePredictor
from xvit.inference.streams import open_stream, view_function
from xvit.timeline import score_video
from xvit.utils.errors import XViTError

EXAMPLES = Path(__file__).parents[2] / "examples"


def calibrated(video_dir, seed: int, **options):
    """A model that rejects some of the videos, in each task. Tests that export others must not share its program."""
    model = make_original(**options)
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    with_calibration(model, temperature=1.7)
    predictor, paths = Predictor(model), find_videos([video_dir])
    energies = {task: [] for task in model.config.tasks}
    for path in paths:
        frames = read_frames(path, model)
        margins = predictor.predict_scores(frames[None, None]).margins
        for task, values in margins.items():
            energies[task].append(float(values[0]))
    model.calibration = {
        task: replace(model.calibration[task], energy_threshold=float(np.mean(sorted(values)[2:4])))
        for task, values in energies.items()
    }
    return model


def read_frames(path, model) -> torch.Tensor:
    """The centre view of a video, (T, C, S, S)."""
    return VideoDataset(samples=[Sample(path=path, label=None, id=path)], clip_spec=model.clip_spec)[0].pixels[0]


def assert_same(exported, original, video_dir, views=(1, 1)) -> None:
    """The same rejections and nearly the same scores; some videos are known, others are not."""
    options = {"temporal_views": views[0], "spatial_views": views[1]}
    known = []
    for path in find_videos([video_dir]):
        expected, found = Predictor(original, **options)(path), Predictor(exported, **options)(path)
        assert found.known == expected.known
        assert found.labels == expected.labels
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
        known.append(str(found.known))
    assert views != (1, 1) or len(set(known)) > 1


@pytest.fixture(scope="module")
def raw(video_dir, tmp_path_factory):
    """A calibrated model, and the folder of its export for raw frames."""
    original, folder = calibrated(video_dir, 12, **SMALLEST), tmp_path_factory.mktemp("exports") / "raw"
    export_model(original, folder, videos=[video_dir], raw_frames=True, num_clips=2, limits=NO_LIMITS)
    return original, folder


def stored_in_program(folder) -> tuple[object, list[str]]:
    """The calibration and the names of the outputs in an ONNX file, for those who have only this file."""
    program = onnx.load(folder / "model.onnx", load_external_data=False)
    value = next(entry.value for entry in program.metadata_props if entry.key == "xvit.calibration")
    return json.loads(value), [output.name for output in program.graph.output]


def test_a_program_for_clips(video_dir, tmp_path):
    original = calibrated(video_dir, 11, **SMALLEST)
    export_model(original, tmp_path / "out", videos=[video_dir], num_clips=2, limits=NO_LIMITS)
    assert_same(ExportedModel(tmp_path / "out"), original, video_dir)
    stored = original.checkpoint_metadata.to_dict()["calibration"]
    assert stored_in_program(tmp_path / "out") == (stored, ["logits"])


def test_a_program_for_raw_frames(raw, video_dir):
    original, folder = raw
    exported = ExportedModel(folder)
    assert exported.calibration == original.calibration
    for views in ((1, 1), (2, 1)):
        assert_same(exported, original, video_dir, views)
    stored = original.checkpoint_metadata.to_dict()["calibration"]
    assert stored_in_program(folder) == (stored, ["scores", "margin"])


def test_raw_frames_of_several_tasks(video_dir, tmp_path):
    original = calibrated(video_dir, 13, **TASKS)
    settings = {"format": "openvino", "raw_frames": True, "num_clips": 2, "limits": NO_LIMITS}
    export_model(original, tmp_path / "out", videos=[video_dir], **settings)
    assert_same(ExportedModel(tmp_path / "out"), original, video_dir)


def test_a_program_for_raw_frames_rejects_without_xvit(raw):
    """Its second output is the energy above the threshold."""
    original, folder = raw
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), dtype=np.uint8)
    scores, margins = session.run(None, {"frames": frames})
    with torch.no_grad():
        pixels = (torch.from_numpy(frames).permute(0, 1, 4, 2, 3) / 255 - 0.5) / 0.5
        logits = original(pixels).numpy()
    threshold = original.calibration["label"].energy_threshold
    assert margins == pytest.approx([naive_energy(row) - threshold for row in logits], abs=1e-4)
    powers = np.exp(logits / 1.7)
    assert scores == pytest.approx(powers / powers.sum(axis=1, keepdims=True), abs=1e-4)


def test_the_example_for_raw_frames(raw, video_dir):
    original, folder = raw
    for path in find_videos([video_dir])[:3]:
        words = [sys.executable, EXAMPLES / "raw_frames.py", folder / "model.onnx", path]
        completed = subprocess.run(words, capture_output=True, text=True, check=True)
        assert ("none of these; the nearest:" in completed.stdout) == (not Predictor(original)(path).known)


def test_a_program_that_does_not_go_with_the_calibration(raw, tmp_path):
    folder = shutil.copytree(raw[1], tmp_path / "raw")
    values = json.loads((folder / "config.json").read_text())
    del values["calibration"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(XViTError, match=r"not the program of config\.json and export\.json: outputs"):
        ExportedModel(folder)


def test_streaming_steps_obey_the_calibration(video_dir, tmp_path):
    video = write_video(tmp_path / "video.mp4", frames=20)
    original = make_original(**STREAMING)
    original.clip_spec = replace(CLIP, sampling="strided")

    def live(model):
        items = LivePredictor(model, Source(str(video)), stride=1, motion_threshold=0)
        return [item for item in items if isinstance(item, LivePrediction)]

    with_calibration(original, temperature=1.7, threshold=0.0)
    export_model(original, tmp_path / "step", videos=[video_dir], streaming=True, num_clips=2, limits=NO_LIMITS)
    exported = ExportedModel(tmp_path / "step")
    views = view_function(original)(read_all(video))
    margins = open_stream(original).push(views).margins["label"]
    threshold = float(np.mean(np.sort(margins)[9:11]))
    calibration = {"label": replace(original.calibration["label"], energy_threshold=threshold)}
    original.calibration = exported.calibration = calibration
    expected, found = live(original), live(exported)
    assert [p.known for p in found] == [p.known for p in expected]
    assert {p.known for p in found} == {True, False}
    assert [p.label for p in found] == [p.label for p in expected]
    timelines = [score_video(model, video, stride=1).scores for model in (original, exported)]
    np.testing.assert_allclose(*timelines, atol=1e-4)
    assert not timelines[1][[not p.known for p in found]].any()


def read_all(video) -> np.ndarray:
    return decode(video, range(20)).frames
