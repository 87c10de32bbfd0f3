"""The whole model: against timm's image model, in time, in all its modes."""

import copy
import itertools

import pytest
import timm
import torch

from xvit import create_model
from xvit.config import ATTENTION_SCHEMES, model_config
from xvit.models.profiling import count_macs
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError

TINY = {"depth": 3, "embed_dim": 24, "num_heads": 3, "img_size": 32}


def tiny(seed=0, **options):
    torch.manual_seed(seed)
    defaults = {"num_classes": 5, "num_frames": 4, "backbone_kwargs": TINY}
    return create_model("vit_tiny_patch16_224", **(defaults | options)).eval()


def image_model_of(model):
    """timm's own model with the same weights."""
    image = timm.create_model(model.config.backbone, num_classes=0, **model.config.backbone_kwargs).eval()
    known = image.state_dict()  # divided attention has temporal weights of its own
    image.load_state_dict({name: value for name, value in model.backbone.state_dict().items() if name in known})
    return image


def clip(T=4, size=(32, 32), B=2, seed=1):
    return torch.randn(B, T, 3, *size, generator=torch.Generator().manual_seed(seed))


def frame_by_frame(image, x):
    return torch.stack(
        [image.forward_head(image.forward_features(x[:, t]), pre_logits=True) for t in range(x.shape[1])], 1
    )


