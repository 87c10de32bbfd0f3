"""XViT's video processor as a class of transformers.

B clips, T frames, H x W pixels of a frame, S x S pixels of the model's input
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.video_processing_utils import BaseVideoProcessor

from xvit.checkpoint import format as checkpoint
from xvit.config import ClipSpec
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.sampling import sample_indices
from xvit.data.transforms import eval_views, normalize
from xvit.utils.errors import XViTError

_logger = logging.getLogger("xvit")


class XViTVideoProcessor(BaseVideoProcessor):
    """Turn videos into `pixel_values` as `xvit.Predictor` does: short side resized to S, centre crop, normalised.

    Attributes:
        num_frames, sampling, stride, frame_rate: which frames of a file are used; see `ClipSpec`.
        size: {"shortest_edge": S}, in pixels.
        resample: Pillow's number of the interpolation: 2 is bilinear, 3 bicubic.
        image_mean, image_std: of the normalisation, one number per channel, for RGB in [0, 1].
    """

    model_input_names = ("pixel_values",)
    num_frames = 8
    sampling = "segments"
    stride = 1
    frame_rate: float | None = None
    size = {"shortest_edge": 224}  # noqa: RUF012, transformers copies it
    resample = 3
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    @property
    def clip_spec(self) -> ClipSpec:
        """The attributes as a `ClipSpec`.

        Raises:
            XViTError: a value out of its range or not among its choices.
        """
        interpolation: Any = {number: name for name, number in checkpoint.RESAMPLE.items()}.get(self.resample)
        sampling: Any = self.sampling
        size: Any = self.size.get("shortest_edge") or self.size.get("height")
        return ClipSpec(
            num_frames=self.num_frames,
            sampling=sampling,
            stride=self.stride,
            frame_rate=self.frame_rate,
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
            videos: a video or a list of them. A video is the path of a file, or uint8 RGB frames: a list of T images
                (PIL, or arrays (H, W, 3)), or an array or tensor (T, H, W, 3) or (T, 3, H, W). A batch may also be a
                5-dimensional array. All clips of a batch must have the same number of frames.
            num_frames: T, frames to sample; the attribute by default.
            do_sample_frames: sample T of the given frames, which are counted: their times are not known. Files are
                always sampled, by time if there is a `frame_rate`.
            return_tensors: "pt" or "np".

        Returns:
            {"pixel_values": (B, T, 3, S, S) float32}.

        Raises:
            VideoError: a file that cannot be read.
            XViTError: frames of a wrong shape or type, different numbers of frames in a batch.
        """
        clip_spec = replace(self.clip_spec, num_frames=num_frames or self.num_frames)
        clips = [_read_clip(video, clip_spec, do_sample_frames) for video in _split_batch(videos)]
        numbers = [clip.shape[1] for clip in clips]
        if len(set(numbers)) != 1:
            raise XViTError(f"clips of {numbers} frames: expected the same number in all clips of a batch")
        # contiguous, as in Predictor: the last bits of the model's output depend on the memory layout
        pixels = torch.cat(clips).contiguous()  # (B, T, 3, S, S)
        return transformers.BatchFeature({"pixel_values": normalize(pixels, clip_spec)}, tensor_type=return_tensors)

    def to_dict(self) -> dict[str, Any]:
        """The values of preprocessor_config.json."""
        return checkpoint.preprocessor_config(self.clip_spec) | {"video_processor_type": type(self).__name__}


def _split_batch(videos: Any) -> Sequence[Any]:
    """The videos of a batch; a single video is a batch of one."""
    if isinstance(videos, str | Path):
        return [videos]
    if hasattr(videos, "ndim"):
        return videos if videos.ndim == 5 else [videos]
    # a list of videos, or of the images (PIL's have no ndim) of one video
    first = videos[0] if len(videos) else None
    is_batch = isinstance(first, str | Path | Sequence) or getattr(first, "ndim", 3) > 3
    return videos if is_batch else [videos]


def _read_clip(video: Any, clip_spec: ClipSpec, sample: bool) -> Tensor:
    """The clip of one video, (1, T, 3, S, S) uint8. What is wrong with a file that is still used is logged."""
    if isinstance(video, str | Path):
        path = str(video)
        item = VideoDataset(samples=[Sample(path=path, label=None, id=path)], clip_spec=clip_spec)[0]
        if item.error is not None:
            raise item.error
        for warning in item.warnings:
            _logger.warning("%s: %s", path, warning)
        assert item.pixels is not None
        return item.pixels
    if isinstance(video, Sequence):
        video = [np.asarray(x if hasattr(x, "ndim") else x.convert("RGB")) for x in video]
    if not isinstance(video, Tensor):
        video = torch.from_numpy(np.array(video, order="C"))  # copied: torch rejects negative strides
    frames: Tensor = video
    if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]):
        raise XViTError(f"frames of shape {tuple(frames.shape)}: expected (T, H, W, 3) or (T, 3, H, W)")
    if frames.shape[3] == 3:
        frames = frames.permute(0, 3, 1, 2)  # (T, H, W, 3) -> (T, 3, H, W), a view, as for files
    return eval_views(frames[sample_indices(clip_spec, len(frames))] if sample else frames, clip_spec)
