"""The live loop against the model run on all frames at once."""

import time
from dataclasses import replace

import pytest
import torch

from helpers.barcode_videos import write_video
from helpers.color_videos import CLASSES, CLIP, FRAMES, described, make_model
from xvit.data.capture.source import Frame, FrameCounts, Source, SourceEvent
from xvit.data.decode.video import decode
from xvit.data.transforms import eval_views, normalize
from xvit.inference.live import LivePrediction, LivePredictor
from xvit.utils.errors import VideoError, XViTError

WEIGHT_NOISE = 0.1  # what starts at zero would hide mistakes


def made(num_classes=3, labels=CLASSES, **options):
    model = described(make_model(num_classes, **{"temporal_position": "head", **options}), labels)
    model.clip_spec = replace(CLIP, sampling="strided")
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(WEIGHT_NOISE * torch.randn_like(tensor))
    return model


@torch.no_grad()
def offline(model, frames):
    """Scores (T, classes) at each of the frames (T, C, H, W): all in one clip, the head over the latest ones."""
    pixels = normalize(eval_views(frames, model.clip_spec), model.clip_spec)  # (1, T, C, S, S)
    vectors = model.forward_features(pixels).frames
    clips = [vectors[:, max(0, t - FRAMES + 1) : t + 1] for t in range(len(frames))]
    return torch.cat([model.classifier(model.temporal_head(clip)) for clip in clips]).softmax(-1)


def in_order(answer, names=CLASSES):
    """The scores of an answer by class, (classes,)."""
    return torch.tensor([dict(zip(answer.labels, answer.scores, strict=True))[name] for name in names])


def split(events):
    events = list(events)
    notices = [event for event in events if isinstance(event, SourceEvent)]
    return [event for event in events if isinstance(event, LivePrediction)], notices


class Given:
    """A source of given items."""

    def __init__(self, items, reconnects=0):
        self.items, self.reconnects, self.tally = items, reconnects, FrameCounts()

    def frames(self, *, stride, short_side):
        for item in self.items:
            self.tally.read += isinstance(item, Frame)
            yield item


def frame(index, pixels):
    height, width = pixels.shape[-2:]
    return Frame(index=index, time=index / 25, due=time.monotonic(), size=(width, height), pixels=pixels)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", frames=24)


@pytest.mark.parametrize("direction", ["causal", "centered"])
@pytest.mark.parametrize(("stride", "every"), [(1, 1), (3, 1), (2, 3)])
def test_scores_are_those_of_the_model_on_all_frames(video, direction, stride, every):
    model = made(direction=direction)
    live = LivePredictor(model, Source(video), stride=stride, every=every)
    answers, notices = split(live)
    assert [notice.kind for notice in notices] == ["opened"]
    clip = decode(video, range(0, 24, stride), short_side=CLIP.image_size)
    due = list(range(every - 1, len(clip.indices), every))
    assert [answer.frame for answer in answers] == clip.indices[due].tolist()
    assert [answer.time for answer in answers] == pytest.approx(clip.times[due].tolist())
    expected = offline(model, clip.frames)[due]
    assert torch.allclose(torch.stack([in_order(answer) for answer in answers]), expected, atol=1e-5)
    counts = live.counts
    assert (counts.read, counts.fed, counts.skipped) == (24, len(clip.indices), 24 - len(clip.indices))
    assert (counts.answered, counts.dropped, counts.left) == (len(answers), 0, 0)
    assert all(list(answer.scores) == sorted(answer.scores, reverse=True) for answer in answers)
    assert counts.frames_per_second > 0


def test_frames_come_at_the_spacing_of_the_training(video):
    model = made()
    model.clip_spec = replace(CLIP, sampling="strided", stride=4)
    answers, notices = split(LivePredictor(model, Source(video)))
    assert [answer.frame for answer in answers] == list(range(0, 24, 4))
    assert [notice.kind for notice in notices] == ["opened"]

    model.clip_spec = CLIP  # trained on segments: the spacing is not known, and that is said
    answers, notices = split(LivePredictor(model, Source(video)))
    assert len(answers) == 24
    assert [notice.kind for notice in notices] == ["opened", "stride"]
    assert "4 frames spread over whole videos" in notices[1].text
    answers, notices = split(LivePredictor(model, Source(video), stride=6))
    assert len(answers) == 4
    assert [notice.kind for notice in notices] == ["opened"]


