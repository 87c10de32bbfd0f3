"""`xvit export --raw-frames`: programs that resize, crop and normalise frames themselves."""

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

from helpers.color_videos import CLIP
from helpers.exports import CLASS_NAMES, DYNAMIC, NO_LIMITS, TASKS, make_original
from helpers.rate_videos import RATES, constant_rate, write_steps
from xvit import Predictor
from xvit.data.decode import read_clip
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.export import ExportedModel, export_model
from xvit.export.programs import FLOAT_NODES
from xvit.export.raw_frames import centre_squares
from xvit.utils.errors import XViTError

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = [(16, 16), (24, 32), (32, 24), (17, 90), (90, 51), (7, 9), (1, 1), (70, 33)]  # height, width


def random_frames(size, num_frames=4):
    return np.random.default_rng(sum(size)).integers(0, 256, (num_frames, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squares_are_the_views_of_evaluation(interpolation):
    spec = replace(CLIP, interpolation=interpolation)
    for size in SIZES:
        frames = random_frames(size)
        [expected] = eval_views(as_tensor(frames), spec)
        assert torch.equal(centre_squares(torch.from_numpy(frames), spec), expected.float()), size


@pytest.mark.parametrize(
    ("format", "precision", "options", "tolerance"),
    [
        ("onnx", "fp32", {}, 1e-5),
        ("openvino", "fp32", TASKS, 1e-5),
        ("onnx", "int8", {"multi_label": True}, 0.03),
        ("openvino", "int8", {}, 0.03),
        ("onnx", "fp16", DYNAMIC, 0.01),
    ],
    ids=str,
)
def test_scores_are_those_of_the_model(format, precision, options, tolerance, video_dir, tmp_path):
    original = make_original(**options)
    settings = {"format": format, "precision": precision, "num_clips": 3, "limits": NO_LIMITS, "raw_frames": True}
    report = export_model(original, tmp_path / "raw", videos=[video_dir], **settings)
    exported = ExportedModel(tmp_path / "raw")
    assert exported.manifest.raw_frames
    resized = [f"{size} (resized)" for size in ("64x48", "320x240", "640x360", "360x640")]
    assert list(report.frame_sizes) == list(exported.manifest.parity["frame_sizes"]) == ["32x24", *resized]
    assert report.max_difference < tolerance
    int8 = precision == "int8"  # calibrated on these videos, which do not look like noise
    decoded = [read_clip(f"{video_dir}/{index}.mp4", lambda info: [0, 1, 3, 5]).frames for index in range(2)]
    for size in [(24, 32)] if int8 else SIZES:
        frames = np.stack(decoded if int8 else [random_frames(size), random_frames(size)[::-1]])  # (B, T, H, W, C)
        views = torch.stack([eval_views(as_tensor(clip), CLIP)[0] for clip in frames])
        with torch.inference_mode():
            logits = original(normalize(views, CLIP))
        found = exported(frames)
        for task, values in (logits if isinstance(logits, dict) else {"": logits}).items():
            scores = found[task] if task else found
            assert np.abs(scores - original.probabilities(values).numpy()).max() < tolerance, size
    if int8 and format == "onnx":
        graph = onnx.load(tmp_path / "raw" / "model.onnx", load_external_data=False).graph
        sources = {name: node.op_type for node in graph.node for name in node.output}
        resizing = [node for node in graph.node if node.op_type == "MatMul" and node.name.startswith(FLOAT_NODES)]
        assert len(resizing) == 2
        assert not {sources[name] for node in resizing for name in node.input} & {"DequantizeLinear"}
        assert "DequantizeLinear" in sources.values()


def test_predict_and_eval_use_it(run, video_dir, tmp_path):
    original = make_original()
    original.save_pretrained(tmp_path / "best")
    words = ("--output", tmp_path / "raw", "--videos", video_dir, "--raw-frames", "--clips", 2, "--json")
    code, out, _ = run("export", tmp_path / "best", *words)
    assert code == 0
    assert json.loads(out)["frame_sizes"]["32x24"] == 2
    expected = Predictor(original, spatial_views=3)(f"{video_dir}/0.mp4")
    words = ("--checkpoint", tmp_path / "raw", "--spatial-views", 3, "--json")
    [found] = json.loads(run("predict", f"{video_dir}/0.mp4", *words)[1])["predictions"]
    assert found["labels"] == list(expected.labels)
    assert found["scores"] == pytest.approx(expected.scores, abs=1e-5)


def test_what_is_not_supported_raises(video_dir, tmp_path):
    settings = {"videos": [video_dir], "raw_frames": True, "num_clips": 1}
    for options, message in (
        ({"format": "torch"}, "use format onnx or openvino"),
        ({"format": "openvino", "precision": "bf16"}, "use precision fp16"),
        ({"streaming": True}, "raw_frames and streaming exclude each other"),
    ):
        with pytest.raises(XViTError, match=message):
            export_model(make_original(), tmp_path / "raw", **settings, **options)
    export_model(make_original(), tmp_path / "raw", limits=NO_LIMITS, **settings)
    exported = ExportedModel(tmp_path / "raw")
    for frames, message in (
        (np.zeros((1, 4, 20, 30, 3), np.float32), r"expected raw frames \(uint8\)"),
        (np.zeros((1, 4, 3, 16, 16), np.uint8), r"expected \(B, T, H, W, 3\)"),
        (np.zeros((1, 4, 0, 30, 3), np.uint8), "expected"),
    ):
        with pytest.raises(XViTError, match=message):
            exported(frames)
    manifest = json.loads((tmp_path / "raw" / "export.json").read_text())
    for value, message in ((False, "not the program of"), ("yes", '"raw_frames": expected false, or true')):
        (tmp_path / "raw" / "export.json").write_text(json.dumps(manifest | {"raw_frames": value}))
        with pytest.raises(XViTError, match=message):
            ExportedModel(tmp_path / "raw")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    """Wide, upright and large videos of the model's frame rate and of others, longer and shorter than a clip."""
    root = tmp_path_factory.mktemp("clips")
    videos = {
        "wide": (RATES["25"], {"width": 94, "height": 60}),
        "upright": (RATES["varying"], {"width": 24, "height": 36}),
        "short": (constant_rate(25, 0.2), {}),
    }
    return {key: write_steps(root / f"{key}.mp4", times, **size) for key, (times, size) in videos.items()}


@pytest.mark.parametrize("language", ["python", "javascript"])
def test_the_examples_agree_with_predictor(language, clips, tmp_path):
    command = [sys.executable, str(EXAMPLES / "raw_frames.py")]
    if language == "javascript":
        shutil.copy(EXAMPLES / "raw_frames.mjs", tmp_path)
        command = ["node", str(tmp_path / "raw_frames.mjs")]
        if not all(map(shutil.which, ("node", "npm", "ffmpeg", "ffprobe"))):
            pytest.skip("needs node, npm and ffmpeg")
        root = Path(subprocess.run(["npm", "root", "-g"], capture_output=True, text=True).stdout.strip())
        if not (root / "onnxruntime-node").is_dir():
            pytest.skip("needs onnxruntime-node: npm install -g onnxruntime-node")
        (tmp_path / "node_modules").symlink_to(root)
    for spec in (
        replace(CLIP, frame_rate=8.0),
        replace(CLIP, sampling="strided", stride=3, frame_rate=10.0, interpolation="bicubic"),
        replace(CLIP, sampling="strided", stride=5),
    ):
        model, export = make_original(), tmp_path / f"{spec.sampling} {spec.stride}"
        model.clip_spec = spec
        export_model(model, export, videos=[str(clips["wide"])], num_clips=1, limits=NO_LIMITS, raw_frames=True)
        for path in clips.values():
            program = export / "model.onnx" if language == "python" else export
            result = subprocess.run([*command, str(program), str(path)], capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            rows = [line.split() for line in result.stdout.splitlines()]
            expected = Predictor(model)(path)
            assert [row[0] for row in rows][:1] == list(expected.labels)[:1]
            scores = {row[0]: float(row[1]) / 100 for row in rows}
            assert scores == pytest.approx(dict(zip(expected.labels, expected.scores, strict=True)), abs=2e-3)


def test_the_program_describes_its_input(video_dir, tmp_path):
    export_model(make_original(), tmp_path / "raw", videos=[video_dir], num_clips=1, limits=NO_LIMITS, raw_frames=True)
    session = onnxruntime.InferenceSession(tmp_path / "raw" / "model.onnx")
    [frames], [scores] = session.get_inputs(), session.get_outputs()
    assert (frames.name, frames.type, frames.shape) == ("frames", "tensor(uint8)", ["batch", 4, "height", "width", 3])
    assert (scores.name, scores.shape) == ("scores", ["batch", 3])
    meta = session.get_modelmeta().custom_metadata_map
    assert json.loads(meta["xvit.class_names"]) == CLASS_NAMES
    assert (meta["xvit.activation"], meta["xvit.output"]) == ("none", "scores (softmax)")
    assert meta["xvit.input_layout"] == "batch, frames, height, width, channels"
    assert "xvit.mean" not in meta
