"""Explanations against gradients by finite differences, pixels replaced one patch at a time, and their own sum."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.color_videos import CLASSES, make_model, with_metadata, write_video
from helpers.streams import add_noise
from helpers.tiny import random_clip, tiny_model
from xvit.data.decode import decode, probe
from xvit.data.sampling import sample_indices
from xvit.data.synthetic.dataset import encode_video
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.export import ExportedModel
from xvit.inference import Predictor
from xvit.inference.explain import ERROR_BOUND, Explanation, TokenFunction, explain_clip, explain_video
from xvit.utils.errors import XViTError

MODELS = {
    "mixing": {},
    "spatial, mean": {"attention": "spatial", "temporal_head": "mean"},
    "local": {"attention": "local"},
    "joint": {"attention": "joint"},
    "divided": {"attention": "divided"},
    "causal": {"causal": True, "temporal_position": "head"},
    "summaries": {"summary_tokens": 1},
    "tubelets": {"tubelet_size": 2},
    "mean pooling": {
        "backbone_kwargs": {
            "depth": 3,
            "embed_dim": 24,
            "num_heads": 3,
            "img_size": 32,
            "global_pool": "avg",
            "class_token": False,
            "fc_norm": True,
        }
    },
}


def still_clips(clip: torch.Tensor, tubelet: int = 1) -> list[torch.Tensor]:
    """The clip (1, T, C, H, W) held still at each frame, or at the first frame of each tubelet."""
    T = clip.shape[1]
    return [clip[:, [k] * T] for k in range(0, T, tubelet)]


def naive_logit(model, tokens: torch.Tensor, target: int) -> torch.Tensor:
    """The logit of one clip from its tokens before the first block."""
    for block in model.backbone.blocks:
        tokens = block(tokens)
    return model.classifier(model.temporal_head(model.pool(tokens)[1]))["label"][0, target]


@pytest.mark.parametrize("name", ["mixing", "divided", "causal"])
def test_relevance_is_the_integral_of_finite_differences(name, monkeypatch):
    monkeypatch.setattr("xvit.inference.explain._POINTS", (32,))
    model = add_noise(tiny_model(num_frames=3, **MODELS[name])).double()
    clip = random_clip(3, B=1).double()
    expected = np.zeros((3, 4))
    with torch.no_grad():
        x = model.embed(clip)[0]
        stills = [model.embed(still)[0] for still in still_clips(clip)]
        background = torch.stack(stills).sort(dim=0).values[1]  # the middle one of three

        def slope(z: torch.Tensor, direction: torch.Tensor, t: int, n: int) -> float:
            """How fast the logit rises at z if token n of frame t moves in a direction."""
            step = torch.zeros_like(z)
            step[:, t, n] = 1e-4 * direction[:, t, n]
            return (naive_logit(model, z + step, 3) - naive_logit(model, z - step, 3)).item() / 2e-4

        for k, b in enumerate(stills):
            for a in (np.arange(12) + 0.5) / 12:  # midpoint rule
                for t, n in itertools.product(range(3), range(4)):
                    z = b + a * (x - b)
                    expected[t, n] += slope(z, x - background, t, 1 + n) / 12 / 3
                    expected[k, n] -= slope(z, b - background, t, 1 + n) / 12 / 3
    relevance = explain_clip(model, clip, target=3)["relevance"]
    assert relevance.shape == (3, 2, 2)
    np.testing.assert_allclose(relevance.reshape(3, 4), expected, atol=5e-3 * np.abs(expected).max())


def test_a_patch_that_shows_the_background_has_no_relevance():
    model, clip = add_noise(tiny_model()), random_clip(B=1)
    clip[:, 1:] = clip[:, :1]
    clip[:, 2, :, :16, 16:] = 1.0  # something shows up in one patch of one frame
    relevance = explain_clip(model, clip, target=0)["relevance"]
    assert relevance[2, 0, 1] != 0
    relevance[2, 0, 1] = 0
    np.testing.assert_allclose(relevance, 0, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_relevance_adds_up_to_what_motion_contributes(name):
    model = add_noise(tiny_model(**MODELS[name]))
    clip = random_clip(B=1)
    result = explain_clip(model, clip, target=1)
    with torch.no_grad():
        logit = model(clip)[0, 1].item()
        stills = [model(still)[0, 1].item() for still in still_clips(clip, model.config.tubelet_size)]
    assert result["logit"] == pytest.approx(logit, abs=1e-5)
    assert result["logit_still"] == pytest.approx(sum(stills) / len(stills), abs=1e-5)
    assert result["relevance"].sum() == pytest.approx(logit - result["logit_still"], rel=ERROR_BOUND)
    assert result["relevance"].shape == (4 // model.config.tubelet_size, 2, 2)


def test_relevance_is_linear_in_the_logits():
    model, clip = add_noise(tiny_model()), random_clip(B=1)
    both, first, second = (
        explain_clip(model, clip, target=target, against=against, method="quick")["relevance"]
        for target, against in ((0, 4), (0, None), (4, None))
    )
    np.testing.assert_allclose(both, first - second, atol=1e-5)


def test_a_still_clip_has_no_relevance():
    model = add_noise(tiny_model())
    clip = random_clip(1, B=1).expand(-1, 4, -1, -1, -1)
    for method in ("integrated", "quick", "occlusion"):
        result = explain_clip(model, clip, target=0, method=method)
        np.testing.assert_allclose(result["relevance"], 0, atol=1e-6)
        assert result["logit"] == pytest.approx(result["logit_still"], abs=1e-6)


@pytest.mark.parametrize("name", ["mixing", "joint", "tubelets"])
def test_occlusion_replaces_the_pixels_of_one_patch(name):
    model, clip = add_noise(tiny_model(**MODELS[name])), random_clip(B=1)
    tubelet = model.config.tubelet_size
    expected = np.zeros((4 // tubelet, 2, 2))
    with torch.no_grad():
        stills = still_clips(clip, tubelet)
        for still, (t, row, column) in itertools.product(stills, np.ndindex(expected.shape)):
            occluded = clip.clone()
            place = (
                ...,
                slice(t * tubelet, (t + 1) * tubelet),
                slice(None),
                slice(16 * row, 16 * row + 16),
                slice(16 * column, 16 * column + 16),
            )
            occluded[place] = still[place]
            expected[t, row, column] += (model(clip) - model(occluded))[0, 2].item() / len(stills)
    np.testing.assert_allclose(
        explain_clip(model, clip, target=2, method="occlusion")["relevance"], expected, atol=1e-5
    )


def test_the_model_is_left_as_it_was():
    model, clip = add_noise(tiny_model()), random_clip(B=1)
    with torch.no_grad():
        before = model(clip)
    explain_clip(model, clip, target=0)
    with torch.no_grad():
        assert torch.equal(model(clip), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_token_functions_take_any_number_of_clips():
    model, clip = add_noise(tiny_model()), random_clip(B=1)
    function = TokenFunction(model, clip, lambda output: output[:, 0])
    many = function.tokens.repeat(7, 1, 1, 1)
    function.batch_size = 3
    with torch.no_grad():
        torch.testing.assert_close(function(many), model(clip)[:, 0].repeat(7))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "red.mp4", color=0, seed=1)


def test_a_video_is_explained_by_the_clip_that_is_predicted(video):
    model = add_noise(with_metadata(make_model(), list(CLASSES)))
    predictor = Predictor(model)
    prediction = predictor(video)
    steps = []
    explanation = explain_video(predictor, video, on_progress=lambda done, total: steps.append((done, total)))
    assert explanation.target == prediction.labels[0]
    indices = sample_indices(model.clip_spec, probe(video).num_frames)
    clip = decode(video, indices)
    views = eval_views(as_tensor(clip.frames), model.clip_spec)[0]
    np.testing.assert_array_equal(explanation.frames, views.permute(0, 2, 3, 1).numpy())
    assert explanation.times == pytest.approx(clip.times.tolist())
    index = list(CLASSES).index(explanation.target)
    expected = explain_clip(model, normalize(views, model.clip_spec)[None], target=index)
    np.testing.assert_array_equal(explanation.relevance, expected["relevance"])
    assert explanation.completeness_error <= ERROR_BOUND
    assert not explanation.warning
    assert steps[-1][0] == steps[-1][1] > 0
    assert sorted(steps) == steps


def test_the_lead_over_another_class_and_a_quick_explanation(video):
    model = add_noise(with_metadata(make_model(), list(CLASSES)))
    predictor = Predictor(model)
    first, second = Predictor(model)(video).labels[:2]
    explanation = explain_video(predictor, video, target=first, against=second, method="quick")
    assert (explanation.target, explanation.against, explanation.points) == (first, second, 1)
    assert explanation.logit > 0
    values = explanation.to_dict()
    assert (values["class"], values["against"]) == (first, second)
    assert np.sum(values["patch_relevance"]) == pytest.approx(explanation.relevance.sum(), abs=1e-5)
    assert bool(explanation.warning) == (explanation.completeness_error > ERROR_BOUND)
    assert explain_video(predictor, video, method="occlusion").completeness_error is None


@pytest.mark.parametrize(
    ("relevance", "warned"), [(0.0, True), (1e-5, True), (4e-3, True), (6e-3, False), ([-1, 1], False)]
)
def test_motion_that_changes_nothing(relevance, warned):
    """Patches that cancel each other are something to see."""
    logit = float(np.sum(np.full((2, 1, 2), relevance)))
    explanation = make_explanation(relevance, logit=logit, logit_still=0.0)
    assert ("motion changes nothing" in explanation.warning) == warned


def make_explanation(relevance, *, logit, logit_still):
    return Explanation(
        path="a.mp4",
        task="",
        target="a",
        against=None,
        method="quick",
        times=(0.0, 1.0),
        frames=np.zeros((2, 4, 4, 3), np.uint8),
        relevance=np.full((2, 1, 2), relevance, np.float32),
        logit=logit,
        logit_still=logit_still,
        points=1,
    )


@pytest.mark.parametrize(
    ("logit", "expected"), [(5.02, "next to nothing"), (-5.02, "next to nothing"), (5.5, "add up")]
)
def test_motion_that_changes_next_to_nothing(logit, expected):
    """Then the relevance cannot add up: the error would be that of a small number."""
    warning = make_explanation([-1, 1.2], logit=logit, logit_still=np.sign(logit) * 5.0).warning
    assert expected in warning
    assert ("xvit order" in warning) == (expected != "add up")


def test_one_of_several_tasks(video):
    model = add_noise(
        with_metadata(make_model({"verb": 3, "noun": 3}), {"verb": ["a", "b", "c"], "noun": ["x", "y", "z"]})
    )
    predictor = Predictor(model)
    assert explain_video(predictor, video, method="quick").task == "verb"
    explanation = explain_video(predictor, video, task="noun", target="y", method="quick")
    assert (explanation.task, explanation.target) == ("noun", "y")
    with pytest.raises(XViTError, match="expected one of verb, noun"):
        explain_video(predictor, video, task="adverb")
    with pytest.raises(XViTError, match="class='b': expected one of x, y, z"):
        explain_video(predictor, video, task="noun", target="b")


def test_what_cannot_be_explained(video):
    model = add_noise(with_metadata(make_model(), list(CLASSES)))
    predictor = Predictor(model)
    best = predictor(video).labels[0]
    with pytest.raises(XViTError, match="expected one of"):
        explain_video(predictor, video, target="purple")
    with pytest.raises(XViTError, match="choose another one"):
        explain_video(predictor, video, against=best)
    with pytest.raises(XViTError, match="the model has a single task"):
        explain_video(predictor, video, task="verb")
    with pytest.raises(XViTError, match="method='magic'"):
        explain_video(predictor, video, method="magic")
    exported = SimpleNamespace(model=object.__new__(ExportedModel))
    with pytest.raises(XViTError, match="an exported model has no gradients"):
        explain_video(exported, video)


@pytest.mark.parametrize("method", ["integrated", "quick", "occlusion"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_relevance_of_a_model_of_another_precision_is_float32(dtype, method):
    model, clip = tiny_model().to(dtype), random_clip(B=1).to(dtype)
    relevance = explain_clip(model, clip, target=0, method=method)["relevance"]
    assert relevance.dtype == np.float32
    expected = explain_clip(tiny_model(), random_clip(B=1), target=0, method=method)["relevance"]
    assert np.corrcoef(relevance.ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("num_frames", [1, 20])
def test_a_video_that_stands_still_has_no_relevance(tmp_path, num_frames):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    encode_video(np.repeat(picture[None], num_frames, axis=0), tmp_path / "still.mp4", fps=10.0)
    explanation = explain_video(Predictor("motion", device="cpu"), tmp_path / "still.mp4")
    assert explanation.warning.startswith("motion changes nothing here")
    assert explanation.completeness_error <= ERROR_BOUND
    assert explanation.points == 4
    assert np.abs(explanation.relevance).max() < 1e-4
