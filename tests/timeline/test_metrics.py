"""Segment metrics against naive loops and cases worked out by hand."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xvit.timeline.metrics import VideoSegments, compute_metrics, frame_accuracy, mean_average_precision, segment_f1
from xvit.timeline.segments import Segment


def parse_segments(text: str, scores=()) -> list[Segment]:
    """Segments of a text with one letter per second; a dot is background."""
    spans, start = [], 0
    for letter, run in itertools.groupby(text):
        end = start + len(list(run))
        if letter != ".":
            spans.append((start, end, letter))
        start = end
    scores = scores or [0.5] * len(spans)
    return [
        Segment(start=s, end=e, label=label, score=score) for (s, e, label), score in zip(spans, scores, strict=True)
    ]


def make_video(true: str, predicted: str, scores=()) -> VideoSegments:
    return VideoSegments(
        ground_truth=parse_segments(true), predicted=parse_segments(predicted, scores), duration=float(len(true))
    )


def test_metrics_by_hand():
    video = make_video("aaaabbbb..", "aaabbbbb.b", [0.9, 0.8, 0.7])
    assert frame_accuracy(video) == pytest.approx(0.8)
    assert segment_f1([video], 0.5) == pytest.approx(4 / 5)  # both are found, and one too many
    assert segment_f1([video], 0.78) == pytest.approx(2 / 5)  # IoU of a is 3/4, of b 4/5
    assert segment_f1([video], 0.9) == 0
    assert mean_average_precision([video], 0.5) == 1  # the wrong one has the lowest score
    other = make_video("aaaabbbb..", "aaabbbbb.b", [0.9, 0.7, 0.8])
    assert mean_average_precision([other], 0.5) == pytest.approx((1 + 0.5) / 2)
    split = make_video("aaaaaaaa", "aaabaaaa", [0.5, 0.9, 0.6])  # two predictions for one segment: one is wrong
    assert segment_f1([split], 0.1) == pytest.approx(2 / 4)
    assert segment_f1([split], 0.6) == 0
    assert compute_metrics([make_video("..", "..")]).f1 == {0.1: 1.0, 0.25: 1.0, 0.5: 1.0}
    both = compute_metrics([video, make_video("aaaaa", ".....")])
    assert both.frame_accuracy == pytest.approx(8 / 15)
    assert both.f1[0.5] == pytest.approx(4 / 6)
    assert both.videos == 2


texts = st.integers(1, 14).flatmap(lambda n: st.tuples(*[st.text("ab.", min_size=n, max_size=n)] * 2))


@settings(max_examples=150, deadline=None)
@given(pairs=st.lists(texts, min_size=1, max_size=3), iou=st.sampled_from([0.1, 0.25, 0.5]), data=st.data())
def test_metrics_equal_those_of_naive_loops(pairs, iou, data):
    videos = []
    for true, predicted in pairs:
        number = len(parse_segments(predicted))
        scores = data.draw(st.permutations([0.1 + 0.05 * i for i in range(number)]))
        videos.append(make_video(true, predicted, scores))
    for (true, predicted), video in zip(pairs, videos, strict=True):
        same = sum(a == b for a, b in zip(true, predicted, strict=True))
        assert frame_accuracy(video) == pytest.approx(same / len(true))
    assert segment_f1(videos, iou) == pytest.approx(naive_f1(videos, iou))
    assert mean_average_precision(videos, iou) == pytest.approx(naive_map(videos, iou))


def covered_seconds(segment) -> set[int]:
    return set(range(int(segment.start), int(segment.end)))


def naive_iou(a, b) -> float:
    return len(covered_seconds(a) & covered_seconds(b)) / len(covered_seconds(a) | covered_seconds(b))


def naive_f1(videos, iou) -> float:
    correct = wrong = missed = 0
    for video in videos:
        unmatched = [True] * len(video.ground_truth)
        for prediction in video.predicted:
            best, match = -1.0, None
            for index, true in enumerate(video.ground_truth):
                if true.label == prediction.label and naive_iou(prediction, true) > best:
                    best, match = naive_iou(prediction, true), index
            if match is not None and best >= iou and unmatched[match]:
                correct, unmatched[match] = correct + 1, False
            else:
                wrong += 1
        missed += sum(unmatched)
    return 2 * correct / (2 * correct + wrong + missed) if correct + wrong + missed else 1.0


def naive_map(videos, iou) -> float:
    averages = []
    for label in sorted({s.label for video in videos for s in video.ground_truth}):
        total = sum(s.label == label for video in videos for s in video.ground_truth)
        ranked = [(s.score, n, i) for n, video in enumerate(videos) for i, s in enumerate(video.predicted)]
        ranked = [item for item in ranked if videos[item[1]].predicted[item[2]].label == label]
        ranked.sort(key=lambda item: (-item[0], item[1], item[2]))
        unmatched = {(n, i) for n, v in enumerate(videos) for i, s in enumerate(v.ground_truth) if s.label == label}
        points, correct = [], 0  # of recall and precision
        for rank, (_, n, i) in enumerate(ranked, start=1):
            ious = [(naive_iou(videos[n].predicted[i], videos[n].ground_truth[j]), -j) for m, j in unmatched if m == n]
            if ious and max(ious)[0] >= iou:
                unmatched.remove((n, -max(ious)[1]))
                correct += 1
            points.append((correct / total, correct / rank))
        area, reached = 0.0, 0.0
        for recall, _ in points:
            if recall > reached:
                area += (recall - reached) * max(p for r, p in points if r >= recall)
                reached = recall
        averages.append(area)
    return sum(averages) / len(averages) if averages else 0.0