def test_a_slow_model_on_a_live_source_drops_and_counts(video):
    model = made(causal=True)
    live = LivePredictor(model, Source(video, real_time=True), stride=2)
    push = live.stream.push

    def slow(pixels):
        time.sleep(0.2)
        return push(pixels)

    live.stream.push = slow
    answers, notices = split(live)
    counts = live.counts
    assert counts.dropped > 0
    assert counts.read == 24 == counts.fed + counts.skipped + counts.dropped
    assert counts.skipped == 12
    assert counts.left == 0
    assert len(answers) == counts.fed
    assert sum(notice.count for notice in notices if notice.kind == "dropped") == counts.dropped
    assert answers[0].lag_seconds > 0.2
    assert counts.lag_95_seconds >= counts.mean_lag_seconds > 0.2
    assert 0 < counts.frames_per_second < 6


def test_below_the_threshold_the_answer_is_none_of_these(video):
    model = made()
    surest = sorted(answer.scores[0] for answer in split(LivePredictor(model, Source(video)))[0])
    threshold = surest[12]
    answers, _ = split(LivePredictor(model, Source(video), threshold=threshold))
    assert [answer.label is None for answer in answers] == [answer.scores[0] < threshold for answer in answers]
    assert {answer.label is None for answer in answers} == {True, False}
    assert all(answer.label in (None, answer.labels[0]) for answer in answers)


def test_several_tasks_are_dicts(video):
    labels = {"verb": ["push", "pull"], "noun": ["a", "b", "c"]}
    model = made({"verb": 2, "noun": 3}, labels)
    answers, _ = split(LivePredictor(model, Source(video), threshold=0.5))
    for answer in answers:
        assert set(answer.labels) == set(answer.scores) == set(answer.label) == {"verb", "noun"}
        assert set(answer.labels["noun"]) == {"a", "b", "c"}
        assert sum(answer.scores["noun"]) == pytest.approx(1)
        assert answer.label["verb"] == answer.labels["verb"][0]  # of two, one has half


def test_after_a_reconnection_the_stream_begins_anew():
    model = made(causal=False)
    pixels = torch.randint(0, 256, (12, 3, 20, 30), dtype=torch.uint8)
    items = [frame(index, picture) for index, picture in enumerate(pixels)]
    again = SourceEvent(kind="reconnected", text="back")
    answers, _ = split(LivePredictor(model, Given([*items[:7], again, *items[7:]], reconnects=1)))
    assert [answer.frame for answer in answers] == list(range(12))  # those that waited are answered before
    expected = torch.cat([offline(model, pixels[:7]), offline(model, pixels[7:])])
    assert torch.allclose(torch.stack([in_order(answer) for answer in answers]), expected, atol=1e-5)


def test_a_new_size_of_the_picture_changes_nothing_else():
    model = made()
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    doubled = pixels.repeat_interleave(2, -1).repeat_interleave(2, -2)  # shown at the same view: nearly the same
    mixed = Given([frame(0, pixels[0]), frame(1, doubled[1]), frame(2, pixels[2])])
    answers, _ = split(LivePredictor(model, mixed))
    expected = offline(model, pixels)
    assert torch.allclose(torch.stack([in_order(answer) for answer in answers]), expected, atol=2e-2)


def test_a_stop_answers_the_frames_that_wait(video):
    model = made(causal=False)
    source = Source(video)
    live = LivePredictor(model, source)
    assert live.stream.latency_frames > 0
    answers = []
    for event in live:
        if isinstance(event, LivePrediction):
            answers.append(event.frame)
            source.stop()
    assert answers == list(range(live.counts.fed))
    counts = live.counts
    assert counts.read == counts.fed + counts.left


def test_what_cannot_be_streamed(video, tmp_path):
    with pytest.raises(XViTError, match="take temporal_position='head'"):
        LivePredictor(made(temporal_position="input"), Source(video))
    with pytest.raises(XViTError, match="without classes"):
        LivePredictor(made(0, []), Source(video))
    with pytest.raises(XViTError, match="threshold=2"):
        LivePredictor(made(), Source(video), threshold=2)
    with pytest.raises(XViTError, match="stride=0"):
        LivePredictor(made(), Source(video), stride=0)
    live = LivePredictor(made(), Source(tmp_path / "none.mp4"))
    with pytest.raises(VideoError, match="no such file"):
        list(live)
    assert live.counts.read == live.counts.fed == 0
