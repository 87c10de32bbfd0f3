"""Prediction with ONNX and OpenVINO programs: torch is not imported, and the results are those with torch."""

import json
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import onnxruntime
import pytest
import torch

from helpers.color_videos import CLIP, MODEL, write_video
from helpers.exports import MERGING, NO_LIMITS, STREAMING, TASKS, make_original
from xvit import Predictor
from xvit.config import EvalConfig
from xvit.data import arrays, transforms
from xvit.data.annotations import Sample, find_videos
from xvit.data.arrays import ArrayDataset
from xvit.data.capture.source import Source
from xvit.data.dataset import VideoDataset
from xvit.evaluation import score_videos
from xvit.export import ExportedModel, ExportManifest, backends, export_model
from xvit.inference import LivePrediction, LivePredictor
from xvit.utils.errors import VideoError, XViTError

MANIFEST = ExportManifest(format="onnx", precision="fp32")
SCRIPT = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "torchvision", "timm", "accelerate", "safetensors", "huggingface_hub", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
from xvit.cli.main import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory, video_dir):
    """The same model as an ONNX and an OpenVINO program."""
    root = tmp_path_factory.mktemp("exports")
    for format in ("onnx", "openvino"):
        export_model(make_original(), root / format, format=format, videos=[video_dir], num_clips=2, limits=NO_LIMITS)
    return root


@pytest.mark.parametrize(("format", "num_workers"), [("onnx", 0), ("onnx", 2), ("openvino", 0)])
def test_predict_needs_no_torch(format, num_workers, exports, video_dir, tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    words = ["predict", video_dir, str(tmp_path), "--checkpoint", str(exports / format), "--json"]
    words += ["--num-workers", str(num_workers), "--temporal-views", "2", "--spatial-views", "3"]
    result = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True)
    assert result.returncode == 1, result.stderr  # the unreadable file
    printed = json.loads(result.stdout)
    assert [failure["path"] for failure in printed["failed"]] == [str(tmp_path / "bad.mp4")]
    paths = [prediction["path"] for prediction in printed["predictions"]]
    expected = list(Predictor(make_original(), temporal_views=2, spatial_views=3).predict(paths))
    assert len(expected) == 6
    for found, prediction in zip(printed["predictions"], expected, strict=True):
        scores = dict(zip(prediction.labels, prediction.scores, strict=True))
        assert dict(zip(found["labels"], found["scores"], strict=True)) == pytest.approx(scores, abs=1e-5)
        assert tuple(found["times"]) == prediction.times


@pytest.fixture(scope="module")
def steps(tmp_path_factory, video_dir):
    """The same model as a streaming step in ONNX and in OpenVINO, and the model."""
    root, model = tmp_path_factory.mktemp("steps"), make_original(**STREAMING)
    model.clip_spec = replace(CLIP, sampling="strided")
    for format in ("onnx", "openvino"):
        settings = {"format": format, "num_clips": 2, "limits": NO_LIMITS}
        export_model(model, root / format, videos=[video_dir], streaming=True, **settings)
    return root, model


