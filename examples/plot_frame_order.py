"""
Does the model use the order of frames?
=======================================

The same clips as they are, reversed, shuffled and held still.
"""

# %%
# Sixty clips of twelve classes, each of which is the reverse of another one.

import matplotlib.pyplot as plt
import numpy as np
import torch

import xvit
from xvit.data.synthetic.motion import CLASSES, render_clip
from xvit.data.transforms import as_tensor, normalize
from xvit.experiments.order.compare import frame_orders, order_logits

model = xvit.XViT.from_pretrained("motion").eval()
rng = np.random.default_rng(5)
labels = [name for name in CLASSES for _ in range(5)]
clips = torch.stack([normalize(as_tensor(render_clip(name, rng)[::2].copy()), model.clip_spec) for name in labels])
print(clips.shape)

# %%
# Each clip in several orders of its frames.

orders = [frame_orders(clips.shape[1], np.random.default_rng(index)) for index in range(len(clips))]
[logits] = order_logits(model, clips, orders).values()
accuracy = {}
for kind, values in logits.items():  # (B, n, classes)
    found = values.argmax(dim=-1)
    truth = torch.tensor([model.class_names.index(name) for name in labels])[:, None]
    accuracy[kind] = float((found == truth).float().mean())
    print(f"{kind:24} {100 * accuracy[kind]:.0f} % correct")

# %%
# A model that ignored the order would have bars of the same height.

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.barh(list(accuracy), [100 * value for value in accuracy.values()])
axes.invert_yaxis()
axes.set(xlabel="top-1, %", xlim=(0, 100))
plt.show()
