"""Long videos with known segments: clips of the built-in data set, concatenated.

0000.mp4   |--moving_up--|--hiding_behind--|······background······|--receding--| ...     2 s per clip
segments.json   {"0000.mp4": [{"start": 0.0, "end": 2.0, "label": "moving_up"}, ...], ...}

Adjacent clips have different classes, so every clip boundary is a segment boundary. Background is no segment.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from xvit.data.synthetic.background import render_background
from xvit.data.synthetic.dataset import MAX_FPS, Part, write_videos
from xvit.data.synthetic.motion import CLASSES, FPS, SECONDS, frame_count, render_clip
from xvit.utils.errors import check_range

# First numbers of the random seeds; 0 and 1 are the training and validation clips. No clip occurs in both data sets.
_CLIPS_KEY, _BACKGROUND_KEY = 2, 3
_CLIPS_PER_STRETCH = 10


def write_concatenated_videos(
    output: str | Path,
    *,
    num_videos: int,
    clips_per_video: int = 30,
    seed: int = 0,
    fps: float = FPS,
    background: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write long videos output/0000.mp4 ... and their ground truth, output/segments.json, as `write_videos` does.

    Each video is a function of the other arguments and its index only.

    Args:
        output: directory to create; may exist if it is empty.
        num_videos: number of videos.
        clips_per_video: number of clips per video, 2 s each.
        seed: random seed.
        fps: frames per second; the same motions are drawn at these times.
        background: add stretches of background of random lengths, one per `_CLIPS_PER_STRETCH` clips. Together they
            last as long as the clips, which stay the same.
        on_progress: called with (videos written, total videos) after each video.

    Raises:
        XViTError: a value out of its range; `output` is a file or not empty.
    """
    check_range("num_videos", num_videos, 1)
    check_range("clips_per_video", clips_per_video, 1)
    check_range("seed", seed, 0)
    check_range("fps", fps, 1, MAX_FPS)
    videos: dict[str, list[Part]] = {}
    segments: dict[str, list[dict[str, str | float]]] = {}
    for video in range(num_videos):
        name = f"{video:04d}.mp4"
        steps = np.random.default_rng([seed, _CLIPS_KEY, video]).integers(1, len(CLASSES), size=clips_per_video)
        labels = [CLASSES[index] for index in np.cumsum(steps) % len(CLASSES)]
        stretches = _draw_stretches(seed, video, clips_per_video) if background else {}
        videos[name], segments[name] = [], []
        frames = 0  # before the next part
        for index, label in enumerate([*labels, None], start=1):
            if seconds := stretches.get(index):
                rng = np.random.default_rng([seed, _BACKGROUND_KEY, video, index])
                videos[name].append(partial(render_background, rng, seconds=seconds, fps=fps))
                frames += frame_count(seconds, fps)
            if label is not None:
                rng = np.random.default_rng([seed, _CLIPS_KEY, video, index])
                videos[name].append(partial(render_clip, label, rng, fps=fps))
                start, frames = frames, frames + frame_count(SECONDS, fps)
                segments[name].append({"start": start / fps, "end": frames / fps, "label": label})
    ground_truth = json.dumps(segments, indent=1) + "\n"
    write_videos(output, videos, fps=fps, texts={"segments.json": ground_truth}, on_progress=on_progress)


def _draw_stretches(seed: int, video: int, num_clips: int) -> dict[int, float]:
    """The stretches of background of a video: the number of the clip that each one precedes -> seconds, at least 2.

    A stretch may also follow the last clip.
    """
    rng = np.random.default_rng([seed, _BACKGROUND_KEY, video])
    count = max(num_clips // _CLIPS_PER_STRETCH, 1)
    before = 1 + rng.choice(num_clips + 1, size=count, replace=False)
    seconds = SECONDS + SECONDS * (num_clips - count) * rng.dirichlet(np.ones(count))
    return dict(zip(before.tolist(), seconds.tolist(), strict=True))
