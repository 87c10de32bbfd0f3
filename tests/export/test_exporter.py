"""Exported models: run like the model they were made of, and measured against it."""

import json
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from helpers.color_videos import CLIP, SIZE, described, make_model, write_video
from xvit import Predictor
from xvit.data.transforms import normalize
from xvit.export.exporter import Limits, export
from xvit.export.parity import read_clips
from xvit.export.runtime import ExportedModel
from xvit.models.streaming import Stream
from xvit.utils.errors import XViTError

LABELS = ["blue", "green", "red"]
ANY = Limits(min_agreement=0)  # of weights at random, whose best classes are close to each other


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    for number in range(6):
        write_video(folder / f"{number}.mp4", color=number % 3, seed=number)
    return str(folder)


def all_clips(colours):
    return read_clips(CLIP, [colours], 6, calibrating=False, on_progress=lambda *_: None).compared


def model(**options):
    return described(make_model(**options), LABELS)


def test_onnx_predicts_and_evaluates_as_the_model_does(run, refused, checkpoint, videos, tmp_path):
    output = tmp_path / "onnx"
    code, out, _ = run("export", checkpoint, "--output", output, "--videos", videos, "--clips", 5, "--json")
    told = json.loads(out)
    assert (code, told["clips"], told["agreement"]) == (0, 5, 1.0)
    assert told["max_difference"] < 1e-4
    assert told["bytes"] == sum(path.stat().st_size for path in output.glob("model.*"))
    manifest = json.loads((output / "export.json").read_text())
    assert manifest["parity"].items() <= told.items()
    assert "exists and is not an empty folder" in refused("export", checkpoint, "--output", output, "--videos", videos)

    answers = []
    for directory in (checkpoint, output):
        result = tmp_path / f"result {directory.name}"
        words = ("--data.root", videos, "--data.num_workers", 0, "--eval.batch_size", 5, "--output", result)
        assert run("eval", "--checkpoint", directory, *words)[0] == 0
        predicted = json.loads(run("predict", videos / "val", "--checkpoint", directory, "--json")[1])
        rows = [json.loads(line) for line in (result / "predictions.jsonl").read_text().splitlines()]
        answers.append((predicted["predictions"], rows))
    for ours, theirs in zip(answers[0][0], answers[1][0], strict=True):
        assert ours["labels"] == theirs["labels"]
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-5)
    assert [row["prediction"] for row in answers[0][1]] == [row["prediction"] for row in answers[1][1]]
    run_metadata = json.loads((tmp_path / "result onnx" / "evaluation.json").read_text())["of"]
    assert run_metadata["precision"] == "fp32"
    assert run_metadata["model"] == ExportedModel(output).fingerprint() != manifest["source"]

    session = onnxruntime.InferenceSession(output / "model.onnx")  # for who has the file alone
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["xvit.labels"]) == {"": sorted(path.name for path in (videos / "val").iterdir())}
    assert about["xvit.frames"] == "4"
    for command in ("stream", "timeline"):
        words = [videos / "val", "--output", tmp_path / "t"] if command == "timeline" else ["-"]
        assert "an exported model, which xvit predict and eval run" in refused(command, *words, "--checkpoint", output)


def test_openvino_int8_calibrates_on_other_videos_than_it_is_compared_on(colours, tmp_path):
    ours = model(num_classes={"colour": 3, "sound": 2})
    ours.class_names = {"colour": LABELS, "sound": ["loud", "soft"]}
    told = []
    parity = export(
        ours, tmp_path / "int8", videos=[colours], format="openvino", precision="int8", clips=3, limits=ANY,
        on_progress=lambda what, done, total: told.append((what, done, total)),
    )  # fmt: skip
    clips = read_clips(CLIP, [colours], 3, calibrating=True, on_progress=lambda *_: None)
    assert len(clips.compared) == len(clips.calibration) == 3
    assert not any(torch.equal(a, b) for a in clips.compared for b in clips.calibration)
    assert {("calibrating", 3, 3), ("comparing", 3, 3)} <= set(told)
    exported = ExportedModel(tmp_path / "int8")
    compared = normalize(torch.cat(clips.compared), CLIP)
    answers, expected = exported(compared), ours(compared)
    assert answers.keys() == expected.keys() == {"colour", "sound"}
    largest = max((answers[task] - expected[task]).abs().max().item() for task in expected)
    assert 0 < largest == pytest.approx(parity.max_difference, rel=0.2)
    assert largest < 0.05 * parity.largest_logit + 0.02
    assert b'element_type="i8"' in (tmp_path / "int8" / "model.xml").read_bytes(), "nothing in it is an integer"
    with pytest.raises(XViTError, match="the openvino runtime here has none"):
        ExportedModel(tmp_path / "int8", device="meta")
    assert sys.modules["openvino_telemetry"] is None, "a server would be told"


