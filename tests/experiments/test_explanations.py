"""The measures of explanations against their definitions."""

import numpy as np
import pytest
import scipy.stats
import torch

from helpers.streams import add_noise
from helpers.tiny import random_clip, tiny_model
from xvit.config import ClipSpec
from xvit.data.synthetic.motion import CLASSES
from xvit.experiments.explanations import (
    METHODS,
    curve_areas,
    draw_clips,
    mass_ratio,
    measure,
    patch_mask,
    rank_correlation,
)
from xvit.inference.explain import TokenFunction
from xvit.models.backbone import resolve_clip_spec

BACKBONE = {"img_size": 48, "patch_size": 16, "depth": 2, "embed_dim": 24, "num_heads": 2}


@pytest.fixture(scope="module")
def model():
    model = add_noise(tiny_model(num_classes=len(CLASSES), backbone_kwargs=BACKBONE))
    model.clip_spec = resolve_clip_spec(ClipSpec(num_frames=4, image_size=48), model.backbone)
    model.class_names = list(CLASSES)
    return model


def test_masks_cover_what_changes(model):
    clips = list(draw_clips(model, 2))
    assert [clip.label for clip in clips] == [label for label in CLASSES for _ in range(2)]
    for clip in clips:
        assert clip.frames.shape == (4, 48, 48, 3)
        assert clip.mask.shape == (4, 48, 48)
        assert 0 < clip.mask.mean() < 0.9
        for before, after in ((0, 1), (1, 2), (2, 3)):
            changed = np.abs(clip.frames[before].astype(int) - clip.frames[after]).max(axis=-1) > 20
            assert (clip.mask[before] | clip.mask[after])[changed].all()


def test_the_masks_of_a_pair_are_those_of_its_process(model):
    for clip in draw_clips(model, 1):
        if clip.label == "appearing":  # invisible at first
            assert clip.mask[0].sum() < clip.mask[-1].sum()
        if clip.label == "receding":
            assert clip.mask[0].sum() > clip.mask[-1].sum()


def test_patches_that_a_mask_touches():
    mask = np.zeros((1, 4, 6), bool)
    mask[0, 3, 2] = True
    np.testing.assert_array_equal(patch_mask(mask, (2, 3)), [[[False] * 3, [False, True, False]]])


def test_mass_ratio():
    patches = np.zeros((2, 2, 2), bool)
    patches[0, 0] = True  # a quarter
    relevance = np.array([[[3.0, -9.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert mass_ratio(relevance, patches) == pytest.approx(0.75 / 0.25)
    assert mass_ratio(-np.ones((2, 2, 2)), patches) is None
    assert mass_ratio(np.ones((2, 2, 2)), patches) == pytest.approx(1)


def test_rank_correlation_is_that_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (2, 3, 4, 4))  # with many ties
    assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic)
    assert rank_correlation(a, np.zeros_like(a)) is None


def test_areas_under_curves_of_a_sum_over_tokens(model):
    clip = TokenFunction(model, random_clip(4, (48, 48), B=1), lambda output: output)
    weights = torch.rand(4, 9, generator=torch.Generator().manual_seed(0))
    clip.tokens = torch.ones_like(clip.tokens)
    clip.still_tokens = lambda: torch.zeros(4, *clip.tokens.shape[1:])
    clip._logits = lambda tokens: (tokens[:, :, 1:, 0] * weights).sum(dim=(1, 2))  # each patch adds its weight
    best = np.argsort(-weights.numpy().ravel())
    share = np.concatenate([[0], weights.numpy().ravel()[best].cumsum()])
    counts = np.rint(np.linspace(0, 36, 21)).astype(int)
    expected = np.trapezoid(share[counts], dx=1 / 20)
    deletion, insertion = curve_areas(clip, weights.numpy().reshape(4, 3, 3), lambda x: x)
    assert insertion == pytest.approx(expected, rel=1e-5)
    assert deletion == pytest.approx(float(weights.sum()) - expected, rel=1e-5)


def test_every_method_of_every_model_is_measured(model):
    clips = list(draw_clips(model, 1))[:2]
    done = []
    results = measure({"a": model, "b": model}, clips, on_progress=lambda *counts: done.append(counts))
    assert list(results["a"]) == list(METHODS)
    assert list(results["b"]) == ["integrated"]
    assert results["b"]["integrated"] == results["a"]["integrated"]
    assert done == [(1, 2), (2, 2)]
    for scores in results["a"].values():
        assert len(scores) == 2
        assert all(0 <= score.deletion <= 1 and 0 <= score.insertion <= 1 for score in scores)
