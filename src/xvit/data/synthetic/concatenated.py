"""Long videos with known segments: clips of the built-in data set, one after the other.

0000.mp4   |--moving_up--|--hiding_behind--|--receding--| ...     each clip 2 s, its neighbours of other classes
segments.json   {"0000.mp4": [{"start": 0.0, "end": 2.0, "label": "moving_up"}, ...], ...}
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xvit.data.synthetic.motion import CLASSES, FPS, FRAMES, encode, fill_folder, render
from xvit.utils.errors import check_range

_STREAM = 2  # 0 and 1 are the clips for training and held out: none of those is drawn again


def write_joined(
    output: str | Path,
    *,
    videos: int,
    clips: int = 30,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write long videos output/0000.mp4 ... and output/segments.json, the truth in the form of `read_truth`.

    Each video is a function of (seed, its number, clips) alone. The folder appears when it is whole, not before.

    Args:
        output: the folder to make; may exist if it is empty.
        videos: how many.
        clips: of each video, 2 s a clip.
        seed: another seed, other videos.
        on_progress: called with (videos written, videos in all) after each of them.

    Raises:
        XViTError: a value out of its range; `output` is a file or holds something.
    """
    check_range("videos", videos, 1)
    check_range("clips", clips, 1)
    check_range("seed", seed, 0)
    seconds = FRAMES / FPS
    truth = {
        _name(video): [
            {"start": place * seconds, "end": (place + 1) * seconds, "label": label}
            for place, label in enumerate(_classes(seed, video, clips))
        ]
        for video in range(videos)
    }

    def write(folder: Path, video: int) -> None:
        rendered = [
            render(label, np.random.default_rng([seed, _STREAM, video, place + 1]))  # 0 is that of `_classes`
            for place, label in enumerate(_classes(seed, video, clips))
        ]
        encode(np.concatenate(rendered), folder / _name(video))
        if video == 0:  # one file for all videos, whichever of them is done first
            (folder / "segments.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")

    fill_folder(output, range(videos), write, on_progress=on_progress)


def _name(video: int) -> str:
    return f"{video:04d}.mp4"


def _classes(seed: int, video: int, clips: int) -> list[str]:
    """The class of each clip, none twice in a row: where a clip ends, so does what happens."""
    steps = np.random.default_rng([seed, _STREAM, video]).integers(1, len(CLASSES), size=clips)
    return [CLASSES[place] for place in np.cumsum(steps) % len(CLASSES)]