def test_a_torch_program_is_opened_on_trust_alone_and_takes_any_number_of_frames(run, refused, colours, tmp_path):
    ours = model(temporal_position="none")
    export(ours, tmp_path / "pt2", videos=[colours], format="torch", clips=2)
    with pytest.raises(XViTError, match=r"can hold any code.*trust_code=True"):
        ExportedModel(tmp_path / "pt2")
    words = ("predict", colours, "--checkpoint", tmp_path / "pt2")
    assert "can hold any code" in refused(*words)
    assert run(*words, "--trust-code")[0] == 0
    exported = Predictor(tmp_path / "pt2", trust_code=True).model
    for frames in (3, 7):
        clip = torch.randn(3, frames, 3, SIZE, SIZE)
        torch.testing.assert_close(exported(clip), ours(clip), atol=1e-6, rtol=0)
    for shape in ((1, 2, 3, SIZE, SIZE), (1, 4, 1, SIZE, SIZE), (1, 4, 3, SIZE, SIZE + 8)):
        with pytest.raises(XViTError, match=r"expected \(B, T, 3, 16, 16\) with T = at least 3"):
            exported(torch.randn(shape))


def test_a_streaming_step_answers_as_the_stream_does(colours, tmp_path):
    ours = model(causal=True, temporal_position="head", window=2)
    export(ours, tmp_path / "step", videos=[colours], streaming=True, clips=2)
    exported = ExportedModel(tmp_path / "step")
    stream, state = Stream(ours), exported.first_state(2)
    T = ours.config.num_frames
    for number, frame in enumerate(torch.randn(2, 3 * T, 3, SIZE, SIZE).split(1, dim=1)):
        expected = stream.push(frame).logits[:, 0]
        logits, state = exported.step(frame, state)
        if number >= T - 1:
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    clip = torch.randn(2, T, 3, SIZE, SIZE)
    torch.testing.assert_close(exported(clip), ours(clip), atol=1e-5, rtol=0)

    step = onnxruntime.InferenceSession(tmp_path / "step" / "model.onnx")  # as docs/export.md has it
    known = {i.name: np.zeros((2, *i.shape[1:]), np.float32) for i in step.get_inputs() if i.name != "pixel_values"}
    assert [f"next.{name}" for name in known] == [output.name for output in step.get_outputs()][1:]
    for frame in clip.split(1, dim=1):
        logits, *kept = step.run(None, {"pixel_values": frame.numpy()} | known)
        known = dict(zip(known, kept, strict=True))
    torch.testing.assert_close(torch.from_numpy(logits), ours(clip), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("format", "precision", "options", "allowed"),
    [
        ("onnx", "fp16", {}, 0.01),
        ("onnx", "int8", {}, 0.1),
        ("onnx", "int8-weights", {}, 0.05),
        ("openvino", "fp32", {"attention": "divided"}, 1e-4),
        ("openvino", "fp16", {}, 0.01),
        ("openvino", "bf16", {}, 0.05),
        ("openvino", "int8-weights", {}, 0.05),
        ("onnx", "fp32", {"tubelet_size": 2, "tome_r": 1}, 1e-4),
        ("openvino", "fp32", {"tome_r": 1, "grouping": "per_head"}, 1e-4),
        ("onnx", "fp32", {"summary_tokens": 1, "attention": "mixing"}, 1e-4),
    ],
    ids=str,
)
def test_each_format_and_precision_answers_as_the_model_does(format, precision, options, allowed, colours, tmp_path):
    ours = model(**options)
    parity = export(ours, tmp_path / "out", videos=[colours], format=format, precision=precision, clips=2, limits=ANY)
    assert parity.max_difference < allowed * max(parity.largest_logit, 1)
    clips = torch.cat([normalize(pixels, CLIP) for pixels in all_clips(colours)])  # a batch, where one was compared
    torch.testing.assert_close(ExportedModel(tmp_path / "out")(clips), ours(clips), atol=allowed, rtol=0.05)


