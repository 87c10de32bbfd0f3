"""`XViT`: compared with timm's image models, its use of time, and its modes of execution."""

import copy
import itertools
import re

import pytest
import timm
import torch

from helpers.tiny import TINY_BACKBONE, random_clip, tiny_model
from xvit.config import ATTENTION_SCHEMES
from xvit.models.streaming import Stream
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError

TWO_LAYERS = TINY_BACKBONE | {"depth": 2}  # the last layer differs from the others


def make_image_model(model):
    """timm's image model with the weights of the backbone."""
    image = timm.create_model(model.config.backbone, num_classes=0, **model.config.backbone_kwargs).eval()
    names = image.state_dict().keys()  # without the temporal weights of divided attention
    image.load_state_dict({name: value for name, value in model.backbone.state_dict().items() if name in names})
    return image


def image_features(image, x):
    """The image model's features of each frame, (B, T, D)."""
    return torch.stack(
        [image.forward_head(image.forward_features(x[:, t]), pre_logits=True) for t in range(x.shape[1])], 1
    )


@pytest.mark.parametrize(
    "options",
    [{"attention": "spatial"}, {"window": 0}, {"mix_ratio": 0.0}, {"mixing_layers": ()}, {"attention": "divided"}],
    ids=str,
)
@torch.no_grad()
def test_without_mixing_each_frame_equals_the_image_model(options):
    model = tiny_model(**options)
    expected = image_features(make_image_model(model), random_clip())
    torch.testing.assert_close(model.forward_features(random_clip()).frames, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mix_inputs", ["keys_values", "keys", "values", "x"])
@pytest.mark.parametrize("window", [1, 2])
@torch.no_grad()
def test_replicate_padding_matches_the_image_model_on_still_clips(mix_inputs, window):
    model = tiny_model(temporal_padding="replicate", mix_inputs=mix_inputs, window=window, mix_ratio=1.0)
    image = make_image_model(model)
    single = random_clip(T=1)
    for T in (1, 4):
        still = single.expand(-1, T, -1, -1, -1)
        torch.testing.assert_close(
            model.forward_features(still).frames, image_features(image, still), atol=1e-6, rtol=0
        )
    zero_padded = tiny_model(temporal_padding="zero", mix_inputs=mix_inputs, window=window, mix_ratio=1.0)
    frames = zero_padded.forward_features(still).frames
    assert not torch.allclose(frames, image_features(image, still), atol=1e-3), "zero padding differs"


@pytest.mark.parametrize(("window", "mix_inputs"), [(1, "keys_values"), (2, "x")])
@torch.no_grad()
def test_causal_mixing_uses_no_future_frames(window, mix_inputs):
    model = tiny_model(causal=True, window=window, mix_inputs=mix_inputs)
    x = random_clip()
    before = model.forward_features(x).tokens
    for t in range(4):
        changed = x.clone()
        changed[:, t] += 1
        after = model.forward_features(changed).tokens
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.allclose(after[:, t], before[:, t])


@torch.no_grad()
def test_temporal_receptive_field_grows_by_the_window_in_each_layer():
    """After l mixing layers, a frame depends on exactly l w frames on either side (paper, section 3.2)."""
    model = tiny_model(window=1, mixing_layers=(0, 2), num_frames=8)
    x = random_clip(T=8)
    changed = x.clone()
    changed[:, 0] += 1
    differs = (model.forward_features(x).frames - model.forward_features(changed).frames).abs().amax(dim=(0, 2)) > 0
    assert differs.tolist() == [True, True, True] + [False] * 5


@pytest.mark.parametrize("attention", ATTENTION_SCHEMES)
@pytest.mark.parametrize("position", ["input", "head"])
def test_gradients_reach_every_parameter(attention, position):
    model = tiny_model(attention=attention, temporal_position=position).train()
    if attention == "divided":  # initially zero, so its temporal attention would get no gradients in the first step
        for layer in model.attention_layers:
            torch.nn.init.normal_(layer.temporal_proj.weight)
    model(random_clip()).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("position", ["input", "head"])
@torch.no_grad()
def test_other_numbers_of_frames_and_image_sizes(position):
    model = tiny_model(num_frames=8, temporal_position=position)
    weight = model.temporal_position.weight if position == "input" else model.temporal_head.position.weight
    assert not weight.any(), "temporal positions are initially zero"
    torch.nn.init.normal_(weight)
    for T, size in itertools.product((1, 5, 16), ((32, 32), (48, 16))):
        assert model(random_clip(T=T, size=size)).shape == (2, 5)


def test_outputs_with_several_tasks_and_without_classes():
    model = tiny_model(num_classes={"verb": 97, "noun": 300})
    logits = model(random_clip())
    assert {name: tuple(value.shape) for name, value in logits.items()} == {"verb": (2, 97), "noun": (2, 300)}
    features = tiny_model(num_classes=0).forward_features(random_clip())
    assert features.tokens.shape == (2, 4, 5, 24)
    assert features.frames.shape == (2, 4, 24)
    torch.testing.assert_close(tiny_model(num_classes=0)(random_clip()), features.clip_embedding, atol=1e-6, rtol=0)


@torch.no_grad()
def test_which_models_depend_on_the_order_of_frames():
    """Spatial attention with a mean head gives a reversed clip the same logits; mixing does not."""
    x = random_clip()
    spatial = tiny_model(attention="spatial", temporal_head="mean")
    torch.testing.assert_close(spatial(x), spatial(x.flip(1)), atol=1e-6, rtol=0)
    mixing = tiny_model(temporal_head="mean")
    assert not torch.allclose(mixing(x), mixing(x.flip(1)), atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTION_SCHEMES)
@torch.no_grad()
def test_exported_and_half_precision_models_agree(attention):
    summary_tokens = 4 if attention in ("spatial", "mixing", "divided") else 0
    model = tiny_model(attention=attention, summary_tokens=summary_tokens, backbone_kwargs=TWO_LAYERS)
    x = random_clip()
    expected = model(x)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), expected, atol=1e-5, rtol=0)
    half = copy.deepcopy(model).bfloat16()(x.bfloat16())
    torch.testing.assert_close(half.float(), expected, atol=0.1, rtol=0.1)


