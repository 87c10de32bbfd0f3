"""
A mixing pattern of your own
============================

Layers that look back 1, 2, 4, 8, ... frames, and a picture of which frames each frame then depends on.
"""

# %%
# A causal model of four layers, as it comes: each layer reads a part of its keys and values from the frame before.

import matplotlib.pyplot as plt
import torch

import xvit
from xvit.models.mixing import MixingPattern, channel_slices


def build_model() -> xvit.XViT:
    torch.manual_seed(0)
    return xvit.create_model(
        "vit_tiny_patch16_224",
        num_classes=5,
        num_frames=16,
        causal=True,
        temporal_position="head",
        backbone_kwargs={"depth": 4, "img_size": 32, "embed_dim": 64, "num_heads": 4},
    ).eval()


# %%
# The frames that a frame's vector depends on are those with a gradient.


def dependence(model: xvit.XViT) -> torch.Tensor:
    """Whether the vector of frame t (row) depends on frame s (column)."""
    clip = torch.randn(1, 16, 3, 32, 32, requires_grad=True)
    vectors = model.forward_features(clip).frames[0]  # (T, D)
    rows = [torch.autograd.grad(vector[0], clip, retain_graph=True)[0] for vector in vectors]
    return torch.stack([row.abs().amax(dim=(0, 2, 3, 4)) > 0 for row in rows])


default = build_model()
dilated = build_model()
for index, layer in enumerate(dilated.attention_layers):
    channels = layer.num_heads * layer.head_dim
    layer.pattern = MixingPattern(slices=channel_slices(channels, 0.5, offsets=(-(2**index),)))

# %%
# Four layers of the default reach 4 frames back; the pattern reaches 1 + 2 + 4 + 8 = 15, at the same cost.

figure, grid = plt.subplots(1, 2, figsize=(8, 4), layout="constrained", sharey=True)
for model, axes, title in ((default, grid[0], "default"), (dilated, grid[1], "1, 2, 4, 8 frames back")):
    depends = dependence(model)
    axes.imshow(depends, cmap="Oranges", vmin=0, vmax=1.5)
    axes.set(title=f"{title}: {int(depends[-1].sum()) - 1} earlier frames", xlabel="depends on frame")
grid[0].set_ylabel("frame")
plt.show()

# %%
# Streams stay exact, because they ask the pattern what moves.

clip = torch.randn(1, 20, 3, 32, 32)
stream = xvit.Stream(dilated)
with torch.inference_mode():
    whole = dilated.forward_features(clip).frames
    pushed = torch.cat([stream.push(frame).frames for frame in clip.split(1, dim=1)], dim=1)
print(f"largest difference: {(whole - pushed).abs().max():.0e}")
