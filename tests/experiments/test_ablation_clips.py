"""The clips of the ablation study: what the disc does is the class, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvit.data.synthetic.shapes import SIZE
from xvit.experiments.ablation import clips as clips_module
from xvit.experiments.ablation.clips import (
    IMAGE_TASKS,
    MOTIONS,
    NUM_FRAMES,
    motion_path,
    render_clip,
    render_image,
    write_clips,
)
from xvit.experiments.ablation.train import Clips


@given(st.sampled_from(MOTIONS), st.integers(0, 10**6))
def test_a_path_is_what_its_name_says(motion, seed):
    x, y = motion_path(motion, np.random.default_rng(seed))
    dx, dy = np.diff(x), np.diff(y)
    if motion in ("clockwise", "counterclockwise"):
        turns = dx[:-1] * dy[1:] - dy[:-1] * dx[1:]  # y grows downwards: positive turns are clockwise on the screen
        assert (np.sign(turns) == (1 if motion == "clockwise" else -1)).all()
    elif motion.startswith("back_and_forth"):
        moving, still = (x, y) if motion.endswith("horizontally") else (y, x)
        assert not still.any()
        assert np.isclose(moving[0], moving[-1])
        assert np.ptp(moving) > 6
    else:
        signs = {"right": (1, None), "left": (-1, None), "down": (None, 1), "up": (None, -1)}
        for word in motion.split("_"):
            for expected, steps in zip(signs[word], (dx, dy), strict=True):
                assert expected is None or (np.sign(steps) == expected).all()
        angle = np.degrees(np.arctan2(y[-1] - y[0], x[-1] - x[0])) - 45 * MOTIONS.index(motion)
        assert abs((angle + 180) % 360 - 180) <= 10.001


@pytest.mark.parametrize("label", range(len(MOTIONS)))
def test_the_disc_moves_as_the_class_says_and_stays_in_the_frame(label, monkeypatch):
    shapes = []
    original = clips_module._moving_shape
    monkeypatch.setattr(clips_module, "_moving_shape", lambda *args: shapes.append(original(*args)) or shapes[-1])
    squares = set()
    for seed in range(40):
        shapes.clear()
        clip = render_clip(label, np.random.default_rng(seed))
        assert clip.shape == (NUM_FRAMES, SIZE, SIZE, 3)
        disc, square = shapes
        assert (disc.outline, square.outline) == ("disc", "square")
        for shape in shapes:
            assert min(shape.x.min(), shape.y.min()) >= 3
            assert max(shape.x.max(), shape.y.max()) <= SIZE - 3
        if label < 8:  # right, down_right, down, ...
            angle = np.degrees(np.arctan2(disc.y[-1] - disc.y[0], disc.x[-1] - disc.x[0]))
            assert round(angle / 45) % 8 == label
        squares.add((np.sign(square.x[-1] - square.x[0]), np.sign(square.y[-1] - square.y[0])))
    assert len(squares) >= 5  # the square moves in any way


def test_the_camera_shakes_and_either_shape_is_in_front(monkeypatch):
    scenes = []

    def render(scene, num_frames, dx=0.0, dy=0.0):
        scenes.append((scene.shapes[0].outline, dx, dy))
        return np.zeros((num_frames, SIZE, SIZE, 3))

    monkeypatch.setattr(clips_module.Scene, "render", render)
    for seed in range(20):
        render_clip(0, np.random.default_rng(seed))
    assert {behind for behind, _, _ in scenes} == {"disc", "square"}
    shakes = np.array([[dx, dy] for _, dx, dy in scenes])  # (clips, 2, T)
    assert shakes.shape == (20, 2, NUM_FRAMES)
    assert 0.9 < abs(shakes).max() <= 1
    assert len(np.unique(shakes)) == shakes.size


def test_the_labels_of_an_image_are_the_cells_of_its_shapes(monkeypatch):
    shapes = []
    original = clips_module._shape
    monkeypatch.setattr(clips_module, "_shape", lambda *args, **kw: shapes.append(original(*args, **kw)) or shapes[-1])
    seen = {task: set() for task in IMAGE_TASKS}
    for seed in range(400):
        shapes.clear()
        image, labels = render_image(np.random.default_rng(seed))
        assert image.shape == (SIZE, SIZE, 3)
        cells = {shape.outline: 4 * int(shape.y // 12) + int(shape.x // 12) for shape in shapes}
        assert len(cells) == 2
        assert labels == {outline: cells.get(outline, 16) for outline in IMAGE_TASKS}
        for task, label in labels.items():
            seen[task].add(label)
    assert all(labels == set(range(17)) for labels in seen.values())


def test_a_smaller_study_has_the_first_rows_of_a_larger_one(tmp_path):
    for name, count in (("small", 12), ("large", 24)):
        write_clips(tmp_path / name, dict.fromkeys(("train", "val", "images"), count), lambda done, total: None)
    for split, tasks in (("train", ("label",)), ("val", ("label",)), ("images", tuple(IMAGE_TASKS))):
        small, large = (Clips.load(tmp_path / name, split, tasks) for name in ("small", "large"))
        assert np.array_equal(small.pixels, large.pixels[:12])
        assert all(small.labels[task].equal(large.labels[task][:12]) for task in tasks)
    train, val = (Clips.load(tmp_path / "large", split, ("label",)) for split in ("train", "val"))
    assert train.labels["label"].tolist() == [*range(12), *range(12)]
    assert not (train.pixels == val.pixels).all(axis=(1, 2, 3, 4)).any()
