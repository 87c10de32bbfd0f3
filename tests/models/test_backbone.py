"""Any image ViT: one family after another, small, against timm's own model, forward and backward."""

import pytest
import timm
import torch

from helpers.backbones import FAMILIES
from xvit import create_model


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_family(name):
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
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