def test_compiled_model_agrees_and_has_gradients():
    model = tiny_model(backbone_kwargs=TWO_LAYERS)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(random_clip()), model(random_clip()), atol=1e-5, rtol=0)
    compiled(random_clip()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_gradient_checkpointing_keeps_the_gradients():
    model = tiny_model().train()
    model(random_clip()).sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    model(random_clip()).sum().backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_drop_path_drops_all_frames_of_a_clip():
    """All frames of a still clip are equal, as they would not be if frames were dropped separately."""
    options = {"attention": "spatial", "temporal_head": "mean", "temporal_position": "none"}
    model = tiny_model(backbone_kwargs=TINY_BACKBONE | {"drop_path_rate": 0.9}, **options).train()
    torch.manual_seed(0)
    still = random_clip(T=1, B=16).expand(-1, 4, -1, -1, -1)
    frames = model.forward_features(still).frames
    torch.testing.assert_close(frames, frames[:, :1].expand_as(frames), atol=1e-6, rtol=0)
    equals_image_model = [
        torch.allclose(a, b, atol=1e-6) for a, b in zip(frames[:, 0], make_image_model(model)(still[:, 0]), strict=True)
    ]
    assert not all(equals_image_model)


def test_config_rebuilds_the_model():
    model = tiny_model(window=2, mix_ratio=0.25, temporal_padding="replicate", num_classes={"a": 3})
    rebuilt = XViT(model.config)
    rebuilt.load_state_dict(model.state_dict())
    torch.testing.assert_close(rebuilt.eval()(random_clip())["a"], model(random_clip())["a"])


def wrong_clips():
    """Clips that are not normalised floats (2, 4, 3, 32, 32), and what the error says of them."""
    clip = torch.rand(2, 4, 3, 32, 32)
    normalize = r"expected normalised floats; .* xvit\.data\.transforms\.normalize\(pixels, model\.clip_spec\)"
    return {
        "uint8": ((255 * clip).byte(), f"pixel_values of torch.uint8: {normalize}"),
        "int64": ((255 * clip).long(), f"pixel_values of torch.int64: {normalize}"),
        "bool": (clip > 0.5, f"pixel_values of torch.bool: {normalize}"),
        "float64": (clip.double(), r"torch.float64: expected torch.float32, .* pixel_values.to\(torch.float32\)"),
        "float16": (clip.half(), "torch.float16: expected torch.float32"),
        "NumPy": (clip.numpy(), "ndarray: expected a torch tensor"),
        "a list": (list(clip), "list: expected a torch tensor"),
        "empty batch": (clip[:0], r"\(0, 4, 3, 32, 32\): an empty batch"),
        "no frames": (clip[:, :0], r"at least 1 frame \(T\)"),
        "no rows": (clip[:, :, :, :0], r"frames without pixels \(H, W\)"),
        "no batch": (clip[0], r"expected 5 dimensions .* pixel_values\[None\] adds B, pixel_values\[:, None\] adds T"),
        "an image": (clip[0, 0], r"\(3, 32, 32\): expected 5 dimensions \(B, T, C, H, W\)$"),
        "B C T H W": (clip.transpose(1, 2), r"third dimension \(C\); if .*: pixel_values.transpose\(1, 2\)"),
        "B T H W C": (clip.permute(0, 1, 3, 4, 2), r"\(C\); if .*: pixel_values.permute\(0, 1, 4, 2, 3\)"),
        "grey": (clip[:, :, :1], r"expected 3 channels in the third dimension \(C\)$"),
        "33 pixels": (torch.rand(2, 4, 3, 33, 32), "multiples of the patch size, 16x16"),
    }


@pytest.mark.parametrize("name", wrong_clips())
def test_wrong_clips_are_explained(name):
    clip, message = wrong_clips()[name]
    model = tiny_model(temporal_position="head")
    for use in (model, model.forward_features, Stream(model).push):
        with pytest.raises(XViTError, match=message) as caught:
            use(clip)
        assert "\n" not in str(caught.value)
    if isinstance(clip, torch.Tensor):  # the hints are right
        for hint in re.findall(r"pixel_values\.\w+\([^)]*\)", str(caught.value).partition("; if ")[2]):
            model(eval(hint, {"pixel_values": clip}))


def test_checks_of_the_input_are_no_part_of_compiled_and_exported_models(monkeypatch):
    one_layer = TINY_BACKBONE | {"depth": 1}
    model = tiny_model(attention="spatial", temporal_position="none", temporal_head="mean", backbone_kwargs=one_layer)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(random_clip()), model(random_clip()), atol=1e-5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):  # which converts float32 and bfloat16
        for clip in (random_clip(), random_clip().bfloat16()):
            torch.testing.assert_close(compiled(clip), model(clip), atol=0.05, rtol=0.05)
        with pytest.raises(XViTError, match=r"torch.float64: expected torch.float32"):
            model(random_clip().double())
    dynamic = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(model, (random_clip(),), dynamic_shapes=dynamic)
    torch.testing.assert_close(exported.module()(random_clip(B=5)), model(random_clip(B=5)), atol=1e-5, rtol=0)
    monkeypatch.setattr("xvit.models.xvit.check_pixel_values", lambda *args, **kwargs: None)
    unchecked = torch.export.export(model, (random_clip(),), dynamic_shapes=dynamic)
    assert str(exported.graph) == str(unchecked.graph)
