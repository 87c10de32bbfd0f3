"""`ExportedModel`: trust, shapes, damaged directories."""

import pytest
import torch

from helpers.color_videos import SIZE
from helpers.exports import make_original
from xvit import Predictor
from xvit.export import ExportedModel, export_model
from xvit.utils.errors import XViTError


def test_torch_program_needs_trust_code_and_accepts_any_number_of_frames(run, cli_error, video_dir, tmp_path):
    original = make_original(depth=1, temporal_position="none")
    export_model(original, tmp_path / "pt2", videos=[video_dir], format="torch", num_clips=2)
    with pytest.raises(XViTError, match=r"can hold any code.*trust_code=True"):
        ExportedModel(tmp_path / "pt2")
    words = ("predict", video_dir, "--checkpoint", tmp_path / "pt2", "--num-workers", 0)
    assert "can hold any code" in cli_error(*words)
    assert run(*words, "--trust-code")[0] == 0
    exported = Predictor(tmp_path / "pt2", trust_code=True).model
    for frames in (3, 7):
        clip = torch.randn(3, frames, 3, SIZE, SIZE)
        torch.testing.assert_close(exported(clip), original(clip), atol=1e-6, rtol=0)
    for shape in ((1, 2, 3, SIZE, SIZE), (1, 4, 1, SIZE, SIZE), (1, 4, 3, SIZE, SIZE + 8)):
        with pytest.raises(XViTError, match=r"expected \(B, T, 3, 16, 16\) with T = at least 3"):
            exported(torch.randn(shape))
    for clip, message in (
        (torch.zeros(1, 4, 3, SIZE, SIZE, dtype=torch.uint8), "of torch.uint8: expected normalised floats"),
        (torch.zeros(1, 4, 3, SIZE, SIZE).double(), "of torch.float64: expected normalised floats .float32."),
        (torch.zeros(0, 4, 3, SIZE, SIZE), "an empty batch"),
    ):
        with pytest.raises(XViTError, match=message):
            exported(clip)


def test_damaged_and_hostile_directories_raise(checkpoint, tmp_path):
    directory = tmp_path / "damaged"
    directory.mkdir()
    (directory / "config.json").write_text((checkpoint / "config.json").read_text())

    def open_model(manifest, program=b"no program"):
        (directory / "export.json").write_text(manifest)
        for name in ("model.onnx", "model.xml", "model.pt2"):
            (directory / name).write_bytes(program)
        return ExportedModel(directory, trust_code=True)

    for manifest, message in {
        "[": "not readable as JSON",
        "[]": "expected a mapping",
        '{"format": "onnx", "precision": "fp32", "class_path": "os.system"}': 'unknown key "class_path"',
        '{"format": "tvm", "precision": "fp32"}': "expected one of onnx, openvino, torch",
        '{"format": "onnx"}': "precision",
        '{"format": "onnx", "precision": "fp32", "state": {"ring": [1e9]}}': 'key "state"',
        '{"format": "onnx", "precision": "fp32", "state": {"ring": [99999999]}}': 'key "state"',
        '{"format": "onnx", "precision": "fp32"}': r"model\.onnx: damaged",
        '{"format": "openvino", "precision": "fp32"}': r"model\.xml: damaged",
        '{"format": "torch", "precision": "fp32"}': r"model\.pt2: damaged",
    }.items():
        with pytest.raises(XViTError, match=message):
            open_model(manifest)
    (directory / "model.onnx").unlink()
    (directory / "export.json").write_text('{"format": "onnx", "precision": "fp32"}')
    with pytest.raises(XViTError, match=r"model\.onnx: missing"):
        ExportedModel(directory)
