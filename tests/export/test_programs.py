"""Programs of all formats, precisions and options, compared with the original model."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from helpers.color_videos import CLIP, SIZE
from helpers.exports import DYNAMIC, MERGING, NO_LIMITS, SMALLEST, STREAMING, TASKS, make_original
from xvit.export import ExportedModel, export_model
from xvit.export.programs import FLOAT_NODES
from xvit.models.streaming import Stream
from xvit.utils.errors import XViTError


@pytest.mark.parametrize(
    ("format", "precision", "options", "tolerance"),
    [
        ("onnx", "fp16", DYNAMIC, 0.01),
        ("onnx", "int8", {}, 0.1),
        ("onnx", "int8-weights", {}, 0.05),
        ("openvino", "fp16", {}, 0.01),
        ("openvino", "bf16", {}, 0.05),
        ("openvino", "int8-weights", {}, 0.05),
        ("onnx", "fp32", TASKS, 1e-4),
        ("openvino", "fp32", TASKS, 1e-4),
        ("onnx", "fp32", MERGING, 1e-4),
        ("openvino", "fp32", MERGING, 1e-4),
    ],
    ids=str,
)
def test_each_format_and_precision_matches_the_model(format, precision, options, tolerance, video_dir, batch, tmp_path):
    original = make_original(**options)
    settings = {"format": format, "precision": precision, "num_clips": 3, "limits": NO_LIMITS}
    report = export_model(original, tmp_path / "out", videos=[video_dir], **settings)
    assert report.max_difference < tolerance * max(report.max_logit, 1)
    exported = ExportedModel(tmp_path / "out")  # runs on a batch here; the parity check runs on single clips
    torch.testing.assert_close(exported(batch), original(batch), atol=tolerance, rtol=0.05)


def test_streaming_step_matches_stream(video_dir, tmp_path):
    original = make_original(**STREAMING)
    export_model(original, tmp_path / "step", videos=[video_dir], streaming=True, num_clips=2)
    exported = ExportedModel(tmp_path / "step")
    stream, state = Stream(original), exported.initial_state(2)
    T = original.config.num_frames
    for frame in torch.randn(2, 3 * T, 3, SIZE, SIZE).split(1, dim=1):
        expected = stream.push(frame).logits[:, 0]
        of_array, _ = exported.step(frame.numpy(), state)
        logits, state = exported.step(frame, state)
        assert np.array_equal(of_array, logits)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    clip = torch.randn(2, T, 3, SIZE, SIZE)
    torch.testing.assert_close(exported(clip), original(clip), atol=1e-5, rtol=0)

    step = onnxruntime.InferenceSession(tmp_path / "step" / "model.onnx")  # as in docs/guides/export.md
    state = {i.name: np.zeros((2, *i.shape[1:]), np.float32) for i in step.get_inputs() if i.name != "pixel_values"}
    assert [f"next.{name}" for name in state] == [output.name for output in step.get_outputs()][1:]
    for frame in clip.split(1, dim=1):
        logits, *next_state = step.run(None, {"pixel_values": frame.numpy()} | state)
        state = dict(zip(state, next_state, strict=True))
    torch.testing.assert_close(torch.from_numpy(logits), original(clip), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("format", "precision"), [("openvino", "fp32"), ("openvino", "int8"), ("torch", "fp32")])
def test_streaming_steps_of_each_format(format, precision, video_dir, batch, tmp_path):
    original = make_original(**STREAMING)
    settings = {"videos": [video_dir], "format": format, "precision": precision, "streaming": True, "num_clips": 3}
    export_model(original, tmp_path / "step", limits=NO_LIMITS, **settings)
    tolerance = 0.1 if precision == "int8" else 1e-4
    exported = ExportedModel(tmp_path / "step", trust_code=True)
    torch.testing.assert_close(exported(batch), original(batch), atol=tolerance, rtol=0)


def test_int8_leaves_the_temporal_head_of_a_step_in_float(video_dir, tmp_path):
    settings = {"videos": [video_dir], "precision": "int8", "streaming": True, "num_clips": 3, "limits": NO_LIMITS}
    export_model(make_original(**STREAMING), tmp_path / "step", **settings)
    graph = onnx.load(tmp_path / "step" / "model.onnx", load_external_data=False).graph
    sources = {name: node.op_type for node in graph.node for name in node.output}
    products: dict[bool, set[str]] = {True: set(), False: set()}  # inputs of matrix products, by whether in the head
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            products[node.name.startswith(FLOAT_NODES)] |= {sources.get(name, "") for name in node.input}
    assert "DequantizeLinear" in products[False]
    assert products[True]
    assert "DequantizeLinear" not in products[True]


def test_loop_over_frames_fixes_their_number(video_dir, tmp_path):
    original = make_original(**SMALLEST, attention="local")
    export_model(original, tmp_path / "local", videos=[video_dir], format="torch", num_clips=2)
    exported = ExportedModel(tmp_path / "local", trust_code=True)
    assert not exported.manifest.dynamic_frames
    with pytest.raises(XViTError, match="with T = 4"):
        exported(torch.randn(1, 6, 3, SIZE, SIZE))


def test_image_size_other_than_the_backbone_size(video_dir, tmp_path):
    original = make_original(depth=1, temporal_head="mean")
    original.clip_spec = replace(CLIP, image_size=2 * SIZE)
    report = export_model(original, tmp_path / "large", videos=[video_dir], format="torch", num_clips=2)
    assert report.max_difference < 1e-4