@pytest.mark.parametrize(
    "options",
    [{"attention": "spatial"}, {"window": 0}, {"mix_ratio": 0.0}, {"mixing_layers": ()}, {"attention": "divided"}],
    ids=str,
)
@torch.no_grad()
def test_without_mixing_each_frame_is_the_image_models(options):
    model = tiny(**options)
    expected = frame_by_frame(image_model_of(model), clip())
    torch.testing.assert_close(model.forward_features(clip()).frames, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mix_inputs", ["keys_values", "keys", "values", "x"])
@pytest.mark.parametrize("window", [1, 2])
@torch.no_grad()
def test_replicated_edges_keep_the_image_model_on_still_clips(mix_inputs, window):
    model = tiny(temporal_padding="replicate", mix_inputs=mix_inputs, window=window, mix_ratio=1.0)
    image = image_model_of(model)
    single = clip(T=1)
    for T in (1, 4):
        still = single.expand(-1, T, -1, -1, -1)
        torch.testing.assert_close(
            model.forward_features(still).frames, frame_by_frame(image, still), atol=1e-6, rtol=0
        )
    zeros = (
        tiny(temporal_padding="zero", mix_inputs=mix_inputs, window=window, mix_ratio=1.0)
        .forward_features(still)
        .frames
    )
    assert not torch.allclose(zeros, frame_by_frame(image, still), atol=1e-3), "zero edges do differ"


@pytest.mark.parametrize(("window", "mix_inputs"), [(1, "keys_values"), (2, "x")])
@torch.no_grad()
def test_causal_mixing_never_looks_ahead(window, mix_inputs):
    model = tiny(causal=True, window=window, mix_inputs=mix_inputs)
    x = clip()
    before = model.forward_features(x).tokens
    for t in range(4):
        changed = x.clone()
        changed[:, t] += 1
        after = model.forward_features(changed).tokens
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.allclose(after[:, t], before[:, t])


@torch.no_grad()
def test_reach_grows_by_the_window_each_layer():
    """After l layers a frame knows l w frames on either side (section 3.2), and no others."""
    model = tiny(window=1, mixing_layers=(0, 2), num_frames=8)
    x = clip(T=8)
    changed = x.clone()
    changed[:, 0] += 1
    differs = (model.forward_features(x).frames - model.forward_features(changed).frames).abs().amax(dim=(0, 2)) > 0
    assert differs.tolist() == [True, True, True] + [False] * 5


@pytest.mark.parametrize("attention", ATTENTION_SCHEMES)
@pytest.mark.parametrize("position", ["input", "head"])
def test_gradients_reach_every_parameter(attention, position):
    model = tiny(attention=attention, temporal_position=position).train()
    if attention == "divided":  # zero at first: its temporal attention learns from the second step on
        for layer in model.attention_layers:
            torch.nn.init.normal_(layer.temporal_proj.weight)
    model(clip()).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("position", ["input", "head"])
@torch.no_grad()
def test_other_numbers_of_frames_and_sizes(position):
    model = tiny(num_frames=8, temporal_position=position)
    weight = model.temporal_position.weight if position == "input" else model.temporal_head.position.weight
    assert not weight.any(), "temporal positions start at zero"
    torch.nn.init.normal_(weight)
    for T, size in itertools.product((1, 5, 16), ((32, 32), (48, 16))):
        assert model(clip(T=T, size=size)).shape == (2, 5)


def test_temporal_positions_are_interpolated_linearly():
    position = tiny(num_frames=4).temporal_position
    ramp = torch.arange(4.0)
    position.weight.data[0] = ramp[:, None]
    centres = (torch.arange(8) + 0.5) / 2 - 0.5  # of 8 slots, in units of the 4
    torch.testing.assert_close(position(8)[0, :, 0], centres.clamp(0, 3))


def test_sincos_positions_tell_patches_apart():
    """Near patches have nearer positions than far ones, along either axis, and none is another's."""
    positions = tiny(spatial_position="sincos", backbone_kwargs=TINY | {"img_size": 64}).backbone.pos_embed[0, 1:]
    grid = positions.detach().reshape(4, 4, 24)
    from_corner = (grid - grid[0, 0]).norm(dim=-1)
    assert (from_corner.diff(dim=0) > 0).all()
    assert (from_corner.diff(dim=1) > 0).all()
    assert torch.pdist(positions.detach()).min() > 0.3


def test_several_tasks_and_features():
    model = tiny(num_classes={"verb": 97, "noun": 300})
    logits = model(clip())
    assert {name: tuple(value.shape) for name, value in logits.items()} == {"verb": (2, 97), "noun": (2, 300)}
    features = tiny(num_classes=0).forward_features(clip())
    assert features.tokens.shape == (2, 4, 5, 24)
    assert features.frames.shape == (2, 4, 24)
    torch.testing.assert_close(tiny(num_classes=0)(clip()), features.clip_embedding, atol=1e-6, rtol=0)


@torch.no_grad()
def test_mean_head_is_the_mean():
    features = tiny(temporal_head="mean").forward_features(clip())
    torch.testing.assert_close(features.clip_embedding, features.frames.mean(1))


@torch.no_grad()
def test_order_blind_and_order_aware():
    """spatial + mean gives a reversed clip the same answer; mixing, or temporal attention with positions, does not."""
    x = clip()
    blind = tiny(attention="spatial", temporal_head="mean")
    torch.testing.assert_close(blind(x), blind(x.flip(1)), atol=1e-6, rtol=0)
    mixing = tiny(temporal_head="mean")
    assert not torch.allclose(mixing(x), mixing(x.flip(1)), atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTION_SCHEMES)
@torch.no_grad()
def test_modes_of_running_agree(attention):
    model = tiny(attention=attention, summary_tokens=4 if attention in ("spatial", "mixing", "divided") else 0)
    x = clip()
    expected = model(x)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), expected, atol=1e-5, rtol=0)
    half = copy.deepcopy(model).bfloat16()(x.bfloat16())
    torch.testing.assert_close(half.float(), expected, atol=0.1, rtol=0.1)


