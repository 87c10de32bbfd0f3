"""How a video becomes a clip."""

from dataclasses import dataclass
from typing import Literal

from xvit.utils.errors import XViTError, check_choices, check_range


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """How a video becomes `pixel_values`. Training, evaluation, prediction, streaming and export all use the one that
    is stored in the checkpoint.

    Fields that are left open (0, "backbone" or empty) are taken from the image model's data config. `XViT.clip_spec`
    and that of a checkpoint are always complete.

    Args:
        num_frames: T, frames per clip.
        sampling: segments (one frame from each of T equal parts of the video) or strided (T frames, `stride` apart).
        stride: frames from one sampled frame to the next, for strided sampling.
        image_size: height and width of a view, in pixels; 0 for the backbone's.
        interpolation: bilinear, bicubic, or backbone for the backbone's.
        mean: mean of each colour channel, of RGB in [0, 1]; empty for the backbone's.
        std: standard deviation of each colour channel; empty for the backbone's.

    Raises:
        XViTError: a value out of its range or not among its choices.
    """

    num_frames: int = 8
    sampling: Literal["segments", "strided"] = "segments"
    stride: int = 1
    image_size: int = 0
    interpolation: Literal["backbone", "bilinear", "bicubic"] = "backbone"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self)
        check_range("num_frames", self.num_frames, 1)
        check_range("stride", self.stride, 1)
        check_range("image_size", self.image_size, 0)
        for name in ("mean", "std"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) not in (0, 3):
                raise XViTError(f"{name}={values}: expected 3 numbers, one per colour, or none for the backbone's")
        if self.std and min(self.std) <= 0:
            raise XViTError(f"std={self.std}: expected positive numbers")

    @property
    def open_fields(self) -> list[str]:
        """Names of the fields that are still to be taken from the backbone."""
        interpolation = self.interpolation != "backbone"
        given = {"image_size": self.image_size, "interpolation": interpolation, "mean": self.mean, "std": self.std}
        return [name for name, value in given.items() if not value]
