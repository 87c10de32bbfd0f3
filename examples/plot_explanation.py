"""
Why this class?
===============

Which frames and patches speak for a class, compared with the same clip held still.
"""

# %%

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import xvit
from xvit.data.decode.video import read_clip
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.inference.explain import explain_video

folder = Path(tempfile.mkdtemp()) / "samples"
write_motion_dataset(folder, clips_per_class=2, val_fraction=0.5, seed=3)
video = folder / "val" / "hiding_behind" / "0000.mp4"
explanation = explain_video(xvit.Predictor("motion"), video)
print(explanation.target)
print(f"logit {explanation.logit:.2f}, with the clip held still {explanation.logit_still:.2f}")

# %%
# The relevance of all patches adds up to the difference of the two logits, to within this share of it:

print(f"{100 * explanation.completeness_error:.2f} %")

# %%
# Red patches speak for the class, blue ones against it; the bars are the sums over the patches of a frame.

clip = read_clip(video, lambda info: range(0, info.num_frames, info.num_frames // 8))
limit = np.abs(explanation.relevance).max()
figure, grid = plt.subplots(2, 8, figsize=(9, 3), layout="constrained", sharey="row")
for index, (above, below) in enumerate(grid.T):
    height, width = clip.frames[index].shape[:2]
    extent = (0, width, height, 0)
    above.imshow(clip.frames[index], extent=extent)
    above.imshow(explanation.relevance[index], cmap="bwr", vmin=-limit, vmax=limit, alpha=0.5, extent=extent)
    above.set(xticks=[], yticks=[])
    below.bar(["sum"], explanation.frame_relevance[index], color="tab:red")
    below.set(xticks=[])
plt.show()
