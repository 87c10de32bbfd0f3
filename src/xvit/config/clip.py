"""How a video becomes a clip."""

from dataclasses import dataclass
from typing import Literal

from xvit.utils.errors import XViTError, check_choices, check_range

MAX_FRAMES = 4096  # of a clip
MAX_IMAGE_SIZE = 4096
MAX_CLIP_PIXELS = 2**26  # T frames of S x S: 200 MB of uint8. 256 frames of 512 x 512, for example
_MAX_STRIDE = 10**6


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """How a video becomes `pixel_values`. Training, evaluation, prediction, streaming and export all use the one that
    is stored in the checkpoint.

    A video is read as if it had `frame_rate` frames per second, whatever its own rate: frame k of it is the one on
    display k / frame_rate seconds after its first frame. So a clip has the same frames at every rate of the video.

    Fields that are left open (0, "backbone" or empty) are taken from the image model's data config, and `frame_rate`
    from the training videos. `XViT.clip_spec` and that of a checkpoint are always complete.

    Args:
        num_frames: T, frames per clip.
        sampling: segments (one frame from each of T equal parts of the video) or strided (T frames, `stride` apart);
            pyslowfast_segments and pyslowfast_strided take the indices of PySlowFast and of the authors' code.
        stride: frames from one sampled frame to the next, for strided sampling. If clips span whole videos, it is
            learnt: the spacing in the median training video, at which the model sees endless videos.
        frame_rate: frames per second in which `stride` and all lengths count; 0 for the median rate of the training
            videos, None to count the frames of each video as they are, however far apart.
        image_size: height and width of a view, in pixels; 0 for the backbone's.
        interpolation: bilinear, bicubic, or backbone for the backbone's.
        mean: mean of each colour channel, of RGB in [0, 1]; empty for the backbone's.
        std: standard deviation of each colour channel; empty for the backbone's.

    Raises:
        XViTError: a value out of its range or not among its choices.
    """

    num_frames: int = 8
    sampling: Literal["segments", "strided", "pyslowfast_segments", "pyslowfast_strided"] = "segments"
    stride: int = 1
    frame_rate: float | None = 0.0
    image_size: int = 0
    interpolation: Literal["backbone", "bilinear", "bicubic"] = "backbone"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self)
        check_range("num_frames", self.num_frames, 1, MAX_FRAMES)
        check_range("stride", self.stride, 1, _MAX_STRIDE)
        check_range("image_size", self.image_size, 0, MAX_IMAGE_SIZE)
        if self.num_frames * self.image_size**2 > MAX_CLIP_PIXELS:
            size = f"num_frames={self.num_frames} of {self.image_size}x{self.image_size} pixels"
            raise XViTError(f"{size}: expected at most {MAX_CLIP_PIXELS:,} pixels in a clip")
        if self.frame_rate:
            check_range("frame_rate", self.frame_rate, 0.001, 1000)
        for name in ("mean", "std"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) not in (0, 3):
                raise XViTError(f"{name}={values}: expected 3 numbers, one per colour, or none for the backbone's")
            for value in values:
                check_range(name, value, 1e-3 if name == "std" else -1e3, 1e3)

    @property
    def open_fields(self) -> list[str]:
        """Names of the fields that are still to be taken from the backbone or from the training videos."""
        given: dict[str, object] = {"frame_rate": self.frame_rate != 0, "image_size": self.image_size}
        given |= {"interpolation": self.interpolation != "backbone", "mean": self.mean, "std": self.std}
        return [name for name, value in given.items() if not value]

    @property
    def spans_video(self) -> bool:
        """Whether a clip spans the whole video, whatever its length."""
        return self.sampling.endswith("segments")

    @property
    def spacing(self) -> int | None:
        """Frames from one frame of a clip to the next, rounded: the stride at which the model sees endless videos.

        None if clips span whole videos and the spacing was not learnt from any.
        """
        if self.spans_video:
            return self.stride if self.frame_rate and self.stride > 1 else None
        if self.sampling == "pyslowfast_strided" and self.num_frames > 1:  # T stride frames, end to end
            return round((self.num_frames * self.stride - 1) / (self.num_frames - 1))
        return self.stride

    @property
    def sampling_text(self) -> str:
        """The sampling in words, such as "strided, stride 16, at 30 frames per second"."""
        stride = "" if self.spans_video else f", stride {self.stride}"
        rate = f", at {self.frame_rate:g} frames per second" if self.frame_rate else ""
        return f"{self.sampling}{stride}{rate}"
