"""Segments of scores, their agreement with the truth by naive loops, their files and their picture."""

import itertools
import json

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xvit.timeline.metrics import VideoSegments, frame_accuracy, mean_average_precision, measure, segment_f1
from xvit.timeline.segments import Segment, cells, find_segments, hysteresis, smoothed
from xvit.timeline.writers import read_truth, to_csv, to_json, to_srt, write_new
from xvit.utils.errors import XViTError
from xvit.visualize.plots import plot_timeline

LABELS = ["a", "b", "c"]


# Segments


@st.composite
def scored(draw):
    """Times, scores and the duration of a video."""
    number = draw(st.integers(1, 40))
    steps = np.array(draw(st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=number, max_size=number)))
    rows = st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.9]), min_size=3, max_size=3)
    values = np.array(draw(st.lists(rows, min_size=number, max_size=number)))
    times = np.cumsum(steps) - 0.25
    return times, values, float(times[-1] + draw(st.sampled_from([0.1, 2.0])))


OPTIONS = st.fixed_dictionaries(
    {
        "smooth": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "threshold": st.sampled_from([0.3, 0.5, 0.8]),
        "leave": st.sampled_from([None, 0.0, 0.3]),
        "min_length": st.sampled_from([0.0, 0.6, 2.0]),
    }
)


@settings(max_examples=200, deadline=None)
@given(video=scored(), options=OPTIONS)
def test_segments_are_in_order_apart_and_long_enough(video, options):
    times, values, duration = video
    found = find_segments(times, values, LABELS, duration=duration, **options)
    assert all(0 <= s.start < s.end <= duration for s in found)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    assert all(a.label != b.label for a, b in itertools.pairwise(found) if a.end == b.start)
    assert all(s.end - s.start >= options["min_length"] for s in found)
    assert all(0 <= s.score <= 1 for s in found)
    # What was found, taken as the scores, is found again, and the smallest length takes nothing more.
    again = np.zeros_like(values)
    for segment in found:
        again[(segment.start <= times) & (times < segment.end), LABELS.index(segment.label)] = 1
    repeated = find_segments(times, again, LABELS, duration=duration, **(options | {"smooth": 0.0, "leave": None}))
    assert [(s.start, s.end, s.label) for s in repeated] == [(s.start, s.end, s.label) for s in found]


@settings(max_examples=100, deadline=None)
@given(video=scored(), seconds=st.sampled_from([0.0, 0.5, 1.0, 2.5]))
def test_smoothing_is_the_mean_of_what_is_near(video, seconds):
    times, values, _ = video
    near = [[j for j in range(len(times)) if abs(times[j] - t) <= seconds / 2] for t in times]
    np.testing.assert_allclose(smoothed(times, values, seconds), [values[js].mean(axis=0) for js in near], atol=1e-12)


def test_hysteresis_by_hand():
    #                 nothing   a enters  a stays  b is best, a stays  b takes over  b stays  b leaves
    rows = np.array([[0.4, 0.1], [0.6, 0.2], [0.3, 0.1], [0.3, 0.45], [0.1, 0.7], [0.4, 0.3], [0.2, 0.2]])
    assert hysteresis(rows, threshold=0.5, leave=0.25).tolist() == [-1, 0, 0, 0, 1, 1, -1]
    assert hysteresis(rows, threshold=0.5, leave=0.5).tolist() == [-1, 0, -1, -1, 1, -1, -1]


def test_segments_by_hand():
    times = np.arange(8) + 0.5
    one_hot = np.eye(3)[[0, 0, 0, 1, 0, 0, 2, 1]]
    assert cells(times, 8.0).tolist() == list(range(9))
    told = [(s.start, s.end, s.label) for s in find_segments(times, one_hot, LABELS, duration=8.0)]
    assert told == [(0, 3, "a"), (3, 4, "b"), (4, 6, "a"), (6, 7, "c"), (7, 8, "b")]
    [only] = find_segments(times, one_hot, LABELS, duration=8.0, min_length=1.5)  # b within a is a, c and the last b no
    assert (only.start, only.end, only.label, only.score) == (0, 6, "a", pytest.approx(5 / 6))
    assert find_segments(times, one_hot * 0.4, LABELS, duration=8.0) == []
    with pytest.raises(XViTError, match=r"leave=0\.6"):
        find_segments(times, one_hot, LABELS, duration=8.0, leave=0.6)
    with pytest.raises(XViTError, match="duration=7"):
        find_segments(times, one_hot, LABELS, duration=7)
    with pytest.raises(XViTError, match="expected 0 <= start < end"):
        Segment(start=2, end=1, label="a")


