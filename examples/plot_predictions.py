"""
Classify videos
===============

The model that comes with xvit, on videos that it has never seen.
"""

# %%
# Some new videos: for each of the 13 classes one, of two seconds.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import xvit
from xvit.data.decode.video import read_clip
from xvit.data.synthetic.dataset import write_motion_dataset

folder = Path(tempfile.mkdtemp()) / "samples"
write_motion_dataset(folder, clips_per_class=2, val_fraction=0.5, seed=3)
videos = sorted(folder.glob("val/*/*.mp4"))[:5]

# %%
# A `Predictor` takes files. "motion" is the bundled model; the folder of a model that `xvit train` wrote works as well.

predictor = xvit.Predictor("motion")
predictions = list(predictor.predict(videos))
for prediction in predictions:
    truth = Path(prediction.path).parent.name
    print(f"{truth:24} predicted as {prediction.label:24} {100 * prediction.scores[0]:.1f} %")

# %%
# Eight frames of each video, with the prediction.

figure, grid = plt.subplots(len(videos), 8, figsize=(9, 6), layout="constrained")
for prediction, row in zip(predictions, grid, strict=True):
    clip = read_clip(prediction.path, lambda info: range(0, info.num_frames, info.num_frames // 8))
    for frame, axes in zip(clip.frames, row, strict=False):
        axes.imshow(frame)
        axes.set(xticks=[], yticks=[])
    row[0].set_ylabel(prediction.label.replace("_", "\n"), rotation=0, ha="right", va="center")
plt.show()
