"""The classes of the built-in data set: exact time reversal, and pairs that differ only in the order of frames."""

from pathlib import Path

import numpy as np
import pytest

from helpers.files import read_frames
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.data.synthetic.motion import CLASSES, FPS, FRAMES, PAIRS, SECONDS, render_clip
from xvit.data.synthetic.shapes import SIZE
from xvit.utils.errors import XViTError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("motion") / "clips"
    write_motion_dataset(output, clips_per_class=40, seed=3, val_fraction=1 / 2)
    return output


def frame_features(frames: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) -> (T, F): mean and standard deviation of each cell of a coarse grid."""
    T, side = len(frames), SIZE // 8
    cells = frames.reshape(T, 8, side, 8, side, 3).transpose(2, 4, 0, 1, 3, 5)
    pixels = np.float32(cells).reshape(side * side, -1) / 255  # (pixels of a cell, T * cells * 3)
    return np.stack([pixels.mean(axis=0), pixels.std(axis=0)]).reshape(2, T, -1).swapaxes(0, 1).reshape(T, -1)


@pytest.fixture(scope="module")
def clips(dataset: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each split: features of the decoded frames (clips, T, F), and class indices."""
    splits = {}
    for split in ("train", "val"):
        labelled = [(path, label) for label in CLASSES for path in sorted((dataset / split / label).iterdir())]
        features = np.stack([frame_features(read_frames(path)) for path, _ in labelled])
        splits[split] = features, np.array([CLASSES.index(label) for _, label in labelled])
    return splits


def test_classes_come_in_reversed_pairs() -> None:
    assert len(PAIRS) >= 6
    assert len(set(CLASSES)) == len(CLASSES) == 2 * len(PAIRS)
    for number, (first, second, _) in enumerate(PAIRS):
        forwards, backwards = (render_clip(label, np.random.default_rng([7, number])) for label in (first, second))
        assert forwards.shape == (FRAMES, SIZE, SIZE, 3)
        assert forwards.dtype == np.uint8
        assert np.array_equal(forwards, backwards[::-1])
        assert not np.array_equal(forwards, backwards), f"{first} looks the same in both directions"


@pytest.mark.parametrize("label", CLASSES)
def test_another_frame_rate_draws_the_same_motion(label: str) -> None:
    """A frame depends on its time only; a second class of a pair is its first class backwards at any frame rate."""
    original = render_clip(label, np.random.default_rng(9))
    first = CLASSES.index(label) % 2 == 0
    for factor in (2, 3):
        frames = render_clip(label, np.random.default_rng(9), fps=factor * FPS)
        assert len(frames) == factor * FRAMES
        assert np.array_equal(frames[::factor] if first else frames[::-1][::factor][::-1], original)
    for fps in (12.5, 25, 59.94):
        frames = render_clip(label, np.random.default_rng(9), fps=fps)
        assert len(frames) == round(fps * SECONDS)
        start, start_of_original = (frames[0], original[0]) if first else (frames[-1], original[-1])
        assert np.array_equal(start, start_of_original)


def test_unknown_class() -> None:
    with pytest.raises(XViTError, match='Did you mean "moving_left"'):
        render_clip("moving_lefd", np.random.default_rng(0))


def one_frame(features: np.ndarray) -> np.ndarray:
    chosen = np.random.default_rng(0).integers(features.shape[1], size=len(features))
    return features[np.arange(len(features)), chosen]


def unordered(features: np.ndarray) -> np.ndarray:
    ascending = np.sort(features, axis=1)  # sorts the values of each feature, which removes the order in time
    return ascending[:, :: FRAMES // 4].reshape(len(features), -1)


def ordered(features: np.ndarray) -> np.ndarray:
    half = FRAMES // 2
    return features[:, half:].mean(axis=1) - features[:, :half].mean(axis=1)


def accuracies(clips: dict[str, tuple[np.ndarray, np.ndarray]], choose) -> tuple[float, float, float]:
    """Top-1 of a ridge classifier, its accuracy within the true pair, and 3 standard deviations of chance."""
    (train, train_labels), (val, val_labels) = clips["train"], clips["val"]
    x, held_out = (choose(features).astype(np.float64) for features in (train, val))
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-3
    x, held_out = (x - mean) / std, (held_out - mean) / std
    targets = np.eye(len(CLASSES))[train_labels] - 1 / len(CLASSES)
    kernel = x @ x.T / x.shape[1]  # dual form: there are fewer clips than features
    logits = held_out @ x.T @ np.linalg.solve(kernel + 0.3 * np.eye(len(x)), targets)
    top1 = np.mean(logits.argmax(axis=1) == val_labels)
    rows = np.arange(len(logits))
    within_pair = np.mean(logits[rows, val_labels] > logits[rows, val_labels ^ 1])
    return float(top1), float(within_pair), 3 * (0.25 / len(logits)) ** 0.5


@pytest.mark.parametrize("choose", [one_frame, unordered])
def test_frames_without_their_order_do_not_reveal_the_class(clips, choose) -> None:
    top1, within_pair, noise = accuracies(clips, choose)
    print(f"{choose.__name__}: top-1 {top1:.3f}, within the pair {within_pair:.3f}, 3 sigma {noise:.3f}")
    assert abs(within_pair - 0.5) <= noise
    assert top1 <= 0.5 + noise


def test_the_same_classifier_uses_the_order_if_it_is_given(clips) -> None:
    _, within_pair, noise = accuracies(clips, ordered)
    print(f"ordered: within the pair {within_pair:.3f}, 3 sigma {noise:.3f}")
    assert within_pair > 0.5 + 2 * noise


@pytest.mark.parametrize(("label", "axis"), [("moving_left", 2), ("moving_up", 1)])
def test_drifting_classes_differ_only_in_neighbouring_frames(label: str, axis: int) -> None:
    """The mean position of the bright pixels is constant over a clip, but they shift from frame to frame."""
    clips = np.stack([render_clip(label, np.random.default_rng([11, index])) for index in range(120)])
    bright = clips.mean(axis=-1) > 110  # (clips, T, H, W)
    positions = np.arange(SIZE).reshape((1, 1, -1, 1) if axis == 1 else (1, 1, 1, -1))
    centre = (bright * positions).sum(axis=(2, 3)) / np.maximum(bright.sum(axis=(2, 3)), 1)
    drift = centre[:, 8:].mean(axis=1) - centre[:, :8].mean(axis=1)  # pixels, from one half of the clip to the other
    assert abs(drift.mean()) < 3 * drift.std() / len(drift) ** 0.5 + 0.5

    def overlap(step: int) -> float:
        moved = np.roll(bright[:, :-1], step, axis=axis + 1)
        return float((moved & bright[:, 1:]).sum())

    assert max(range(-8, 9), key=overlap) in (-1, -2, -3), "a pixel or two per frame, to the left or upwards"
