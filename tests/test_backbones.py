"""Any image ViT: one family after another, small, against timm's own model, forward and backward."""

import pytest
import timm
import torch

from xvit import create_model

FAMILIES = {
    "augreg, patch 16": "vit_base_patch16_224.augreg_in21k",
    "augreg, patch 32": "vit_base_patch32_224.augreg_in21k",
    "patch 8": "vit_base_patch8_224.dino",
    "MAE": "vit_base_patch16_224.mae",
    "DeiT": "deit_small_patch16_224",
    "DeiT-3, LayerScale": "deit3_small_patch16_224",
    "DINOv2, patch 14": "vit_small_patch14_dinov2",
    "DINOv2 with registers": "vit_small_patch14_reg4_dinov2",
    "CLIP, pre-norm": "vit_base_patch16_clip_224",
    "CLIP, quick GELU": "vit_base_patch16_clip_quickgelu_224",
    "SigLIP, map pooling": "vit_base_patch16_siglip_224",
    "SigLIP, global average": "vit_base_patch16_siglip_gap_224",
    "global average, no class token": "vit_medium_patch16_gap_240",
    "registers, global average": "vit_little_patch16_reg4_gap_256",
    "shape-optimised, map pooling": "vit_so150m_patch16_reg4_map_256",
    "residual post-norm": "vit_base_patch16_rpn_224",
    "two branches a block": "vit_small_patch16_18x2_224",
    "FlexiViT": "flexivit_small",
    "BEiT-3": "beit3_base_patch16_224",
    "AIMv2, RMSNorm, SwiGLU": "aimv2_large_patch14_224",
    "EVA-01": "eva_large_patch14_196",
    "RADIO": "vit_base_patch16_radio_v3",
    "TIPS v2": "vit_base_patch14_reg1_tipsv2",
    "qk-norm": "vit_intern300m_patch14_448",
    "hybrid, ResNet stem": "vit_tiny_r_s16_p8_224",
    "Eva: EVA-02, rotary and learned positions": "eva02_tiny_patch14_224",
    "Eva: EVA-02, projections apart, norms inside": "eva02_base_patch14_224",
    "Eva: DINOv3": "vit_small_patch16_dinov3",
    "Eva: DINOv3, SwiGLU": "vit_small_plus_patch16_dinov3",
    "Eva: ViT-RoPE, mixed by layer": "vit_small_patch16_rope_mixed_224",
    "Eva: Perception Encoder": "vit_pe_core_tiny_patch16_384",
    "Eva: BEiT-like, post-norm": "eva_giant_patch14_224",
}


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_family(name):
    torch.manual_seed(0)
    with torch.device("meta"):
        patch = timm.create_model(name, num_classes=0, depth=1).patch_embed.feat_ratio()
    kwargs = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 2 * patch}
    model = create_model(name, num_classes=3, num_frames=2, edges="replicate", backbone_kwargs=kwargs).eval()
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
