"""The settings of the video transformer."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from xvit.config.clip import MAX_FRAMES, MAX_IMAGE_SIZE
from xvit.config.tasks import SINGLE_TASK
from xvit.utils.errors import XViTError, check_choice, check_choices, check_range, did_you_mean

AttentionScheme = Literal["mixing", "spatial", "local", "joint", "divided"]
ATTENTION_SCHEMES: tuple[str, ...] = get_args(AttentionScheme)
# Values of timm's own options. Not Any: the parser would take a mapping with "class_path" for a class to instantiate.
PlainValue = bool | int | float | str | None | list[bool | int | float | str]
_MAX_DIMENSION = 65536  # of a layer
_MAX_DEPTH = 128


@dataclass(frozen=True, kw_only=True)
class AdvancedConfig:
    """Options of the paper's ablations and of the authors' released models. The defaults suit everyday use.

    Args:
        mix_inputs: what is mixed: keys_values, keys, values, or x (the tokens before the projections).
        mixing_layers: which layers mix: all, first_half, second_half, odd (the 1st, 3rd, ...), or a list of indices
            from 0. The other layers attend within each frame.
        boundary_only: mix the outermost frames of the window only (t - w and t + w), none between.
        grouping: flat (each frame's share is contiguous in all h d channels, as in the released code) or per_head (the
            same shares inside each head, as in the paper's equations).
        temporal_padding: what frames outside the clip contribute: zero, or replicate (the nearest frame; a still clip
            then has exactly the image model's features).
        segment_frames: mix within segments of this many frames, which do not see each other (the released Kinetics
            configuration: 8 of 16 frames); 0 for the whole clip.
        spatial_position: initial values of the backbone's position embedding: timm (timm's own, or pretrained), or
            sincos (2-D sines and cosines, for training from scratch).
        temporal_layers: depth of the temporal attention head.
        frame_projection: a linear layer and tanh on each frame's vector, as in the released models.
        classifier_hidden: width of a hidden layer of the classifier, as in the released models; 0 for none.

    Raises:
        XViTError: a value out of its range or not among its choices.
    """

    mix_inputs: Literal["keys_values", "keys", "values", "x"] = "keys_values"
    mixing_layers: Literal["all", "first_half", "second_half", "odd"] | tuple[int, ...] = "all"
    boundary_only: bool = False
    grouping: Literal["flat", "per_head"] = "flat"
    temporal_padding: Literal["zero", "replicate"] = "zero"
    segment_frames: int = 0
    spatial_position: Literal["timm", "sincos"] = "timm"
    temporal_layers: int = 1
    frame_projection: bool = False
    classifier_hidden: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        if isinstance(self.mixing_layers, str):
            check_choice("mixing_layers", self.mixing_layers, ("all", "first_half", "second_half", "odd"))
        else:
            object.__setattr__(self, "mixing_layers", tuple(self.mixing_layers))
        check_range("segment_frames", self.segment_frames, 0, MAX_FRAMES)
        check_range("temporal_layers", self.temporal_layers, 1, 100)
        check_range("classifier_hidden", self.classifier_hidden, 0, 1e6)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The video transformer: an image backbone, an attention scheme and a temporal head.

    Args:
        backbone: name of a timm `VisionTransformer` or `Eva` model, such as vit_base_patch16_224.
        num_classes: number of classes; {"verb": 97, "noun": 300} for several tasks; 0 for features only
            (in training, 0 is replaced by the number of classes of the data set).
        multi_label: a video may have any number of classes: each class has its own score (sigmoid). Training takes
            this value from `data.multi_label`.
        num_frames: T, frames per clip. The model accepts other numbers and interpolates its temporal positions.
        attention: mixing (the paper's), spatial (each frame alone), local (exact attention over the 2 w + 1 frames of
            the window), joint (all T N tokens), divided (temporal attention at each location, then spatial).
        window: half-width w of the temporal window of mixing and local attention, in frames.
        mix_ratio: mixing: rho, the fraction of channels that come from neighbouring frames.
        causal: mixing: attend to past frames only, t - w to t, instead of t - w to t + w. Summary tokens then look
            back only, too.
        temporal_position: where the frame's position enters: input (added to all its tokens), head (added to its
            vector before temporal attention), or none. Streaming needs head or none.
        temporal_head: attention (the paper's Temporal Attention) or mean.
        tubelet_size: frames per patch: 1, or 2 for patches that are 2 frames deep, which halves the cost. Image
            weights are divided between both frames, so that a still clip has the image model's tokens. `window` then
            counts tubelets.
        tome_r: token merging: number of patches per frame that merge after each layer with those most similar to
            them, the same ones in all frames of a clip; 0 for none.
        summary_tokens: R, summary tokens per frame, a square number: averages over an r x r grid, attended to by the
            queries of all frames; 0 for none.
        dropout: dropout before the classifier's last layer.
        backbone_kwargs: passed to timm.create_model: depth, embed_dim, img_size, drop_path_rate, ...
        advanced: options of the paper's ablations and of the released models.

    Raises:
        XViTError: a value out of its range or not among its choices, or options that exclude each other.
    """

    backbone: str = "vit_base_patch16_224"
    num_classes: int | dict[str, int] = 0
    multi_label: bool = False
    num_frames: int = 8
    attention: AttentionScheme = "mixing"
    window: int = 1
    mix_ratio: float = 0.5
    causal: bool = False
    temporal_position: Literal["input", "head", "none"] = "input"
    temporal_head: Literal["attention", "mean"] = "attention"
    tubelet_size: int = 1
    tome_r: int = 0
    summary_tokens: int = 0
    dropout: float = 0.0
    backbone_kwargs: dict[str, PlainValue] = field(default_factory=dict)
    advanced: AdvancedConfig = field(default_factory=AdvancedConfig)

    def __post_init__(self) -> None:
        check_choices(self)
        for task, number in self.tasks.items():
            check_range("num_classes" if task == SINGLE_TASK else f'num_classes["{task}"]', number, 0, 10**6)
        check_range("num_frames", self.num_frames, 1, MAX_FRAMES)
        check_range("window", self.window, 0, 1000)
        check_range("mix_ratio", self.mix_ratio, 0, 1)
        check_range("dropout", self.dropout, 0, 1)
        check_range("summary_tokens", self.summary_tokens, 0, _MAX_DIMENSION)
        check_range("tubelet_size", self.tubelet_size, 1, 2)
        check_range("tome_r", self.tome_r, 0, _MAX_DIMENSION)
        for name, value in self.backbone_kwargs.items():
            _check_backbone_option(name, value)
        for name, frames in (("num_frames", self.num_frames), ("segment_frames", self.advanced.segment_frames)):
            if frames % self.tubelet_size:
                raise XViTError(f"{name}={frames}: expected a multiple of tubelet_size={self.tubelet_size}")
        if self.multi_label and isinstance(self.num_classes, dict):
            raise XViTError("multi_label=True with several tasks: expected one number of classes")
        if round(self.summary_tokens**0.5) ** 2 != self.summary_tokens:
            raise XViTError(f"summary_tokens={self.summary_tokens}: expected a square number (an r x r grid), or 0")
        if self.temporal_position == "head" and self.temporal_head == "mean":
            raise XViTError("temporal_position='head' needs temporal_head='attention': a mean ignores positions")

    @property
    def tasks(self) -> dict[str, int]:
        """Number of classes of each task; a single task is named `SINGLE_TASK`."""
        return dict(self.num_classes) if isinstance(self.num_classes, dict) else {SINGLE_TASK: self.num_classes}


def _check_backbone_option(name: str, value: PlainValue) -> None:
    """Raise `XViTError` if a number is beyond any model: the layers would be built before anything is compared."""
    limits = {"depth": (1, _MAX_DEPTH), "img_size": (1, MAX_IMAGE_SIZE)}
    low, high = limits.get(name, (-_MAX_DIMENSION, _MAX_DIMENSION))
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int | float) and not isinstance(number, bool):
            check_range(f"backbone_kwargs['{name}']", number, low, high)


def model_config(base: ModelConfig | None = None, **options: Any) -> ModelConfig:
    """A `ModelConfig` from options by name, those of `AdvancedConfig` included.

    Args:
        base: the config whose other options are kept; the defaults if None.
        options: fields of `ModelConfig` or of `AdvancedConfig`.

    Raises:
        XViTError: an unknown option, with the nearest known one; a wrong value.
    """
    base = base or ModelConfig()
    advanced_names = {field.name for field in fields(AdvancedConfig)}
    known = sorted(({field.name for field in fields(ModelConfig)} | advanced_names) - {"advanced"})
    for name in options:
        if name not in (*known, "advanced"):
            raise XViTError(f"unknown option {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
    everyday = {name: value for name, value in options.items() if name not in advanced_names}
    advanced = {name: value for name, value in options.items() if name in advanced_names}
    if advanced:
        everyday["advanced"] = replace(options.get("advanced", base.advanced), **advanced)
    return replace(base, **everyday)
