"""Frames that the decoder flags as damaged are reported by the check of a data set and by resizing."""

import logging

import pytest

from helpers.barcode_videos import damage_frame, write_video
from xvit.data.annotations import Sample
from xvit.data.tools.check import check_file
from xvit.data.tools.resize import resize_video


@pytest.mark.parametrize("number", [7, 39])
def test_damaged_frames_are_reported(number, tmp_path, caplog):
    intact = write_video(tmp_path / "intact.mp4", frames=40)
    path = damage_frame(tmp_path / "damaged.mp4", intact, number)
    with caplog.at_level(logging.WARNING, logger="xvit"):
        resize_video(intact, tmp_path / "resized.mp4", short_side=32)
        assert caplog.messages == []
        resize_video(path, tmp_path / "resized.mp4", short_side=32)
    assert caplog.messages == [f"{path}: damaged frames: 1"]
    for full in (False, True):
        assert check_file([Sample(path=str(intact), label=0, id="a")], full=full).kind == ""
        report = check_file([Sample(path=str(path), label=0, id="a")], full=full)
        assert report.kind == ("damaged" if full or number == 39 else "")  # the quick check sees two frames only
        assert "1 damaged" in report.reason or not report.kind