@pytest.mark.parametrize(("format", "precision"), [("openvino", "fp32"), ("openvino", "int8"), ("torch", "fp32")])
def test_streaming_steps_of_each_format(format, precision, colours, tmp_path):
    ours = model(causal=True, temporal_position="head")
    settings = {"videos": [colours], "format": format, "precision": precision, "streaming": True, "clips": 2}
    export(ours, tmp_path / "step", limits=ANY, **settings)
    clips = torch.cat([normalize(pixels, CLIP) for pixels in all_clips(colours)])
    allowed = 0.1 if precision == "int8" else 1e-4
    exported = ExportedModel(tmp_path / "step", trust_code=True)
    torch.testing.assert_close(exported(clips), ours(clips), atol=allowed, rtol=0)


def test_a_loop_over_frames_takes_their_number_alone(colours, tmp_path):
    ours = model(attention="local", temporal_position="none")
    export(ours, tmp_path / "local", videos=[colours], format="torch", clips=2)
    exported = ExportedModel(tmp_path / "local", trust_code=True)
    assert not exported.manifest.dynamic_frames
    with pytest.raises(XViTError, match="with T = 4"):
        exported(torch.randn(1, 6, 3, SIZE, SIZE))


def test_a_missing_package_is_told_before_anything_is_read(colours, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(XViTError, match=r"onnxscript is not installed: pip install 'xvit\[export\]'"):
        export(model(), tmp_path / "out", videos=["nowhere"])


def test_an_export_beyond_its_limits_leaves_nothing(colours, tmp_path):
    output = tmp_path / "bf16"
    limits = Limits(max_difference=0.0)
    with pytest.raises(XViTError, match=r"logits differ by up to .* on 2 clips .* nothing was written"):
        export(model(), output, videos=[colours], format="torch", precision="bf16", clips=2, limits=limits)
    assert list(tmp_path.iterdir()) == []


def test_another_picture_size_than_the_backbones_is_resized_once(colours, tmp_path):
    ours = model()
    ours.clip_spec = replace(CLIP, image_size=2 * SIZE)
    parity = export(ours, tmp_path / "large", videos=[colours], format="torch", clips=2)
    assert parity.max_difference < 1e-4


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({}, {"format": "onnx", "precision": "bf16"}, "no bf16 kernels"),
        ({}, {"format": "torch", "precision": "int8"}, "take onnx or openvino"),
        ({}, {"format": "onx"}, 'Did you mean "onnx"'),
        ({}, {"streaming": True}, "take temporal_position='head'"),
        ({"temporal_position": "head"}, {"streaming": True}, "take direction='causal'"),
        (
            {"temporal_position": "head", "causal": True, "temporal_padding": "replicate"},
            {"streaming": True},
            "take edges='zero'",
        ),
        ({}, {"clips": 0}, "clips=0"),
        ({}, {"videos": ["nowhere"]}, "nowhere"),
    ],
)
def test_what_cannot_be_exported_is_refused(options, settings, message, colours, tmp_path):
    with pytest.raises(XViTError, match=message):
        export(model(**options), tmp_path / "out", **{"videos": [colours], **settings})
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_hostile_directories_are_named(checkpoint, tmp_path):
    directory = tmp_path / "damaged"
    directory.mkdir()
    (directory / "config.json").write_text((checkpoint / "config.json").read_text())

    def opened(manifest, program=b"no program"):
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
            opened(manifest)
    (directory / "model.onnx").unlink()
    (directory / "export.json").write_text('{"format": "onnx", "precision": "fp32"}')
    with pytest.raises(XViTError, match=r"model\.onnx: missing"):
        ExportedModel(directory)
