"""Backbones: a small model of each family of ViTs compared with timm's model; which backbones are supported."""

import pytest
import timm
import torch

from helpers.backbones import FAMILIES
from helpers.tiny import TINY_BACKBONE, tiny_model
from xvit import create_model
from xvit.utils.errors import XViTError


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_still_clip_matches_timm_and_all_weights_get_gradients(name):
    torch.manual_seed(0)
    with torch.device("meta"):
        patch = timm.create_model(name, num_classes=0, depth=1).patch_embed.feat_ratio()
    kwargs = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 2 * patch}
    model = create_model(name, num_classes=3, num_frames=2, temporal_padding="replicate", backbone_kwargs=kwargs).eval()
    image = timm.create_model(name, num_classes=0, **kwargs).eval()
    image.load_state_dict(model.backbone.state_dict())

    still = torch.randn(2, 1, 3, 2 * patch, 2 * patch).expand(-1, 2, -1, -1, -1)
    with torch.no_grad():
        expected = image(still[:, 0])
        frames = model.forward_features(still).frames
    torch.testing.assert_close(frames, expected[:, None].expand_as(frames), atol=1e-5, rtol=0)

    model.train()
    logits = model(torch.randn(2, 3, 3, 2 * patch, 2 * patch))
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    without_gradient = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without_gradient == []


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
def test_unsupported_backbones(backbone, message):
    with pytest.raises(XViTError, match=message):
        create_model(backbone, num_classes=3)


def test_mixing_layers_by_name():
    is_mixing = {
        name: [bool(a.pattern.slices) for a in tiny_model(mixing_layers=name).attention_layers]
        for name in ("first_half", "second_half", "odd")
    }
    assert is_mixing == {
        "first_half": [True, False, False],
        "second_half": [False, True, True],
        "odd": [True, False, True],
    }


def test_sincos_positions_distinguish_patches():
    """The distance of positions grows with the distance of patches along both axes, and all positions differ."""
    model = tiny_model(spatial_position="sincos", backbone_kwargs=TINY_BACKBONE | {"img_size": 64})
    positions = model.backbone.pos_embed[0, 1:]
    grid = positions.detach().reshape(4, 4, 24)
    from_corner = (grid - grid[0, 0]).norm(dim=-1)
    assert (from_corner.diff(dim=0) > 0).all()
    assert (from_corner.diff(dim=1) > 0).all()
    assert torch.pdist(positions.detach()).min() > 0.3


def test_clip_spec_has_the_backbone_preprocessing():
    clip_spec = create_model("vit_base_patch16_clip_224.openai", num_classes=2, backbone_kwargs={"depth": 1}).clip_spec
    assert clip_spec.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert clip_spec.std == pytest.approx((0.26862954, 0.26130258, 0.27577711))
    assert clip_spec.interpolation == "bicubic"
    assert clip_spec.image_size == 224
    assert clip_spec.open_fields == []
