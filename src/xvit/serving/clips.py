"""From an uploaded file to the test views that the model sees, within the limits of the service."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xvit.data.annotations import Sample
from xvit.data.decode import Clip, VideoInfo
from xvit.data.decode.demux import probe_file
from xvit.data.reading import read_test_clips
from xvit.data.timeout import call_with_timeout
from xvit.inference.inputs import UNNAMED, hide_folder, make_views
from xvit.serving.errors import ServiceError
from xvit.serving.pictures import to_data_uri
from xvit.serving.settings import Limits
from xvit.utils.errors import VideoError, XViTError

if TYPE_CHECKING:
    from xvit.export.runtime import ExportedModel
    from xvit.models.xvit import XViT

_TIMEOUT_HINT = " (data.decode_timeout)"  # a setting that clients do not have


@dataclass(frozen=True, eq=False)
class Views:
    """The test views of a video.

    Args:
        pixels: (V, T, C, S, S) uint8.
        clip: the frames that they show.
        spatial_views: of which V is a multiple.
    """

    pixels: np.ndarray
    clip: Clip
    spatial_views: int

    @property
    def times(self) -> list[float]:
        """Seconds of the frames, ascending, each once."""
        return [float(time) for time in np.unique(self.clip.times)]

    def pictures(self) -> list[str]:
        """The centre view of the frame at each of `times`, as a data address."""
        T = self.pixels.shape[1]
        _, firsts = np.unique(self.clip.times, return_index=True)
        centre = self.spatial_views // 2
        frames = (self.pixels[(i // T) * self.spatial_views + centre, i % T] for i in firsts.tolist())
        return [to_data_uri(frame.transpose(1, 2, 0)) for frame in frames]


def read_views(
    model: "XViT | ExportedModel", path: Path, limits: Limits, temporal_views: int, spatial_views: int
) -> Views:
    """Read the test views of an uploaded video.

    Raises:
        ServiceError: 422, the video cannot be read, or is beyond a limit.
    """
    with video_answers(path):
        check_video(path, limits)
        sample = Sample(path=str(path), label=None, id=UNNAMED)
        clip = read_test_clips(sample, model.clip_spec, temporal_views, limits.decode_seconds)
        pixels = make_views(model, clip, temporal_views=temporal_views, spatial_views=spatial_views)
    return Views(pixels, clip, spatial_views)


def check_video(path: Path, limits: Limits) -> VideoInfo:
    """Scan a video without decoding it, and raise `VideoError` if it cannot be read or is beyond a limit."""
    info = call_with_timeout(partial(probe_file, path, max_frames=limits.frames), str(path), limits.decode_seconds)
    if info.width * info.height > limits.pixels:
        size = f"frames of {info.width}x{info.height}"
        raise VideoError(path, f"{size}: this service accepts {limits.pixels:,} pixels; send a smaller version")
    if info.duration > limits.seconds:
        text = f"{info.duration:.0f} s long: this service accepts {limits.seconds:g} s; send a part of it"
        raise VideoError(path, text)
    return info


@contextmanager
def video_answers(path: Path) -> Iterator[None]:
    """Turn the errors of a video, and of what is asked about it, into answers that do not show where its file is."""
    try:
        yield
    except VideoError as error:
        reason = hide_folder(error.reason, path.parent).removesuffix(_TIMEOUT_HINT)
        raise ServiceError(422, f"the video: {reason}") from None
    except XViTError as error:
        raise ServiceError(422, hide_folder(str(error), path.parent)) from None
