"""`LivePredictor` against the model run on all frames at once."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.barcode_videos import write_video
from helpers.color_videos import CLASSES, CLIP, FRAMES, make_model, with_metadata
from helpers.rate_videos import RATES, STEPS, write_steps
from xvit.data.capture.source import Frame, FrameCounts, Source, SourceEvent
from xvit.data.decode import decode
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.inference import LivePrediction, LivePredictor
from xvit.utils.errors import VideoError, XViTError

WEIGHT_NOISE = 0.1  # weights that start at zero would hide mistakes


def make_stream_model(num_classes=3, class_names=CLASSES, **options):
    model = with_metadata(make_model(num_classes, **{"temporal_position": "head", **options}), class_names)
    model.clip_spec = replace(CLIP, sampling="strided")
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(WEIGHT_NOISE * torch.randn_like(tensor))
    return model


@torch.no_grad()
def offline_scores(model, frames):
    """Scores (T, classes) at each of the frames (T, H, W, C): one clip of all frames, the head over the latest ones."""
    pixels = normalize(eval_views(as_tensor(frames), model.clip_spec), model.clip_spec)  # (1, T, C, S, S)
    embeddings = model.forward_features(pixels).frames
    clips = [embeddings[:, max(0, t - FRAMES + 1) : t + 1] for t in range(len(frames))]
    logits = [model.classifier(model.temporal_head(clip))["label"] for clip in clips]
    return torch.cat(logits).softmax(-1)


def stacked_scores(predictions, class_names=CLASSES):
    """Scores (predictions, classes), in the order of the class names."""
    rows = [dict(zip(p.labels, p.scores, strict=True)) for p in predictions]
    return torch.tensor([[row[name] for name in class_names] for row in rows])


def run(live):
    """(predictions, events) of a run."""
    items = list(live)
    predictions = [item for item in items if isinstance(item, LivePrediction)]
    return predictions, [item for item in items if isinstance(item, SourceEvent)]


class ListSource:
    """A source that yields the items of a list."""

    def __init__(self, items, reconnects=0):
        self.items, self.reconnects, self.counts = items, reconnects, FrameCounts()

    def frames(self, *, stride, frame_rate, short_side, prepare):
        for item in self.items:
            self.counts.read += isinstance(item, Frame)
            yield replace(item, pixels=prepare(item.pixels)) if isinstance(item, Frame) else item


def random_frames(*size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def make_frame(index, pixels):
    height, width = pixels.shape[:2]
    return Frame(index=index, time=index / 25, due_time=time.monotonic(), size=(width, height), pixels=pixels)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", frames=24)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "centered"])
@pytest.mark.parametrize(("stride", "predict_every"), [(1, 1), (3, 1), (2, 3)])
def test_scores_equal_those_of_the_model_on_all_frames(video, causal, stride, predict_every):
    model = make_stream_model(causal=causal)
    live = LivePredictor(model, Source(video), stride=stride, predict_every=predict_every)
    predictions, events = run(live)
    assert [event.kind for event in events] == ["opened"]
    clip = decode(video, range(0, 24, stride), short_side=CLIP.image_size)
    due = list(range(predict_every - 1, len(clip.indices), predict_every))
    assert [prediction.frame for prediction in predictions] == clip.indices[due].tolist()
    assert [prediction.time for prediction in predictions] == pytest.approx(clip.times[due].tolist())
    expected = offline_scores(model, clip.frames)[due]
    assert torch.allclose(stacked_scores(predictions), expected, atol=1e-5)
    stats = live.stats
    assert (stats.read, stats.processed, stats.skipped) == (24, len(clip.indices), 24 - len(clip.indices))
    assert (stats.predictions, stats.dropped, stats.undelivered) == (len(predictions), 0, 0)
    assert all(list(prediction.scores) == sorted(prediction.scores, reverse=True) for prediction in predictions)
    assert stats.frames_per_second > 0


def test_the_default_stride_is_that_of_training(video):
    model = make_stream_model()
    model.clip_spec = replace(CLIP, sampling="strided", stride=4)
    predictions, events = run(LivePredictor(model, Source(video)))
    assert [prediction.frame for prediction in predictions] == list(range(0, 24, 4))
    assert [event.kind for event in events] == ["opened"]

    model.clip_spec = CLIP  # trained on segments: the frame spacing is not known, and an event says so
    predictions, events = run(LivePredictor(model, Source(video)))
    assert len(predictions) == 24
    assert [event.kind for event in events] == ["opened", "stride"]
    assert "4 frames spread over whole videos" in events[1].message
    predictions, events = run(LivePredictor(model, Source(video), stride=6))
    assert len(predictions) == 4
    assert [event.kind for event in events] == ["opened"]


@pytest.fixture(scope="module")
def rate_videos(tmp_path_factory):
    """The same motion at each frame rate."""
    folder = tmp_path_factory.mktemp("rates")
    return {name: write_steps(folder / f"{name}.mp4", times) for name, times in RATES.items()}


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "centered"])
@pytest.mark.parametrize("stride", [1, 3])
def test_the_same_motion_has_the_same_predictions_at_every_frame_rate(rate_videos, causal, stride):
    model = make_stream_model(causal=causal)
    model.clip_spec = replace(CLIP, sampling="strided", frame_rate=float(STEPS), stride=stride)
    results = {}
    for name, path in rate_videos.items():
        results[name], events = run(LivePredictor(model, Source(path)))
        assert [event.kind for event in events] == ["opened", "sampling"]
        assert f"{STEPS / stride:.4g} frames per second" in events[1].message
    expected = stacked_scores(results["8"])
    assert expected.std(dim=0).max() > 1e-3
    for name, predictions in results.items():
        assert torch.allclose(stacked_scores(predictions), expected, atol=1e-6), name
        times = [stride * index / STEPS for index in range(len(expected))]
        assert [prediction.time for prediction in predictions] == pytest.approx(times), name
        assert [prediction.label for prediction in predictions] == [prediction.label for prediction in results["8"]]


@pytest.mark.parametrize("sampling", ["segments", "pyslowfast_segments"])
def test_a_model_of_segments_with_a_frame_rate_has_a_stride(video, sampling):
    model = make_stream_model()
    model.clip_spec = replace(CLIP, sampling=sampling, frame_rate=12.5, stride=4)
    predictions, events = run(LivePredictor(model, Source(video)))
    assert [event.kind for event in events] == ["opened", "sampling"]
    assert [prediction.time for prediction in predictions] == pytest.approx([0, 0.32, 0.64])
    model.clip_spec = replace(model.clip_spec, stride=1)  # of a model without training videos
    assert "stride" in [event.kind for event in run(LivePredictor(model, Source(video)))[1]]


def test_still_pictures_and_ignored_classes_have_no_label():
    model = make_stream_model(class_names=["a", "background", "c"], causal=True)
    moving = random_frames(8, 4, 4).repeat(8, axis=1).repeat(8, axis=2)  # finer changes would be noise
    still = moving[-1:].repeat(8, axis=0)
    items = [make_frame(index, frame) for index, frame in enumerate(np.concatenate([moving, still, moving]))]
    everything, events = run(LivePredictor(model, ListSource(items), motion_threshold=0, ignore=[]))
    assert events == []
    predictions, events = run(LivePredictor(model, ListSource(items)))
    assert [event.kind for event in events] == ["motion", "motion"]
    assert [event.message.split(":")[0] for event in events] == ["0.40 s", "0.64 s"]
    frozen = set(range(7 + FRAMES - 1, 16))  # all frames of the prediction are the same
    assert {prediction.frame for prediction in predictions if not prediction.moving} == frozen
    for before, now in zip(everything, predictions, strict=True):
        assert (now.labels, now.scores, before.label) == (before.labels, before.scores, before.labels[0])
        assert now.label == (None if now.frame in frozen or before.label == "background" else before.label)


def test_after_a_reconnection_motion_is_measured_anew():
    model = make_stream_model(causal=True)
    dark = np.full((32, 32, 3), 20, np.uint8)
    items = [make_frame(index, dark) for index in range(12)]
    event = SourceEvent(kind="reconnected", message="back")
    predictions, _ = run(LivePredictor(model, ListSource([*items[:6], event, *items[6:]], reconnects=1)))
    # The first three predictions of a stream have fewer frames than a clip.
    assert [prediction.frame for prediction in predictions if prediction.moving] == [0, 1, 2, 6, 7, 8]


def test_repeated_frames_of_a_slow_source_are_counted(tmp_path):
    model = make_stream_model(causal=True)
    model.clip_spec = replace(CLIP, sampling="strided", frame_rate=8.0, stride=1)
    live = LivePredictor(model, Source(write_video(tmp_path / "slow.mp4", frames=6, fps=2)))
    predictions, _ = run(live)
    stats = live.stats
    assert (stats.read, stats.repeated, stats.processed) == (6, 18, 24)  # 3 s at 8 frames per second
    assert (stats.skipped, stats.dropped, stats.undelivered) == (0, 0, 0)
    assert len(predictions) == 24


def test_a_slow_model_on_a_live_source_drops_frames_and_counts_them(video):
    model = make_stream_model(causal=True)
    live = LivePredictor(model, Source(video, real_time=True), stride=2)
    push = live.stream.push

    def slow_push(pixels):
        time.sleep(0.2)
        return push(pixels)

    live.stream.push = slow_push
    predictions, events = run(live)
    stats = live.stats
    assert stats.dropped > 0
    assert stats.read == 24 == stats.processed + stats.skipped + stats.dropped
    assert stats.skipped == 12
    assert stats.undelivered == 0
    assert len(predictions) == stats.processed
    assert sum(event.count for event in events if event.kind == "dropped") == stats.dropped
    assert predictions[0].lag_seconds > 0.2
    assert stats.p95_lag_seconds >= stats.mean_lag_seconds > 0.2
    assert 0 < stats.frames_per_second < 6


def test_below_the_threshold_the_label_is_none(video):
    model = make_stream_model()
    highest = sorted(prediction.scores[0] for prediction in run(LivePredictor(model, Source(video)))[0])
    threshold = highest[12]
    predictions, _ = run(LivePredictor(model, Source(video), threshold=threshold))
    below = [prediction.label is None for prediction in predictions]
    assert below == [prediction.scores[0] < threshold for prediction in predictions]
    assert set(below) == {True, False}
    assert all(prediction.label in (None, prediction.labels[0]) for prediction in predictions)


def test_several_tasks_give_dicts(video):
    class_names = {"verb": ["push", "pull"], "noun": ["a", "b", "c"]}
    model = make_stream_model({"verb": 2, "noun": 3}, class_names)
    predictions, _ = run(LivePredictor(model, Source(video), threshold=0.5))
    for prediction in predictions:
        assert set(prediction.labels) == set(prediction.scores) == set(prediction.label) == {"verb", "noun"}
        assert set(prediction.labels["noun"]) == {"a", "b", "c"}
        assert sum(prediction.scores["noun"]) == pytest.approx(1)
        assert prediction.label["verb"] == prediction.labels["verb"][0]  # of two classes, one has at least 0.5


def test_the_stream_is_reset_after_a_reconnection():
    model = make_stream_model(causal=False)
    pixels = random_frames(12, 20, 30)
    items = [make_frame(index, frame) for index, frame in enumerate(pixels)]
    event = SourceEvent(kind="reconnected", message="back")
    predictions, _ = run(LivePredictor(model, ListSource([*items[:7], event, *items[7:]], reconnects=1)))
    assert [prediction.frame for prediction in predictions] == list(range(12))  # pending frames are flushed before
    expected = torch.cat([offline_scores(model, pixels[:7]), offline_scores(model, pixels[7:])])
    assert torch.allclose(stacked_scores(predictions), expected, atol=1e-5)


def test_a_change_of_the_frame_size_has_no_effect():
    model = make_stream_model()
    pixels = random_frames(3, 32, 32)
    doubled = pixels.repeat(2, axis=1).repeat(2, axis=2)  # nearly the same view
    source = ListSource([make_frame(0, pixels[0]), make_frame(1, doubled[1]), make_frame(2, pixels[2])])
    predictions, _ = run(LivePredictor(model, source))
    assert torch.allclose(stacked_scores(predictions), offline_scores(model, pixels), atol=2e-2)


def test_a_stop_flushes_the_pending_frames(video):
    model = make_stream_model(causal=False)
    source = Source(video)
    live = LivePredictor(model, source)
    assert live.stream.latency_frames > 0
    frames = []
    for item in live:
        if isinstance(item, LivePrediction):
            frames.append(item.frame)
            source.stop()
    assert frames == list(range(live.stats.processed))
    assert live.stats.read == live.stats.processed + live.stats.undelivered


def test_invalid_models_values_and_sources(video, tmp_path):
    with pytest.raises(XViTError, match="use temporal_position='head'"):
        LivePredictor(make_stream_model(temporal_position="input"), Source(video))
    with pytest.raises(XViTError, match="the model has no classes"):
        LivePredictor(make_stream_model(0, []), Source(video))
    with pytest.raises(XViTError, match="threshold=2"):
        LivePredictor(make_stream_model(), Source(video), threshold=2)
    with pytest.raises(XViTError, match="motion_threshold=-1"):
        LivePredictor(make_stream_model(), Source(video), motion_threshold=-1)
    with pytest.raises(XViTError, match='Did you mean "green"'):
        LivePredictor(make_stream_model(), Source(video), ignore=["gren"])
    with pytest.raises(XViTError, match="stride=0"):
        LivePredictor(make_stream_model(), Source(video), stride=0)
    live = LivePredictor(make_stream_model(), Source(tmp_path / "none.mp4"))
    with pytest.raises(VideoError, match="no such file"):
        list(live)
    assert live.stats.read == live.stats.processed == 0