# Metrics


def spans(text: str, scores=()) -> list[Segment]:
    """Segments of a text with a letter a second; a point for nothing."""
    found, start = [], 0
    for letter, run in itertools.groupby(text):
        end = start + len(list(run))
        if letter != ".":
            found.append((start, end, letter))
        start = end
    scores = scores or [0.5] * len(found)
    return [
        Segment(start=s, end=e, label=label, score=score) for (s, e, label), score in zip(found, scores, strict=True)
    ]


def judged(truth: str, predicted: str, scores=()) -> VideoSegments:
    return VideoSegments(truth=spans(truth), predicted=spans(predicted, scores), duration=float(len(truth)))


def test_metrics_by_hand():
    video = judged("aaaabbbb..", "aaabbbbb.b", [0.9, 0.8, 0.7])
    assert frame_accuracy(video) == pytest.approx(0.8)
    assert segment_f1([video], 0.5) == pytest.approx(4 / 5)  # both are found, and one too many
    assert segment_f1([video], 0.78) == pytest.approx(2 / 5)  # IoU of a is 3/4, of b 4/5
    assert segment_f1([video], 0.9) == 0
    assert mean_average_precision([video], 0.5) == 1  # the one too many comes last
    other = judged("aaaabbbb..", "aaabbbbb.b", [0.9, 0.7, 0.8])
    assert mean_average_precision([other], 0.5) == pytest.approx((1 + 0.5) / 2)
    split = judged("aaaaaaaa", "aaabaaaa", [0.5, 0.9, 0.6])  # two parts of one segment: the second is a mistake
    assert segment_f1([split], 0.1) == pytest.approx(2 / 4)
    assert segment_f1([split], 0.6) == 0
    assert measure([judged("..", "..")]).f1 == {0.1: 1.0, 0.25: 1.0, 0.5: 1.0}
    both = measure([video, judged("aaaaa", ".....")])
    assert both.frame_accuracy == pytest.approx(8 / 15)
    assert both.f1[0.5] == pytest.approx(4 / 6)
    assert both.videos == 2


texts = st.integers(1, 14).flatmap(lambda n: st.tuples(*[st.text("ab.", min_size=n, max_size=n)] * 2))


@settings(max_examples=150, deadline=None)
@given(pairs=st.lists(texts, min_size=1, max_size=3), iou=st.sampled_from([0.1, 0.25, 0.5]), data=st.data())
def test_metrics_are_those_of_naive_loops(pairs, iou, data):
    videos = []
    for truth, predicted in pairs:
        number = len(spans(predicted))
        scores = data.draw(st.permutations([0.1 + 0.05 * i for i in range(number)]))
        videos.append(judged(truth, predicted, scores))
    for (truth, predicted), video in zip(pairs, videos, strict=True):
        same = sum(a == b for a, b in zip(truth, predicted, strict=True))
        assert frame_accuracy(video) == pytest.approx(same / len(truth))
    assert segment_f1(videos, iou) == pytest.approx(naive_f1(videos, iou))
    assert mean_average_precision(videos, iou) == pytest.approx(naive_map(videos, iou))


def seconds_of(segment) -> set[int]:
    return set(range(int(segment.start), int(segment.end)))


def overlap(a, b) -> float:
    return len(seconds_of(a) & seconds_of(b)) / len(seconds_of(a) | seconds_of(b))


def naive_f1(videos, iou) -> float:
    right = wrong = missed = 0
    for video in videos:
        free = [True] * len(video.truth)
        for found in video.predicted:
            best, place = -1.0, None
            for index, true in enumerate(video.truth):
                if true.label == found.label and overlap(found, true) > best:
                    best, place = overlap(found, true), index
            if place is not None and best >= iou and free[place]:
                right, free[place] = right + 1, False
            else:
                wrong += 1
        missed += sum(free)
    return 2 * right / (2 * right + wrong + missed) if right + wrong + missed else 1.0


def naive_map(videos, iou) -> float:
    averages = []
    for label in sorted({s.label for video in videos for s in video.truth}):
        total = sum(s.label == label for video in videos for s in video.truth)
        ranked = [(s.score, n, i) for n, video in enumerate(videos) for i, s in enumerate(video.predicted)]
        ranked = [found for found in ranked if videos[found[1]].predicted[found[2]].label == label]
        ranked.sort(key=lambda found: (-found[0], found[1], found[2]))
        free = {(n, i) for n, v in enumerate(videos) for i, s in enumerate(v.truth) if s.label == label}
        points, right = [], 0  # of recall and precision
        for rank, (_, n, i) in enumerate(ranked, start=1):
            fits = [(overlap(videos[n].predicted[i], videos[n].truth[j]), -j) for m, j in free if m == n]
            if fits and max(fits)[0] >= iou:
                free.remove((n, -max(fits)[1]))
                right += 1
            points.append((right / total, right / rank))
        area, reached = 0.0, 0.0
        for recall, _ in points:
            if recall > reached:
                area += (recall - reached) * max(p for r, p in points if r >= recall)
                reached = recall
        averages.append(area)
    return sum(averages) / len(averages) if averages else 0.0


