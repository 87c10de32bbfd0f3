"""Videos as the model takes them, for transformers.

B clips, T frames, H x W the picture, S pixels
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.video_processing_utils import BaseVideoProcessor

import transformers
from xvit.checkpoint import format as checkpoint
from xvit.config import ClipSpec
from xvit.data.decode.video import read_clip
from xvit.data.sampling import sample_indices
from xvit.data.transforms import eval_views, normalize
from xvit.utils.errors import XViTError


class XViTVideoProcessor(BaseVideoProcessor):
    """Videos to `pixel_values`, as `xvit.Predictor` does it: short side to S, the square in the centre, normalised.

    Attributes:
        num_frames, sampling, stride: which frames are taken of a file; see `ClipSpec`.
        size: {"shortest_edge": S}, pixels.
        resample: of the resizing, Pillow's number: 2 is bilinear, 3 bicubic.
        image_mean, image_std: of the normalisation, a number a colour, of RGB in [0, 1].
    """

    model_input_names = ("pixel_values",)
    num_frames = 8
    sampling = "segments"
    stride = 1
    size = {"shortest_edge": 224}  # noqa: RUF012, transformers copies it
    resample = 3
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    @property
    def clip(self) -> ClipSpec:
        """The attributes as a `ClipSpec`.

        Raises:
            XViTError: a value out of its range or its choices.
        """
        interpolation: Any = {number: name for name, number in checkpoint.RESAMPLE.items()}.get(self.resample)
        sampling: Any = self.sampling
        size: Any = self.size.get("shortest_edge") or self.size.get("height")
        return ClipSpec(
            num_frames=self.num_frames,
            sampling=sampling,
            stride=self.stride,
            image_size=size,
            interpolation=interpolation,
            mean=tuple(self.image_mean),
            std=tuple(self.image_std),
        )

    def preprocess(
        self,
        videos: Any,
        *,
        num_frames: int | None = None,
        do_sample_frames: bool = False,
        return_tensors: str | None = "pt",
    ) -> transformers.BatchFeature:
        """Prepare one video or a batch of them.

        Args:
            videos: a video or a list of them, each the path of a file, or uint8 RGB frames: a list of T pictures (PIL,
                or arrays (H, W, 3)), or an array or tensor (T, H, W, 3) or (T, 3, H, W). A batch may also be an array
                of 5 dimensions. Clips of a batch must have equally many frames.
            num_frames: T to choose; the attribute by default.
            do_sample_frames: choose T of the frames given, as is always done with a file.
            return_tensors: "pt" or "np".

        Returns:
            {"pixel_values": (B, T, 3, S, S) float32}.

        Raises:
            VideoError: a file that cannot be read.
            XViTError: frames of another shape or type, unlike numbers of frames.
        """
        clip = replace(self.clip, num_frames=num_frames or self.num_frames)
        clips = [_frames(video, clip, do_sample_frames) for video in _split(videos)]
        if len({len(frames) for frames in clips}) != 1:
            raise XViTError(f"clips of {[len(frames) for frames in clips]} frames: expected all of the same length")
        # contiguous: the last bits of the model's output depend on the memory's layout, and Predictor's is this
        pixels = torch.cat([eval_views(frames, clip) for frames in clips]).contiguous()  # (B, T, 3, S, S)
        return transformers.BatchFeature({"pixel_values": normalize(pixels, clip)}, tensor_type=return_tensors)

    def to_dict(self) -> dict[str, Any]:
        """The values of preprocessor_config.json."""
        return checkpoint.preprocessor_config(self.clip) | {"video_processor_type": type(self).__name__}


def _split(videos: Any) -> Sequence[Any]:
    """A batch as its videos; a single video as a batch of one."""
    if isinstance(videos, str | Path):
        return [videos]
    if hasattr(videos, "ndim"):
        return videos if videos.ndim == 5 else [videos]
    # A list of what is itself a video, or of the pictures (PIL has no ndim) of one
    first = videos[0] if len(videos) else None
    several = isinstance(first, str | Path | Sequence) or getattr(first, "ndim", 3) > 3
    return videos if several else [videos]


def _frames(video: Any, clip: ClipSpec, sample: bool) -> Tensor:
    """The frames of one video, (T, 3, H, W) uint8."""
    if isinstance(video, str | Path):
        return read_clip(video, lambda info: sample_indices(clip, info.num_frames), short_side=clip.image_size).frames
    if isinstance(video, Sequence):
        video = [np.asarray(x if hasattr(x, "ndim") else x.convert("RGB")) for x in video]
    if not isinstance(video, Tensor):
        video = torch.from_numpy(np.array(video, order="C"))  # a copy: torch takes no array that runs backwards
    frames: Tensor = video
    if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]):
        raise XViTError(f"frames of shape {tuple(frames.shape)}: expected (T, H, W, 3) or (T, 3, H, W)")
    if frames.shape[3] == 3:
        frames = frames.permute(0, 3, 1, 2)  # (T, H, W, 3) -> (T, 3, H, W), a view, as files are read
    return frames[sample_indices(clip, len(frames))] if sample else frames
