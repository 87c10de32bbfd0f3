"""Videos as bytes, file objects and arrays: the predictions are those of the same video as a file."""

import io
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from helpers.color_videos import CLIP, write_video
from helpers.exports import NO_LIMITS, make_original
from xvit import Predictor
from xvit.data.decode import decode, probe
from xvit.export import export_model
from xvit.utils.errors import VideoError, XViTError


@pytest.fixture(params=["segments", "strided at a frame rate"])
def predictor(request) -> Predictor:
    model = make_original()
    if request.param != "segments":
        model.clip_spec = replace(CLIP, sampling="strided", stride=2, frame_rate=10.0)
    return Predictor(model, temporal_views=2, spatial_views=3)


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "a.mp4", color=1, seed=1)


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch):
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_all_kinds_give_the_same_prediction(predictor, video, temporary_folder):
    expected = predictor(video)
    data = video.read_bytes()
    for given in (str(video), data, bytearray(data), memoryview(data), io.BytesIO(data)):
        prediction = predictor(given)
        assert replace(prediction, path=expected.path) == expected
    with video.open("rb") as file:
        assert predictor(file) == expected  # the file has a name
    info = probe(video)
    found = predictor(decode(video, range(info.num_frames)).frames, fps=info.fps)
    assert found.path == "video"
    assert found.labels == expected.labels
    assert found.scores == pytest.approx(expected.scores, abs=1e-7)
    assert found.times == pytest.approx(expected.times)
    assert found.warnings == expected.warnings
    assert list(temporary_folder.iterdir()) == []


def test_an_exported_model_takes_them_too(tmp_path, video):
    export_model(make_original(), tmp_path / "onnx", format="onnx", videos=[video], num_clips=1, limits=NO_LIMITS)
    predictor = Predictor(tmp_path / "onnx", temporal_views=2)
    expected = predictor(video)
    assert replace(predictor(video.read_bytes()), path=str(video)) == expected
    info = probe(video)
    found = predictor(decode(video, range(info.num_frames)).frames, fps=info.fps)
    assert found.scores == pytest.approx(expected.scores, abs=1e-6)


def test_errors_do_not_name_the_temporary_file(predictor, temporary_folder):
    with pytest.raises(VideoError, match=r"^video: the file is empty"):
        predictor(b"")
    with pytest.raises(VideoError) as caught:
        predictor(b"#EXTM3U\nhttp://192.0.2.1/a.ts\n")
    assert "ffmpeg -i video -c copy video.mp4" in str(caught.value)
    assert str(temporary_folder) not in str(caught.value)
    assert list(temporary_folder.iterdir()) == []


def test_things_that_are_no_videos(predictor, video):
    with pytest.raises(XViTError, match="of type int: expected a path, bytes, a binary file object"):
        predictor(7)
    with pytest.raises(XViTError, match="open it in binary mode"):
        predictor(io.StringIO("text"))


FRAMES = np.zeros((3, 24, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (FRAMES, None, "fps: missing"),
        (FRAMES, 0.0, "fps=0.0"),
        (FRAMES[:0], 8.0, "at least one frame"),
        (FRAMES.astype(float), 8.0, r"float64 \(3, 24, 32, 3\): expected uint8"),
        (FRAMES.transpose(0, 3, 1, 2), 8.0, r"expected uint8 \(N, H, W, 3\)"),
        (np.zeros((1, 1, 200, 3), np.uint8), 8.0, "aspect ratio"),
    ],
)
def test_arrays_that_cannot_be_used(predictor, frames, fps, message):
    with pytest.raises(XViTError, match=message):
        predictor(frames, fps=fps)


def test_a_short_array_has_the_warning_of_a_short_file(predictor):
    assert any("fewer than the 4 of a clip" in warning for warning in predictor(FRAMES, fps=10.0).warnings)
