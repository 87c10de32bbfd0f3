"""The fuzz campaign: a small one, in this process; and what counts as a finding."""

import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers.barcode_videos import barcode_frame
from helpers.fuzz_runs import answer_crash_or_hang

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import fuzz
import fuzz_inputs
import fuzz_targets
import fuzz_workers

TARGETS = ("video", "annotations", "checkpoint", "features", "timeline")  # those that are quick


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    for target in TARGETS:
        fuzz_inputs.write_seeds(folder, target)
    fuzz_inputs.write_videos(folder / "colors", train=1, val=1)  # for checkpoints
    return folder


@pytest.mark.parametrize("target", TARGETS)
def test_intact_files_are_accepted(target, seeds):
    for folder in sorted((seeds / target).iterdir()):
        consume = fuzz_targets.CONSUMERS[target][1]
        assert consume(folder, folder.name, seeds, np.random.default_rng(0)) == "accepted", folder


def test_a_small_campaign_has_no_findings(seeds, tmp_path):
    results = Counter()
    for number in range(100):
        run = {"seed": 5, "seeds": seeds, "folder": tmp_path / "input", "targets": TARGETS}
        outcome = fuzz.run_input(number, **run)
        assert outcome.result in fuzz_targets.EXPECTED, outcome
        results[outcome.target, outcome.result] += 1
    for target in ("video", "annotations", "checkpoint"):
        assert results[target, "refused"]
        assert results[target, "accepted"]


def test_an_input_is_the_same_each_time(seeds, tmp_path):
    for number in range(20):
        contents = []
        for name in "ab":
            fuzz_inputs.write_input(seeds, "video", tmp_path / f"{number}{name}", np.random.default_rng([0, number]))
            paths = sorted(path for path in (tmp_path / f"{number}{name}").rglob("*") if path.is_file())
            contents.append([path.read_bytes() for path in paths])
        assert contents[0] == contents[1]


@pytest.mark.parametrize("name", [change.__name__ for change in fuzz_inputs.CHANGES])
def test_each_change_changes_bytes(name):
    data, change = bytes(range(256)) * 20, getattr(fuzz_inputs, name)
    changed = {change(data, data[::-1], np.random.default_rng(seed)) for seed in range(20)}
    assert len(changed - {data}) > 10


@pytest.mark.parametrize(
    ("numbers", "warned", "result"),
    [
        ([0, 3, 9], False, "accepted"),
        ([0, 3, 8], False, "wrong frame"),
        ([0, 4, 10], False, "wrong frame"),
        ([1, 4, 10], False, "wrong frame"),  # the first frame is lost
        ([0, 3, 8], True, "warned"),
        ([0, 3, None], False, "unrecognised"),
    ],
)
def test_frames_are_judged_by_what_they_show(numbers, warned, result, seeds):
    path = next((seeds / "video" / "h264-mp4").iterdir())
    noise = np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8)
    images = [noise if number is None else barcode_frame(number) for number in numbers]
    judge = partial(fuzz_targets.check_frames, path, [0, 3, 9], [0.0, 0.12, 0.36], images, warned)
    if result != "wrong frame":
        assert judge() == result
        return
    with pytest.raises(fuzz_targets.Finding, match=r"index \d at"):
        judge()


def test_frames_that_are_in_the_file_are_judged_by_the_file(seeds, tmp_path):
    """A frame that was cut out of an AVI leaves no trace; decoded in order, the file has the next one in its place."""
    path = tmp_path / "video.avi"
    data = next((seeds / "video" / "mjpeg-avi").iterdir()).read_bytes()
    start = [i for i in range(len(data)) if data[i : i + 4] == b"00dc"][5]
    size = 8 + int.from_bytes(data[start + 4 : start + 8], "little")
    path.write_bytes(data[:start] + data[start + size + size % 2 :])
    (lost,) = set(range(40)) - {number for number, _, _ in fuzz_targets.decode_plainly(path)}
    judge = partial(fuzz_targets.check_frames, path, [0, lost - 1, lost], [0.0, (lost - 1) / 25, lost / 25])
    images = [barcode_frame(number) for number in (0, lost - 1, lost + 1, lost + 2)]
    assert judge(images[:3], False) == "rearranged"
    with pytest.raises(fuzz_targets.Finding, match=f"index {lost} at"):
        judge([*images[:2], images[3]], False)


@pytest.mark.parametrize(("first", "found"), [(12, False), (13, True)])
def test_frames_of_a_file_without_its_start_are_judged_by_the_first_one(first, found, seeds, monkeypatch):
    """Those after it may depend on a damaged frame that no other one needs, and that was not decoded for them."""
    path = next((seeds / "video" / "h264-mp4").iterdir())
    monkeypatch.setattr(fuzz_targets, "decode_plainly", lambda path: [(12 + i, i / 25, i > 0) for i in range(9)])
    judge = partial(fuzz_targets.check_frames, path, [0, 2, 5], [0.0, 0.08, 0.2])
    images = [barcode_frame(number) for number in (first, first + 2, first + 5)]
    if not found:
        assert judge(images, False) == "rearranged"
        return
    with pytest.raises(fuzz_targets.Finding, match="index 0 at"):
        judge(images, False)


def test_a_message_without_text_is_a_finding():
    fuzz_targets.check_message(fuzz_targets.XViTError("x" * 500))
    with pytest.raises(fuzz_targets.Finding, match="0 characters"):
        fuzz_targets.check_message(fuzz_targets.XViTError(" "))


def test_an_error_of_another_kind_is_a_finding(seeds, tmp_path, monkeypatch):
    def fail(*args):
        raise KeyError("count")

    monkeypatch.setitem(fuzz_targets.CONSUMERS, "timeline", (1.0, fail))
    outcome = fuzz.run_input(0, seed=0, seeds=seeds, folder=tmp_path / "input", targets=["timeline"])
    assert (outcome.result, outcome.target) == ("error", "timeline")
    assert "KeyError: 'count'" in outcome.detail


def test_a_crash_and_a_hang_are_survived(tmp_path):
    outcomes = fuzz_workers.campaign(iter(range(4)), answer_crash_or_hang, tmp_path, jobs=1, deadline=3)
    rows = [(outcome.number, outcome.result, outcome.where) for outcome, _ in outcomes]
    expected = [(0, "accepted", ""), (1, "crash", "exit code -11"), (2, "hang", "3 s"), (3, "accepted", "")]
    assert rows == expected
