"""Timelines of long videos against the model run offline, naive loops, and cases counted by hand."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import av
import matplotlib.image
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from small import CLIP, FRAMES, described, make_model
from videos import FORMATS, corrupt, read_numbers, truncate, write_video
from xvit.data.frames import FrameReader
from xvit.data.transforms import eval_views, normalize
from xvit.data.video import decode
from xvit.errors import VideoError, XViTError
from xvit.timeline.files import read_truth, to_csv, to_json, to_srt, write_new
from xvit.timeline.metrics import Judged, frame_accuracy, mean_average_precision, measure, segment_f1
from xvit.timeline.scores import Scores, iterate_scores, score_video
from xvit.timeline.segments import Segment, cells, find_segments, hysteresis, smoothed
from xvit.visualize import plot_timeline

KINDS = [
    *("h264-mp4", "h264-open-gop", "h264-fragmented", "h264-mkv", "h264-ts", "h264-avi"),
    *("vp9-webm", "mpeg4-avi", "mpeg2-mpg", "mjpeg-avi", "gif"),
]
LABELS = ["a", "b", "c"]
CAUSAL = {"direction": "causal", "temporal_position": "head"}
CENTERED = {"direction": "centered", "temporal_position": "head"}
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


# Reading


@pytest.mark.parametrize("kind", KINDS)
def test_frames_come_in_order_with_their_times(kind, tmp_path):
    path = write_video(tmp_path / f"video{FORMATS[kind].suffix}", frames=40, kind=kind)
    for stride in (1, 3):
        reader = FrameReader(path, stride=stride)
        chunks = list(reader)
        whole = decode(path, range(0, 40, stride))
        assert [len(times) for times, _ in chunks[:-1]] == [8] * (len(chunks) - 1)
        assert torch.equal(torch.cat([frames for _, frames in chunks]), whole.frames)
        np.testing.assert_allclose(np.concatenate([times for times, _ in chunks]), whole.times, atol=1e-3)
        assert (reader.seen, reader.damage) == (40, "")
        assert reader.end == pytest.approx(reader.info.duration, abs=1e-3)


def test_uneven_times_are_those_of_the_file(tmp_path):
    pts = np.cumsum([0, *np.random.default_rng(0).integers(1, 20, size=19)]).tolist()
    reader = FrameReader(write_video(tmp_path / "video.mkv", frames=20, pts=pts, kind="h264-mkv"))
    times = np.concatenate([times for times, _ in reader])
    np.testing.assert_allclose(times, np.array(pts) / 100, atol=2e-3)  # Matroska counts milliseconds


@pytest.mark.parametrize("kind", ["h264-faststart", "h264-mkv", "mjpeg-avi"])
def test_a_file_that_is_cut_short_gives_what_it_has(kind, tmp_path):
    whole = write_video(tmp_path / f"whole{FORMATS[kind].suffix}", frames=200, kind=kind)
    reader = FrameReader(truncate(tmp_path / f"half{FORMATS[kind].suffix}", whole, share=0.5))
    numbers = [number for _, frames in reader for number in read_numbers(frames)]
    assert numbers[:60] == list(range(60))
    assert len(numbers) < 150
    assert "cut short" in reader.damage


def test_frames_after_damage_keep_their_times(tmp_path):
    for kind, noticed in (("h264-mkv", False), ("h264-mp4", True)):  # the noise hides packets of the first whole
        suffix = FORMATS[kind].suffix
        whole = write_video(tmp_path / f"whole{suffix}", frames=200, kind=kind)
        reader = FrameReader(corrupt(tmp_path / f"holes{suffix}", whole))
        chunks = list(reader)
        assert read_numbers(chunks[-1][1])[-1] == 199
        assert chunks[-1][0][-1] == pytest.approx(199 / 25, abs=0.01)
        assert bool(reader.damage) == noticed


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(VideoError, match=name):
            FrameReader(tmp_path / name)
    with pytest.raises(XViTError, match="stride=0"):
        FrameReader(tmp_path / "text.mp4", stride=0)


# Scores


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
    model.clip = type(CLIP)(**{**vars(CLIP), "sampling": "strided", "stride": 5})
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
        Scores(
            path="x",
            labels=LABELS,
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
from small import described, make_model
from xvit.timeline.scores import score_video
for path in sys.argv[2:]:
    for options in ({"direction": "causal", "temporal_position": "head"}, {"temporal_position": "input"}):
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


def judged(truth: str, predicted: str, scores=()) -> Judged:
    return Judged(truth=spans(truth), predicted=spans(predicted, scores), duration=float(len(truth)))


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
