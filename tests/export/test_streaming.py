"""Exported streaming steps: the stream, live predictions and timelines of the model, and still pictures at no cost."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from helpers.barcode_videos import write_video
from helpers.color_videos import CLIP, SIZE
from helpers.exports import CLASS_NAMES, NO_LIMITS, STREAMING, TASKS, make_original
from xvit.data.capture.source import Source
from xvit.export import ExportedModel, export_model
from xvit.export.backends import as_array
from xvit.inference import LivePrediction, LivePredictor
from xvit.inference.exported import ExportedStream
from xvit.inference.streams import open_stream
from xvit.inference.trained import TrainedStream
from xvit.timeline import score_video
from xvit.utils.errors import XViTError

T = CLIP.num_frames
NARROW = {**STREAMING, "window": 1, "temporal_position": "none", "temporal_head": "mean"}
HEADS = {"wide": STREAMING, "narrow": NARROW}


@pytest.fixture(scope="module")
def exports(tmp_path_factory, video_dir):
    """A function that exports a model of these options as a streaming step, and opens it; each once."""

    @cache
    def export(name: str, format: str, precision: str = "fp32") -> ExportedModel:
        directory = tmp_path_factory.mktemp("step") / "step"
        settings = {"format": format, "precision": precision, "num_clips": 2, "limits": NO_LIMITS}
        export_model(original(name), directory, videos=[video_dir], streaming=True, **settings)
        return ExportedModel(directory, trust_code=True)

    return export


def original(name: str):
    model = make_original(**HEADS[name])
    model.clip_spec = replace(CLIP, sampling="strided")
    return model


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", frames=30)


def random_views(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)


def scores_of(stream, views: np.ndarray) -> np.ndarray:
    """The scores (n, classes) of a stream of these frames, and their indices."""
    outputs = [stream.push(view[None]) for view in views] + [stream.flush()]
    assert [index for output in outputs for index in output.indices] == list(range(len(views)))
    return np.concatenate([output.scores["label"] for output in outputs])


@pytest.mark.parametrize(
    ("name", "format", "precision", "tolerance"),
    [
        ("wide", "onnx", "fp32", 1e-5),
        ("wide", "openvino", "fp32", 1e-5),
        ("wide", "torch", "fp32", 1e-5),
        ("wide", "openvino", "int8", 0.05),
        ("wide", "onnx", "int8", 0.05),
        ("narrow", "onnx", "fp32", 1e-5),
    ],
)
def test_the_stream_is_that_of_the_model_from_the_first_frame_on(exports, name, format, precision, tolerance):
    views, step = random_views(3 * T), exports(name, format, precision)
    expected, stream = scores_of(open_stream(original(name)), views), open_stream(step)
    assert isinstance(stream, ExportedStream)
    found = scores_of(stream, views)
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
    assert np.ptp(expected, axis=0).max() > 0.02
    stream.reset()  # the same video again, in pieces
    output = stream.push(views[:5]), stream.push(views[5:])
    assert np.array_equal(np.concatenate([part.scores["label"] for part in output]), found)
    # `step` keeps its promise to whoever holds an old state, although the tensors of a stream change places.
    frames = [(view[None, None].astype(np.float32) / 127.5 - 1) for view in views]
    _, first = step.step(frames[0], step.initial_state())
    copies = [as_array(tensor).copy() for tensor in first]
    _, second = step.step(frames[1], first)
    step.step(frames[2], second)
    assert all(np.array_equal(as_array(tensor), saved) for tensor, saved in zip(first, copies, strict=True))


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_the_state_is_not_copied(exports, format):
    """What a step writes is what the next one reads, at the same place in memory."""
    stepper = exports("wide", format).open_stepper()
    frame = np.ones((1, 1, 3, SIZE, SIZE), np.float32)
    read, written = stepper.addresses()
    assert len(set(read + written)) == 2 * len(exports("wide", format).manifest.state)
    for _ in range(3):
        stepper.step(frame)
        assert stepper.addresses() == (written, read)
        read, written = written, read
    state = exports("wide", format).initial_state()
    assert exports("wide", format).manifest.state_bytes == sum(tensor.nbytes for tensor in state)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", HEADS)
def test_a_still_picture_repeats_the_answer_bit_by_bit(exports, name, format):
    step = exports(name, format)
    moving = random_views(7)
    still = np.repeat(moving[3:4], 25, axis=0)
    views = np.concatenate([still, moving, still, moving[:2], still[:10], still[:1] + 1, still])
    stream, everything = ExportedStream(step), ExportedStream(step)
    reach = HEADS[name]["window"] * 2  # of two layers
    assert stream.frames_to_settle == reach + T
    everything.frames_to_settle = len(views)
    expected = scores_of(everything, views)
    assert np.array_equal(scores_of(stream, views), expected)
    assert everything.num_reused == 0
    assert stream.num_reused == sum(length - reach - T for length in (25, 25, 10, 25))  # of equal frames
    # One frame fewer would not do: the answer still changes with the last of these frames.
    changes = [index for index in range(1, 25) if not np.array_equal(expected[32 + index], expected[31 + index])]
    assert max(changes) >= T - 1


def test_only_frames_whose_turn_it_is_have_a_prediction(exports):
    step, views = exports("wide", "onnx"), np.repeat(random_views(2), 16, axis=0)
    every = open_stream(step).push(views)
    third = open_stream(step, predict_every=3).push(views)
    assert third.indices == list(range(2, 32, 3))
    assert np.array_equal(third.scores["label"], every.scores["label"][third.indices])
    nothing = open_stream(step, predict_every=3).push(views[:1])
    assert (nothing.indices, nothing.scores["label"].shape) == ([], (0, len(CLASS_NAMES)))


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_live_predictions_are_those_of_the_model(exports, format, video):
    live = LivePredictor(exports("wide", format), Source(video))
    found, expected = (
        [item for item in run if isinstance(item, LivePrediction)]
        for run in (live, LivePredictor(original("wide"), Source(video)))
    )
    assert len(found) == len(expected) == 30
    for a, b in zip(found, expected, strict=True):
        assert (a.frame, a.time, a.moving) == (b.frame, b.time, b.moving)
        scores = dict(zip(b.labels, b.scores, strict=True))
        assert dict(zip(a.labels, a.scores, strict=True)) == pytest.approx(scores, abs=2e-3)  # Pillow, torchvision
    assert live.stats.processed == live.stats.read == 30
    assert live.stats.reused == 0


def test_timelines_are_those_of_the_model(exports, video, video_dir, tmp_path):
    export_model(original("wide"), tmp_path / "clips", videos=[video_dir], num_clips=2, limits=NO_LIMITS)
    clips = ExportedModel(tmp_path / "clips")
    found, windows, expected = (
        score_video(model, video, predict_every=3) for model in (exports("wide", "onnx"), clips, original("wide"))
    )
    assert (found.method, windows.method) == ("stream", "windows")
    np.testing.assert_allclose(found.scores, expected.scores, atol=2e-3)
    np.testing.assert_allclose(found.motion, expected.motion, atol=1.5)  # grey levels
    np.testing.assert_array_equal(found.times, expected.times)
    # A window is a video of its own: its first frames have no earlier ones.
    trained = original("wide")
    trained.config = replace(trained.config, causal=False)  # what `Stream` is told, so that it refuses
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xvit.inference.trained.Stream", _refuse)
        by_windows = score_video(trained, video, predict_every=3)
    assert by_windows.method == "windows"
    np.testing.assert_allclose(windows.scores, by_windows.scores, atol=2e-3)
    np.testing.assert_array_equal(windows.times, by_windows.times)
    with pytest.raises(XViTError, match=r"an export for clips cannot be streamed: use one of xvit export --streaming"):
        LivePredictor(clips, Source(video))


def _refuse(*_, **__):
    raise XViTError("no")


def test_steps_of_earlier_versions_are_refused(exports, cli_error, run, video, tmp_path):
    step = exports("narrow", "onnx")
    directory = tmp_path / "old"
    directory.mkdir()
    for path in step._path.parent.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((directory / "export.json").read_text())
    manifest["state"] = {name: shape for name, shape in manifest["state"].items() if name != "frame_mask"}
    (directory / "export.json").write_text(json.dumps(manifest))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExportedModel, "_check_shapes", lambda *_: None)  # as if the program had no such input
        for command in ("stream", "timeline"):
            error = cli_error(command, video, "--checkpoint", directory)
            assert error.startswith(f"{directory}: a streaming step of an earlier version of xvit, whose first 3 ")
            assert error.endswith("export the model again")


def test_several_tasks(tmp_path, video_dir):
    options = {name: value for name, value in TASKS.items() if name not in ("attention", "summary_tokens")}
    model = make_original(**options, causal=True)
    export_model(model, tmp_path / "step", videos=[video_dir], streaming=True, num_clips=2, limits=NO_LIMITS)
    views = random_views(6)
    found, expected = (open_stream(x).push(views) for x in (ExportedModel(tmp_path / "step"), model))
    assert list(found.scores) == list(expected.scores) == ["colour", "sound"]
    for task in found.scores:
        np.testing.assert_allclose(found.scores[task], expected.scores[task], atol=1e-5)
    assert isinstance(open_stream(model), TrainedStream)


def test_exported_steps_agree_with_torch_in_any_batch(exports):
    """`step` and `open_stepper` accept several videos at once."""
    step, frames = exports("wide", "openvino"), torch.randn(3, 6, 3, SIZE, SIZE)
    state, stepper = step.initial_state(3), step.open_stepper(3)
    for frame in frames.split(1, dim=1):
        logits, state = step.step(frame.numpy(), state)
        np.testing.assert_allclose(stepper.step(frame.numpy())[0], logits, atol=1e-5)
