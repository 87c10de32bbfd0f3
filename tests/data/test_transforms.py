"""Crops, flips, augmentation, test views and normalisation."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from helpers.color_videos import PREPROCESSING
from xvit.config import AugmentConfig, ClipSpec
from xvit.data.transforms import TrainTransform, eval_views, flipped_classes, normalize
from xvit.utils.errors import XViTError

T, S = 4, 32


def coordinates(height: int, width: int) -> torch.Tensor:
    """A still clip (T, C, H, W) of at most 256 x 256 pixels: red is the row, green the column, blue the frame."""
    rows = torch.arange(height).view(1, 1, height, 1).expand(T, 1, height, width)
    columns = torch.arange(width).view(1, 1, 1, width).expand(T, 1, height, width)
    frames = torch.arange(T).view(T, 1, 1, 1).expand(T, 1, height, width)
    array = torch.cat([rows, columns, frames], dim=1).permute(0, 2, 3, 1).contiguous().to(torch.uint8)
    return array.permute(0, 3, 1, 2)


def crop_of(pixels: torch.Tensor) -> tuple[float, float, float, float]:
    """(top, left, height, width) of the square of `coordinates` that a clip shows, from its middle rows and columns."""
    rows, columns = pixels[0, 0].double().mean(dim=1), pixels[0, 1].double().mean(dim=0)
    pitch_y, pitch_x = ((line[-5] - line[4]) / (S - 9) for line in (rows, columns))
    return (
        float(rows[4] - 4.5 * pitch_y + 0.5),
        float(columns[4] - 4.5 * pitch_x + 0.5),
        float(pitch_y * S),
        float(pitch_x * S),
    )


@pytest.mark.parametrize(("height", "width"), [(128, 200), (200, 128), (160, 160)])
def test_training_crops_are_squares_spread_over_the_frame(height, width):
    jitter = (1.0, 1.5)
    transform = TrainTransform(
        ClipSpec(image_size=S, **PREPROCESSING), AugmentConfig(scale_jitter=jitter, horizontal_flip=0)
    )
    frames = coordinates(height, width)
    torch.manual_seed(1)
    crops = []
    for _ in range(200):
        pixels, _ = transform(frames)
        assert pixels.shape == (T, 3, S, S)
        assert pixels.dtype == torch.uint8
        assert (pixels[:, :2] == pixels[:1, :2]).all(), "one draw for the whole clip"
        assert (pixels[:, 2] == torch.arange(T).view(T, 1, 1)).all()
        crops.append(crop_of(pixels))
    top, left, tall, wide = np.array(crops).T
    short = min(height, width)
    # the equivalent: resize the short side to S u, then crop S: the crop is short / u pixels of the source
    np.testing.assert_allclose(tall, wide, atol=0.5)
    assert tall.min() == pytest.approx(short / jitter[1], abs=1)
    assert tall.max() == pytest.approx(short / jitter[0], abs=1)
    scales = np.sort(short / tall)
    np.testing.assert_allclose(np.quantile(scales, [0.25, 0.5, 0.75]), [1.125, 1.25, 1.375], atol=0.04)
    for start, side, length in ((top, tall, height), (left, wide, width)):
        assert start.min() > -1
        assert (start + side).max() < length + 1
        share = start[length - side > 5] / (length - side)[length - side > 5]
        np.testing.assert_allclose(np.quantile(share, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.1)


def test_training_crops_can_be_anywhere():
    transform = TrainTransform(
        ClipSpec(image_size=4, **PREPROCESSING), AugmentConfig(scale_jitter=(2, 2), horizontal_flip=0)
    )
    torch.manual_seed(0)
    corners = [tuple(transform(coordinates(8, 10))[0][0, :2, 0, 0].tolist()) for _ in range(600)]
    assert set(corners) == {(top, left) for top in range(5) for left in range(7)}
    assert max(corners.count(corner) for corner in corners) < 3 * 600 / 35


def test_training_crop_equals_resizing_the_same_square():
    transform = TrainTransform(
        ClipSpec(image_size=S, **PREPROCESSING), AugmentConfig(scale_jitter=(1, 1), horizontal_flip=0)
    )
    frames = torch.randint(0, 256, (T, 3, 50, 50), dtype=torch.uint8)
    expected = F.resize(frames, [S, S], antialias=True)
    assert (transform(frames)[0] == expected).all()


def test_scales_below_one_take_the_whole_short_side():
    transform = TrainTransform(
        ClipSpec(image_size=S, **PREPROCESSING), AugmentConfig(scale_jitter=(0.5, 0.9), horizontal_flip=0)
    )
    _, _, tall, wide = crop_of(transform(coordinates(64, 100))[0])
    assert (round(tall), round(wide)) == (64, 64)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)])
def test_horizontal_flip(probability, low, high):
    transform = TrainTransform(ClipSpec(image_size=S, **PREPROCESSING), AugmentConfig(horizontal_flip=probability))
    torch.manual_seed(0)
    clips, reported = zip(*(transform(coordinates(40, 60)) for _ in range(200)), strict=True)
    flipped = [clip[:, 1, :, 0] > clip[:, 1, :, -1] for clip in clips]
    assert [bool(clip.all()) for clip in flipped] == list(reported)
    assert all(clip.all() or not clip.any() for clip in flipped), "all frames or none"
    assert low <= sum(bool(clip.all()) for clip in flipped) <= high
    assert all((clip[:, 0, 0] < clip[:, 0, -1]).all() for clip in clips), "never upside down"


def augmented(seed: int, frames: torch.Tensor, **augment) -> torch.Tensor:
    """A clip augmented with a seed; neither cropped nor flipped by default."""
    settings = {"scale_jitter": (1, 1), "horizontal_flip": 0, **augment}
    torch.manual_seed(seed)
    return TrainTransform(ClipSpec(image_size=S, **PREPROCESSING), AugmentConfig(**settings))(frames)[0]


AUGMENTATIONS = {"auto": {"auto_augment": "auto"}, "rand": {"auto_augment": "rand"}, "erase": {"random_erasing": 1.0}}


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_one_draw_serves_the_whole_clip(augment):
    """Each frame is augmented as it would be alone with the same seed, and other seeds give other clips."""
    frames = torch.randint(0, 256, (T, 3, S, S), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clips = []
    for seed in range(40):
        pixels = augmented(seed, frames, **augment)
        assert pixels.shape == frames.shape
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, torch.cat([augmented(seed, frame[None], **augment) for frame in frames]))
        clips.append(pixels)
    assert sum(not torch.equal(pixels, frames) for pixels in clips) > 20
    assert len({bytes(pixels.numpy()) for pixels in clips}) > 10


def test_without_augmentation_the_clip_is_unchanged():
    frames = torch.randint(0, 256, (T, 3, S, S), dtype=torch.uint8)
    assert torch.equal(augmented(0, frames), frames)
    # later augmentations do not change the draws of the crop
    crop = {"scale_jitter": (1, 2), "horizontal_flip": 0.5}
    large = torch.randint(0, 256, (T, 3, 60, 50), dtype=torch.uint8)
    for seed in range(10):
        plain, erased = augmented(seed, large, **crop), augmented(seed, large, **crop, random_erasing=1.0)
        kept = (erased == plain).all(dim=1)
        assert kept.float().mean() > 0.6
        assert (erased.movedim(1, -1)[~kept] == 128).all()


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 110, 190), (1.0, 300, 300)])
def test_erased_boxes(probability, low, high):
    frames = torch.zeros(T, 3, S, S, dtype=torch.uint8)
    areas, aspects = [], []
    for seed in range(300):
        gone = augmented(seed, frames, random_erasing=probability) > 0
        assert (gone == gone[:1, :1]).all(), "the same box in all frames and colours"
        rows, columns = gone[0, 0].any(dim=1), gone[0, 0].any(dim=0)
        assert torch.equal(gone[0, 0], rows[:, None] & columns), "one box"
        if gone.any():
            areas.append(float(gone.double().mean()))
            aspects.append(float(rows.sum() / columns.sum()))
    assert low <= len(areas) <= high
    if areas:
        assert 0.01 < min(areas) < 0.04  # 2 %, rounded to pixels: 4 x 4 of 32 x 32 are 1.6 %
        assert 0.3 < max(areas) < 0.36
        assert 0.2 < min(aspects) < 0.45
        assert 2.2 < max(aspects) < 4


def test_erased_pixels_have_the_mean_colour():
    spec = ClipSpec(image_size=S, interpolation="bilinear", mean=(0.2, 0.5, 1.0), std=(0.25, 0.25, 0.25))
    pixels, _ = TrainTransform(spec, AugmentConfig(random_erasing=1.0))(torch.zeros(1, 3, S, S, dtype=torch.uint8))
    rows, columns = torch.nonzero(pixels[0, 2], as_tuple=True)
    assert pixels[0, :, rows[0], columns[0]].tolist() == [51, 128, 255]
    assert normalize(pixels, spec)[0, :, rows[0], columns[0]].abs().max() < 0.01


def test_flipped_classes_exchange_left_and_right():
    names = [
        "Pushing [something] from left to right",
        "Pushing [something] from right to left",
        "Holding [something]",
        "moving_left",
        "Turning left",
        "throwing leftovers right away",
        "Left, then left",
        "moving_right",
        "Right, then right",
        "turning right",
    ]
    assert flipped_classes(names) == (1, 0, 2, 7, 4, 5, 8, 3, 6, 9)
    assert flipped_classes([]) == ()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_interpolation_follows_the_clip_spec_and_is_antialiased(interpolation):
    spec = ClipSpec(image_size=S, **(PREPROCESSING | {"interpolation": interpolation}))
    frames = torch.randint(0, 256, (1, 3, 4 * S, 4 * S), dtype=torch.uint8)
    # torch's own resizing of the frames as floats
    plain = torch.nn.functional.interpolate(frames.float(), (S, S), mode=interpolation, antialias=True)
    unaugmented = AugmentConfig(scale_jitter=(1, 1), horizontal_flip=0)
    for pixels in (eval_views(frames, spec)[0], TrainTransform(spec, unaugmented)(frames)[0]):
        assert (pixels.float() - plain.clamp(0, 255)).abs().max() <= 1.5


@pytest.mark.parametrize(("height", "width"), [(S, 2 * S), (2 * S, S), (S, S), (S, S + 1)])
@pytest.mark.parametrize("views", [1, 2, 3, 5])
def test_eval_views_are_spread_along_the_longer_side(height, width, views):
    frames = coordinates(height, width)
    pixels = eval_views(frames, ClipSpec(image_size=S, **PREPROCESSING), views)
    assert pixels.shape == (views, T, 3, S, S)
    room = max(height, width) - S
    shares = [0.5] if views == 1 else [view / (views - 1) for view in range(views)]
    for view, share in zip(pixels, shares, strict=True):
        start = int(room * share)
        rows, columns = (start, 0) if height > width else (0, start)
        assert (view == frames[:, :, rows : rows + S, columns : columns + S]).all()


def test_eval_views_resize_the_short_side():
    pixels = eval_views(coordinates(96, 192), ClipSpec(image_size=S, **PREPROCESSING), 3)
    crops = [tuple(round(value / 16) * 16 for value in crop_of(view)) for view in pixels]
    assert crops == [(0, 0, 96, 96), (0, 48, 96, 96), (0, 96, 96, 96)]
    assert eval_views(coordinates(8, 10), ClipSpec(image_size=S, **PREPROCESSING)).shape == (1, T, 3, S, S)
    with pytest.raises(XViTError, match="spatial_views=0"):
        eval_views(coordinates(8, 10), ClipSpec(image_size=S, **PREPROCESSING), 0)


def test_normalize():
    spec = ClipSpec(mean=(0.1, 0.5, 0.9), std=(0.2, 0.5, 1.5))
    pixels = torch.randint(0, 256, (2, 5, 3, 8, 6), dtype=torch.uint8)
    values = normalize(pixels, spec, "cpu")
    assert values.dtype == torch.float32
    assert values.shape == pixels.shape
    for channel in range(3):
        expected = (pixels[:, :, channel].double() / 255 - spec.mean[channel]) / spec.std[channel]
        torch.testing.assert_close(values[:, :, channel].double(), expected, atol=1e-5, rtol=1e-5)
    assert normalize(pixels, spec, "meta").device.type == "meta"
    with pytest.raises(XViTError, match=r"expected torch\.uint8"):
        normalize(values, spec)


@pytest.mark.parametrize("values", [{"auto_augment": "rnd"}, {"random_erasing": 1.5}, {"random_erasing": -0.1}])
def test_invalid_settings(values):
    with pytest.raises(XViTError, match=f"{next(iter(values))}="):
        AugmentConfig(**values)
