"""Timelines of long videos against the model run offline, naive loops, and cases counted by hand."""

import itertools
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from helpers.barcode_videos import write_video
from helpers.color_videos import CLIP, FRAMES, described, make_model
from xvit.data.decode import decode
from xvit.data.transforms import eval_views, normalize
from xvit.timeline.scoring import ScoreTimeline, iterate_scores, score_video
from xvit.utils.errors import XViTError

LABELS = ["a", "b", "c"]
CAUSAL = {"causal": True, "temporal_position": "head"}
CENTERED = {"causal": False, "temporal_position": "head"}
WINDOWS = {"temporal_position": "input"}


def made(**options):
    """A model whose every part matters."""
    model = make_model(3, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return described(model, LABELS)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """50 frames at 25 frames a second."""
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", frames=50)


def pixels(path: Path, indices) -> torch.Tensor:
    """The frames as the model sees them (n, C, S, S), by the way of `Predictor`."""
    return normalize(eval_views(decode(path, indices, short_side=CLIP.image_size).frames, CLIP)[0], CLIP)


# ScoreTimeline


@pytest.mark.parametrize("options", [CAUSAL, CENTERED], ids=["causal", "centered"])
@pytest.mark.parametrize(("stride", "every"), [(1, 1), (2, 3)])
def test_streamed_scores_are_the_models_on_all_frames(options, stride, every, video):
    model = made(**options)
    scores = score_video(model, video, stride=stride, every=every)
    seen = list(range(0, 50, stride))
    with torch.no_grad():
        frames = model.forward_features(pixels(video, seen)[None]).frames[0]
        ends = [i for i in range(len(seen)) if (i + 1) % every == 0]
        windows = [range(max(i - FRAMES + 1, 0), i + 1) for i in ends]
        expected = torch.stack([model.classifier(model.temporal_head(frames[list(w)][None]))[0] for w in windows])
    assert scores.method == "stream"
    np.testing.assert_allclose(scores.values, expected.softmax(dim=-1).numpy(), atol=1e-5)
    assert np.ptp(scores.values, axis=0).max() > 1e-3  # not the same all the time
    middles = [(seen[w[0]] + seen[w[-1]]) / 2 / 25 for w in windows]
    np.testing.assert_allclose(scores.times, middles, atol=1e-6)
    assert scores.duration == pytest.approx(2)


@pytest.mark.parametrize(("stride", "every"), [(1, None), (2, 3), (3, 1)])
def test_scores_of_windows_are_the_models_on_each(stride, every, video):
    model = made(**WINDOWS)
    scores = score_video(model, video, stride=stride, every=every)
    seen = list(range(0, 50, stride))
    hop = every or FRAMES // 2
    ends = [i for i in range(FRAMES - 1, len(seen)) if (i + 1) % hop == 0]
    assert (scores.method, scores.every) == ("windows", hop)
    for time, value, end in zip(scores.times, scores.values, ends, strict=True):
        window = seen[end - FRAMES + 1 : end + 1]
        with torch.no_grad():
            expected = model(pixels(video, window)[None])[0].softmax(dim=-1)
        np.testing.assert_allclose(value, expected.numpy(), atol=1e-5)
        assert time == pytest.approx((window[0] + window[-1]) / 2 / 25)


def test_short_videos_have_a_score(tmp_path):
    path = write_video(tmp_path / "short.mp4", frames=3)
    scores = score_video(made(**WINDOWS), path, stride=1, every=50)
    with torch.no_grad():
        expected = made(**WINDOWS)(pixels(path, [0, 1, 2, 2])[None])[0].softmax(dim=-1)
    np.testing.assert_allclose(scores.values, expected[None].numpy(), atol=1e-5)
    assert scores.times == pytest.approx([1 / 25])
    assert len(score_video(made(**CAUSAL), path, stride=1, every=50).values) == 1


def test_stride_is_that_of_the_training_where_there_is_one(video):
    model = made(**CAUSAL)
    with pytest.raises(XViTError, match=r"stride: missing: .* 4 frames spread over whole videos"):
        score_video(model, video)
    model.clip_spec = type(CLIP)(**{**vars(CLIP), "sampling": "strided", "stride": 5})
    seen = []
    assert score_video(model, video, on_progress=lambda *state: seen.append(state)).stride == 5
    assert seen[-1] == (50, 50)
    assert seen == sorted(seen)


@pytest.mark.parametrize("options", [CAUSAL, CENTERED, WINDOWS], ids=["causal", "centered", "windows"])
def test_scores_come_while_the_video_goes_on(options):
    def endless():
        for number in itertools.count():
            yield np.arange(2) + 2.0 * number, torch.full((2, 3, 20, 30), number % 256, dtype=torch.uint8)

    scores = iterate_scores(made(**options), endless())
    times = np.concatenate([next(scores)[0] for _ in range(100)])
    assert (np.diff(times) > 0).all()
    assert len(times) >= 100
    assert list(iterate_scores(made(**options), [])) == []


def test_models_without_a_timeline(video):
    tasks = described(make_model({"verb": 2, "noun": 3}), {"verb": ["x", "y"], "noun": LABELS})
    with pytest.raises(XViTError, match="several tasks"):
        score_video(tasks, video, stride=1)
    with pytest.raises(XViTError, match="training mode"):
        score_video(made().train(), video, stride=1)
    with pytest.raises(XViTError, match="without classes"):
        iterate_scores(described(make_model(0), []), [])
    with pytest.raises(XViTError, match="every=0"):
        score_video(made(), video, stride=1, every=0)
    with pytest.raises(XViTError, match=r"expected \(2, 3\)"):
        ScoreTimeline(
            path="x",
            class_names=LABELS,
            times=np.arange(2.0),
            values=np.zeros((3, 3)),
            duration=2,
            method="stream",
            stride=1,
            every=1,
        )


PEAK = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from helpers.color_videos import described, make_model
from xvit.timeline.scoring import score_video
for path in sys.argv[2:]:
    for options in ({"causal": True, "temporal_position": "head"}, {"temporal_position": "input"}):
        model = described(make_model(3, **options), ["a", "b", "c"])
        print(len(score_video(model, path, stride=2, every=4).times))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_video(tmp_path):
    minute = write_video(tmp_path / "1.mov", frames=480, fps=8, width=48, height=48, kind="h264-intra")
    twenty = repeated(tmp_path / "20.mov", minute, times=20)
    words = [sys.executable, "-c", PEAK, str(Path(__file__).parent), str(minute), str(twenty)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    *streamed, short, first, second, long = map(int, done.stdout.split())
    assert [*streamed, first, second] == [60, 60, 1200, 1200]
    print(f"peak memory: {short / 1024:.1f} MiB after 1 minute, {long / 1024:.1f} MiB after 20")
    assert long < short + 10 * 1024  # the pictures that are scored are 32 MiB


def repeated(path: Path, source: Path, *, times: int) -> Path:
    """A video over and over, its packets copied."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        step, length = packets[0].duration, sum(packet.duration for packet in packets)
        for place in range(times * len(packets)):
            turn, number = divmod(place, len(packets))
            packet = av.Packet(bytes(packets[number]))
            packet.pts = packet.dts = turn * length + number * step
            packet.time_base, packet.duration = packets[number].time_base, step
            packet.is_keyframe, packet.stream = True, copy
            new.mux(packet)
    return path
