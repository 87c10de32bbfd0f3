"""How training varies its clips."""

from dataclasses import dataclass
from typing import Literal

from xvit.utils.errors import XViTError, check_choices, check_range


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to training clips. Each clip gets one draw, the same for all its frames.

    Args:
        scale_jitter: smallest and largest short side before the random crop, relative to the size of the view.
        horizontal_flip: probability of mirroring a clip. Use 0 where mirroring changes a class in another way than
            `flip_pairs` knows of.
        flip_pairs: a mirrored clip gets the class whose name has left and right exchanged: one of "moving_left" counts
            as "moving_right". A class without such a counterpart keeps its own label.
        auto_augment: none, auto (AutoAugment's ImageNet policy) or rand (RandAugment: 2 operations of magnitude 9).
        random_erasing: probability of erasing a box of 2 % to a third of the frame, in all frames.
        mixup: alpha of mixup, which blends pairs of clips and their labels; 0 for none.
        cutmix: alpha of cutmix, which pastes a box of one clip into another; 0 for none. If both are set, each batch
            gets one of them at random.
        repeated_aug: how many clips of a video follow each other in an epoch (repeated augmentation); the epoch then
            has correspondingly fewer videos.

    Raises:
        XViTError: a value out of its range or not among its choices.
    """

    scale_jitter: tuple[float, float] = (1.0, 1.25)
    horizontal_flip: float = 0.5
    flip_pairs: bool = True
    auto_augment: Literal["none", "auto", "rand"] = "none"
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    repeated_aug: int = 1

    def __post_init__(self) -> None:
        check_choices(self)
        check_range("horizontal_flip", self.horizontal_flip, 0, 1)
        check_range("random_erasing", self.random_erasing, 0, 1)
        check_range("mixup", self.mixup, 0)
        check_range("cutmix", self.cutmix, 0)
        check_range("repeated_aug", self.repeated_aug, 1)
        object.__setattr__(self, "scale_jitter", tuple(self.scale_jitter))
        smallest, largest = self.scale_jitter
        if not 0 < smallest <= largest:
            raise XViTError(f"scale_jitter={self.scale_jitter}: expected 0 < smallest <= largest")
