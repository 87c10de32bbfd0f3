"""Videos in which nothing happens: each kind, checked for motion without the code that draws it."""

import numpy as np
import pytest

from xvit.data.synthetic import background
from xvit.data.synthetic.background import KINDS, render_background
from xvit.data.synthetic.motion import CLASSES, FRAMES, SIZE, render_clip
from xvit.utils.errors import XViTError

UNORDERED = ("static", "blank", "noise", "grain", "shake")  # kinds whose frames could come in any order


def clips_of(kind: str, count: int = 60) -> np.ndarray:
    """(clips, T, H, W, 3) in [0, 1]."""
    clips = [render_background(np.random.default_rng([17, index]), kind=kind) for index in range(count)]
    return np.stack(clips).astype(np.float32) / 255


def order_ratio(clips: np.ndarray) -> float:
    """How much more the two halves of the clips differ than their even and odd frames do; 1 if the order is random."""
    half = FRAMES // 2
    halves = clips[:, :half].mean(axis=1) - clips[:, half:].mean(axis=1)
    interleaved = clips[:, ::2].mean(axis=1) - clips[:, 1::2].mean(axis=1)
    return float((np.square(halves).sum() + 1e-6) / (np.square(interleaved).sum() + 1e-6))


def displacements(clip: np.ndarray, reach: int = 8) -> np.ndarray:
    """(T, 2): the whole pixels by which each frame (H, W, 3) is displaced from the first one, by trying all."""
    inner = slice(reach, SIZE - reach)
    shifts = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    moved = np.stack([np.roll(clip[0], shift, axis=(0, 1))[inner, inner] for shift in shifts])
    return np.array([shifts[int(np.abs(moved - frame[inner, inner]).mean(axis=(1, 2, 3)).argmin())] for frame in clip])


def test_the_seed_determines_the_video() -> None:
    for kind in KINDS:
        a, b, c = (render_background(np.random.default_rng(seed), kind=kind) for seed in (1, 1, 2))
        assert a.shape == (FRAMES, SIZE, SIZE, 3)
        assert a.dtype == np.uint8
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)


def test_without_a_kind_every_kind_is_drawn() -> None:
    seen: set[str] = set()
    for seed in range(60):
        if seen == set(KINDS):
            break
        video = render_background(np.random.default_rng(seed))
        for kind in set(KINDS) - seen:
            rng = np.random.default_rng(seed)
            rng.choice(KINDS)  # the draw of the kind
            if np.array_equal(video, render_background(rng, kind=kind)):
                seen.add(kind)
    assert seen == set(KINDS)


@pytest.mark.parametrize("kind", ["static", "blank"])
def test_still_pictures(kind: str) -> None:
    clips = clips_of(kind)
    assert np.array_equal(clips, np.broadcast_to(clips[:, :1], clips.shape))
    contrast = clips[:, 0].std(axis=(1, 2)).max(axis=-1)  # (clips,)
    assert contrast.max() < 0.1 if kind == "blank" else contrast.min() > 0.01


@pytest.mark.parametrize("kind", UNORDERED)
def test_the_order_of_frames_is_random(kind: str) -> None:
    assert 0.75 < order_ratio(clips_of(kind)) < 1.33


@pytest.mark.parametrize("label", CLASSES)
def test_the_order_of_frames_is_not_random_in_the_other_classes(label: str) -> None:
    clips = np.stack([render_clip(label, np.random.default_rng([17, index])) for index in range(30)])
    assert order_ratio(clips.astype(np.float32) / 255) > 4


def test_flicker_changes_the_brightness_only() -> None:
    """Where no value is clipped, each frame is the first one times a number."""
    checked = 0
    for clip in clips_of("flicker"):
        if clip.max() < 1 and clip.min() > 0.1:
            factors = clip / clip[:1]
            middle = np.median(factors, axis=(1, 2, 3), keepdims=True)
            still = np.abs(factors - middle) < 0.03
            if still.mean() > 0.99:
                checked += 1
    assert checked > 10


def test_shake_stays_around_one_position() -> None:
    steps, slopes = [], []
    times = np.arange(FRAMES) - (FRAMES - 1) / 2
    for clip in clips_of("shake", 30):
        path = displacements(clip)
        steps.append(path[1:] - path[:-1])
        slopes.append(times @ path / (times @ times))  # pixels per frame
    assert np.abs(steps).max() >= 2, "the camera does shake"
    assert np.abs(np.mean(steps, axis=(0, 1))).max() < 0.1
    assert np.abs(slopes).max() < 0.75, "shapes of the drifting classes move by at least 1.5 pixels per frame"


def test_cut_joins_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between kinds whose frames are all equal, exactly one frame differs from the one before it."""
    monkeypatch.setattr(background, "KINDS", ("static", "blank", "cut"))
    changes = np.abs(np.diff(clips_of("cut", 20), axis=1)).max(axis=(2, 3, 4)) > 0  # (clips, T - 1)
    assert (changes.sum(axis=1) == 1).all()
    assert len(set(changes.argmax(axis=1).tolist())) > 3, "at different times"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seconds", "fps", "expected"), [(2, 25, 50), (0.01, 8, 1), (3.5, 59.94, 210)])
def test_length(kind: str, seconds: float, fps: float, expected: int) -> None:
    frames = render_background(np.random.default_rng(0), kind=kind, seconds=seconds, fps=fps)
    assert len(frames) == expected


def test_unknown_kind() -> None:
    with pytest.raises(XViTError, match='Did you mean "shake"'):
        render_background(np.random.default_rng(0), kind="shakes")