def run_without_torch(*words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", SCRIPT, *map(str, words)], capture_output=True, text=True)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_streams_and_timelines_need_no_torch(format, steps, exports, tmp_path):
    root, model = steps
    video = write_still_video(tmp_path / "still.mp4")
    result = run_without_torch("stream", video, "--checkpoint", root / format, "--json", "--all")
    assert result.returncode == 0, result.stderr
    *predictions, summary = map(json.loads, result.stdout.splitlines())
    expected = [item for item in LivePredictor(model, Source(video)) if isinstance(item, LivePrediction)]
    assert len(predictions) == len(expected) == 40
    for found, prediction in zip(predictions, expected, strict=True):
        assert (found["frame"], found["time"], found["moving"]) == (
            prediction.frame,
            prediction.time,
            prediction.moving,
        )
        scores = dict(zip(prediction.labels, prediction.scores, strict=True))
        assert dict(zip(found["labels"], found["scores"], strict=True)) == pytest.approx(scores, abs=2e-3)
    frames_to_settle = 2 * STREAMING["window"] + CLIP.num_frames  # two layers
    assert summary["summary"]["reused"] == 30 - frames_to_settle
    assert summary["summary"]["processed"] == 40

    for checkpoint, method in ((root / format, "stream"), (exports / format, "windows")):
        result = run_without_torch("timeline", video, "--checkpoint", checkpoint, "--json", "--stride", 1)
        assert result.returncode == 0, result.stderr
        [timeline] = json.loads(result.stdout)["videos"]
        assert timeline["method"] == method
        assert timeline["duration"] == pytest.approx(1.6)
        assert timeline["motion_gate"]["stretches"][0]["end"] == pytest.approx(1.6)
    result = run_without_torch("timeline", video, "--checkpoint", root / format, "--output", tmp_path / "out")
    assert result.returncode == 2
    assert "matplotlib is not installed, but this command or model needs it: pip install matplotlib" in result.stderr
    assert not (tmp_path / "out").exists()


def write_still_video(path):
    """10 frames that move, and then 30 that are one picture: without loss, so that they are equal."""
    frames = (
        np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    )
    with av.open(str(path.with_suffix(".mkv")), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "bgr0"
        for frame in [*frames, *[frames[4]] * 30]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    return path.with_suffix(".mkv")


def test_a_trained_model_says_what_is_missing(checkpoint, video_dir):
    words = ["predict", video_dir, "--checkpoint", str(checkpoint)]
    result = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True)
    assert result.returncode == 2
    message = "xvit: error: torch is not installed, but this command or model needs it: pip install xvit\n"
    assert result.stderr == message


def test_the_device_is_one_that_the_runtime_finds(exports, monkeypatch):
    """ONNX Runtime for GPUs, on a machine without one, runs on the CPU."""
    available = onnxruntime.get_available_providers()
    with pytest.raises(XViTError, match="device='cuda:1': the installed onnx runtime cannot use it; use --device cpu"):
        ExportedModel(exports / "onnx", device="cuda:1")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", *available])
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        assert ExportedModel(exports / "onnx", device=None).device == "cpu"
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(XViTError, match="device='cuda:1': the onnx runtime finds none; use --device cpu"),
    ):
        ExportedModel(exports / "onnx", device="cuda:1")
    with pytest.raises(XViTError, match="device='tpu': the installed onnx runtime cannot use it"):
        Predictor(exports / "onnx", device="tpu")
    predictor = Predictor(ExportedModel(exports / "openvino"), device="cpu")
    assert predictor.device == "cpu"
    Predictor(predictor.model, device="cpu:0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert backends.choose_device("onnx", None) == "cuda:1"
    with pytest.raises(XViTError, match="device='cuda': the exported model was loaded on 'cpu'"):
        Predictor(predictor.model, device="cuda")


def test_what_the_runtime_prints_is_no_result(exports, monkeypatch, capsys):
    """ONNX Runtime prints to the standard output that it found no GPU."""
    create = onnxruntime.InferenceSession

    def create_loudly(*args, **options):
        print("*** EP Error ***")
        return create(*args, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", create_loudly)
    ExportedModel(exports / "onnx")
    assert capsys.readouterr().out == ""


def test_evaluation_reads_as_prediction_does(exports, video_dir):
    predictor = Predictor(exports / "onnx")
    paths = find_videos([video_dir])
    samples = [Sample(path=path, label=None, id=path) for path in paths]
    scored = score_videos(predictor, samples, eval_config=EvalConfig())
    for row, prediction in zip(scored.scores["label"], predictor.predict(paths), strict=True):
        assert tuple(sorted(row.tolist(), reverse=True)) == prediction.scores
    with pytest.raises(XViTError, match="empty batch"):
        predictor.predict_probabilities(np.zeros((0, 1, 4, 3, 16, 16), np.uint8))


@pytest.mark.parametrize("options", [{}, TASKS, MERGING], ids=["one task", "several tasks", "multi-label"])
def test_probabilities_of_arrays_equal_those_of_tensors(options, tmp_path):
    original = make_original(**options)

    class Stub(ExportedModel):
        def __init__(self) -> None:
            self.config, self.clip_spec, self.class_names = original.config, CLIP, original.class_names
            self.device, self.manifest, self.calibration = "cpu", MANIFEST, {}

        def __call__(self, pixel_values):
            with torch.inference_mode():
                logits = original(torch.from_numpy(pixel_values))
            return {task: x.numpy() for task, x in logits.items()} if isinstance(logits, dict) else logits.numpy()

    pixels = torch.randint(0, 256, (3, 5, 4, 3, 16, 16), dtype=torch.uint8)  # 15 clips: two calls of the model
    expected, stub = Predictor(original).predict_probabilities(pixels), Predictor(Stub())
    tensors, found = stub.predict_probabilities(pixels), stub.predict_probabilities(pixels.numpy())
    torch.testing.assert_close(tensors, expected, atol=1e-6, rtol=0)
    first = next(iter(found.values())) if isinstance(found, dict) else found
    assert isinstance(first, np.ndarray)
    assert first.dtype == np.float32
    torch.testing.assert_close(torch.utils._pytree.tree_map(torch.from_numpy, found), tensors, atol=0, rtol=0)


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_of_large_logits(multi_label):
    model = ExportedModel.__new__(ExportedModel)
    model.config, model.manifest, model.calibration = replace(MODEL, multi_label=multi_label), MANIFEST, {}
    logits = np.array([[1e4, -1e4, 0], [88, 89, -80], [-1e30, 1e30, 3], [-17, -20, -25]], np.float32)
    tensor = torch.from_numpy(logits)
    expected = tensor.sigmoid() if multi_label else tensor.softmax(-1)
    torch.testing.assert_close(model.probabilities(tensor), expected, rtol=1e-5, atol=1e-37)
    assert np.array_equal(model.probabilities(logits), model.probabilities(tensor).numpy())
    with pytest.raises(XViTError, match="NaN or infinite"):
        model.probabilities(np.array([[0, np.nan]]))


@pytest.mark.parametrize("size", [(24, 32), (32, 24), (16, 16), (64, 20), (17, 90)], ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_views_are_those_of_torchvision(size, interpolation):
    frames = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    spec = replace(CLIP, interpolation=interpolation)
    for spatial_views in (1, 2, 3):
        expected = transforms.eval_views(transforms.as_tensor(frames), spec, spatial_views).numpy()
        found = arrays.eval_views(frames, spec, spatial_views)
        assert found.shape == expected.shape == (spatial_views, 3, 3, 16, 16)
        assert np.array_equal(found, expected)
    assert np.array_equal(arrays.normalize(found, spec), transforms.normalize(torch.from_numpy(found.copy()), spec))
    with pytest.raises(XViTError, match="were they normalised already"):
        arrays.normalize(found / 255, spec)
    with pytest.raises(XViTError, match="spatial_views"):
        arrays.eval_views(frames, spec, 0)


def test_items_are_those_of_a_video_data_set(tmp_path):
    paths = [write_video(tmp_path / f"{index}.mp4", color=index, seed=index) for index in range(2)] + [tmp_path / "no"]
    settings = {
        "samples": [Sample(path=str(path), label=None, id=str(path)) for path in paths],
        "clip_spec": CLIP,
        "temporal_views": 2,
        "spatial_views": 3,
    }
    datasets = [ArrayDataset(**settings), VideoDataset(**settings)]
    found, expected = (data.collate([data[index] for index in range(3)]) for data in datasets)
    assert found["pixels"].shape == expected["pixels"].shape == (2, 6, 4, 3, 16, 16)
    assert np.array_equal(found["pixels"], expected["pixels"])
    for key in ("indices", "times", "warnings"):
        assert list(found[key]) == list(expected[key])
    assert isinstance(found["errors"][2], VideoError)
    assert str(found["errors"][2]) == str(expected["errors"][2])
    empty = datasets[0].collate([datasets[0][2]])
    assert empty["pixels"].shape == (0, 6, 4, 3, 16, 16)
    for wrong, message in (({"samples": []}, "at least one video"), ({"temporal_views": 0}, "temporal_views")):
        with pytest.raises(XViTError, match=message):
            ArrayDataset(**{**settings, **wrong})
