"""How a video becomes a clip."""

from dataclasses import dataclass
from typing import Literal

from xvit.utils.errors import XViTError, check_choice, check_range


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """How a video becomes `pixel_values`: the one description, stored in the checkpoint, used everywhere.

    What is left open (0, backbone, or nothing) is filled in from the data config of the image model: `XViT.clip` and a
    checkpoint's are always complete.

    Args:
        num_frames: T, frames a clip.
        sampling: segments (one frame from each of T equal parts of the video) or strided (T frames, `stride`
            apart).
        stride: frames from one sampled frame to the next, for strided sampling.
        image_size: height and width of a view, in pixels; 0 for the backbone's.
        interpolation: bilinear, bicubic, or backbone for the backbone's.
        mean: per-channel mean of the normalisation, of RGB in [0, 1]; empty for the backbone's.
        std: per-channel standard deviation of the normalisation; empty for the backbone's.

    Raises:
        XViTError: a value out of its range or its choices.
    """

    num_frames: int = 8
    sampling: Literal["segments", "strided"] = "segments"
    stride: int = 1
    image_size: int = 0
    interpolation: Literal["backbone", "bilinear", "bicubic"] = "backbone"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_choice("sampling", self.sampling, ("segments", "strided"))
        check_choice("interpolation", self.interpolation, ("backbone", "bilinear", "bicubic"))
        check_range("num_frames", self.num_frames, 1)
        check_range("stride", self.stride, 1)
        check_range("image_size", self.image_size, 0)
        for name in ("mean", "std"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) not in (0, 3):
                raise XViTError(f"{name}={values}: expected 3 numbers, one a colour, or none for the backbone's")
        if self.std and min(self.std) <= 0:
            raise XViTError(f"std={self.std}: expected positive numbers")

    @property
    def left_open(self) -> list[str]:
        """Names of the fields that are still the backbone's to fill in."""
        interpolation = self.interpolation != "backbone"
        given = {"image_size": self.image_size, "interpolation": interpolation, "mean": self.mean, "std": self.std}
        return [name for name, value in given.items() if not value]
