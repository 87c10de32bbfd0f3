"""`export_model`: what it writes, calibration, limits and errors."""

import json
import shutil
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

from helpers.color_videos import CLIP, write_video, write_videos
from helpers.exports import CLASS_NAMES, NO_LIMITS, SMALLEST, TASKS, make_original
from helpers.files import file_modes, umask
from helpers.signal_stack import signal_stack
from xvit.config import DataConfig
from xvit.data.annotations import load_splits
from xvit.data.seen import fingerprint_splits
from xvit.data.transforms import normalize
from xvit.export import ExportedModel, ParityLimits, export_model
from xvit.export.exporter import warn_of_validation_videos
from xvit.export.parity import choose_videos, read_clips
from xvit.utils.errors import VideoError, XViTError


def test_onnx_matches_the_model_in_predict_and_eval(run, cli_error, tmp_path):
    checkpoint, output, videos = tmp_path / "best", tmp_path / "onnx", write_videos(tmp_path / "videos", train=1)
    make_original().save_pretrained(checkpoint)
    code, out, _ = run("export", checkpoint, "--output", output, "--videos", videos, "--clips", 5, "--json")
    report = json.loads(out)
    assert (code, report["num_clips"], report["agreement"]) == (0, 5, 1.0)
    assert report["max_difference"] < 1e-4
    assert report["size_bytes"] == sum(path.stat().st_size for path in output.glob("model.*"))
    manifest = json.loads((output / "export.json").read_text())
    assert manifest["parity"].items() <= report.items()
    error = cli_error("export", checkpoint, "--output", output, "--videos", videos)
    assert "exists and is not an empty directory" in error

    results = []
    for directory in (checkpoint, output):
        result = tmp_path / f"result {directory.name}"
        words = ("--data.root", videos, "--data.num_workers", 0, "--eval.batch_size", 5, "--output", result)
        assert run("eval", "--checkpoint", directory, *words)[0] == 0
        predicted = json.loads(
            run("predict", videos / "val", "--checkpoint", directory, "--json", "--num-workers", 0)[1]
        )
        rows = [json.loads(line) for line in (result / "predictions.jsonl").read_text().splitlines()]
        results.append((predicted["predictions"], rows))
    for original, exported in zip(results[0][0], results[1][0], strict=True):
        assert original["labels"] == exported["labels"]
        assert original["scores"] == pytest.approx(exported["scores"], abs=1e-5)
    assert [row["prediction"] for row in results[0][1]] == [row["prediction"] for row in results[1][1]]
    run_metadata = json.loads((tmp_path / "result onnx" / "evaluation.json").read_text())["metadata"]
    assert run_metadata["precision"] == "fp32"
    assert run_metadata["model"] == ExportedModel(output).model_hash() != manifest["source_hash"]

    session = onnxruntime.InferenceSession(output / "model.onnx")  # users may have this file only
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["xvit.class_names"]) == CLASS_NAMES
    assert metadata["xvit.num_frames"] == "4"
    error = cli_error("stream", "-", "--checkpoint", output)
    assert error == f"{output}: an export for clips cannot be streamed: use one of xvit export --streaming"
    error = cli_error("features", videos / "val", "--output", tmp_path / "t.npy", "--checkpoint", output)
    assert "an exported model; this command needs the checkpoint itself" in error


def test_the_umask_decides_the_modes_of_all_files(video_dir, tmp_path):
    """The library that writes the weights beside the program gives them 0600."""
    with umask(0o027):
        export_model(make_original(), tmp_path / "onnx", videos=[video_dir], num_clips=1, limits=NO_LIMITS)
    modes = file_modes(tmp_path / "onnx")
    assert "model.onnx.data" in modes
    assert set(modes.values()) == {0o640}


def test_openvino_int8_uses_different_videos_for_calibration_and_comparison(video_dir, tmp_path, caplog):
    original = make_original(**TASKS)
    events, stack = [], signal_stack()
    settings = {"format": "openvino", "precision": "int8", "num_clips": 3, "limits": NO_LIMITS}
    caplog.set_level("WARNING")
    report = export_model(
        original, tmp_path / "int8", videos=[video_dir], on_progress=lambda *event: events.append(event), **settings
    )
    assert "does not record its validation videos" in caplog.text
    compared, calibrated = choose_videos([video_dir], 3, calibrate=True)
    comparison, calibration = (read_clips(CLIP, paths, on_progress=lambda *_: None) for paths in (compared, calibrated))
    assert len(comparison) == len(calibration) == 3
    assert not any(torch.equal(a, b) for a in comparison for b in calibration)
    assert {("calibrating", 3, 3), ("comparing", 3, 3)} <= set(events)
    exported = ExportedModel(tmp_path / "int8")
    assert (exported.manifest.compared_on, exported.manifest.calibrated_on) == (compared, calibrated)
    inputs = normalize(torch.cat(comparison), CLIP)
    actual, expected = exported(inputs), original(inputs)
    assert actual.keys() == expected.keys() == {"colour", "sound"}
    largest = max((actual[task] - expected[task]).abs().max().item() for task in expected)
    assert 0 < largest == pytest.approx(report.max_difference, rel=0.2)
    assert largest < 0.05 * report.max_logit + 0.02
    assert b'element_type="i8"' in (tmp_path / "int8" / "model.xml").read_bytes(), "the program has no int8 tensors"
    with pytest.raises(XViTError, match="the installed openvino runtime cannot use it"):
        ExportedModel(tmp_path / "int8", device="meta")
    assert sys.modules["openvino_telemetry"] is None, "telemetry must stay disabled"
    assert signal_stack() == stack, "OpenVINO would leave one that it has freed: the next signal ends the process"


