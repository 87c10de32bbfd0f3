"""The sampling that a clip spec learns from the training videos."""

import os
import signal

import pytest

from helpers.barcode_videos import write_frames, write_video
from xvit.config import ClipSpec
from xvit.data import statistics
from xvit.data.annotations import Sample
from xvit.data.statistics import learn_sampling
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A broken file, two videos of 30 frames at 10 frames per second, and one of 60 frames at 30."""
    root = tmp_path_factory.mktemp("rates")
    (root / "0.mp4").write_bytes(b"no video")
    for index, (count, rate) in enumerate([(30, 10), (30, 10), (60, 30)], start=1):
        write_video(root / f"{index}.mp4", frames=count, fps=rate)
    return [Sample(path=str(root / f"{index}.mp4"), label=0, id=str(index)) for index in range(4)]


def test_the_median_rate_is_learnt(samples):
    learnt = learn_sampling(ClipSpec(sampling="strided", stride=2), samples, timeout=60)
    assert (learnt.frame_rate, learnt.stride) == (10.0, 2)


@pytest.mark.parametrize("sampling", ["segments", "pyslowfast_segments"])
def test_the_spacing_of_segments_is_learnt(samples, sampling):
    learnt = learn_sampling(ClipSpec(num_frames=8, sampling=sampling), samples)
    assert (learnt.frame_rate, learnt.stride) == (10.0, 4)  # a median of 30 frames in 8 parts
    given = learn_sampling(ClipSpec(num_frames=8, sampling=sampling, frame_rate=20.0), samples)
    assert (given.frame_rate, given.stride) == (20.0, 8)  # the same videos have 60 frames at that rate


def test_segments_of_videos_have_their_own_length(samples):
    parts = [Sample(path=s.path, label=0, id=s.id, start=0.5, stop=1.3) for s in samples]
    assert learn_sampling(ClipSpec(num_frames=4), parts).stride == 2


def test_the_rate_of_frame_folders_is_that_of_the_annotations(tmp_path):
    write_frames(tmp_path / "video", frames=12)
    sample = Sample(path=str(tmp_path / "video"), label=0, id="video", fps=6.0)
    assert learn_sampling(ClipSpec(num_frames=4), [sample]).frame_rate == 6.0


def test_a_given_spec_stays_as_it_is(samples):
    for spec in (ClipSpec(frame_rate=None), ClipSpec(frame_rate=15.0, sampling="strided", stride=3)):
        assert learn_sampling(spec, samples) is spec


def test_unreadable_videos_are_named(samples):
    with pytest.raises(XViTError, match=r"frame rate cannot be learnt from 1 videos: .*0\.mp4.*xvit data check"):
        learn_sampling(ClipSpec(), samples[:1])


def test_videos_that_kill_the_process_that_reads_them_are_left_out(samples, monkeypatch):
    probe, fatal = statistics.probe, [samples[1].path]

    def probe_or_die(path, **options):
        if path in fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return probe(path, **options)

    monkeypatch.setattr(statistics, "probe", probe_or_die)
    assert learn_sampling(ClipSpec(), samples, num_workers=2).frame_rate == 20.0  # the median of 10 and 30
    fatal += [sample.path for sample in samples]
    with pytest.raises(XViTError, match=r"from 4 videos: .*0\.mp4: the process that read it was killed"):
        learn_sampling(ClipSpec(), samples, num_workers=1)
