"""Where a model's initial weights come from."""

from dataclasses import dataclass

from xvit.utils.errors import XViTError


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where the initial weights come from. By default they are random.

    Args:
        pretrained: timm's image weights, from the Hugging Face Hub or its local cache.
        checkpoint_path: instead, a file of image weights of the backbone (.safetensors, .pth, .pt, .bin, in any naming
            that timm knows), or the directory of a trained XViT, whose scheme, frames or classes may differ. From such
            a directory, `xvit train` takes the settings of the model and the clip that are not stated, too.

    Raises:
        XViTError: both are given.
    """

    pretrained: bool = False
    checkpoint_path: str = ""

    def __post_init__(self) -> None:
        if self.pretrained and self.checkpoint_path:
            raise XViTError(f"pretrained=True and checkpoint_path={self.checkpoint_path!r}: choose one of them")

    def __bool__(self) -> bool:
        """Whether there are weights to load."""
        return self.pretrained or bool(self.checkpoint_path)
