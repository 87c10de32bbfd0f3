"""Long videos with known segments: clips of the built-in data set, concatenated.

0000.mp4   |--moving_up--|--hiding_behind--|--receding--| ...     2 s per clip, adjacent clips of different classes
segments.json   {"0000.mp4": [{"start": 0.0, "end": 2.0, "label": "moving_up"}, ...], ...}
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xvit.data.synthetic.motion import CLASSES, FPS, FRAMES, encode_video, render_clip, write_directory
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
    """Write long videos output/0000.mp4 ... and their ground truth, output/segments.json.

    Each video is a function of (seed, its index, clips_per_video) only. The directory appears only once it is complete.

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
    seconds = FRAMES / FPS
    labels = [_draw_labels(seed, video, clips_per_video) for video in range(num_videos)]

    def write_video(directory: Path, video: int) -> None:
        clips = [
            render_clip(label, np.random.default_rng([seed, _RNG_KEY, video, index]))
            for index, label in enumerate(labels[video], start=1)  # index 0 is the generator of `_draw_labels`
        ]
        encode_video(np.concatenate(clips), directory / _file_name(video))
        if video == 0:  # a single job writes the ground truth of all videos
            segments = {
                _file_name(number): [
                    {"start": index * seconds, "end": (index + 1) * seconds, "label": label}
                    for index, label in enumerate(video_labels)
                ]
                for number, video_labels in enumerate(labels)
            }
            (directory / "segments.json").write_text(json.dumps(segments, indent=1) + "\n", encoding="utf-8")

    write_directory(output, range(num_videos), write_video, on_progress=on_progress)


def _file_name(video: int) -> str:
    return f"{video:04d}.mp4"


def _draw_labels(seed: int, video: int, num_clips: int) -> list[str]:
    """The class of each clip. Adjacent clips have different classes, so every clip boundary is a segment boundary."""
    steps = np.random.default_rng([seed, _RNG_KEY, video]).integers(1, len(CLASSES), size=num_clips)
    return [CLASSES[index] for index in np.cumsum(steps) % len(CLASSES)]
