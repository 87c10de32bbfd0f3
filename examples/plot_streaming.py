"""
A stream equals the whole video
===============================

Frames that arrive one by one, each of which passes through the model once.
"""

# %%
# A long video of four events, as a tensor.

import matplotlib.pyplot as plt
import numpy as np
import torch

import xvit
from xvit.data.synthetic.motion import render_clip
from xvit.data.transforms import as_tensor, normalize

model = xvit.XViT.from_pretrained("motion").eval()
rng = np.random.default_rng(1)
events = ["moving_left", "receding", "moving_down", "appearing"]
frames = np.concatenate([render_clip(name, rng) for name in events])
frames = frames[:: model.clip_spec.stride].copy()  # as far apart as in training
video = normalize(as_tensor(frames), model.clip_spec)[None]  # (1, T, C, H, W)
print(video.shape)

# %%
# Push the frames one by one. The output is complete at once, because the model is causal.

stream = xvit.Stream(model)
with torch.inference_mode():
    outputs = [stream.push(frame) for frame in video.split(1, dim=1)]
streamed = torch.cat([output.frames for output in outputs], dim=1)

# %%
# The frame vectors are those of the model on the whole video, up to rounding.

with torch.inference_mode():
    whole = model.forward_features(video).frames
print(f"largest difference: {(whole - streamed).abs().max():.1e}, of values up to {whole.abs().max():.1f}")

# %%
# The scores over time. The model looks at 8 frames, so each event is recognised with a delay.

scores = torch.cat([output.logits for output in outputs], dim=1)[0].softmax(dim=-1)
figure, axes = plt.subplots(figsize=(9, 3.5), layout="constrained")
for name in events:
    axes.plot(scores[:, model.class_names.index(name)], label=name)
for boundary in range(len(frames) // len(events), len(frames), len(frames) // len(events)):
    axes.axvline(boundary - 0.5, color="grey", linewidth=0.8)
axes.set(xlabel="frame", ylabel="score")
axes.legend(loc="upper right")
plt.show()
