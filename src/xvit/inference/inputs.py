"""What `Predictor` takes for a video beside a path: bytes, a binary file object, an array of frames.

bytes, file object ──▶ `TemporaryVideo` ──▶ as a path
array (N, H, W, 3) ──▶ frames chosen by the clip spec ──▶ test views
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from xvit.config import ClipSpec
from xvit.data import arrays
from xvit.data.decode import Clip, VideoInfo
from xvit.data.decode.limits import check_dimensions
from xvit.data.sampling import sample_frames, sampling_warning
from xvit.data.temporary import TemporaryVideo
from xvit.export.runtime import ExportedModel
from xvit.utils.errors import VideoError, XViTError, check_range

if TYPE_CHECKING:
    from xvit.models.xvit import XViT

Video = str | Path | bytes | bytearray | memoryview | BinaryIO | np.ndarray

UNNAMED = "video"  # in predictions and errors of videos without a path


@contextmanager
def video_path(video: "Video") -> Iterator[tuple[str, str]]:
    """The path of a video, and its name in predictions and errors. Bytes and file objects get a temporary file.

    Errors of the video name it, never the temporary file.

    Raises:
        XViTError: none of the kinds of `Video`, or a file object that was opened as text.
    """
    if isinstance(video, str | os.PathLike):
        yield str(video), str(video)
        return
    name = getattr(video, "name", None)
    name = name if isinstance(name, str) else UNNAMED
    with TemporaryVideo() as file:
        _copy(video, file)
        try:
            yield file.path, name
        except VideoError as error:
            raise VideoError(name, file.hide_path(error.reason)) from None


def _copy(video: Any, file: TemporaryVideo) -> None:
    if isinstance(video, bytes | bytearray | memoryview):
        file.write(video)
        return
    if not hasattr(video, "read"):
        kinds = "a path, bytes, a binary file object, or an array of frames (N, H, W, 3)"
        raise XViTError(f"video of type {type(video).__name__}: expected {kinds}")
    try:
        while data := video.read(2**20):
            file.write(data)
    except TypeError:
        raise XViTError("video: the file object yields no bytes; open it in binary mode, with 'rb'") from None


def hide_folder(text: str, folder: str | Path) -> str:
    """A message without the folder of the files that it names."""
    return text.replace(f"{folder}{os.sep}", "")


def sample_array(frames: np.ndarray, clip_spec: ClipSpec, *, temporal_views: int, fps: float | None) -> Clip:
    """The frames of the test clips along an array of frames, as `xvit.data.reading.read_test_clips` for a file.

    Args:
        frames: (N, H, W, 3) uint8 RGB, at least 1.
        clip_spec: how a clip is sampled.
        temporal_views: number of clips.
        fps: frames per second of the array.

    Raises:
        XViTError: a wrong shape or type, no `fps`; frames that are too large or too elongated.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise XViTError(f"frames of {frames.dtype} {frames.shape}: expected uint8 (N, H, W, 3), at least one frame")
    if fps is None:
        raise XViTError("fps: missing: an array of frames has no frame rate of its own; pass fps=")
    check_range("fps", fps, 0.001)
    count, height, width = frames.shape[:3]
    check_dimensions(UNNAMED, width, height)
    times = np.arange(count) / fps
    choose = partial(sample_frames, clip_spec, times, start=0.0, end=count / fps, num_views=temporal_views)
    indices = np.concatenate([choose(view=view) for view in range(temporal_views)])
    info = VideoInfo(
        path=UNNAMED,
        num_frames=count,
        fps=fps,
        duration=count / fps,
        width=width,
        height=height,
        codec="rawvideo",
        container="array",
        times=times,
    )
    return Clip(
        path=UNNAMED,
        frames=frames[indices],
        times=times[indices],
        indices=indices,
        info=info,
        warnings=tuple(filter(None, (sampling_warning(clip_spec, count, fps),))),
    )


def make_views(model: "XViT | ExportedModel", clip: Clip, *, temporal_views: int, spatial_views: int) -> np.ndarray:
    """The test views (V, T, C, S, S), uint8, of the frames of clips (temporal_views T, H, W, C)."""
    clips = clip.frames.reshape(temporal_views, -1, *clip.frames.shape[1:])
    if isinstance(model, ExportedModel):
        return np.concatenate([arrays.eval_views(frames, model.clip_spec, spatial_views) for frames in clips])
    import torch

    from xvit.data.transforms import as_tensor, eval_views

    views = [eval_views(as_tensor(frames), model.clip_spec, spatial_views) for frames in clips]
    return torch.cat(views).contiguous().numpy()