def test_calibration_on_validation_videos_is_named(run, tmp_path, monkeypatch):
    """They are recognised by their contents; a list of the training videos of an automatic split has none."""
    said: list[str] = []
    monkeypatch.setattr("xvit.export.exporter._logger.warning", lambda text, *values: said.append(text % values))
    root = tmp_path / "videos"
    for index in range(12):
        write_video(root / CLASS_NAMES[index % 3] / f"{index}.mp4", color=index % 3, seed=index)
    data = load_splits(DataConfig(root=str(root), val_fraction=0.5))
    counts = {"train": len(data.train), "val": len(data.val)}
    provenance = {"chosen_by": "top-1", "data": counts | {"fingerprints": fingerprint_splits(data)}}

    compared, calibrated = choose_videos([str(root)], 6, calibrate=True)
    assert not set(compared) & set(calibrated)
    warn_of_validation_videos(provenance, calibrated)
    validation = {sample.path for sample in data.val}
    found = [path for path in calibrated if path in validation]
    message = f"{len(found)} of 6 calibration videos are validation videos of this model ({', '.join(found[:3])}"
    assert len(found) > 1
    assert len(said) == 1
    assert said.pop().startswith(message)

    words = ("--data.root", root, "--data.val_fraction", 0.5, "--data.num_workers", 0, "--num-frames", 4)
    assert run("data", "check", *words, "--output", tmp_path / "report")[0] == 0
    shutil.copy(tmp_path / "report" / "train.txt", root)  # as in docs/guides/export.md
    compared, calibrated = choose_videos([str(root / "train.txt")], 6, calibrate=True)
    assert {Path(path).resolve() for path in compared + calibrated} == {Path(x.path).resolve() for x in data.train}
    warn_of_validation_videos(provenance, calibrated)
    warn_of_validation_videos(provenance, [])  # other precisions: the comparison may use any videos
    assert said == []
    warn_of_validation_videos({}, calibrated)
    assert "does not record its validation videos" in said[0]


def test_missing_package_raises_before_reading_videos(video_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(XViTError, match=r"onnxscript is not installed: pip install 'xvit\[export\]'"):
        export_model(make_original(), tmp_path / "out", videos=["nowhere"])


def test_export_beyond_the_limits_writes_nothing(video_dir, tmp_path):
    settings = {"format": "torch", "precision": "bf16", "num_clips": 2, "limits": ParityLimits(max_difference=0.0)}
    message = r"logits differ by up to .* on 2 clips .* above --max-difference 0; nothing was written"
    with pytest.raises(XViTError, match=message):
        export_model(make_original(**SMALLEST), tmp_path / "bf16", videos=[video_dir], **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({}, {"format": "onnx", "precision": "bf16"}, "no bf16 kernels"),
        ({}, {"format": "torch", "precision": "int8"}, "use format onnx or openvino"),
        ({}, {"format": "onx"}, 'Did you mean "onnx"'),
        ({}, {"streaming": True}, "use temporal_position='head'"),
        ({"temporal_position": "head"}, {"streaming": True}, "use causal=True"),
        (
            {"temporal_position": "head", "causal": True, "temporal_padding": "replicate"},
            {"streaming": True},
            "use temporal_padding='zero'",
        ),
        (
            {"temporal_position": "head", "causal": True, "summary_tokens": 1},
            {"streaming": True},
            "summary_tokens=1: .* use summary_tokens=0",
        ),
        ({}, {"num_clips": 0}, "num_clips=0"),
        ({}, {"videos": ["nowhere"]}, "nowhere"),
    ],
)
def test_unsupported_exports_raise(options, settings, message, video_dir, tmp_path):
    with pytest.raises(XViTError, match=message):
        export_model(make_original(**options), tmp_path / "out", **{"videos": [video_dir], **settings})
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_video_is_named_with_what_to_give_instead(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"text\.mp4: .*; give a list of the other videos, such as xvit data check"):
        read_clips(CLIP, [str(tmp_path / "text.mp4")], on_progress=lambda *_: None)
