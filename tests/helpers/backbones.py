"""One backbone of each family that timm builds, and small image models of them."""

import timm
import torch

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
    "two branches per block": "vit_small_patch16_18x2_224",
    "FlexiViT": "flexivit_small",
    "BEiT-3": "beit3_base_patch16_224",
    "AIMv2, RMSNorm, SwiGLU": "aimv2_large_patch14_224",
    "EVA-01": "eva_large_patch14_196",
    "RADIO": "vit_base_patch16_radio_v3",
    "TIPS v2": "vit_base_patch14_reg1_tipsv2",
    "qk-norm": "vit_intern300m_patch14_448",
    "hybrid, ResNet stem": "vit_tiny_r_s16_p8_224",
    "Eva: EVA-02, rotary and learned positions": "eva02_tiny_patch14_224",
    "Eva: EVA-02, separate projections, inner norms": "eva02_base_patch14_224",
    "Eva: DINOv3": "vit_small_patch16_dinov3",
    "Eva: DINOv3, SwiGLU": "vit_small_plus_patch16_dinov3",
    "Eva: ViT-RoPE, mixed, per layer": "vit_small_patch16_rope_mixed_224",
    "Eva: Perception Encoder": "vit_pe_core_tiny_patch16_384",
    "Eva: BEiT-like, post-norm": "eva_giant_patch14_224",
}


def image_model(name, *, patches=2, **options):
    """A small timm model with a classifier and random weights, for `patches` x `patches` patches; and its options."""
    with torch.device("meta"):
        patch = timm.create_model(name, depth=1).patch_embed.feat_ratio()
    kwargs = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": patches * patch, **options}
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model, kwargs


@torch.no_grad()
def frame_features(model, clip):
    """timm's features of each frame, (B, T, D)."""
    return model.forward_head(model.forward_features(clip.flatten(0, 1)), pre_logits=True).unflatten(0, clip.shape[:2])
