"""Long videos with known segments: clips of the built-in data set, concatenated.

0000.mp4   |--moving_up--|--hiding_behind--|--receding--| ...     2 s per clip, adjacent clips of different classes
segments.json   {"0000.mp4": [{"start": 0.0, "end": 2.0, "label": "moving_up"}, ...], ...}
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xvit.data.synthetic.motion import CLASSES, FPS, FRAMES, SeededClip, write_videos
from xvit.utils.errors import check_range

_RNG_KEY = 2  # 0 and 1 are the training and validation clips: no clip occurs in both data sets


def write_concatenated_videos(
    output: str | Path,
    *,
    num_videos: int,
    clips_per_video: int = 30,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write long videos output/0000.mp4 ... and their ground truth, output/segments.json, as `write_videos` does.

    Each video is a function of (seed, its index, clips_per_video) only.

    Args:
        output: directory to create; may exist if it is empty.
        num_videos: number of videos.
        clips_per_video: number of clips per video, 2 s each.
        seed: random seed.
        on_progress: called with (videos written, total videos) after each video.

    Raises:
        XViTError: a value out of its range; `output` is a file or not empty.
    """
    check_range("num_videos", num_videos, 1)
    check_range("clips_per_video", clips_per_video, 1)
    check_range("seed", seed, 0)
    videos: dict[str, list[SeededClip]] = {}
    segments: dict[str, list[dict[str, str | float]]] = {}
    seconds = FRAMES / FPS
    for video in range(num_videos):
        name = f"{video:04d}.mp4"
        # Adjacent clips have different classes, so every clip boundary is a segment boundary.
        steps = np.random.default_rng([seed, _RNG_KEY, video]).integers(1, len(CLASSES), size=clips_per_video)
        labels = [CLASSES[index] for index in np.cumsum(steps) % len(CLASSES)]
        videos[name] = [(label, [seed, _RNG_KEY, video, index]) for index, label in enumerate(labels, start=1)]
        segments[name] = [
            {"start": index * seconds, "end": (index + 1) * seconds, "label": label}
            for index, label in enumerate(labels)
        ]
    ground_truth = json.dumps(segments, indent=1) + "\n"
    write_videos(output, videos, texts={"segments.json": ground_truth}, on_progress=on_progress)
