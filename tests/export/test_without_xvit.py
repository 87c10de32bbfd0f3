"""Exports for people without xvit: names of the axes, metadata, and the example of docs/guides/export.md."""

import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from helpers.color_videos import CLIP
from helpers.exports import CLASS_NAMES, DYNAMIC, MERGING, NO_LIMITS, STREAMING, TASKS, make_original
from helpers.rate_videos import RATES, constant_rate, write_steps
from xvit import Predictor
from xvit.export import export_model
from xvit.export.backends import import_package

DOCS = Path(__file__).parents[2] / "docs" / "guides" / "export.md"
SPECS = {
    "segments, frames counted": CLIP,
    "segments": replace(CLIP, frame_rate=8.0),
    "strided, frames counted": replace(CLIP, sampling="strided", stride=5),
    "strided": replace(
        CLIP, sampling="strided", stride=3, frame_rate=10.0, interpolation="bicubic", mean=(0.4, 0.5, 0.6)
    ),
}


def example() -> str:
    """The Python example of the document for a video, as it is."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    return next(block for block in blocks if "av.open" in block)


@pytest.mark.parametrize("name", SPECS)
def test_the_example_of_the_document_agrees_with_predictor(name, tmp_path, monkeypatch):
    """On wide and upright videos, of the model's frame rate and of others, longer and shorter than a clip."""
    model = make_original()
    model.clip_spec = SPECS[name]
    videos = {
        "wide": (RATES["25"], {"width": 94, "height": 60}),
        "upright": (RATES["varying"], {"width": 64, "height": 96}),
        "slow": (RATES["8"], {}),
        "short": (constant_rate(25, 0.2), {}),
    }
    paths = {key: str(write_steps(tmp_path / f"{key}.mp4", times, **size)) for key, (times, size) in videos.items()}
    export_model(model, tmp_path / "onnx", videos=list(paths.values()), num_clips=2)
    monkeypatch.chdir(tmp_path)
    predictor, tops = Predictor(model), set()
    for path in paths.values():
        Path("clip.mp4").write_bytes(Path(path).read_bytes())
        printed, values = io.StringIO(), {}
        with redirect_stdout(printed):
            exec(example(), values)
        expected = predictor(path)
        used = sorted({round(values["times"][index], 6) for index in values["indices"]})
        assert used == pytest.approx(expected.times, abs=1e-3), "the same frames"
        scores = dict(zip(CLASS_NAMES, values["scores"].tolist(), strict=True))
        assert scores == pytest.approx(dict(zip(expected.labels, expected.scores, strict=True)), abs=0.01)
        assert printed.getvalue().split()[0] == expected.labels[0]
        tops.add(tuple(round(score, 3) for score in scores.values()))
    assert len(tops) > 1, "videos with different scores"


def test_the_program_names_its_axes(video_dir, tmp_path):
    for options, settings, frames in (
        (DYNAMIC, {"precision": "fp16"}, "frames"),
        (STREAMING, {"streaming": True}, 1),
        (TASKS, {}, 4),
    ):
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        export_model(make_original(**options), directory, videos=[video_dir], num_clips=2, limits=NO_LIMITS, **settings)
        graph = onnx.load(directory / "model.onnx").graph
        axes = {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        }
        assert axes["pixel_values"] == ["batch", frames, 3, 16, 16]
        assert all(axis[0] == "batch" for axis in axes.values())
        assert axes.get("logits", axes.get("logits.colour")) == ["batch", 3]
        texts = {dim.dim_param for value in graph.value_info for dim in value.type.tensor_type.shape.dim}
        assert not any(re.search(r"\bs\d+\b", text) for text in texts)


def test_metadata_in_each_format(video_dir, tmp_path):
    model = make_original(**MERGING)
    model.clip_spec = replace(CLIP, sampling="strided", stride=2, frame_rate=12.5, interpolation="bicubic")
    settings = {"videos": [video_dir], "num_clips": 2, "limits": NO_LIMITS}
    for format in ("onnx", "openvino", "torch"):
        export_model(model, tmp_path / format, format=format, **settings)
    onnx_values = {prop.key: prop.value for prop in onnx.load(tmp_path / "onnx" / "model.onnx").metadata_props}
    program = import_package("openvino").Core().read_model(tmp_path / "openvino" / "model.xml")
    files = {"xvit.json": ""}
    torch.export.load(tmp_path / "torch" / "model.pt2", extra_files=files)
    expected = {
        "class_names": CLASS_NAMES,
        "activation": "sigmoid",
        "num_frames": 4,
        "sampling": "strided",
        "stride": 2,
        "frame_rate": 12.5,
        "image_size": 16,
        "interpolation": "bicubic",
        "antialias": True,
        "color_order": "RGB",
        "scale": 1 / 255,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    for key, value in expected.items():
        text = value if isinstance(value, str) else json.dumps(value)
        assert onnx_values[f"xvit.{key}"] == text
        assert program.get_rt_info(["xvit", key]).astype(str) == text
        assert json.loads(files["xvit.json"])[key] == value
    described = set(re.findall(r"`xvit\.(\w+)`", DOCS.read_text(encoding="utf-8")))
    assert {key.removeprefix("xvit.") for key in onnx_values} <= described, "each key is in the document"