def test_compiled_mixing_agrees_and_trains():
    model = tiny()
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(clip()), model(clip()), atol=1e-5, rtol=0)
    compiled(clip()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_export_with_any_number_of_clips():
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(tiny(), (clip(B=3),), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(exported(clip(B=5)), tiny()(clip(B=5)), atol=1e-5, rtol=0)


def test_checkpointed_activations_change_nothing():
    model = tiny().train()
    model(clip()).sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    model(clip()).sum().backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_drop_path_drops_whole_clips():
    """At a rate near 1 the blocks add nothing to most clips, and then to none of their frames."""
    options = {"attention": "spatial", "temporal_head": "mean", "temporal_position": "none"}
    model = tiny(backbone_kwargs=TINY | {"drop_path_rate": 0.9}, **options).train()
    torch.manual_seed(0)
    still = clip(T=1, B=16).expand(-1, 4, -1, -1, -1)
    frames = model.forward_features(still).frames
    torch.testing.assert_close(frames, frames[:, :1].expand_as(frames), atol=1e-6, rtol=0)
    kept = [
        torch.allclose(a, b, atol=1e-6) for a, b in zip(frames[:, 0], image_model_of(model)(still[:, 0]), strict=True)
    ]
    assert not all(kept)


def test_config_rebuilds_the_model():
    model = tiny(window=2, mix_ratio=0.25, temporal_padding="replicate", num_classes={"a": 3})
    again = XViT(model.config)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(clip())["a"], model(clip())["a"])


@pytest.mark.parametrize("head", ["attention", "mean"])
def test_macs_are_those_counted_by_hand(head):
    model = tiny(temporal_head=head)
    T, N, S, D, L = 4, 5, 4, 24, 3
    block = 12 * D * D  # qkv, proj and the MLP, a token
    expected = T * (S * 3 * 16 * 16 * D + L * (N * block + 2 * N * N * D)) + 5 * D
    if head == "attention":
        expected += (T + 1) * block + 2 * (T + 1) ** 2 * D
    assert count_macs(model, all_tokens=True) == expected
    spared = T * (N - 1) * (9 * D * D + 2 * N * D)  # in the last layer only class tokens attend, and go on
    assert count_macs(model) == expected - spared
    assert count_macs(tiny(temporal_head=head, attention="spatial")) == expected - spared, "mixing multiplies nothing"
    assert count_macs(model, num_frames=8) > 2 * count_macs(model) - 10 * 12 * D * D


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "mixng"}, 'Did you mean "mixing"'),
        ({"windw": 1}, 'Did you mean "window"'),
        ({"mixing_layers": (3,)}, "the backbone has layers 0 to 2, not 3"),
        ({"mixing_layers": "last"}, "expected one of all, first_half"),
        ({"mix_ratio": 1.5}, "between 0 and 1"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"window": "3"}, "window='3': expected a number"),
        ({"spatial_position": "sincos", "pretrained": True}, "have positions already"),
        ({"summary_tokens": 3}, "expected a square number"),
        ({"summary_tokens": 1, "attention": "joint"}, "attend to other frames' tokens already"),
        ({"temporal_position": "head", "temporal_head": "mean"}, "needs temporal_head='attention'"),
        ({"backbone_kwargs": {"dpth": 2}}, 'Did you mean "depth"'),
        ({"backbone_kwargs": {"patch_drop_rate": 0.5}}, "mixing needs the same patches in every frame"),
        ({"backbone_kwargs": {"attn_layer": "diff"}}, "not allowed: use attention="),
        ({"backbone_kwargs": {"embed_dim": 25, "num_heads": 3}}, "divisible"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(XViTError, match=message):
        tiny(**options)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("vit_base_patch16_22", 'Did you mean "vit_base_patch16_224"'),
        ("resnet18", "not one of timm's VisionTransformer and Eva models"),
        ("beit_base_patch16_224", "not one of timm's VisionTransformer and Eva models"),
        ("vit_dlittle_patch16_reg1_gap_256", "other attention \\(DiffAttention\\)"),
        ("vit_base_patch16_xp_224", "ParallelScalingBlock has no attention module"),
    ],
)
def test_backbones_without_a_scheme_are_refused(backbone, message):
    with pytest.raises(XViTError, match=message):
        create_model(backbone, num_classes=3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 32, 32), "expected 5 dimensions"),
        ((2, 3, 4, 32, 32), "expected 3 channels"),
        ((2, 4, 3, 33, 32), "multiples of the patch size, 16x16"),
        ((2, 0, 3, 32, 32), "at least 1 frame"),
    ],
)
def test_wrong_inputs_are_refused(shape, message):
    with pytest.raises(XViTError, match=message):
        tiny()(torch.zeros(shape))


def test_layers_by_name():
    mixes = {
        name: [bool(a.pattern.slices) for a in tiny(mixing_layers=name).attention_layers]
        for name in ("first_half", "second_half", "odd")
    }
    assert mixes == {"first_half": [True, False, False], "second_half": [False, True, True], "odd": [True, False, True]}


def test_model_config_is_checked_when_made():
    with pytest.raises(XViTError, match="temporal_padding='mirror'"):
        model_config(temporal_padding="mirror")
