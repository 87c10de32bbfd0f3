"""The built-in data set: exact time reversal, files on disk, and no way to tell a pair's classes without the order."""

import json
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from xvit.data.synthetic import motion
from xvit.data.synthetic.concatenated import write_joined
from xvit.data.synthetic.motion import CLASSES, PAIRS, encode, render, write_motion
from xvit.utils.errors import XViTError


def read(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1  # threads cost more than such small frames
        frames = (frame.reformat(format="rgb24", threads=1) for frame in container.decode(video=0))
        return np.stack([frame.to_ndarray() for frame in frames])


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.mp4"))}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("motion") / "clips"
    write_motion(output, clips_per_class=60, seed=3, val_fraction=1 / 3)
    return output


def frame_features(frames: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) -> (T, F): a coarse picture, and how much each of its cells varies inside."""
    T, size = frames.shape[:2]
    cells = frames.reshape(T, 8, size // 8, 8, size // 8, 3).astype(np.float32) / 255
    return np.concatenate([cells.mean(axis=(2, 4)), cells.std(axis=(2, 4))], axis=-1).reshape(T, -1)


@pytest.fixture(scope="module")
def clips(dataset: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features of the decoded frames (clips, T, F), and class indices, of each split."""
    splits = {}
    for split in ("train", "val"):
        labelled = [(path, label) for label in CLASSES for path in sorted((dataset / split / label).iterdir())]
        features = np.stack([frame_features(read(path)) for path, _ in labelled])
        splits[split] = features, np.array([CLASSES.index(label) for _, label in labelled])
    return splits


def test_classes_come_in_reversed_pairs() -> None:
    assert len(PAIRS) >= 6
    assert len(set(CLASSES)) == len(CLASSES) == 2 * len(PAIRS)
    for number, (first, second, _) in enumerate(PAIRS):
        forwards, backwards = (render(label, np.random.default_rng([7, number])) for label in (first, second))
        assert forwards.shape == (motion.FRAMES, motion.SIZE, motion.SIZE, 3)
        assert forwards.dtype == np.uint8
        assert np.array_equal(forwards, backwards[::-1])
        assert not np.array_equal(forwards, backwards), f"{first} looks the same in both directions"


def test_encoding_is_blind_to_the_direction(tmp_path: Path) -> None:
    for number, label in enumerate(CLASSES[::2]):
        frames = render(label, np.random.default_rng(number))
        encode(frames, tmp_path / "forwards.mp4")
        encode(frames[::-1], tmp_path / "backwards.mp4")
        forwards, backwards = read(tmp_path / "forwards.mp4"), read(tmp_path / "backwards.mp4")
        assert np.array_equal(forwards, backwards[::-1])
        assert abs((tmp_path / "forwards.mp4").stat().st_size - (tmp_path / "backwards.mp4").stat().st_size) < 100
        assert np.abs(forwards.astype(float) - frames).mean() < 12


def test_error_of_the_frames_does_not_depend_on_the_place_in_the_clip(tmp_path: Path) -> None:
    still = np.repeat(render(CLASSES[0], np.random.default_rng(0))[:1], motion.FRAMES, axis=0)
    encode(still, tmp_path / "still.mp4")
    decoded = read(tmp_path / "still.mp4")
    assert np.array_equal(decoded, np.broadcast_to(decoded[0], decoded.shape))


def test_files(dataset: Path) -> None:
    assert sorted(path.name for path in dataset.iterdir()) == ["train", "val"]
    for split, number in (("train", 40), ("val", 20)):
        assert {path.name for path in (dataset / split).iterdir()} == set(CLASSES)
        for label in CLASSES:
            names = sorted(path.name for path in (dataset / split / label).iterdir())
            assert names == [f"{index:04d}.mp4" for index in range(number)]
    with av.open(str(dataset / "val" / CLASSES[0] / "0000.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert len(packets) == motion.FRAMES
        assert all(packet.is_keyframe for packet in packets)


def test_clips_depend_on_seed_split_class_and_index_alone(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_motion(tmp_path / "a", clips_per_class=2, val_fraction=0.5, on_progress=lambda *state: seen.append(state))
    write_motion(tmp_path / "b", clips_per_class=4, val_fraction=0.5)
    write_motion(tmp_path / "c", clips_per_class=2, val_fraction=0.5, seed=1)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert seen == [(done, len(a)) for done in range(1, len(a) + 1)]
    assert len(set(a.values())) == len(a) == 2 * len(CLASSES)
    assert a.items() <= b.items()
    assert a.keys() == c.keys()
    assert not set(a.values()) & set(c.values())


def test_all_or_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_motion(tmp_path / "out", clips_per_class=2, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_existing_output(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_motion(tmp_path / "empty", clips_per_class=1)
    assert len(files(tmp_path / "empty")) == len(CLASSES)
    before = files(tmp_path / "empty")
    with pytest.raises(XViTError, match="not an empty folder"):
        write_motion(tmp_path / "empty", clips_per_class=1, seed=1)
    assert files(tmp_path / "empty") == before
    (tmp_path / "file").touch()
    with pytest.raises(XViTError, match="not an empty folder"):
        write_motion(tmp_path / "file", clips_per_class=1)


@pytest.mark.parametrize(
    "wrong", [{"clips_per_class": 0}, {"val_fraction": 1.5}, {"val_fraction": -0.1}, {"seed": -1}], ids=str
)
def test_values_out_of_range(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(XViTError, match=f"{next(iter(wrong))}="):
        write_motion(tmp_path / "out", **({"clips_per_class": 1} | wrong))
    assert list(tmp_path.iterdir()) == []


def test_unknown_class() -> None:
    with pytest.raises(XViTError, match='Did you mean "moving_left"'):
        render("moving_lefd", np.random.default_rng(0))


def one_frame(features: np.ndarray) -> np.ndarray:
    chosen = np.random.default_rng(0).integers(features.shape[1], size=len(features))
    return features[np.arange(len(features)), chosen]


def unordered(features: np.ndarray) -> np.ndarray:
    by_size = np.sort(features, axis=1)  # each feature's values from low to high: the order in time is lost
    return by_size[:, :: motion.FRAMES // 4].reshape(len(features), -1)


def ordered(features: np.ndarray) -> np.ndarray:
    half = motion.FRAMES // 2
    return features[:, half:].mean(axis=1) - features[:, :half].mean(axis=1)


def accuracies(clips: dict[str, tuple[np.ndarray, np.ndarray]], choose) -> tuple[float, float, float]:
    """Top-1 of a ridge classifier, its accuracy between the two classes of the true pair, and 3 sigma of chance."""
    (train, train_labels), (val, val_labels) = clips["train"], clips["val"]
    x, held_out = (choose(features).astype(np.float64) for features in (train, val))
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-3
    x, held_out = (x - mean) / std, (held_out - mean) / std
    targets = np.eye(len(CLASSES))[train_labels] - 1 / len(CLASSES)
    kernel = x @ x.T / x.shape[1]  # the dual form: there are fewer clips than features
    logits = held_out @ x.T @ np.linalg.solve(kernel + 0.3 * np.eye(len(x)), targets)
    top1 = np.mean(logits.argmax(axis=1) == val_labels)
    rows = np.arange(len(logits))
    within_pair = np.mean(logits[rows, val_labels] > logits[rows, val_labels ^ 1])
    return float(top1), float(within_pair), 3 * (0.25 / len(logits)) ** 0.5


@pytest.mark.parametrize("choose", [one_frame, unordered])
def test_frames_without_their_order_do_not_tell_the_class(clips, choose) -> None:
    top1, within_pair, noise = accuracies(clips, choose)
    print(f"{choose.__name__}: top-1 {top1:.3f}, within the pair {within_pair:.3f}, 3 sigma {noise:.3f}")
    assert abs(within_pair - 0.5) <= noise
    assert top1 <= 0.5 + noise


def test_the_same_classifier_sees_the_order_where_it_is_given(clips) -> None:
    _, within_pair, noise = accuracies(clips, ordered)
    print(f"ordered: within the pair {within_pair:.3f}, 3 sigma {noise:.3f}")
    assert within_pair > 0.5 + 2 * noise


@pytest.mark.parametrize(("label", "axis"), [("moving_left", 2), ("moving_up", 1)])
def test_what_drifts_is_told_by_neighbouring_frames_alone(label: str, axis: int) -> None:
    """Where the bright pixels lie on average does not change through a clip; from frame to frame they move a little."""
    clips = np.stack([render(label, np.random.default_rng([11, index])) for index in range(120)])
    bright = clips.mean(axis=-1) > 110  # (clips, T, H, W)
    places = np.arange(motion.SIZE).reshape((1, 1, -1, 1) if axis == 1 else (1, 1, 1, -1))
    centre = (bright * places).sum(axis=(2, 3)) / np.maximum(bright.sum(axis=(2, 3)), 1)
    drift = centre[:, 8:].mean(axis=1) - centre[:, :8].mean(axis=1)  # pixels, from one half of the clip to the other
    assert abs(drift.mean()) < 3 * drift.std() / len(drift) ** 0.5 + 0.5

    def overlap(step: int) -> float:
        moved = np.roll(bright[:, :-1], step, axis=axis + 1)
        return float((moved & bright[:, 1:]).sum())

    assert max(range(-8, 9), key=overlap) in (-1, -2, -3), "a pixel or two a frame, to the left or upwards"


def test_joined_videos_are_their_clips_one_after_the_other(tmp_path: Path) -> None:
    write_joined(tmp_path / "long", videos=2, clips=6, seed=5)
    truth = json.loads((tmp_path / "long" / "segments.json").read_text())
    assert list(truth) == ["0000.mp4", "0001.mp4"]
    assert {path.name for path in (tmp_path / "long").iterdir()} == {*truth, "segments.json"}
    T, seconds = motion.FRAMES, motion.FRAMES / motion.FPS
    for video, segments in enumerate(truth.values()):
        frames = read(tmp_path / "long" / f"{video:04d}.mp4")
        assert len(frames) == 6 * T
        assert [(s["start"], s["end"]) for s in segments] == [(i * seconds, (i + 1) * seconds) for i in range(6)]
        labels = [segment["label"] for segment in segments]
        assert set(labels) <= set(CLASSES)
        assert all(a != b for a, b in pairwise(labels))
        for place, label in enumerate(labels):  # to the pixel, the boundaries too: no frame refers to another
            encode(render(label, np.random.default_rng([5, 2, video, place + 1])), tmp_path / "clip.mp4")
            assert np.array_equal(frames[place * T : (place + 1) * T], read(tmp_path / "clip.mp4"))
    with av.open(str(tmp_path / "long" / "0000.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(6 * T) / motion.FPS)


def test_joined_videos_depend_on_seed_and_number_alone(tmp_path: Path) -> None:
    for name, videos, seed in (("a", 1, 0), ("b", 3, 0), ("c", 1, 1)):
        write_joined(tmp_path / name, videos=videos, clips=3, seed=seed)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a.items() <= b.items()
    assert len(set(b.values())) == 3
    assert a != c
    write_motion(tmp_path / "clips", clips_per_class=2, val_fraction=0.5)
    clips = {read(path).tobytes() for path in (tmp_path / "clips").rglob("*.mp4")}
    for path in (tmp_path / "b").glob("*.mp4"):
        frames = read(path)
        assert not clips & {frames[start : start + motion.FRAMES].tobytes() for start in range(0, 48, motion.FRAMES)}


def test_joined_videos_that_cannot_be_made(tmp_path: Path) -> None:
    for wrong in ({"videos": 0}, {"clips": 0}, {"seed": -1}):
        with pytest.raises(XViTError, match=f"{next(iter(wrong))}="):
            write_joined(tmp_path / "out", **({"videos": 1} | wrong))
    write_joined(tmp_path / "out", videos=1, clips=1)
    with pytest.raises(XViTError, match="not an empty folder"):
        write_joined(tmp_path / "out", videos=1, clips=1)
