"""The settings of a model."""

from dataclasses import dataclass, field
from typing import Literal

from xvit.utils.errors import XViTError, check_choice, check_range

Attention = Literal["mixing", "spatial", "local", "joint", "divided"]
ATTENTIONS: tuple[str, ...] = ("mixing", "spatial", "local", "joint", "divided")
# What a file may say of a backbone. Not Any: the parser would take a mapping with "class_path" for a class to be made.
Plain = bool | int | float | str | None | list[bool | int | float | str]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The video transformer: an image backbone, an attention scheme and a temporal head.

    Args:
        backbone: name of a timm `VisionTransformer`, such as vit_base_patch16_224.
        num_classes: number of classes; {"verb": 97, "noun": 300} for several tasks; 0 for features only
            (in training, 0 is replaced by what the data set holds).
        multi_label: the classes do not exclude each other: each has a score of its own (sigmoid), and a video may have
            several of them, or none. In training it is set by what the data set holds.
        num_frames: T, frames a clip; other numbers run too, with interpolated temporal positions.
        pretrained: start from timm's image weights (Hugging Face Hub or its local cache).
        checkpoint_path: start from this instead: image weights (.safetensors, .pth, .pt, .bin) of the backbone, in
            any naming timm knows, or the directory of a trained XViT of another scheme, number of frames, ...
        attention: mixing (the paper's), spatial (each frame alone), local (exact attention over the 2 window + 1
            frames), joint (all T N tokens), divided (temporal attention at each location, then spatial).
        window: half-width w of the temporal window of mixing and local, in frames.
        mixed_fraction: mixing: rho, the share of the channels that comes from neighbouring frames.
        mixed: mixing: what is mixed: keys_values, keys, values, or x (the token before the projections).
        layers: mixing: which layers mix: all, first_half, second_half, odd (the 1st, 3rd, ...), or a list of
            indices from 0. The others attend within their frame.
        boundary_only: mixing: take only the outermost offsets of the window, none between.
        direction: mixing: centered [-w, w] or causal [-w, 0].
        grouping: mixing: flat (shares are contiguous in all h d channels, as in the released code) or per_head
            (the same shares inside each head, as in the paper's equations).
        segment_frames: mixing: frames mix within segments of this many, which do not see each other (a trait of the
            released Kinetics configuration: 8 of 16 frames); 0 for the whole clip.
        edges: mixing: what frames outside the clip give: zero, or replicate (the nearest frame; a still clip then
            gives exactly the image model's features).
        tubelet: frames that become one: 1, or 2, whose patches are 2 frames deep (half of everything, in half the
            time). Weights of an image model are spread over both, so that a still clip has its tokens. The window of
            mixing then counts tubelets.
        merge_tokens: patches a frame that merge after each layer with those most like them, the same in all frames:
            fewer tokens, less time, not the same numbers. 0 for none.
        summary_tokens: R, summary tokens a frame, a square number: averages over an r x r grid, seen by the
            queries of all frames; 0 for none.
        spatial_position: what the backbone's positions start as: timm (timm's own, or pretrained), or sincos (2-D
            sines and cosines, for training from scratch).
        temporal_position: where the frame's place enters: input (added to all its tokens), head (added to its
            vector before temporal attention), or none.
        temporal_head: attention (the paper's Temporal Attention) or mean.
        temporal_layers: depth of the temporal attention head.
        frame_projection: a linear layer and tanh on each frame's vector, as the released models have.
        classifier_hidden: width of a hidden layer of the classifier, as the released models have; 0 for none.
        dropout: dropout before the classifier's last layer.
        backbone_kwargs: passed to timm.create_model: depth, embed_dim, img_size, drop_path_rate, ...

    Raises:
        XViTError: a value out of its range or its choices.
    """

    backbone: str = "vit_base_patch16_224"
    num_classes: int | dict[str, int] = 0
    multi_label: bool = False
    num_frames: int = 8
    pretrained: bool = False
    checkpoint_path: str = ""
    attention: Attention = "mixing"
    window: int = 1
    mixed_fraction: float = 0.5
    mixed: Literal["keys_values", "keys", "values", "x"] = "keys_values"
    layers: Literal["all", "first_half", "second_half", "odd"] | tuple[int, ...] = "all"
    boundary_only: bool = False
    direction: Literal["centered", "causal"] = "centered"
    grouping: Literal["flat", "per_head"] = "flat"
    segment_frames: int = 0
    edges: Literal["zero", "replicate"] = "zero"
    tubelet: int = 1
    merge_tokens: int = 0
    summary_tokens: int = 0
    spatial_position: Literal["timm", "sincos"] = "timm"
    temporal_position: Literal["input", "head", "none"] = "input"
    temporal_head: Literal["attention", "mean"] = "attention"
    temporal_layers: int = 1
    frame_projection: bool = False
    classifier_hidden: int = 0
    dropout: float = 0.0
    backbone_kwargs: dict[str, Plain] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("attention", self.attention, ATTENTIONS)
        check_choice("mixed", self.mixed, ("keys_values", "keys", "values", "x"))
        check_choice("direction", self.direction, ("centered", "causal"))
        check_choice("grouping", self.grouping, ("flat", "per_head"))
        check_choice("edges", self.edges, ("zero", "replicate"))
        check_choice("spatial_position", self.spatial_position, ("timm", "sincos"))
        check_choice("temporal_position", self.temporal_position, ("input", "head", "none"))
        check_choice("temporal_head", self.temporal_head, ("attention", "mean"))
        if isinstance(self.layers, str):
            check_choice("layers", self.layers, ("all", "first_half", "second_half", "odd"))
        else:
            object.__setattr__(self, "layers", tuple(self.layers))
        for task, number in self.tasks.items():
            check_range("num_classes" if task is None else f'num_classes["{task}"]', number, 0)
        check_range("num_frames", self.num_frames, 1)
        check_range("window", self.window, 0, 1000)
        check_range("mixed_fraction", self.mixed_fraction, 0, 1)
        check_range("dropout", self.dropout, 0, 1)
        check_range("temporal_layers", self.temporal_layers, 1, 100)
        check_range("summary_tokens", self.summary_tokens, 0)
        check_range("tubelet", self.tubelet, 1, 2)
        for name in ("num_frames", "segment_frames"):
            if getattr(self, name) % self.tubelet:
                raise XViTError(f"{name}={getattr(self, name)}: no whole number of tubelets of {self.tubelet} frames")
        check_range("merge_tokens", self.merge_tokens, 0)
        check_range("segment_frames", self.segment_frames, 0)
        check_range("classifier_hidden", self.classifier_hidden, 0, 1e6)
        if self.multi_label and isinstance(self.num_classes, dict):
            raise XViTError("multi_label=True with several tasks: expected one number of classes")
        if round(self.summary_tokens**0.5) ** 2 != self.summary_tokens:
            raise XViTError(f"summary_tokens={self.summary_tokens}: expected a square number (an r x r grid), or 0")
        if self.pretrained and self.checkpoint_path:
            raise XViTError(f"pretrained=True and checkpoint_path={self.checkpoint_path!r}: choose one of them")
        if self.spatial_position == "sincos" and self.pretrained:
            raise XViTError("spatial_position='sincos' with pretrained=True: pretrained weights bring their positions")
        if self.temporal_position == "head" and self.temporal_head == "mean":
            raise XViTError("temporal_position='head' needs temporal_head='attention': a mean forgets positions")

    @property
    def tasks(self) -> dict[str | None, int]:
        """Number of classes of each task; the only task of an int is named None."""
        if isinstance(self.num_classes, dict):
            return {task: number for task, number in self.num_classes.items()}
        return {None: self.num_classes}