# Files and pictures


def test_files_of_segments(tmp_path):
    segments = [
        Segment(start=0, end=59.9996, label='say "x", y', score=0.876),
        Segment(start=3600.5, end=3723, label="b"),
    ]
    assert to_csv(segments).splitlines() == [
        "start,end,label,score",
        '0.000,60.000,"say ""x"", y",0.8760',
        "3600.500,3723.000,b,",
    ]
    assert to_srt(segments) == (
        '1\n00:00:00,000 --> 00:01:00,000\nsay "x", y (88 %)\n\n2\n01:00:00,500 --> 01:02:03,000\nb\n'
    )
    path = tmp_path / "timeline.json"
    write_new(path, to_json({"a": 1}))
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(XViTError, match=r"timeline\.json: exists"):
        write_new(path, "other")
    with pytest.raises(FileNotFoundError):
        write_new(tmp_path / "none" / "new.csv", "x")
    (tmp_path / "new.csv").symlink_to(path)
    with pytest.raises(XViTError, match="exists"):
        write_new(tmp_path / "new.csv", "x")
    assert json.loads(path.read_text()) == {"a": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.csv", "timeline.json"]


def test_truth_is_checked(tmp_path):
    path = tmp_path / "segments.json"

    def read(value):
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return read_truth(path, LABELS)

    rows = [{"start": 2, "end": 3, "label": "b"}, {"start": 0, "end": 2, "label": "a"}]
    assert read({"x/y.mp4": rows}) == {
        tmp_path / "x" / "y.mp4": [Segment(start=0, end=2, label="a"), Segment(start=2, end=3, label="b")]
    }
    for wrong, text in (
        ("{", "not readable as JSON"),
        ([], "expected segments by video"),
        ({"x.mp4": 3}, r"x.mp4: expected a list"),
        ({"x.mp4": [{"start": 0}]}, r"segment 1: expected start, end and label \(KeyError: 'end'\)"),
        ({"x.mp4": [{"start": 3, "end": 2, "label": "a"}]}, "expected 0 <= start < end"),
        ({"x.mp4": [{"start": 0, "end": 2, "label": "d"}]}, 'class "d" is not one of the 3'),
        ({"x.mp4": [{"start": 0, "end": 2, "label": ["a"]}]}, "not one of the 3"),
        ({"x.mp4": [*rows, {"start": 1, "end": 2, "label": "a"}]}, "segments overlap at 1"),
    ):
        with pytest.raises(XViTError, match=text):
            read(wrong)
    with pytest.raises(XViTError, match="no such file"):
        read_truth(tmp_path / "none.json", LABELS)


def test_the_picture_shows_segments_as_long_as_they_are(tmp_path):
    times = np.arange(3000) + 0.5
    values = np.zeros((3000, 30))
    values[:1500, 7] = 1
    labels = [f"class_{i}" for i in range(30)]
    frames = np.full((14, 20, 30, 3), 128, np.uint8)

    def share(name, **options) -> tuple[float, float]:
        plot_timeline(times, values, labels, tmp_path / name, duration=3000, title="$ _", **options)
        picture = np.rint(255 * matplotlib.image.imread(tmp_path / name)[..., :3])
        assert max(picture.shape) < 2000
        blue, grey = ((picture == color).all(axis=-1).sum() for color in ((0x25, 0x63, 0xEB), (128, 128, 128)))
        return float(blue), float(grey)

    half, no_frames = share("half.png", rows={"found": [(0, 1500, "class_7")], "truth": []})
    twice, _ = share("twice.png", rows={"found": [(0, 3000, "class_7")], "truth": []})
    nothing, with_frames = share("nothing.png", rows={"found": []}, frames=frames)
    assert twice - half == pytest.approx(half - nothing, rel=0.5)
    assert no_frames < 1000 < with_frames
    with pytest.raises(XViTError, match=r"expected \(N, K\)"):
        plot_timeline(times, values.T, labels, tmp_path / "x.png", duration=1, rows={})
