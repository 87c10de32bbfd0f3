"""
When does what happen?
======================

The segments of a longer video, compared with what was really in it.
"""

# %%
# A video of twelve events with background between some of them, and their true times.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import xvit
from xvit.data.synthetic.concatenated import write_concatenated_videos
from xvit.timeline import find_segments, read_ground_truth, score_video

model = xvit.XViT.from_pretrained("motion").eval()
folder = Path(tempfile.mkdtemp()) / "long"
write_concatenated_videos(folder, num_videos=1, clips_per_video=12, seed=4, background=True)
[(video, truth)] = read_ground_truth(folder / "segments.json", model.class_names).items()

# %%
# Each frame passes through the model once. Scores are averaged over time, and what is too short is no event.

timeline = score_video(model, video)
segments = find_segments(
    timeline.times,
    timeline.scores,
    timeline.class_names,
    duration=timeline.duration,
    smooth=0.75,
    min_length=0.9,
    ignore=["background"],
)
for segment in segments:
    print(f"{segment.start:5.1f} to {segment.end:5.1f} s  {segment.label:24} {segment.score:.2f}")

# %%
# Above what was found, below what was there. Events that follow each other without a pause are the hardest.

names = sorted({segment.label for segment in [*segments, *truth]})
figure, axes = plt.subplots(figsize=(9, 2.5), layout="constrained")
for y, rows in ((1, segments), (0, truth)):
    for segment in rows:
        color = plt.colormaps["tab20"](names.index(segment.label))
        axes.barh(y, segment.end - segment.start, left=segment.start, color=color, edgecolor="white")
handles = [plt.Rectangle((0, 0), 1, 1, color=plt.colormaps["tab20"](index)) for index in range(len(names))]
axes.legend(handles, names, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
axes.set(yticks=[0, 1], yticklabels=["true", "found"], xlabel="seconds")
plt.show()
