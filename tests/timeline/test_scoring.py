"""Scores of long videos against the model run offline, with naive loops."""

import itertools
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from helpers.barcode_videos import write_video
from helpers.color_videos import CLIP, FRAMES, make_model, with_metadata
from helpers.rate_videos import RATES, STEPS, write_steps
from helpers.warm_processes import WarmProcess
from xvit.data.decode import decode
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.inference.gating import MotionMeter
from xvit.timeline import ScoreTimeline, iterate_scores, score_video
from xvit.utils.errors import XViTError

LABELS = ["a", "b", "c"]
CAUSAL = {"causal": True, "temporal_position": "head"}
CENTERED = {"causal": False, "temporal_position": "head"}
WINDOWS = {"temporal_position": "input"}


def make_noisy_model(**options):
    """A model without parameters that are zero, so that every part affects the result."""
    model = make_model(3, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return with_metadata(model, LABELS)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """50 frames at 25 frames per second."""
    return write_video(tmp_path_factory.mktemp("video") / "video.mp4", frames=50)


@pytest.fixture(scope="module")
def same_motion(tmp_path_factory) -> dict[str, Path]:
    """The same motion of 4 seconds at several frame rates."""
    folder = tmp_path_factory.mktemp("rates")
    return {name: write_steps(folder / f"{name}.mp4", times) for name, times in RATES.items()}


def load_views(path: Path, indices) -> torch.Tensor:
    """Model inputs (n, C, S, S) of these frames, as `Predictor` computes them."""
    return normalize(eval_views(as_tensor(decode(path, indices, short_side=CLIP.image_size).frames), CLIP)[0], CLIP)


@pytest.mark.parametrize("options", [CAUSAL, CENTERED], ids=["causal", "centered"])
@pytest.mark.parametrize(("stride", "predict_every"), [(1, 1), (2, 3)])
def test_stream_scores_equal_those_of_the_model_on_all_frames(options, stride, predict_every, video):
    model = make_noisy_model(**options)
    timeline = score_video(model, video, stride=stride, predict_every=predict_every)
    indices = list(range(0, 50, stride))
    with torch.no_grad():
        frames = model.forward_features(load_views(video, indices)[None]).frames[0]
        ends = [i for i in range(len(indices)) if (i + 1) % predict_every == 0]
        windows = [list(range(max(i - FRAMES + 1, 0), i + 1)) for i in ends]
        heads = [model.temporal_head(frames[window][None]) for window in windows]
        expected = torch.stack([model.classifier(head)["label"][0] for head in heads])
    assert timeline.method == "stream"
    np.testing.assert_allclose(timeline.scores, expected.softmax(dim=-1).numpy(), atol=1e-5)
    assert np.ptp(timeline.scores, axis=0).max() > 1e-3  # the scores change over time
    middles = [(indices[window[0]] + indices[window[-1]]) / 2 / 25 for window in windows]
    np.testing.assert_allclose(timeline.times, middles, atol=1e-6)
    assert timeline.duration == pytest.approx(2)
    assert (timeline.frame_rate, timeline.clip_duration) == (None, pytest.approx(FRAMES * stride / 25))
    pixels = eval_views(as_tensor(decode(video, indices, short_side=CLIP.image_size).frames), CLIP)[0]
    motion = np.array(MotionMeter(FRAMES).push(pixels.numpy()))[ends]
    partial = np.array(ends) < FRAMES - 1
    motion[partial] = motion[~partial][0]
    np.testing.assert_allclose(timeline.motion, motion, atol=1e-3)


@pytest.mark.parametrize(("stride", "predict_every"), [(1, None), (2, 3), (3, 1)])
def test_window_scores_equal_those_of_the_model_on_each_window(stride, predict_every, video):
    model = make_noisy_model(**WINDOWS)
    timeline = score_video(model, video, stride=stride, predict_every=predict_every)
    indices = list(range(0, 50, stride))
    hop = predict_every or FRAMES // 2
    ends = [i for i in range(FRAMES - 1, len(indices)) if (i + 1) % hop == 0]
    assert (timeline.method, timeline.predict_every) == ("windows", hop)
    for time, scores, end in zip(timeline.times, timeline.scores, ends, strict=True):
        window = indices[end - FRAMES + 1 : end + 1]
        with torch.no_grad():
            expected = model(load_views(video, window)[None])[0].softmax(dim=-1)
        np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)
        assert time == pytest.approx((window[0] + window[-1]) / 2 / 25)


