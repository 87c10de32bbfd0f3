"""Tasks of `real.py`: questions about real footage whose answers are known without anyone labelling it.

Frames are about 0.1 s apart. A window is cut out of a video, and its frames are put in two ways, one for each class:

    window       0  1  2  3  4  5  6  7  8  9 10 11 12 13 14
    direction    0     2     4     6     8    10    12    14     forward, or the same frames from the last to the first
    order        0     2     4     6     8    10    12    14     as they are, or the second half before the first
    mirror       0     2     4     6     8    10    12    14     as they are, or flipped horizontally
    speed        0     2     4     6     8    10    12    14     double speed, or
                             4  5  6  7  8  9 10 11              normal speed

The clips of a window are cut from the square in which most moves, 98 pixels of the 224 of the short side: in the whole
frame, people are a few patches large, and hardly move in 0.1 s.

In `direction` and `order` both classes have the same frames: only their order tells them apart. In `mirror` a single
frame does. Windows for training are drawn from the first part of each video, those for testing from the last part, or
the other way round:

    later     |------------ training: 60 % ------------|-- gap: 2 s --|-------- test --------|
    earlier   |-------- test --------|-- gap: 2 s --|------------ training: 60 % ------------|
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from common import log_progress
from xvit.config import ClipSpec
from xvit.data.decode.sequential import FrameReader
from xvit.data.transforms import as_tensor, normalize
from xvit.utils.files import publish

NUM_FRAMES = 8
WINDOW = 15  # frames
TEST_HOP = 8  # frames from one test window to the next
BLOCK = 5  # test windows that are resampled together: neighbours overlap, and show the same scene
TRAIN_SHARE, GAP_SECONDS = 0.6, 2.0
FRAMES_PER_SECOND = 10  # about: a whole number of a video's frames lies between two
MIN_SECONDS = 30.0  # of a video with a training, a gap and a test part
IMAGE_SIZE = 98  # 7 x 7 patches of 14 pixels
_SHORT_SIDE, _GRID, _SHIFT = 224, 7, 14  # pixels: of a frame, between places of the square, by which it is moved
_TEST_BATCH = 8  # windows

_EVERY_SECOND = tuple(range(0, WINDOW, 2))
TASKS: dict[str, dict[str, tuple[int, ...]]] = {  # the frames of a window for each class
    "direction": {"forward": _EVERY_SECOND, "reversed": _EVERY_SECOND[::-1]},
    "speed": {"normal": tuple(range(4, 12)), "double": _EVERY_SECOND},
    "order": {"in order": _EVERY_SECOND, "halves swapped": _EVERY_SECOND[4:] + _EVERY_SECOND[:4]},
    "mirror": {"as filmed": _EVERY_SECOND, "mirrored": _EVERY_SECOND},
}
CONTROLS: dict[str, tuple[int, ...]] = {  # the frames of a clip that a trained model is given instead
    "shuffled": (3, 6, 1, 4, 7, 0, 5, 2),
    "still": (3,) * NUM_FRAMES,
}


@dataclass(frozen=True, kw_only=True)
class Footage:
    """Frames of a video, about 0.1 s apart.

    Args:
        name: of the file.
        frames: (T', C, H, W), uint8; the short side has 224 pixels.
        rate: frames per second.
        tested: whether the test windows are later or earlier than those for training.
    """

    name: str
    frames: Tensor
    rate: float
    tested: str = "later"

    @property
    def train(self) -> range:
        """The frames at which a training window may start."""
        part = self._parts[0]
        return range(part.start, part.stop - WINDOW + 1)

    @property
    def train_seconds(self) -> float:
        """Length of the training part."""
        return len(self._parts[0]) / self.rate

    @property
    def test(self) -> range:
        """The frames at which the test windows start."""
        part = self._parts[1]
        return range(part.start, part.stop - WINDOW + 1, TEST_HOP)

    @property
    def _parts(self) -> tuple[range, range]:
        return split_frames(len(self.frames), self.rate, self.tested)


def split_frames(num_frames: int, rate: float, tested: str = "later") -> tuple[range, range]:
    """The frames for training and those for testing, with at least `GAP_SECONDS` between them."""
    size, gap = math.floor(TRAIN_SHARE * num_frames), math.ceil(GAP_SECONDS * rate)
    if tested == "earlier":
        return range(num_frames - size, num_frames), range(max(num_frames - size - gap, 0))
    return range(size), range(min(size + gap, num_frames), num_frames)


def read_footage(path: Path) -> Footage | None:
    """A video's frames, decoded once and kept beside it; None if it is too short for the tasks."""
    info = FrameReader(path).info
    if info.duration < MIN_SECONDS:
        return None
    stride = max(round(info.fps / FRAMES_PER_SECOND), 1)
    stored = path.with_suffix(".npy")
    if not stored.is_file():
        log_progress(f"decoding {path.name}")
        chunks = [_shrink(frames) for _, frames in FrameReader(path, stride=stride)]
        tmp_path = stored.with_name(f".{stored.name}")
        np.save(tmp_path, np.concatenate(chunks))
        publish(tmp_path, stored)
    # copy-on-write: processes share the memory, and torch takes no read-only array
    return Footage(name=path.name, frames=torch.from_numpy(np.load(stored, mmap_mode="c")), rate=info.fps / stride)


def _shrink(frames: np.ndarray) -> np.ndarray:
    pixels = resize(as_tensor(frames), [_SHORT_SIDE], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return pixels.numpy()


def test_windows(footage: Sequence[Footage]) -> list[tuple[int, int]]:
    """The number of the video and the first frame of each test window."""
    return [(number, start) for number, video in enumerate(footage) for start in video.test]


def window_blocks(windows: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The indices of the test windows in blocks of up to `BLOCK` neighbours of one video."""
    blocks: list[list[int]] = []
    for index, (video, _) in enumerate(windows):
        if not blocks or len(blocks[-1]) == BLOCK or windows[blocks[-1][0]][0] != video:
            blocks.append([])
        blocks[-1].append(index)
    return blocks


def moving_square(window: Tensor) -> tuple[int, int]:
    """Top and left of the square in which most moves in a window (WINDOW, C, H, W), whichever way it is played."""
    pixels = window.float()
    motion = (pixels[1:] - pixels[:-1]).abs().mean(dim=(0, 1))  # (H, W)
    means = F.avg_pool2d(motion[None], IMAGE_SIZE, stride=_GRID)[0]
    row, column = divmod(int(means.argmax()), means.shape[1])
    return row * _GRID, column * _GRID


def cut_clips(window: Tensor, task: str, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """The clips (2, T, C, S, S) of both classes from a window (WINDOW, C, H, W).

    Args:
        window: frames.
        task: one of `TASKS`.
        shift: pixels by which the square is moved down and to the right, as far as the frame goes.
    """
    top, left = (
        min(max(place + by, 0), size - IMAGE_SIZE)
        for place, by, size in zip(moving_square(window), shift, window.shape[2:], strict=True)
    )
    square = window[:, :, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
    clips = torch.stack([square[list(indices)] for indices in TASKS[task].values()])
    if task == "mirror":
        clips[1] = clips[1].flip(-1)
    return clips


def train_pairs(footage: Sequence[Footage], task: str, seed: int, share: float = 1.0) -> Iterator[Tensor]:
    """Clips (2, T, C, S, S), uint8, of both classes from random training windows, without end.

    As both show the same square of the same window, what is in a window says nothing about its class.

    Args:
        footage: the videos.
        task: one of `TASKS`.
        seed: of the windows.
        share: of the training windows of each video, those nearest to its test.
    """
    rng = np.random.default_rng(seed)
    starts = [(video, start) for video in footage for start in _nearest_to_test(video, share)]
    while True:
        video, start = starts[rng.integers(len(starts))]
        down, right = rng.integers(-_SHIFT, _SHIFT + 1, size=2).tolist()
        yield cut_clips(video.frames[start : start + WINDOW], task, (down, right))


def _nearest_to_test(video: Footage, share: float) -> range:
    count = math.ceil(share * len(video.train))
    return video.train[:count] if video.tested == "earlier" else video.train[len(video.train) - count :]


def test_batches(footage: Sequence[Footage], task: str, clip_spec: ClipSpec) -> Iterator[tuple[Tensor, Tensor]]:
    """The test clips (B, T, C, S, S), normalised, and their classes (B,): both of a window side by side."""
    windows = test_windows(footage)
    for first in range(0, len(windows), _TEST_BATCH):
        batch = windows[first : first + _TEST_BATCH]
        clips = [cut_clips(footage[number].frames[start : start + WINDOW], task) for number, start in batch]
        yield normalize(torch.cat(clips), clip_spec), torch.arange(2).repeat(len(batch))
