"""Whatever FFmpeg or PyAV raises while a video is read, at whatever call: a `VideoError` that names the video."""

import pickle
from functools import partial

import av
import numpy as np
import pytest

from helpers.barcode_videos import write_frames, write_video
from helpers.faulty_av import FaultyAV
from helpers.live_sources import collect
from xvit.config import AugmentConfig, ClipSpec
from xvit.data.annotations import Sample
from xvit.data.capture.source import Source
from xvit.data.dataset import VideoDataset
from xvit.data.decode import probe, read_clip
from xvit.data.decode.sequential import FrameReader
from xvit.data.tools.check import check_file
from xvit.data.tools.resize import resize_video
from xvit.utils.errors import VideoError

CLIP = ClipSpec(num_frames=2, image_size=32, interpolation="bilinear", frame_rate=None, mean=(0.5,) * 3, std=(0.5,) * 3)
FILES = {"mp4": "h264-mp4", "webm": "vp8-webm", "mpg": "mpeg2-mpg", "folder": ""}  # read in different ways
ERRORS = [
    RuntimeError("a\nfault"),
    TypeError("no such attribute"),
    OSError(5, "Input/output error"),
    av.error.PermissionError(1, "Operation not permitted", "file"),
    AssertionError(),
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    paths = {}
    for name, kind in FILES.items():
        paths[name] = folder / (f"v.{name}" if kind else name)
        write_video(paths[name], frames=3, kind=kind) if kind else write_frames(paths[name], frames=2)
    return paths


def read_item(path, **options):
    sample = Sample(path=str(path), label=0, id="a")
    item = VideoDataset(samples=[sample], clip_spec=CLIP, decode_timeout=0, **options)[0]
    if item.error is not None:
        raise pickle.loads(pickle.dumps(item.error))


def check(path, full):
    report = check_file([Sample(path=str(path), label=0, id="a")], full=full)
    if report.kind:
        raise VideoError(report.path, report.reason)


def read_stream(path):
    source = Source(path)
    _, events = collect(source, frame_rate=25.0)
    if failed := [event for event in events if event.kind == "failed"]:
        raise VideoError(str(path), failed[0].message)


READERS = {
    "probe": probe,
    "clip": partial(read_clip, choose_indices=lambda info: range(info.num_frames)),
    "in order": lambda path: list(FrameReader(path)),
    "training": partial(read_item, augment=AugmentConfig()),
    "evaluation": read_item,
    "check": partial(check, full=False),
    "full check": partial(check, full=True),
    "resize": lambda path: resize_video(path, path.with_name("small.mp4"), short_side=32),
    "stream": read_stream,
}


NOT_FOR_FOLDERS = ("in order", "resize", "stream")
CASES = [(file, reader) for file in FILES for reader in READERS if file != "folder" or reader not in NOT_FOR_FOLDERS]


@pytest.mark.parametrize(("file", "reader"), CASES)
def test_an_error_at_any_call_is_an_error_of_that_video(file, reader, videos, monkeypatch):
    path, read = videos[file], READERS[reader]
    with monkeypatch.context() as patch:
        counter = FaultyAV()
        counter.install(patch)
        read(path)
    operations = list(counter.calls)
    assert ("CodecContext.create" if file == "folder" else "InputContainer.demux") in operations
    errors, rng = [], np.random.default_rng(len(operations))
    for number, operation in enumerate(operations):
        with monkeypatch.context() as patch:
            after = int(rng.integers(counter.calls[operation]))
            FaultyAV(operation, ERRORS[number % len(ERRORS)], after).install(patch)
            try:
                read(path)  # some errors are damage of one packet, or lead to another way of reading
            except VideoError as error:
                errors.append(error)
    assert len(errors) > len(operations) / 2
    assert all(error.path.startswith(str(path)) and "\n" not in str(error) for error in errors)