def test_short_videos_have_one_score(tmp_path):
    path = write_video(tmp_path / "short.mp4", frames=3)
    timeline = score_video(make_noisy_model(**WINDOWS), path, stride=1, predict_every=50)
    with torch.no_grad():
        expected = make_noisy_model(**WINDOWS)(load_views(path, [0, 1, 2, 2])[None])[0].softmax(dim=-1)
    np.testing.assert_allclose(timeline.scores, expected[None].numpy(), atol=1e-5)
    assert timeline.times == pytest.approx([1 / 25])
    assert len(score_video(make_noisy_model(**CAUSAL), path, stride=1, predict_every=50).scores) == 1


def test_the_default_stride_is_that_of_training(video):
    model = make_noisy_model(**CAUSAL)
    with pytest.raises(XViTError, match=r"stride: missing: .* 4 frames spread over whole videos"):
        score_video(model, video)
    model.clip_spec = replace(CLIP, sampling="strided", stride=5)
    progress = []
    assert score_video(model, video, on_progress=lambda *counts: progress.append(counts)).stride == 5
    assert progress[-1] == (50, 50)
    assert progress == sorted(progress)


@pytest.mark.parametrize("sampling", ["segments", "pyslowfast_segments"])
def test_a_model_of_segments_with_a_frame_rate_has_a_stride(video, sampling):
    model = make_noisy_model(**CAUSAL)
    model.clip_spec = replace(CLIP, sampling=sampling, frame_rate=12.5, stride=2)
    timeline = score_video(model, video)
    assert (timeline.frame_rate, timeline.stride, timeline.clip_duration) == (12.5, 2, FRAMES * 2 / 12.5)
    assert len(timeline.times) == 13
    for unknown in ({"frame_rate": None}, {"stride": 1}):  # of a model without training videos
        model.clip_spec = replace(CLIP, **{"sampling": sampling, "frame_rate": 12.5, "stride": 2} | unknown)
        with pytest.raises(XViTError, match=r"stride: missing"):
            score_video(model, video)


def test_the_spacing_of_pyslowfast_clips_is_that_of_their_frames(video):
    model = make_noisy_model(**CAUSAL)
    model.clip_spec = replace(CLIP, sampling="pyslowfast_strided", frame_rate=25.0, stride=5)
    assert score_video(model, video).stride == 6  # 4 frames over 20, both ends included


@pytest.mark.parametrize("options", [CAUSAL, CENTERED, WINDOWS], ids=["causal", "centered", "windows"])
@pytest.mark.parametrize("stride", [1, 3])
def test_the_same_motion_has_the_same_scores_at_every_frame_rate(options, stride, same_motion):
    model = make_noisy_model(**options)
    model.clip_spec = replace(CLIP, sampling="strided", frame_rate=float(STEPS), stride=stride)
    timelines = {name: score_video(model, path) for name, path in same_motion.items()}
    expected = timelines["8"]
    assert len(expected.times) > 3
    assert expected.frame_rate == STEPS
    assert expected.clip_duration == FRAMES * stride / STEPS
    assert np.ptp(expected.scores, axis=0).max() > 1e-3
    for name, timeline in timelines.items():
        np.testing.assert_allclose(timeline.scores, expected.scores, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(timeline.times, expected.times, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(timeline.motion, expected.motion, atol=1e-3, err_msg=name)
        assert timeline.warnings == ()
    model.clip_spec = replace(model.clip_spec, frame_rate=None)
    counted = score_video(model, same_motion["25"])  # counts frames: other frames, other scores
    assert counted.clip_duration == pytest.approx(FRAMES * stride / 25)
    assert len(counted.times) > 2 * len(expected.times)


def test_a_video_that_is_too_slow_is_reported(same_motion):
    model = make_noisy_model(**CAUSAL)
    model.clip_spec = replace(CLIP, sampling="strided", frame_rate=16.0)
    timeline = score_video(model, same_motion["8"])
    [warning] = timeline.warnings
    assert "8 frames per second" in warning
    assert "16" in warning
    assert score_video(model, same_motion["25"]).warnings == ()


@pytest.mark.parametrize("options", [CAUSAL, WINDOWS], ids=["causal", "windows"])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_videos_shorter_than_a_clip_have_a_score(options, frames, tmp_path):
    model = make_noisy_model(**options)
    model.clip_spec = replace(CLIP, sampling="strided", frame_rate=8.0, stride=2)
    path = write_video(tmp_path / "short.mp4", frames=frames)
    assert len(score_video(model, path, predict_every=50).times) == 1


@pytest.mark.parametrize("options", [CAUSAL, CENTERED, WINDOWS], ids=["causal", "centered", "windows"])
def test_an_endless_video_is_scored_as_it_arrives(options):
    def endless():
        for number in itertools.count():
            yield np.arange(2) + 2.0 * number, np.full((2, 20, 30, 3), number % 256, np.uint8)

    scores = iterate_scores(make_noisy_model(**options), endless())
    times = np.concatenate([next(scores)[0] for _ in range(100)])
    assert (np.diff(times) > 0).all()
    assert len(times) >= 100
    assert list(iterate_scores(make_noisy_model(**options), [])) == []


def test_invalid_models_and_values(video):
    tasks = with_metadata(make_model({"verb": 2, "noun": 3}), {"verb": ["x", "y"], "noun": LABELS})
    with pytest.raises(XViTError, match="several tasks"):
        score_video(tasks, video, stride=1)
    with pytest.raises(XViTError, match="training mode"):
        score_video(make_noisy_model().train(), video, stride=1)
    with pytest.raises(XViTError, match="without classes"):
        iterate_scores(with_metadata(make_model(0), []), [])
    with pytest.raises(XViTError, match="predict_every=0"):
        score_video(make_noisy_model(), video, stride=1, predict_every=0)
    with pytest.raises(XViTError, match=r"expected \(2, 3\)"):
        ScoreTimeline(
            path="x",
            class_names=LABELS,
            times=np.arange(2.0),
            scores=np.zeros((3, 3)),
            motion=np.zeros(2),
            duration=2,
            clip_duration=1,
            method="stream",
            frame_rate=None,
            stride=1,
            predict_every=1,
        )


PEAK_MEMORY = """
import dataclasses, resource, sys
from helpers.color_videos import CLIP, make_model, with_metadata
from xvit.timeline import score_video
small = {"img_size": 48, "patch_size": 16, "depth": 1, "embed_dim": 16, "num_heads": 2}
for path in sys.argv[1:]:
    for options in ({"causal": True, "temporal_position": "head"}, {"temporal_position": "input"}):
        model = with_metadata(make_model(3, **options, backbone_kwargs=small), ["a", "b", "c"])
        model.clip_spec = dataclasses.replace(CLIP, image_size=48)
        print(len(score_video(model, path, stride=2, predict_every=4).times))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_video(tmp_path):
    short_video = write_video(tmp_path / "1.mov", frames=480, fps=8, width=96, height=96, kind="h264-intra")
    long_video = write_repeated(tmp_path / "6.mov", short_video, times=6)
    # The short one several times: what threads and caches keep from one video to the next is not what is tested.
    code, out, err = WarmProcess("-c", PEAK_MEMORY, *[short_video] * 6, long_video).wait()
    assert code == 0, err
    *_, stream_short, windows_short, short, stream_long, windows_long, long = map(int, out.split())
    assert (stream_short, windows_short, stream_long, windows_long) == (60, 60, 360, 360)
    print(f"peak memory: {short / 1024:.1f} MiB, {long / 1024:.1f} MiB for 6 times the length")
    assert long < short + 10 * 1024  # KiB; the frames that are scored take 32 MiB, and as much as inputs of the model


def write_repeated(path: Path, source: Path, *, times: int) -> Path:
    """Write a video that repeats another one, with copies of its packets."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        step, length = packets[0].duration, sum(packet.duration for packet in packets)
        for index in range(times * len(packets)):
            turn, number = divmod(index, len(packets))
            packet = av.Packet(bytes(packets[number]))
            packet.pts = packet.dts = turn * length + number * step
            packet.time_base, packet.duration = packets[number].time_base, step
            packet.is_keyframe, packet.stream = True, stream
            new.mux(packet)
    return path
